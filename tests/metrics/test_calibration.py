import json
from itertools import pairwise

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torchmetrics.functional.classification import binary_calibration_error

from counterstain.errors import InputError, UnknownNameError
from counterstain.metrics import (
    BootstrapSettings,
    brier,
    calibrated,
    calibration_scores,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    reliability,
)


def made(num: int = 400, temperature: float = 2.5, bias: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too sure by a known factor, and labels drawn from the probabilities they should have had."""
    rng = np.random.default_rng(seed)
    right = 1.5 * rng.standard_normal(num)
    labels = rng.random(num) < calibrated(right)
    return temperature * (right - bias), labels.astype(int)


def test_the_temperature_that_spoilt_logits_is_found() -> None:
    logits, labels = made(20000)
    assert fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.05)


def test_it_is_the_slope_of_a_logistic_regression_through_the_origin() -> None:
    logits, labels = made()
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits[:, None], labels)
    assert fit_temperature(logits, labels, soften=False) == pytest.approx(1 / regression.coef_[0, 0], rel=1e-4)


def test_softened_labels_agree_with_a_regression_on_weighted_labels() -> None:
    """A target t is t parts of a positive slide and 1 - t of a negative one."""
    logits, labels = made(60, bias=1.0)
    num = labels.sum(), (1 - labels).sum()
    targets = np.where(labels == 1, (num[0] + 1) / (num[0] + 2), 1 / (num[1] + 2))
    twice, both = np.tile(logits, 2)[:, None], np.repeat([1, 0], 60)
    weights = np.concatenate([targets, 1 - targets])
    through = LogisticRegression(C=np.inf, tol=1e-10, fit_intercept=False).fit(twice, both, weights)
    assert fit_temperature(logits, labels) == pytest.approx(1 / through.coef_[0, 0], rel=1e-4)


def test_slides_told_apart_without_a_mistake_do_not_become_certain() -> None:
    logits, labels = np.array([-3.0, -2, -1, 1, 2, 3]), np.array([0, 0, 0, 1, 1, 1])
    assert fit_temperature(logits, labels, soften=False) == 0.01
    assert calibrated(logits, fit_temperature(logits, labels)).max() < 0.95


def test_logits_that_speak_against_their_labels_make_probabilities_of_one_half() -> None:
    logits, labels = made()
    assert fit_temperature(-logits, labels) == 100
    assert abs(calibrated(-logits, 100.0) - 0.5).max() < 0.05


def test_a_temperature_changes_no_ranking() -> None:
    logits, _ = made()
    order = np.argsort(logits)
    assert (np.diff(calibrated(logits, 3.0)[order]) >= 0).all()
    assert calibrated([-800.0, 0.0, 800.0]).tolist() == [0, 0.5, 1]
    with pytest.raises(InputError, match="temperature of 0"):
        calibrated(logits, 0)


def test_what_can_t_be_calibrated_on_is_refused() -> None:
    with pytest.raises(InputError, match="3 positive and 0 negative"):
        fit_temperature([1, 2, 3], [1, 1, 1])
    with pytest.raises(InputError, match="not finite"):
        fit_temperature([1, np.inf, 3], [1, 0, 1])


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_losses_agree_with_scikit_learn(rows: list[tuple[float, bool]]) -> None:
    probability, labels = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], int)
    assert brier(probability, labels) == pytest.approx(((probability - labels) ** 2).mean())
    kept = np.clip(probability, 1e-12, 1 - 1e-12)
    assert log_loss(probability, labels) == pytest.approx(
        sklearn.metrics.log_loss(labels, kept, labels=[0, 1]), rel=1e-6
    )
    if len(set(labels.tolist())) == 2:
        assert brier(probability, labels) == pytest.approx(sklearn.metrics.brier_score_loss(labels, probability))


def slow_error(probability: np.ndarray, labels: np.ndarray, edges: np.ndarray) -> float:
    total = 0.0
    for number, (low, high) in enumerate(pairwise(edges)):
        is_last = number == len(edges) - 2
        inside = (probability >= low) & ((probability <= high) if is_last else (probability < high))
        if inside.any():
            total += inside.sum() / len(labels) * abs(labels[inside].mean() - probability[inside].mean())
    return total


def test_the_calibration_error_agrees_with_a_loop_over_bins_and_with_torchmetrics() -> None:
    import torch

    logits, labels = made(bias=0.5)
    probability = calibrated(logits)
    width = expected_calibration_error(probability, labels, 12)
    assert width == pytest.approx(slow_error(probability, labels, np.linspace(0, 1, 13)))
    third = binary_calibration_error(torch.tensor(probability), torch.tensor(labels), n_bins=12, norm="l1")
    assert width == pytest.approx(float(third), abs=1e-6)
    mass = expected_calibration_error(probability, labels, 12, "equal_mass")
    assert mass == pytest.approx(slow_error(probability, labels, np.quantile(probability, np.linspace(0, 1, 13))))


def test_the_calibration_error_of_the_base_rate_is_zero() -> None:
    labels = np.array([1, 0, 0, 0])
    for binning in ("equal_width", "equal_mass"):
        assert expected_calibration_error(np.full(4, 0.25), labels, 10, binning) == 0
    assert expected_calibration_error([1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1]) == 1


def test_bins_hold_every_slide_once() -> None:
    logits, labels = made(97)
    probability = np.append(calibrated(logits), [0.0, 1.0, 0.1])
    labels = np.append(labels, [0, 1, 1])
    for binning in ("equal_width", "equal_mass"):
        bins = reliability(probability, labels, 10, binning)
        assert sum(one.positives.num for one in bins) == 100
        assert sum(one.positives.num_hits for one in bins) == labels.sum()
        assert all(one.low <= one.mean_probability <= one.high for one in bins)
        error = sum(one.positives.num * abs(one.positives.estimate - one.mean_probability) for one in bins) / 100
        assert error == pytest.approx(expected_calibration_error(probability, labels, 10, binning))
    assert {one.positives.num for one in bins} == {10}


def test_scores_come_with_baselines_and_intervals_over_patients() -> None:
    logits, labels = made(120)
    patients = [f"P{number // 2}" for number in range(120)]
    before = calibration_scores(calibrated(logits), labels, patients, BootstrapSettings(num=200))
    after = calibration_scores(calibrated(logits, 2.5), labels, patients, BootstrapSettings(num=200))
    assert after.log_loss < before.log_loss
    assert after.error < before.error
    assert after.brier < after.base_rate_brier == pytest.approx(labels.mean() * (1 - labels.mean()))
    assert after.intervals["brier"].low < after.brier < after.intervals["brier"].high
    assert after.intervals["brier"].num_patients == 60
    assert after.error == pytest.approx(expected_calibration_error(calibrated(logits, 2.5), labels))
    tree = json.loads(json.dumps(after.to_json(), allow_nan=False))
    assert tree["brier"]["base_rate"] == pytest.approx(after.base_rate_brier)
    assert tree["num"] == 120
    alone = calibration_scores([0.2, 0.9], [0, 1], ["a", "a"])
    assert alone.to_json()["brier"]["interval"] is None


def test_the_interval_of_the_calibration_error_agrees_with_collecting_slides() -> None:
    from counterstain.metrics import draw_weights

    logits, labels = made(50)
    probability, patients, choice = calibrated(logits), [str(one) for one in range(50)], BootstrapSettings(num=50)
    interval = calibration_scores(probability, labels, patients, choice).intervals["error"]
    slow = []
    for times in draw_weights(patients, choice).astype(int):
        rows = np.repeat(np.arange(50), times)
        slow.append(expected_calibration_error(probability[rows], labels[rows]))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(InputError, match="not logits"):
        brier([-1.0, 2.0], [0, 1])
    with pytest.raises(InputError, match="none at all"):
        log_loss([], [])
    with pytest.raises(UnknownNameError, match="binning"):
        expected_calibration_error([0.5], [1], 10, "equal")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 bins"):
        reliability([0.5], [1], 0)
