"""Simulated weak labels: crops of images whose masks are known, labelled by what the masks say they contain.

Where pixels were annotated, weak supervision can be rehearsed and measured: small crops are drawn at random places of the
training patients' images, each gets the classes that cover a tenth of it or more as its label, and the masks stay behind.
Whole images of the other patients, with their masks, become the val and test splits. The result is an ordinary dataset in
a table, and says in its notes that its labels are **simulated from masks**: nobody looked at a crop and named its tissues.

Does not know: which dataset it is given, networks.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from counterstain.data.images import Mask, MaskCoding, read_image, read_mask, write_image, write_mask
from counterstain.data.labels import Label
from counterstain.data.patches import open_patches
from counterstain.data.records import PatchDataset, PatchRecord
from counterstain.data.rows import read_rows
from counterstain.data.splits import FRACTIONS, Fractions, split_by_patient
from counterstain.data.table import TABLE, class_file_text
from counterstain.errors import InputError, MissingFileError, UnknownNameError, listed
from counterstain.files import refuse_overwrite, write_json, write_text
from counterstain.log import progress
from counterstain.results import UNCOVERED, Classes


@dataclass(frozen=True)
class CropSettings:
    """How crops are drawn.

    Args:
        patch_px: Width and height of a crop.
        min_cover: Share of a crop that a class must cover to stand in its label.
        draws_per_image: Places tried on each image.
        patches_per_label: Crops kept of each label; None keeps as many of each as the rarest label has.
        fractions: Of patients in train, val and test.
        seed: Of the split and of the places.
        mask_values: The value that each class has in the masks, in the classes' order; None when it is its position.
            A one-bit mask holds 0 and 1.
    """

    patch_px: int = 64
    min_cover: float = 0.1
    draws_per_image: int = 64
    patches_per_label: int | None = None
    fractions: Fractions = FRACTIONS
    seed: int = 0
    mask_values: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Crop:
    """A place on an image.

    Args:
        record: The image.
        draw: Which of the image's draws it was.
        x: Its left column.
        y: Its upper row.
        label: The classes that cover enough of it.
    """

    record: PatchRecord
    draw: int
    x: int
    y: int
    label: Label


def open_masked_images(table: Path | str, root: Path | None = None) -> tuple[PatchRecord, ...]:
    """The images of a table with the columns `image`, `mask` and `patient`; other columns are left alone.

    Args:
        table: A CSV file.
        root: The folder that paths are relative to; the table's own by default.

    Returns:
        Records without labels, in the table's order.

    Raises:
        UnknownNameError: When a column is missing.
        MissingFileError: Listing every image and mask that is not there.
        InputError: When the table can't be read.
    """
    rows = read_rows(table)
    root = root or rows.path.parent
    columns = [rows.column(name) for name in ("image", "mask", "patient")]
    for name, column in zip(("image", "mask", "patient"), columns, strict=True):
        if column is None:
            raise UnknownNameError("column in the place of", name, rows.header)
    image, mask, patient = (str(column) for column in columns)
    records = tuple(PatchRecord(root / r.cells[image], None, r.cells[patient], root / r.cells[mask]) for r in rows.rows)
    files = [path for record in records for path in (record.image, record.mask) if path is not None]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise MissingFileError(listed(f"{len(missing)} files of '{table}' are not there:", missing))
    return records


def draw_weak_patches(
    records: Sequence[PatchRecord], classes: Classes, out: Path, settings: CropSettings | None = None
) -> PatchDataset:
    """Makes a weakly labelled dataset of images with masks, and opens it.

    Labels are simulated from the masks. Training crops of every label that occurs are kept in equal numbers; the val and
    test splits are whole images with their masks.

    Args:
        records: Images with masks and patients.
        classes: What the masks' values mean.
        out: The folder to make.
        settings: How crops are drawn.

    Raises:
        ExistingOutputError: When a dataset is there already.
        SplitError: When there are too few patients.
        InputError: When an image is smaller than a crop or has no mask, a mask holds other values, or there are too few
            crops of a label.
    """
    settings = settings or CropSettings()
    refuse_overwrite(out / TABLE)
    splits = split_by_patient(records, settings.fractions, settings.seed)
    crops = balanced(find_crops(splits["train"], len(classes), settings), settings)
    dataset = PatchDataset(
        out.name, classes, UNCOVERED, None, white_is_background=False, notes=(_simulated(crops, settings),)
    )
    rows = [",".join(("image", "split", "patient", "mask", *(_quoted(name) for name in classes.names)))]
    rows += _write_crops(crops, out, settings)
    for split in ("val", "test"):
        rows += _write_whole(split, splits[split], dataset, out, settings)
    write_text(out / "classes.toml", class_file_text(dataset))
    write_json(out / "simulated.json", {"what": dataset.notes[0], "settings": asdict(settings)})
    write_text(out / TABLE, "\n".join(rows) + "\n")  # last: a folder with a table is a whole dataset
    return open_patches(out, "table")


def find_crops(records: Iterable[PatchRecord], num_classes: int, settings: CropSettings) -> list[Crop]:
    """Random places on images, labelled by their masks; places where no class covers enough are left out.

    Each image has a generator of its own, seeded by (seed, position): its places do not depend on what others hold.

    Raises:
        InputError: When an image is smaller than a crop or has no mask, or a mask holds other values.
    """
    crops = []
    records = tuple(records)
    with progress("Drawing places", len(records), "images") as counter:
        for position, record in enumerate(records):
            mask = read_class_mask(record, num_classes, settings)
            crops += _crops_of(record, mask, num_classes, settings, np.random.default_rng([settings.seed, position]))
            counter.advance()
    return crops


def balanced(crops: Sequence[Crop], settings: CropSettings) -> list[Crop]:
    """As many crops of every label as of the rarest, or as the settings ask; early draws first, so that images share alike.

    Raises:
        InputError: When a label has fewer crops than asked, or there is none at all.
    """
    by_label: dict[Label, list[Crop]] = defaultdict(list)
    for crop in sorted(crops, key=lambda crop: crop.draw):
        by_label[crop.label].append(crop)
    if not by_label:
        raise InputError("No crop was drawn: no class covers enough of any. Lower min_cover or raise draws_per_image.")
    rarest = min(len(of_label) for of_label in by_label.values())
    number = settings.patches_per_label or rarest
    if rarest < number:
        found = [f"{list(label)}: {len(of_label)}" for label, of_label in sorted(by_label.items())]
        raise InputError(listed(f"{number} crops of each label were asked for. Raise draws_per_image; found:", found))
    return [crop for _, of_label in sorted(by_label.items()) for crop in of_label[:number]]


def read_class_mask(record: PatchRecord, num_classes: int, settings: CropSettings) -> Mask:
    """A record's mask as class indices, 255 where it says nothing.

    Raises:
        InputError: When it has none, or holds a value that is no class's.
    """
    if record.mask is None:
        raise InputError(f"'{record.image}' has no mask to simulate labels from. Give its mask, or leave it out.")
    if settings.mask_values is None:
        return read_mask(record.mask, MaskCoding(num_classes, UNCOVERED))
    if len(settings.mask_values) != num_classes:
        raise InputError(
            f"{len(settings.mask_values)} mask values for {num_classes} classes were given. Give one for each."
        )
    values = read_mask(record.mask)
    foreign = sorted(set(np.unique(values).tolist()) - set(settings.mask_values))
    if foreign:
        raise InputError(f"Mask '{record.mask}' holds {foreign}; {list(settings.mask_values)} were expected.")
    table = np.full(256, UNCOVERED, np.uint8)
    table[list(settings.mask_values)] = np.arange(num_classes)
    mask: Mask = table[values]
    return mask


def _crops_of(
    record: PatchRecord, mask: Mask, num_classes: int, settings: CropSettings, rng: np.random.Generator
) -> list[Crop]:
    side = settings.patch_px
    height, width = mask.shape
    if min(height, width) < side:
        raise InputError(f"'{record.image}' has {width} x {height} px, less than a crop of {side} px. Lower patch_px.")
    places = rng.integers(0, (width - side + 1, height - side + 1), (settings.draws_per_image, 2))
    _, first = np.unique(places, axis=0, return_index=True)  # a place drawn twice counts once
    cover = _cover(mask, places, num_classes, side)
    labels = (cover >= settings.min_cover).astype(int).tolist()
    draws = [draw for draw in sorted(first.tolist()) if any(labels[draw])]
    return [Crop(record, draw, int(places[draw, 0]), int(places[draw, 1]), tuple(labels[draw])) for draw in draws]


def _cover(mask: Mask, places: npt.NDArray[np.int64], num_classes: int, side: int) -> npt.NDArray[np.float64]:
    """(draws, classes): the share of each crop that each class covers, by summed areas."""
    one_hot = mask[..., None] == np.arange(num_classes)
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1, num_classes), np.int64)
    sums[1:, 1:] = one_hot.cumsum(0).cumsum(1)
    x, y = places.T
    pixels = sums[y + side, x + side] - sums[y, x + side] - sums[y + side, x] + sums[y, x]
    share: npt.NDArray[np.float64] = pixels / side**2
    return share


def _write_crops(crops: Sequence[Crop], out: Path, settings: CropSettings) -> list[str]:
    """Writes training crops, each image decoded once; the table's lines."""
    (out / "train").mkdir(parents=True, exist_ok=True)
    by_image: dict[Path, list[Crop]] = defaultdict(list)
    for crop in crops:
        by_image[crop.record.image].append(crop)
    lines = []
    side = settings.patch_px
    with progress("Writing crops", len(crops), "crops") as counter:
        for number, (path, places) in enumerate(sorted(by_image.items())):
            pixels = read_image(path)
            for crop in places:
                name = f"train/{number:05d}_{_plain(path.stem)}_x{crop.x}_y{crop.y}.png"
                write_image(out / name, pixels[crop.y : crop.y + side, crop.x : crop.x + side])
                lines.append(_line(name, "train", crop.record.patient, "", crop.label))
                counter.advance()
    return lines


def _write_whole(
    split: str, records: Sequence[PatchRecord], dataset: PatchDataset, out: Path, settings: CropSettings
) -> list[str]:
    """Copies whole images and writes their masks as class indices; the table's lines."""
    lines = []
    for folder in (out / split / "img", out / split / "mask"):
        folder.mkdir(parents=True, exist_ok=True)
    for number, record in enumerate(records):
        mask = read_class_mask(record, len(dataset.classes), settings)
        share = [(mask == index).mean() for index in range(len(dataset.classes))]
        stem = f"{number:05d}_{_plain(record.image.stem)}"
        image, truth = f"{split}/img/{stem}{record.image.suffix}", f"{split}/mask/{stem}.png"
        shutil.copyfile(record.image, out / image)
        write_mask(out / truth, mask, dataset.classes.colors)
        label = tuple(int(part >= settings.min_cover) for part in share)
        lines.append(_line(image, split, record.patient, truth, label))
    return lines


def _simulated(crops: Sequence[Crop], settings: CropSettings) -> str:
    labels = len({crop.label for crop in crops})
    return (
        f"Training labels are simulated from masks: {len(crops)} crops of {settings.patch_px} px at random places, a class "
        f"named where it covers {100 * settings.min_cover:g} % or more, equal numbers of {labels} labels."
    )


def _line(image: str, split: str, patient: str, mask: str, label: Label) -> str:
    return ",".join((image, split, _quoted(patient), mask, *map(str, label)))


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if set(cell) & set(',";\n\t') else cell


def _plain(stem: str) -> str:
    """A stem without what tables and brackets would take for their own."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in stem)
