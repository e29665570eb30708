"""What pictures of a slide share: where the slide comes from, panels, scale bars, colours over grey."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterstain.errors import ExistingOutputError, MissingFileError
from counterstain.export.picture import (
    at_centres,
    colored,
    draw_framed,
    finer,
    panel_corners,
    panel_size,
    round_length,
    scale_bar,
    write_picture,
)
from counterstain.export.sheet import Sheet
from counterstain.geometry import Size
from counterstain.results import SlideMap
from counterstain.slides import Slide, open_slide
from counterstain.testing.writers import Place, plant_map


def plain(folder: Path, place: Place | None = None) -> SlideMap:
    return plant_map(folder, np.zeros((20, 30), np.uint8), place or Place())


def draw(slide: Slide) -> Sheet:
    sheet = Sheet(120, 100)
    draw_framed(sheet, (20, 10), slide.read_resized(slide.bounds, Size(60, 40)))
    return sheet


def test_a_picture_shows_the_slide_and_says_what_it_was_made_from(tmp_path: Path) -> None:
    slide_map = plain(tmp_path)
    write_picture(slide_map, tmp_path / "a.png", draw, None, overwrite=False)
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["Comment"] == f"inputs_hash {slide_map.inputs_hash}"  # type: ignore[attr-defined]
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (100, 120, 3)
    assert (pixels[12:48, 22:78] == (240, 220, 230)).all(), "the slide's own colour inside the frame"
    assert (pixels[:8] == 255).all()


def test_an_open_slide_is_left_open_and_gives_the_same_picture(tmp_path: Path) -> None:
    slide_map = plain(tmp_path)
    with open_slide(slide_map.slide.path, slide_map.slide.mpp) as slide:
        write_picture(slide_map, tmp_path / "given.png", draw, slide, overwrite=False)
        assert slide._handle is not None
    write_picture(slide_map, tmp_path / "opened.png", draw, None, overwrite=False)
    assert (tmp_path / "given.png").read_bytes() == (tmp_path / "opened.png").read_bytes()


def test_a_picture_that_is_there_is_kept_before_anything_is_drawn(tmp_path: Path) -> None:
    slide_map = plain(tmp_path)
    (tmp_path / "a.png").write_text("work of a week")
    Path(slide_map.slide.path).unlink()
    with pytest.raises(ExistingOutputError):
        write_picture(slide_map, tmp_path / "a.png", draw, None, overwrite=False)
    with pytest.raises(MissingFileError):
        write_picture(slide_map, tmp_path / "a.png", draw, None, overwrite=True)
    assert (tmp_path / "a.png").read_text() == "work of a week"


def test_a_panel_keeps_the_slide_s_shape_in_um(tmp_path: Path) -> None:
    slide_map = plant_map(tmp_path, np.zeros((100, 100), np.uint8), Place(mpp=(0.5, 1.0)))
    assert panel_size(slide_map.slide, 800) == Size(400, 800)


def test_panels_stand_side_by_side_and_on_wide_slides_one_above_the_other() -> None:
    assert panel_corners(Size(100, 80), 200) == (((44, 200), (172, 200)), 228)
    assert panel_corners(Size(200, 100), 200) == (((44, 200), (44, 350)), 200)


@pytest.mark.parametrize(
    ("most", "length"), [(1.0, 1), (1.99, 1), (2.0, 2), (499, 200), (500, 500), (999, 500), (0.3, 0.2), (12345, 10000)]
)
def test_a_scale_bar_has_a_round_length(most: float, length: float) -> None:
    assert round_length(most) == pytest.approx(length)


def test_a_scale_bar_says_what_its_pixels_stand_for() -> None:
    assert scale_bar(100, 0.6) == (pytest.approx(50 / 0.6), "50 µm")
    assert scale_bar(100, 25) == (80, "2 mm")


def test_values_are_read_under_the_centres_of_pixels_as_a_loop_finds_them(tmp_path: Path) -> None:
    slide_map = plain(tmp_path, Place(corner=(7, 9), downsample=(3.3, 2.7), overhang=0.6))
    bounds, frame, size = slide_map.slide.bounds, slide_map.frame, Size(23, 17)
    numbers = np.arange(600, dtype=np.int32).reshape(20, 30)
    found = at_centres(slide_map, size, lambda rows, columns: numbers[np.ix_(rows, columns)], np.int32(-1))
    for row in range(size.height):
        for column in range(size.width):
            x, y = bounds.x + (column + 0.5) * bounds.width / 23, bounds.y + (row + 0.5) * bounds.height / 17
            place = int((y - frame.origin.y) // 2.7), int((x - frame.origin.x) // 3.3)
            assert found[row, column] == numbers[place]


def test_colours_lie_as_strong_as_asked_and_the_rest_is_grey() -> None:
    view = np.full((1, 3, 3), 255, np.uint8)
    view[0, 2] = (40, 90, 200)
    size = finer(Size(3, 1))
    alpha = np.zeros(size.shape, np.float32)
    alpha[:, :2], alpha[0, 2:4] = 1, 1
    shown = colored(view, np.broadcast_to(np.float32((1, 0, 0)), (*size.shape, 3)), alpha)
    assert shown[0, :2].tolist() == [[255, 0, 0], [255, 128, 128]], "wholly, and half covered"
    assert np.ptp(shown[0, 2]) == 0
    assert shown[0, 2, 0] > 100, "pale"
