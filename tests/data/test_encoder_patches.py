from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counterstain.data.encoder_patches import DrawnCells, DrawSettings, draw_cells, draw_slide_cells, is_dark_cell
from counterstain.errors import InputError, NoTissueError, StaleResultError, UnsupportedSlideError
from counterstain.geometry import Box, Size
from counterstain.slides import open_slide
from counterstain.synth.slide import SlideSettings, write_slide
from counterstain.testing.slide_files import TiffDialect, write_tiff

SETTINGS = DrawSettings(num_per_slide=30, input_px=32)
MPP = 2.0


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic tissue and glass."""
    path = tmp_path_factory.mktemp("slides") / "one.svs"
    write_slide(path, SlideSettings(size=Size(1000, 900), mpp=MPP, seed=11, tile_px=128))
    return path


def painted(path: Path, grey: tuple[int, int, int], dark_part: float = 1.0, side: int = 400) -> Path:
    """A slide whose left part has one colour and whose right is glass, a little noisy so that no two are alike."""
    pixels = np.full((side, side, 3), 244, np.uint8)
    pixels[:, : round(side * dark_part)] = grey
    pixels += np.random.default_rng(int(dark_part * 100)).integers(0, 4, pixels.shape, np.uint8)
    return write_tiff(path, pixels, MPP, TiffDialect(factors=(4,)))


def test_cells_are_what_the_slide_shows_at_their_corners(slide: Path) -> None:
    drawn = draw_slide_cells(slide, SETTINGS)
    assert drawn.pixels_NPP3.shape == (30, 32, 32, 3)
    assert drawn.pixels_NPP3.dtype == np.uint8
    assert drawn.names == ("one.svs",)
    with open_slide(slide) as opened:
        for pixels, (x, y) in zip(drawn.pixels_NPP3, drawn.corners_N2.tolist(), strict=True):
            assert np.array_equal(pixels, opened.read_resized(Box(x, y, 32, 32), Size(32, 32)))


def test_at_least_nine_in_ten_cells_are_dark_and_all_lie_on_the_slide(slide: Path) -> None:
    drawn = draw_slide_cells(slide, replace(SETTINGS, num_per_slide=60))
    means = drawn.pixels_NPP3.mean((1, 2))
    assert ((means < 178.5).all(1)).mean() >= 0.9
    assert not (means < 178.5).all(), "glass is drawn where it may be"
    assert (drawn.corners_N2 >= 0).all()
    assert (drawn.corners_N2 + 32 <= (1000, 900)).all()


def test_one_bright_channel_makes_a_cell_bright() -> None:
    cell = np.full((4, 4, 3), 170, np.uint8)
    assert is_dark_cell(cell, 178.5)
    cell[..., 0] = 179
    assert not is_dark_cell(cell, 178.5)


def test_a_seed_draws_the_same_cells_wherever_the_slide_lies(slide: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.svs"
    moved.write_bytes(slide.read_bytes())
    first, second = draw_slide_cells(slide, SETTINGS), draw_slide_cells(moved, SETTINGS)
    assert np.array_equal(first.corners_N2, second.corners_N2)
    assert np.array_equal(first.pixels_NPP3, second.pixels_NPP3)
    assert first.digest() == second.digest()
    other = draw_slide_cells(slide, replace(SETTINGS, seed=1))
    assert not np.array_equal(first.corners_N2, other.corners_N2)
    assert first.digest() != other.digest()


def test_cells_of_several_slides_know_theirs(slide: Path, tmp_path: Path) -> None:
    violet = painted(tmp_path / "violet.tif", (120, 60, 140))
    drawn = draw_cells([slide, violet], SETTINGS)
    assert len(drawn) == 60
    assert drawn.names == ("one.svs", "violet.tif")
    assert drawn.slide_N.tolist() == [0] * 30 + [1] * 30
    assert np.abs(drawn.pixels_NPP3[30:].mean((0, 1, 2)) - (121.5, 61.5, 141.5)).max() < 3


def test_a_slide_that_gives_too_few_gives_what_it_has_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a strip of tissue less than half a cell wide, only cells at the slide's very edge are dark."""
    strip = painted(tmp_path / "strip.tif", (80, 60, 80), dark_part=0.035)
    drawn = draw_slide_cells(strip, replace(SETTINGS, num_per_slide=20))
    assert 0 < len(drawn) < 20
    means = drawn.pixels_NPP3.mean((1, 2))
    assert (means < 178.5).all(1).mean() >= 0.9
    assert f"{len(drawn)} of 20 cells" in " ".join(capsys.readouterr().err.split())


def test_a_slide_of_glass_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(NoTissueError, match=r"glass\.tif"):
        draw_slide_cells(painted(tmp_path / "glass.tif", (244, 244, 244)), SETTINGS)


def test_a_slide_smaller_than_a_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSlideError, match="smaller than a cell"):
        draw_slide_cells(painted(tmp_path / "small.tif", (90, 60, 100)), replace(SETTINGS, cell_um=1000.0))


def test_what_was_kept_is_not_read_again(tmp_path: Path) -> None:
    violet, kept = painted(tmp_path / "violet.tif", (120, 60, 140)), tmp_path / "kept"
    first = draw_cells([violet], SETTINGS, kept)
    assert draw_cells([violet], SETTINGS, kept).digest() == first.digest()
    (file,) = kept.iterdir()
    with np.load(file) as arrays:
        marked = arrays["pixels"].copy()
        marked[0] = 7
        np.savez(file, pixels=marked, corners=arrays["corners"])
    again = draw_cells([violet], SETTINGS, kept)
    assert (again.pixels_NPP3[0] == 7).all(), "it came from the file"
    assert np.array_equal(again.pixels_NPP3[1:], first.pixels_NPP3[1:])
    assert again.digest() != first.digest()
    assert again.names == first.names
    draw_cells([violet], replace(SETTINGS, seed=2), kept)
    assert len(list(kept.iterdir())) == 2, "other settings are drawn anew"
    file.write_bytes(b"half a file")
    with pytest.raises(StaleResultError, match="Remove it"):
        draw_cells([violet], SETTINGS, kept)


def test_cells_of_another_resolution_are_other_cells(slide: Path, tmp_path: Path) -> None:
    draws = []
    for mpp in (MPP, 2 * MPP):
        with open_slide(slide, mpp) as opened:
            draws.append([draw_slide_cells(opened, SETTINGS, kept) for kept in (None, tmp_path)])
    (fine, kept_fine), (coarse, kept_coarse) = draws
    assert fine.digest() == kept_fine.digest()
    assert coarse.digest() == kept_coarse.digest()
    assert fine.digest() != coarse.digest()
    with open_slide(slide, 2 * MPP) as opened:
        assert draw_slide_cells(opened, SETTINGS, tmp_path).digest() == coarse.digest()


@pytest.mark.parametrize(("share", "num"), [(0.95, 100), (0.9, 30), (0.8, 25)])
def test_a_slide_with_enough_of_both_gives_all_cells_that_were_wanted(share: float, num: int, tmp_path: Path) -> None:
    half = painted(tmp_path / "half.tif", (120, 60, 140), dark_part=0.5)
    drawn = draw_slide_cells(half, replace(SETTINGS, num_per_slide=num, dark_share=share))
    is_dark = [is_dark_cell(pixels, 178.5) for pixels in drawn.pixels_NPP3]
    assert (len(drawn), sum(is_dark)) == (num, round(share * num))


def test_draws_of_other_settings_are_not_joined(slide: Path) -> None:
    one, other = draw_slide_cells(slide, SETTINGS), draw_slide_cells(slide, replace(SETTINGS, seed=1))
    with pytest.raises(InputError, match="same settings"):
        DrawnCells.joined([one, other])
    with pytest.raises(InputError, match="No slides"):
        draw_cells([])


@pytest.mark.parametrize(
    "changes", [{"num_per_slide": 0}, {"input_px": 0}, {"cell_um": 0.0}, {"cell_um": float("nan")}, {"dark_share": 1.5}]
)
def test_settings_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InputError):
        DrawSettings(**changes)  # type: ignore[arg-type]
