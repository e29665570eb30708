"""Datasets in the published folder layouts, whose training labels stand in the file names.

A layout's facts come from `counterstain.layouts`; here they meet a folder. Every name that a published archive gives a
split's folder is accepted, images lie in the split itself or in `img`, truth in `mask`, and what scoring leaves out beside
it in a folder of the layout's own.

Does not know: tables, which layouts there are.
"""

from itertools import pairwise
from pathlib import Path

from counterstain.data.images import IMAGE_SUFFIXES
from counterstain.data.labels import Label, parse_labels
from counterstain.data.records import SPLITS, PatchRecord
from counterstain.errors import InputError, MissingFileError, listed
from counterstain.layouts import PatchLayout

_MASK_FOLDER = "mask"


def read_published(folder: Path, layout: PatchLayout) -> tuple[dict[str, tuple[PatchRecord, ...]], tuple[str, ...]]:
    """The records of a layout's splits, and what a report has to say of them.

    Training patches have labels and no masks, the others masks and no labels.

    Raises:
        LabelError: Listing every training image whose name carries no label.
        MissingFileError: Listing every image without a mask and every mask without an image.
        InputError: When the folder does not have the layout, or two images differ in their suffix alone.
    """
    parents = find_splits(folder, layout)
    splits: dict[str, tuple[PatchRecord, ...]] = dict.fromkeys(SPLITS, ())
    for name, parent in parents.items():
        splits[name] = _records(name, parent, layout)
    notes = tuple(note for name, records in splits.items() for note in _unknown_patients(name, records))
    return splits, notes


def find_splits(folder: Path, layout: PatchLayout) -> dict[str, Path]:
    """The folder of every split of a layout that is there.

    Raises:
        InputError: When none is there, or one under two names.
    """
    names = {"train": layout.train_folders, "val": layout.val_folders, "test": layout.test_folders}
    found = {split: [folder / name for name in names[split] if (folder / name).is_dir()] for split in SPLITS}
    for split, there in found.items():
        if len(there) > 1:
            raise InputError(
                f"'{folder}' has {' and '.join(path.name for path in there)} for its {split} split. Keep one."
            )
    if not any(found.values()):
        expected = [name for split in SPLITS for name in names[split]]
        deeper = [path for path in sorted(folder.iterdir()) if any((path / name).is_dir() for name in expected)]
        hint = f" They lie deeper: give '{deeper[0]}'." if deeper else ""
        raise InputError(f"'{folder}' has no folder of a split of {layout.name}: {', '.join(expected)}.{hint}")
    return {split: there[0] for split, there in found.items() if there}


def split_images(parent: Path, layout: PatchLayout) -> list[Path]:
    """The images of a split's folder, by name.

    Raises:
        InputError: When there are none, when they lie in two places, or when two differ in their suffix alone.
    """
    places = [parent / name if name else parent for name in layout.image_folders]
    filled = [images for images in map(image_files, places) if images]
    if len(filled) != 1:
        names = " or ".join(f"'{place}'" for place in places)
        found = "none" if not filled else "some in both"
        raise InputError(f"Images were expected in {names}; there are {found}. Keep them in one of the two.")
    refuse_twins(parent, filled[0])
    return filled[0]


def image_files(folder: Path) -> list[Path]:
    """The images of a folder, by stem; none where it is not there.

    Hidden files are left out: archives made on macOS hold a `._` twin of each.
    """
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted((path for path in files if not path.name.startswith(".")), key=lambda path: (path.stem, path.name))


def refuse_twins(folder: Path, images: list[Path]) -> None:
    """Refuses images, in the order of `image_files`, of which two differ in their suffix alone.

    Raises:
        InputError: Listing them.
    """
    twins = [first.stem for first, second in pairwise(images) if first.stem == second.stem]
    if twins:
        raise InputError(listed(f"Images in '{folder}' differ in their suffix alone. Keep one of each:", twins))


def _records(split: str, parent: Path, layout: PatchLayout) -> tuple[PatchRecord, ...]:
    images = split_images(parent, layout)
    patients = [layout.patient(path.stem) or f"{split}/{path.stem}" for path in images]
    labels: list[Label | None] = [None] * len(images)
    masks: list[Path | None] = [None] * len(images)
    excluded: list[Path | None] = [None] * len(images)
    if split == "train":
        labels = list(parse_labels((path.stem for path in images), len(layout.classes)))
    else:
        masks = _partners(parent / _MASK_FOLDER, images)
        if layout.background_folder is not None and (parent / layout.background_folder).is_dir():
            excluded = _partners(parent / layout.background_folder, images)
    columns = zip(images, labels, patients, masks, excluded, strict=True)
    return tuple(PatchRecord(*column) for column in columns)


def _partners(folder: Path, images: list[Path]) -> list[Path | None]:
    """The file of the same stem in another folder, for each image."""
    if not folder.is_dir():
        raise MissingFileError(
            f"'{folder}' is not there; it was expected to hold a mask for each of {len(images)} images."
        )
    by_stem = {path.stem: path for path in image_files(folder)}
    left_over = sorted(by_stem.keys() - {image.stem for image in images})
    problems = [f"{image.name}: no file of this name in {folder.name}" for image in images if image.stem not in by_stem]
    problems += [f"{by_stem[stem].name} in {folder.name}: no image of this name" for stem in left_over]
    if problems:
        raise MissingFileError(listed(f"Images and '{folder}' do not match. Complete the dataset:", problems))
    return [by_stem[image.stem] for image in images]


def _unknown_patients(split: str, records: tuple[PatchRecord, ...]) -> list[str]:
    unknown = sum(record.patient.startswith(f"{split}/") for record in records)
    if not unknown:
        return []
    return [
        f"{unknown} of {len(records)} file names of the {split} split carry no patient: each of these patches counts as a "
        "patient of its own, and intervals come out too narrow where patches share one."
    ]
