"""Where tissues lie: smooth fields of depth, in microns, and the labels they amount to.

A field is positive inside a tissue and negative outside, roughly the distance to its border. Tissues are laid over one
another: stroma everywhere, then normal glands, fat, lymphocytes, tumour nests, necrosis, lumens, and glass where the
tissue ends. Tumour nests live in a tumour bed, necrosis deep inside it, lymphocytes thickest along its margin, fat and
normal glands away from it.

Fields are computed at the nodes of a coarse lattice that is fixed to the plane and interpolated between them, so labels
depend on the place alone.

Does not know: colours, nuclei, files.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.results import Classes
from counterstain.synth.noise import (
    OUTSIDE,
    Discs,
    Floats,
    Ints,
    Places,
    Scatter,
    again,
    key_of,
    noise,
    noise_at,
)
from counterstain.synth.pieces import Pieces

Labels = npt.NDArray[np.uint8]

SCENE_CLASSES = Classes(
    ("tumour epithelium", "stroma", "lymphocytes", "necrosis", "normal tissue", "white", "glass"),
    ((205, 51, 51), (255, 165, 0), (65, 105, 225), (0, 200, 0), (160, 60, 190), (235, 235, 235), (255, 255, 255)),
    background="glass",
)
"""What a scene holds: `normal tissue` is glands and what lies between them, `white` is fat and the lumens of glands,
`glass` is where no tissue is."""

TUMOUR, STROMA, LYMPHOCYTES, NECROSIS, NORMAL, WHITE, GLASS = range(7)

_SLOPE = 1.66  # root mean square gradient of `noise` times its spacing; measured
GLAND_WALL_UM = 15.0
_COLLAR_UM = 20.0  # tissue this close to a normal gland is normal tissue, whatever it looks like
_FAR_UM = 45.0  # a tissue this far off changes nothing, so its field need not be computed
_SECOND = 0.53  # the second lattice of broad noise, as a part of the first's spacing
_SUM_STD = (1 + 0.7**2) ** 0.5


@dataclass(frozen=True)
class Composition:
    """How much of what, as parts of 1.

    Args:
        tumour: Tumour bed, of the tissue: nests with the stroma between them.
        nests: Tumour nests, of the bed.
        necrosis: Of the bed, deep inside.
        lymphocytes: Of the stroma, more along the bed's margin.
        normal: Lobules of normal glands, of the tissue outside the bed.
        fat: Of the tissue outside the bed.
        glands: How far nests are glands with lumens rather than solid.

    Raises:
        InputError: When one is outside [0, 1].
    """

    tumour: float = 0.5
    nests: float = 0.64
    necrosis: float = 0.18
    lymphocytes: float = 0.16
    normal: float = 0.22
    fat: float = 0.14
    glands: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise InputError(f"Composition {name} was given as {value}; give a part between 0 and 1.")


@dataclass(frozen=True)
class Fields:
    """Depths in um at the nodes of a lattice, (rows, columns) float32 each; None where absent from the whole window.

    Args:
        glass: Positive where there is no tissue.
        bed: Tumour bed.
        nests: Tumour epithelium.
        necrosis: Necrosis.
        lymphocytes: Lymphocytes.
        normal: Normal glands, lumens included.
        fat: Fat.
        lumens: Lumens of tumour glands and of normal ones.
        diffuse: Single tumour cells between those of whatever tissue lies there; never from `Anatomy` itself.
    """

    glass: Floats | None
    bed: Floats | None
    nests: Floats | None
    necrosis: Floats | None
    lymphocytes: Floats | None
    normal: Floats | None
    fat: Floats | None
    lumens: Floats | None
    diffuse: Floats | None = None

    def layers(self) -> list[tuple[int, Floats | None]]:
        """(class, field) from the bottom up; stroma lies under all of them."""
        return [
            (NORMAL, None if self.normal is None else self.normal + np.float32(_COLLAR_UM)),
            (WHITE, self.fat),
            (LYMPHOCYTES, self.lymphocytes),
            (TUMOUR, self.diffuse),
            (TUMOUR, self.nests),
            (NECROSIS, self.necrosis),
            (WHITE, self.lumens),
            (GLASS, self.glass),
        ]


def _threshold(part: float) -> float:
    """What standard noise exceeds on this part of the plane."""
    return -NormalDist().inv_cdf(min(max(part, 1e-4), 1 - 1e-4))


class Anatomy:
    """The fields of one scene.

    Args:
        seed: Of the scene.
        composition: How much of what.
        region_um: Size of a tumour bed, about.
        pieces: Where tissue is; everywhere when None.
    """

    def __init__(self, seed: int, composition: Composition, region_um: float, pieces: Pieces | None) -> None:
        self.seed, self.composition, self.region_um, self.pieces = seed, composition, region_um, pieces
        self._lobules = Scatter(key_of(seed, "glands"), 76.0, 0.5)

    def fields(self, ys: Places, xs: Places) -> Fields:
        """All fields at the nodes of a lattice.

        Args:
            ys: um, the rows.
            xs: um, the columns.
        """
        glass = None if self.pieces is None else -self.pieces.depth(ys, xs)
        if glass is not None and float(glass.min()) > 0:
            return Fields(glass, *(None,) * 7)
        parts = self.composition
        bed = self._bed(ys, xs)
        nests = self.nests(bed, ys, xs)
        necrosis = self._deep("necrosis", parts.necrosis, 0.3 * self.region_um, 0.04 * self.region_um, bed, ys, xs)
        fat = self._deep("fat", parts.fat, 0.42 * self.region_um, 0.06 * self.region_um, -bed, ys, xs)
        normal, normal_lumens = self._normal(bed, fat, ys, xs)
        lymphocytes = self._lymphocytes(bed, [nests, fat, normal, necrosis], ys, xs)
        lumens = self.lumens(nests, necrosis, ys, xs)
        if normal_lumens is not None:
            lumens = normal_lumens if lumens is None else np.maximum(lumens, normal_lumens)
        return Fields(glass, bed, nests, necrosis, lymphocytes, normal, fat, lumens)

    def _noise(self, name: str, spacing_um: float, ys: Places, xs: Places) -> Floats:
        return noise(key_of(self.seed, name), spacing_um, ys, xs)

    def _broad(self, name: str, spacing_um: float, ys: Places, xs: Places) -> Floats:
        """Noise of two lattices: a single one shows its axes in large shapes."""
        coarse = self._noise(name, spacing_um, ys, xs)
        coarse += self._noise(name + " too", _SECOND * spacing_um, ys, xs) * np.float32(0.7)
        return coarse / np.float32(_SUM_STD)

    def _broad_at(self, name: str, spacing_um: float, y: Places, x: Places) -> Floats:
        coarse = noise_at(key_of(self.seed, name), spacing_um, y, x)
        coarse += noise_at(key_of(self.seed, name + " too"), _SECOND * spacing_um, y, x) * np.float32(0.7)
        return coarse / np.float32(_SUM_STD)

    def _bed(self, ys: Places, xs: Places) -> Floats:
        spacing = 0.5 * self.region_um
        if self.composition.tumour <= 0:
            return np.full((len(ys), len(xs)), OUTSIDE, np.float32)
        value = self._broad("bed", spacing, ys, xs) - np.float32(_threshold(self.composition.tumour))
        rough = self._noise("bed rough", 0.16 * spacing, ys, xs)
        return value * np.float32(spacing / _SLOPE) + rough * np.float32(0.035 * spacing)

    def _bed_at(self, y: Places, x: Places) -> Floats:
        """The bed without its rough edge at single places."""
        spacing = 0.5 * self.region_um
        if self.composition.tumour <= 0:
            return np.full(y.shape, OUTSIDE, np.float32)
        value = self._broad_at("bed", spacing, y, x) - np.float32(_threshold(self.composition.tumour))
        return value * np.float32(spacing / _SLOPE)

    def nests(self, bed: Floats, ys: Places, xs: Places) -> Floats | None:
        """Tumour nests inside a bed; None where it is far."""
        if 0.7 * float(bed.max()) < -_FAR_UM:
            return None
        spacing = 56.0
        value = self._broad("nests", spacing, ys, xs) - np.float32(_threshold(self.composition.nests))
        nests: Floats = value * np.float32(spacing / _SLOPE)
        # Sheets of tumour here, small nests far apart there
        nests += self._noise("sheets", 0.12 * self.region_um, ys, xs) * np.float32(26)
        nests += self._noise("nests rough", 9.0, ys, xs) * np.float32(2.2)
        nests += self._noise("nests fine", 3.6, ys, xs) * np.float32(0.7)
        np.minimum(nests, 0.7 * bed, out=nests)
        return nests

    def _deep(
        self, name: str, part: float, spacing: float, margin: float, around: Floats, ys: Places, xs: Places
    ) -> Floats | None:
        """A tissue that keeps a margin inside another."""
        if part <= 0 or float(around.max()) < margin - _FAR_UM:
            return None
        value = self._broad(name, spacing, ys, xs) - np.float32(_threshold(part))
        field: Floats = value * np.float32(spacing / _SLOPE)
        field += self._noise(name + " rough", 24.0, ys, xs) * np.float32(7)
        field += self._noise(name + " fine", 7.0, ys, xs) * np.float32(2)
        np.minimum(field, around - np.float32(margin), out=field)
        return field

    def _lymphocytes(self, bed: Floats, outside: list[Floats | None], ys: Places, xs: Places) -> Floats | None:
        part = self.composition.lymphocytes
        if part <= 0:
            return None
        spacing = 0.12 * self.region_um + 20
        margin = np.exp(-((bed / np.float32(0.14 * self.region_um)) ** 2))
        value = self._broad("lymphocytes", spacing, ys, xs) + 0.8 * margin - np.float32(_threshold(part) + 0.25)
        field: Floats = value * np.float32(spacing / _SLOPE)
        field += self._noise("lymphocytes rough", 14.0, ys, xs) * np.float32(5)
        for other in outside:
            if other is not None:
                np.minimum(field, -other, out=field)
        return field

    def lumens(self, nests: Floats | None, necrosis: Floats | None, ys: Places, xs: Places) -> Floats | None:
        """Lumens inside nests; None where there are none."""
        glands = self.composition.glands
        if glands <= 0 or nests is None:
            return None
        value = self._noise("lumens", 19.0, ys, xs) - np.float32(_threshold(0.05 + 0.3 * glands))
        lumens: Floats = value * np.float32(19 / _SLOPE) + self._noise("lumens rough", 4.0, ys, xs)
        for limit in (nests - np.float32(13), None if necrosis is None else -necrosis):
            if limit is not None:
                np.minimum(lumens, limit, out=lumens)
        return lumens

    def _normal(self, bed: Floats, fat: Floats | None, ys: Places, xs: Places) -> tuple[Floats | None, Floats | None]:
        """Normal glands and their lumens: round, regular, one layer of cells around a hole."""
        if self.composition.normal <= 0 or float(bed.min()) > _FAR_UM:
            return None, None
        reach = 90.0
        sites = self._lobules.sites(xs[0] - reach, ys[0] - reach, xs[-1] + reach, ys[-1] + reach)
        lobule = self._broad_at("lobules", 0.3 * self.region_um, sites.y, sites.x)
        is_gland = (lobule > _threshold(self.composition.normal)) & (self._bed_at(sites.y, sites.x) < -60)
        sites = sites.kept(is_gland)
        if not len(sites):
            return None, None
        uniform = [again(sites.hashes, number) for number in (5, 6, 7)]
        discs = Discs(sites, 21 + 9 * uniform[0], 1 + 0.7 * uniform[1], np.float32(np.pi) * uniform[2])
        glands = discs.depth(ys, xs, 30)
        glands += self._noise("glands rough", 16.0, ys, xs) * np.float32(1.8)
        np.minimum(glands, -bed - 10, out=glands)
        if fat is not None:
            np.minimum(glands, -fat - 4, out=glands)
        lumens = glands - np.float32(GLAND_WALL_UM) + self._noise("glands lumens", 5.0, ys, xs) * np.float32(1.2)
        return glands, lumens


@dataclass(frozen=True)
class Lattice:
    """The nodes that a window of pixels is interpolated from.

    Args:
        step_px: Pixels from node to node, fixed to the plane's origin.
        rows: Node rows, ascending.
        columns: Node columns.
        row_at: For each pixel row, the position in `rows` of the node above it.
        column_at: Likewise.
        row_part: How far each pixel row's centre lies from that node to the next, in [0, 1).
        column_part: Likewise.
    """

    step_px: int
    rows: Ints
    columns: Ints
    row_at: Ints
    column_at: Ints
    row_part: Floats
    column_part: Floats

    @classmethod
    def under(cls, rows_px: Ints, columns_px: Ints, step_px: int, margin: int = 0) -> "Lattice":
        """The lattice under pixel rows and columns, whole and ascending, wider by `margin` nodes on every side."""
        rows, row_at, row_part = _nodes(rows_px, step_px, margin)
        columns, column_at, column_part = _nodes(columns_px, step_px, margin)
        return cls(step_px, rows, columns, row_at, column_at, row_part, column_part)

    def finer(self, field: Floats) -> Floats:
        """A field from the nodes to the pixels, linear between nodes: (pixel rows, pixel columns) float32."""
        part = self.column_part
        wide = field.take(self.column_at, axis=1)
        wide += (field.take(self.column_at + 1, axis=1) - wide) * part
        full = wide.take(self.row_at, axis=0)
        below = wide.take(self.row_at + 1, axis=0)
        below -= full
        below *= self.row_part[:, None]
        full += below
        return full

    def nearest(self, rows_px: Ints, columns_px: Ints) -> tuple[Ints, Ints]:
        """Positions of the nodes nearest to single pixels, to look a field up at."""
        row = np.searchsorted(self.rows, (rows_px + self.step_px // 2) // self.step_px)
        column = np.searchsorted(self.columns, (columns_px + self.step_px // 2) // self.step_px)
        return np.minimum(row, len(self.rows) - 1), np.minimum(column, len(self.columns) - 1)


def _nodes(pixels: Ints, step: int, margin: int) -> tuple[Ints, Ints, Floats]:
    place = (pixels + 0.5) / step
    before = np.floor(place).astype(np.int64)
    nodes = np.unique(np.concatenate([before, before + 1]))
    if margin:
        nodes = np.arange(nodes[0] - margin, nodes[-1] + margin + 1)
    return nodes, np.searchsorted(nodes, before), (place - before).astype(np.float32)


def labels_of(fields: Fields, lattice: Lattice) -> Labels:
    """The class at each pixel of the lattice's window: the uppermost layer that is positive there."""
    labels = np.full((len(lattice.row_at), len(lattice.column_at)), STROMA, np.uint8)
    for number, field in fields.layers():
        if field is None or float(field.max()) <= 0:
            continue
        if number == GLASS and float(field.min()) > 0:
            return np.full_like(labels, GLASS)
        labels[lattice.finer(field) > 0] = number
    return labels
