"""Lymphoid tissue in shapes of a millimetre's fraction: filled follicles, pairs of bent bands, closed rings.

A ring is two half circles that meet around a pale centre; a pair of bands is the same two half circles turned back to back
or put close behind one another, so that they enclose a narrow cleft at most. Both have the same length, width and
curvature: small squares of bands look like small squares of rings and only the arrangement differs. A follicle is a
disc of the same area.

Does not know: other tissues, pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from counterstain.synth.noise import OUTSIDE, Floats, Places, key_of, noise

Shape = Literal["follicle", "bands", "ring"]

NUM_ARRANGEMENTS = 2
"""Ways in which a pair of bands may lie: back to back, one behind the other."""

_MARGIN_UM = 60.0  # depths are told this far outside
_APART_UM = 25.0  # between two bands
_ROUGH = ((22.0, 5.0), (9.0, 1.5))  # (spacing, height) of the outlines, um
_CLAIM = 1.75  # radii around a motif's middle that no other lymphoid tissue enters


@dataclass(frozen=True)
class Motif:
    """One of them, um.

    Args:
        shape: What it is.
        x: Of its middle.
        y: Likewise.
        radius_um: Of the half circles' middle lines.
        width_um: Of the bands.
        angle: Radians.
        arrangement: Of a pair of bands, below NUM_ARRANGEMENTS.
    """

    shape: Shape
    x: float
    y: float
    radius_um: float
    width_um: float
    angle: float
    arrangement: int

    @property
    def disc_um(self) -> float:
        """Radius of the disc that a ring of its sizes fills, the centre included."""
        return self.radius_um + self.width_um / 2

    def depth(self, across: Floats, down: Floats) -> Floats:
        """Depth (um) at places relative to the middle, without roughness."""
        if self.shape == "follicle":
            # A disc of the area of 2 pi r w.
            return np.float32((2 * self.radius_um * self.width_um) ** 0.5) - np.hypot(across, down)
        half = np.float32(self.width_um / 2)
        if self.shape == "ring":
            return half - np.abs(np.hypot(across, down) - np.float32(self.radius_um))
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        along, beside = across * cosine + down * sine, down * cosine - across * sine
        off = [self._off_arc(along - x, (beside - y) * way, way) for x, y, way in self._arcs()]
        return half - np.minimum(*off)

    def _arcs(self) -> tuple[tuple[float, float, int], tuple[float, float, int]]:
        """(x, y) of the two half circles' centres and 1 or -1 for the side that they bulge to."""
        radius, step = self.radius_um, (self.width_um + _APART_UM) / 2
        if self.arrangement == 0:
            return (-radius - step, 0.0, 1), (radius + step, 0.0, -1)
        return (-radius / 2 - step, 0.0, 1), (-radius / 2 + step, 0.0, 1)

    def _off_arc(self, x: Floats, y: Floats, way: int) -> Floats:
        """Distance from the middle line of a half circle around the origin that bulges to one side along x."""
        x = x * np.float32(way)
        # Round ends add half a disc each; the arcs are shorter by as much, so that two of them have a ring's area.
        reach = (np.pi - np.pi * self.width_um / (4 * self.radius_um)) / 2
        end_x, end_y = np.float32(self.radius_um * np.cos(reach)), np.float32(self.radius_um * np.sin(reach))
        on_arc = np.abs(np.hypot(x, y) - np.float32(self.radius_um))
        off_end = np.hypot(x - end_x, np.abs(y) - end_y)
        return np.asarray(np.where(np.abs(np.arctan2(y, x)) <= reach, on_arc, off_end), np.float32)


def motif_depth(motifs: Sequence[Motif], seed: int, ys: Places, xs: Places) -> Floats:
    """How deep each place of an even grid lies in the nearest motif, rough outlines included.

    Args:
        motifs: All of the plane.
        seed: Of the roughness.
        ys: um, the rows.
        xs: um, the columns.

    Returns:
        (ys, xs) float32, um; `OUTSIDE` far from all of them.
    """
    deepest = np.full((len(ys), len(xs)), OUTSIDE, np.float32)
    for motif in motifs:
        part, across, down = _near(motif, 2.2 * motif.disc_um + _MARGIN_UM, ys, xs)
        if across.size and down.size:
            np.maximum(deepest[part], motif.depth(across, down), out=deepest[part])
    if float(deepest.max()) > -_MARGIN_UM:
        for spacing, height in _ROUGH:
            deepest += noise(key_of(seed, f"motifs {spacing}"), spacing, ys, xs) * np.float32(height)
    return deepest


def claimed_depth(motifs: Sequence[Motif], ys: Places, xs: Places) -> Floats:
    """How deep each place lies in the discs around motifs that no other lymphoid tissue enters; as `motif_depth`."""
    return _discs([(motif, _CLAIM * motif.radius_um) for motif in motifs], ys, xs)


def ringed_depth(motifs: Sequence[Motif], ys: Places, xs: Places) -> Floats:
    """How deep each place lies in a ring or in the centre of one; as `motif_depth`."""
    return _discs([(motif, motif.disc_um) for motif in motifs if motif.shape == "ring"], ys, xs)


def _discs(sized: Sequence[tuple[Motif, float]], ys: Places, xs: Places) -> Floats:
    deepest = np.full((len(ys), len(xs)), OUTSIDE, np.float32)
    for motif, radius in sized:
        part, across, down = _near(motif, radius + _MARGIN_UM, ys, xs)
        if across.size and down.size:
            depth = np.float32(radius) - np.hypot(across, down)
            np.maximum(deepest[part], depth, out=deepest[part])
    return deepest


def _near(motif: Motif, reach: float, ys: Places, xs: Places) -> tuple[tuple[slice, slice], Floats, Floats]:
    """The part of a grid around a motif, and its places relative to it: (1, columns) and (rows, 1)."""
    rows = slice(*np.searchsorted(ys, (motif.y - reach, motif.y + reach)))
    columns = slice(*np.searchsorted(xs, (motif.x - reach, motif.x + reach)))
    across = (xs[columns] - motif.x).astype(np.float32)[None, :]
    down = (ys[rows] - motif.y).astype(np.float32)[:, None]
    return (rows, columns), across, down
