import json
import math
from itertools import product

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from counterstain.errors import InputError
from counterstain.metrics import (
    BootstrapSettings,
    auprc,
    auprc_interval,
    auroc,
    auroc_interval,
    bootstrap_weights,
    clopper_pearson,
    delong_interval,
    delong_test,
    draw_weights,
    small_sample_notes,
)
from counterstain.metrics.ranking import weighted_auprc, weighted_auroc


def made(num: int = 80, gap: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 5 < 2
    return np.round(rng.standard_normal(num) + gap * labels, 1), labels.astype(int)


ROWS = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=40)


@given(ROWS)
@settings(max_examples=80, deadline=None)
def test_areas_agree_with_scikit_learn_and_with_the_rank_sum(rows: list[tuple[int, bool]]) -> None:
    scores, labels = (np.array(column, int) for column in zip(*rows, strict=True))
    if labels.any():
        assert auprc(scores, labels) == pytest.approx(sklearn.metrics.average_precision_score(labels, scores))
    if len(set(labels.tolist())) < 2:
        assert math.isnan(auroc(scores, labels))
        return
    assert auroc(scores, labels) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))
    sums = mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    assert auroc(scores, labels) == pytest.approx(sums / (labels.sum() * (1 - labels).sum()))


@given(ROWS, st.lists(st.integers(0, 3), min_size=40, max_size=40))
@settings(max_examples=60, deadline=None)
def test_a_slide_drawn_twice_counts_twice(rows: list[tuple[int, bool]], times: list[int]) -> None:
    scores, labels = (np.array(column, int) for column in zip(*rows, strict=True))
    drawn = np.array(times[: len(scores)])
    repeated = np.repeat(scores, drawn), np.repeat(labels, drawn)
    for weighted, plain in ((weighted_auroc, auroc), (weighted_auprc, auprc)):
        found = weighted(scores.astype(float), labels, drawn[None].astype(float))[0]
        wanted = plain(*repeated) if len(repeated[0]) else math.nan
        assert found == pytest.approx(wanted, nan_ok=True)


def test_infinite_scores_rank_as_any_other() -> None:
    assert auroc([-math.inf, 0, math.inf], [0, 1, 1]) == 1
    with pytest.raises(InputError, match="NaN"):
        auroc([math.nan, 0, 1], [0, 1, 1])


def slow_covariance(methods: list[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """DeLong's covariance from every pair of a positive and a negative slide."""
    means = []
    for scores in methods:
        pairs = np.array(
            [
                [1.0 if above > below else 0.5 if above == below else 0.0 for below in scores[labels == 0]]
                for above in scores[labels == 1]
            ]
        )
        means.append((pairs.mean(1), pairs.mean(0)))
    covariance = np.zeros((len(methods), len(methods)))
    for one, other in product(range(len(methods)), repeat=2):
        for part in (0, 1):
            first, second = means[one][part], means[other][part]
            covariance[one, other] += ((first - first.mean()) * (second - second.mean())).sum() / (
                (len(first) - 1) * len(first)
            )
    return covariance


def test_delong_agrees_with_all_pairs() -> None:
    first, labels = made()
    second = np.round(first + np.random.default_rng(1).standard_normal(len(first)), 1)
    covariance = slow_covariance([first, second], labels)
    found = delong_interval(first, labels)
    assert found.standard_error == pytest.approx(math.sqrt(covariance[0, 0]))
    area = auroc(first, labels)
    logit, error = math.log(area / (1 - area)), found.standard_error / (area * (1 - area))
    wanted = [1 / (1 + math.exp(-(logit + sign * 1.959963985 * error))) for sign in (-1, 1)]
    assert (found.low, found.high) == pytest.approx(tuple(wanted))
    test = delong_test(first, second, labels)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert test.difference == pytest.approx(auroc(first, labels) - auroc(second, labels))
    assert test.high - test.low == pytest.approx(2 * 1.959963985 * error)
    assert test.p_value == pytest.approx(math.erfc(abs(test.difference) / error / math.sqrt(2)))


def test_delong_s_error_of_three_against_three_worked_by_hand() -> None:
    """Positives 1, 3, 5 beat 1, 2, 3 of the negatives 0, 2, 4; negatives lie below 3, 2, 1 positives: variances 1/9."""
    found = delong_interval([1, 3, 5, 0, 2, 4], [1, 1, 1, 0, 0, 0])
    assert found.estimate == pytest.approx(6 / 9)
    assert found.standard_error == pytest.approx(math.sqrt(1 / 27 + 1 / 27))


def test_delong_s_interval_holds_the_true_area_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [40, 30])
    truth = 0.5 * math.erfc(-1 / 2)  # of two normal distributions one apart
    inside = []
    for _ in range(400):
        found = delong_interval(rng.standard_normal(70) + labels, labels)
        inside.append(found.low <= truth <= found.high)
    assert 0.92 < np.mean(inside) < 0.98


def test_a_perfect_ranking_of_few_slides_is_not_certain() -> None:
    scores, labels = np.arange(12.0), np.repeat([0, 1], [7, 5])
    found = delong_interval(scores, labels)
    assert (found.estimate, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(clopper_pearson(5, 5).low)
    reversed_ = delong_interval(-scores, labels)
    assert (reversed_.low, reversed_.high) == pytest.approx((0.0, 1 - found.low))


def test_an_interval_that_can_t_be_given_is_null_in_json() -> None:
    found = delong_interval([0.1, 0.4, 0.8], [0, 0, 1])
    tree = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (tree["estimate"], tree["low"], tree["standard_error"]) == (1.0, None, None)
    with pytest.raises(InputError, match="level of 1"):
        delong_interval([0, 1], [0, 1], level=1)


def test_methods_that_rank_alike_do_not_differ() -> None:
    scores, labels = made()
    same = delong_test(scores, 3 * scores + 1, labels)
    assert (same.difference, same.p_value, same.low) == (0, 1, 0)
    perfect = delong_test(labels, 1 - labels, labels)
    assert perfect.difference == 1
    assert math.isnan(perfect.p_value)
    assert perfect.to_json()["p_value"] is None
    with pytest.raises(InputError, match="two of each"):
        delong_test([1, 2, 3], [1, 2, 3], [0, 0, 1])


def test_the_paired_test_calls_equal_methods_different_as_rarely_as_it_says() -> None:
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1], [50, 40])
    p_values = []
    for _ in range(400):
        slide = rng.standard_normal(90) + labels
        first, second = (slide + 0.7 * rng.standard_normal(90) for _ in range(2))
        p_values.append(delong_test(first, second, labels).p_value)
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.085


def test_resampled_areas_agree_with_collecting_slides() -> None:
    scores, labels = made(40)
    patients = [f"P{number // 2}" for number in range(40)]
    choice = BootstrapSettings(num=100, seed=3)
    weights = draw_weights(patients, choice, labels.tolist())
    for interval, metric in (
        (auroc_interval(scores, labels, patients, choice), sklearn.metrics.roc_auc_score),
        (auprc_interval(scores, labels, patients, choice), sklearn.metrics.average_precision_score),
    ):
        slow = []
        for times in weights.astype(int):
            rows = np.repeat(np.arange(40), times)
            slow.append(metric(labels[rows], scores[rows]))
        assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
        assert interval.estimate == pytest.approx(metric(labels, scores))
        assert interval.num_patients == 20


def test_patients_are_drawn_whole_and_within_their_class() -> None:
    patients = ["a", "a", "b", "c", "c", "d", "e"]
    labels = [1, 1, 1, 0, 1, 0, 0]  # c has slides of both: a stratum of its own
    weights = draw_weights(patients, BootstrapSettings(num=200), labels)
    assert weights.shape == (200, 7)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == 1).all()
    assert (weights[:, [0, 2]].sum(1) == 2).all()
    assert (weights[:, [5, 6]].sum(1) == 2).all()
    assert len(np.unique(weights[:, 0])) == 3
    free = draw_weights(patients, BootstrapSettings(num=200))
    assert (free[:, [0, 2, 3, 5, 6]].sum(1) == 5).all()
    assert free[:, 3].max() > 1


def test_more_slides_of_one_patient_make_no_narrower_interval() -> None:
    scores, labels = made(60)
    patients = [f"P{number}" for number in range(60)]
    once = auroc_interval(scores, labels, patients)
    thrice = auroc_interval(np.tile(scores, 3), np.tile(labels, 3), patients * 3)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    naive = delong_interval(np.tile(scores, 3), np.tile(labels, 3))
    assert naive.high - naive.low < 0.7 * (thrice.high - thrice.low)


def test_the_bootstrap_of_slides_lies_near_delong() -> None:
    scores, labels = made(300)
    found = auroc_interval(scores, labels, [str(number) for number in range(300)])
    wanted = delong_interval(scores, labels)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.015)


def test_weights_need_patients_and_strata_that_fit() -> None:
    with pytest.raises(InputError, match="at least two"):
        draw_weights(["a", "a"])
    with pytest.raises(InputError, match="1 strata"):
        draw_weights(["a", "b"], strata=[1])
    lonely = bootstrap_weights(lambda drawn: np.full(len(drawn), np.nan), ["a", "b"])
    assert math.isnan(lonely.low)
    assert lonely.num_resamples == 0


def test_few_slides_are_said_to_be_few() -> None:
    assert small_sample_notes(30, 400) == ()
    (few,) = small_sample_notes(12, 40)
    assert "Only 12 positive slides" in few
    assert "8 points" in few
    assert "no negative slide" in small_sample_notes(50, 0)[0]
    assert "1 negative slide (" in small_sample_notes(50, 1)[0]
