import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from counterstain.errors import InputError
from counterstain.metrics import (
    BootstrapSettings,
    TumourScores,
    bootstrap,
    bootstrap_difference,
    confusion,
    f1_mix,
    f1_negatives,
    f1_positives,
    image_f1,
    image_iou,
    iou_positives,
    one_class,
    summed_mean,
)

IGNORE = 2


def matrices(labels: list[np.ndarray], truths: list[np.ndarray]) -> np.ndarray:
    return np.array([confusion(label, truth, 2, IGNORE) for label, truth in zip(labels, truths, strict=True)])


def one(hits: int, false: int, missed: int, spared: int, ignored: int = 0) -> np.ndarray:
    """An image's matrix, tumour being class 1; what is predicted on ignored pixels is tumour."""
    return np.array([[spared, false, 0], [missed, hits, 0], [0, ignored, 0]])


@given(
    arrays(np.uint8, (6, 5, 4), elements=st.integers(0, 1)),
    arrays(np.uint8, (6, 5, 4), elements=st.integers(0, 2)),
    st.sampled_from([0, 1]),
)
@settings(max_examples=60, deadline=None)
def test_images_and_pools_are_scored_as_scikit_learn_scores_them(
    labels: np.ndarray, truths: np.ndarray, positive: int
) -> None:
    truths[-2:] = np.where(truths[-2:] == positive, 1 - positive, truths[-2:])  # two negatives at least
    truths[:, 0, 0] = 1 - positive
    confusions = matrices(list(labels), list(truths))
    f1, iou = [], []
    for label, truth in zip(labels, truths, strict=True):
        truth, label = truth[truth != IGNORE], label[truth != IGNORE]
        scored = positive if (truth == positive).any() else 1 - positive
        f1.append(f1_score(truth, label, pos_label=scored, zero_division=0))
        iou.append(jaccard_score(truth, label, pos_label=scored, zero_division=0))
    assert image_f1(confusions, positive) == pytest.approx(np.array(f1))
    assert image_iou(confusions, positive) == pytest.approx(np.array(iou))
    found = TumourScores.of(confusions, positive)
    assert found.f1_mix == pytest.approx(np.mean(f1))
    is_tumour = (truths == positive).reshape(6, -1).any(1)
    assert (found.num_positives, found.num_negatives) == (is_tumour.sum(), (~is_tumour).sum())
    assert found.f1_negatives == pytest.approx(np.mean(np.array(f1)[~is_tumour]))
    assert found.iou_negatives == pytest.approx(np.mean(np.array(iou)[~is_tumour]))
    if is_tumour.any():
        assert found.f1_positives == pytest.approx(np.mean(np.array(f1)[is_tumour]))
        assert found.iou_positives == pytest.approx(np.mean(np.array(iou)[is_tumour]))
        pool = truths[truths != IGNORE] == positive, labels[truths != IGNORE] == positive
        assert found.recall == pytest.approx(recall_score(*pool))
        assert found.f1 == pytest.approx(f1_score(*pool, zero_division=0))
        assert found.iou == pytest.approx(jaccard_score(*pool, zero_division=0))
        if pool[1].any():
            assert found.precision == pytest.approx(precision_score(*pool))


@pytest.mark.parametrize("false", [0, 1, 10, 50, 99, 100])
def test_a_negative_s_f1_follows_from_its_share_of_false_tumour(false: int) -> None:
    phi = false / 100
    (found,) = image_f1(np.array([one(0, false, 0, 100 - false)]), 1)
    assert found == pytest.approx(2 * (1 - phi) / (2 - phi))


def test_the_headline_is_the_mix_of_its_two_halves() -> None:
    """Worked by hand: F1 of 0.5 and 1 on two positives, 18/19 on a negative with a tenth called tumour."""
    confusions = np.array([one(10, 20, 0, 70), one(50, 0, 0, 50), one(0, 10, 0, 90)])
    found = TumourScores.of(confusions, 1)
    assert found.f1_positives == pytest.approx((0.5 + 1) / 2)
    assert found.f1_negatives == pytest.approx(18 / 19)
    assert found.f1_mix == pytest.approx((0.5 + 1 + 18 / 19) / 3)
    assert found.f1_mix == pytest.approx((2 * found.f1_positives + found.f1_negatives) / 3)
    assert (found.precision, found.recall) == (pytest.approx(60 / 90), 1)
    # the same maps on a set of other proportions make another headline of the same halves
    more = TumourScores.of(confusions[[0, 1, 2, 2, 2, 2]], 1)
    assert (more.f1_positives, more.f1_negatives) == (found.f1_positives, pytest.approx(found.f1_negatives))
    assert more.f1_mix > found.f1_mix


def test_tumour_everywhere_finds_all_and_spares_nothing() -> None:
    confusions = np.array([one(1, 0, 9, 90), one(0, 3, 0, 97)])
    found = TumourScores.of(one_class(confusions, 1), 1)
    assert found.f1_positives == pytest.approx(2 * 0.1 / 1.1)
    assert (found.f1_negatives, found.recall, found.precision) == (0, 1, pytest.approx(10 / 200))


def test_pixels_without_a_predicted_class_are_no_tumour() -> None:
    truth = np.array([[1, 1, 0, 0]])
    undecided, normal = np.array([[1, 7, 7, 7]]), np.array([[1, 0, 0, 0]])
    one_way, other = (TumourScores.of(matrices([label], [truth]), 1) for label in (undecided, normal))
    assert one_way.to_json() == other.to_json()


def test_an_image_that_is_ignored_everywhere_is_neither_positive_nor_negative() -> None:
    confusions = np.array([one(5, 5, 0, 0), one(0, 0, 0, 0, ignored=10)])
    found = TumourScores.of(confusions, 1)
    assert (found.num_positives, found.num_negatives) == (1, 0)
    assert found.f1_mix == found.f1_positives == pytest.approx(2 / 3)
    assert math.isnan(found.f1_negatives)
    with pytest.raises(InputError, match="ignored everywhere"):
        TumourScores.of(confusions[1:], 1)


def test_strata_hold_every_positive_once_and_their_upper_edge() -> None:
    shares = (1, 2, 3, 10, 30, 31, 60, 100)
    confusions = np.array([one(share, 0, 0, 100 - share) for share in shares] + [one(0, 0, 0, 100)])
    strata = TumourScores.of(confusions, 1).strata
    assert [stratum.num_images for stratum in strata] == [2, 2, 1, 2, 1]
    assert (strata[0].above, strata[0].up_to, strata[-1].up_to) == (0, 0.02, 1)
    halves = TumourScores.of(np.array([one(1, 0, 1, 98), one(60, 0, 0, 40)]), 1, (0, 0.5, 1)).strata
    assert [stratum.f1 for stratum in halves] == [pytest.approx(2 / 3), 1]
    assert [stratum.iou for stratum in halves] == [0.5, 1]
    for edges in ((0, 0.5), (0.1, 1), (0, 0.5, 0.5, 1), (0, 0.6, 0.3, 1), (0,)):
        with pytest.raises(InputError, match="rising from 0 to 1"):
            TumourScores.of(confusions, 1, edges)


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 4, st.integers(0, 2)), min_size=3, max_size=9))
@settings(max_examples=40, deadline=None)
def test_sums_over_patients_give_the_mean_over_images(rows: list[tuple[int, ...]]) -> None:
    confusions = np.array([one(*row[:4]) for row in [(1, 2, 3, 4), *(row[:4] for row in rows)]])
    patients = np.array([0, *(row[4] for row in rows)])
    values, is_positive = image_f1(confusions, 1), confusions[:, 1].sum(1) > 0
    for counts, expected in (
        (f1_positives(confusions, 1), values[is_positive]),
        (f1_negatives(confusions, 1), values[~is_positive]),
        (f1_mix(confusions, 1), values),
    ):
        sums = np.array([counts[patients == patient].sum(0) for patient in range(3)])
        defined = expected[~np.isnan(expected)]
        mean = defined.mean() if len(defined) else np.nan
        assert float(summed_mean(sums.sum(0))) == pytest.approx(mean, nan_ok=True)


def test_intervals_resample_patients_and_pairs_differ_by_less_than_each_varies() -> None:
    rng = np.random.default_rng(0)
    own = [rng.integers(20, 90) for _ in range(8) for _ in range(5)]  # a patient's five images: some patients are hard
    hard = np.repeat(rng.integers(0, 20, 8), 5)
    worse = np.array([one(hits - lost, 5, 10 + lost, 100) for hits, lost in zip(own, hard, strict=True)])
    better = np.array([one(hits - lost + 1, 5, 9 + lost, 100) for hits, lost in zip(own, hard, strict=True)])
    patients = [f"p{index // 5}" for index in range(40)]
    counts = [f1_positives(one_of, 1) for one_of in (better, worse)]
    rules = BootstrapSettings(num=300)
    single = bootstrap(counts[0], patients, summed_mean, rules)
    assert single.estimate == pytest.approx(image_f1(better, 1).mean())
    assert single.num_patients == 8
    pair = bootstrap_difference(counts[0], counts[1], patients, summed_mean, rules)
    assert pair.estimate == pytest.approx(image_f1(better, 1).mean() - image_f1(worse, 1).mean())
    assert 0 < pair.low < pair.high
    assert pair.high - pair.low < (single.high - single.low) / 2


def test_no_positives_make_no_number() -> None:
    confusions = np.array([one(0, 10, 0, 90), one(0, 0, 0, 100)])
    tree = json.loads(json.dumps(TumourScores.of(confusions, 1).to_json(), allow_nan=False))
    assert (tree["f1_positives"], tree["iou_positives"], tree["recall"]) == (None, None, None)
    assert tree["f1"] == 0  # what was called tumour is none
    assert tree["strata"][0] == {"above": 0.0, "up_to": 0.02, "num_images": 0, "f1": None, "iou": None}
    assert math.isnan(float(summed_mean(iou_positives(confusions, 1).sum(0))))


def test_other_than_two_classes_are_refused() -> None:
    with pytest.raises(InputError, match="two classes"):
        TumourScores.of(np.zeros((1, 4, 4), int), 1)
    with pytest.raises(InputError, match="counted from 0"):
        TumourScores.of(np.array([one(1, 1, 1, 1)]), 2)
