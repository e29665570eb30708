"""Synthetic tumour sets: patches that say tumour or no tumour, masks for val and test only; and slides with metastases.

Patches come from patients with tumour and from patients without. Every patient gives negative patches, those with tumour
close to it and far from it, so that neither patient, stain nor scanner tells the label. What isn't tumour is stroma, fat,
crowds of lymphocytes and normal glands, on both sides alike. The parts of positive patches that tumour covers are
evenly spread in their cube root: of those from 2 % to 60 %, a third each lies below 10 % and above 30 %.

Does not know: how such folders are read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from counterstain.errors import InputError
from counterstain.files import atomic_folder, write_text
from counterstain.geometry import Box, Size
from counterstain.log import Counter, progress
from counterstain.results import UNCOVERED, Classes
from counterstain.synth.anatomy import LYMPHOCYTES, NORMAL, STROMA, TUMOUR, WHITE, Composition
from counterstain.synth.noise import key_of
from counterstain.synth.patches import recoded
from counterstain.synth.scene import Scene, SceneSettings
from counterstain.synth.slide import SlideSettings
from counterstain.synth.truth import write_mask

TUMOUR_CLASSES = Classes(("normal", "tumour"), ((0, 114, 178), (213, 94, 0)), background="normal")
"""What the masks of a tumour set hold: 0 and 1. Glass, fat and lumens count as normal."""

_OVERVIEW_MPP = 4.0
_NEGATIVE_TISSUES = (NORMAL, STROMA, LYMPHOCYTES)  # each is sought in its turn
_ENOUGH = 0.25  # part of a negative patch that the tissue it was sought for covers
_MOST_WHITE = 0.6
_NEAR = 0.15  # natural logarithm between a positive's part of tumour on the overview and the one sought
_CORE_UM = 15.0  # a tumour cell
_TRIES = 200
_NO_PLACE = (
    "Patient {} has no place left for a patch with {}. Give more patients, smaller patches, more area_um, or another "
    "composition or seed."
)
_WHITE_COLOR = (255, 255, 255)


@dataclass(frozen=True)
class TumourSetSettings:
    """What a tumour set is.

    Args:
        num_train: Patches with labels.
        num_val: Patches with labels and masks, half of them positive.
        num_test: Likewise.
        num_patients: In all; they are shared out by the number of patches.
        healthy: The part of the patients that have no tumour anywhere.
        patch_px: Width and height.
        mpp: um/px.
        min_fraction: The part of a positive patch that tumour covers, at least; patches between none and this are never
            written, since their label would be wrong.
        max_fraction: At most.
        neg_pos_ratio: Negative patches for each positive one, of the training patches.
        difficulty: 0 to 1, as in `SceneSettings`.
        seed: Of everything.
        variation: How far stains and scanners differ between patients.
        num_scanners: How many there are.
        composition: How much of what in patients with tumour; the others have no tumour and the same of the rest.
        region_um: Size of a tumour bed.
        area_um: Width and height of the tissue of a patient that patches are cut from.
        jpeg_quality: Patches go through JPEG as scanners' tiles do; None leaves that out.

    Raises:
        InputError: When the numbers can't be a tumour set.
    """

    num_train: int = 480
    num_val: int = 150
    num_test: int = 240
    num_patients: int = 45
    healthy: float = 0.33
    patch_px: int = 128
    mpp: float = 1.0
    min_fraction: float = 0.02
    max_fraction: float = 0.6
    neg_pos_ratio: float = 2.0
    difficulty: float = 0.3
    seed: int = 0
    variation: float = 0.7
    num_scanners: int = 3
    composition: Composition = field(
        default_factory=lambda: Composition(
            tumour=0.35, nests=0.5, necrosis=0.0, lymphocytes=0.25, normal=0.4, fat=0.08, glands=0.3
        )
    )
    region_um: float = 700.0
    area_um: float = 4000.0
    jpeg_quality: int | None = 85

    def __post_init__(self) -> None:
        counts = (self.num_train, self.num_val, self.num_test)
        if min(counts) < 2:
            raise InputError(f"Patch counts {counts} were given; give at least 2 for train, val and test.")
        if not 0 < self.min_fraction < self.max_fraction < 1:
            raise InputError(
                f"Tumour from {self.min_fraction} to {self.max_fraction} was asked for; give 0 < min_fraction < "
                "max_fraction < 1."
            )
        if self.neg_pos_ratio <= 0:
            raise InputError(f"neg_pos_ratio was given as {self.neg_pos_ratio}; give a number above 0.")
        if self.patch_px < 32:
            raise InputError(f"Patches of {self.patch_px} px were given; give at least 32.")
        if self.area_um < 2 * self.patch_px * self.mpp:
            raise InputError(f"An area of {self.area_um} um was given; give at least twice the width of a patch.")
        if not 0 <= self.healthy < 1 or self.composition.tumour <= 0:
            raise InputError("No patient would have tumour. Give healthy below 1 and a composition with tumour.")
        if min(self.patients().values()) < 2:
            raise InputError(
                f"{self.num_patients} patients were given; each of train, val and test needs 2 of its own."
            )

    def num_positive(self, split: str) -> int:
        """Positive patches of a split, at least one and not all."""
        total = self.num_patches(split)
        ratio = self.neg_pos_ratio if split == "train" else 1.0
        return min(max(1, round(total / (1 + ratio))), total - 1)

    def patients(self) -> dict[str, int]:
        """Patients of each split: by its patches, the rest of a division to train."""
        total = self.num_train + self.num_val + self.num_test
        scored = {s: max(2, self.num_patients * self.num_patches(s) // total) for s in ("val", "test")}
        return {"train": self.num_patients - sum(scored.values()), **scored}

    def num_patches(self, split: str) -> int:
        """Patches of a split."""
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}[split]


@dataclass(frozen=True)
class _Patient:
    """One patient.

    Args:
        name: As the table carries it.
        scene: The tissue.
        covers: For the labels that matter, the part of each window of an overview at `_OVERVIEW_MPP` that they cover.
        random: For the places of patches.
        taken: Upper left corners of the patches so far, pixels.
    """

    name: str
    scene: Scene
    covers: dict[int, npt.NDArray[np.float64]]
    random: np.random.Generator
    taken: list[tuple[int, int]] = field(default_factory=list)


def write_tumour_set(folder: Path, settings: TumourSetSettings | None = None) -> None:
    """Writes a set of patches with labels normal or tumour as a table: `labels.csv`, `classes.toml`, images, masks.

    No training mask is written anywhere. Splits share no patient.

    Args:
        folder: Made by this function.
        settings: What the set is.

    Raises:
        ExistingOutputError: When the folder is there and not empty.
        InputError: When the tissue has no place for a patch that is wanted.
    """
    settings = settings or TumourSetSettings()
    total = settings.num_train + settings.num_val + settings.num_test
    rows = [",".join(("image", "split", "patient", "mask", *TUMOUR_CLASSES.names))]
    with atomic_folder(Path(folder)) as target, progress("writing tumour patches", total, "patches") as counter:
        first = 0
        for split, number in settings.patients().items():
            rows += _write_split(target, settings, split, range(first, first + number), counter)
            first += number
        write_text(target / "classes.toml", _class_file(Path(folder).name, settings))
        write_text(target / "labels.csv", "\n".join(rows) + "\n")


def metastasis_slide(seed: int = 0) -> SlideSettings:
    """What a slide of a lymph node with small tumour islands is: crowds of lymphocytes, some stroma, a few percent tumour.

    Level 0 has 4096 x 4096 px of 1 um.
    """
    composition = Composition(
        tumour=0.08, nests=0.75, necrosis=0.0, lymphocytes=0.75, normal=0.0, fat=0.06, glands=0.15
    )
    return SlideSettings(
        size=Size(4096, 4096), mpp=1.0, seed=seed, difficulty=0.2, composition=composition, region_um=500.0
    )


def _write_split(
    folder: Path, settings: TumourSetSettings, split: str, numbers: range, counter: Counter
) -> Iterator[str]:
    """Writes a split's patches patient by patient; the table's lines."""
    (folder / split).mkdir()
    if split != "train":
        (folder / split / "mask").mkdir()
    patients = len(numbers)
    num_ill = max(1, patients - round(settings.healthy * patients))
    num_positive = settings.num_positive(split)
    sought = _fractions(settings, split, num_positive)
    num_negative = settings.num_patches(split) - num_positive
    for place, number in enumerate(numbers):
        is_ill = place < num_ill
        patient = _patient(settings, number, is_ill)
        own = sought[place::num_ill] if is_ill else []
        boxes = [(_positive_box(patient, settings, fraction), 1) for fraction in own]
        tissues = range(place, num_negative, patients)
        boxes += [(_negative_box(patient, settings, _NEGATIVE_TISSUES[t // patients % 3]), 0) for t in tissues]
        for box, label in boxes:
            yield _write_patch(folder, settings, split, patient, box, label)
            counter.advance()


def _fractions(settings: TumourSetSettings, split: str, count: int) -> list[float]:
    """The parts of tumour to look for: evenly spread in their cube root, in random order."""
    random = np.random.default_rng(key_of(settings.seed, f"fractions {split}"))
    low, high = np.cbrt([settings.min_fraction * 1.1, settings.max_fraction * 0.95])
    spread = (low + (high - low) * (np.arange(count) + 0.5) / count) ** 3
    return list(random.permutation(spread).tolist())


def _patient(settings: TumourSetSettings, number: int, is_ill: bool) -> _Patient:
    seed = key_of(settings.seed, f"tumour patient {number}")
    composition = settings.composition if is_ill else replace(settings.composition, tumour=0.0)
    scene = Scene(
        SceneSettings(
            seed=seed,
            mpp=settings.mpp,
            difficulty=settings.difficulty,
            composition=composition,
            region_um=settings.region_um,
            scanner_seed=key_of(settings.seed, f"scanner {number % max(1, settings.num_scanners)}"),
            variation=settings.variation,
        )
    )
    side = settings.area_um / settings.mpp
    overview = scene.labels(Box(0, 0, side, side), _OVERVIEW_MPP)
    cells = max(1, round(settings.patch_px * settings.mpp / _OVERVIEW_MPP))
    covers = {label: _windows(overview == label, cells) for label in (TUMOUR, WHITE, *_NEGATIVE_TISSUES)}
    return _Patient(f"p{number:03d}", scene, covers, np.random.default_rng(key_of(seed, "places")))


def _positive_box(patient: _Patient, settings: TumourSetSettings, fraction: float) -> Box:
    """A place where tumour covers about a fraction, or as a last resort another one, between the smallest and largest."""
    cover = patient.covers[TUMOUR]
    off = np.abs(np.log(np.maximum(cover, 1e-6) / fraction))
    near = off <= max(_NEAR, float(off.min()) * 1.2)
    for fits in (near, (cover > settings.min_fraction) & (cover < settings.max_fraction)):
        for box in _drawn(patient, settings, fits):
            is_tumour = _tumour(patient, box)
            is_between = settings.min_fraction <= is_tumour.mean() <= settings.max_fraction
            if is_between and _has_core(is_tumour, settings.mpp):
                return box
    raise InputError(_NO_PLACE.format(patient.name, f"{fraction:.0%} tumour"))


def _negative_box(patient: _Patient, settings: TumourSetSettings, tissue: int) -> Box:
    """A place without a pixel of tumour, with enough of a tissue where the patient has it."""
    is_free = (patient.covers[TUMOUR] == 0) & (patient.covers[WHITE] <= _MOST_WHITE)
    cover = np.where(is_free, patient.covers[tissue], 0)
    for box in _drawn(patient, settings, is_free & (cover >= min(_ENOUGH, 0.8 * float(cover.max())))):
        if not _tumour(patient, box).any():
            return box
    raise InputError(_NO_PLACE.format(patient.name, "no tumour"))


def _drawn(patient: _Patient, settings: TumourSetSettings, fits: npt.NDArray[np.bool_]) -> Iterator[Box]:
    """Random places among windows of the overview that fit, apart from those taken; the one used last is taken."""
    rows, columns = np.nonzero(fits)
    side, scale = settings.patch_px, _OVERVIEW_MPP / settings.mpp
    order = patient.random.permutation(len(rows))
    tried = 0
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        x, y = round(column * scale), round(row * scale)
        if any(abs(x - other_x) < side and abs(y - other_y) < side for other_x, other_y in patient.taken):
            continue
        patient.taken.append((x, y))
        yield Box(x, y, side, side)
        patient.taken.pop()
        tried += 1
        if tried == _TRIES:
            return


def _windows(is_so: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.float64]:
    """The part of each square window where something is so: (rows - side + 1, columns - side + 1)."""
    total = np.zeros([length + 1 for length in is_so.shape])
    total[1:, 1:] = is_so.cumsum(0).cumsum(1)
    window = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    part: npt.NDArray[np.float64] = window / side**2
    return part


def _tumour(patient: _Patient, box: Box) -> npt.NDArray[np.bool_]:
    is_tumour: npt.NDArray[np.bool_] = patient.scene.labels(box) == TUMOUR
    return is_tumour


def _has_core(is_tumour: npt.NDArray[np.bool_], mpp: float) -> bool:
    """Whether a square of tumour wide enough for a cell fits in: a rim without a nucleus shows nobody a tumour."""
    return bool((_windows(is_tumour, max(1, round(_CORE_UM / mpp))) == 1).any())


def _write_patch(folder: Path, settings: TumourSetSettings, split: str, patient: _Patient, box: Box, label: int) -> str:
    """Writes a patch, and its mask where it is scored; the table's line."""
    stem = f"{patient.name}_x{int(box.x)}_y{int(box.y)}"
    pixels = patient.scene.render(box)
    if settings.jpeg_quality is not None:
        pixels = recoded(pixels, settings.jpeg_quality)
    image, mask = f"{split}/{stem}.png", ""
    Image.fromarray(pixels).save(folder / image, compress_level=3)
    if split != "train":
        mask = f"{split}/mask/{stem}.png"
        values = _tumour(patient, box).astype(np.uint8)
        write_mask(folder / mask, values, TUMOUR_CLASSES, UNCOVERED, _WHITE_COLOR)
    return ",".join((image, split, patient.name, mask, str(1 - label), str(label)))


def _class_file(name: str, settings: TumourSetSettings) -> str:
    import tomli_w

    pairs = zip(TUMOUR_CLASSES.names, TUMOUR_CLASSES.colors, strict=True)
    tree = {
        "name": name,
        "mpp": settings.mpp,
        "background": TUMOUR_CLASSES.background,
        "ignore_index": UNCOVERED,
        "white_is_background": False,
        "notes": ["Synthetic tissue: nothing measured on it is evidence about real tissue."],
        "classes": [{"name": name, "color": list(color)} for name, color in pairs],
    }
    return tomli_w.dumps(tree)
