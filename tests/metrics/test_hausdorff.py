import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist, directed_hausdorff

from counterstain.errors import InputError
from counterstain.metrics import Hausdorff, HausdorffScores, hausdorff
from counterstain.metrics.hausdorff import boundary


def slow_boundary(mask: np.ndarray) -> np.ndarray:
    """Points (row, column) of a mask with a neighbour that is not of it, one by one."""
    padded = np.pad(mask, 1)
    return np.array(
        [
            (row, column)
            for row, column in np.argwhere(mask)
            if not all(padded[row + 1 + y, column + 1 + x] for y, x in ((0, 1), (1, 0), (0, -1), (-1, 0)))
        ]
    )


MASKS = arrays(bool, (9, 12), elements=st.booleans())


@given(MASKS, MASKS)
@settings(max_examples=60, deadline=None)
def test_distances_are_those_of_scipy_between_all_boundary_points(one: np.ndarray, other: np.ndarray) -> None:
    assume(one.any() and other.any())
    points, others = slow_boundary(one), slow_boundary(other)
    assert np.array_equal(np.argwhere(boundary(one)), points)
    found = hausdorff(one, other)
    largest = max(directed_hausdorff(points, others)[0], directed_hausdorff(others, points)[0])
    assert found.largest_px == pytest.approx(largest)
    between = cdist(points, others)
    assert found.percentile_px == pytest.approx(max(np.percentile(between.min(axis), 95) for axis in (0, 1)))
    assert found.percentile_px <= found.largest_px
    assert hausdorff(other, one) == found


def test_a_golden_case() -> None:
    """Two bars of 1 x 20, one above the other by 3, and a single pixel 8 below that: 1 of 21 is far."""
    truth, label = np.zeros((30, 30), bool), np.zeros((30, 30), bool)
    truth[5, 5:25] = True
    label[8, 5:25] = True
    assert hausdorff(label, truth) == Hausdorff(3, 3)
    label[16, 10] = True
    found = hausdorff(label, truth)
    assert found.largest_px == 11
    assert found.percentile_px == 3  # the stray pixel is less than a twentieth of the boundary


def test_a_hole_is_a_boundary_and_so_is_the_image_s_edge() -> None:
    full = np.ones((21, 21), bool)
    holed = full.copy()
    holed[10, 10] = False
    assert hausdorff(full, full) == Hausdorff(0, 0)
    assert hausdorff(holed, full).largest_px == 9  # from the pixels beside the hole to the image's edge


def test_hausdorff_on_an_empty_prediction_is_the_diagonal_wherever_the_tumour_lies() -> None:
    for corner in ((0, 0), (29, 39)):
        truth = np.zeros((30, 40), bool)
        truth[corner] = True
        assert hausdorff(np.zeros_like(truth), truth) == Hausdorff(50, 50, is_empty=True)


def test_no_distance_is_larger_than_that_of_an_empty_prediction() -> None:
    truth, label = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    truth[0, 0] = label[29, 39] = True
    assert hausdorff(label, truth).largest_px < hausdorff(np.zeros_like(truth), truth).largest_px


def test_a_set_s_distances_are_means_in_pixels_and_micrometres_with_empties_counted() -> None:
    found = HausdorffScores.of([Hausdorff(4, 2), Hausdorff(50, 50, is_empty=True)], mpp=0.5)
    assert found.to_json() == {
        "hd_px": 27,
        "hd95_px": 26,
        "hd_um": 13.5,
        "hd95_um": 13,
        "num_images": 2,
        "num_empty": 1,
    }
    assert "hd_um" not in HausdorffScores.of([Hausdorff(4, 2)]).to_json()


def test_no_positive_images_make_no_number() -> None:
    found = HausdorffScores.of([])
    assert math.isnan(found.mean_px)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["hd_px"] is None


def test_a_truth_without_an_area_or_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match="without an area"):
        hausdorff(np.ones((3, 3), bool), np.zeros((3, 3), bool))
    with pytest.raises(InputError, match="must agree"):
        hausdorff(np.ones((3, 3), bool), np.ones((3, 4), bool))
