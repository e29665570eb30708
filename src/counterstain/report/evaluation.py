"""`evaluate`: a model and a split with pixel truth in, scores with baselines and intervals out.

Every image is mapped as a slide is, by blended windows; one confusion matrix for each image is kept, summed for the scores
and resampled by patient for the intervals. What one class everywhere would score stands beside every result. Tumour masks
are scored image by image, too.

Does not know: how maps are made, what a gate lets through, which split is opened how often.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain import log
from counterstain.data import PatchDataset, PatchRecord, read_image
from counterstain.errors import InputError, UnknownNameError
from counterstain.infer import DenseModel, PredictSettings
from counterstain.metrics import (
    PROTOCOLS,
    Baseline,
    BootstrapSettings,
    BoundaryScores,
    BoundarySettings,
    Hausdorff,
    HausdorffScores,
    Interval,
    PresenceScores,
    Protocol,
    SegmentationScores,
    bootstrap,
    bootstrap_difference,
    boundary_counts,
    classes_in,
    confusion,
    majority_baseline,
    majority_class,
    mean_boundary_iou,
    mean_iou,
    one_class,
    presence_scores,
)
from counterstain.metrics.segmentation import plain
from counterstain.report.gate import GATES, Gate, predict_labels, refuse_other_gate
from counterstain.report.metric import MetricName, metrics_of
from counterstain.report.protocol import ScoringProtocol, refuse_other_protocol
from counterstain.report.tumour import TumourReport, distance, positive_index, tumour_report
from counterstain.results import UNCOVERED

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EvaluateSettings:
    """How a model is scored.

    Args:
        protocol: Which pixels count; see docs/metrics.md.
        gate: Which classes a map may show: those the model judges present, those that the image's mask holds (an oracle)
            or all.
        min_share: Share of an image that a class must cover to count as present, for presence scores; the gate of the
            truth does not look at it.
        boundary: How wide the band of the boundary IoU is.
        bootstrap: How intervals are made.

    Raises:
        UnknownNameError: When there is no such protocol or gate.
    """

    protocol: Protocol = "exclude_background"
    gate: Gate = "predicted"
    min_share: float = 0.0
    boundary: BoundarySettings = field(default_factory=BoundarySettings)
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UnknownNameError("protocol", self.protocol, PROTOCOLS)
        if self.gate not in GATES:
            raise UnknownNameError("gate", self.gate, GATES)


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on a split.

    Args:
        split: Which.
        class_names: In order.
        protocol: The rules it was made under.
        scores: Overlap over all images.
        boundary: Likewise, along contours.
        presence: Of the classes shown in each image's map against those in its truth.
        mean_iou: With its interval over patients; None with fewer than two patients.
        mean_boundary_iou: Likewise.
        baseline: One class everywhere.
        gain: The mean IoU over the baseline's, paired by patient; None with fewer than two patients.
        confusions_NKK: (images, classes + 1, classes + 1), for comparisons with another model.
        patients: Of each image.
        tumour: Where the dataset has two classes, one of which is the background; None otherwise.
    """

    split: str
    class_names: tuple[str, ...]
    protocol: ScoringProtocol
    scores: SegmentationScores
    boundary: BoundaryScores
    presence: PresenceScores
    mean_iou: Interval | None
    mean_boundary_iou: Interval | None
    baseline: Baseline
    gain: Interval | None
    confusions_NKK: Counts
    patients: tuple[str, ...]
    tumour: TumourReport | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; the matrices are summed."""
        names = self.class_names
        intervals = {"mean_iou": self.mean_iou, "mean_boundary_iou": self.mean_boundary_iou, "gain": self.gain}
        return {
            "split": self.split,
            "num_images": len(self.patients),
            "num_patients": len(set(self.patients)),
            "protocol": self.protocol.to_json(),
            "scores": self.scores.to_json(names),
            "boundary_iou": {
                "mean": plain(self.boundary.mean_iou),
                **{name: plain(value) for name, value in zip(names, self.boundary.iou, strict=True)},
            },
            "presence": self.presence.to_json(names),
            "intervals": {name: interval.to_json() if interval else None for name, interval in intervals.items()},
            "baseline": self.baseline.to_json(names),
            "tumour": self.tumour.to_json(names) if self.tumour else None,
            "confusion": self.confusions_NKK.sum(0).tolist(),
            "notes": list(self.protocol.notes),
        }


def evaluate(
    model: DenseModel,
    data: PatchDataset,
    split: str,
    predict: PredictSettings | None = None,
    settings: EvaluateSettings | None = None,
) -> Evaluation:
    """Scores a model on the images of a split.

    Args:
        model: Whose maps; its classes must be the dataset's.
        data: Whose masks.
        split: "val" or "test".
        predict: How images are tiled and mapped.
        settings: How they are scored.

    Raises:
        InputError: When the split has no images or one has no mask, the classes differ, or the model can't be given the
            gate.
    """
    settings, predict = settings or EvaluateSettings(), predict or PredictSettings()
    refuse_other_classes(model, data)
    protocol = protocol_of(model, predict, settings)
    records = data.split(split)
    counted = _count(model, data, records, predict, settings)
    total = counted.confusions_NKK.sum(0)
    index, chosen_on = majority_of(data, total)
    patients = tuple(record.patient for record in records)
    constant = one_class(counted.confusions_NKK, index)
    has_intervals = len(set(patients)) > 1

    def statistic(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return mean_iou(counts, settings.protocol)

    return Evaluation(
        split=split,
        class_names=data.classes.names,
        protocol=protocol,
        scores=SegmentationScores.of(total, settings.protocol),
        boundary=BoundaryScores.of(counted.bands_NK2.sum(0)),
        presence=_presence(counted, settings),
        mean_iou=bootstrap(counted.confusions_NKK, patients, statistic, settings.bootstrap) if has_intervals else None,
        mean_boundary_iou=(
            bootstrap(counted.bands_NK2, patients, mean_boundary_iou, settings.bootstrap) if has_intervals else None
        ),
        baseline=majority_baseline(total, index, chosen_on, settings.protocol),
        gain=(
            bootstrap_difference(counted.confusions_NKK, constant, patients, statistic, settings.bootstrap)
            if has_intervals
            else None
        ),
        confusions_NKK=counted.confusions_NKK,
        patients=patients,
        tumour=_tumour(counted, data, patients, settings),
    )


def refuse_other_classes(model: DenseModel, data: PatchDataset) -> None:
    """Refuses to score a model on classes that are not its own.

    Raises:
        InputError: When names or their order differ.
    """
    if model.classes.names != data.classes.names:
        raise InputError(
            f"The model knows {', '.join(model.classes.names)}; the dataset has {', '.join(data.classes.names)}. Score it "
            "on a dataset of its own classes."
        )


def protocol_of(model: DenseModel, predict: PredictSettings, settings: EvaluateSettings) -> ScoringProtocol:
    """The rules under which a model is scored with these settings.

    Raises:
        InputError: When the model can't be given the gate.
    """
    refuse_other_gate(model, settings.gate)
    thresholds = getattr(model, "thresholds", None) if settings.gate == "predicted" else None
    known = tuple(float(value) for value in thresholds) if thresholds is not None else None
    return ScoringProtocol(settings.protocol, settings.gate, predict.tta, known)


def compare_evaluations(
    one: Evaluation, other: Evaluation, settings: BootstrapSettings | None = None, metric: MetricName = "mean_iou"
) -> Interval:
    """A metric of one model less that of another on the same images, patients resampled alike for both.

    Args:
        one: Of the first.
        other: Of the second.
        settings: How the interval is made.
        metric: "mean_iou", or "tumour_f1": the mean F1 of images that hold tumour.

    Raises:
        InputError: When protocols, classes or images differ, there are fewer than two patients, or there is no tumour to
            score.
        UnknownNameError: When there is no such metric.
    """
    refuse_other_protocol(one.protocol, other.protocol)
    if one.class_names != other.class_names:
        raise InputError(
            f"Evaluations of the classes {', '.join(one.class_names)} and {', '.join(other.class_names)} were given; a "
            "pair needs the same, in the same order."
        )
    # Rows of a confusion matrix are the truth: other counts of true pixels are other images.
    truths = [evaluation.confusions_NKK.sum(2) for evaluation in (one, other)]
    if one.patients != other.patients or not np.array_equal(*truths):
        raise InputError(
            f"Evaluations of {len(one.patients)} and {len(other.patients)} images were given that are not the same ones in "
            "the same order. Score both on the same split of the same dataset."
        )
    index = one.tumour.positive_index if one.tumour else None
    first = metrics_of(metric, one.protocol.background, index)[0]
    counts, other_counts = (first.counts(evaluation.confusions_NKK) for evaluation in (one, other))
    return bootstrap_difference(counts, other_counts, one.patients, first.statistic, settings)


def ignored(data: PatchDataset) -> int:
    """The value of masks that is not scored: the dataset's own, or UNCOVERED where a file of its own excludes pixels."""
    return UNCOVERED if data.ignore_index is None else data.ignore_index


@dataclass(frozen=True)
class _Counted:
    """What was counted on each image."""

    confusions_NKK: Counts
    bands_NK2: Counts
    shown_NC: Counts
    there_NC: Counts
    distances: tuple[Hausdorff | None, ...]


def _count(
    model: DenseModel,
    data: PatchDataset,
    records: Sequence[PatchRecord],
    predict: PredictSettings,
    settings: EvaluateSettings,
) -> _Counted:
    num, ignore, tumour = len(data.classes), ignored(data), positive_index(data.classes)
    confusions, bands, shown, there, distances = [], [], [], [], []
    with log.progress("Scoring", len(records), "images") as counter:
        for record in records:
            truth_HW = data.read_mask(record)
            label_HW = predict_labels(read_image(record.image), truth_HW, model, settings.gate, predict)
            confusions.append(confusion(label_HW, truth_HW, num, ignore))
            bands.append(boundary_counts(label_HW, truth_HW, num, ignore, settings.boundary))
            shown.append(classes_in(label_HW, num, settings.min_share))
            there.append(classes_in(truth_HW, num, settings.min_share))
            distances.append(None if tumour is None else distance(label_HW, truth_HW, tumour, ignore))
            counter.advance()
    return _Counted(np.array(confusions), np.array(bands), np.array(shown), np.array(there), tuple(distances))


def _tumour(
    counted: _Counted, data: PatchDataset, patients: Sequence[str], settings: EvaluateSettings
) -> TumourReport | None:
    index = positive_index(data.classes)
    if index is None:
        return None
    on_positives = [one for one in counted.distances if one is not None]
    distances = HausdorffScores.of(on_positives, data.mpp)
    return tumour_report(counted.confusions_NKK, patients, index, distances, settings.bootstrap)


def _presence(counted: _Counted, settings: EvaluateSettings) -> PresenceScores:
    """Of all images; where ignored pixels are not scored, of those that hold another: the rest say nothing of presence."""
    if settings.protocol == "with_background":
        return presence_scores(counted.shown_NC, counted.there_NC)
    is_scored_N = counted.confusions_NKK[:, :-1].any((1, 2))
    return presence_scores(counted.shown_NC[is_scored_N], counted.there_NC[is_scored_N])


def majority_of(data: PatchDataset, total: Counts) -> tuple[int, str]:
    """The class to name everywhere: the one most training labels name; where they tie, the best of the tied."""
    labels = [record.label for record in data.train if record.label is not None]
    if not labels:
        return int(total[:-1].sum(1).argmax()), "the scored masks themselves: there are no training labels"
    named = np.array(labels).sum(0)
    tied = np.flatnonzero(named == named.max())
    if len(tied) == 1:
        return majority_class(np.array(labels)), "training labels"
    scores = [float(mean_iou(one_class(total, int(index)))) for index in tied]
    return int(tied[int(np.argmax(scores))]), "training labels; of tied classes the one that scores best here"
