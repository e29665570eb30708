"""Seeded randomness that depends on the place alone: hashes, smooth noise, scattered sites, cells.

Integer lattice coordinates and a key are hashed to numbers, and everything else is interpolated between them or placed
around them. Nothing is drawn in sequence, so any two windows of a plane agree wherever they overlap, to the bit: sums
run over the same terms in the same order whatever the window.

Arrays are (rows, columns); `ys` and `xs` are the rows' and the columns' coordinates in microns.

Does not know: tissue, stains, pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Places = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.signedinteger[Any]]
Hashes = npt.NDArray[np.unsignedinteger[Any]]

_SPLINE_STD = 0.2767  # of a bicubic B-spline over uniform numbers in [-1, 1], averaged over places; measured
_MASK = 0xFFFFFFFF

OUTSIDE = np.float32(-1e4)
"""A depth (um) where something can't be."""


def key_of(seed: int, name: str) -> int:
    """A 32-bit key for one use of a seed; other names give unrelated keys."""
    key = seed & _MASK ^ (seed >> 32) & _MASK
    for letter in name.encode():
        key = _mixed(key ^ letter * 0x9E3779B1 & _MASK)
    return _mixed(key)


def _mixed(value: int) -> int:
    """One number through the finaliser that `hashed` applies to arrays."""
    value &= _MASK
    value = ((value >> 16) ^ value) * 0x7FEB352D & _MASK
    value = ((value >> 15) ^ value) * 0x846CA68B & _MASK
    return (value >> 16) ^ value


def hashed(key: int, rows: Ints, columns: Ints) -> Hashes:
    """A number for each place of a lattice.

    Args:
        key: As `key_of` gives it.
        rows: Lattice rows, any sign, at least one dimension; broadcast against `columns`.
        columns: Lattice columns.

    Returns:
        uint32, uniform.

    Source: the two-round finaliser "lowbias32" of C. Wellons' hash prospector.
    """
    first = _finalised(rows.astype(np.uint32) * np.uint32(0x9E3779B1) ^ np.uint32(key))
    return _finalised(first ^ columns.astype(np.uint32) * np.uint32(0x85EBCA77))


def _finalised(values: Hashes) -> Hashes:
    values = (values ^ values >> np.uint32(16)) * np.uint32(0x7FEB352D)
    values = (values ^ values >> np.uint32(15)) * np.uint32(0x846CA68B)
    return values ^ values >> np.uint32(16)


def again(hashes: Hashes, number: int) -> Floats:
    """Further independent numbers of hashed places: float32 in [0, 1)."""
    values = _finalised(hashes + np.uint32(number * 0x632BE5AB & _MASK))
    return (values >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _spline(fractions: Places) -> list[Floats]:
    """The four weights of a cubic B-spline at fractions in [0, 1)."""
    t = fractions.astype(np.float32)
    s = 1 - t
    return [
        s * s * s / 6,
        (3 * t * t * t - 6 * t * t + 4) / 6,
        (3 * s * s * s - 6 * s * s + 4) / 6,
        t * t * t / 6,
    ]


def noise(key: int, spacing_um: float, ys: Places, xs: Places) -> Floats:
    """Smooth noise on a grid of places.

    Args:
        key: As `key_of` gives it.
        spacing_um: Between nodes of the lattice; features are two to three times as large.
        ys: Coordinates of the rows, um.
        xs: Coordinates of the columns, um.

    Returns:
        (ys, xs) float32, mean 0, standard deviation about 1, range within [-3.7, 3.7].
    """
    row_at, column_at = np.floor(ys / spacing_um), np.floor(xs / spacing_um)
    row_weights, column_weights = _spline(ys / spacing_um - row_at), _spline(xs / spacing_um - column_at)
    rows, columns = row_at.astype(np.int64), column_at.astype(np.int64)
    top, left = int(rows.min()) - 1, int(columns.min()) - 1
    lattice = _lattice(key, np.arange(top, int(rows.max()) + 3), np.arange(left, int(columns.max()) + 3))
    tall = np.zeros((len(ys), lattice.shape[1]), np.float32)
    for offset, weight in enumerate(row_weights):
        tall += lattice[rows - top - 1 + offset] * weight[:, None]
    full = np.zeros((len(ys), len(xs)), np.float32)
    for offset, weight in enumerate(column_weights):
        full += tall.take(columns - left - 1 + offset, axis=1) * weight
    return full


def noise_at(key: int, spacing_um: float, y: Places, x: Places) -> Floats:
    """The same noise at single places.

    Args:
        key: As `key_of` gives it.
        spacing_um: Between nodes of the lattice.
        y: Coordinates, um.
        x: Likewise, of the same shape.
    """
    row_at, column_at = np.floor(y / spacing_um), np.floor(x / spacing_um)
    row_weights, column_weights = _spline(y / spacing_um - row_at), _spline(x / spacing_um - column_at)
    rows, columns = row_at.astype(np.int64), column_at.astype(np.int64)
    total = np.zeros(y.shape, np.float32)
    for down, row_weight in enumerate(row_weights):
        for right, column_weight in enumerate(column_weights):
            values = again(hashed(key, rows - 1 + down, columns - 1 + right), 0)
            total += (2 * values - 1) * row_weight * column_weight
    return total / np.float32(_SPLINE_STD)


def _lattice(key: int, rows: Ints, columns: Ints) -> Floats:
    values = again(hashed(key, rows[:, None], columns[None, :]), 0)
    return (2 * values - 1) / np.float32(_SPLINE_STD)


@dataclass(frozen=True)
class Sites:
    """Places scattered over the plane, one in each cell of a square lattice.

    Args:
        x: um, as many as there are sites.
        y: um.
        hashes: Of the cells: what else is random about a site comes from `again(hashes, number)`.
    """

    x: Places
    y: Places
    hashes: Hashes

    def __len__(self) -> int:
        return len(self.x)

    def kept(self, is_kept: npt.NDArray[np.bool_]) -> "Sites":
        """Those for which a condition holds."""
        return Sites(self.x[is_kept], self.y[is_kept], self.hashes[is_kept])


@dataclass(frozen=True)
class Scatter:
    """How sites are scattered.

    Args:
        key: As `key_of` gives it.
        pitch_um: Width of a cell.
        jitter: How far a site strays from its cell's centre, as a part of the cell in [0, 1].
    """

    key: int
    pitch_um: float
    jitter: float = 0.7

    def sites(self, left: float, top: float, right: float, bottom: float) -> Sites:
        """The sites in a rectangle (um), row by row."""
        rows = np.arange(np.floor(top / self.pitch_um), np.floor(bottom / self.pitch_um) + 1).astype(np.int64)
        # Odd rows are moved by half a cell, so the cell before the first may reach in.
        columns = np.arange(np.floor(left / self.pitch_um) - 1, np.floor(right / self.pitch_um) + 1).astype(np.int64)
        y, x, hashes = self._placed(rows[:, None], columns[None, :])
        is_inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
        return Sites(x[is_inside], y[is_inside], hashes[is_inside])

    def _placed(self, rows: Ints, columns: Ints) -> tuple[Places, Places, Hashes]:
        hashes = hashed(self.key, rows, columns)
        # Every other row is moved by half a cell: a brick pattern keeps neighbours apart better than a square one.
        shift = 0.5 * (rows & 1)
        y = (rows + 0.5 + self.jitter * (again(hashes, 1).astype(np.float64) - 0.5)) * self.pitch_um
        x = (columns + shift + 0.5 + self.jitter * (again(hashes, 2).astype(np.float64) - 0.5)) * self.pitch_um
        return y, x, hashes

    def around(self, ys: Places, xs: Places) -> "Neighbours":
        """The sites that may be nearest to each place of a grid."""
        rows = np.floor(ys / self.pitch_um).astype(np.int64)
        columns = np.floor(xs / self.pitch_um).astype(np.int64)
        top, left = int(rows.min()) - 1, int(columns.min()) - 2
        lattice_rows = np.arange(top, int(rows.max()) + 2)
        lattice_columns = np.arange(left, int(columns.max()) + 2)
        y, x, hashes = self._placed(lattice_rows[:, None], lattice_columns[None, :])
        return Neighbours(ys, xs, rows - top, columns - left, Sites(x, y, hashes))


@dataclass(frozen=True)
class Neighbours:
    """For a grid of places, the sites around each.

    Args:
        ys: Coordinates of the grid's rows, um.
        xs: Of its columns.
        rows: Each grid row's row of `sites`.
        columns: Each grid column's column.
        sites: A lattice of sites: its arrays are (lattice rows, lattice columns).
    """

    ys: Places
    xs: Places
    rows: Ints
    columns: Ints
    sites: Sites

    def two_nearest(self) -> tuple[Floats, Floats]:
        """Distances (um) to the nearest site and to the one after it, each (ys, xs) float32."""
        first = np.full((len(self.ys), len(self.xs)), 1e12, np.float32)
        second = first.copy()
        for across, down in self._offsets():
            squared = across * across + down * down
            np.minimum(second, np.maximum(first, squared), out=second)
            np.minimum(first, squared, out=first)
        return np.sqrt(first), np.sqrt(second)

    def _offsets(self) -> Iterator[tuple[Floats, Floats]]:
        """(x distance, y distance) to each neighbour, as grids."""
        for row in (-1, 0, 1):
            for column in (-2, -1, 0, 1):
                at = np.ix_(self.rows + row, self.columns + column)
                yield (
                    (self.xs[None, :] - self.sites.x[at]).astype(np.float32),
                    (self.ys[:, None] - self.sites.y[at]).astype(np.float32),
                )


@dataclass(frozen=True)
class Discs:
    """Ellipses around sites.

    Args:
        sites: Their middles.
        radius_um: Short half axes, float32.
        long: Long axes as multiples of the short ones.
        angle: Of the long axes, radians.
    """

    sites: Sites
    radius_um: Floats
    long: Floats
    angle: Floats

    def depth(self, ys: Places, xs: Places, margin_um: float) -> Floats:
        """How deep each place of an even grid lies in the nearest disc.

        Args:
            ys: um, the rows.
            xs: um, the columns.
            margin_um: How far outside the discs depths are told; beyond it they are `OUTSIDE`.

        Returns:
            (ys, xs) float32, um; negative outside.
        """
        deepest = np.full((len(ys), len(xs)), OUTSIDE, np.float32)
        reaches = self.radius_um * self.long + margin_um
        for number, reach in enumerate(reaches.tolist()):
            y, x = float(self.sites.y[number]), float(self.sites.x[number])
            rows = slice(*np.searchsorted(ys, (y - reach, y + reach)))
            columns = slice(*np.searchsorted(xs, (x - reach, x + reach)))
            across = (xs[columns] - x).astype(np.float32)[None, :]
            down = (ys[rows] - y).astype(np.float32)[:, None]
            cosine, sine = np.cos(self.angle[number]), np.sin(self.angle[number])
            along, beside = across * cosine + down * sine, down * cosine - across * sine
            depth = self.radius_um[number] - np.sqrt((along / self.long[number]) ** 2 + beside * beside)
            np.maximum(deepest[rows, columns], depth, out=deepest[rows, columns])
        return deepest
