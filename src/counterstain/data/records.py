"""Patches and datasets of them: what the readers of this room make and everything above it takes.

A `PatchRecord` is one image with its weak label and its patient, and a mask where there is truth to score against.
A `PatchDataset` adds what all its patches share, classes and their colours first, so that nothing above needs to ask which
dataset it has.

Does not know: how folders and tables are laid out, networks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from counterstain.data.images import (
    Mask,
    MaskCoding,
    MaskReading,
    image_size,
    read_binary_mask,
    read_flags,
    read_mask,
)
from counterstain.data.labels import Label
from counterstain.errors import InputError, UnknownNameError, listed
from counterstain.files import settings_hash, whole_hash
from counterstain.results import RGB, UNCOVERED, Classes

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class PatchRecord:
    """One patch.

    Args:
        image: Its file.
        label: One 0 or 1 for each class; None where only the mask says what is there.
        patient: Whose tissue it is. Where a dataset does not say, each patch has a patient of its own.
        mask: Its truth, for scoring only; None where there is none.
        exclude: A file that is not 0 where scoring leaves a pixel out, beside what `mask` itself leaves out.
        is_empty: Whether it is known to hold nothing but the background class, so that its truth needs no file.
    """

    image: Path
    label: Label | None
    patient: str
    mask: Path | None = None
    exclude: Path | None = None
    is_empty: bool = False

    @property
    def has_truth(self) -> bool:
        """Whether there is something to score against."""
        return self.mask is not None or self.is_empty


@dataclass(frozen=True)
class PatchDataset:
    """Patches in three splits, and what they share.

    Args:
        name: For reports and run folders.
        classes: In the order of label digits and mask values.
        ignore_index: The mask value that scoring leaves out; None where there is none.
        mpp: um/px of all its images; None where unknown.
        white_is_background: Whether white areas count as background in pseudo-masks and maps.
        train: What methods learn from.
        val: What thresholds and stopping are chosen on.
        test: What is scored once.
        ignore_color: The colour of `ignore_index` in masks of colours.
        notes: What a report on this dataset has to say: patients in two splits, simulated labels, unknown patients.
        source: Folder and layout it was opened from; None where it was made otherwise.
        mask_reading: What the pixels of its mask files say; all but "indices" want two classes, one the background.
    """

    name: str
    classes: Classes
    ignore_index: int | None
    mpp: float | None
    white_is_background: bool
    train: tuple[PatchRecord, ...] = ()
    val: tuple[PatchRecord, ...] = ()
    test: tuple[PatchRecord, ...] = ()
    ignore_color: RGB = (255, 255, 255)
    notes: tuple[str, ...] = ()
    source: tuple[str, str] | None = None
    mask_reading: MaskReading = "indices"

    @property
    def splits(self) -> dict[str, tuple[PatchRecord, ...]]:
        """The records of every split, by its name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def split(self, name: str) -> tuple[PatchRecord, ...]:
        """The records of a split that must hold some.

        Raises:
            UnknownNameError: When there is no split of that name.
            InputError: When it is empty.
        """
        if name not in SPLITS:
            raise UnknownNameError("split", name, SPLITS)
        records = self.splits[name]
        if not records:
            there = [split for split in SPLITS if self.splits[split]]
            raise InputError(f"Dataset {self.name!r} has no {name} split; it has {', '.join(there) or 'none'}.")
        return records

    @property
    def mask_coding(self) -> MaskCoding:
        """What its masks' values and colours mean."""
        return MaskCoding.of(self.classes, self.ignore_index, self.ignore_color)

    def read_mask(self, record: PatchRecord) -> Mask:
        """The truth of a patch.

        Returns:
            (H, W) uint8: class indices; `ignore_index` where scoring leaves a pixel out, 255 where a dataset without an
            ignore index excludes pixels by a file of their own.

        Raises:
            InputError: When the record has no truth, or its mask holds other values, or it can't be decoded; with two
                classes, one of them the background, when label and mask contradict each other.
        """
        mask = self._file_mask(record.mask) if record.mask is not None else self._empty_mask(record)
        self._refuse_contradiction(record, mask)
        if record.exclude is not None:
            excluded = read_flags(record.exclude)
            if excluded.shape != mask.shape:
                raise InputError(
                    f"'{record.exclude}' is {excluded.shape} pixels, its mask {mask.shape}; both must agree."
                )
            mask = np.where(excluded, np.uint8(UNCOVERED if self.ignore_index is None else self.ignore_index), mask)
        return mask

    def _file_mask(self, path: Path) -> Mask:
        if self.mask_reading == "indices":
            return read_mask(path, self.mask_coding)
        index_of = np.arange(256, dtype=np.uint8)
        index_of[:2] = self._background, 1 - self._background
        mask: Mask = index_of[read_binary_mask(path, self.mask_reading, self.ignore_index)]
        return mask

    def _refuse_contradiction(self, record: PatchRecord, mask: Mask) -> None:
        """A mask that was read wrongly reads as empty, and its image would be scored as one without tumour."""
        if record.label is None or sum(record.label) != 1 or len(self.classes) != 2 or self.classes.background is None:
            return
        sought = 1 - self._background
        is_there, is_said = bool((mask == sought).any()), record.label[sought] == 1
        # What is said to be there may lie where scoring leaves pixels out.
        if is_there == is_said or (is_said and (mask != self._background).any()):
            return
        said, name = self.classes.names[record.label.index(1)], self.classes.names[sought]
        raise InputError(
            f"'{record.image}' is labelled {said}, and {'a' if is_there else 'no'} pixel of its mask '{record.mask}' reads "
            f"as {name}. Correct label or mask, or save the mask as the layout wants it."
        )

    def _empty_mask(self, record: PatchRecord) -> Mask:
        if not record.is_empty:
            raise InputError(f"Patch '{record.image}' has no mask to score against. Give its mask, or leave it out.")
        size = image_size(record.image)
        return np.full((size.height, size.width), self._background, np.uint8)

    @property
    def _background(self) -> int:
        if self.classes.background is None:
            raise InputError(
                f"Dataset {self.name!r} has images said to hold the background alone, and no class is its background. Say "
                "which one is."
            )
        return self.classes.index(self.classes.background)

    @property
    def shared_patients(self) -> dict[str, tuple[str, ...]]:
        """Patients of more than one split, each with its splits."""
        return shared_patients(self.splits)

    def digest(self) -> str:
        """A SHA-256 of names, labels, patients, classes, file lengths and the masks of val and test.

        Lengths stand for the contents of images, since reading every one of a large set would take longer than an epoch.
        The masks of the training split are never read, here either.
        """
        rows = {
            split: [
                [record.image.name, record.image.stat().st_size, record.label, record.patient]
                + [whole_hash(mask) for mask in (record.mask, record.exclude) if mask is not None and split != "train"]
                + ["empty"] * record.is_empty
                for record in records
            ]
            for split, records in self.splits.items()
        }
        return settings_hash(self.classes.to_json(), self.ignore_index, self.mpp, rows)

    def summary(self) -> dict[str, Any]:
        """Counts of patches, patients and labels for each split, and the notes; plain values for JSON."""
        return {
            "name": self.name,
            "classes": self.classes.to_json(),
            "mpp": self.mpp,
            "splits": {split: _counts(records, self.classes) for split, records in self.splits.items()},
            "notes": list(self.notes),
        }

    def provenance(self, digest: str | None = None) -> dict[str, Any]:
        """What a model that learned from it remembers: its summary, its digest, and whose tissue was looked at.

        Args:
            digest: Its digest where that is known already: working it out reads every mask of val and test.
        """
        patients = {split: patient_codes(self.splits[split]) for split in ("train", "val")}
        return {**self.summary(), "digest": digest or self.digest(), "patients": patients}


def patient_codes(records: Iterable[PatchRecord]) -> list[str]:
    """A code for each patient, in order: models are handed on, and who was in their training set is told by no name.

    A code hides a name only from those who can't guess it; it is no anonymisation.
    """
    return sorted({patient_code(record.patient) for record in records})


def patient_code(patient: str) -> str:
    """Sixteen hexadecimal digits, the same for the same name."""
    return settings_hash("patient", patient)[:16]


def shared_patients(splits: Mapping[str, Iterable[PatchRecord]]) -> dict[str, tuple[str, ...]]:
    """Patients that occur in more than one split, each with the names of its splits, in order."""
    places: dict[str, list[str]] = {}
    for name, records in splits.items():
        for patient in {record.patient for record in records}:
            places.setdefault(patient, []).append(name)
    return {patient: tuple(names) for patient, names in sorted(places.items()) if len(names) > 1}


def check_readable(records: Iterable[PatchRecord], *, with_masks: bool) -> None:
    """Opens every image's header, and with masks compares the sizes of both; nothing is decoded.

    Raises:
        InputError: Listing every image that is none, and every mask of another size.
    """
    bad: list[str] = []
    for record in records:
        try:
            size = image_size(record.image)
            if with_masks:
                masks = [path for path in (record.mask, record.exclude) if path is not None]
                bad += [f"{path}: not {size.width} x {size.height} px" for path in masks if image_size(path) != size]
        except InputError as error:
            bad.append(str(error))
    if bad:
        raise InputError(listed(f"{len(bad)} files of the dataset can't be used:", bad))


def _counts(records: Sequence[PatchRecord], classes: Classes) -> dict[str, Any]:
    labels = [record.label for record in records if record.label is not None]
    return {
        "patches": len(records),
        "patients": len({record.patient for record in records}),
        "masks": sum(record.has_truth for record in records),
        "present": {name: sum(label[index] for label in labels) for index, name in enumerate(classes.names)},
    }
