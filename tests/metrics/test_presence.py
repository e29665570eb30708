import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score
from torchmetrics.functional.classification import multilabel_exact_match, multilabel_f1_score

from counterstain.errors import InputError
from counterstain.metrics import classes_in, presence_scores

TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]])
PREDICTED = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])


def test_a_golden_case() -> None:
    scores = presence_scores(PREDICTED, TRUTH)
    assert scores.precision[:2] == pytest.approx((2 / 3, 1))
    assert scores.recall[:2] == pytest.approx((2 / 3, 2 / 3))
    assert scores.f1[:2] == pytest.approx((2 / 3, 4 / 5))
    assert scores.mean_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores.exact_match == pytest.approx(1 / 4)
    assert scores.num_images == 4


def test_a_class_neither_there_nor_predicted_is_undefined() -> None:
    scores = presence_scores(PREDICTED, TRUTH)
    assert math.isnan(scores.f1[2])
    tree = json.loads(json.dumps(scores.to_json(["a", "b", "c"]), allow_nan=False))
    assert tree["classes"]["c"] == {"f1": None, "precision": None, "recall": None}
    nothing = presence_scores(np.zeros((2, 1)), np.zeros((2, 1)))
    assert math.isnan(nothing.mean_f1)
    assert nothing.exact_match == 1


def test_a_class_predicted_where_it_never_is_scores_0() -> None:
    scores = presence_scores(np.array([[1], [0]]), np.array([[0], [0]]))
    assert (scores.f1[0], scores.precision[0]) == (0, 0)
    assert math.isnan(scores.recall[0])


@given(arrays(np.int64, (9, 4), elements=st.integers(0, 1)), arrays(np.int64, (9, 4), elements=st.integers(0, 1)))
@settings(max_examples=25, deadline=None)
def test_it_agrees_with_torchmetrics_and_scikit_learn(predicted: np.ndarray, truth: np.ndarray) -> None:
    scores = presence_scores(predicted.astype(bool), truth)
    tensors = torch.from_numpy(predicted), torch.from_numpy(truth)
    twin = multilabel_f1_score(*tensors, num_labels=4, average="none").numpy()
    assert np.nan_to_num(scores.f1) == pytest.approx(twin.astype(float), abs=1e-6)
    assert scores.exact_match == pytest.approx(float(multilabel_exact_match(*tensors, num_labels=4)))
    assert scores.exact_match == pytest.approx(accuracy_score(truth, predicted))


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "must be"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "must be"),
        (np.full((2, 2), 0.7), np.zeros((2, 2)), "Apply thresholds"),
    ],
)
def test_what_is_no_presence_is_refused(predicted: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        presence_scores(predicted, truth)


def test_the_classes_of_a_mask_are_those_that_cover_enough() -> None:
    mask = np.array([[0, 0, 0, 0, 2], [255, 255, 255, 255, 255]])
    assert classes_in(mask, 3) == (1, 0, 1)
    assert classes_in(mask, 3, min_share=0.4) == (1, 0, 0)
    assert classes_in(mask, 3, min_share=0.41) == (0, 0, 0)
