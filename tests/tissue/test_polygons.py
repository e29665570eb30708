import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from counterstain.geometry import Box, Frame, Point, Size
from counterstain.tissue.polygons import paint, trace

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
FRAMES = st.builds(
    lambda x, y, down_x, down_y: (Point(x, y), down_x, down_y),
    st.floats(-500, 500),
    st.floats(-500, 500),
    st.floats(0.3, 40),
    st.floats(0.3, 40),
)


def frame_for(mask: np.ndarray, place: tuple[Point, float, float] = (Point(0, 0), 1.0, 1.0)) -> Frame:
    return Frame(*place, Size(mask.shape[1], mask.shape[0]))


def rings_of(polygon: shapely.Polygon) -> list[np.ndarray]:
    return [np.asarray(ring.coords) for ring in (polygon.exterior, *polygon.interiors)]


def union_of_pixels(mask: np.ndarray, frame: Frame) -> shapely.Geometry:
    """The slow obvious twin: a rectangle for each pixel."""
    boxes = [frame.to_level0(Box(int(x), int(y), 1, 1)) for y, x in np.argwhere(mask)]
    return shapely.union_all([shapely.box(box.x, box.y, box.right, box.bottom) for box in boxes])


@given(MASKS, FRAMES)
@settings(max_examples=60, deadline=None)
def test_painting_what_was_traced_gives_the_same_mask(mask: np.ndarray, place: tuple) -> None:
    frame = frame_for(mask, place)
    assert np.array_equal(paint([rings_of(polygon) for polygon in trace(mask, frame)], frame), mask)


@given(MASKS)
@settings(max_examples=60, deadline=None)
def test_traced_polygons_are_valid_disjoint_and_cut_pixels_at_corners_alone(mask: np.ndarray) -> None:
    frame = frame_for(mask)
    polygons = trace(mask, frame)
    assert all(polygon.is_valid for polygon in polygons)
    traced, exact = shapely.union_all(polygons), union_of_pixels(mask, frame)
    assert sum(polygon.area for polygon in polygons) == pytest.approx(traced.area)
    # Each corner of a pixel moves the outline by a triangle of 1/8 pixel at most, and no pixel has more than four.
    assert shapely.symmetric_difference(traced, exact).area <= 0.5 * mask.size
    assert shapely.hausdorff_distance(traced, exact) <= 0.75 or not mask.any()


def test_a_ring_with_an_island_is_two_polygons_the_outer_with_a_hole() -> None:
    mask = np.ones((9, 9), bool)
    mask[2:7, 2:7] = False
    mask[4, 4] = True
    polygons = sorted(trace(mask, frame_for(mask)), key=lambda polygon: polygon.area)
    assert [len(polygon.interiors) for polygon in polygons] == [0, 1]
    assert polygons[0].centroid.coords[0] == (4.5, 4.5)


def test_a_large_area_is_exact_to_two_in_ten_thousand_and_straight_edges_have_two_vertices() -> None:
    mask = np.zeros((400, 500), bool)
    mask[50:350, 60:460] = True
    frame = Frame(Point(1000.5, -20), 16.003, 15.97, Size(500, 400))
    (polygon,) = trace(mask, frame)
    exact = frame.to_level0(Box(60, 50, 400, 300))
    assert polygon.area == pytest.approx(exact.area, rel=2e-4)
    assert polygon.bounds == pytest.approx((exact.x, exact.y, exact.right, exact.bottom))
    assert len(polygon.exterior.coords) == 9


def test_nothing_traces_to_nothing_and_nothing_paints_nothing() -> None:
    mask = np.zeros((4, 5), bool)
    assert trace(mask, frame_for(mask)) == []
    assert not paint([], frame_for(mask)).any()


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_painting_agrees_with_shapely_at_pixel_centres(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(3, 18, (len(angles), 1))
    polygon = shapely.Polygon(around + rng.uniform(-4, 30, 2), [])
    if not polygon.is_valid:
        return
    frame = Frame(Point(-3.3, 2.1), 1.7, 0.9, Size(20, 28))
    rows, columns = np.mgrid[:28, :20] + 0.5
    centres = shapely.points(columns * 1.7 - 3.3, rows * 0.9 + 2.1)
    assert np.array_equal(paint([rings_of(polygon)], frame), shapely.contains(polygon, centres))


def test_holes_overlaps_and_open_rings_are_painted_as_people_mean_them() -> None:
    frame = Frame(Point(0, 0), 1, 1, Size(10, 10))
    outline = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)
    hole = np.array([[2, 2], [8, 2], [8, 8], [2, 8], [2, 2]], float)
    with_hole = paint([[outline, hole]], frame)
    assert with_hole.sum() == 100 - 36
    assert paint([[outline, hole], [hole]], frame).all(), "a second polygon covers the first one's hole"


def test_polygons_beyond_the_frame_are_cut_at_it() -> None:
    frame = Frame(Point(100, 100), 2, 2, Size(5, 5))
    huge = [np.array([[-1e5, 104], [1e5, 104], [1e5, 1e5], [-1e5, 1e5]], float)]
    assert paint([huge], frame).sum(axis=1).tolist() == [0, 0, 5, 5, 5]
    outside = [np.array([[0, 0], [50, 0], [50, 50]], float)]
    assert not paint([outside], frame).any()
