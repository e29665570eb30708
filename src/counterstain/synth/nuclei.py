"""Nuclei and other small bodies as stamps: drawn once with chromatin, membrane and nucleoli, then printed many times.

A stamp is a small float32 image of haematoxylin (for red cells: eosin) in optical density. Stamps come in kinds, each with
sizes, shapes and, for long ones, directions. Printing takes the larger of what is there and the stamp, so that the order
does not matter and overlapping windows agree.

Does not know: where nuclei lie, colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from counterstain.synth.noise import Floats, Ints

_FINE = 3  # a stamp is drawn this much finer than it is printed


@dataclass(frozen=True)
class Kind:
    """What the nuclei of one kind have in common; pairs are the ends of a uniform range.

    Args:
        long_um: Long axis.
        aspect: Long over short axis.
        irregular: How far the outline strays from an ellipse, as a part of the radius.
        density: Optical density of the chromatin at its middle.
        vesicular: How much paler than its rim the inside is, 0 to 1.
        clumps: Contrast of the chromatin's texture.
        clump_um: Size of its grains.
        rim: Extra density of the membrane.
        nucleoli: At most so many.
        shapes: Variants drawn for each direction.
        directions: 1 when stamps are printed unturned; else directions over half a turn.
        blur_um: Softness of the outline.
    """

    long_um: tuple[float, float]
    aspect: tuple[float, float]
    irregular: float
    density: tuple[float, float]
    vesicular: tuple[float, float]
    clumps: float
    clump_um: float
    rim: float
    nucleoli: int
    shapes: int
    directions: int = 1
    blur_um: float = 0.35


KINDS = {
    "tumour": Kind((8.5, 15.0), (1.05, 1.7), 0.09, (0.85, 1.35), (0.15, 0.62), 0.34, 0.75, 0.42, 2, 10, 10),
    "dark tumour": Kind((8.0, 13.5), (1.1, 1.9), 0.12, (1.4, 1.95), (0.0, 0.25), 0.25, 0.8, 0.15, 0, 6, 10),
    "normal": Kind((7.6, 9.6), (1.35, 1.85), 0.03, (0.95, 1.3), (0.1, 0.35), 0.2, 0.6, 0.28, 1, 8, 12),
    "lymphocyte": Kind((5.4, 7.0), (1.0, 1.2), 0.05, (1.5, 2.0), (0.0, 0.15), 0.28, 0.9, 0.1, 0, 32),
    "plasma": Kind((6.0, 7.6), (1.05, 1.3), 0.05, (1.2, 1.6), (0.2, 0.4), 0.5, 1.1, 0.3, 0, 16),
    "spindle": Kind((11.0, 21.0), (3.4, 6.5), 0.10, (1.0, 1.7), (0.0, 0.4), 0.22, 0.7, 0.2, 0, 6, 24),
    "plump": Kind((9.0, 14.0), (1.9, 3.0), 0.07, (0.8, 1.2), (0.3, 0.6), 0.25, 0.7, 0.35, 1, 5, 16),
    "ghost": Kind((6.5, 10.0), (1.0, 1.5), 0.12, (0.12, 0.3), (0.1, 0.5), 0.3, 0.9, 0.1, 0, 16, 1, 0.8),
    "debris": Kind((1.8, 4.6), (1.0, 1.8), 0.16, (0.7, 1.5), (0.0, 0.1), 0.2, 0.6, 0.0, 0, 32, 1, 0.3),
    "dust": Kind((4.0, 22.0), (1.0, 3.0), 0.3, (0.3, 1.6), (0.0, 0.1), 0.4, 1.2, 0.0, 0, 16, 1, 0.7),
    "red cell": Kind((5.6, 6.8), (1.0, 1.35), 0.04, (0.95, 1.25), (0.05, 0.25), 0.06, 0.8, 0.05, 0, 16),
}


@dataclass(frozen=True)
class Stamps:
    """All stamps of one kind at one resolution.

    Args:
        images: float32 optical densities; shape `s` of direction `d` is number `d * shapes + s`.
        shapes: Variants for each direction, smallest first.
        directions: How many.
        reach_px: Half the widest stamp, rounded up.
    """

    images: tuple[Floats, ...]
    shapes: int
    directions: int
    reach_px: int

    def chosen(self, uniform: Floats, angle: Floats | None = None) -> Ints:
        """Stamp numbers for random numbers in [0, 1), and directions in radians where the kind has any."""
        shape = np.minimum((uniform * self.shapes).astype(np.int64), self.shapes - 1)
        if angle is None or self.directions == 1:
            return shape
        turned = np.round(angle * (self.directions / np.pi)).astype(np.int64) % self.directions
        return turned * self.shapes + shape


@lru_cache(maxsize=64)
def stamps_of(name: str, mpp: float) -> Stamps:
    """The stamps of a kind; always the same ones for the same resolution.

    Args:
        name: One of KINDS.
        mpp: um/px they are printed at.
    """
    kind = KINDS[name]
    random = np.random.default_rng(sorted(KINDS).index(name) + 101)
    images: list[Floats] = []
    sizes = np.linspace(0, 1, kind.shapes) if kind.shapes > 1 else np.array([0.5])
    outlines = [_Outline.drawn(kind, float(size), random) for size in sizes]
    for direction in range(kind.directions):
        turn = np.pi * direction / kind.directions
        images += [_stamp(kind, outline, turn, mpp, random) for outline in outlines]
    reach = max(max(image.shape) for image in images) // 2 + 1
    return Stamps(tuple(images), kind.shapes, kind.directions, reach)


@dataclass(frozen=True)
class _Outline:
    """One nucleus before it is turned and drawn."""

    long_um: float
    short_um: float
    waves: tuple[tuple[int, float, float], ...]
    density: float
    vesicular: float

    @classmethod
    def drawn(cls, kind: Kind, size: float, random: np.random.Generator) -> "_Outline":
        long_um = kind.long_um[0] + size * (kind.long_um[1] - kind.long_um[0])
        waves = tuple(
            (count, float(random.normal(0, 1.4 * kind.irregular / count)), float(random.uniform(0, 2 * np.pi)))
            for count in (2, 3, 4, 5)
        )
        return cls(
            long_um / 2,
            long_um / 2 / float(random.uniform(*kind.aspect)),
            waves,
            float(random.uniform(*kind.density)),
            float(random.uniform(*kind.vesicular)),
        )

    def depth(self, across: Floats, down: Floats) -> Floats:
        """Distance (um) inside the outline, negative outside; exact enough near the edge."""
        angle = np.arctan2(down / self.short_um, across / self.long_um)
        bulge = np.ones_like(angle)
        for count, height, phase in self.waves:
            bulge += height * np.cos(count * angle + phase)
        reach = np.hypot(across / self.long_um, down / self.short_um) / np.maximum(bulge, 0.3)
        steepness = np.hypot(across / self.long_um**2, down / self.short_um**2) / np.maximum(reach, 1e-3)
        depth: Floats = (1 - reach) / np.maximum(steepness, 1 / self.long_um)
        return depth


def _stamp(kind: Kind, outline: _Outline, turn: float, mpp: float, random: np.random.Generator) -> Floats:
    half_px = int(np.ceil(outline.long_um * (1 + 2 * kind.irregular) / mpp)) + 2
    step = mpp / _FINE
    places = ((np.arange((2 * half_px + 1) * _FINE) + 0.5) * step - (half_px + 0.5) * mpp).astype(np.float32)
    x, y = places[None, :], places[:, None]
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    across, down = x * cosine + y * sine, y * cosine - x * sine
    depth = outline.depth(across, down)
    inside = 1 / (1 + np.exp(-np.clip(depth / (0.5 * kind.blur_um), -30, 30)))
    grains = ndimage.gaussian_filter(random.standard_normal(depth.shape).astype(np.float32), kind.clump_um / 2 / step)
    grains /= max(float(grains.std()), 1e-6)
    middle = np.clip(depth / (0.6 * outline.short_um), 0, 1)
    density = outline.density * (1 - outline.vesicular * middle) * (1 + kind.clumps * grains)
    density = np.maximum(density, 0.15 * outline.density) + kind.rim * np.exp(-(((depth - 0.35) / 0.45) ** 2))
    for _ in range(random.integers(0, kind.nucleoli + 1)):
        at = random.uniform(-0.45, 0.45, 2) * (outline.long_um, outline.short_um)
        radius = random.uniform(0.5, 1.0)
        density += 0.7 * np.exp(-((across - at[0]) ** 2 + (down - at[1]) ** 2) / radius**2)
    return _reduced(density * inside)


def _reduced(image: Floats) -> Floats:
    """Box averages, with empty borders cut off alike on opposite sides."""
    size = image.shape[0] // _FINE
    small = image.reshape(size, _FINE, size, _FINE).mean((1, 3)).astype(np.float32)
    filled = small > 0.02
    ys, xs = np.nonzero(filled) if filled.any() else (np.array([size // 2]), np.array([size // 2]))
    spare_y = min(int(ys.min()), size - 1 - int(ys.max()))
    spare_x = min(int(xs.min()), size - 1 - int(xs.max()))
    return np.ascontiguousarray(small[spare_y : size - spare_y, spare_x : size - spare_x])


def print_stamps(
    canvas: Floats, stamps: Sequence[Floats], numbers: Ints, rows: Ints, columns: Ints, strength: Floats | None = None
) -> None:
    """Prints stamps centred on pixels of a canvas, keeping the larger density.

    Args:
        canvas: (H, W) float32, changed in place. Stamps that reach beyond it are cut.
        stamps: float32 images of odd sizes.
        numbers: Which stamp.
        rows: Of the centres; they may lie outside.
        columns: Likewise.
        strength: Factors on the densities, one for each; 1 when None.
    """
    height, width = canvas.shape
    factors = [1.0] * len(numbers) if strength is None else strength.tolist()
    for number, row, column, factor in zip(numbers.tolist(), rows.tolist(), columns.tolist(), factors, strict=True):
        stamp = stamps[number]
        tall, wide = stamp.shape
        top, left = row - tall // 2, column - wide // 2
        if top < 0 or left < 0 or top + tall > height or left + wide > width:
            cut_top, cut_left = max(0, -top), max(0, -left)
            stamp = stamp[cut_top : max(cut_top, height - top), cut_left : max(cut_left, width - left)]
            top, left = top + cut_top, left + cut_left
            tall, wide = stamp.shape
            if not tall or not wide:
                continue
        under = canvas[top : top + tall, left : left + wide]
        np.maximum(under, stamp if factor == 1.0 else stamp * np.float32(factor), out=under)
