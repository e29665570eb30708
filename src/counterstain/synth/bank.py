"""Tissue composed from real patches: a table of images with masks or labels, tiled with blended seams.

A plane of cells, a patch in each, chosen by a hash among those of a label that changes slowly over the plane, turned and
mirrored at random. Neighbours overlap and are blended; the truth at a pixel is that of the patch that weighs most there.
Where the plane has pieces of tissue, the rest is glass.

Real pixels, invented neighbourhoods: good for testing slide inference on real texture, no evidence about real slides.

Does not know: slides, datasets.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, UnidentifiedImageError

from counterstain.errors import InputError, LabelError, UnknownNameError
from counterstain.files import existing
from counterstain.geometry import Box, Size
from counterstain.results import Classes
from counterstain.synth.anatomy import Labels, Lattice
from counterstain.synth.look import Pixels
from counterstain.synth.noise import Floats, again, hashed, key_of, noise_at
from counterstain.synth.pieces import lay_out
from counterstain.synth.scene import SceneSettings, blocks, sampled

_COLORS = ((205, 51, 51), (255, 165, 0), (65, 105, 225), (0, 200, 0), (160, 60, 190), (0, 170, 170), (120, 90, 40))
_GLASS, _GLASS_RGB = "glass", 243
_BLOCK_PX = 1024
_FAINT = 0.15  # optical density below which a pixel is no tissue
_KEPT_PATCHES = 256  # decoded at a time, some 50 MB
_EDGE_STEP_PX, _EDGE_SOFT_UM = 4, 4.0
_REGION_CELLS = 3.0  # a label changes over about so many cells


@dataclass(frozen=True)
class BankSettings:
    """Where real patches are and what is known of them.

    Args:
        table: A CSV file, a row for each image.
        folder: What its paths are relative to; the table's folder when None.
        truth: "mask" reads a mask for each image, not 0 where the foreground is; "label" gives an image's label to all
            of it.
        image_column: Of paths to images, all of one size.
        mask_column: Of paths to masks.
        label_column: Of labels; with masks they only decide what lies beside what.
        patient_column: Of patients, who are never shared between the parts of a bank; None when unknown.
        foreground: What the masks show.
        background: What is beside it.
        labels: Only images of these labels; all when None.
        overlap_px: Over which neighbours are blended.
        is_harmonised: Whether patches get the white point and stain amounts of one of them, as one slide would have.
    """

    table: Path
    folder: Path | None = None
    truth: Literal["mask", "label"] = "mask"
    image_column: str = "image"
    mask_column: str = "mask"
    label_column: str = "label"
    patient_column: str | None = "patient"
    foreground: str = "gland or lesion"
    background: str = "other tissue"
    labels: tuple[str, ...] | None = None
    overlap_px: int = 24
    is_harmonised: bool = True


@dataclass(frozen=True)
class Entry:
    """One image of a bank.

    Args:
        image: The file.
        mask: Its mask; None when labels are the truth.
        label: Its label.
        patient: Whose it is.
    """

    image: Path
    mask: Path | None
    label: str
    patient: str


@dataclass(frozen=True)
class Bank:
    """Real patches, read from their table.

    Args:
        settings: Where they came from.
        entries: In the table's order.
        patch: The size of all of them.
        classes: What the truth means; glass is the background.
    """

    settings: BankSettings
    entries: tuple[Entry, ...]
    patch: Size
    classes: Classes

    def part(self, number: int, of: int) -> "Bank":
        """One of several parts that share no patient.

        Raises:
            InputError: When there are fewer patients than parts.
        """
        patients = sorted({entry.patient for entry in self.entries})
        if of > len(patients):
            raise InputError(f"A bank of {len(patients)} patients can't be split into {of} parts. Ask for fewer.")
        order = np.random.default_rng(len(patients)).permutation(len(patients))
        own = {patients[position] for position in order[number::of]}
        return replace(self, entries=tuple(entry for entry in self.entries if entry.patient in own))


def open_bank(settings: BankSettings) -> Bank:
    """Reads a bank's table.

    Raises:
        MissingFileError: When the table is not there.
        UnknownNameError: When a column is not in it.
        LabelError: When images or masks are not there, all of them at once.
        InputError: When no image is left, or patches are too small for their overlap.
    """
    frame = pd.read_csv(existing(settings.table, "the table of a bank"), dtype=str)
    columns = [settings.image_column, settings.label_column]
    columns += [settings.mask_column] if settings.truth == "mask" else []
    columns += [settings.patient_column] if settings.patient_column is not None else []
    for column in columns:
        if column not in frame.columns:
            raise UnknownNameError("column of the bank's table", column, list(frame.columns))
    folder = settings.folder or Path(settings.table).parent
    if settings.labels is not None:
        frame = frame[frame[settings.label_column].isin(settings.labels)]
    entries = tuple(_entry(row, settings, folder) for row in frame.to_dict("records"))
    if not entries:
        raise InputError(f"{settings.table} lists no image of the labels {settings.labels}. Name others.")
    missing = [str(path) for entry in entries for path in (entry.image, entry.mask) if path and not path.is_file()]
    if missing:
        raise LabelError(f"{settings.table} names files that are not there; give the folder they lie in.", missing)
    patch = Size.of(_decoded(entries[0].image, "RGB"))
    if not 0 <= settings.overlap_px < min(patch.width, patch.height) // 2:
        raise InputError(
            f"An overlap of {settings.overlap_px} px was given for patches of {patch}; give less than half."
        )
    return Bank(settings, entries, patch, _classes(settings, entries))


def _entry(row: Mapping[Hashable, str], settings: BankSettings, folder: Path) -> Entry:
    return Entry(
        image=folder / row[settings.image_column],
        mask=folder / row[settings.mask_column] if settings.truth == "mask" else None,
        label=row[settings.label_column],
        patient=row[settings.patient_column] if settings.patient_column is not None else row[settings.image_column],
    )


def _classes(settings: BankSettings, entries: tuple[Entry, ...]) -> Classes:
    if settings.truth == "mask":
        names = [settings.background, settings.foreground]
        colors = [_COLORS[1], _COLORS[0]]
    else:
        names = sorted({entry.label for entry in entries})
        colors = [_COLORS[number % len(_COLORS)] for number in range(len(names))]
    return Classes((*names, _GLASS), (*colors, (255, 255, 255)), background=_GLASS)


@lru_cache(maxsize=_KEPT_PATCHES)
def _decoded(path: Path, mode: str) -> Pixels:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path} of the bank can't be read ({error}). Mend it or take it out of the table.") from error


@lru_cache(maxsize=_KEPT_PATCHES)
def _stained(path: Path) -> tuple[Floats, Floats]:
    """The white point (RGB) of a patch, and the mean optical density of its tissue in each channel."""
    pixels = _decoded(path, "RGB").reshape(-1, 3).astype(np.float32)
    white = np.percentile(pixels, 99.5, axis=0).astype(np.float32)
    density = np.maximum(-np.log((pixels + 1) / (white + 1)), 0)
    is_tissue = density.mean(1) > _FAINT
    return white, np.maximum(density[is_tissue].mean(0) if is_tissue.any() else density.mean(0), 0.05)


@lru_cache(maxsize=_KEPT_PATCHES)
def _harmonised(path: Path, leader: Path) -> Pixels:
    """A patch with the stain amounts of another one, on the white of glass."""
    (white, own), (_, wanted) = _stained(path), _stained(leader)
    density = -np.log((_decoded(path, "RGB").astype(np.float32) + 1) / (white + 1))
    light = np.exp(-np.maximum(density, 0) * (wanted / own)) * _GLASS_RGB
    return np.asarray(np.rint(light), np.uint8)


@dataclass(frozen=True)
class Graft:
    """Cells of a bank's plane that hold the images of certain patients, which stand nowhere else.

    Args:
        patients: Whose images.
        cells: (row, column) of the cells.
    """

    patients: frozenset[str]
    cells: frozenset[tuple[int, int]]


class BankPlane:
    """Tissue without end, or in pieces on glass, from real patches.

    Args:
        bank: The patches.
        settings: Seed, resolution and pieces; what describes synthetic tissue is not looked at.
        graft: Images with cells of their own; None lets every image stand anywhere.
    """

    def __init__(self, bank: Bank, settings: SceneSettings, graft: Graft | None = None) -> None:
        self.bank, self.settings, self._graft = bank, settings, graft
        area = None if settings.tissue is None else settings.tissue.scaled(settings.mpp)
        self._pieces = None if area is None else lay_out(settings.seed, area, settings.covered)
        grafted = frozenset[str]() if graft is None else graft.patients
        host = [entry for entry in bank.entries if entry.patient not in grafted]
        self._groups = _by_label(host)
        self._grafted = _by_label([entry for entry in bank.entries if entry.patient in grafted])
        leader = int(np.random.default_rng(key_of(settings.seed, "leader")).integers(len(host)))
        self._leader = host[leader].image
        overlap = bank.settings.overlap_px
        self.pitch = Size(bank.patch.width - overlap, bank.patch.height - overlap)

    @property
    def mpp(self) -> float:
        """um/px of its pixels: what the settings say, real patches are not resized."""
        return self.settings.mpp

    @property
    def classes(self) -> Classes:
        """The bank's."""
        return self.bank.classes

    def render(self, box: Box) -> Pixels:
        """(H, W, 3) uint8 RGB of a box of whole pixels."""
        pixels = np.empty((*box.size.shape, 3), np.uint8)
        for part in blocks(box.size, _BLOCK_PX):
            pixels[part.slices()] = self._block(part.shifted(box.x, box.y))
        return pixels

    def labels(self, box: Box, mpp: float | None = None) -> Labels:
        """(H, W) uint8 class at the centre of each pixel, at a resolution of its own if one is given."""
        rows, columns = sampled(box, self.mpp, mpp)
        labels = np.empty((len(rows), len(columns)), np.uint8)
        # The patch that weighs most at a pixel is the one whose cell, moved by half an overlap, holds it.
        half = self.bank.settings.overlap_px // 2
        down = _runs((rows - half) // self.pitch.height)
        across = _runs((columns - half) // self.pitch.width)
        chosen = self._chosen([row for row, _ in down], [column for column, _ in across])
        for (row, part), in_row in zip(down, chosen, strict=True):
            y = rows[part] - row * self.pitch.height
            for (column, other), cell in zip(across, in_row, strict=True):
                x = columns[other] - column * self.pitch.width
                labels[part, other] = self._truth(*cell).take(y, axis=0).take(x, axis=1)
        glass = self._glass(rows, columns)
        if glass is not None:
            labels[glass >= 0.5] = self.classes.index(_GLASS)
        return labels

    def _block(self, box: Box) -> Pixels:
        size, pitch = box.size, self.pitch
        rows, columns = sampled(box, self.mpp, None)
        glass = self._glass(rows, columns)
        if glass is not None and float(glass.min()) >= 1:
            return np.full((*size.shape, 3), _GLASS_RGB, np.uint8)
        total = np.zeros((*size.shape, 3), np.float32)
        overlap = self.bank.settings.overlap_px
        down, across = _ramp(self.bank.patch.height, overlap), _ramp(self.bank.patch.width, overlap)
        # A patch reaches over the next cell by the overlap, so the cell before the first one counts too.
        cell_rows = list(range(int(rows[0] - overlap) // pitch.height, int(rows[-1]) // pitch.height + 1))
        cell_columns = list(range(int(columns[0] - overlap) // pitch.width, int(columns[-1]) // pitch.width + 1))
        for row, in_row in zip(cell_rows, self._chosen(cell_rows, cell_columns), strict=True):
            for column, cell in zip(cell_columns, in_row, strict=True):
                patch = Box(column * pitch.width, row * pitch.height, self.bank.patch.width, self.bank.patch.height)
                common = patch.intersection(box)
                if common.is_empty:
                    continue
                y, x = common.shifted(-patch.x, -patch.y).slices()
                weights = down[y, None] * across[None, x]
                total[common.shifted(-box.x, -box.y).slices()] += self._image(*cell)[y, x] * weights[..., None]
        if glass is not None:
            total += (np.float32(_GLASS_RGB) - total) * glass[..., None]
        return np.asarray(np.clip(np.rint(total), 0, 255), np.uint8)

    def _chosen(self, rows: list[int], columns: list[int]) -> list[list[tuple[Entry, int]]]:
        """For each cell, its patch and which of the eight ways it is turned."""
        place = np.meshgrid(np.array(rows), np.array(columns), indexing="ij")
        hashes = hashed(key_of(self.settings.seed, "bank"), *place)
        slow = noise_at(key_of(self.settings.seed, "labels"), _REGION_CELLS, *(at.astype(np.float64) for at in place))
        # The normal distribution's likeness to the logistic one turns noise into parts of the whole.
        spread = 1 + np.exp(-1.702 * slow)
        parts, ways = again(hashes, 1), (again(hashes, 2) * 8).astype(int)
        return [
            [
                (self._entry((row, column), wide, float(part)), int(way))
                for column, wide, part, way in zip(columns, *line, strict=True)
            ]
            for row, *line in zip(rows, spread, parts, ways, strict=True)
        ]

    def _entry(self, cell: tuple[int, int], spread: float, part: float) -> Entry:
        groups = self._grafted if self._graft is not None and cell in self._graft.cells else self._groups
        members = groups[int(min(len(groups) / spread, len(groups) - 1))]
        return members[int(part * len(members))]

    def _image(self, entry: Entry, way: int) -> Pixels:
        pixels = _decoded(entry.image, "RGB")
        if Size.of(pixels) != self.bank.patch:
            raise InputError(f"{entry.image} is {Size.of(pixels)}, others of its bank are {self.bank.patch}.")
        if self.bank.settings.is_harmonised:
            pixels = _harmonised(entry.image, self._leader)
        return _turned(pixels, way)

    def _truth(self, entry: Entry, way: int) -> Labels:
        if entry.mask is None:
            return np.full(self.bank.patch.shape, self.classes.index(entry.label), np.uint8)
        mask = _decoded(entry.mask, "L")
        if Size.of(mask) != self.bank.patch:
            raise InputError(f"{entry.mask} is {Size.of(mask)}, its image is {self.bank.patch}.")
        return _turned((mask > 0).astype(np.uint8), way)

    def _glass(self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> Floats | None:
        """How far glass covers each pixel; None where the plane is all tissue."""
        if self._pieces is None:
            return None
        lattice = Lattice.under(rows, columns, _EDGE_STEP_PX)
        step_um = _EDGE_STEP_PX * self.mpp
        depth = lattice.finer(self._pieces.depth(lattice.rows * step_um, lattice.columns * step_um))
        return np.asarray(np.clip(0.5 - depth / _EDGE_SOFT_UM, 0, 1), np.float32)


def _by_label(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries of each label, labels in order."""
    return [
        [entry for entry in entries if entry.label == label] for label in sorted({entry.label for entry in entries})
    ]


def _runs(cells: npt.NDArray[np.int64]) -> list[tuple[int, slice]]:
    """Each value of an ascending array with the slice where it stands."""
    values, starts = np.unique(cells, return_index=True)
    ends = [*starts[1:].tolist(), len(cells)]
    return [
        (value, slice(start, end)) for value, start, end in zip(values.tolist(), starts.tolist(), ends, strict=True)
    ]


def _ramp(length: int, overlap: int) -> Floats:
    """Weights along one side: 1 inside, falling over the overlap so that two neighbours sum to 1."""
    places = np.arange(length) + 0.5
    rising = np.minimum(places, length - places) / max(overlap, 1e-9)
    return np.asarray(np.minimum(rising, 1), np.float32)


def _turned(array: npt.NDArray[np.uint8], way: int) -> npt.NDArray[np.uint8]:
    """One of the eight symmetries of a square; only the four that keep its sides where it is none."""
    if array.shape[0] != array.shape[1]:
        return array[:: 1 if way & 1 else -1, :: 1 if way & 2 else -1]
    turned = np.rot90(array, way % 4)
    return turned[:, ::-1] if way >= 4 else turned
