"""Presence: which classes an image holds, predicted against true.

A method that gates its maps by presence stands or falls with it, so it is scored by itself: F1, precision and recall of
each class over images, and the share of images whose whole label is right.

Does not know: masks' scores, thresholds, files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.metrics.segmentation import Floats, plain


@dataclass(frozen=True)
class PresenceScores:
    """Scores of predicted presence; fractions, NaN where undefined.

    Args:
        f1: One for each class: 2 TP / (2 TP + FP + FN); NaN for a class that is neither there nor predicted.
        precision: One for each class; NaN where it was never predicted.
        recall: One for each class; NaN where it is never there.
        mean_f1: Over classes whose F1 is defined.
        exact_match: The share of images with every class right.
        num_images: How many there were.
    """

    f1: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    mean_f1: float
    exact_match: float
    num_images: int

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values, classes by name, None for NaN."""
        columns = zip(names, self.f1, self.precision, self.recall, strict=True)
        return {
            "mean_f1": plain(self.mean_f1),
            "exact_match": self.exact_match,
            "num_images": self.num_images,
            "classes": {
                name: {"f1": plain(f1), "precision": plain(precision), "recall": plain(recall)}
                for name, f1, precision, recall in columns
            },
        }


def presence_scores(predicted_NC: npt.NDArray[Any], truth_NC: npt.NDArray[Any]) -> PresenceScores:
    """Scores predicted presence.

    Args:
        predicted_NC: (N, C) of 0 and 1, or bool.
        truth_NC: Likewise.

    Raises:
        InputError: When shapes differ, there are no images, or values are not 0 and 1.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    predicted, truth = np.asarray(predicted_NC), np.asarray(truth_NC)
    if predicted.shape != truth.shape or truth.ndim != 2 or not truth.size:
        raise InputError(f"Presence of {predicted.shape} was given for a truth of {truth.shape}; both must be (N, C).")
    if not (np.isin(predicted, (0, 1)).all() and np.isin(truth, (0, 1)).all()):
        raise InputError("Presence was given as something else than 0 and 1. Apply thresholds to probabilities first.")
    # A class of one column is a multilabel problem too, which sklearn would take for a binary one.
    columns = [
        precision_recall_fscore_support(truth[:, c], predicted[:, c], average="binary", zero_division=np.nan)[:3]
        for c in range(truth.shape[1])
    ]
    precision, recall, f1 = (tuple(float(value) for value in values) for values in zip(*columns, strict=True))
    defined = [value for value in f1 if not np.isnan(value)]
    exact = (predicted == truth).all(1)
    return PresenceScores(
        f1=f1,
        precision=precision,
        recall=recall,
        mean_f1=float(np.mean(defined)) if defined else float("nan"),
        exact_match=float(accuracy_score(np.ones(len(exact)), exact)),
        num_images=len(truth),
    )


def classes_in(truth_HW: npt.NDArray[Any], num_classes: int, min_share: float = 0.0) -> tuple[int, ...]:
    """Which classes a mask holds.

    Args:
        truth_HW: Class indices; other values are no class.
        num_classes: K.
        min_share: Share of all pixels that a class must cover; with 0, one pixel is enough.

    Returns:
        One 0 or 1 for each class.
    """
    share: Floats = np.array([(truth_HW == index).mean() for index in range(num_classes)])
    return tuple(((share >= min_share) & (share > 0)).astype(int).tolist())
