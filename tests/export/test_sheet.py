import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from counterstain.export.sheet import Sheet, fitted, width_of


def pixels(sheet: Sheet) -> np.ndarray:
    canvas = sheet.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def test_a_picture_keeps_its_pixels_and_its_place() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 61, 3), np.uint8)
    sheet = Sheet(200, 120)
    sheet.picture(33, 17, picture)
    seen = pixels(sheet)
    assert seen.shape == (120, 200, 3)
    assert np.array_equal(seen[17:57, 33:94], picture)
    assert (seen[:17] == 255).all()
    assert (seen[57:] == 255).all()


def test_boxes_lie_over_pictures_in_pixels() -> None:
    sheet = Sheet(100, 80)
    sheet.picture(0, 0, np.zeros((80, 100, 3), np.uint8))
    sheet.box((10, 20), (30, 5), fc="white", ec="none")
    sheet.rounded((50, 40), (40, 30), 6, fc="#ff0000", ec="none")
    seen = pixels(sheet)
    assert (seen[20:25, 10:40] == 255).all()
    assert seen.sum(2)[19].max() == 0
    assert (seen[55, 70] == (255, 0, 0)).all()
    assert seen[40, 50].max() == 0, "a round corner"


def test_text_is_as_wide_as_it_is_measured() -> None:
    sheet = Sheet(600, 60)
    sheet.text((20, 40), "tumour epithelium", 30, "black", bold=True)
    columns = np.flatnonzero(pixels(sheet).min((0, 2)) < 128)
    width = width_of("tumour epithelium", 30, bold=True)
    assert abs(columns[0] - 20) <= 4
    assert abs(columns[-1] - (20 + width)) <= 4


def test_text_ends_where_it_should() -> None:
    sheet = Sheet(300, 60)
    sheet.text((280, 40), "12.3 %", 20, "black", right=True)
    columns = np.flatnonzero(pixels(sheet).min((0, 2)) < 128)
    assert 270 < columns[-1] < 282


def test_long_text_loses_its_middle() -> None:
    text = "TCGA-CR-7395-01A-01-TS1.5f3a0c77.svs"
    short = fitted(text, 20, 200)
    assert width_of(short, 20) <= 200
    assert short.startswith("TCGA")
    assert short.endswith("svs")
    assert "…" in short
    assert fitted("short", 20, 200) == "short"
