"""How well a score ranks slides: areas under the ROC and the precision-recall curve, their intervals, paired comparisons.

Only the order of scores matters; of two slides with one score, each is half above the other. DeLong's interval and test
take slides for independent. Where patients have several slides, resample patients (`auroc_interval`, `auprc_interval`).

Does not know: probabilities, thresholds, models.

Source: DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837); Sun and Xu 2014 (IEEE SPL 21:1389) for midranks.

N slides, R resamples, G distinct scores.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.metrics.decisions import Labels, checked_scores
from counterstain.metrics.intervals import BootstrapSettings, Interval, bootstrap_weights
from counterstain.metrics.segmentation import Floats, plain, ratio

FEW = 30
"""Slides of a class below which areas and intervals are more guess than measurement."""


def auroc(scores_N: npt.ArrayLike, labels_N: npt.ArrayLike) -> float:
    """The area under the ROC curve: how often a positive slide scores above a negative one, a tie counting half.

    Args:
        scores_N: (N,), larger speaks for the positive class.
        labels_N: (N,) of 0 and 1.

    Returns:
        In [0, 1]; NaN where a class has no slide.

    Raises:
        InputError: When a score is NaN, a label is neither 0 nor 1, or their numbers differ.
    """
    scores, labels = checked_scores(scores_N, labels_N)
    return float(weighted_auroc(scores, labels, np.ones((1, len(scores))))[0])


def auprc(scores_N: npt.ArrayLike, labels_N: npt.ArrayLike) -> float:
    """The average precision: precision at each distinct score, weighed by the recall it adds, without interpolation.

    A ranking by chance has the share of positives.

    Args:
        scores_N: (N,), larger speaks for the positive class.
        labels_N: (N,) of 0 and 1.

    Returns:
        In [0, 1]; NaN where there is no positive slide.

    Raises:
        InputError: As `auroc`.
    """
    scores, labels = checked_scores(scores_N, labels_N)
    return float(weighted_auprc(scores, labels, np.ones((1, len(scores))))[0])


def weighted_auroc(scores_N: Floats, labels_N: Labels, weights_RN: Floats) -> Floats:
    """`auroc` of slides that occur several times or never, (R,); NaN where a class is missing."""
    positives_RG, negatives_RG = by_score(scores_N, labels_N, weights_RN)
    below_RG = negatives_RG.cumsum(-1) - negatives_RG / 2
    return ratio((positives_RG * below_RG).sum(-1), positives_RG.sum(-1) * negatives_RG.sum(-1))


def weighted_auprc(scores_N: Floats, labels_N: Labels, weights_RN: Floats) -> Floats:
    """`auprc` of slides that occur several times or never, (R,); NaN where there is no positive."""
    positives_RG, negatives_RG = (one[:, ::-1] for one in by_score(scores_N, labels_N, weights_RN))
    hits_RG = positives_RG.cumsum(-1)
    precision_RG = np.nan_to_num(ratio(hits_RG, hits_RG + negatives_RG.cumsum(-1)))  # undefined only where it weighs 0
    return ratio((positives_RG * precision_RG).sum(-1), positives_RG.sum(-1))


def by_score(scores_N: Floats, labels_N: Labels, weights_RN: Floats) -> tuple[Floats, Floats]:
    """Weights of positives and of negatives at each distinct score, rising, (R, G) each.

    Args:
        scores_N: No NaN.
        labels_N: 0 or 1.
        weights_RN: How often each slide counts.
    """
    if not len(scores_N):
        return weights_RN, weights_RN
    order = np.argsort(scores_N, kind="stable")
    rising = scores_N[order]
    starts = np.concatenate([[0], np.flatnonzero(rising[1:] != rising[:-1]) + 1])
    sorted_RN, is_positive_N = weights_RN[:, order], labels_N[order] == 1
    return (
        np.add.reduceat(sorted_RN * is_positive_N, starts, axis=-1),
        np.add.reduceat(sorted_RN * ~is_positive_N, starts, axis=-1),
    )


def auroc_interval(
    scores_N: npt.ArrayLike,
    labels_N: npt.ArrayLike,
    patients: Sequence[str],
    settings: BootstrapSettings | None = None,
) -> Interval:
    """`auroc` and its interval over patients, drawn within the classes.

    Raises:
        InputError: As `auroc`, and when there are fewer than two patients.
    """
    return _over_patients(weighted_auroc, checked_scores(scores_N, labels_N), patients, settings)


def auprc_interval(
    scores_N: npt.ArrayLike,
    labels_N: npt.ArrayLike,
    patients: Sequence[str],
    settings: BootstrapSettings | None = None,
) -> Interval:
    """`auprc` and its interval over patients, drawn within the classes.

    Raises:
        InputError: As `auroc`, and when there are fewer than two patients.
    """
    return _over_patients(weighted_auprc, checked_scores(scores_N, labels_N), patients, settings)


def _over_patients(
    area: Callable[[Floats, Labels, Floats], Floats],
    slides: tuple[Floats, Labels],
    patients: Sequence[str],
    settings: BootstrapSettings | None,
) -> Interval:
    return bootstrap_weights(lambda drawn_RN: area(*slides, drawn_RN), patients, settings, slides[1].tolist())


@dataclass(frozen=True)
class AreaInterval:
    """An area under the ROC curve and its interval; NaN where undefined.

    Args:
        estimate: The area.
        low: Lower end.
        high: Upper end.
        level: Confidence.
        standard_error: Of the area; NaN with fewer than two slides of a class.
        num_positives: Slides of the positive class.
        num_negatives: Slides of the other.
        method: "delong, logit scale", or "exact for disjoint pairs" where all pairs are ordered alike.
    """

    estimate: float
    low: float
    high: float
    level: float
    standard_error: float
    num_positives: int
    num_negatives: int
    method: str

    def to_json(self) -> dict[str, Any]:
        """Plain values, None for NaN."""
        return {name: plain(value) if isinstance(value, float) else value for name, value in vars(self).items()}

    def __str__(self) -> str:
        return f"{self.estimate:.3f} ({self.low:.3f} to {self.high:.3f})"


def delong_interval(scores_N: npt.ArrayLike, labels_N: npt.ArrayLike, level: float = 0.95) -> AreaInterval:
    """`auroc` and DeLong's interval, made on the logit scale so that it stays within [0, 1].

    Where every positive slide scores above every negative one, or below, DeLong's variance is 0 and says nothing. Then
    min(P, N) disjoint pairs are that many independent trials which all came out alike, and the ends are the exact ones of
    Clopper and Pearson for them.

    Args:
        scores_N: (N,), larger speaks for the positive class.
        labels_N: (N,) of 0 and 1.
        level: Confidence, in (0, 1).

    Returns:
        The ends are NaN where a class has fewer than two slides.

    Raises:
        InputError: As `auroc`, and when the level is outside (0, 1).

    Source: DeLong et al. 1988; logit scale: Pepe 2003, section 5.2; the ends of a perfect ranking are ours.
    """
    from scipy.special import expit, logit, ndtri

    scores, labels = checked_scores(scores_N, labels_N)
    if not 0 < level < 1:
        raise InputError(f"A level of {level} was given; one in (0, 1) was expected.")
    num_positives, num_negatives = int(labels.sum()), int((1 - labels).sum())
    area = auroc(scores, labels)
    least = min(num_positives, num_negatives)
    if least < 2:
        return AreaInterval(area, math.nan, math.nan, level, math.nan, num_positives, num_negatives, "none")
    if area in (0.0, 1.0):
        end = ((1 - level) / 2) ** (1 / least)
        low, high = (end, 1.0) if area == 1 else (0.0, 1 - end)
        return AreaInterval(area, low, high, level, 0.0, num_positives, num_negatives, "exact for disjoint pairs")
    error = math.sqrt(_covariance(scores[None], labels)[0, 0])
    half = float(ndtri(0.5 + level / 2)) * error / (area * (1 - area))
    low, high = (float(expit(logit(area) + sign * half)) for sign in (-1, 1))
    return AreaInterval(area, low, high, level, error, num_positives, num_negatives, "delong, logit scale")


@dataclass(frozen=True)
class AreaDifference:
    """Two methods' areas under the ROC curve on the same slides.

    Args:
        first: Area of the first.
        second: Area of the second.
        difference: The first less the second.
        low: Lower end of the difference.
        high: Upper end.
        level: Confidence.
        p_value: Two-sided, that the areas are equal; NaN where it can't be told.
        num_positives: Slides of the positive class.
        num_negatives: Slides of the other.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    level: float
    p_value: float
    num_positives: int
    num_negatives: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, None for NaN."""
        return {name: plain(value) if isinstance(value, float) else value for name, value in vars(self).items()}


def delong_test(
    first_N: npt.ArrayLike, second_N: npt.ArrayLike, labels_N: npt.ArrayLike, level: float = 0.95
) -> AreaDifference:
    """DeLong's paired test: whether two methods rank the same slides differently well.

    Args:
        first_N: (N,) scores of one method.
        second_N: (N,) scores of the other, slides in the same order.
        labels_N: (N,) of 0 and 1.
        level: Confidence of the difference's interval, plain scale.

    Raises:
        InputError: As `auroc`, when the methods differ in the number of slides, or a class has fewer than two slides.
    """
    from scipy.special import ndtr, ndtri

    first, labels = checked_scores(first_N, labels_N)
    second, _ = checked_scores(second_N, labels_N)
    num_positives, num_negatives = int(labels.sum()), int((1 - labels).sum())
    if min(num_positives, num_negatives) < 2:
        raise InputError(
            f"{num_positives} positive and {num_negatives} negative slides were given; a paired test needs two of each."
        )
    one, other = auroc(first, labels), auroc(second, labels)
    covariance = _covariance(np.stack([first, second]), labels)
    error = math.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    difference = one - other
    p_value = 1.0 if abs(difference) < 1e-12 else math.nan  # where areas do not vary, only equal ones can be judged
    if error > 1e-12:
        p_value = float(2 * ndtr(-abs(difference) / error))
    half = float(ndtri(0.5 + level / 2)) * error
    return AreaDifference(
        one, other, difference, difference - half, difference + half, level, p_value, num_positives, num_negatives
    )


def _covariance(scores_MN: Floats, labels_N: Labels) -> Floats:
    """DeLong's covariance of the areas of M methods, (M, M)."""
    parts = [_components(scores_N, labels_N) for scores_N in scores_MN]
    positives, negatives = (np.stack([part[place] for part in parts]) for place in (0, 1))
    covariance: Floats = np.atleast_2d(np.cov(positives)) / positives.shape[1]
    covariance += np.atleast_2d(np.cov(negatives)) / negatives.shape[1]
    return covariance


def _components(scores_N: Floats, labels_N: Labels) -> tuple[Floats, Floats]:
    """For each positive the share of negatives below it; for each negative the share of positives above it."""
    from scipy.stats import rankdata

    positives, negatives = scores_N[labels_N == 1], scores_N[labels_N == 0]
    ranks = rankdata(np.concatenate([positives, negatives]))
    num = len(positives)
    above_positive = (ranks[:num] - rankdata(positives)) / len(negatives)
    below_negative = 1 - (ranks[num:] - rankdata(negatives)) / num
    return above_positive, below_negative


def small_sample_notes(num_positives: int, num_negatives: int, few: int = FEW) -> tuple[str, ...]:
    """What a report has to say of few slides; empty where there are enough of both classes.

    Args:
        num_positives: Slides of the positive class.
        num_negatives: Slides of the other.
        few: Fewer than these of a class are worth a warning.
    """
    notes = []
    for name, num in (("positive", num_positives), ("negative", num_negatives)):
        if num == 0:
            notes.append(f"There is no {name} slide: neither areas nor errors of that class can be given.")
        elif num < few:
            step = 100 / num
            notes.append(
                f"Only {num} {name} slide{'s' if num > 1 else ''} (fewer than {few}): one slide moves the rates of that "
                f"class by {step:.0f} points, and intervals that rest on large samples come out too narrow."
            )
    return tuple(notes)
