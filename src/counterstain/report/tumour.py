"""What `evaluate` says of tumour masks: F1 image by image with intervals over patients, what tumour everywhere would score,
and how far boundaries are apart.

A tumour set has two classes, one of which is the background: the other is tumour.

Does not know: models, how maps are made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from counterstain.metrics import (
    BootstrapSettings,
    Hausdorff,
    HausdorffScores,
    Interval,
    TumourScores,
    bootstrap,
    bootstrap_difference,
    f1_mix,
    f1_negatives,
    f1_positives,
    hausdorff,
    iou_positives,
    one_class,
    summed_mean,
)
from counterstain.metrics.segmentation import Counts
from counterstain.results import Classes

_WITH_INTERVALS = {
    "f1_positives": f1_positives,
    "f1_negatives": f1_negatives,
    "f1_mix": f1_mix,
    "iou_positives": iou_positives,
}


@dataclass(frozen=True)
class TumourReport:
    """Scores of tumour masks on a split.

    Args:
        positive_index: Which class is tumour.
        scores: Of the model.
        baseline: Of tumour everywhere, on the same images.
        intervals: Of some of the scores, by their names, over patients; empty with fewer than two patients.
        gain: F1 of positives over the baseline's, paired by patient; None with fewer than two patients.
        distances: Hausdorff distances on positives.
    """

    positive_index: int
    scores: TumourScores
    baseline: TumourScores
    intervals: Mapping[str, Interval]
    gain: Interval | None
    distances: HausdorffScores

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values, the class by name."""
        return {
            "class": names[self.positive_index],
            "scores": self.scores.to_json(),
            "intervals": {name: interval.to_json() for name, interval in self.intervals.items()},
            "gain_f1_positives": self.gain.to_json() if self.gain else None,
            "hausdorff": self.distances.to_json(),
            "everywhere": self.baseline.to_json(),
        }


def positive_index(classes: Classes) -> int | None:
    """Which class of a tumour set is tumour; None where the classes are of no such set."""
    if len(classes) != 2 or classes.background is None:
        return None
    return 1 - classes.index(classes.background)


def distance(
    label_HW: npt.NDArray[Any], truth_HW: npt.NDArray[Any], positive: int, ignore: int | None
) -> Hausdorff | None:
    """The distances on an image, ignored pixels taken out of both masks; None where its truth holds no tumour.

    Args:
        label_HW: Predicted classes.
        truth_HW: True classes, same shape.
        positive: Which class is tumour.
        ignore: The truth's value for pixels that are no class.
    """
    is_true_HW = truth_HW == positive
    return hausdorff((label_HW == positive) & (truth_HW != ignore), is_true_HW) if is_true_HW.any() else None


def tumour_report(
    confusions_NKK: Counts,
    patients: Sequence[str],
    positive: int,
    distances: HausdorffScores,
    settings: BootstrapSettings,
) -> TumourReport:
    """Sums up what was counted on each image.

    Args:
        confusions_NKK: (images, 3, 3).
        patients: Of each image.
        positive: Which class is tumour.
        distances: On positives.
        settings: How intervals are made.

    Raises:
        InputError: When there is no pixel to score.
    """
    everywhere = one_class(confusions_NKK, positive)
    intervals: dict[str, Interval] = {}
    gain = None
    if len(set(patients)) > 1:
        for name, counts in _WITH_INTERVALS.items():
            intervals[name] = bootstrap(counts(confusions_NKK, positive), patients, summed_mean, settings)
        own, other = (f1_positives(one, positive) for one in (confusions_NKK, everywhere))
        gain = bootstrap_difference(own, other, patients, summed_mean, settings)
    scores, baseline = (TumourScores.of(one, positive) for one in (confusions_NKK, everywhere))
    return TumourReport(positive, scores, baseline, intervals, gain, distances)
