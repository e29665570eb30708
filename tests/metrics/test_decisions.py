import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_curve

from counterstain.errors import InputError, UnknownNameError
from counterstain.metrics import DecisionCounts, choose_threshold, clopper_pearson, wilson

# Tables III, IV and V of the DSNet paper: accuracy in percent, then the columns headed precision and recall.
CAMELYON16 = {
    "without sparsity": (67.8, 0.209, 0.750),
    "without thumbnail": (60.9, 0.209, 0.450),
    "without MS": (59.1, 0.674, 0.467),
    "without CB": (66.0, 0.395, 0.515),
    "without spatial bottleneck": (60.0, 0.721, 0.477),
    "without Sa, without Ca": (67.0, 0.395, 0.586),
    "without Sa": (63.5, 0.349, 0.517),
    "without Ca": (65.3, 0.349, 0.556),
    "full": (69.6, 0.558, 0.600),
    "alpha 1": (67.8, 0.558, 0.571),
    "alpha 1 to 2": (67.0, 0.604, 0.553),
    "alpha 1 to 4": (68.7, 0.535, 0.590),
    "alpha 1 to 5": (67.0, 0.233, 0.714),
    "foreground only": (57.4, 0.302, 0.406),
    "background only": (58.3, 0.233, 0.400),
    "mixed": (67.0, 0.233, 0.667),
}
POSITIVES, NEGATIVES = 43, 72
COUNTS = {  # true and false positives, of 43 positive and 72 negative slides
    "without sparsity": (9, 3),
    "without thumbnail": (9, 11),
    "without MS": (29, 33),
    "without CB": (17, 16),
    "without spatial bottleneck": (31, 34),
    "without Sa, without Ca": (17, 12),
    "without Sa": (15, 14),
    "without Ca": (15, 12),
    "full": (24, 16),
    "alpha 1": (24, 18),
    "alpha 1 to 2": (26, 21),
    "alpha 1 to 4": (23, 16),
    "alpha 1 to 5": (10, 4),
    "foreground only": (13, 19),
    "background only": (10, 15),
    "mixed": (10, 5),
}
OTHER_ACCURACY = {"without CB": 63.5, "alpha 1 to 5": 67.8}  # what the counts give where the printed accuracy fits none
PRINTED_F1 = {
    "without sparsity": 0.327,
    "without thumbnail": 0.286,
    "without MS": 0.552,
    "without CB": 0.447,
    "without spatial bottleneck": 0.574,
    "without Sa, without Ca": 0.472,
    "without Sa": 0.417,
    "without Ca": 0.429,
    "full": 0.578,
    "foreground only": 0.347,
    "background only": 0.294,
    "mixed": 0.345,
}


def counts_of(row: str) -> DecisionCounts:
    hits, false = COUNTS[row]
    return DecisionCounts(hits, false, POSITIVES - hits, NEGATIVES - false)


@pytest.mark.parametrize("row", CAMELYON16)
def test_the_published_rows_have_precision_and_recall_under_each_other_s_heading(row: str) -> None:
    accuracy, headed_precision, headed_recall = CAMELYON16[row]
    counts = counts_of(row)
    assert counts.recall().estimate == pytest.approx(headed_precision, abs=1.01e-3)
    assert counts.precision().estimate == pytest.approx(headed_recall, abs=1.01e-3)
    assert 100 * counts.accuracy().estimate == pytest.approx(OTHER_ACCURACY.get(row, accuracy), abs=0.11)
    if row in PRINTED_F1:
        assert counts.f1().estimate == pytest.approx(PRINTED_F1[row], abs=1.01e-3)


def fitting(row: str, is_swapped: bool) -> list[tuple[int, int]]:
    """Every pair of true and false positives that gives all three printed numbers of a row."""
    accuracy, precision, recall = CAMELYON16[row]
    if is_swapped:
        precision, recall = recall, precision
    return [
        (hits, false)
        for hits in range(1, POSITIVES + 1)
        for false in range(NEGATIVES + 1)
        if abs(hits / POSITIVES - recall) < 1.01e-3
        and abs(hits / (hits + false) - precision) < 1.01e-3
        and abs(100 * (hits + NEGATIVES - false) / (POSITIVES + NEGATIVES) - accuracy) < 0.11
    ]


def test_whole_counts_explain_the_published_rows_only_with_columns_swapped() -> None:
    swapped = {row: fitting(row, is_swapped=True) for row in CAMELYON16}
    assert {row for row, found in swapped.items() if not found} == set(OTHER_ACCURACY)
    assert all(COUNTS[row] in found for row, found in swapped.items() if found)
    assert not [row for row in CAMELYON16 if fitting(row, is_swapped=False)]


def test_five_published_rows_do_worse_than_the_majority_class() -> None:
    majority = counts_of("full").majority()
    assert (majority.num_hits, majority.num) == (72, 115)
    assert 100 * majority.estimate == pytest.approx(62.6, abs=0.05)
    below = {row for row in CAMELYON16 if counts_of(row).accuracy().estimate < majority.estimate}
    assert below == {
        "without thumbnail",
        "without MS",
        "without spatial bottleneck",
        "foreground only",
        "background only",
    }


def test_the_full_network_s_printed_tcga_row_follows_from_its_counts() -> None:
    counts = DecisionCounts(50, 7, 0, 43)
    assert (counts.accuracy().estimate, counts.recall().estimate) == (0.93, 1.0)
    assert counts.precision().estimate == pytest.approx(0.877, abs=5e-4)
    assert counts.f1().estimate == pytest.approx(0.935, abs=5e-4)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_shares_agree_with_scikit_learn(rows: list[tuple[bool, bool]]) -> None:
    called, labels = (np.array(column, int) for column in zip(*rows, strict=True))
    counts = DecisionCounts.of(called, labels)
    assert counts.num == len(rows)
    assert counts.accuracy().estimate == pytest.approx(accuracy_score(labels, called))
    if called.any():
        assert counts.precision().estimate == pytest.approx(precision_score(labels, called))
    if labels.any():
        assert counts.recall().estimate == pytest.approx(recall_score(labels, called))
    if (1 - labels).any():
        assert counts.specificity().estimate == pytest.approx(recall_score(labels, called, pos_label=0))
    if (called | labels).any():
        assert counts.f1().estimate == pytest.approx(f1_score(labels, called))


def test_what_there_is_no_share_of_is_nan_and_null() -> None:
    counts = DecisionCounts.of([0, 0], [0, 0])
    assert math.isnan(counts.recall().estimate)
    assert math.isnan(counts.f1().low)
    tree = json.loads(json.dumps(counts.to_json(), allow_nan=False))
    assert tree["precision"]["estimate"] is None
    assert tree["accuracy"]["estimate"] == tree["majority_accuracy"]["estimate"] == 1


@pytest.mark.parametrize("num_hits", [0, 1, 7, 19, 20])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_of_shares_agree_with_scipy(num_hits: int, level: float) -> None:
    test = binomtest(num_hits, 20)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        found, wanted = ours(num_hits, 20, level), test.proportion_ci(level, method)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_shares_that_are_none_are_refused() -> None:
    for wrong in ((3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)):
        with pytest.raises(InputError, match="a part of a whole"):
            wilson(*wrong)
        with pytest.raises(InputError, match="a part of a whole"):
            clopper_pearson(*wrong)


def test_the_interval_of_f1_holds_the_true_f1_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.3, 0.1, 0.1, 0.5])  # hits, false, missed, spared
    truth = 2 * shares[0] / (2 * shares[0] + shares[1] + shares[2])
    inside = []
    for drawn in rng.multinomial(120, shares, 600):
        interval = DecisionCounts(*drawn.tolist()).f1()
        inside.append(interval.low <= truth <= interval.high)
    assert 0.92 < np.mean(inside) < 0.98


def slow_best(probability: np.ndarray, labels: np.ndarray, rule: str, wanted: float = 0.95) -> float:
    """The best that any threshold reaches."""
    best = -math.inf
    for threshold in np.unique(np.concatenate([[0], probability, [1]])):
        counts = DecisionCounts.of(probability >= threshold, labels)
        recall, specificity = counts.recall().estimate, counts.specificity().estimate
        if rule == "youden":
            best = max(best, recall + specificity)
        elif rule == "f1":
            best = max(best, np.nan_to_num(counts.f1().estimate))
        elif recall >= wanted:
            best = max(best, specificity)
    return best


def reached(probability: np.ndarray, labels: np.ndarray, rule: str, threshold: float) -> float:
    counts = DecisionCounts.of(probability >= threshold, labels)
    recall, specificity = counts.recall().estimate, counts.specificity().estimate
    return {"youden": recall + specificity, "f1": counts.f1().estimate, "sensitivity": specificity}[rule]


@given(
    st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=2, max_size=30),
    st.sampled_from(["youden", "f1", "sensitivity"]),
)
@settings(max_examples=80, deadline=None)
def test_no_threshold_is_better_than_the_chosen_one(rows: list[tuple[int, bool]], rule: str) -> None:
    tenths, labels = (np.array(column, int) for column in zip(*rows, strict=True))
    if len(set(labels.tolist())) < 2:
        return
    probability = tenths / 10
    threshold = choose_threshold(probability, labels, rule)
    assert reached(probability, labels, rule, threshold) == pytest.approx(slow_best(probability, labels, rule))
    if rule == "sensitivity":
        assert DecisionCounts.of(probability >= threshold, labels).recall().estimate >= 0.95


def test_youden_s_threshold_lies_where_scikit_learn_s_curve_is_highest() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 200)
    probability = np.clip(0.3 + 0.3 * labels + 0.2 * rng.standard_normal(200), 0, 1)
    false, hits, _ = roc_curve(labels, probability)
    threshold = choose_threshold(probability, labels)
    assert reached(probability, labels, "youden", threshold) == pytest.approx(1 + (hits - false).max())


def test_a_threshold_lies_between_slides_and_near_one_half_where_it_may() -> None:
    assert choose_threshold([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == pytest.approx(0.5)
    assert choose_threshold([0.1, 0.2, 0.3, 0.9], [0, 0, 1, 1]) == pytest.approx(0.25)
    # any of three candidates is as good: youden is 1 throughout
    assert choose_threshold([0.2, 0.4, 0.4, 0.7], [0, 0, 1, 0], "sensitivity", 0.9) == pytest.approx(0.3)
    nearly = np.array([0.5, np.nextafter(0.5, 1)])  # no number lies between them
    assert DecisionCounts.of(nearly >= choose_threshold(nearly, [0, 1]), [0, 1]).accuracy().estimate == 1


def test_what_no_threshold_can_be_chosen_on_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="threshold rule"):
        choose_threshold([0.1, 0.9], [0, 1], "youdens")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one class"):
        choose_threshold([0.1, 0.9], [1, 1])
    with pytest.raises(InputError, match="not logits"):
        choose_threshold([-2.0, 3.0], [0, 1])
    with pytest.raises(InputError, match="sensitivity of 0"):
        choose_threshold([0.1, 0.9], [0, 1], "sensitivity", 0.0)
    with pytest.raises(InputError, match="NaN"):
        choose_threshold([math.nan, 0.9], [0, 1])
    with pytest.raises(InputError, match="0 and 1"):
        choose_threshold([0.1, 0.9], [1, 2])
    with pytest.raises(InputError, match="one of each"):
        choose_threshold([0.1, 0.9], [1])
