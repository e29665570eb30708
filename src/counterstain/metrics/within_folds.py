"""AUROC of scores that several models gave: slides are compared with slides that the same model scored.

Every fold of a cross-validation has a model of its own, and logits of two models have no common scale. A pooled AUROC mixes
them; here only pairs within a fold count, all folds and repeats together.

N slides (a slide scored in several repeats counts once in each), R resamples.
Does not know: how scores were made.

Source: ours, after Parker et al. 2007 (BMC Bioinformatics 8:326): pooling the scores of folds biases the AUROC.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.metrics.intervals import BootstrapSettings, Interval, bootstrap_weights
from counterstain.metrics.segmentation import Floats, ratio

Ints = npt.NDArray[np.integer]


def within_fold_auroc(scores_N: Floats, labels_N: Ints, folds: Sequence[str]) -> Callable[[Floats], Floats]:
    """The statistic as a function of how often each slide counts.

    Args:
        scores_N: Larger is more positive.
        labels_N: 0 or 1.
        folds: The model that scored each.

    Returns:
        A function of weights (R, N) that gives (R,): of the pairs of a positive and a negative slide of one fold, the part
        in which the positive one has the larger score, ties half. NaN where there is no such pair.
    """
    parts = []
    for fold in sorted(set(folds)):
        inside = np.array([one == fold for one in folds])
        positives, negatives = (np.flatnonzero(inside & (labels_N == label)) for label in (1, 0))
        higher = scores_N[positives, None] > scores_N[None, negatives]
        parts.append((positives, negatives, higher + 0.5 * (scores_N[positives, None] == scores_N[None, negatives])))

    def statistic(weights_RN: Floats) -> Floats:
        won, pairs = np.zeros(len(weights_RN)), np.zeros(len(weights_RN))
        for positives, negatives, wins in parts:
            up, down = weights_RN[:, positives], weights_RN[:, negatives]
            won += ((up @ wins) * down).sum(1)
            pairs += up.sum(1) * down.sum(1)
        return ratio(won, pairs)

    return statistic


def within_fold_interval(
    scores_N: Floats,
    labels_N: Ints,
    folds: Sequence[str],
    patients: Sequence[str],
    settings: BootstrapSettings | None = None,
) -> Interval:
    """The AUROC within folds with its interval over patients, who are drawn within their class.

    Raises:
        InputError: When the columns differ in length, or there are fewer than two patients.
    """
    _check(len(scores_N), len(labels_N), len(folds), len(patients))
    return bootstrap_weights(within_fold_auroc(scores_N, labels_N, folds), patients, settings, labels_N.tolist())


def within_fold_difference(
    scores_N: Floats,
    other_N: Floats,
    labels_N: Ints,
    folds: Sequence[str],
    patients: Sequence[str],
    settings: BootstrapSettings | None = None,
) -> Interval:
    """The AUROC of one method less that of another on the same slides and folds, patients drawn alike for both.

    Raises:
        InputError: When the columns differ in length, or there are fewer than two patients.
    """
    _check(len(scores_N), len(other_N), len(labels_N), len(folds), len(patients))
    first, second = (within_fold_auroc(one, labels_N, folds) for one in (scores_N, other_N))
    return bootstrap_weights(lambda weights: first(weights) - second(weights), patients, settings, labels_N.tolist())


def _check(*lengths: int) -> None:
    if any(one != other for one, other in pairwise(lengths)):
        raise InputError(f"Columns of {lengths} slides were given; scores, labels, folds and patients go together.")
