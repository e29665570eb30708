"""Splits by patient: no patient's tissue is on both sides of a score.

Images of one patient look alike, near-duplicates included, so that a split by image measures memory. Everything here
shuffles patients.

Does not know: images, labels, how datasets are stored.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from counterstain.data.records import SPLITS, PatchRecord, shared_patients
from counterstain.errors import SplitError, listed

Fractions = tuple[float, float, float]

FRACTIONS: Fractions = (0.6, 0.2, 0.2)
"""Of the patients in train, val and test, where nothing else is said."""

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What tables call the splits, in lower case."""


def split_patients(patients: Iterable[str], fractions: Fractions = FRACTIONS, seed: int = 0) -> dict[str, str]:
    """The split of each patient.

    Patients are sorted, shuffled by `numpy.random.default_rng(seed)`, and cut after the first round(train * n) and the
    next round(val * n); the rest is test, or of the last split whose fraction is above 0.

    Args:
        patients: In any order, repeated or not.
        fractions: Of the patients in train, val and test; they sum to 1. A split of fraction 0 stays empty.
        seed: Of the shuffle.

    Raises:
        SplitError: When fractions are negative or don't sum to 1, or a split of a fraction above 0 would be empty.
    """
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise SplitError(
            f"Fractions {fractions} were given for train, val and test; they must be 0 or more and sum to 1."
        )
    shuffled = sorted(set(patients))
    np.random.default_rng(seed).shuffle(shuffled)
    cut = round(fractions[0] * len(shuffled))
    second = cut + round(fractions[1] * len(shuffled))
    if not fractions[2]:  # rounding may leave patients over, and they belong to a split that was asked for
        cut, second = (cut if fractions[1] else len(shuffled)), len(shuffled)
    parts = (shuffled[:cut], shuffled[cut:second], shuffled[second:])
    empty = [name for name, part, share in zip(SPLITS, parts, fractions, strict=True) if share > 0 and not part]
    if empty:
        raise SplitError(
            f"{len(shuffled)} patients can't be split {fractions}: {', '.join(empty)} would be empty. Add patients, or "
            "give that split the fraction 0."
        )
    return {patient: name for name, part in zip(SPLITS, parts, strict=True) for patient in part}


def split_by_patient(
    records: Sequence[PatchRecord], fractions: Fractions = FRACTIONS, seed: int = 0
) -> dict[str, tuple[PatchRecord, ...]]:
    """Records in train, val and test, whole patients together, each split in the order given.

    Raises:
        SplitError: As `split_patients`.
    """
    place = split_patients((record.patient for record in records), fractions, seed)
    return {name: tuple(record for record in records if place[record.patient] == name) for name in SPLITS}


def refuse_shared_patients(splits: Mapping[str, Iterable[PatchRecord]]) -> None:
    """Refuses splits that share a patient.

    Raises:
        SplitError: Listing every such patient with its splits.
    """
    shared = shared_patients(splits)
    if shared:
        raise SplitError(
            listed(
                f"{len(shared)} patients are in more than one split, so that a score would measure memory. Move all "
                "patches of each into one split, or leave the split column out to have patients split for you:",
                [f"{patient}: {', '.join(names)}" for patient, names in shared.items()],
            )
        )
