"""Boundary IoU: overlap within a narrow band along the contours, which large areas can't drown.

The band of a class is every pixel of it within d pixels of the class's contour (Chebyshev distance), the image's edge being
a contour too. Intersection and union of the true and predicted bands are counted for each image, added over the dataset
and divided once, as for the plain IoU.

Does not know: files, datasets.

Source: Cheng et al. 2021 (CVPR, "Boundary IoU"), section 4, and its reference implementation: d is 2 % of the image's
diagonal, rounded, at least 1. Adding counts over a dataset is ours: the paper's semantic results do the same for the IoU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from counterstain.errors import InputError
from counterstain.metrics.segmentation import Counts, Floats, mean_defined, plain, ratio


@dataclass(frozen=True)
class BoundarySettings:
    """How wide the band is.

    Args:
        ratio: Of the image's diagonal.
        width_px: In pixels; overrides `ratio`, for images whose size says nothing about the tissue.
    """

    ratio: float = 0.02
    width_px: int | None = None

    def width(self, shape: tuple[int, ...]) -> int:
        """The band's width in pixels on an image of (H, W)."""
        return self.width_px or max(1, round(self.ratio * math.hypot(*shape[:2])))


def boundary_counts(
    label_HW: npt.NDArray[Any],
    truth_HW: npt.NDArray[Any],
    num_classes: int,
    ignore: int | None = None,
    settings: BoundarySettings | None = None,
) -> Counts:
    """Pixels in the intersection and in the union of the true and predicted bands.

    Ignored pixels are taken out of the prediction too, so that their edge is a contour of both, and count for neither.

    Args:
        label_HW: Predicted classes, any integer type; values outside 0 to K - 1 mean none.
        truth_HW: True classes, same shape.
        num_classes: K.
        ignore: The truth's value for pixels that are no class.
        settings: How wide the band is.

    Returns:
        (K, 2) int64: intersection and union for each class. Counts of images add up.

    Raises:
        InputError: When shapes differ.
    """
    if label_HW.shape != truth_HW.shape:
        raise InputError(
            f"A prediction of {label_HW.shape} was given for a truth of {truth_HW.shape}; they must agree."
        )
    width = (settings or BoundarySettings()).width(truth_HW.shape)
    is_scored = np.ones(truth_HW.shape, bool) if ignore is None else truth_HW != ignore
    counts = np.zeros((num_classes, 2), np.int64)
    for index in range(num_classes):
        true = band((truth_HW == index) & is_scored, width)
        predicted = band((label_HW == index) & is_scored, width)
        counts[index] = (true & predicted).sum(), (true | predicted).sum()
    return counts


def band(is_class_HW: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    """The pixels of a mask within `width` of its contour; the image's edge is a contour.

    Returns:
        (H, W) bool, a subset of the mask.
    """
    inner = ndimage.minimum_filter(is_class_HW, size=2 * width + 1, mode="constant", cval=0)
    rim: npt.NDArray[np.bool_] = is_class_HW & ~inner
    return rim


def boundary_iou(counts: npt.NDArray[Any]) -> Floats:
    """Boundary IoU of each class.

    Args:
        counts: (..., K, 2) of `boundary_counts`.

    Returns:
        (..., K) float64 in [0, 1]; NaN for a class that neither truth nor prediction holds.
    """
    return ratio(counts[..., 0], counts[..., 1])


def mean_boundary_iou(counts: npt.NDArray[Any]) -> Floats:
    """The mean of `boundary_iou` over the classes that occur; (...,), NaN when none does. Also a statistic to bootstrap."""
    return mean_defined(boundary_iou(counts))


@dataclass(frozen=True)
class BoundaryScores:
    """Boundary IoU of a dataset's masks; fractions, NaN where undefined.

    Args:
        iou: One for each class.
        mean_iou: Over classes that occur.
    """

    iou: tuple[float, ...]
    mean_iou: float

    @classmethod
    def of(cls, counts: Counts) -> Self:
        """The scores of one image's `boundary_counts`, or of the sum of many."""
        return cls(tuple(boundary_iou(counts).tolist()), float(mean_boundary_iou(counts)))

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values, classes by name, None for NaN."""
        classes = {name: plain(value) for name, value in zip(names, self.iou, strict=True)}
        return {"mean_boundary_iou": plain(self.mean_iou), "classes": classes}
