"""Datasets in a table: `labels.csv` beside the images.

Columns: `image`; optionally `split`, `patient`, `mask`, `mpp`; then a column of 0 and 1 for each class, or one column
`label` of class names between semicolons. One class column alone makes two classes, it and "normal". `classes.toml` (or
`.json`) beside the table may add colours, order, resolution and the mask value that scoring leaves out.

Does not know: published layouts, what happens to the records.
"""

import colorsys
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from counterstain.data.labels import Label
from counterstain.data.records import SPLITS, PatchDataset, PatchRecord
from counterstain.data.rows import Row, Rows, read_rows
from counterstain.data.splits import FRACTIONS, SPLIT_WORDS, Fractions, refuse_shared_patients, split_by_patient
from counterstain.data.tumour import NORMAL, is_positive, tumour_class, tumour_classes
from counterstain.errors import InputError, LabelError, MissingFileError, SplitError, UnknownNameError, listed
from counterstain.files import read_json
from counterstain.results import RGB, UNCOVERED, Classes
from counterstain.settings import read_toml

TABLE = "labels.csv"
CLASS_FILES = ("classes.toml", "classes.json")

_RESERVED = ("image", "split", "patient", "mask", "mpp", "label")
_DIGITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}  # spreadsheets and pandas write whole numbers as 1.0
_SEPARATOR = ";"

# Okabe and Ito 2008: told apart by people who see no red or no green. Their black is left out: masks use it for nothing.
DEFAULT_COLORS: tuple[RGB, ...] = (
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
)


@dataclass(frozen=True)
class ClassFile:
    """What `classes.toml` says, or would say by default.

    Args:
        classes: None where the table's header names them.
        name: Of the dataset; None for its folder's.
        background: The class that stands for nothing of interest.
        ignore_index: The mask value that scoring leaves out; None for 255, or for no value where a mask is 0 or not 0.
        ignore_color: Its colour in masks of colours.
        mpp: um/px of all images.
        white_is_background: Whether white areas count as background.
        notes: What reports have to say of the dataset.
    """

    classes: Classes | None = None
    name: str | None = None
    background: str | None = None
    ignore_index: int | None = None
    ignore_color: RGB = (255, 255, 255)
    mpp: float | None = None
    white_is_background: bool = False
    notes: tuple[str, ...] = ()


def default_colors(number: int) -> tuple[RGB, ...]:
    """Colours for classes that were given none: seven that colour-blind people tell apart, then hues of equal distance."""
    hues = [(0.61803398875 * index) % 1 for index in range(max(0, number - len(DEFAULT_COLORS)))]
    further = [colorsys.hsv_to_rgb(hue, 0.55, 0.75) for hue in hues]
    rounded = [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in further]
    return (*DEFAULT_COLORS[:number], *rounded)


def read_table(
    path: Path, *, mpp: float | None = None, fractions: Fractions = FRACTIONS, seed: int = 0
) -> PatchDataset:
    """Reads a dataset's table.

    Args:
        path: `labels.csv`, or another name.
        mpp: um/px of the images; overrides the table and the class file.
        fractions: Of patients in train, val and test, where the table has no column `split`.
        seed: Of that split.

    Raises:
        LabelError: Listing every row whose label can't be read.
        MissingFileError: Listing every image and mask that is not there.
        SplitError: When splits share a patient, or there is neither `split` nor `patient`.
        InputError: When columns or values can't be used.
    """
    table = read_rows(path)
    image_column = table.column("image")
    if image_column is None:
        raise UnknownNameError("column where 'image' was expected", table.header[0], _RESERVED)
    facts = read_class_file(path.parent)
    labelling = _labelling(table, facts)
    split_of = _splits_of(table)
    labels = _labels(table, labelling.label_of, split_of)
    paths = _paths(table, image_column)
    masks = _paths(table, table.column("mask"))
    patient_column = table.column("patient")
    patients = _patients(table, patient_column, image_column)
    columns = zip(paths, labels, patients, masks, strict=True)
    records = [PatchRecord(_present(image), label, patient, mask) for image, label, patient, mask in columns]
    if split_of is not None:
        splits = {name: tuple(r for r, s in zip(records, split_of, strict=True) if s == name) for name in SPLITS}
        refuse_shared_patients(splits)
    elif patient_column is not None:
        splits = split_by_patient(records, fractions, seed)
    else:
        raise SplitError(f"'{path}' has neither a column 'split' nor 'patient'. Add one: images are split by patient.")
    if labelling.is_binary:
        tumour = tumour_class(labelling.classes)
        splits = {name: part if name == "train" else _with_empty(part, tumour) for name, part in splits.items()}
    unknown = () if patient_column else ("The table names no patients: nobody can tell whether two splits share one.",)
    return PatchDataset(
        name=facts.name or path.resolve().parent.name,
        classes=labelling.classes,
        ignore_index=UNCOVERED if facts.ignore_index is None and not labelling.is_binary else facts.ignore_index,
        mpp=mpp if mpp is not None else _mpp(table) or facts.mpp,
        white_is_background=facts.white_is_background,
        train=splits.get("train", ()),
        val=splits.get("val", ()),
        test=splits.get("test", ()),
        ignore_color=facts.ignore_color,
        notes=(*facts.notes, *unknown),
        mask_reading="not zero" if labelling.is_binary else "indices",
    )


def read_class_file(folder: Path) -> ClassFile:
    """What the class file of a folder says; the defaults where there is none.

    Raises:
        InputError: When there are two, or one holds something else than what is documented.
    """
    there = [folder / name for name in CLASS_FILES if (folder / name).is_file()]
    if len(there) > 1:
        raise InputError(f"'{folder}' has both {' and '.join(CLASS_FILES)}. Keep one.")
    if not there:
        return ClassFile()
    path = there[0]
    tree = read_toml(path) if path.suffix == ".toml" else read_json(path)
    tree = {"classes": tree} if isinstance(tree, list) else tree
    known = ClassFile.__dataclass_fields__
    for key in tree:
        if key not in known:
            raise UnknownNameError(f"key of {path.name}", key, known)
    try:
        return _class_file(tree)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"'{path}' can't be used: {error}. Each class is a table with 'name' and, if you like, 'color' = [r, g, b]."
        ) from error


def class_file_text(dataset: PatchDataset) -> str:
    """The `classes.toml` that says of a table what a dataset says."""
    import tomli_w

    tree: dict[str, Any] = {
        "name": dataset.name,
        "white_is_background": dataset.white_is_background,
        "ignore_color": list(dataset.ignore_color),
        "notes": list(dataset.notes),
    }
    if dataset.ignore_index is not None:
        tree["ignore_index"] = dataset.ignore_index
    if dataset.mpp is not None:
        tree["mpp"] = dataset.mpp
    if dataset.classes.background is not None:
        tree["background"] = dataset.classes.background
    pairs = zip(dataset.classes.names, dataset.classes.colors, strict=True)
    tree["classes"] = [{"name": name, "color": list(color)} for name, color in pairs]
    return tomli_w.dumps(tree)


def _class_file(tree: dict[str, Any]) -> ClassFile:
    classes = None
    entries = tree.get("classes", [])
    background = tree.get("background") or next((entry["name"] for entry in entries if entry.get("background")), None)
    if entries:
        defaults = default_colors(len(entries))
        colors = tuple(_rgb(entry.get("color", default)) for entry, default in zip(entries, defaults, strict=True))
        classes = Classes(tuple(str(entry["name"]) for entry in entries), colors, background)
    mpp = tree.get("mpp")
    return ClassFile(
        classes=classes,
        name=tree.get("name"),
        background=background,
        ignore_index=None if tree.get("ignore_index") is None else int(tree["ignore_index"]),
        ignore_color=_rgb(tree.get("ignore_color", (255, 255, 255))),
        mpp=None if mpp is None else _positive(str(mpp), "mpp"),
        white_is_background=bool(tree.get("white_is_background", False)),
        notes=tuple(str(note) for note in tree.get("notes", ())),
    )


def _rgb(color: Sequence[Any]) -> RGB:
    channels = [int(channel) for channel in color]
    if len(channels) != 3 or min(channels) < 0 or max(channels) > 255:
        raise InputError(f"Colour {color} was given; three numbers from 0 to 255 were expected: [r, g, b].")
    red, green, blue = channels
    return red, green, blue


@dataclass(frozen=True)
class _Labelling:
    """How a table says what is in an image.

    Args:
        classes: In the order of labels.
        label_of: Reads a row's label: None when its cells are empty, text when they are wrong.
        is_binary: Whether an image either has the one thing that is looked for or does not.
    """

    classes: Classes
    label_of: Callable[[Row], Label | str | None]
    is_binary: bool = False


def _labelling(table: Rows, facts: ClassFile) -> _Labelling:
    label_column = table.column("label")
    return _by_columns(table, facts) if label_column is None else _by_names(table, label_column, facts)


def _by_names(table: Rows, column: str, facts: ClassFile) -> _Labelling:
    names = _names_in(table, column)
    normal = facts.background or NORMAL
    if facts.classes is None and len(names) == 2 and normal in names:
        classes = tumour_classes(names[1 - names.index(normal)], normal)
        return _Labelling(classes, lambda row: _one_of(_from_names(row.cells[column], classes), classes), True)
    classes = facts.classes or _default_classes(names, facts)
    return _Labelling(classes, lambda row: _from_names(row.cells[column], classes))


def _by_columns(table: Rows, facts: ClassFile) -> _Labelling:
    others = tuple(column for column in table.header if column.lower() not in _RESERVED)
    if facts.classes is None and len(others) == 1:
        classes = tumour_classes(others[0], facts.background or NORMAL)
    else:
        classes = facts.classes or _default_classes(others, facts)
    missing = [name for name in classes.names if name not in table.header]
    if len(classes) == 2 and missing == [classes.background]:
        tumour = 1 - classes.index(missing[0])
        return _Labelling(classes, lambda row: _from_digit(row.cells, classes, tumour), True)
    if missing:
        raise InputError(
            f"'{table.path}' has no column for the classes {missing} and no column 'label'. Its columns: "
            f"{', '.join(table.header)}."
        )
    return _Labelling(classes, lambda row: _from_digits({name: row.cells[name] for name in classes.names}))


def _default_classes(names: tuple[str, ...], facts: ClassFile) -> Classes:
    if not names:
        raise InputError("The table names no class. Add a column of 0 and 1 for each class, or one column 'label'.")
    return Classes(names, default_colors(len(names)), facts.background)


def _names_in(table: Rows, column: str) -> tuple[str, ...]:
    names = {name.strip() for row in table.rows for name in row.cells[column].split(_SEPARATOR)}
    return tuple(sorted(names - {""}))


def _from_names(cell: str, classes: Classes) -> Label | str | None:
    names = {name.strip() for name in cell.split(_SEPARATOR)} - {""}
    if not names:
        return None
    unknown = sorted(names - set(classes.names))
    return f"no class {', '.join(unknown)}" if unknown else tuple(int(name in names) for name in classes.names)


def _from_digits(cells: dict[str, str]) -> Label | str | None:
    if not any(cells.values()):
        return None
    bad = [f"{name} = {cell!r}" for name, cell in cells.items() if cell not in _DIGITS]
    return ", ".join(bad) if bad else tuple(_DIGITS[cell] for cell in cells.values())


def _from_digit(cells: dict[str, str], classes: Classes, tumour: int) -> Label | str | None:
    """The label of two classes from the column of one: 0 says that there is none of it, which names the other."""
    label = _from_digits({classes.names[tumour]: cells[classes.names[tumour]]})
    if label is None or isinstance(label, str):
        return label
    return (1 - label[0], label[0]) if tumour == 1 else (label[0], 1 - label[0])


def _one_of(label: Label | str | None, classes: Classes) -> Label | str | None:
    return f"both {' and '.join(classes.names)}; it is one of them" if label == (1, 1) else label


def _with_empty(records: Sequence[PatchRecord], tumour: int) -> tuple[PatchRecord, ...]:
    """The records, those without a mask that hold nothing of the one thing looked for being said to be empty."""
    return tuple(
        replace(r, is_empty=r.mask is None and r.label is not None and not is_positive(r.label, tumour))
        for r in records
    )


def _labels(
    table: Rows, label_of: Callable[[Row], Label | str | None], split_of: list[str] | None
) -> list[Label | None]:
    labels: list[Label | None] = []
    bad: list[str] = []
    for position, row in enumerate(table.rows):
        label = label_of(row)
        if isinstance(label, str):
            bad.append(f"line {row.line}: {label}")
            continue
        if label is None and (split_of is None or split_of[position] == "train"):
            bad.append(f"line {row.line}: no label")
        labels.append(label)
    if bad:
        raise LabelError(
            f"'{table.path}' has {len(bad)} rows whose label can't be read; 0 or 1 for each class was expected, or known "
            "names in 'label'. Columns that are no class: list the classes in classes.toml.",
            bad,
        )
    return labels


def _splits_of(table: Rows) -> list[str] | None:
    column = table.column("split")
    if column is None:
        return None
    words = [row.cells[column].lower() for row in table.rows]
    bad = [
        f"line {r.line}: {r.cells[column]!r}" for r, w in zip(table.rows, words, strict=True) if w not in SPLIT_WORDS
    ]
    if bad:
        raise InputError(listed(f"'{table.path}' has splits other than train, val and test:", bad))
    return [SPLIT_WORDS[word] for word in words]


def _paths(table: Rows, column: str | None) -> list[Path | None]:
    """The files of a column, relative to the table; None where a cell is empty, which only a mask may be."""
    if column is None:
        return [None] * len(table.rows)
    cells = [row.cells[column] for row in table.rows]
    paths = [table.path.parent / cell.replace("\\", "/") if cell else None for cell in cells]
    missing = [
        f"line {row.line}: {cell or 'empty'}"
        for row, cell, path in zip(table.rows, cells, paths, strict=True)
        if (path is None and column.lower() == "image") or (path is not None and not path.is_file())
    ]
    if missing:
        raise MissingFileError(
            listed(f"{len(missing)} files in column {column!r} of '{table.path}' are not there:", missing)
        )
    repeated = [cell for cell, count in Counter(cells).items() if cell and count > 1]
    if repeated:
        raise InputError(
            listed(f"'{table.path}' names files of column {column!r} twice. Keep one row of each:", repeated)
        )
    return paths


def _present(path: Path | None) -> Path:
    assert path is not None
    return path


def _patients(table: Rows, column: str | None, image_column: str) -> list[str]:
    if column is None:
        return [row.cells[image_column] for row in table.rows]
    empty = [f"line {row.line}" for row in table.rows if not row.cells[column]]
    if empty:
        raise InputError(listed(f"'{table.path}' has rows without a patient. Fill in:", empty))
    return [row.cells[column] for row in table.rows]


def _mpp(table: Rows) -> float | None:
    column = table.column("mpp")
    if column is None:
        return None
    values = {_positive(row.cells[column], f"mpp in line {row.line} of '{table.path}'") for row in table.rows}
    if len(values) > 1:
        raise InputError(
            f"'{table.path}' has patches of {len(values)} resolutions, {min(values)} to {max(values)} um/px. Resample them "
            "to one, or make a table of each."
        )
    return values.pop()


def _positive(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{text!r} was given as {what}; um/px, a number above 0, was expected.")
    return value
