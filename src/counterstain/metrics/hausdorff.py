"""Hausdorff distance of a predicted and a true area: how far their boundaries are apart at the worst place.

A boundary is every pixel of an area with a neighbour outside it, left, right, above or below; the image's edge is outside,
so that an area that fills the image has a boundary too, and holes have theirs. Each boundary pixel is as far from the other
boundary as its nearest pixel there (Euclidean, between centres). The Hausdorff distance is the largest of these, of either
boundary; HD95 the 95th percentile of one boundary's or of the other's, whichever is larger.

Where nothing was predicted there is no distance: such an image has the length of its diagonal, than which none is larger,
and is counted.

Does not know: files, classes, which pixels are ignored (take them out of both areas first).

Source: Huttenlocher et al. 1993 for the distance; Maier-Hein et al. 2024 (Metrics reloaded) for the percentile of each
side. The diagonal for an empty prediction is ours: the released code of the fusion distillation paper puts a single point
into the upper left corner, so that its distance depends on where the tumour lies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from counterstain.errors import InputError
from counterstain.metrics.segmentation import Floats, plain


@dataclass(frozen=True)
class Hausdorff:
    """Distances on one image.

    Args:
        largest_px: The Hausdorff distance.
        percentile_px: HD95.
        is_empty: Whether nothing was predicted; both are the image's diagonal then.
    """

    largest_px: float
    percentile_px: float
    is_empty: bool = False


def hausdorff(predicted_HW: npt.NDArray[np.bool_], truth_HW: npt.NDArray[np.bool_]) -> Hausdorff:
    """The distances between a predicted area and a true one.

    Args:
        predicted_HW: bool; may be empty.
        truth_HW: bool, same shape, holds a pixel.

    Raises:
        InputError: When shapes differ, or the true area is empty.
    """
    if predicted_HW.shape != truth_HW.shape:
        raise InputError(
            f"A prediction of {predicted_HW.shape} was given for a truth of {truth_HW.shape}; they must agree."
        )
    if not truth_HW.any():
        raise InputError("A truth without an area was given; distances are of images that hold one. Leave it out.")
    if not predicted_HW.any():
        diagonal = math.hypot(*truth_HW.shape)
        return Hausdorff(diagonal, diagonal, is_empty=True)
    predicted, true = boundary(predicted_HW), boundary(truth_HW)
    sides = _distances(predicted, true), _distances(true, predicted)
    return Hausdorff(max(float(side.max()) for side in sides), max(float(np.percentile(side, 95)) for side in sides))


def boundary(is_area_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels of an area that have one of their four neighbours, or the image's edge, outside it; (H, W) bool."""
    rim: npt.NDArray[np.bool_] = is_area_HW & ~ndimage.binary_erosion(is_area_HW)
    return rim


def _distances(from_HW: npt.NDArray[np.bool_], to_HW: npt.NDArray[np.bool_]) -> Floats:
    """Of each pixel of one boundary to the nearest of the other, in pixels."""
    nearest: Floats = ndimage.distance_transform_edt(~to_HW)
    return nearest[from_HW]


@dataclass(frozen=True)
class HausdorffScores:
    """Distances over the positive images of a set; NaN where there are none.

    Args:
        mean_px: The mean Hausdorff distance.
        mean_95_px: The mean HD95.
        num_images: How many there are.
        num_empty: On how many nothing was predicted; they count with their diagonal.
        mpp: um/px of the images; None where unknown.
    """

    mean_px: float
    mean_95_px: float
    num_images: int
    num_empty: int
    mpp: float | None = None

    @classmethod
    def of(cls, found: Sequence[Hausdorff], mpp: float | None = None) -> Self:
        """Sums up the distances of images.

        Args:
            found: Of each positive image.
            mpp: um/px of all of them; None where unknown.
        """
        return cls(
            mean_px=float(np.mean([one.largest_px for one in found])) if found else float("nan"),
            mean_95_px=float(np.mean([one.percentile_px for one in found])) if found else float("nan"),
            num_images=len(found),
            num_empty=sum(one.is_empty for one in found),
            mpp=mpp,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, None for NaN; micrometres where the resolution is known."""
        tree = {"hd_px": plain(self.mean_px), "hd95_px": plain(self.mean_95_px)}
        if self.mpp is not None:
            tree |= {"hd_um": plain(self.mean_px * self.mpp), "hd95_um": plain(self.mean_95_px * self.mpp)}
        return {**tree, "num_images": self.num_images, "num_empty": self.num_empty}
