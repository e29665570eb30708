"""What a comparison speaks of: a number made of the confusion matrices of a run, in a form that resampling patients allows.

A metric turns matrices of images into counts that add up, and summed counts into its number. The first metric of a name is
the one whose intervals and differences are told; further ones stand beside it.

Does not know: which runs are compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy.typing as npt

from counterstain.errors import InputError, UnknownNameError
from counterstain.metrics import (
    Protocol,
    f1_mix,
    f1_negatives,
    f1_positives,
    iou_positives,
    mean_dice,
    mean_iou,
    summed_mean,
)
from counterstain.metrics.intervals import Statistic
from counterstain.metrics.segmentation import Counts

MetricName = Literal["mean_iou", "tumour_f1"]
METRIC_NAMES: tuple[MetricName, ...] = ("mean_iou", "tumour_f1")


@dataclass(frozen=True)
class Metric:
    """One number of a run.

    Args:
        name: In files: "mean_iou".
        title: For people: "mean IoU".
        counts: From (N, K, K) matrices of images to (N, ...) that add up.
        statistic: From summed counts (..., counts) to (...).
        everywhere: The class whose everywhere is its baseline; None takes the most frequent one.
    """

    name: str
    title: str
    counts: Callable[[Counts], npt.NDArray[Any]]
    statistic: Statistic
    everywhere: int | None = None

    def of(self, confusions_NKK: Counts) -> float:
        """The number of all images; NaN where it is undefined."""
        return float(self.statistic(self.counts(confusions_NKK).sum(0)))


def metrics_of(name: str, protocol: Protocol, positive_index: int | None) -> tuple[Metric, ...]:
    """The metric of a name, and those that stand beside it.

    Args:
        name: "mean_iou", or "tumour_f1": the mean F1 of images that hold tumour.
        protocol: Which pixels count for overlap of classes; tumour is scored where the truth is a class.
        positive_index: Which of two classes is tumour; None where the data is no such set.

    Raises:
        UnknownNameError: When there is no such metric.
        InputError: When there is no tumour class to score.
    """
    if name not in METRIC_NAMES:
        raise UnknownNameError("metric", name, METRIC_NAMES)
    if name == "mean_iou":
        return (
            Metric("mean_iou", "mean IoU", _as_they_are, partial(mean_iou, protocol=protocol)),
            Metric("mean_dice", "Dice", _as_they_are, partial(mean_dice, protocol=protocol)),
        )
    if positive_index is None:
        raise InputError(
            "Metric 'tumour_f1' was given for data that is no tumour set. It wants two classes, one of them named as the "
            "background; compare others by 'mean_iou'."
        )
    images = {
        "tumour_f1": ("F1 positives", f1_positives),
        "f1_negatives": ("F1 negatives", f1_negatives),
        "f1_mix": ("F1 mix", f1_mix),
        "iou_positives": ("IoU positives", iou_positives),
    }
    return tuple(
        Metric(own, title, partial(counts, positive_index=positive_index), summed_mean, positive_index)
        for own, (title, counts) in images.items()
    )


def _as_they_are(confusions_NKK: Counts) -> Counts:
    return confusions_NKK
