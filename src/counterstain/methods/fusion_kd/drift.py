"""How far a student's maps have moved from its teacher's: their areas, and how much the two agree.

Losses against soft targets let tumours grow from round to round, hard targets let small ones vanish. Either shows in the
ratio of areas long before a score does, and no mask is needed to see it.

Does not know: networks, files, what is done about a drift.

N images, h w rows and columns of a map.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError

Maps = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]

THRESHOLD = 0.5
"""Probability from which a pixel counts as tumour."""

AREA_FLOOR = 1e-3
"""Share of an image below which an area counts as this much: nothing against nothing has ratio 1, and a speck that goes is
no collapse. Source: ours; 66 px of 256 x 256."""

AREA_BAND = (0.25, 1.3)
"""Median ratios of areas, student to teacher, beyond which a student is rolled back.

Source: ours. A teacher of constant masks sees about twice the tumour that there is, so a good first student shrinks, to
0.35 to 0.8 of it on sets with known masks, where an end of 0.5 kept worse teachers. Growth has no such excuse.
"""

ANY_AREA = (1e-4, 1e4)
"""A band that nothing leaves, since areas below a thousandth of an image count as that much."""

_LARGE = float(np.log(1.5))
_SMOOTH_SHARE = 1e-3  # of an image, added to both sides of a Dice: two maps of nearly nothing agree


@dataclass(frozen=True)
class Drift:
    """How predicted areas of positive images changed from teacher to student.

    Args:
        median_ratio: Over images, of the student's area to the teacher's.
        share_large: Of images whose area changed by more than half, |log ratio| > log 1.5.
        student_area: Mean share of an image that the student calls tumour.
        teacher_area: Likewise of the teacher.
    """

    median_ratio: float
    share_large: float
    student_area: float
    teacher_area: float


def area_drift(student_Nhw: Maps, teacher_Nhw: Maps, is_positive_N: npt.NDArray[np.bool_]) -> Drift:
    """The drift of areas on positive images.

    Args:
        student_Nhw: Probabilities in [0, 1].
        teacher_Nhw: Of the same images, in the same order.
        is_positive_N: Which of them hold tumour.

    Raises:
        InputError: When shapes differ or no image is positive.
    """
    check_pair(student_Nhw, teacher_Nhw, is_positive_N)
    student, teacher = areas(student_Nhw[is_positive_N]), areas(teacher_Nhw[is_positive_N])
    logs = np.log(np.maximum(student, AREA_FLOOR) / np.maximum(teacher, AREA_FLOOR))
    return Drift(
        median_ratio=float(np.exp(np.median(logs))),
        share_large=float((np.abs(logs) > _LARGE).mean()),
        student_area=float(student.mean()),
        teacher_area=float(teacher.mean()),
    )


def agreement(student_Nhw: Maps, teacher_Nhw: Maps, is_positive_N: npt.NDArray[np.bool_]) -> float:
    """The mean `soft_dice` of student and teacher on positive images.

    It says whether a round still changes anything, and nothing about quality: it rises as a student takes over its
    teacher's mistakes.

    Raises:
        InputError: When shapes differ or no image is positive.
    """
    check_pair(student_Nhw, teacher_Nhw, is_positive_N)
    return float(soft_dice(student_Nhw[is_positive_N], teacher_Nhw[is_positive_N]).mean())


def areas(maps_Nhw: Maps) -> Floats:
    """The share of each image that is called tumour; (N,) float64."""
    share_N: Floats = (maps_Nhw >= THRESHOLD).mean((1, 2), dtype=np.float64)
    return share_N


def soft_dice(one_Nhw: Maps, other_Nhw: Maps) -> Floats:
    """How well two maps agree, image by image: 1 - sum|a - b| / (sum a + sum b), smoothed.

    On masks it is Dice. Unlike 2 sum(ab) / (sum a + sum b), which a soft map does not reach with itself, it is 1 for equal
    maps and only for those.

    Args:
        one_Nhw: Probabilities in [0, 1].
        other_Nhw: Likewise.

    Returns:
        (N,) float64 in [0, 1].

    Source: arXiv 2303.16296, Dice semimetric loss; the smoothing by a thousandth of the image is ours.
    """
    one, other = one_Nhw.astype(np.float64), other_Nhw.astype(np.float64)
    smooth = _SMOOTH_SHARE * one.shape[1] * one.shape[2]
    apart_N = np.abs(one - other).sum((1, 2))
    agreement_N: Floats = 1 - apart_N / (one.sum((1, 2)) + other.sum((1, 2)) + smooth)
    return agreement_N


def check_pair(one_Nhw: Maps, other_Nhw: Maps, is_positive_N: npt.NDArray[np.bool_]) -> None:
    """Refuses maps that are not of the same images, or of none that is positive.

    Raises:
        InputError: When so.
    """
    if one_Nhw.shape != other_Nhw.shape or is_positive_N.shape != one_Nhw.shape[:1]:
        raise InputError(
            f"Maps of {one_Nhw.shape} and {other_Nhw.shape} were given with {is_positive_N.shape} labels; both must be of "
            "the same images, with one label for each. Let both networks look at the same held-out set."
        )
    if not is_positive_N.any():
        raise InputError("No image is positive; maps are compared on positives. Hold some out.")
