import json
import math

import numpy as np
import pytest

from counterstain.errors import InputError
from counterstain.metrics import (
    ConformalScores,
    clopper_pearson,
    conformal_thresholds,
    decide,
    prediction_sets,
    selective_risk,
)


def made(num: int, seed: int, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random(num) < share
    return 1 / (1 + np.exp(-(rng.standard_normal(num) + 2 * labels - 1))), labels.astype(int)


def test_thresholds_are_finite_ranks_worked_by_hand() -> None:
    """Nine slides a class at an error of 0.1: rank ceil(10 x 0.9) = 9, the worst of them."""
    negatives, positives = np.arange(1, 10) / 20, 1 - np.arange(1, 10) / 50
    probability, labels = np.concatenate([negatives, positives]), np.repeat([0, 1], 9)
    assert conformal_thresholds(probability, labels, 0.1) == pytest.approx((9 / 20, 9 / 50))
    assert conformal_thresholds(probability, labels, 0.2) == pytest.approx((8 / 20, 8 / 50))
    assert conformal_thresholds(probability, labels, 0.5) == pytest.approx((5 / 20, 5 / 50))


@pytest.mark.parametrize(("error", "least"), [(0.1, 9), (0.05, 19), (0.2, 4), (0.01, 99)])
def test_too_few_slides_never_rule_a_class_out(error: float, least: int) -> None:
    for num, is_finite in ((least - 1, False), (least, True)):
        probability, labels = np.linspace(0, 0.4, num + 1), np.repeat([0, 1], [num, 1])
        negative, positive = conformal_thresholds(probability, labels, error)
        assert math.isfinite(negative) == is_finite
        assert positive == math.inf
    sets = prediction_sets([0.0, 0.5, 1.0], (0.3, math.inf))
    assert sets[:, 1].all()
    assert sets[:, 0].tolist() == [True, False, False]


def test_slides_set_aside_lie_in_their_own_sets_as_often_as_promised() -> None:
    probability, labels = made(300, 0)
    thresholds = conformal_thresholds(probability, labels, 0.1)
    scores = ConformalScores.of(prediction_sets(probability, thresholds), labels)
    assert scores.coverage_negative.estimate >= 0.9
    assert scores.coverage_positive.estimate >= 0.9


@pytest.mark.parametrize("num", [40, 150])
def test_each_class_is_covered_as_promised_on_new_slides(num: int) -> None:
    """Averaged over draws of the slides set aside; by exchangeability at least 1 - error, at most 1 / (n + 1) more."""
    covered: dict[int, list[float]] = {0: [], 1: []}
    for seed in range(300):
        probability, labels = made(num, seed, 0.5)
        new, new_labels = made(100, 10_000 + seed, 0.2)  # another share of positives breaks no promise of a class
        sets = prediction_sets(new, conformal_thresholds(probability, labels, 0.2))
        for label in (0, 1):
            covered[label].append(sets[new_labels == label, label].mean())
    for label in (0, 1):
        assert 0.785 < np.mean(covered[label]) < 0.80 + 1 / (0.4 * num) + 0.015


def test_a_method_decides_where_one_class_is_left() -> None:
    sets = np.array([[True, False], [False, True], [True, True], [False, False]])
    assert decide(sets).tolist() == [0, 1, -1, -1]


def test_scores_count_sets_worked_by_hand() -> None:
    sets = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 0], [0, 1]], bool)
    scores = ConformalScores.of(sets, [0, 1, 1, 1, 0, 0])
    assert scores.coverage_negative == clopper_pearson(1, 3)
    assert scores.coverage_positive == clopper_pearson(2, 3)
    assert scores.abstention == clopper_pearson(2, 6)
    assert scores.error_of_decided == clopper_pearson(2, 4)
    assert (scores.both.num_hits, scores.neither.num_hits) == (1, 1)
    nothing = ConformalScores.of(np.ones((2, 2), bool), [1, 1])
    tree = json.loads(json.dumps(nothing.to_json(), allow_nan=False))
    assert tree["error_of_decided"]["estimate"] is None
    assert tree["abstention"]["estimate"] == 1


def test_risk_against_coverage_worked_by_hand() -> None:
    curve = selective_risk([0.9, 0.8, 0.8, 0.6], [0, 1, 0, 1])
    assert curve.coverage.tolist() == [0.25, 0.75, 1]
    assert curve.risk.tolist() == pytest.approx([0, 1 / 3, 1 / 2])
    assert curve.area == pytest.approx(0.25 * 0 + 0.5 / 3 + 0.25 / 2)
    same = selective_risk([0.5] * 4, [0, 1, 0, 1])
    assert (same.area, same.to_json()["random_order"]) == (0.5, 0.5)


def test_what_no_promise_can_be_made_of_is_refused() -> None:
    with pytest.raises(InputError, match="error of 1"):
        conformal_thresholds([0.5], [1], 1.0)
    with pytest.raises(InputError, match="not logits"):
        conformal_thresholds([3.0], [1], 0.1)
    with pytest.raises(InputError, match=r"\(slides, 2\)"):
        ConformalScores.of(np.ones((3, 3), bool), [0, 1, 1])
    with pytest.raises(InputError, match="one of each"):
        ConformalScores.of(np.ones((3, 2), bool), [0, 1])
    with pytest.raises(InputError, match="No slide"):
        selective_risk([], [])
