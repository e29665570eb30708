"""Tissue from the sizes of stored tiles: the arithmetic on made-up counts, and whole slides against the pixel method."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from counterstain.errors import NoTissueError, UnsupportedSlideError
from counterstain.geometry import Size
from counterstain.slides import TiffSlide, open_slide
from counterstain.testing.slide_files import TiffDialect, tiles_of, write_raw_tiles, write_tiff
from counterstain.tissue import Tissue, TissueSettings, find_tissue
from counterstain.tissue.bytes import COVERED, Heaps, find_heaps, split_tiles
from counterstain.tissue.stored import split_stored

BY_BYTES = TissueSettings(method="bytes")
TILE = 64
TILE_PX = TILE * TILE
GLASS, TISSUE = 0.04, 0.32  # bytes a pixel


def counts_of(weights: np.ndarray) -> np.ndarray:
    return np.round(weights * TILE_PX).astype(np.uint64)


def weights_of(tissue: np.ndarray, seed: int = 0) -> np.ndarray:
    """Bytes a pixel of tiles by the share of each that is covered."""
    rng = np.random.default_rng(seed)
    glass = GLASS * rng.normal(1, 0.02, tissue.shape)
    return glass + tissue * (TISSUE * rng.lognormal(0, 0.15, tissue.shape) - GLASS)


def block(shape: tuple[int, int] = (30, 40)) -> np.ndarray:
    """Tissue in rows 8 to 22, columns 10 to 30; half covered tiles around it."""
    covered = np.zeros(shape)
    covered[8:22, 10:30] = 0.5
    covered[9:21, 11:29] = 1
    return covered


def whole(shape: tuple[int, int]) -> np.ndarray:
    return np.ones(shape)


def test_two_heaps_are_found_where_they_are() -> None:
    heaps = find_heaps(weights_of(block()))
    assert isinstance(heaps, Heaps)
    assert heaps.glass == pytest.approx(GLASS, rel=0.02)
    assert GLASS < heaps.noise < 1.2 * GLASS
    assert heaps.tissue == pytest.approx(TISSUE, rel=0.1)


def test_a_biopsy_of_a_thousandth_of_the_slide_is_a_heap_too() -> None:
    covered = np.zeros((150, 200))
    covered[40:44, 50:60] = 1
    split = split_tiles(counts_of(weights_of(covered)), whole(covered.shape), TILE_PX)
    assert not isinstance(split, str)
    assert np.array_equal(split.tissue, covered == 1)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (weights_of(np.zeros((20, 20))), "of one kind"),
        (weights_of(np.ones((20, 20))), "of one kind"),
        (weights_of(np.random.default_rng(2).choice((0, 0.2, 1), (20, 20), p=(0.4, 0.25, 0.35))), "do not fall"),
        (np.where(block() > 0, TISSUE, weights_of(np.zeros((30, 40)))), "prescribed size"),
        (weights_of(block((5, 12)))[:5, :12], "60 whole tiles; expected 64"),
        (
            np.where(block() > 0, weights_of(block()), GLASS * np.random.default_rng(1).lognormal(0, 0.5, (30, 40))),
            "differ too much from each other to be glass",
        ),
    ],
    ids=["all glass", "all tissue", "no valley", "fixed rate", "few tiles", "rough glass"],
)
def test_sizes_that_form_no_two_heaps_tell_nothing_and_say_why(weights: np.ndarray, reason: str) -> None:
    split = split_tiles(counts_of(weights), whole(weights.shape), TILE_PX)
    assert isinstance(split, str)
    assert reason in split


def test_tiles_that_are_a_fifth_covered_are_tissue_and_those_that_are_a_tenth_are_not() -> None:
    covered = block()
    covered[:, 9], covered[:, 30] = 0.08 * (covered[:, 10] > 0), 0.3 * (covered[:, 29] > 0)
    split = split_tiles(counts_of(weights_of(covered)), whole(covered.shape), TILE_PX)
    assert not isinstance(split, str)
    assert np.array_equal(split.tissue, covered >= COVERED)
    assert not split.doubt.any()


def test_tiles_that_were_left_out_are_glass() -> None:
    covered = block()
    counts = np.where(covered > 0, counts_of(weights_of(covered)), np.uint64(0))
    counts[:4] = counts_of(weights_of(np.zeros((4, 40))))
    split = split_tiles(counts, whole(covered.shape), TILE_PX)
    assert not isinstance(split, str)
    assert np.array_equal(split.tissue, covered > 0)


def test_a_tile_over_the_slides_edge_counts_by_what_of_it_lies_on_the_slide() -> None:
    covered, parts = block(), whole((30, 40))
    covered[9:21, -1], covered[9:21, 29:-1] = 0.3, 1  # the last column is 30 % slide, and all of that is tissue
    parts[:, -1] = 0.3
    split = split_tiles(counts_of(weights_of(covered)), parts, TILE_PX)
    assert not isinstance(split, str)
    assert split.tissue[9:21, -1].all()
    assert split.weights[9:21, -1].mean() == pytest.approx(TISSUE, rel=0.15)


def test_strokes_pale_places_and_small_holes_are_in_doubt_and_the_rest_is_not() -> None:
    covered = block()
    stroke, pale, hole = np.s_[2:28, 34], np.s_[1:5, 1:5], np.s_[14, 20]
    covered[stroke], covered[pale], covered[hole] = 0.6, 0.12, 0
    split = split_tiles(counts_of(weights_of(covered)), whole(covered.shape), TILE_PX)
    assert not isinstance(split, str)
    expected = np.zeros(covered.shape, bool)
    for place in (stroke, pale, hole):
        expected[place] = True
    assert np.array_equal(split.doubt, expected)


def test_specks_smaller_than_tissue_may_be_are_dropped_without_doubt() -> None:
    covered = block()
    covered[2, 35], covered[25:27, 35] = 0.4, 1
    split = split_tiles(counts_of(weights_of(covered)), whole(covered.shape), TILE_PX, speck=1.5)
    assert not isinstance(split, str)
    assert not split.tissue[2, 35]
    assert not split.doubt[2, 35]
    assert split.doubt[25:27, 35].all()


MPP, SIDE_PX = 0.5, 128  # of stored tiles, of which the picture has 12 x 15
STAINS = {"purple": (0.6, 1.0, 0.5), "pink": (0.14, 0.6, 0.35), "blue": (1.45, 0.75, 0.2)}
Corners = tuple[int, int, int, int]


@cache
def picture(*boxes: tuple[str, Corners, float]) -> np.ndarray:
    """(1536, 1920, 3) uint8: glass with grainy tissue on it, and stained boxes (left, top, right, bottom)."""
    rng = np.random.default_rng(5)
    light = np.full((1536, 1920, 3), (240, 238, 243), np.float32)
    strips = [
        ("purple", (300 + 150 * strip, 250, 450 + 150 * strip, 1200), 0.1 + 0.1 * (strip % 4)) for strip in range(6)
    ]
    for stain, (left, top, right, bottom), grain in (*strips, *boxes):
        noise = 1 + grain * rng.standard_normal((bottom - top, right - left, 1), np.float32)
        light[top:bottom, left:right] *= np.exp(-np.maximum(noise, 0.2) * np.array(STAINS[stain], np.float32))
    light += 1.5 * rng.standard_normal(light.shape, np.float32)
    return np.clip(light, 0, 255).round().astype(np.uint8)


FOLD = ("purple", (700, 300, 750, 1100), 0.2)
STROKE = ("blue", (1500, 100, 1740, 1450), 0.02)
RIM = ("blue", (1450, 200, 1500, 1200), 0.3)
SMOOTH = ("pink", (1250, 250, 1700, 1200), 0.0)


def written(path: Path, pixels: np.ndarray, quality: int = 80) -> TiffSlide:
    tiles = [simplejpeg.encode_jpeg(tile, quality, "RGB", "420") for tile in tiles_of(pixels, SIDE_PX)]
    tags = {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (2, 2)}
    write_raw_tiles(path, Size.of(pixels), SIDE_PX, tiles, **tags)
    return TiffSlide(path, MPP)


def cells_of(tissue: Tissue) -> np.ndarray:
    """(12, 15) bool: a pixel method's mask of 8 um in the tiles' cells of 64 um."""
    return tissue.mask.reshape(12, 8, 15, 8).mean(axis=(1, 3)) >= COVERED


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_a_slide_tells_how_many_bytes_each_stored_tile_has(tmp_path: Path) -> None:
    pixels = picture()[:300, :500]
    tiles = [simplejpeg.encode_jpeg(tile, 80, "RGB", "420") for tile in tiles_of(pixels, SIDE_PX)]
    slide = written(tmp_path / "slide.tif", pixels)
    (stored,) = slide.tile_bytes()
    assert stored.counts.tolist() == np.reshape([len(tile) for tile in tiles], (3, 4)).tolist()
    assert (stored.level, stored.tile, stored.codec) == (0, Size(SIDE_PX, SIDE_PX), "jpeg")


@pytest.mark.parametrize(("quality", "boxes"), [(60, ()), (90, (FOLD,))], ids=["flat", "folded"])
def test_sizes_and_pixels_find_the_same_tissue(quality: int, boxes: tuple, tmp_path: Path) -> None:
    slide = written(tmp_path / "slide.tif", picture(*boxes), quality)
    found = find_tissue(slide, BY_BYTES)
    assert found.note is None
    assert found.mask.shape == (12, 15)
    assert (found.frame.downsample_x, found.frame.downsample_y) == (SIDE_PX, SIDE_PX)
    assert agreement(found.mask, cells_of(find_tissue(slide))) >= 0.95


def test_a_slide_with_pen_marks_is_left_to_the_pixel_method(tmp_path: Path) -> None:
    slide = written(tmp_path / "slide.tif", picture(STROKE))
    found, by_pixels = find_tissue(slide, BY_BYTES), find_tissue(slide)
    assert "there are pen marks on it" in str(found.note)
    assert np.array_equal(found.mask, by_pixels.mask)
    assert found.ink is not None
    assert found.ink[15:85, 94:108].mean() > 0.8


def test_pen_marks_that_may_stay_are_decided_with_the_rest(tmp_path: Path) -> None:
    slide = written(tmp_path / "slide.tif", picture(RIM))
    kept = TissueSettings(method="bytes", inks=())
    found = find_tissue(slide, kept)
    assert found.note is None
    assert found.ink is None
    assert agreement(found.mask, cells_of(find_tissue(slide, TissueSettings(inks=())))) >= 0.95


def test_smooth_tissue_that_weighs_as_little_as_glass_is_not_taken_for_it(tmp_path: Path) -> None:
    slide = written(tmp_path / "slide.tif", picture(SMOOTH))
    found = find_tissue(slide, BY_BYTES)
    assert "stained tissue on it weighs no more than glass" in str(found.note)
    assert np.array_equal(found.mask, find_tissue(slide).mask)


@pytest.mark.parametrize(
    ("dialect", "reason"),
    [
        (TiffDialect(tile_px=SIDE_PX, factors=(), compression=None), "stored raw"),
        (TiffDialect(tile_px=SIDE_PX, factors=(), compression="lzw"), "stored raw, or by a codec"),
        (TiffDialect(tile_px=512, factors=(), compression="jpeg"), "256 um wide; expected 32 to 160"),
    ],
    ids=["raw", "lzw", "large tiles"],
)
def test_slides_whose_sizes_tell_nothing_are_left_to_the_pixel_method_with_the_reason(
    dialect: TiffDialect, reason: str, tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "slide.tif", picture(), MPP, dialect)
    with open_slide(path) as slide:
        found, by_pixels = find_tissue(slide, BY_BYTES), find_tissue(slide)
    assert found.note is not None
    assert found.note.startswith("found by the method 'otsu', since its ")
    assert reason in found.note
    assert np.array_equal(found.mask, by_pixels.mask)
    assert found.frame == by_pixels.frame


def test_a_reader_that_knows_no_sizes_falls_back(draw: Callable, scene: Callable, stains: dict) -> None:
    drawing = scene()
    found = find_tissue(draw(drawing.lay(drawing.disc(100, 100, 50), stains["pink"], 0.3).pixels), BY_BYTES)
    assert "the reader 'drawn' does not tell the sizes of tiles" in str(found.note)


def test_glass_from_edge_to_edge_has_no_tissue(tmp_path: Path) -> None:
    glass = np.tile(picture()[:200], (8, 1, 1))
    with pytest.raises(NoTissueError):
        find_tissue(written(tmp_path / "glass.tif", glass), BY_BYTES)


def test_tissue_from_edge_to_edge_is_found(tmp_path: Path) -> None:
    tissue = np.tile(picture()[256:1024, 300:1200], (2, 2, 1))
    found = find_tissue(written(tmp_path / "tissue.tif", tissue), BY_BYTES)
    assert "of one kind" in str(found.note)
    assert found.mask.all()


def test_fluorescence_is_refused_though_its_sizes_look_like_glass_and_tissue(tmp_path: Path) -> None:
    slide = written(tmp_path / "slide.tif", 255 - picture())
    assert not isinstance(split_stored(slide, BY_BYTES), str)
    with pytest.raises(UnsupportedSlideError, match="dark background"):
        find_tissue(slide, BY_BYTES)
