"""Presence thresholds chosen on a validation split.

The gate decides which classes a map may show; its thresholds are the one thing that pixel truth of the validation split is
used for, and the test split never. They are found one class after the other, each where the mean IoU is best.

Does not know: networks, images.

N windows, C classes, h w reduced rows and columns.
"""

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
    """What the network says of validation windows, before the gate.

    Args:
        scores_NChw: Fused CAMs; only their order within a pixel matters.
        presence_NC: In [0, 1].
        truth_Nhw: Class indices; anything else is left out.
    """

    scores_NChw: Tensor
    presence_NC: Tensor
    truth_Nhw: Tensor

    @classmethod
    def joined(cls, parts: Sequence["ValidationScores"]) -> "ValidationScores":
        """The windows of all parts."""
        return cls(
            torch.cat([part.scores_NChw for part in parts]),
            torch.cat([part.presence_NC for part in parts]),
            torch.cat([part.truth_Nhw for part in parts]),
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
            found = np.array([mean_iou(validation, trial) for trial in trials])
            best = np.flatnonzero(found >= found.max() - 1e-12)
            thresholds[index] = CANDIDATES[best[len(best) // 2]]
    return tuple(thresholds)


def mean_iou(validation: ValidationScores, thresholds: Sequence[float]) -> float:
    """The mean over classes of the IoU over all windows, with these thresholds."""
    num_classes = validation.presence_NC.shape[1]
    present_NC = present_classes(validation.presence_NC, torch.tensor(list(thresholds)))
    label_Nhw = validation.scores_NChw.masked_fill(~present_NC[:, :, None, None], -torch.inf).argmax(dim=1)
    is_scored = (validation.truth_Nhw >= 0) & (validation.truth_Nhw < num_classes)
    pairs = validation.truth_Nhw[is_scored].long() * num_classes + label_Nhw[is_scored]
    counts: npt.NDArray[np.int64] = torch.bincount(pairs, minlength=num_classes**2).numpy().reshape(num_classes, -1)
    hits = np.diag(counts).astype(float)
    union = counts.sum(0) + counts.sum(1) - hits
    return float(np.mean(hits[union > 0] / union[union > 0]))
