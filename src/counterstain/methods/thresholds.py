"""Presence thresholds chosen on a validation split.

The gate decides which classes a map may show; its thresholds are the one thing that pixel truth of the validation split is
used for, and the test split never. They are found one class after the other, each where the mean IoU is best.

Does not know: networks, images.

N windows, P scored pixels of all of them, C classes, h w reduced rows and columns.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from counterstain.methods.cams import present_classes

CANDIDATES = tuple(round(0.05 * step, 2) for step in range(1, 20))
_ROUNDS = 2  # a second pass over the classes, since each depends on the others


@dataclass(frozen=True)
class ValidationScores:
    """What the network says of validation windows, before the gate; windows may differ in size.

    Args:
        scores_PC: Fused CAMs of the scored pixels; only their order within a pixel matters.
        truth_P: Their classes.
        window_P: Which window each lies in.
        presence_NC: Of each window, in [0, 1].
    """

    scores_PC: Tensor
    truth_P: Tensor
    window_P: Tensor
    presence_NC: Tensor

    @classmethod
    def of(cls, scores_BChw: Tensor, presence_BC: Tensor, truth_Bhw: Tensor) -> "ValidationScores":
        """Of a batch of windows; pixels whose truth is no class are left out."""
        is_scored = truth_Bhw < presence_BC.shape[1]
        window_P = is_scored.nonzero()[:, 0]
        return cls(scores_BChw.movedim(1, -1)[is_scored], truth_Bhw[is_scored].long(), window_P, presence_BC)

    @classmethod
    def joined(cls, parts: Sequence["ValidationScores"]) -> "ValidationScores":
        """The windows of all parts, at least one."""
        starts = [0, *itertools.accumulate(len(part.presence_NC) for part in parts)]
        return cls(
            torch.cat([part.scores_PC for part in parts]),
            torch.cat([part.truth_P for part in parts]),
            torch.cat([part.window_P + start for part, start in zip(parts, starts[:-1], strict=True)]),
            torch.cat([part.presence_NC for part in parts]),
        )


def choose_thresholds(validation: ValidationScores) -> tuple[float, ...]:
    """One threshold for each class: the mean IoU's best, the middle one where several are equally good.

    Source: ours. The released code's thresholds were changed three times and are not in the paper.
    """
    num_classes = validation.presence_NC.shape[1]
    thresholds = [0.5] * num_classes
    for _ in range(_ROUNDS):
        for index in range(num_classes):
            trials = [[*thresholds[:index], candidate, *thresholds[index + 1 :]] for candidate in CANDIDATES]
            thresholds[index] = _middle_best([mean_iou(validation, trial) for trial in trials])
    return tuple(thresholds)


def choose_thresholds_by_labels(presence_NC: Tensor, labels_NC: Tensor) -> tuple[float, ...]:
    """One threshold for each class: the best F1 of presence, where a validation split has labels and no masks.

    Args:
        presence_NC: Of each validation patch, in [0, 1].
        labels_NC: 1 where the class is there.

    Source: ours.
    """
    thresholds = []
    for presence_N, label_N in zip(presence_NC.T, labels_NC.T.bool(), strict=True):
        hits = [int(((presence_N > one) & label_N).sum()) for one in CANDIDATES]
        named = [int((presence_N > one).sum()) for one in CANDIDATES]
        there = int(label_N.sum())
        scores = [2 * hit / max(1, count + there) for hit, count in zip(hits, named, strict=True)]
        thresholds.append(_middle_best(scores))
    return tuple(thresholds)


def _middle_best(found: Sequence[float]) -> float:
    values = np.asarray(found)
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return CANDIDATES[int(best[len(best) // 2])]


def mean_iou(validation: ValidationScores, thresholds: Sequence[float]) -> float:
    """The mean over classes of the IoU over all windows, with these thresholds."""
    num_classes = validation.presence_NC.shape[1]
    present_NC = present_classes(validation.presence_NC, thresholds)
    label_P = validation.scores_PC.masked_fill(~present_NC[validation.window_P], -torch.inf).argmax(dim=1)
    pairs = validation.truth_P * num_classes + label_P
    counts: npt.NDArray[np.int64] = torch.bincount(pairs, minlength=num_classes**2).numpy().reshape(num_classes, -1)
    hits = np.diag(counts).astype(float)
    union = counts.sum(0) + counts.sum(1) - hits
    return float(np.mean(hits[union > 0] / union[union > 0]))
