"""Synthetic patch sets in the folder layouts of published datasets: weak labels in the names, masks for scoring only.

Each patient is a scene of its own, or a group of real patients of a bank. Where patches are cut is chosen from an overview
of the patient's labels, so that every class is met often, alone and beside others. A training patch's label names the
classes that cover at least a given part of it; no training mask is written anywhere.

Does not know: how such folders are read.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from counterstain.errors import InputError, UnknownNameError
from counterstain.files import atomic_folder
from counterstain.geometry import Box, Size
from counterstain.layouts import PatchLayout
from counterstain.log import Counter, progress
from counterstain.synth.anatomy import Composition, Labels
from counterstain.synth.bank import BankPlane, BankSettings, open_bank
from counterstain.synth.look import Pixels
from counterstain.synth.noise import key_of
from counterstain.synth.scene import Plane, Scene, SceneSettings
from counterstain.synth.truth import Wording, wording_of, write_mask

_OVERVIEW_UM, _OVERVIEW_PX, _OVERVIEW_MPP = 4000.0, 6000, 16.0
_RARE = 0.002  # a class that covers less of a patient's tissue is not sought
_NAMES_APART = 7919
_SIGNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_ENOUGH = 0.15  # part of a patch that the class it was chosen for covers, at least
_PURE_EVERY = 2  # every so many patches one is sought that is almost all of its class
_PURE = 0.85
_MOST_WHITE = 0.6
_USUAL_PX = 224
_SMALL_TO_LARGE = {"train": (0.67, 1.34), "val": (1.4, 2.4), "test": (1.4, 2.4)}  # where a layout's sizes vary


@dataclass(frozen=True)
class PatchSetSettings:
    """What a patch set is.

    Args:
        num_train: Patches with weak labels.
        num_val: Patches with masks.
        num_test: Likewise.
        num_patients: At least one for each part that is not empty.
        patch_px: Width and height; the layout's own, or of varying size where it has none, when None.
        mpp: um/px; the layout's own, else 1, when None.
        difficulty: 0 to 1, as in `SceneSettings`.
        seed: Of everything.
        min_cover: The part of a patch that a class must cover to be named in its label.
        variation: How far stains and scanners differ between patients.
        num_scanners: How many there are.
        composition: How much of what; what a dataset never holds is left out.
        region_um: Size of a tumour bed.
        jpeg_quality: Patches go through JPEG as scanners' tiles do; None leaves that out.
        bank: Real patches to compose the set from, instead of synthetic tissue.
        bank_names: The bank's classes in the layout's words.

    Raises:
        InputError: When the numbers can't be a patch set.
    """

    num_train: int = 400
    num_val: int = 60
    num_test: int = 60
    num_patients: int = 12
    patch_px: int | None = None
    mpp: float | None = None
    difficulty: float = 0.5
    seed: int = 0
    min_cover: float = 0.05
    variation: float = 0.7
    num_scanners: int = 3
    composition: Composition = field(default_factory=Composition)
    region_um: float = 900.0
    jpeg_quality: int | None = 85
    bank: BankSettings | None = None
    bank_names: dict[str, str] | None = None

    def __post_init__(self) -> None:
        counts = [self.num_train, self.num_val, self.num_test]
        parts = sum(count > 0 for count in counts)
        if min(counts) < 0 or parts == 0:
            raise InputError(f"Patch counts {counts} were given; give at least one patch, and none below 0.")
        if self.num_patients < parts:
            raise InputError(f"{self.num_patients} patients were given for {parts} parts; each part needs its own.")
        if not 0 < self.min_cover < 1:
            raise InputError(f"A smallest cover of {self.min_cover} was given; give a part between 0 and 1.")
        if self.patch_px is not None and self.patch_px < 32:
            raise InputError(f"Patches of {self.patch_px} px were given; give at least 32.")
        if (self.bank is None) != (self.bank_names is None):
            raise InputError("A bank and the names of its classes in the layout go together. Give both or neither.")


@dataclass(frozen=True)
class _Patient:
    """One patient of a set.

    Args:
        number: Counted over all parts.
        name: As file names carry it.
        plane: The tissue.
        wording: Its labels in the layout's classes.
        overview: Labels in that wording at `_OVERVIEW_MPP`, 255 where a class does not matter.
    """

    number: int
    name: str
    plane: Plane
    wording: Wording
    overview: Labels


def _numbered(number: int, seed: int) -> str:
    """A patient's name of seven digits or more, of its own for each number."""
    return str(1_000_000 + number * _NAMES_APART + seed % _NAMES_APART)


def _barcode(number: int, seed: int) -> str:
    """A patient's name as TCGA gives them, of its own for each number."""
    value = number * _NAMES_APART + seed % _NAMES_APART
    signs = "".join(_SIGNS[value // 36**power % 36] for power in range(6))
    return f"TCGA-{signs[:2]}-{signs[2:]}"


@dataclass(frozen=True)
class _Habits:
    """How a dataset names things, and what it never holds.

    Args:
        patient: Gives a patient's name from its number and seed.
        stem: Of training files, before the label.
        scored_stem: Of validation and test files.
        absent: Parts of a composition that are 0.
    """

    patient: Callable[[int, int], str]
    stem: str
    scored_stem: str
    absent: tuple[str, ...] = ()


_HABITS = {
    "luad_histoseg": _Habits(_numbered, "{patient}-{x}-{y}", "{patient}-{x}-{y}"),
    "bcss_wsss": _Habits(
        _barcode,
        "{patient}-DX1_xmin{x}_ymin{y}_MPP-0.2500+{index}",
        "{patient}-DX1_xmin{x}_ymin{y}_MPP-0.2500+{index}",
    ),
    "wsss4luad": _Habits(_numbered, "{patient}-{x}-{y}", "{done:02d}", absent=("necrosis",)),
}


def write_patch_set(folder: Path, layout: PatchLayout, settings: PatchSetSettings) -> None:
    """Writes a patch set in a dataset's own folders.

    Args:
        folder: Made by this function.
        layout: The dataset whose folders, names, classes and palette are used.
        settings: What the set is.

    Raises:
        ExistingOutputError: When the folder is there and not empty.
        UnknownNameError: When synthetic tissue has no words for the dataset's classes.
        InputError: When no tissue of any class can be found.
    """
    parts = {"train": settings.num_train, "val": settings.num_val, "test": settings.num_test}
    wanted = {part: count for part, count in parts.items() if count}
    with (
        atomic_folder(Path(folder)) as target,
        progress(f"writing {layout.name} patches", sum(wanted.values()), "patches") as counter,
    ):
        first = 0
        for part, count in wanted.items():
            number = _num_patients(part, wanted, settings.num_patients)
            patients = range(first, first + number)
            first += number
            _write_part(target, layout, settings, part, count, patients, counter)


def _num_patients(part: str, wanted: dict[str, int], total: int) -> int:
    """Patients of a part: at least one, the rest by the number of patches."""
    spare, patches = total - len(wanted), sum(wanted.values())
    shares = {name: int(spare * count / patches) for name, count in wanted.items()}
    largest = max(wanted, key=lambda name: wanted[name])
    shares[largest] += spare - sum(shares.values())
    return 1 + shares[part]


def _write_part(
    folder: Path,
    layout: PatchLayout,
    settings: PatchSetSettings,
    part: str,
    count: int,
    patients: range,
    counter: Counter,
) -> None:
    done = 0
    for place, number in enumerate(patients):
        own = count // len(patients) + (place < count % len(patients))
        patient = _patient(layout, settings, number)
        for index, box in enumerate(_places(patient, layout, settings, part, own)):
            _write_patch(folder, layout, settings, part, (patient, box, index, done))
            done += 1
            counter.advance()


def _habits(layout: PatchLayout) -> _Habits:
    if layout.name not in _HABITS:
        raise UnknownNameError("dataset layout of synthetic patches", layout.name, _HABITS)
    return _HABITS[layout.name]


def _patient(layout: PatchLayout, settings: PatchSetSettings, number: int) -> _Patient:
    seed = key_of(settings.seed, f"patient {number}")
    habits = _habits(layout)
    composition = replace(settings.composition, **dict.fromkeys(habits.absent, 0.0))
    scene = SceneSettings(
        seed=seed,
        mpp=settings.mpp or layout.mpp or 1.0,
        difficulty=settings.difficulty,
        composition=composition,
        region_um=settings.region_um,
        scanner_seed=key_of(settings.seed, f"scanner {number % max(1, settings.num_scanners)}"),
        variation=settings.variation,
    )
    plane: Plane
    if settings.bank is None or settings.bank_names is None:
        plane, wording = Scene(scene), wording_of(layout)
    else:
        bank = open_bank(settings.bank).part(number, settings.num_patients)
        plane, wording = BankPlane(bank, scene), Wording.of(layout, settings.bank_names, bank.classes)
    side = min(_OVERVIEW_UM / scene.mpp, _OVERVIEW_PX)
    overview = wording.lookup[plane.labels(Box(0, 0, side, side), _OVERVIEW_MPP)]
    return _Patient(number, habits.patient(number, seed), plane, wording, overview)


def _places(patient: _Patient, layout: PatchLayout, settings: PatchSetSettings, part: str, count: int) -> Iterator[Box]:
    """Boxes of patches, chosen from the overview so that each class gets its share."""
    random = np.random.default_rng(key_of(settings.seed, f"places {patient.number}"))
    scale = _OVERVIEW_MPP / patient.plane.mpp
    parts = np.bincount(patient.overview.ravel(), minlength=256)[: len(layout.classes)] / patient.overview.size
    present = np.flatnonzero(parts > _RARE).tolist()
    taken: set[tuple[int, int]] = set()
    if not present:
        raise InputError("This seed and composition give no tissue of any class. Change one of them.")
    for index in range(count):
        size = _patch_size(layout, settings, part, random)
        cells = max(1, math.ceil(max(size.width, size.height) / scale))
        covers = _covers(patient.overview, present, cells)
        white = 1 - _covers(patient.overview, list(range(len(layout.classes))), cells).sum(0)
        target = present[(index + patient.number) % len(present)]
        enough = _PURE if index % _PURE_EVERY == _PURE_EVERY - 1 else _ENOUGH
        row, column = _drawn(covers[present.index(target)], white, enough, random)
        offset = random.integers(0, max(1, int(scale)), 2)
        x, y = int(column * scale) + int(offset[0]), int(row * scale) + int(offset[1])
        while (x, y) in taken:  # names are places: two patches of one place would be one file
            x += 1
        taken.add((x, y))
        yield Box(x, y, size.width, size.height)


def _patch_size(layout: PatchLayout, settings: PatchSetSettings, part: str, random: np.random.Generator) -> Size:
    if settings.patch_px is not None or layout.patch_px is not None:
        side = settings.patch_px or layout.patch_px or _USUAL_PX
        return Size(side, side)
    low, high = (_USUAL_PX * factor for factor in _SMALL_TO_LARGE[part])
    width, height = random.integers(round(low), round(high), 2).tolist()
    return Size(width, height)


def _covers(overview: Labels, labels: list[int], cells: int) -> npt.NDArray[np.float64]:
    """For each label, the part of each window of the overview that it covers: (labels, rows, columns)."""
    covers = []
    for label in labels:
        total = np.zeros((overview.shape[0] + 1, overview.shape[1] + 1))
        total[1:, 1:] = (overview == label).cumsum(0).cumsum(1)
        window = total[cells:, cells:] - total[:-cells, cells:] - total[cells:, :-cells] + total[:-cells, :-cells]
        covers.append(window / cells**2)
    return np.stack(covers)


def _drawn(
    cover: npt.NDArray[np.float64], white: npt.NDArray[np.float64], enough: float, random: np.random.Generator
) -> tuple[int, int]:
    """A window in which a class covers enough and white not too much; else one where it covers most."""
    fits = np.flatnonzero((cover >= enough) & (white <= _MOST_WHITE))
    if not len(fits):
        fits = np.flatnonzero(cover >= 0.9 * min(float(cover.max()), enough))
    row, column = np.unravel_index(int(random.choice(fits)), cover.shape)
    return int(row), int(column)


def _write_patch(
    folder: Path,
    layout: PatchLayout,
    settings: PatchSetSettings,
    part: str,
    patch: tuple[_Patient, Box, int, int],
) -> None:
    patient, box, index, done = patch
    words = {"patient": patient.name, "x": int(box.x), "y": int(box.y), "index": index, "done": done}
    pixels = patient.plane.render(box)
    if settings.jpeg_quality is not None:
        pixels = recoded(pixels, settings.jpeg_quality)
    labels = patient.wording.lookup[patient.plane.labels(box)]
    if part == "train":
        parts = np.bincount(labels.ravel(), minlength=256)[: len(layout.classes)] / labels.size
        label = tuple(int(cover >= settings.min_cover) for cover in parts)
        stem = _habits(layout).stem.format(**words) + layout.label_suffix(label)
        _save(folder / layout.train_folders[0] / f"{stem}.png", pixels)
        return
    split = folder / (layout.val_folders if part == "val" else layout.test_folders)[0]
    stem = _habits(layout).scored_stem.format(**words)
    _save(split / "img" / f"{stem}.png", pixels)
    mask = split / "mask" / f"{stem}.png"
    mask.parent.mkdir(parents=True, exist_ok=True)
    write_mask(mask, labels, layout.classes, layout.mask_ignore, layout.mask_ignore_color)
    if layout.background_folder is not None:
        _save(split / layout.background_folder / f"{stem}.png", np.where(labels == layout.mask_ignore, 255, 0))


def recoded(pixels: Pixels, quality: int) -> Pixels:
    """(H, W, 3) uint8 RGB after JPEG of a quality from 1 to 100."""
    import simplejpeg

    coded = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorsubsampling="420")
    decoded: Pixels = simplejpeg.decode_jpeg(coded)
    return decoded


def _save(path: Path, pixels: npt.NDArray[np.integer]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, compress_level=3)
