"""Outlines of a block against the slow way: each class alone, labelled by scipy and traced by contourpy."""

import itertools

import numpy as np
import shapely
from contourpy import FillType, contour_generator
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from counterstain.export.outlines import pieces_of
from counterstain.results import UNCOVERED

BLOCKS = arrays(
    np.uint8, st.tuples(st.integers(2, 12), st.integers(2, 12)), elements=st.sampled_from([0, 1, 2, UNCOVERED])
)


def wanted(*numbers: int) -> np.ndarray:
    answer = np.zeros(256, bool)
    answer[list(numbers)] = True
    return answer


def traced(mask: np.ndarray) -> list[shapely.Polygon]:
    """The twin: what contourpy makes of one piece."""
    generator = contour_generator(z=mask.astype(float), corner_mask=True, fill_type=FillType.OuterOffset)
    points, offsets = generator.filled(0.5, 2.0)
    (rings,) = [[one[a:b] for a, b in itertools.pairwise(cut)] for one, cut in zip(points, offsets, strict=True)]
    return shapely.Polygon(rings[0], rings[1:])


@settings(max_examples=60, deadline=None)
@given(BLOCKS)
def test_pieces_are_those_of_each_class_alone(labels: np.ndarray) -> None:
    found = pieces_of(labels, wanted(0, 2))
    owners = np.repeat(found.owners, found.runs.lengths).reshape(labels.shape)
    values = (np.arange(labels.size).reshape(labels.shape) % 7).astype(np.float32)
    num = 0
    for number in (0, 2):
        components, count = ndimage.label(labels == number)
        for component in range(1, count + 1):
            mask = components == component
            polygon = found.polygons[num]
            assert found.labels[num] == number
            assert (owners[mask] == num + 1).all()
            assert polygon.is_valid
            assert polygon.exterior.is_ccw
            assert not any(ring.is_ccw for ring in polygon.interiors)
            assert polygon.equals(traced(mask))
            assert found.num_pixels[num] == mask[1:, 1:].sum()
            assert found.sums(values)[num] == values[mask].sum()
            num += 1
    assert num == len(found.polygons)
    assert not owners[(labels != 0) & (labels != 2)].any()


@settings(max_examples=30, deadline=None)
@given(BLOCKS)
def test_seams_are_the_pieces_of_the_outermost_pixels(labels: np.ndarray) -> None:
    found = pieces_of(labels, wanted(0, 1, 2))
    owners = np.repeat(found.owners, found.runs.lengths).reshape(labels.shape)
    for seam, edge in zip(found.seams, (owners[0], owners[-1], owners[:, 0], owners[:, -1]), strict=True):
        np.testing.assert_array_equal(seam, edge)


def test_a_ring_of_pixels_has_a_hole_and_keeps_its_corners_alone() -> None:
    labels = np.full((5, 6), UNCOVERED, np.uint8)
    labels[1:4, 1:5] = 3
    labels[2, 2:4] = 4
    (ring,) = pieces_of(labels, wanted(3), (10.0, 20.0)).polygons
    outside = [
        (10.5, 21),
        (11, 20.5),
        (14, 20.5),
        (14.5, 21),
        (14.5, 23),
        (14, 23.5),
        (11, 23.5),
        (10.5, 23),
        (10.5, 21),
    ]
    inside = [(12, 21.5), (11.5, 22), (12, 22.5), (13, 22.5), (13.5, 22), (13, 21.5), (12, 21.5)]
    assert list(ring.exterior.coords) == outside
    assert [list(hole.coords) for hole in ring.interiors] == [inside]


def test_a_block_of_one_class_is_its_rim() -> None:
    (piece,) = pieces_of(np.zeros((3, 4), np.uint8), wanted(0)).polygons
    assert piece.equals(shapely.box(0, 0, 3, 2))
    assert len(piece.exterior.coords) == 5
