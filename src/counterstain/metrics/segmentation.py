"""Overlap of predicted and true masks, from one confusion matrix of a whole dataset.

A mask against its truth gives a (K + 1, K + 1) matrix of pixel counts: rows are the truth, columns the prediction, and the
last of either is "none of the classes": ignored or background in the truth, undecided or background in a prediction. The
matrices of all images are added, then scored once; a mean over images would let a nearly empty image weigh as a full one.

Two protocols read the same matrix. `exclude_background` scores only pixels whose truth is a class, so that what is
predicted on ignored pixels never matters, and a class pixel predicted as none is missed and false for no class. It is the
protocol of MLPS, ARML, ESFAN and SSHR. `with_background` scores the last row and column too, as a further class whose own
IoU stays out of the mean; it is the protocol of TPRO and PBIP, and makes sense only where what is ignored is background.
Numbers of one protocol can't be set beside numbers of the other.

Does not know: files, datasets, how masks were predicted.

Source: `iouutils.scores` of Han et al. 2022 (WSSS-Tissue), which ESFAN and SSHR share; Long et al. 2015 for the
frequency-weighted IoU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError, UnknownNameError

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

Protocol = Literal["exclude_background", "with_background"]
PROTOCOLS: tuple[Protocol, ...] = ("exclude_background", "with_background")


def confusion(
    label_HW: npt.NDArray[Any], truth_HW: npt.NDArray[Any], num_classes: int, ignore: int | None = None
) -> Counts:
    """Counts pixels by true and predicted class.

    Args:
        label_HW: Predicted classes, any integer type. Values outside 0 to K - 1 mean that no class was predicted.
        truth_HW: True classes, same shape.
        num_classes: K.
        ignore: The truth's value for pixels that are no class.

    Returns:
        (K + 1, K + 1) int64, rows truth, columns prediction, the last of either "none". Matrices of images add up.

    Raises:
        InputError: When shapes differ, either is no array of integers, or the truth holds a value that is neither a class
            nor `ignore`.
    """
    if label_HW.shape != truth_HW.shape:
        raise InputError(
            f"A prediction of {label_HW.shape} was given for a truth of {truth_HW.shape}; they must agree."
        )
    if label_HW.dtype.kind not in "biu" or truth_HW.dtype.kind not in "biu":
        raise InputError(
            f"Masks of {label_HW.dtype} and {truth_HW.dtype} were given; integer class indices were expected."
        )
    label, truth = label_HW.reshape(-1).astype(np.int64), truth_HW.reshape(-1).astype(np.int64)
    is_class = (truth >= 0) & (truth < num_classes)
    foreign = ~is_class & (truth != ignore) if ignore is not None else ~is_class
    if foreign.any():
        found = sorted(set(np.unique(truth[foreign]).tolist()))[:10]
        raise InputError(
            f"The truth holds the values {found}; 0 to {num_classes - 1} and the ignore index {ignore} were expected."
        )
    rows = np.where(is_class, truth, num_classes)
    if ignore is not None:
        rows[truth == ignore] = num_classes
    columns = np.where((label >= 0) & (label < num_classes), label, num_classes)
    side = num_classes + 1
    return np.bincount(rows * side + columns, minlength=side * side).reshape(side, side)


def class_iou(confusions: npt.NDArray[Any], protocol: Protocol = "exclude_background") -> Floats:
    """Intersection over union of each class: TP / (TP + FP + FN).

    Args:
        confusions: (..., K + 1, K + 1) counts of `confusion`.
        protocol: Which pixels count.

    Returns:
        (..., K) float64 in [0, 1]; NaN for a class that neither truth nor prediction holds.
    """
    hits, true, predicted = _marginals(confusions, protocol)
    return ratio(hits, true + predicted - hits)


def class_dice(confusions: npt.NDArray[Any], protocol: Protocol = "exclude_background") -> Floats:
    """Dice of each class: 2 TP / (2 TP + FP + FN).

    Returns:
        (..., K) float64 in [0, 1]; NaN for a class that neither truth nor prediction holds. (The published code says 0
        there, which no published dataset makes use of and which would lower the mean without an error.)
    """
    hits, true, predicted = _marginals(confusions, protocol)
    return ratio(2 * hits, true + predicted)


def mean_iou(confusions: npt.NDArray[Any], protocol: Protocol = "exclude_background") -> Floats:
    """The mean of `class_iou` over the classes that occur; (...,), NaN when none does. Also a statistic to bootstrap."""
    return mean_defined(class_iou(confusions, protocol))


def mean_dice(confusions: npt.NDArray[Any], protocol: Protocol = "exclude_background") -> Floats:
    """The mean of `class_dice` over the classes that occur; (...,), NaN when none does."""
    return mean_defined(class_dice(confusions, protocol))


def frequency_weighted_iou(confusions: npt.NDArray[Any], protocol: Protocol = "exclude_background") -> Floats:
    """`class_iou` weighted by each class's share of the true pixels, over the K classes; (...,)."""
    hits, true, predicted = _marginals(confusions, protocol)
    iou = np.nan_to_num(ratio(hits, true + predicted - hits))  # a class without true pixels has no weight
    return ratio((true * iou).sum(-1), true.sum(-1))


def pixel_accuracy(confusions: npt.NDArray[Any], protocol: Protocol = "exclude_background") -> Floats:
    """The share of scored pixels that were predicted rightly; (...,)."""
    scored = _scored(confusions, protocol)
    return ratio(np.trace(scored, axis1=-2, axis2=-1), scored.sum((-2, -1)))


def dice_bound(mean_of_iou: float) -> float:
    """The largest mean Dice that a mean IoU m allows, 2 m / (1 + m): Dice is a concave function of IoU (Jensen).

    A reported pair above it can't come from one confusion matrix.
    """
    return 2 * mean_of_iou / (1 + mean_of_iou)


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of a dataset's masks; fractions, NaN where undefined.

    Args:
        protocol: Which pixels counted.
        iou: One for each class.
        dice: One for each class.
        mean_iou: Over classes that occur.
        mean_dice: Over classes that occur.
        frequency_weighted_iou: IoU weighted by true pixels.
        pixel_accuracy: Of all scored pixels.
        num_pixels: How many were scored.
    """

    protocol: Protocol
    iou: tuple[float, ...]
    dice: tuple[float, ...]
    mean_iou: float
    mean_dice: float
    frequency_weighted_iou: float
    pixel_accuracy: float
    num_pixels: int

    @classmethod
    def of(cls, counts: Counts, protocol: Protocol = "exclude_background") -> Self:
        """The scores of one matrix of `confusion`, or of the sum of many.

        Raises:
            UnknownNameError: When there is no such protocol.
            InputError: When the matrix is not square, or holds no pixel to score.
        """
        if protocol not in PROTOCOLS:
            raise UnknownNameError("protocol", protocol, PROTOCOLS)
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.shape[0] < 2:
            raise InputError(f"A matrix of {counts.shape} was given; one of (classes + 1, classes + 1) was expected.")
        scored = _scored(counts, protocol)
        if not scored.sum():
            raise InputError(
                "There is no pixel to score: the truth is ignored everywhere. Check masks and ignore index."
            )
        return cls(
            protocol=protocol,
            iou=tuple(class_iou(counts, protocol).tolist()),
            dice=tuple(class_dice(counts, protocol).tolist()),
            mean_iou=float(mean_iou(counts, protocol)),
            mean_dice=float(mean_dice(counts, protocol)),
            frequency_weighted_iou=float(frequency_weighted_iou(counts, protocol)),
            pixel_accuracy=float(pixel_accuracy(counts, protocol)),
            num_pixels=int(scored.sum()),
        )

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values, classes by name, None for NaN."""
        return {
            "protocol": self.protocol,
            "mean_iou": plain(self.mean_iou),
            "mean_dice": plain(self.mean_dice),
            "frequency_weighted_iou": plain(self.frequency_weighted_iou),
            "pixel_accuracy": plain(self.pixel_accuracy),
            "num_pixels": self.num_pixels,
            "classes": {
                name: {"iou": plain(iou), "dice": plain(dice)}
                for name, iou, dice in zip(names, self.iou, self.dice, strict=True)
            },
        }


def plain(value: float) -> float | None:
    """The value, None for NaN: JSON has no word for it."""
    return None if np.isnan(value) else float(value)


def _scored(confusions: npt.NDArray[Any], protocol: Protocol) -> npt.NDArray[Any]:
    """The matrix with pixels that don't count set to 0."""
    if protocol == "with_background":
        return confusions
    scored = confusions.copy()
    scored[..., -1, :] = 0
    return scored


def _marginals(
    confusions: npt.NDArray[Any], protocol: Protocol
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Hits, true and predicted pixels of each of the K classes, (..., K) each."""
    scored = _scored(confusions, protocol)
    hits = np.diagonal(scored, axis1=-2, axis2=-1)[..., :-1]
    return hits, scored.sum(-1)[..., :-1], scored.sum(-2)[..., :-1]


def ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> Floats:
    """The quotient, NaN over 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    quotient: Floats = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def mean_defined(values: Floats) -> Floats:
    """The mean over the last axis of what is no NaN; NaN where all is, without numpy's warning."""
    return ratio(np.nansum(values, -1), np.isfinite(values).sum(-1))
