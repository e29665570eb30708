import json

import numpy as np
import pytest

from counterstain.errors import InputError
from counterstain.metrics import (
    SegmentationScores,
    confusion,
    majority_baseline,
    majority_class,
    one_class,
    one_class_scores,
)


def test_the_majority_is_the_class_that_most_labels_name_and_the_first_of_two() -> None:
    assert majority_class(np.array([[1, 0, 1], [0, 0, 1], [0, 1, 1]])) == 2
    assert majority_class(np.array([[1, 1], [1, 1]])) == 0
    assert majority_class(np.array([[10.0, 90.0]])) == 1


def test_labels_that_name_nothing_have_no_majority() -> None:
    for labels in (np.zeros((3, 2)), np.zeros((0, 2)), np.ones(3)):
        with pytest.raises(InputError, match="name no class"):
            majority_class(labels)


def test_one_class_everywhere_is_scored_as_a_mask_of_it_would_be() -> None:
    rng = np.random.default_rng(0)
    truth, label = rng.integers(0, 4, (9, 9)), rng.integers(0, 4, (9, 9))
    counts = confusion(label, truth, 3, ignore=3)
    for index in range(3):
        assert np.array_equal(one_class(counts, index), confusion(np.full_like(truth, index), truth, 3, ignore=3))
    stack = np.stack([counts, counts])
    assert np.array_equal(one_class(stack, 1)[1], one_class(counts, 1))


def test_a_golden_case() -> None:
    """Two thirds of the pixels are class 0: everywhere 0 has IoU 2/3 and 0, and a mean of a third."""
    truth = np.array([0, 0, 1])
    counts = confusion(truth, truth, 2)
    baseline = majority_baseline(counts, 0, "training labels")
    assert baseline.scores.iou == pytest.approx((2 / 3, 0))
    assert baseline.scores.mean_iou == pytest.approx(1 / 3)
    assert baseline.scores.pixel_accuracy == pytest.approx(2 / 3)
    tree = json.loads(json.dumps(baseline.to_json(["gland", "other"]), allow_nan=False))
    assert (tree["class"], tree["chosen_on"]) == ("gland", "training labels")
    assert [scores.mean_iou for scores in one_class_scores(counts)] == pytest.approx([1 / 3, 1 / 6])


def test_the_baseline_has_as_many_pixels_as_the_model() -> None:
    rng = np.random.default_rng(1)
    counts = confusion(rng.integers(0, 5, 200), rng.integers(0, 4, 200), 3, ignore=3)
    for protocol in ("exclude_background", "with_background"):
        model = SegmentationScores.of(counts, protocol)
        assert majority_baseline(counts, 1, "labels", protocol).scores.num_pixels == model.num_pixels


def test_a_class_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="Class 3 was given; there are 3"):
        one_class(np.zeros((4, 4), int), 3)
