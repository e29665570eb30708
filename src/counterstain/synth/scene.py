"""A scene: an endless plane of synthetic tissue that answers boxes with pixels and with their truth.

Everything about a pixel follows from the scene's settings and the pixel's place, so any window can be rendered by itself,
in any order and by any process, and agrees with every other window wherever they overlap.

`Plane` is what the writers of slides and patches ask of a scene; `bank.py` has another one, made of real patches.

Does not know: files, slides, datasets.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image

from counterstain.errors import InputError
from counterstain.geometry import Box, Size
from counterstain.results import Classes
from counterstain.synth.anatomy import SCENE_CLASSES, Anatomy, Composition, Labels, Lattice, labels_of
from counterstain.synth.look import Look, Pixels, sensor_noise
from counterstain.synth.noise import Floats, Ints, key_of, noise
from counterstain.synth.paint import Painter, Tissues
from counterstain.synth.pieces import lay_out
from counterstain.synth.window import Habit

_BLOCK_PX = 512  # rendered at once: small enough for the processor's caches
_MPP = (0.1, 2.0)  # nuclei drawn finer are blank, coarser are dots
_LAMP_UM, _LAMP_PX = 3000.0, 64


class Plane(Protocol):
    """Tissue without end that can be rendered in windows."""

    @property
    def mpp(self) -> float:
        """um/px of its pixels."""

    @property
    def classes(self) -> Classes:
        """What its labels mean."""

    def render(self, box: Box) -> Pixels:
        """(H, W, 3) uint8 RGB of a box of whole pixels."""

    def labels(self, box: Box, mpp: float | None = None) -> Labels:
        """(H, W) uint8 class at the centre of each pixel, at a resolution of its own if one is given."""


@dataclass(frozen=True)
class SceneSettings:
    """What a scene is.

    Args:
        seed: Of everything whose own seed is not given.
        mpp: um/px; 0.1 to 2.
        difficulty: 0 draws every tissue as itself, 1 plants as many islands and likenesses as there can be.
        composition: How much of what.
        region_um: Size of a tumour bed, about.
        patient_seed: Of the patient's stain and nuclei; the scene's when None.
        scanner_seed: Of the scanner; the scene's when None.
        variation: How far stains and scanners differ, 0 to 1 or more.
        tissue: Where pieces of tissue lie, in pixels, with glass around them; None fills the plane with tissue.
        covered: The part of that box that tissue should cover.

    Raises:
        InputError: When a number is out of its range.
    """

    seed: int = 0
    mpp: float = 0.5
    difficulty: float = 0.5
    composition: Composition = field(default_factory=Composition)
    region_um: float = 1200.0
    patient_seed: int | None = None
    scanner_seed: int | None = None
    variation: float = 0.7
    tissue: Box | None = None
    covered: float = 0.42

    def __post_init__(self) -> None:
        ranges = {"mpp": _MPP, "difficulty": (0, 1), "region_um": (100, 1e6), "covered": (0.01, 1)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} was given as {value}; give a number from {low:g} to {high:g}.")


class Scene:
    """Synthetic tissue.

    Args:
        settings: What it is.
        tissues: Where tissues lie; as the settings say when None.
    """

    def __init__(self, settings: SceneSettings, tissues: Tissues | None = None) -> None:
        self.settings = settings
        patient = settings.seed if settings.patient_seed is None else settings.patient_seed
        scanner = settings.seed if settings.scanner_seed is None else settings.scanner_seed
        self.look = Look.drawn(patient, scanner, settings.variation)
        tissues = tissues or anatomy_of(settings)
        self._painter = Painter(settings.seed, settings.mpp, tissues, settings.difficulty, Habit.drawn(patient))

    @property
    def mpp(self) -> float:
        """um/px of its pixels."""
        return self.settings.mpp

    @property
    def classes(self) -> Classes:
        """SCENE_CLASSES."""
        return SCENE_CLASSES

    def labels(self, box: Box, mpp: float | None = None) -> Labels:
        """The truth of a box.

        Args:
            box: In pixels of the scene; whole ones when no resolution is given.
            mpp: um/px of the answer.

        Returns:
            (H, W) uint8, the class at the centre of each pixel of the answer.
        """
        rows, columns = sampled(box, self.mpp, mpp)
        labels = np.empty((len(rows), len(columns)), np.uint8)
        for part in blocks(Size(len(columns), len(rows)), _BLOCK_PX):
            down, across = part.slices()
            lattice = Lattice.under(rows[down], columns[across], self._painter.step_px)
            labels[down, across] = labels_of(self._painter.fields(lattice), lattice)
        return labels

    def render(self, box: Box, mpp: float | None = None) -> Pixels:
        """The pixels of a box.

        Args:
            box: In pixels of the scene; whole ones when no resolution is given.
            mpp: um/px of the answer: reduced by averaging, or interpolated where it is finer than the scene.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        if mpp is not None and mpp != self.mpp:
            return self._resampled(box, mpp)
        pixels = np.empty((*box.size.shape, 3), np.uint8)
        for part in blocks(box.size, _BLOCK_PX):
            pixels[part.slices()] = self._block(part.shifted(box.x, box.y))
        return pixels

    def _resampled(self, box: Box, mpp: float) -> Pixels:
        height, width = (len(places) for places in sampled(box, self.mpp, mpp))
        whole = box.rounded_out()
        inner = box.shifted(-whole.x, -whole.y)
        method = Image.Resampling.BOX if mpp > self.mpp else Image.Resampling.BILINEAR
        region = (inner.x, inner.y, inner.right, inner.bottom)
        return np.asarray(Image.fromarray(self.render(whole)).resize((width, height), method, box=region))

    def _block(self, box: Box) -> Pixels:
        reach = self.look.reach_px(self.mpp)
        wide = box.grown(reach)
        rows, columns = _whole(wide.y, wide.bottom), _whole(wide.x, wide.right)
        densities = self._painter.densities(rows, columns)
        inner = slice(reach, -reach)
        rows, columns = rows[inner], columns[inner]
        light = self._lamp(rows, columns)
        noisy = sensor_noise(rows, columns, self.settings.seed)
        if densities is None:
            return self.look.glass(light, noisy)
        haematoxylin, eosin = (self.look.optics(density, self.mpp) for density in densities)
        return self.look.pixels(haematoxylin, eosin, light, noisy)

    def _lamp(self, rows: Ints, columns: Ints) -> Floats:
        """How evenly the slide is lit: around 1, changing over millimetres."""
        lattice = Lattice.under(rows, columns, _LAMP_PX)
        step_um = _LAMP_PX * self.mpp
        uneven = noise(key_of(self.settings.seed, "lamp"), _LAMP_UM, lattice.rows * step_um, lattice.columns * step_um)
        return lattice.finer(1 + np.float32(0.004) * uneven)


def anatomy_of(settings: SceneSettings) -> Anatomy:
    """Where the settings of a scene put tissues."""
    area = None if settings.tissue is None else settings.tissue.scaled(settings.mpp)
    pieces = None if area is None else lay_out(settings.seed, area, settings.covered)
    return Anatomy(settings.seed, settings.composition, settings.region_um, pieces)


def sampled(box: Box, own_mpp: float, mpp: float | None) -> tuple[Ints, Ints]:
    """The pixel rows and columns that lie under the centres of an answer's pixels.

    Args:
        box: In pixels of the plane.
        own_mpp: um/px of the plane.
        mpp: um/px of the answer; the plane's own, and whole pixels, when None.
    """
    if mpp is None or mpp == own_mpp:
        return _whole(box.y, box.bottom), _whole(box.x, box.right)
    return _centres(box.y, box.height, own_mpp / mpp), _centres(box.x, box.width, own_mpp / mpp)


def _whole(first: float, last: float) -> Ints:
    return np.arange(round(first), round(last))


def _centres(start: float, length: float, scale: float) -> Ints:
    count = max(1, round(length * scale))
    places: Ints = np.floor(start + (np.arange(count) + 0.5) * (length / count)).astype(np.int64)
    return places


def blocks(size: Size, block_px: int) -> Iterator[Box]:
    """Boxes that tile a size, row by row."""
    for y in range(0, size.height, block_px):
        for x in range(0, size.width, block_px):
            yield Box(x, y, min(block_px, size.width - x), min(block_px, size.height - y))
