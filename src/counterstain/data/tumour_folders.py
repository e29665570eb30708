"""Tumour / no tumour datasets in folders, whose labels are the folders' names.

"pos_neg_gt" is what the code of weakly supervised tumour segmentation reads: FOLDER/{train,val,test}/{pos,neg,gt}.
"digestpath" is DigestPath2019's colonoscopy task as it is handed out, which has no splits. In both, masks show tumour in
white, greys of JPEG included; an image without tumour has none, since it is known to be empty, and training images are
given without theirs. Files are paired by name, never by position.

Does not know: tables of labels, how pixels are read.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from counterstain.data.published import image_files, refuse_twins
from counterstain.data.records import SPLITS, PatchDataset, PatchRecord
from counterstain.data.rows import read_rows
from counterstain.data.splits import FRACTIONS, Fractions, split_by_patient
from counterstain.data.tumour import tumour_classes
from counterstain.errors import InputError, MissingFileError, UnknownNameError, listed

POS_NEG_GT = "pos_neg_gt"
DIGESTPATH = "digestpath"
TUMOUR_LAYOUTS = (POS_NEG_GT, DIGESTPATH)

PATIENTS = "patients.csv"
"""Whose tissue each image is, beside the folders: columns `image` and `patient`. Optional."""

_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_POSITIVE, _NEGATIVE, _TRUTH = "pos", "neg", "gt"
_DIGESTPATH_POSITIVE, _DIGESTPATH_NEGATIVE = "tissue-train-pos-v1", "tissue-train-neg"
_MASK_END = "_mask"
_DIGESTPATH_NAME = re.compile(r"(.+?)_\d{4}-\d\d-\d\d[ _]\d\d_\d\d_\d\d-lv\d+(-\d+){4}")

_NEGATIVE_LABEL, _POSITIVE_LABEL = (1, 0), (0, 1)
_EMPTY_NOTE = "Negative images have no mask: they are scored as holding no tumour anywhere."


def fits_tumour_layout(folder: Path, layout: str) -> bool:
    """Whether a folder holds the folders of one of TUMOUR_LAYOUTS."""
    if layout == DIGESTPATH:
        return all((folder / name).is_dir() for name in (_DIGESTPATH_POSITIVE, _DIGESTPATH_NEGATIVE))
    return all((folder / "train" / name).is_dir() for name in (_POSITIVE, _NEGATIVE))


def read_tumour_folders(folder: Path, layout: str, *, fractions: Fractions = FRACTIONS, seed: int = 0) -> PatchDataset:
    """A dataset in one of TUMOUR_LAYOUTS.

    Args:
        folder: The dataset.
        layout: One of TUMOUR_LAYOUTS.
        fractions: Of patients in train, val and test, for "digestpath"; the other layout has its own splits.
        seed: Of that split.

    Raises:
        MissingFileError: Listing every positive of val and test without a mask, and every mask without its image.
        InputError: When the folder does not have the layout, or patients can't be told.
        SplitError: When there are too few patients to split.
    """
    if layout == DIGESTPATH:
        return _read_digestpath(folder, fractions, seed)
    return _read_pos_neg_gt(folder)


def digestpath_slide(stem: str) -> str | None:
    """The slide in a name of DigestPath2019: what stands before the time of its scan; None where there is none.

    Example:
        >>> digestpath_slide("2019_04115_1-1_2019-02-20 20_13_37-lv1-40690-7875-4758-4116")
        '2019_04115_1-1'
    """
    match = _DIGESTPATH_NAME.fullmatch(stem)
    return match.group(1) if match else None


def _read_pos_neg_gt(folder: Path) -> PatchDataset:
    splits = {split: _split_records(split, parent) for split, parent in _split_folders(folder).items()}
    every = [record for records in splits.values() for record in records]
    patient_of = _read_patients(folder, [record.image for record in every])
    notes = [_EMPTY_NOTE]
    if patient_of is None:
        notes.append(
            f"The dataset has no {PATIENTS}: each image counts as a patient of its own, so that intervals come out too "
            "narrow, and nobody can tell whether two splits share a patient."
        )
    else:
        splits = {name: _with_patients(records, patient_of) for name, records in splits.items()}
    return _dataset(folder.resolve().name, splits, tuple(notes))


def _split_folders(folder: Path) -> dict[str, Path]:
    found = {split: [folder / name for name in _FOLDERS[split] if (folder / name).is_dir()] for split in SPLITS}
    doubled = [path.name for there in found.values() if len(there) > 1 for path in there]
    if doubled:
        raise InputError(f"'{folder}' has {' and '.join(doubled)} for one split. Keep one.")
    if not any(found.values()):
        words = ", ".join(name for names in _FOLDERS.values() for name in names)
        raise InputError(f"'{folder}' has no folder of a split ({words}), each with {_POSITIVE} and {_NEGATIVE} in it.")
    return {split: there[0] for split, there in found.items() if there}


def _split_records(split: str, parent: Path) -> tuple[PatchRecord, ...]:
    """The records of a split, each with a patient of its own."""
    images = {name: image_files(parent / name) for name in (_POSITIVE, _NEGATIVE)}
    for name, files in images.items():
        refuse_twins(parent / name, files)
    if not any(images.values()):
        raise InputError(f"'{parent}' has no images in {_POSITIVE} or {_NEGATIVE}. Add them, or remove the folder.")
    # Masks of training images are never looked for, so that an incomplete or misnamed one is no reason to refuse them.
    masks = {} if split == "train" else _masks(images[_POSITIVE], parent / _TRUTH)
    records = [
        PatchRecord(image, _POSITIVE_LABEL, f"{split}/{_POSITIVE}/{image.stem}", masks.get(image))
        for image in images[_POSITIVE]
    ]
    records += [
        PatchRecord(image, _NEGATIVE_LABEL, f"{split}/{_NEGATIVE}/{image.stem}", is_empty=split != "train")
        for image in images[_NEGATIVE]
    ]
    if split != "train":
        _refuse_unmasked(records, f"'{parent / _TRUTH}'")
    return tuple(records)


def _masks(images: Sequence[Path], folder: Path) -> dict[Path, Path]:
    files = image_files(folder)
    refuse_twins(folder, files)
    return _pair(images, files, folder)


def _read_digestpath(folder: Path, fractions: Fractions, seed: int) -> PatchDataset:
    if not fits_tumour_layout(folder, DIGESTPATH):
        raise InputError(
            f"'{folder}' does not hold {_DIGESTPATH_POSITIVE} and {_DIGESTPATH_NEGATIVE}. Give their folder."
        )
    positives, masks = _digestpath_files(folder / _DIGESTPATH_POSITIVE)
    negatives, strange = _digestpath_files(folder / _DIGESTPATH_NEGATIVE)
    if strange:
        names = [mask.name for mask in strange.values()]
        raise InputError(listed(f"'{folder / _DIGESTPATH_NEGATIVE}' holds masks, which negatives have none of:", names))
    patient_of = _read_patients(folder, [*positives, *negatives])
    notes = [_EMPTY_NOTE, f"The published images have no split; patients were split {fractions} with seed {seed}."]
    if patient_of is None:
        patient_of = _digestpath_slides([*positives, *negatives])
        notes.append(
            "Its patients are slides, all that the names tell: two slides of a patient may be on both sides of a score, "
            f"unless {PATIENTS} says whose they are."
        )
    records = [PatchRecord(image, _POSITIVE_LABEL, patient_of[image], masks.get(image)) for image in positives]
    records += [PatchRecord(image, _NEGATIVE_LABEL, patient_of[image], is_empty=True) for image in negatives]
    splits = split_by_patient(records, fractions, seed)
    _refuse_unmasked([*splits["val"], *splits["test"]], f"'{folder / _DIGESTPATH_POSITIVE}'")
    splits["train"] = tuple(replace(record, mask=None, is_empty=False) for record in splits["train"])
    return _dataset(DIGESTPATH, splits, tuple(notes))


def _digestpath_files(folder: Path) -> tuple[list[Path], dict[Path, Path]]:
    """The images of a folder, and the mask of each image that has one."""
    files = image_files(folder)
    refuse_twins(folder, files)
    images = [path for path in files if not path.stem.endswith(_MASK_END)]
    return images, _pair(images, [path for path in files if path.stem.endswith(_MASK_END)], folder)


def _digestpath_slides(images: Sequence[Path]) -> dict[Path, str]:
    slides = {image: digestpath_slide(image.stem) for image in images}
    nameless = [image.name for image, slide in slides.items() if slide is None]
    if nameless:
        raise InputError(
            listed(
                f"{len(nameless)} names are not as published, '<slide>_2019-02-20 20_13_37-lv1-<x>-<y>-<w>-<h>', which "
                f"tells their slide. Keep those names, or say in {PATIENTS} (columns image, patient) whose tissue each is:",
                nameless,
            )
        )
    return {image: slide for image, slide in slides.items() if slide is not None}


def _pair(images: Iterable[Path], masks: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """The mask of each image that has one: the file of its stem, or of its stem and "_mask".

    Raises:
        MissingFileError: Listing every mask left over.
    """
    by_stem = {mask.stem: mask for mask in masks}
    images = list(images)
    paired = {image: by_stem.pop(image.stem) for image in images if image.stem in by_stem}
    for image in images:
        if image not in paired and image.stem + _MASK_END in by_stem:
            paired[image] = by_stem.pop(image.stem + _MASK_END)
    if by_stem:
        left = [mask.name for mask in by_stem.values()]
        raise MissingFileError(listed(f"Masks in '{folder}' have no positive image of their name. Complete it:", left))
    return paired


def _refuse_unmasked(records: Iterable[PatchRecord], place: str) -> None:
    unmasked = [record.image.name for record in records if not record.has_truth]
    if unmasked:
        problem = f"{len(unmasked)} positive images to be scored have no mask in {place}. Add theirs, or leave out:"
        raise MissingFileError(listed(problem, unmasked))


def _read_patients(folder: Path, images: Sequence[Path]) -> dict[Path, str] | None:
    """The patient of each image; None where no table says.

    Raises:
        InputError: Listing every image without a patient and every row that fits no image, or several.
    """
    if not (folder / PATIENTS).is_file():
        return None
    table = read_rows(folder / PATIENTS)
    image_column, patient_column = table.column("image"), table.column("patient")
    if image_column is None or patient_column is None:
        missing = "image" if image_column is None else "patient"
        raise UnknownNameError(f"column of {PATIENTS} in the place of", missing, table.header)
    named: dict[str, list[Path]] = {}
    for image in images:
        named.setdefault(image.relative_to(folder).as_posix(), []).append(image)
        named.setdefault(image.name, []).append(image)
    patient_of: dict[Path, str] = {}
    problems = []
    for row in table.rows:
        cell, patient = row.cells[image_column].replace("\\", "/"), row.cells[patient_column]
        found = named.get(cell, [])
        if len(found) == 1 and patient and patient_of.setdefault(found[0], patient) == patient:
            continue
        problems.append(f"line {row.line}: {_problem(cell, patient, len(found))}")
    problems += [f"{image.relative_to(folder).as_posix()}: no row" for image in images if image not in patient_of]
    if problems:
        raise InputError(listed(f"'{table.path}' must name each image once, with its patient:", problems))
    return patient_of


def _problem(image: str, patient: str, num_found: int) -> str:
    if num_found != 1:
        return f"no image {image!r}" if num_found == 0 else f"{num_found} images {image!r}; give the path"
    return f"another patient for {image!r}" if patient else f"no patient for {image!r}"


def _with_patients(records: Iterable[PatchRecord], patient_of: Mapping[Path, str]) -> tuple[PatchRecord, ...]:
    return tuple(replace(record, patient=patient_of[record.image]) for record in records)


def _dataset(name: str, splits: Mapping[str, tuple[PatchRecord, ...]], notes: tuple[str, ...]) -> PatchDataset:
    return PatchDataset(
        name=name,
        classes=tumour_classes(),
        ignore_index=None,
        mpp=None,
        white_is_background=False,
        train=splits.get("train", ()),
        val=splits.get("val", ()),
        test=splits.get("test", ()),
        notes=notes,
        mask_reading="white",
    )
