"""The picture: what lies where, judged by its pixels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterstain.errors import InputError
from counterstain.export import OverlaySettings, write_overlay
from counterstain.export.overlay import (
    _GUTTER,
    _LEGEND_TOP,
    _ROW,
    Layout,
    area_text,
    blend,
    columns_of,
    labels_at,
    share_text,
)
from counterstain.export.picture import MARGIN, panel_size
from counterstain.geometry import Size
from counterstain.results import UNCOVERED, Classes, SlideMap
from counterstain.slides import open_slide
from counterstain.testing.writers import THREE, Place, patchwork, plant_map


def drawn(slide_map: SlideMap, folder: Path, panel_px: int = 300) -> np.ndarray:
    write_overlay(slide_map, folder / "overlay.png", settings=OverlaySettings(panel_px=panel_px))
    return np.asarray(Image.open(folder / "overlay.png").convert("RGB"))


def quarters() -> np.ndarray:
    """Tumour, stroma, background, uncovered: one in each corner."""
    label = np.zeros((40, 40), np.uint8)
    label[:20, 20:], label[20:, :20], label[20:, 20:] = 1, 2, UNCOVERED
    return label


def test_both_panels_show_the_same_place(tmp_path: Path) -> None:
    slide_map = plant_map(tmp_path, quarters(), Place(corner=(30, 20), downsample=(5, 5)))
    picture, layout = drawn(slide_map, tmp_path), Layout.of(slide_map, 300)
    assert picture.shape == (layout.height, layout.width, 3)
    slide, mapped = (
        picture[y : y + layout.panel.height, x : x + layout.panel.width].astype(int) for x, y in layout.panels
    )
    assert (slide[20:100, 20:-20] == (240, 220, 230)).all(), "the slide's own pixels, untouched"
    red, blue = mapped[20:130, 20:130].mean((0, 1)), mapped[20:130, 170:280].mean((0, 1))
    assert red[0] > red[1] + 40
    assert red[0] > red[2] + 40
    assert blue[2] > blue[0] + 40
    for corner in (mapped[170:280, 20:130], mapped[170:280, 170:280]):
        assert np.ptp(corner, axis=2).max() == 0, "background and uncovered places are grey"


def test_borders_lie_where_the_map_has_them(tmp_path: Path) -> None:
    slide_map = plant_map(tmp_path, quarters(), Place(corner=(30, 20), downsample=(5, 5)))
    size = Size(120, 120)
    view = np.full((120, 120, 3), 255, np.uint8)
    mapped = blend(view, labels_at(slide_map, Size(240, 240)), slide_map, 0.6).astype(int)
    line = mapped[30].sum(1)
    assert line[59] < line[20] - 60, "darker along the border"
    assert line[60] < line[100] - 60
    assert (line[2:58] == line[20]).all()
    assert (line[62:-2] == line[100]).all()
    assert size == panel_size(slide_map.slide, 120)


def test_labels_are_taken_at_the_centres_of_pixels(tmp_path: Path) -> None:
    label = patchwork(31, 22)
    slide_map = plant_map(tmp_path, label, Place(corner=(7, 9), downsample=(3, 3)))
    assert np.array_equal(labels_at(slide_map, Size(22, 31)), label)
    assert np.array_equal(labels_at(slide_map, Size(44, 62)), np.kron(label, np.ones((2, 2), np.uint8)))
    assert np.array_equal(labels_at(slide_map, Size(2, 1)), label[[15]][:, [5, 16]])


def test_beyond_the_map_nothing_is_covered(tmp_path: Path) -> None:
    slide_map = plant_map(tmp_path, np.zeros((10, 10), np.uint8), Place(corner=(10, 10)))
    wider = replace(slide_map.slide.bounds, x=0, y=5, width=30, height=15)
    wide = replace(slide_map, slide=replace(slide_map.slide, bounds=wider))
    found = labels_at(wide, Size(30, 15))
    assert (found[5:, 10:20] == 0).all()
    assert (found == 0).sum() == 100
    assert (found[found != 0] == UNCOVERED).all()


@pytest.mark.parametrize(("height", "width"), [(400, 60), (60, 400), (100, 100), (3, 90)])
@pytest.mark.parametrize("num_classes", [1, 4, 13])
def test_nothing_overlaps_whatever_the_slide_s_shape(tmp_path: Path, height: int, width: int, num_classes: int) -> None:
    names = tuple(f"a class with the long number {number}" for number in range(num_classes))
    classes = Classes(names, tuple((number, 0, 0) for number in range(num_classes)))
    probability = np.zeros((num_classes, height, width), np.float16)
    slide_map = plant_map(tmp_path, np.zeros((height, width), np.uint8), classes=classes, probability=probability)
    layout = Layout.of(slide_map, 900)
    num_rows = -(-num_classes // layout.columns)
    left, top = layout.legend
    legend = (left, top, left + layout.legend_width, top + _LEGEND_TOP + _ROW * num_rows)
    boxes = [(x, y, x + layout.panel.width, y + layout.panel.height) for x, y in layout.panels] + [legend]
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert left >= MARGIN
        assert top > 122
        assert right <= layout.width - MARGIN
        assert bottom <= layout.height - MARGIN
        for other in boxes[:number]:
            assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]
    assert layout.columns * layout.cell + _GUTTER * (layout.columns - 1) <= layout.legend_width + 1e-6
    assert layout.columns * num_rows >= num_classes


def test_the_uncovered_rest_and_a_moved_map_still_make_a_picture(tmp_path: Path) -> None:
    picture = drawn(plant_map(tmp_path, np.full((30, 200), UNCOVERED, np.uint8)), tmp_path)
    assert np.ptp(picture[:, -20:], axis=(0, 1)).max() == 0, "an empty margin"


@pytest.mark.parametrize(
    ("area", "text"),
    [(0, "0 mm²"), (0.0004, "< 0.001 mm²"), (0.0672, "0.067 mm²"), (3.14159, "3.14 mm²"), (42.19, "42.2 mm²"),
     (1234.5, "1,234 mm²")],
)  # fmt: skip
def test_areas_are_given_to_what_means_something(area: float, text: str) -> None:
    assert area_text(area) == text


@pytest.mark.parametrize(
    ("share", "text"), [(None, "–"), (0.0, "–"), (0.0004, "< 0.1 %"), (0.1234, "12.3 %"), (1.0, "100.0 %")]
)
def test_shares_are_given_in_per_cent(share: float | None, text: str) -> None:
    assert share_text(share) == text


def test_a_legend_s_columns_are_as_even_as_they_get() -> None:
    assert columns_of(4, 1300, 400) == (2, 560)
    assert columns_of(4, 1800, 400)[0] == 4
    assert columns_of(5, 1300, 400)[0] == 3
    assert columns_of(1, 1300, 400) == (1, 560)
    assert columns_of(7, 300, 400) == (1, 300)


@pytest.mark.parametrize("settings", [{"panel_px": 10}, {"opacity": 1.5}, {"opacity": -0.1}])
def test_settings_that_make_no_picture_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="at least 64 px"):
        OverlaySettings(**settings)  # type: ignore[arg-type]


def test_a_name_with_dollar_signs_and_of_any_length_is_written_as_it_is(tmp_path: Path) -> None:
    slide_map = plant_map(tmp_path, quarters())
    named = replace(slide_map, slide=replace(slide_map.slide, path=f"/x/{'very' * 60}$long$.svs", mpp_source="assumed"))
    with open_slide(slide_map.slide.path, slide_map.slide.mpp) as slide:
        write_overlay(named, tmp_path / "overlay.png", slide, OverlaySettings(panel_px=400))
    picture = np.asarray(Image.open(tmp_path / "overlay.png").convert("L"))
    assert picture[:130, -40:].min() == 255, "it stays inside its margin"
    assert picture[:130].min() < 80
    assert THREE.background == "glass"
