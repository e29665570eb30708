import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from counterstain.errors import InputError
from counterstain.metrics import BoundaryScores, BoundarySettings, boundary_counts, boundary_iou, mean_boundary_iou
from counterstain.metrics.boundary import band

ONE_PX = BoundarySettings(width_px=1)


def slow_band(mask: np.ndarray, width: int) -> np.ndarray:
    """As the reference implementation has it: a border of nothing around, then one erosion for each pixel of width."""
    padded = np.pad(mask, 1)
    eroded = ndimage.binary_erosion(padded, np.ones((3, 3)), iterations=width)
    return mask & ~eroded[1:-1, 1:-1]


@given(arrays(bool, (9, 11)), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_the_band_is_what_repeated_erosion_takes_away(mask: np.ndarray, width: int) -> None:
    assert np.array_equal(band(mask, width), slow_band(mask, width))


def test_a_golden_case() -> None:
    """Squares of 4 x 4, the predicted one a column further right: rims of 12 pixels that share 3 above and 3 below."""
    truth, label = np.ones((8, 8), int), np.ones((8, 8), int)
    truth[2:6, 1:5] = 0
    label[2:6, 2:6] = 0
    assert boundary_counts(label, truth, 2, settings=ONE_PX)[0].tolist() == [6, 12 + 12 - 6]
    # With the surroundings ignored, 4 x 3 are left of the prediction; the rim of those, 10, shares 8 with the true rim.
    assert boundary_counts(label, truth, 1, ignore=1, settings=ONE_PX).tolist() == [[8, 12 + 10 - 8]]


def test_a_perfect_prediction_scores_1_and_a_disjoint_one_0() -> None:
    truth = np.random.default_rng(0).integers(0, 3, (20, 20))
    assert BoundaryScores.of(boundary_counts(truth, truth, 3)).mean_iou == 1
    assert BoundaryScores.of(boundary_counts((truth + 1) % 3, truth, 3)).mean_iou == 0


@given(arrays(np.uint8, (8, 9), elements=st.integers(0, 3)), arrays(np.uint8, (8, 9), elements=st.integers(0, 250)))
@settings(max_examples=25, deadline=None)
def test_what_is_predicted_on_ignored_pixels_never_matters(truth: np.ndarray, other: np.ndarray) -> None:
    label = truth.copy()[::-1]
    changed = np.where(truth == 3, other, label)
    first, second = (boundary_counts(guess, truth, 3, ignore=3) for guess in (label, changed))
    assert np.array_equal(first, second)


def test_a_band_as_wide_as_the_image_gives_the_plain_iou() -> None:
    rng = np.random.default_rng(1)
    truth, label = rng.integers(0, 2, (10, 10)), rng.integers(0, 2, (10, 10))
    iou = boundary_iou(boundary_counts(label, truth, 2, settings=BoundarySettings(width_px=10)))
    plain = [((label == c) & (truth == c)).sum() / ((label == c) | (truth == c)).sum() for c in range(2)]
    assert iou == pytest.approx(plain)


def test_the_width_is_a_share_of_the_diagonal_and_at_least_a_pixel() -> None:
    assert BoundarySettings().width((224, 224)) == 6
    assert BoundarySettings().width((10, 10)) == 1
    assert BoundarySettings(width_px=3).width((224, 224)) == 3


def test_counts_add_up_and_absent_classes_are_undefined() -> None:
    truth = np.zeros((6, 6), int)
    counts = boundary_counts(truth, truth, 2) + boundary_counts(truth, truth, 2)
    scores = BoundaryScores.of(counts)
    assert scores.mean_iou == 1
    assert math.isnan(scores.iou[1])
    assert json.dumps(scores.to_json(["a", "b"]), allow_nan=False) == (
        '{"mean_boundary_iou": 1.0, "classes": {"a": 1.0, "b": null}}'
    )
    assert mean_boundary_iou(np.stack([counts, counts])).tolist() == [1, 1]


def test_masks_of_two_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="must agree"):
        boundary_counts(np.zeros((2, 2), int), np.zeros((2, 3), int), 2)
