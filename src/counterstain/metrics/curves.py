"""The curves of a ranking: ROC, precision against recall, and where the ROC curve may lie.

Their areas stand in `ranking.py`; slides of one score make one point.

Does not know: probabilities, thresholds that were chosen, models.

N slides, R resamples, G distinct scores, K false positive rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.metrics.decisions import checked_scores
from counterstain.metrics.intervals import BootstrapSettings, draw_weights
from counterstain.metrics.ranking import by_score
from counterstain.metrics.segmentation import Floats, ratio


@dataclass(frozen=True)
class Curve:
    """A curve of a ranking, from the strictest threshold to the laxest.

    Args:
        x: (G + 1,) false positive rate, or recall.
        y: (G + 1,) true positive rate, or precision.
        thresholds: (G + 1,), slides from it on are called positive; the first is infinite.
    """

    x: Floats
    y: Floats
    thresholds: Floats


def roc_curve(scores_N: npt.ArrayLike, labels_N: npt.ArrayLike) -> Curve:
    """The true positive rate against the false positive rate, one point for each distinct score, from (0, 0) to (1, 1).

    Raises:
        InputError: As `auroc`, and when a class has no slide.
    """
    hits, false, thresholds = _cumulated(scores_N, labels_N)
    if not hits[-1] or not false[-1]:
        raise InputError("Slides of one class were given; a ROC curve needs both.")
    return Curve(false / false[-1], hits / hits[-1], thresholds)


def precision_recall_curve(scores_N: npt.ArrayLike, labels_N: npt.ArrayLike) -> Curve:
    """Precision against recall, one point for each distinct score; at recall 0, where nothing is called, precision is 1.

    Raises:
        InputError: As `auroc`, and when there is no positive slide.
    """
    hits, false, thresholds = _cumulated(scores_N, labels_N)
    if not hits[-1]:
        raise InputError("No positive slide was given; precision and recall need one.")
    precision = ratio(hits, hits + false)
    precision[0] = 1.0
    return Curve(hits / hits[-1], precision, thresholds)


def _cumulated(scores_N: npt.ArrayLike, labels_N: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Positives and negatives called positive from each threshold on, and the thresholds, from the strictest."""
    scores, labels = checked_scores(scores_N, labels_N)
    if not len(scores):
        raise InputError("No slide was given to draw a curve of.")
    positives, negatives = (one[0, ::-1].cumsum() for one in by_score(scores, labels, np.ones((1, len(scores)))))
    hits, false = (np.concatenate([[0.0], one]) for one in (positives, negatives))
    return hits, false, np.concatenate([[np.inf], np.unique(scores)[::-1]])


@dataclass(frozen=True)
class RocBand:
    """Where the ROC curve may lie, one false positive rate at a time.

    Args:
        false_positive_rates: (K,), rising from 0 to 1.
        low: (K,) lower end of the true positive rate.
        high: (K,) upper end.
        level: Confidence at each rate, not of the curve as a whole.
    """

    false_positive_rates: Floats
    low: Floats
    high: Floats
    level: float


def roc_band(
    scores_N: npt.ArrayLike,
    labels_N: npt.ArrayLike,
    patients: Sequence[str],
    settings: BootstrapSettings | None = None,
    num_rates: int = 101,
) -> RocBand:
    """The band of a ROC curve over patients, drawn within the classes.

    Raises:
        InputError: As `auroc`, and when there are fewer than two patients or a class has no slide.
    """
    scores, labels = checked_scores(scores_N, labels_N)
    if set(np.unique(labels)) != {0, 1}:
        raise InputError("Slides of one class were given; a ROC curve needs both.")
    settings = settings or BootstrapSettings()
    drawn_RN = draw_weights(patients, settings, labels.tolist())
    rates = np.linspace(0, 1, num_rates)
    rows = []
    for positives, negatives in zip(
        *(one[:, ::-1].cumsum(-1) for one in by_score(scores, labels, drawn_RN)), strict=True
    ):
        if positives[-1] and negatives[-1]:
            false, hits = (np.concatenate([[0.0], one / one[-1]]) for one in (negatives, positives))
            rows.append(_upper_steps(rates, false, hits))
    tail = (1 - settings.level) / 2
    low, high = np.quantile(np.stack(rows), [tail, 1 - tail], axis=0)
    return RocBand(rates, low, high, settings.level)


def _upper_steps(rates: Floats, false: Floats, hits: Floats) -> Floats:
    """The curve at given false positive rates: straight between points, the highest where it rises upright."""
    last = np.searchsorted(false, rates + 1e-12, side="right") - 1
    following = np.minimum(last + 1, len(false) - 1)
    run = false[following] - false[last]
    share = np.where(run > 0, (rates - false[last]) / np.where(run > 0, run, 1.0), 0.0)
    return hits[last] + np.clip(share, 0, 1) * (hits[following] - hits[last])
