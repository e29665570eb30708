import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.affinity import affine_transform
from shapely.geometry import Point as ShapelyPoint

from counterstain.errors import InputError
from counterstain.geometry import Box, Frame, Mpp, Point, Size

numbers = st.integers(-1000, 1000)
lengths = st.integers(0, 500)
boxes = st.builds(Box, numbers, numbers, lengths, lengths)
scales = st.floats(0.05, 40, allow_nan=False)


@given(boxes, boxes)
def test_an_intersection_lies_in_both_and_is_symmetric(one: Box, other: Box) -> None:
    both = one.intersection(other)
    assert both.area == other.intersection(one).area
    if not both.is_empty:
        assert one.contains(both)
        assert other.contains(both)


@given(boxes, st.integers(0, 50))
def test_growing_and_shrinking_cancel(box: Box, by: int) -> None:
    assert box.grown(by).grown(-by) == box


def test_growing_can_differ_by_axis() -> None:
    assert Box(10, 10, 4, 4).grown(1, 2) == Box(9, 8, 6, 8)


@given(boxes)
def test_rounding_out_covers_and_leaves_whole_boxes_alone(box: Box) -> None:
    assert box.rounded_out() == box
    assert box.shifted(0.25, 0.75).rounded_out().contains(box.shifted(0.25, 0.75))


def test_slices_turn_x_y_into_row_column() -> None:
    image = np.zeros((10, 20))
    image[Box(3, 1, 5, 2).slices()] = 1
    assert image[1, 3] == 1
    assert image[2, 7] == 1
    assert image.sum() == 10
    assert Size.of(image) == Size(20, 10)
    assert Size(20, 10).shape == image.shape


def test_a_box_off_the_pixel_grid_is_no_slice() -> None:
    with pytest.raises(AssertionError, match="no whole number"):
        Box(0.5, 0, 2, 2).slices()


@pytest.mark.parametrize("value", [0.0, -0.5, float("nan"), float("inf")])
def test_a_resolution_is_above_zero(value: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        Mpp(value, 0.5)


def test_the_mean_resolution_keeps_the_area() -> None:
    assert Mpp(0.2, 0.8).mean == pytest.approx(0.4)


@given(boxes, scales, scales)
def test_a_frame_goes_there_and_back(box: Box, down_x: float, down_y: float) -> None:
    frame = Frame(Point(17, -3), down_x, down_y, Size(10, 10))
    back = frame.from_level0(frame.to_level0(box))
    assert (back.x, back.y, back.width, back.height) == pytest.approx((box.x, box.y, box.width, box.height), abs=1e-6)


@given(st.integers(1, 5000), st.integers(1, 5000), scales)
def test_a_frame_covers_its_box_with_less_than_a_pixel_to_spare(width: int, height: int, target: float) -> None:
    box, mpp = Box(100, 50, width, height), Mpp(0.25, 0.5)
    frame = Frame.covering(box, mpp, target)
    assert frame.box.right >= box.right - 1e-3
    assert frame.box.right - box.right < frame.downsample_x
    assert frame.box.bottom - box.bottom < frame.downsample_y


def test_a_frame_of_whole_factor_has_no_extra_pixel() -> None:
    assert Frame.covering(Box(0, 0, 2220, 2960), Mpp.square(0.1), 0.4).size == Size(555, 740)


def test_a_coarser_frame_covers_as_much() -> None:
    frame = Frame(Point(5, 5), 2.5, 2.0, Size(11, 9))
    coarser = frame.coarser(4)
    assert coarser.size == Size(3, 3)
    assert coarser.box.contains(frame.box)


def test_the_affine_is_what_shapely_takes() -> None:
    frame = Frame(Point(5, 7), 2.5, 2.0, Size(11, 9))
    moved = affine_transform(ShapelyPoint(1, 1), frame.affine())
    box = frame.to_level0(Box(1, 1, 1, 1))
    assert (moved.x, moved.y) == (box.x, box.y)
