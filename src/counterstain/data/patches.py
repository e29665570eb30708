"""Opening a patch dataset: a published layout or a table, recognised or named.

The layout is recognised when one alone fits: its folders, its training names' digits as it writes them, and its patients.
Two layouts share folders and number of classes and differ in the classes' order, so that a near fit is not enough.

Does not know: how a layout or a table is read, what is done with a dataset.
"""

from dataclasses import replace
from pathlib import Path

from counterstain.data.labels import Label, parse_label
from counterstain.data.published import find_splits, read_published, split_images
from counterstain.data.records import PatchDataset, check_readable, shared_patients
from counterstain.data.splits import FRACTIONS, Fractions
from counterstain.data.table import TABLE, read_table
from counterstain.data.tumour_folders import TUMOUR_LAYOUTS, fits_tumour_layout, read_tumour_folders
from counterstain.errors import InputError, LabelError, UnknownNameError
from counterstain.files import existing
from counterstain.layouts import LAYOUTS, PatchLayout
from counterstain.log import logger
from counterstain.results import Classes

TABLE_LAYOUT = "table"
LAYOUT_NAMES = (*LAYOUTS, TABLE_LAYOUT, *TUMOUR_LAYOUTS)


def open_patches(
    folder: Path | str,
    layout: str | None = None,
    *,
    mpp: float | None = None,
    fractions: Fractions = FRACTIONS,
    seed: int = 0,
) -> PatchDataset:
    """Opens a dataset of patches with weak labels.

    Every image's header is read, and those of masks to score against; nothing is decoded. What a report must say of the
    dataset stands in its `notes`; patients in two published splits are logged as a warning too.

    Args:
        folder: The dataset, or its table.
        layout: One of LAYOUT_NAMES; recognised when it is not given.
        mpp: um/px of the images, where you know better than the layout or the table.
        fractions: Of patients in train, val and test, where the dataset has no splits: a table without a column `split`,
            and "digestpath".
        seed: Of that split.

    Raises:
        MissingFileError: When the folder is not there, or lacks files; all of them at once.
        LabelError: When labels can't be parsed; all of them at once.
        SplitError: When a table's splits share a patient, or splits can't be made.
        InputError: When the layout can't be told, or the folder does not have it, or images can't be read.
    """
    folder = existing(folder, "a dataset of patches")
    if layout is not None and layout not in LAYOUT_NAMES:
        raise UnknownNameError("dataset layout", layout, LAYOUT_NAMES)
    if mpp is not None and not mpp > 0:
        raise InputError(f"A resolution of {mpp} um/px was given; it must be above 0.")
    if folder.is_file() and layout not in (None, TABLE_LAYOUT):
        raise InputError(f"'{folder}' is a file, and layout {layout!r} is a folder. Give the folder.")
    chosen = TABLE_LAYOUT if folder.is_file() else layout or recognise(folder)
    if chosen == TABLE_LAYOUT:
        table = folder if folder.is_file() else existing(folder / TABLE, "the table of a dataset")
        dataset = read_table(table, mpp=mpp, fractions=fractions, seed=seed)
    elif chosen in TUMOUR_LAYOUTS:
        dataset = replace(read_tumour_folders(folder, chosen, fractions=fractions, seed=seed), mpp=mpp)
    else:
        dataset = _published(folder, LAYOUTS[chosen], mpp)
    for name, records in dataset.splits.items():
        check_readable(records, with_masks=name != "train")
    return _with_notes(replace(dataset, source=(str(folder), chosen)))


def recognise(folder: Path) -> str:
    """The one layout that a folder has.

    Raises:
        InputError: When none fits, or several do.
    """
    fitting = [name for name, layout in LAYOUTS.items() if _fits(folder, layout)]
    fitting += [name for name in TUMOUR_LAYOUTS if fits_tumour_layout(folder, name)]
    fitting += [TABLE_LAYOUT] if (folder / TABLE).is_file() else []
    if len(fitting) != 1:
        found = f"fits {' and '.join(fitting)}" if fitting else "fits no layout that can be recognised"
        raise InputError(
            f"'{folder}' {found}. Pass --layout, one of {', '.join(LAYOUT_NAMES)}: class order and colours depend on it."
        )
    logger.info("%s was recognised as %s", folder, fitting[0])
    return fitting[0]


def _fits(folder: Path, layout: PatchLayout) -> bool:
    try:
        parents = find_splits(folder, layout)
        return "train" in parents and all(
            _is_written_by(layout, path.stem) for path in split_images(parents["train"], layout)
        )
    except InputError:  # an answer here, not a failure: what does not fit is not this layout
        return False


def _is_written_by(layout: PatchLayout, stem: str) -> bool:
    label = parse_label(stem, len(layout.classes))
    return stem.endswith(layout.label_suffix(label)) and layout.patient(stem) is not None


def _published(folder: Path, layout: PatchLayout, mpp: float | None) -> PatchDataset:
    splits, notes = read_published(folder, layout)
    return PatchDataset(
        name=layout.name,
        classes=layout.classes,
        ignore_index=layout.mask_ignore,
        mpp=layout.mpp if mpp is None else mpp,
        white_is_background=layout.white_is_background,
        train=splits.get("train", ()),
        val=splits.get("val", ()),
        test=splits.get("test", ()),
        ignore_color=layout.mask_ignore_color,
        notes=notes,
    )


def _with_notes(dataset: PatchDataset) -> PatchDataset:
    notes = [*dataset.notes, *_label_notes(dataset)]
    shared = shared_patients(dataset.splits)
    if shared:
        shown = ", ".join(list(shared)[:5]) + (", ..." if len(shared) > 5 else "")
        # Refusing would shut out the published data; its users must at least read it.
        notes.append(
            f"{len(shared)} patients of {dataset.name} are in more than one of its published splits ({shown}): scores on "
            "it are not scores on unseen patients."
        )
        logger.warning(notes[-1])
    return replace(dataset, notes=tuple(notes))


def _label_notes(dataset: PatchDataset) -> list[str]:
    labels = [record.label for record in dataset.train if record.label is not None]
    if not labels:
        return []
    blank = sum(not any(label) for label in labels)
    if not any(_names_something(label, dataset.classes) for label in labels):
        raise LabelError(
            "No training label names a class other than the background; nothing can be learned. The first:",
            [str(labels[0])],
        )
    absent = [name for index, name in enumerate(dataset.classes.names) if not any(label[index] for label in labels)]
    notes = []
    if blank:
        notes.append(f"{blank} of {len(labels)} training labels are all zeros: patches in which no class occurs.")
    if absent:
        notes.append(f"No training label names {', '.join(absent)}: what no patch has can't be learned.")
    return notes


def _names_something(label: Label, classes: Classes) -> bool:
    return any(digit and name != classes.background for digit, name in zip(label, classes.names, strict=True))
