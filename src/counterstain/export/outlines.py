"""The outlines of all classes of a block of labels, followed along the borders of its pixels.

    labels -> edges between pixels that differ -> for each side of each the edge that its outline goes on with
           -> rings of edges, one after the other -> corners -> polygons

An outline of a class runs through the middle between a pixel of it and a neighbour that is none, cuts corners at half a
pixel, and has its class to the left where y counts upwards. Between four pixels it turns around its own pixel at once when
the next one is of another class: so pixels that touch at a corner alone are different pieces. At the rim of the block it
runs through the centres of the outermost pixels: blocks that share those fit together.

What belongs together follows from runs: a run of pixels of one class in a row lies between two rings of one piece, and the
leftmost pixel of a hole has such a run beside it.

Source: ours. contourpy looks at every pixel for every class, and scipy's `label` does so again: together three times as
long, since a map has few edges for its pixels.
Does not know: slides, maps larger than a block.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, depth_first_order

Labels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
Polygons = npt.NDArray[np.object_]
Sides = npt.NDArray[np.int32]

_Way = tuple[Sides, int, Numbers]  # of each pixel its edge, the first of the sides there, the pixels asked for


@dataclass(frozen=True)
class Pieces:
    """The pieces of wanted classes in a block: sets of pixels of one class that touch along edges.

    Args:
        polygons: (N,) by class, then by first pixel from the top.
        labels: (N,) uint8, their classes.
        runs: The rows' runs of pixels.
        owners: (R,) for each run its piece from 1; 0 where no class is wanted.
    """

    polygons: Polygons
    labels: Labels
    runs: "Runs"
    owners: Numbers

    def sums(self, values: npt.NDArray[np.float32]) -> Points:
        """(N,) float64: for each piece the sum of values, (H, W), over its pixels."""
        of_runs = np.add.reduceat(values.ravel(), self.runs.starts, dtype=np.float64)
        return self._of_pieces(of_runs)

    @property
    def seams(self) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """The pieces of the pixels in the first row, the last row, the first column and the last."""
        runs, firsts = self.runs, self.runs.firsts
        first_row, last_row = slice(0, firsts[1]), slice(firsts[-2], None)
        return (
            np.repeat(self.owners[first_row], runs.lengths[first_row]),
            np.repeat(self.owners[last_row], runs.lengths[last_row]),
            self.owners[firsts[:-1]],
            self.owners[firsts[1:] - 1],
        )

    @property
    def num_pixels(self) -> Numbers:
        """(N,) how many pixels each has, those of the first row and column left out."""
        lengths, firsts = self.runs.lengths.copy(), self.runs.firsts
        lengths[firsts[:-1]] -= 1
        lengths[: firsts[1]] = 0
        return self._of_pieces(lengths).astype(np.int64)

    def _of_pieces(self, of_runs: npt.NDArray[np.generic]) -> Points:
        return np.bincount(self.owners, weights=of_runs, minlength=len(self.polygons) + 1)[1:].astype(np.float64)


@dataclass(frozen=True)
class Runs:
    """Runs of pixels of one label, row by row.

    Args:
        starts: (R,) the first pixel of each; pixels are counted row by row.
        lengths: (R,) their pixels.
        firsts: (H + 1,) the first run of each row, and how many runs there are.
    """

    starts: Numbers
    lengths: Numbers
    firsts: Numbers


def pieces_of(labels: Labels, is_wanted: Mask, origin: tuple[float, float] = (0.0, 0.0)) -> Pieces:
    """The pieces of a block.

    Args:
        labels: (H, W), at least two pixels each way.
        is_wanted: (256,) of each label.
        origin: x and y of the first pixel's centre.
    """
    edges = _Edges(labels)
    successors, rim = edges.successors()
    order, rings = _walked(successors)
    runs, before, after = _runs(edges, rings, rim)
    num_pieces, piece_of_ring = _joined(before, after, int(rings.max()) + 1)
    pieces = piece_of_ring[before]
    first_runs = _firsts(pieces, num_pieces)
    of_class = labels.ravel()[runs.starts[first_runs]]
    chosen = np.flatnonzero(is_wanted[of_class])
    chosen = chosen[np.lexsort((first_runs[chosen], of_class[chosen]))]
    ranks = np.zeros(num_pieces, np.int64)
    ranks[chosen] = np.arange(1, len(chosen) + 1)
    ways = _Rings(edges.places()[order], np.bincount(rings), ranks[piece_of_ring], edges.stride)
    polygons = ways.polygons(origin)
    return Pieces(polygons, of_class[chosen], runs, ranks[pieces])


def _joined(before: Sides, after: Sides, num_rings: int) -> tuple[int, Sides]:
    """How many pieces rings belong to that lie on both sides of a run; and of each ring its piece."""
    differ = before != after
    ties = coo_array((np.ones(int(differ.sum())), (before[differ], after[differ])), shape=(num_rings, num_rings))
    num, pieces = connected_components(ties, directed=False)
    return int(num), pieces


class _Edges:
    """Edges between pixels of different labels; each has two sides.

    Sides are numbered: left of each upright edge, right of it, above each level one, below it, then the block's corners.
    Pixels are numbered row by row, and an edge has the number of the pixel to its left, or above it.

    Args:
        labels: (H, W).
    """

    def __init__(self, labels: Labels) -> None:
        self.height, self.width = labels.shape
        self.stride = 2 * self.width
        differs = np.zeros(labels.shape, bool)
        np.not_equal(labels[:, :-1], labels[:, 1:], out=differs[:, :-1])
        self.upright = np.flatnonzero(differs)
        self.level = np.flatnonzero(labels[:-1] != labels[1:])
        # Neighbours beyond the block may be asked for, also at negative places; what they say is not used.
        self.labels = np.pad(labels.ravel(), (0, self.width + 2))
        num_upright, num_level = len(self.upright), len(self.level)
        self.left, self.right, self.above, self.below, self.corners = np.cumsum(
            [0, num_upright, num_upright, num_level, num_level]
        ).tolist()

    def places(self) -> Numbers:
        """(N,) where each side's middle lies: twice its x, and twice its y by `stride`."""
        places = np.empty(self.corners + 4, np.int64)
        right, bottom = self.width - 1, (self.height - 1) * 2 * self.stride
        places[self.left : self.right] = places[self.right : self.above] = self._doubled(self.upright) + 1
        places[self.above : self.below] = places[self.below : self.corners] = self._doubled(self.level) + self.stride
        places[self.corners :] = bottom + 2 * right, bottom, 0, 2 * right
        return places

    def _doubled(self, pixels: Numbers) -> Numbers:
        doubled: Numbers = 2 * pixels + pixels // self.width * self.stride
        return doubled

    def successors(self) -> tuple[npt.NDArray[np.int32], "_Rim"]:
        """For each side the next one along its outline, and the rim."""
        wide, upright, level = self.width, self.upright, self.level
        upright_at, level_at = _numbered(upright, len(self.labels)), _numbered(level, len(self.labels))
        left, right = (upright_at, self.left), (upright_at, self.right)
        above, below = (level_at, self.above), (level_at, self.below)
        answer = np.empty(self.corners + 4, np.int32)
        answer[self.left : self.right] = self._next(
            (upright, wide, wide + 1), (*above, upright), (*left, upright + wide), (*below, upright + 1)
        )
        answer[self.right : self.above] = self._next(
            (upright + 1, -wide, -wide - 1),
            (*below, upright + 1 - wide),
            (*right, upright - wide),
            (*above, upright - wide),
        )
        answer[self.above : self.below] = self._next(
            (level, -1, wide - 1), (*right, level - 1), (*above, level - 1), (*left, level + wide - 1)
        )
        answer[self.below : self.corners] = self._next(
            (level + wide, 1, 1 - wide), (*left, level + wide), (*below, level + 1), (*right, level)
        )
        rim = self._rim(upright_at, level_at)
        answer[rim.leaving] = np.roll(rim.arriving, -1)
        return answer, rim

    def _next(self, pixels: tuple[Numbers, int, int], around: _Way, straight: _Way, away: _Way) -> Sides:
        """Where outlines go between four pixels: their own, the one they came past, and the two behind these.

        Args:
            pixels: Their own; from there to the one behind it; from there to the one behind that which they came past.
            around: What comes when the pixel behind their own is of another class.
            straight: When the one behind that which they came past is.
            away: When both are of their own.
        """
        own, behind, across = pixels
        labels = self.labels[own]
        turned = np.where(self.labels[own + across] != labels, _sides(*straight), _sides(*away))
        return np.where(self.labels[own + behind] != labels, _sides(*around), turned)

    def _rim(self, upright_at: Sides, level_at: Sides) -> "_Rim":
        """The rim, as outlines go along it: from the last pixel to the left, up, to the right and down."""
        high, wide = self.height, self.width
        pixels = np.concatenate(
            [
                (high - 1) * wide + np.arange(wide)[::-1],
                np.arange(high - 2, 0, -1) * wide,
                np.arange(wide),
                np.arange(1, high - 1) * wide + wide - 1,
            ]
        )
        corners = np.array([0, wide - 1, wide + high - 2, 2 * wide + high - 3])
        labels = self.labels[pixels]
        changes = np.flatnonzero(labels != np.roll(labels, -1))
        here, there = pixels[changes], np.roll(pixels, -1)[changes]
        stretch = np.searchsorted(corners, changes, side="right") - 1
        at = np.where(stretch < 2, there, here)
        number = np.where(stretch % 2 == 0, upright_at[at], level_at[at])
        leaving = number + np.array([self.left, self.above, self.right, self.below])[stretch]
        arriving = number + np.array([self.right, self.below, self.left, self.above])[stretch]
        own = self.corners + np.arange(4)
        places = np.concatenate([2 * corners, 2 * changes + 1])
        order = np.argsort(places)
        return _Rim(places[order], np.append(own, leaving)[order], np.append(own, arriving)[order])


@dataclass(frozen=True)
class _Rim:
    """Where outlines reach and leave the rim of a block, and its corners.

    Args:
        places: (S,) twice the pixels along the rim before each; odd ones lie between two pixels.
        leaving: (S,) the side that ends there and goes on to the next of these.
        arriving: (S,) the side that begins there, where the one before goes on to.
    """

    places: Numbers
    leaving: Numbers
    arriving: Numbers

    def sides(self, pixels: Numbers) -> Numbers:
        """A side of the outline along each of some pixels of the rim."""
        return self.leaving[np.searchsorted(self.places, 2 * pixels, side="right") - 1]


def _numbered(edges: Numbers, num_pixels: int) -> Sides:
    """The number of the edge at each pixel that has one."""
    answer = np.zeros(num_pixels, np.int32)
    answer[edges] = np.arange(len(edges), dtype=np.int32)
    return answer


def _sides(numbers: Sides, first: int, pixels: Numbers) -> Sides:
    """A side of the edges at some pixels."""
    return numbers[pixels] + np.int32(first)


def _walked(successors: Sides) -> tuple[Sides, Sides]:
    """All sides ring by ring, each ring as it is walked; and the ring of every side."""
    num_rings, rings = connected_components(_followed(successors), directed=True, connection="weak")
    firsts = _firsts(rings, num_rings)
    lasts = np.empty_like(successors)
    lasts[successors] = np.arange(len(successors), dtype=successors.dtype)
    # Rings are cut open and tied to one another, so that one walk visits them all.
    path = successors.copy()
    path[lasts[firsts[:-1]]] = firsts[1:]
    order = depth_first_order(_followed(path), int(firsts[0]), return_predecessors=False)
    return order, rings


def _followed(successors: Sides) -> csr_array:
    num = len(successors)
    return csr_array((np.ones(num), successors, np.arange(num + 1, dtype=np.int32)), shape=(num, num))


def _firsts(owners: Sides, num: int) -> Numbers:
    """Of each owner the first place that it has."""
    firsts = np.empty(num, np.int64)
    firsts[owners[::-1]] = np.arange(len(owners))[::-1]  # of several the last is kept
    return firsts


def _runs(edges: _Edges, rings: Sides, rim: _Rim) -> tuple[Runs, Sides, Sides]:
    """All runs; for each the ring before its first pixel and the one after its last."""
    high, wide, num = edges.height, edges.width, len(edges.upright)
    rows = edges.upright // wide
    firsts = np.searchsorted(edges.upright, np.arange(high + 1) * wide) + np.arange(high + 1)
    until = np.arange(num) + rows  # the run that ends with an edge
    starts = np.empty(num + high, np.int64)
    starts[firsts[:-1]], starts[until + 1] = np.arange(high) * wide, edges.upright + 1
    before, after = np.empty(num + high, rings.dtype), np.empty(num + high, rings.dtype)
    before[until + 1], after[until] = rings[edges.right : edges.above], rings[: edges.right]
    first_column = np.arange(high)[::-1] + wide - 1  # counted along the rim
    last_column = (np.arange(high) + 2 * wide + high - 3) % (2 * (wide + high) - 4)
    before[firsts[:-1]], after[firsts[1:] - 1] = rings[rim.sides(first_column)], rings[rim.sides(last_column)]
    return Runs(starts, np.diff(starts, append=high * wide), firsts), before, after


@dataclass(frozen=True)
class _Rings:
    """Closed ways around pieces.

    Args:
        places: (N,) vertices ring by ring, as `_Edges.places` has them.
        lengths: How many each ring has.
        ranks: For each ring the piece it belongs to, from 1; those of 0 are left out.
        stride: Of places.
    """

    places: Numbers
    lengths: Numbers
    ranks: Numbers
    stride: int

    def polygons(self, origin: tuple[float, float]) -> Polygons:
        """The pieces; coordinates count from an origin."""
        is_kept = np.repeat(self.ranks > 0, self.lengths)
        is_kept &= _is_corner(self.places, self.lengths)
        if not is_kept.any():
            return np.empty(0, object)
        lengths = np.add.reduceat(is_kept, np.cumsum(self.lengths) - self.lengths, dtype=np.int64)[self.ranks > 0]
        places, ranks = self.places[is_kept], self.ranks[self.ranks > 0]
        starts = np.cumsum(lengths) - lengths
        uppermost = np.minimum.reduceat(places, starts)
        offsets = self._first_vertices(places, lengths, uppermost)
        order = np.lexsort((uppermost, _is_hole(places, starts, self.stride), ranks))
        starts, lengths, offsets = starts[order], lengths[order], offsets[order]
        numbers = np.repeat(np.arange(len(order)), lengths)
        within = np.arange(len(numbers)) - np.repeat(np.cumsum(lengths) - lengths - offsets, lengths)
        around = np.repeat(lengths, lengths)
        within -= np.where(within >= around, around, 0)
        points = _points(places[within + np.repeat(starts, lengths)], self.stride) + origin
        rings: Polygons = np.asarray(shapely.linearrings(points, indices=numbers))
        return np.asarray(shapely.polygons(rings, indices=ranks[order] - 1))

    def _first_vertices(self, places: Numbers, lengths: Numbers, uppermost: Numbers) -> Numbers:
        """With which vertex each ring begins: the uppermost, of several the leftmost, or the end of a slope to there.

        So does contourpy, which made outlines before: files of regions can be compared.
        """
        starts = np.cumsum(lengths) - lengths
        offsets = np.flatnonzero(places == np.repeat(uppermost, lengths)) - starts
        is_slope = places[starts + (offsets - 1) % lengths] == uppermost + self.stride - 1
        is_slope &= uppermost // self.stride % 2 == 1  # not at the rim
        firsts: Numbers = (offsets - is_slope) % lengths
        return firsts


def _is_corner(places: Numbers, lengths: Numbers) -> Mask:
    """(N,) whether a ring turns at each of its vertices: steps in one direction are of one length."""
    ends = np.cumsum(lengths)
    steps = np.empty(len(places) + 1, places.dtype)
    np.subtract(places[1:], places[:-1], out=steps[1:-1])
    first = places[ends - lengths] - places[ends - 1]
    steps[ends] = first  # of the ring before, until it is overwritten by the next
    steps[ends - lengths] = first
    is_one: Mask = steps[1:] != steps[:-1]
    is_one[ends - 1] = first != steps[ends - 1]
    return is_one


def _is_hole(places: Numbers, starts: Numbers, stride: int) -> Mask:
    """For each ring whether its inside lies outside."""
    points = _points(places, stride)
    following = np.empty_like(points)
    following[:-1] = points[1:]
    following[np.append(starts[1:], len(points)) - 1] = points[starts]
    areas = np.add.reduceat(points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0], starts)
    is_one: Mask = areas < 0
    return is_one


def _points(places: Numbers, stride: int) -> Points:
    return np.stack(np.divmod(places, stride)[::-1], axis=1) / 2
