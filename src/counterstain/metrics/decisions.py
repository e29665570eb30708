"""Decisions on slides: where a probability turns into a class, and how often that class is right.

A slide is called positive from the threshold on. The threshold is chosen on other slides than those it is judged by. Shares
of slides carry Wilson's interval, which takes slides for independent; where patients have several, resample patients too
(`bootstrap_weights`).

Precision is TP / (TP + FP) and recall is TP / (TP + FN). Tables III to V of the DSNet paper print them the other way round:
with 43 positive and 72 negative slides, whole counts give accuracy, "precision" and "recall" of 14 of the 16 rows of
Camelyon16 that way round, and of none the way the columns are headed. The test of this file holds the counts.

Does not know: models, files, how probabilities were calibrated.

Source: Wilson 1927 (JASA 22:209); Clopper and Pearson 1934 (Biometrika 26:404); Youden 1950 (Cancer 3:32).

N slides.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError, UnknownNameError
from counterstain.metrics.segmentation import Floats, plain, ratio

ThresholdRule = Literal["youden", "f1", "sensitivity"]
THRESHOLD_RULES: tuple[ThresholdRule, ...] = ("youden", "f1", "sensitivity")

Labels = npt.NDArray[np.int64]


def checked_scores(scores_N: npt.ArrayLike, labels_N: npt.ArrayLike) -> tuple[Floats, Labels]:
    """Scores and labels as float64 and int64, when they can be judged by each other.

    Raises:
        InputError: When they differ in length, are no row of numbers, a score is NaN, or a label is neither 0 nor 1.
    """
    scores, labels = np.asarray(scores_N, np.float64), np.asarray(labels_N)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise InputError(f"Scores of {scores.shape} were given for labels of {labels.shape}; give one of each a slide.")
    if np.isnan(scores).any():
        raise InputError(f"{int(np.isnan(scores).sum())} scores are NaN. Leave out slides that were not scored.")
    if not np.isin(labels, (0, 1)).all():
        raise InputError(
            f"Labels {np.unique(labels).tolist()[:5]} were given; 0 and 1, the positive class, were expected."
        )
    return scores, labels.astype(np.int64)


@dataclass(frozen=True)
class Proportion:
    """A share of slides and its interval; fractions, NaN where there is none to take a share of.

    Args:
        num_hits: How many there are.
        num: Of how many.
        estimate: Their share.
        low: Lower end.
        high: Upper end.
        level: Confidence.
        method: "wilson" or "clopper-pearson".
    """

    num_hits: int
    num: int
    estimate: float
    low: float
    high: float
    level: float
    method: str

    def to_json(self) -> dict[str, Any]:
        """Plain values, None for NaN."""
        ends = {name: plain(getattr(self, name)) for name in ("estimate", "low", "high")}
        return {**ends, "level": self.level, "method": self.method, "num_hits": self.num_hits, "num": self.num}

    def __str__(self) -> str:
        return f"{100 * self.estimate:.1f} ({100 * self.low:.1f} to {100 * self.high:.1f}), {self.num_hits}/{self.num}"


def wilson(num_hits: int, num: int, level: float = 0.95) -> Proportion:
    """A share and Wilson's score interval, which keeps close to its level on few slides and never leaves [0, 1].

    Raises:
        InputError: When there are more hits than slides, or the level is outside (0, 1).
    """
    if _is_empty(num_hits, num, level):
        return Proportion(0, 0, math.nan, math.nan, math.nan, level, "wilson")
    from scipy.special import ndtri

    z, share = float(ndtri(0.5 + level / 2)), num_hits / num
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    low, high = max(0.0, middle - half) if num_hits else 0.0, min(1.0, middle + half) if num_hits < num else 1.0
    return Proportion(num_hits, num, share, low, high, level, "wilson")


def clopper_pearson(num_hits: int, num: int, level: float = 0.95) -> Proportion:
    """A share and the exact interval, which never covers less than its level.

    Raises:
        InputError: When there are more hits than slides, or the level is outside (0, 1).
    """
    if _is_empty(num_hits, num, level):
        return Proportion(0, 0, math.nan, math.nan, math.nan, level, "clopper-pearson")
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(num_hits, num - num_hits + 1, tail)) if num_hits else 0.0
    high = float(betaincinv(num_hits + 1, num - num_hits, 1 - tail)) if num_hits < num else 1.0
    return Proportion(num_hits, num, num_hits / num, low, high, level, "clopper-pearson")


def _is_empty(num_hits: int, num: int, level: float) -> bool:
    """Whether there is nothing to take a share of; refuses what is no share."""
    if not 0 <= num_hits <= num or not 0 < level < 1:
        raise InputError(
            f"{num_hits} of {num} at level {level} were given; a part of a whole and (0, 1) were expected."
        )
    return num == 0


@dataclass(frozen=True)
class DecisionCounts:
    """Slides by truth and decision.

    Args:
        true_positives: Positive and called so.
        false_positives: Negative, called positive.
        false_negatives: Positive, called negative.
        true_negatives: Negative and called so.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @classmethod
    def of(cls, is_called_positive_N: npt.ArrayLike, labels_N: npt.ArrayLike) -> Self:
        """Counts decisions.

        Args:
            is_called_positive_N: (N,) of 0 and 1.
            labels_N: (N,) of 0 and 1.

        Raises:
            InputError: When they differ in length, or a label is neither.
        """
        called, labels = checked_scores(is_called_positive_N, labels_N)
        is_called, is_positive = called > 0, labels == 1
        return cls(
            int((is_called & is_positive).sum()),
            int((is_called & ~is_positive).sum()),
            int((~is_called & is_positive).sum()),
            int((~is_called & ~is_positive).sum()),
        )

    @property
    def num_positives(self) -> int:
        """Slides of the positive class."""
        return self.true_positives + self.false_negatives

    @property
    def num_negatives(self) -> int:
        """Slides of the other class."""
        return self.true_negatives + self.false_positives

    @property
    def num(self) -> int:
        """All slides."""
        return self.num_positives + self.num_negatives

    def accuracy(self, level: float = 0.95) -> Proportion:
        """Slides that were called what they are: (TP + TN) / all."""
        return wilson(self.true_positives + self.true_negatives, self.num, level)

    def majority(self, level: float = 0.95) -> Proportion:
        """The accuracy of calling every slide by the larger class of these very slides: what no model at all would have."""
        return wilson(max(self.num_positives, self.num_negatives), self.num, level)

    def precision(self, level: float = 0.95) -> Proportion:
        """Share of slides called positive that are: TP / (TP + FP)."""
        return wilson(self.true_positives, self.true_positives + self.false_positives, level)

    def recall(self, level: float = 0.95) -> Proportion:
        """Share of positive slides that are called so, the sensitivity: TP / (TP + FN)."""
        return wilson(self.true_positives, self.num_positives, level)

    def specificity(self, level: float = 0.95) -> Proportion:
        """Share of negative slides that are called so: TN / (TN + FP)."""
        return wilson(self.true_negatives, self.num_negatives, level)

    def f1(self, level: float = 0.95) -> Proportion:
        """F1 of the positive class, 2 TP / (2 TP + FP + FN).

        F1 is no share of slides, but F* = TP / (TP + FP + FN) is one, of the slides that are positive or called so, and
        F1 = 2 F* / (1 + F*) rises with it: the ends are those of F*, carried over. `num_hits` and `num` are those of F*.

        Source: Hand, Christen and Kirielle 2021 (Machine Learning 110:451) for F*; the interval is ours.
        """
        star = wilson(self.true_positives, self.true_positives + self.false_positives + self.false_negatives, level)
        estimate, low, high = (2 * end / (1 + end) for end in (star.estimate, star.low, star.high))
        return Proportion(star.num_hits, star.num, estimate, low, high, level, "wilson")

    def to_json(self, level: float = 0.95) -> dict[str, Any]:
        """Counts, shares with their intervals, and the majority class beside the accuracy."""
        return {
            "true_positives": self.true_positives,
            "false_positives": self.false_positives,
            "false_negatives": self.false_negatives,
            "true_negatives": self.true_negatives,
            "accuracy": self.accuracy(level).to_json(),
            "majority_accuracy": self.majority(level).to_json(),
            "precision": self.precision(level).to_json(),
            "recall": self.recall(level).to_json(),
            "specificity": self.specificity(level).to_json(),
            "f1": self.f1(level).to_json(),
        }


def choose_threshold(
    probability_N: npt.ArrayLike,
    labels_N: npt.ArrayLike,
    rule: ThresholdRule = "youden",
    wanted_sensitivity: float = 0.95,
) -> float:
    """The probability from which slides are called positive.

    Candidates are 0 and the middles between neighbouring probabilities, so that no slide lies on the threshold. Of
    candidates that are equally good the one nearest to 1/2 is taken.

    Args:
        probability_N: (N,) of the positive class in [0, 1], of slides that will not be judged by the threshold.
        labels_N: (N,) of 0 and 1.
        rule: "youden": most sensitivity plus specificity; "f1": most F1; "sensitivity": most specificity among the
            candidates that reach the wanted sensitivity on these slides (on others it will vary).
        wanted_sensitivity: In (0, 1], for that rule alone.

    Returns:
        In [0, 1).

    Raises:
        UnknownNameError: When there is no such rule.
        InputError: When a class has no slide, a probability is outside [0, 1], or the wanted sensitivity is outside (0, 1].
    """
    if rule not in THRESHOLD_RULES:
        raise UnknownNameError("threshold rule", rule, THRESHOLD_RULES)
    probability_N, labels_N = checked_scores(probability_N, labels_N)
    if set(np.unique(labels_N)) != {0, 1}:
        raise InputError("Slides of one class were given; a threshold is chosen on slides of both.")
    if ((probability_N < 0) | (probability_N > 1)).any():
        raise InputError("Probabilities outside [0, 1] were given. Give probabilities, not logits.")
    if not 0 < wanted_sensitivity <= 1:
        raise InputError(f"A sensitivity of {wanted_sensitivity} was wanted; one in (0, 1] was expected.")
    values = np.unique(probability_N)
    middles = (values[:-1] + values[1:]) / 2
    thresholds = np.concatenate([[0.0], np.where(middles > values[:-1], middles, values[1:])])
    gain = _gains(probability_N, labels_N, thresholds, rule, wanted_sensitivity)
    best = thresholds[gain >= gain.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def _gains(
    probability_N: Floats, labels_N: Labels, thresholds: Floats, rule: ThresholdRule, wanted_sensitivity: float
) -> Floats:
    """What a rule makes as large as it can, for each threshold."""
    positives, negatives = (np.sort(probability_N[labels_N == label]) for label in (1, 0))
    hits = len(positives) - np.searchsorted(positives, thresholds)
    false = len(negatives) - np.searchsorted(negatives, thresholds)
    if rule == "f1":
        return ratio(2 * hits, hits + false + len(positives))
    sensitivity, specificity = hits / len(positives), 1 - false / len(negatives)
    if rule == "youden":
        return sensitivity + specificity
    return np.where(sensitivity >= wanted_sensitivity - 1e-12, specificity, -1.0)
