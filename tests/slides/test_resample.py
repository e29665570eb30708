"""Resampling against the slow obvious way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterstain.geometry import Box, Size
from counterstain.slides import resample as resample_module
from counterstain.slides.resample import Pixels, axis_of, reduce, resample
from counterstain.testing.slide_pixels import area_twin, scene


def resampled(pixels: Pixels, box: Box, size: Size) -> Pixels:
    height, width = pixels.shape[:2]
    rows = axis_of(box.y, box.height / size.height, size.height, height, height)
    columns = axis_of(box.x, box.width / size.width, size.width, width, width)
    return resample(pixels[rows.first : rows.last, columns.first : columns.last], rows, columns)


@settings(max_examples=150, deadline=None)
@given(
    x=st.floats(-30, 60),
    y=st.floats(-30, 60),
    scale_x=st.floats(0.2, 12),
    scale_y=st.floats(0.2, 12),
    width=st.integers(1, 20),
    height=st.integers(1, 20),
)
def test_any_box_agrees_with_the_slow_twin(
    x: float, y: float, scale_x: float, scale_y: float, width: int, height: int
) -> None:
    pixels = scene(Size(53, 47))
    box, size = Box(x, y, width * scale_x, height * scale_y), Size(width, height)
    difference = np.abs(resampled(pixels, box, size).astype(int) - area_twin(pixels, box, size))
    assert difference.max() <= 1  # halves are rounded either way


@settings(max_examples=60, deadline=None)
@given(start=st.floats(-20, 120), scale=st.floats(0.05, 30), num=st.integers(1, 40), end=st.floats(99.05, 100.95))
def test_weights_sum_to_what_lies_on_the_slide(start: float, scale: float, num: int, end: float) -> None:
    axis = axis_of(start, scale, num, 100, end)
    edges = np.clip(start + np.arange(num + 1) * scale, 0, end)
    assert 0 <= axis.first <= axis.last <= 100
    np.testing.assert_allclose(axis.weights.sum(axis=1), axis.coverage, atol=1e-5)
    np.testing.assert_allclose(axis.coverage, np.diff(edges) / scale, atol=1e-5)


def test_only_the_pixels_under_the_answer_are_asked_for() -> None:
    axis = axis_of(10, 2, 5, 100, 100)
    assert (axis.first, axis.last) == (10, 20)
    axis = axis_of(10.5, 2, 5, 100, 100)
    assert (axis.first, axis.last) == (10, 21)


def test_whole_pixels_are_kept_as_they_are() -> None:
    pixels = scene(Size(40, 30))
    assert (resampled(pixels, Box(0, 0, 40, 30), Size(40, 30)) == pixels).all()


def test_the_mean_of_a_picture_is_kept() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    small = resampled(pixels, Box(0, 0, 120, 90), Size(37, 29))
    assert small.mean() == pytest.approx(pixels.mean(), abs=0.1)


def test_the_last_pixel_reaches_to_the_end_of_the_slide() -> None:
    """A level of 10 pixels of a slide that ends at 10.75 of them has nothing else to show there."""
    stretched = axis_of(10, 0.75, 1, 10, 10.75)
    assert (stretched.first, stretched.last) == (9, 10)
    assert stretched.coverage[0] == 1
    cut = axis_of(9, 1, 1, 10, 9.25)
    assert cut.coverage[0] == pytest.approx(0.25)


def test_nothing_of_the_slide_is_white() -> None:
    away = axis_of(200, 2, 4, 100, 100)
    assert away.is_empty
    assert (resample(np.empty((0, 0, 3), np.uint8), away, away) == 255).all()


@pytest.mark.parametrize("factors", [(1, 1), (2, 2), (3, 5), (8, 1)])
def test_blocks_of_whole_pixels_take_the_short_way_to_the_same(factors: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8 * factors[1], 9 * factors[0], 3), np.uint8)
    short, long = reduce(pixels, factors), resampled(pixels, Box.whole(Size.of(pixels)), Size(9, 8))
    assert short.shape == long.shape == (8, 9, 3)
    assert np.abs(short.astype(int) - long).max() <= 1
    short[:] = 0  # the caller's own


@pytest.mark.parametrize("scale", [0.37, 0.9996, 1.0004, 1.143, 1.9, 2.286, 4.4])
def test_blocks_are_within_one_grey_value_of_whole_matrices(scale: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    rows, columns = (axis_of(-1.3, scale, 210, size, size) for size in (300, 500))
    part = pixels[rows.first : rows.last, columns.first : columns.last]
    difference = np.abs(resample(part, rows, columns).astype(int) - resample_module._by_sparse(part, rows, columns))
    assert difference.max() <= 1
    assert difference.mean() < 0.05


@pytest.mark.parametrize("scale", [0.37, 0.9996, 1.143, 2.286])
def test_a_pixel_is_the_same_in_whatever_piece_it_is_made(scale: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)

    def made(first: int, num: int) -> Pixels:
        rows, columns = (axis_of(3.1, scale, num, size, size, first) for size in (300, 500))
        return resample(pixels[rows.first : rows.last, columns.first : columns.last], rows, columns)

    assert (made(0, 130)[17:101, 17:101] == made(17, 84)).all()


@pytest.mark.parametrize("scale", [8 / 7, 1.5, 16 / 7])
def test_weights_that_come_again_make_the_same_pixels_at_once(scale: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 600, 3), np.uint8)
    whole = [axis_of(3, scale, 210, size, size) for size in (500, 600)]
    piece = [axis_of(3, scale, 83, size, size, first=17) for size in (500, 600)]
    assert all(resample_module._cycle(axis) is not None for axis in whole)
    assert all(resample_module._cycle(axis) is None for axis in piece)
    at_once, in_blocks = (
        resample(pixels[rows.first : rows.last, columns.first : columns.last], rows, columns)
        for rows, columns in (whole, piece)
    )
    assert (at_once[17:100, 17:100] == in_blocks).all()
