"""From margins to probability, decision and prediction set, against values worked out by hand."""

import json
import math

import numpy as np
import pytest

from counterstain.methods.slide_config import SlideConfig
from counterstain.methods.slide_decision import Decision
from counterstain.metrics.calibration import calibrated
from counterstain.results import Classes

CLASSES = Classes(("normal", "tumour"), ((0, 114, 178), (213, 94, 0)), background="normal")
PLAIN = Decision(temperature=2.0, threshold=0.7)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize(("margin", "decision"), [(1.6, "normal"), (1.8, "tumour"), (-1.8, "normal")])
def test_a_margin_is_divided_by_the_temperature_and_held_against_the_threshold(margin: float, decision: str) -> None:
    said = PLAIN.judge("a", margin, CLASSES)  # sigmoid(0.847) is 0.7
    assert said.probability == pytest.approx(sigmoid(margin / 2))
    assert (said.decision, said.logit, said.prediction_set) == (decision, margin, ())


def test_margins_however_large_have_a_probability_and_sure_negatives_are_told_apart() -> None:
    assert [Decision().judge("a", margin, CLASSES).probability for margin in (-1e6, 0.0, 1e6)] == [0.0, 0.5, 1.0]
    surer, sure = (Decision().judge("a", margin, CLASSES).probability for margin in (-40.0, -38.0))
    assert 0 < surer < sure < 1e-15


@pytest.mark.parametrize(
    ("p", "held", "decision"),
    [
        (0.1, ("normal",), "normal"),
        (0.35, ("normal",), "normal"),
        (0.45, ("normal", "tumour"), None),  # 0.45 <= 0.5 holds normal, 0.55 <= 0.6 holds tumour
        (0.55, ("tumour",), "tumour"),
        (0.9, ("tumour",), "tumour"),
    ],
)
def test_a_class_is_ruled_out_where_its_probability_is_further_from_1_than_its_reach(
    p: float, held: tuple[str, ...], decision: str | None
) -> None:
    decided = Decision(
        error=0.1, reach=(0.5, 0.6), threshold=0.99
    )  # the threshold has no say where an error was promised
    said = decided.judge("a", math.log(p / (1 - p)), CLASSES)
    assert (said.prediction_set, said.decision) == (held, decision)


def test_where_neither_class_is_like_what_was_seen_nothing_is_decided() -> None:
    said = Decision(error=0.1, reach=(0.2, 0.2)).judge("a", 0.0, CLASSES)
    assert (said.prediction_set, said.decision) == ((), None)


def test_scores_that_speak_against_their_labels_are_cautioned_against_once_each() -> None:
    labels = np.array([0, 0, 1, 1])
    against = Decision.learned(np.array([0.9, 0.8, 0.2, 0.1]), labels, SlideConfig())
    assert [note.split(":")[0] for note in against.cautions(CLASSES)[:1]] == [
        "Scores did not tell normal from tumour on the 4 slides that calibrated the run"
    ]
    assert Decision(threshold=0.0).cautions(CLASSES) == ("The run's threshold calls every slide tumour.",)
    assert Decision.learned(np.array([-2.0, -1.0, 1.0, 2.0]), labels, SlideConfig()).cautions(CLASSES) == ()


def test_a_class_without_a_promise_is_never_ruled_out() -> None:
    decision = Decision(error=0.1, reach=(None, 0.2))
    assert decision.judge("a", 9.0, CLASSES).prediction_set == ("normal", "tumour")
    assert decision.judge("a", -9.0, CLASSES).decision == "normal"


def test_reaches_are_the_ranks_that_keep_the_promise() -> None:
    margins = np.concatenate([np.linspace(-4, -2, 9), np.linspace(1, 3, 9)])
    labels = np.repeat([0, 1], 9)
    learned = Decision.learned(margins, labels, SlideConfig(error=0.2, threshold="half"))
    p = calibrated(margins, learned.temperature)
    # of 9 slides the ceil(10 * 0.8) = 8th smallest 1 - p(class)
    assert learned.reach == pytest.approx((np.sort(p[:9])[7], np.sort(1 - p[9:])[7]))
    assert (learned.threshold, learned.counts, learned.error) == (0.5, (9, 9), 0.2)


def test_too_few_slides_rule_nothing_out() -> None:
    margins, labels = np.array([-2.0, -1.0, 0.5, 1.0, 2.0]), np.array([0, 0, 1, 1, 1])
    learned = Decision.learned(margins, labels, SlideConfig(error=0.1))
    assert (learned.reach, learned.counts) == ((None, None), (2, 3))
    assert learned.judge("a", 0.7, CLASSES).decision is None


def test_the_threshold_tells_validation_slides_apart_as_well_as_any() -> None:
    margins, labels = np.array([-1.0, 0.2, 0.4, 1.1, 1.2, 2.0]), np.array([0, 0, 1, 0, 1, 1])
    learned = Decision.learned(margins, labels, SlideConfig(threshold="youden"))
    p = calibrated(margins, learned.temperature)
    calls = [p >= threshold for threshold in (*p, 1.1)]
    best = max(float(call[labels == 1].mean() - call[labels == 0].mean()) for call in calls)
    called = p >= learned.threshold
    assert called[labels == 1].mean() - called[labels == 0].mean() == pytest.approx(best)


@pytest.mark.parametrize(
    "decision", [Decision(), Decision(1.7, 0.3, 0.05, (None, 0.25), (12, 30)), Decision(error=0.1, reach=(0.5, None))]
)
def test_a_decision_survives_json(decision: Decision) -> None:
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision
