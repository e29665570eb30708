import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterstain.errors import InputError
from counterstain.metrics import (
    BootstrapSettings,
    bootstrap,
    bootstrap_difference,
    mean_boundary_iou,
    mean_iou,
    per_patient,
)


def make(seed: int, images: int = 60, quality: float = 0.7) -> np.ndarray:
    """Matrices of images whose predictions are right with a probability that varies from image to image."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((images, 4, 4), np.int64)
    for image in range(images):
        right = np.clip(quality + 0.15 * rng.standard_normal(), 0.05, 0.95)
        for true in range(3):
            shares = np.full(3, (1 - right) / 2)
            shares[true] = right
            counts[image, true, :3] = rng.multinomial(rng.integers(20, 200), shares)
    return counts


PATIENTS = [f"P{number // 3}" for number in range(60)]


def test_sums_of_patients_are_sums_of_their_images() -> None:
    counts = make(0)
    order = np.random.default_rng(0).permutation(60)
    sums = per_patient(counts[order], [PATIENTS[place] for place in order])
    assert sums.shape == (20, 4, 4)
    assert np.array_equal(sums[sorted({*PATIENTS}).index("P7")], counts[21:24].sum(0))


def test_it_agrees_with_collecting_the_images_of_each_resample() -> None:
    counts, groups = make(1), np.array(PATIENTS)
    interval = bootstrap(counts, PATIENTS, mean_iou, BootstrapSettings(num=200, seed=1))
    names = np.unique(groups)
    slow = []
    for times in np.random.default_rng(1).multinomial(len(names), np.full(len(names), 1 / len(names)), 200):
        drawn = np.repeat(names, times)
        rows = np.concatenate([np.flatnonzero(groups == name) for name in drawn])
        slow.append(float(mean_iou(counts[rows].sum(0))))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_estimate_lies_in_its_interval(seed: int) -> None:
    interval = bootstrap(make(seed), PATIENTS, mean_iou, BootstrapSettings(num=300, seed=seed))
    assert interval.low < interval.estimate < interval.high
    assert interval.estimate == pytest.approx(float(mean_iou(make(seed).sum(0))))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth = float(mean_iou(make(12345, 6000).sum(0)))
    patients = [str(number) for number in range(60)]
    hits = 0
    for seed in range(100):
        interval = bootstrap(make(seed), patients, mean_iou, BootstrapSettings(num=200, level=0.9))
        hits += interval.low <= truth <= interval.high
    assert 80 <= hits <= 98


def test_the_same_seed_gives_the_same_interval() -> None:
    first, again = (bootstrap(make(0), PATIENTS, mean_iou, BootstrapSettings(seed=4)) for _ in range(2))
    assert first == again
    assert first != bootstrap(make(0), PATIENTS, mean_iou, BootstrapSettings(seed=5))


def test_patients_of_many_alike_images_widen_the_interval() -> None:
    """Ten copies of each image say nothing new: only an interval over patients knows it."""
    counts = make(0)
    copies = np.repeat(counts, 10, axis=0)
    by_patient = bootstrap(copies, [str(n // 10) for n in range(600)], mean_iou)
    by_image = bootstrap(copies, [str(n) for n in range(600)], mean_iou)
    alone = bootstrap(counts, [str(n) for n in range(60)], mean_iou)
    assert by_patient.high - by_patient.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert by_image.high - by_image.low < 0.5 * (by_patient.high - by_patient.low)


def test_a_higher_level_gives_a_wider_interval() -> None:
    narrow, wide = (bootstrap(make(0), PATIENTS, mean_iou, BootstrapSettings(level=level)) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_pair_is_compared_on_the_same_resamples() -> None:
    good, poor = make(3, quality=0.75), make(4, quality=0.6)
    difference = bootstrap_difference(good, poor, PATIENTS, mean_iou)
    assert difference.estimate == pytest.approx(float(mean_iou(good.sum(0)) - mean_iou(poor.sum(0))))
    assert 0 < difference.low < difference.estimate < difference.high
    assert difference.above_zero == 1.0
    same = bootstrap_difference(good, good, PATIENTS, mean_iou)
    assert (same.low, same.estimate, same.high, same.above_zero) == (0, 0, 0, 0)


def test_a_pair_that_errs_alike_has_a_narrower_difference_than_its_parts() -> None:
    counts = make(5)
    better = counts.copy()
    better[:, 0, 0] += better[:, 0, 1]
    better[:, 0, 1] = 0
    difference = bootstrap_difference(better, counts, PATIENTS, mean_iou)
    alone = bootstrap(counts, PATIENTS, mean_iou)
    assert difference.high - difference.low < 0.6 * (alone.high - alone.low)


def test_other_counts_do_as_well() -> None:
    counts = np.random.default_rng(0).integers(1, 50, (60, 3, 2))
    counts[..., 1] += 50
    interval = bootstrap(counts, PATIENTS, mean_boundary_iou)
    assert interval.low < interval.estimate < interval.high
    assert bootstrap_difference(counts, counts, PATIENTS, mean_boundary_iou).estimate == 0


def test_many_patients_are_resampled_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap(make(0), PATIENTS, mean_iou)
    monkeypatch.setattr("counterstain.metrics.intervals._AT_ONCE", 7 * 20)
    pieces = bootstrap(make(0), PATIENTS, mean_iou)
    assert (pieces.low, pieces.high) == pytest.approx((whole.low, whole.high))


def test_resamples_without_any_class_are_left_out_and_counted() -> None:
    counts = np.zeros((2, 2, 2), np.int64)
    counts[0, 0, 0] = 5
    interval = bootstrap(counts, ["a", "b"], mean_iou)
    assert interval.low == interval.high == 1
    assert 600 < interval.num_resamples < 900  # three in four resamples hold patient a
    never = bootstrap(np.zeros((2, 2, 2), np.int64), ["a", "b"], mean_iou)
    assert math.isnan(never.low)
    assert json.loads(json.dumps(never.to_json(), allow_nan=False))["low"] is None
    paired = bootstrap_difference(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), ["a", "b"], mean_iou)
    assert paired.above_zero is not None
    assert math.isnan(paired.above_zero)


def test_an_interval_reads_as_percent() -> None:
    interval = bootstrap(make(0), PATIENTS, mean_iou)
    assert str(interval) == f"{100 * interval.estimate:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(InputError, match="59 patients were given for 60 images"):
        bootstrap(make(0), PATIENTS[:-1], mean_iou)
    with pytest.raises(InputError, match="at least two"):
        bootstrap(make(0), ["P"] * 60, mean_iou)
    with pytest.raises(InputError, match="the same images"):
        bootstrap_difference(make(0), make(0)[:-1], PATIENTS, mean_iou)
    for settings_ in ({"num": 0}, {"level": 1.0}):
        with pytest.raises(InputError, match="resamples at level"):
            BootstrapSettings(**settings_)
