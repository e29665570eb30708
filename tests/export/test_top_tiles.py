"""The cells with most evidence: which they are, where they lie, and that the sheet shows those places."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterstain.errors import ExistingOutputError, InputError
from counterstain.export.top_tiles import TopLayout, TopTileSettings, top_tiles, write_top_table, write_top_tiles
from counterstain.geometry import Box
from counterstain.infer.evidence import EvidenceMap
from counterstain.results import SlideScore
from counterstain.testing.evidence import plant_evidence
from counterstain.testing.writers import Place

SCORE = SlideScore("slide", 0.2, -1.4, "normal", ("normal",))


def planted(folder: Path) -> EvidenceMap:
    values = np.full((6, 8), -1.0, np.float32)
    values[:2] = np.nan
    values[4, 5], values[2, 7], values[5, 0] = 3.0, 3.0, 9.0
    return plant_evidence(folder, values, Place(corner=(103, 61), downsample=(32, 24), mpp=(0.5, 0.25)))


def test_cells_come_in_the_order_of_their_evidence_and_equals_from_the_upper_left(tmp_path: Path) -> None:
    found = top_tiles(planted(tmp_path), 4)
    assert [(tile.rank, tile.row, tile.column, tile.evidence) for tile in found] == [
        (1, 5, 0, 9.0), (2, 2, 7, 3.0), (3, 4, 5, 3.0), (4, 2, 0, -1.0)
    ]  # fmt: skip
    assert found[0].place == Box(103, 61 + 5 * 24, 32, 24)
    assert found[2].place == Box(103 + 5 * 32, 61 + 4 * 24, 32, 24)


def test_only_observed_cells_are_shown(tmp_path: Path) -> None:
    assert len(top_tiles(planted(tmp_path), 1000)) == 32
    empty = plant_evidence(tmp_path / "none", np.full((3, 3), np.nan, np.float32))
    assert top_tiles(empty, 12) == ()
    write_top_tiles(empty, SCORE, tmp_path / "none.png")
    write_top_table(empty, tmp_path / "none.csv")
    assert len((tmp_path / "none.csv").read_text().splitlines()) == 1


def test_the_table_says_level_0_places_and_unscaled_evidence(tmp_path: Path) -> None:
    write_top_table(planted(tmp_path), tmp_path / "top.csv", 3)
    with (tmp_path / "top.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["evidence"]) for row in rows] == [9, 3, 3]
    first, second = rows[:2]
    assert [float(first[key]) for key in ("x", "y", "width", "height")] == [103, 181, 32, 24]
    assert [float(second[key]) for key in ("x_um", "y_um")] == [7 * 32 * 0.5, 2 * 24 * 0.25]
    assert (second["row"], second["column"]) == ("2", "7")


def test_the_sheet_shows_the_cell_s_own_pixels_in_the_middle_of_its_picture(tmp_path: Path) -> None:
    evidence = planted(tmp_path)
    pixels = np.asarray(Image.open(evidence.slide.path)).copy()
    best = top_tiles(evidence, 1)[0].place
    pixels[int(best.y) : int(best.bottom), int(best.x) : int(best.right)] = (0, 90, 0)
    Image.fromarray(pixels).save(evidence.slide.path)
    settings = TopTileSettings(count=2, tile_px=200)
    write_top_tiles(evidence, SCORE, tmp_path / "top.png", settings=settings)
    picture = np.asarray(Image.open(tmp_path / "top.png").convert("RGB"))
    layout = TopLayout.of(evidence, settings, 2)
    assert picture.shape[:2] == (layout.height, layout.width)
    x, y = layout.corners[0]
    shown = picture[y : y + 200, x : x + 200]
    assert (shown[60:140, 60:140] == (0, 90, 0)).all()
    assert not (shown[10:190, 10:40] == (0, 90, 0)).all(axis=2).any(), "its surroundings are not the cell"
    x, y = layout.corners[1]
    assert not (picture[y : y + 200, x : x + 200] == (0, 90, 0)).all(axis=2).any()


@pytest.mark.parametrize(("height", "width", "count"), [(40, 6, 12), (6, 40, 12), (10, 10, 1), (10, 10, 5)])
def test_nothing_overlaps_whatever_the_slide_s_shape(tmp_path: Path, height: int, width: int, count: int) -> None:
    settings = TopTileSettings()
    layout = TopLayout.of(plant_evidence(tmp_path, np.zeros((height, width), np.float32)), settings, count)
    side = settings.tile_px
    boxes = [(x, y, x + side, y + side + 46) for x, y in layout.corners]
    boxes.append((*layout.locator, layout.locator[0] + layout.view.width, layout.locator[1] + layout.view.height))
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert right <= layout.width - 44
        assert bottom + 40 <= layout.height - 44
        for other in boxes[:number]:
            assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]


def test_files_that_are_there_are_not_overwritten_silently(tmp_path: Path) -> None:
    evidence = planted(tmp_path)
    for name in ("top.png", "top.csv"):
        (tmp_path / name).write_text("work of a week")
    with pytest.raises(ExistingOutputError):
        write_top_tiles(evidence, SCORE, tmp_path / "top.png")
    with pytest.raises(ExistingOutputError):
        write_top_table(evidence, tmp_path / "top.csv")


def test_settings_that_make_no_sheet_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1 cell"):
        TopTileSettings(count=0)
