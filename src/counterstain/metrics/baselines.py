"""What no model at all would score: one class everywhere.

A score says little without it: where one class covers two thirds of the pixels, naming that class everywhere has an IoU of
0.67 for it. The class is chosen on labels or masks that a model may see too, never on the test split.

Does not know: models, files, intervals (bootstrap the matrices of `one_class`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.metrics.segmentation import Counts, Protocol, SegmentationScores


@dataclass(frozen=True)
class Baseline:
    """The scores of one class everywhere.

    Args:
        class_index: Which class.
        chosen_on: What said that it is the most frequent, for reports: "training labels".
        scores: On the same pixels as the model's.
    """

    class_index: int
    chosen_on: str
    scores: SegmentationScores

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values, classes by name."""
        return {
            "class": names[self.class_index],
            "chosen_on": self.chosen_on,
            "scores": self.scores.to_json(names),
        }


def majority_class(labels_NC: npt.NDArray[Any]) -> int:
    """The class that most labels name; of two alike, the first.

    Args:
        labels_NC: (N, C) of 0 and 1, of the training patches. Rows of class areas do as well.

    Raises:
        InputError: When there are no labels, or all are zeros.
    """
    labels = np.asarray(labels_NC)
    if labels.ndim != 2 or not labels.sum():
        raise InputError(f"Labels of {labels.shape} that name no class were given; (N, C) with some 1 were expected.")
    return int(labels.sum(0).argmax())


def one_class(confusions: npt.NDArray[Any], class_index: int) -> Counts:
    """The matrix that predicting one class everywhere would have on the same images.

    Args:
        confusions: (..., K + 1, K + 1) of any model on these images: only the true counts, its rows' sums, are used.
        class_index: Which class.

    Returns:
        The same shape.

    Raises:
        InputError: When there is no such class.
    """
    num_classes = confusions.shape[-1] - 1
    if not 0 <= class_index < num_classes:
        raise InputError(f"Class {class_index} was given; there are {num_classes}, counted from 0.")
    constant: Counts = np.zeros_like(confusions)
    constant[..., class_index] = confusions.sum(-1)
    return constant


def majority_baseline(
    counts: Counts, class_index: int, chosen_on: str, protocol: Protocol = "exclude_background"
) -> Baseline:
    """The scores of one class everywhere, on the images of a summed matrix.

    Args:
        counts: (K + 1, K + 1), the sum of any model's matrices on these images.
        class_index: As `majority_class` chose it.
        chosen_on: What it was chosen on.
        protocol: Which pixels count.

    Raises:
        InputError: When there is no such class, or no pixel to score.
    """
    return Baseline(class_index, chosen_on, SegmentationScores.of(one_class(counts, class_index), protocol))


def one_class_scores(counts: Counts, protocol: Protocol = "exclude_background") -> tuple[SegmentationScores, ...]:
    """The scores of each class everywhere, in the classes' order."""
    number = counts.shape[-1] - 1
    return tuple(SegmentationScores.of(one_class(counts, index), protocol) for index in range(number))
