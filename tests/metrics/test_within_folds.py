import numpy as np
import pytest

from counterstain.errors import InputError
from counterstain.metrics.intervals import BootstrapSettings
from counterstain.metrics.within_folds import within_fold_auroc, within_fold_difference, within_fold_interval

LABELS = np.array([0, 1, 0, 1, 1, 0, 0, 1])
FOLDS = ["a", "a", "a", "a", "b", "b", "b", "b"]
PATIENTS = [f"p{number}" for number in range(8)]


def test_only_pairs_of_one_fold_are_compared() -> None:
    scores = np.array([0.0, 1.0, 0.5, 0.4, 101.0, 100.0, 102.0, 103.0])  # the second model's scale is another
    # fold a: (1 > 0), (1 > .5), (.4 > 0), (.4 < .5); fold b: (101 > 100), (101 < 102), (103 > 100), (103 > 102)
    assert within_fold_auroc(scores, LABELS, FOLDS)(np.ones((1, 8)))[0] == pytest.approx(6 / 8)


def test_weights_count_a_slide_as_often_as_it_was_drawn() -> None:
    rng = np.random.default_rng(0)
    scores, weights = rng.random(8), rng.integers(0, 4, 8)
    drawn = np.repeat(np.arange(8), weights)
    folds = [FOLDS[one] for one in drawn]
    twin = within_fold_auroc(scores[drawn], LABELS[drawn], folds)(np.ones((1, len(drawn))))[0]
    assert within_fold_auroc(scores, LABELS, FOLDS)(weights[None].astype(float))[0] == pytest.approx(twin)


def test_ties_count_half_and_a_scale_of_its_own_for_each_fold_changes_nothing() -> None:
    statistic = within_fold_auroc(np.zeros(8), LABELS, FOLDS)
    assert statistic(np.ones((1, 8)))[0] == 0.5
    scores = np.random.default_rng(1).random(8)
    scaled = scores * np.repeat([1.0, 50.0], 4) + np.repeat([0.0, -7.0], 4)
    both = [within_fold_auroc(one, LABELS, FOLDS)(np.ones((1, 8)))[0] for one in (scores, scaled)]
    assert both[0] == both[1]


def test_a_draw_without_pairs_is_undefined() -> None:
    weights = np.zeros((1, 8))
    weights[0, 0] = 1
    assert np.isnan(within_fold_auroc(np.arange(8.0), LABELS, FOLDS)(weights)[0])


def test_the_difference_of_a_method_to_itself_is_exactly_nothing() -> None:
    scores = np.random.default_rng(2).random(8)
    interval = within_fold_difference(scores, scores, LABELS, FOLDS, PATIENTS, BootstrapSettings(num=50))
    assert (interval.estimate, interval.low, interval.high) == (0, 0, 0)


def test_the_interval_holds_its_estimate_and_is_wide_for_few_patients() -> None:
    scores = np.array([0.0, 1.0, 0.5, 0.4, 101.0, 100.0, 102.0, 103.0])
    interval = within_fold_interval(scores, LABELS, FOLDS, PATIENTS, BootstrapSettings(num=200))
    assert interval.estimate == pytest.approx(0.75)
    assert interval.low <= interval.estimate <= interval.high
    assert interval.high - interval.low > 0.2


def test_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="go together"):
        within_fold_interval(np.zeros(7), LABELS, FOLDS, PATIENTS)
