import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_jaccard_index

from counterstain.errors import InputError, UnknownNameError
from counterstain.metrics import (
    SegmentationScores,
    class_dice,
    class_iou,
    confusion,
    dice_bound,
    frequency_weighted_iou,
    mean_dice,
    mean_iou,
    pixel_accuracy,
)

# Worked by hand. Truth: 3 x 0, 3 x 1, 2 x 2, 2 x ignored (4). Predicted: one 0 as 1, one 2 as 0, one 1 as nothing (9).
TRUTH = np.array([[0, 0, 0, 1, 1], [1, 2, 2, 4, 4]])
LABEL = np.array([[0, 0, 1, 1, 1], [9, 0, 2, 0, 2]])
GOLDEN = [[2, 1, 0, 0], [0, 2, 0, 1], [1, 0, 1, 0], [1, 0, 1, 0]]


def masks(values: st.SearchStrategy[int]) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.uint8, (6, 7), elements=values)


def test_rows_are_truth_and_columns_are_predictions() -> None:
    assert confusion(LABEL, TRUTH, 3, ignore=4).tolist() == GOLDEN


def test_a_golden_case_without_background() -> None:
    scores = SegmentationScores.of(np.array(GOLDEN))
    assert scores.iou == pytest.approx((2 / 4, 2 / 4, 1 / 2))
    assert scores.dice == pytest.approx((4 / 6, 4 / 6, 2 / 3))
    assert scores.mean_iou == pytest.approx(0.5)
    assert scores.mean_dice == pytest.approx(2 / 3)
    assert scores.pixel_accuracy == pytest.approx(5 / 8)
    assert scores.frequency_weighted_iou == pytest.approx(3 / 8 * 0.5 + 3 / 8 * 0.5 + 2 / 8 * 0.5)
    assert scores.num_pixels == 8


def test_a_golden_case_with_background() -> None:
    scores = SegmentationScores.of(np.array(GOLDEN), "with_background")
    assert scores.iou == pytest.approx((2 / 5, 2 / 4, 1 / 3))
    assert scores.dice == pytest.approx((4 / 7, 4 / 6, 2 / 4))
    assert scores.mean_iou == pytest.approx((2 / 5 + 2 / 4 + 1 / 3) / 3)
    assert scores.pixel_accuracy == pytest.approx(5 / 10)
    assert scores.num_pixels == 10


def test_the_published_recipe_gives_the_same() -> None:
    """Predictions copy the truth's background, the cell of background on background is emptied, K classes are scored."""
    rng = np.random.default_rng(0)
    truth, label = rng.integers(0, 5, (50, 40)), rng.integers(0, 5, (50, 40))
    copied = np.where(truth == 4, 4, label)
    hist = np.bincount(5 * truth.ravel() + copied.ravel(), minlength=25).reshape(5, 5).astype(float)
    hist[4, 4] = 0
    iou = np.diag(hist) / (hist.sum(1) + hist.sum(0) - np.diag(hist))
    dice = 2 * np.diag(hist) / (hist.sum(1) + hist.sum(0))
    scores = SegmentationScores.of(confusion(label, truth, 4, ignore=4))
    assert scores.iou == pytest.approx(iou[:4])
    assert scores.mean_iou == pytest.approx(iou[:4].mean())
    assert scores.mean_dice == pytest.approx(dice[:4].mean())


@given(masks(st.integers(0, 2)), masks(st.integers(0, 2)))
@settings(max_examples=25, deadline=None)
def test_it_agrees_with_scikit_learn(label: np.ndarray, truth: np.ndarray) -> None:
    counts = confusion(label, truth, 3)
    flat = truth.ravel(), label.ravel()
    assert np.array_equal(counts[:3, :3], confusion_matrix(*flat, labels=[0, 1, 2]))
    scores = SegmentationScores.of(counts)
    occur = [c for c in range(3) if c in flat[0] or c in flat[1]]
    assert np.array(scores.iou)[occur] == pytest.approx(jaccard_score(*flat, labels=occur, average=None))
    assert np.array(scores.dice)[occur] == pytest.approx(f1_score(*flat, labels=occur, average=None))
    assert scores.mean_dice == pytest.approx(f1_score(*flat, labels=occur, average="macro"))
    assert scores.pixel_accuracy == pytest.approx(accuracy_score(*flat))
    weighted = jaccard_score(*flat, labels=[0, 1, 2], average="weighted", zero_division=0)
    assert scores.frequency_weighted_iou == pytest.approx(weighted)


@given(masks(st.integers(0, 3)), masks(st.integers(0, 4)))
@settings(max_examples=25, deadline=None)
def test_it_agrees_with_torchmetrics(label: np.ndarray, truth: np.ndarray) -> None:
    truth[0, :4] = range(4)
    counts = confusion(label, truth, 4, ignore=4)
    tensors = torch.from_numpy(label.astype(np.int64)), torch.from_numpy(truth.astype(np.int64))
    assert np.array_equal(counts[:4, :4], multiclass_confusion_matrix(*tensors, num_classes=4, ignore_index=4).numpy())
    twin = multiclass_jaccard_index(*tensors, num_classes=4, average="none", ignore_index=4)
    assert class_iou(counts) == pytest.approx(twin.numpy().astype(float), abs=1e-6)


@given(masks(st.integers(0, 4)), masks(st.integers(0, 4)), masks(st.integers(0, 250)))
@settings(max_examples=25, deadline=None)
def test_what_is_predicted_on_ignored_pixels_never_matters(
    label: np.ndarray, truth: np.ndarray, other: np.ndarray
) -> None:
    truth[0, 0] = 0
    changed = np.where(truth == 4, other, label)
    first, second = (SegmentationScores.of(confusion(guess, truth, 4, ignore=4)) for guess in (label, changed))
    assert np.array_equal(first.iou, second.iou, equal_nan=True)
    assert first.num_pixels == second.num_pixels


@given(masks(st.integers(0, 3)), masks(st.integers(0, 3)), st.permutations(range(3)))
@settings(max_examples=25, deadline=None)
def test_renaming_classes_permutes_their_scores_and_leaves_the_means(
    label: np.ndarray, truth: np.ndarray, order: list[int]
) -> None:
    truth[0, 0] = 0
    renamed = np.array([*order, 3])
    first = SegmentationScores.of(confusion(label, truth, 3, ignore=3))
    second = SegmentationScores.of(confusion(renamed[label], renamed[truth], 3, ignore=3))
    assert [second.iou[place] for place in order] == pytest.approx(list(first.iou), nan_ok=True)
    assert second.mean_iou == pytest.approx(first.mean_iou)
    assert second.mean_dice == pytest.approx(first.mean_dice)


@given(arrays(np.int64, (5, 5), elements=st.integers(0, 1000)))
@settings(max_examples=100, deadline=None)
def test_no_matrix_has_a_mean_dice_above_the_bound(counts: np.ndarray) -> None:
    counts[0, 0] += 1
    for protocol in ("exclude_background", "with_background"):
        scores = SegmentationScores.of(counts, protocol)
        assert scores.mean_dice <= dice_bound(scores.mean_iou) + 1e-12
        assert scores.mean_iou <= scores.mean_dice


def test_the_bound_is_met_when_all_classes_score_alike() -> None:
    assert dice_bound(0.5) == pytest.approx(2 / 3)
    assert round(100 * dice_bound(0.7793), 1) == 87.6  # the bound of a published pair of 77.93 and 87.54
    assert SegmentationScores.of(np.array(GOLDEN)).mean_dice == pytest.approx(dice_bound(0.5))


def test_matrices_of_images_add_up_to_that_of_the_dataset() -> None:
    whole = confusion(LABEL, TRUTH, 3, ignore=4)
    parts = sum(confusion(LABEL[[row]], TRUTH[[row]], 3, ignore=4) for row in range(2))
    assert np.array_equal(whole, parts)


def test_scores_of_a_stack_are_those_of_each() -> None:
    stack = np.random.default_rng(0).integers(0, 50, (3, 2, 4, 4))
    for function in (class_iou, class_dice, mean_iou, mean_dice, frequency_weighted_iou, pixel_accuracy):
        for protocol in ("exclude_background", "with_background"):
            assert np.allclose(function(stack, protocol)[2, 1], function(stack[2, 1], protocol))


def test_a_class_that_occurs_nowhere_is_undefined_and_out_of_the_mean() -> None:
    scores = SegmentationScores.of(confusion(np.array([0, 0]), np.array([0, 0]), 2))
    assert scores.iou[0] == scores.mean_iou == scores.mean_dice == 1
    assert math.isnan(scores.iou[1])
    assert math.isnan(scores.dice[1])
    assert scores.frequency_weighted_iou == 1
    tree = json.loads(json.dumps(scores.to_json(["a", "b"]), allow_nan=False))
    assert tree["classes"] == {"a": {"iou": 1.0, "dice": 1.0}, "b": {"iou": None, "dice": None}}


def test_a_class_that_is_predicted_and_never_there_scores_0() -> None:
    assert SegmentationScores.of(confusion(np.array([0, 1]), np.array([0, 0]), 2)).iou == (0.5, 0.0)


@pytest.mark.parametrize(
    ("label", "truth", "message"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "must agree"),
        (np.zeros(2), np.zeros(2, int), "integer class indices were expected"),
        (np.zeros(2, int), np.array([0, 7]), r"holds the values \[7\]; 0 to 2"),
        (np.zeros(2, int), np.array([0, -1]), r"values \[-1\]"),
    ],
)
def test_what_cannot_be_counted_is_refused(label: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        confusion(label, truth, 3)


def test_matrices_that_cannot_be_scored_are_refused() -> None:
    with pytest.raises(InputError, match="no pixel to score"):
        SegmentationScores.of(confusion(np.array([0]), np.array([4]), 3, ignore=4))
    with pytest.raises(InputError, match="expected"):
        SegmentationScores.of(np.zeros((3, 4), int))
    with pytest.raises(UnknownNameError, match="protocol"):
        SegmentationScores.of(np.array(GOLDEN), "with_bg")  # type: ignore[arg-type]
