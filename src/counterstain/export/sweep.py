"""A slide's label map swept over for its regions, in bounded memory.

    label map -> windows (blocks that share a row or a column of pixels) -> pieces (outlines.py)
              -> regions, joined across the windows' seams

Pieces of two windows meet exactly on their seam; a region is given out, joined by shapely, as soon as no window below can
add to it. What stays in memory is a window and the regions that the sweep's front cuts.

Does not know: slides, what is made of regions.
"""

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
import torch

from counterstain.export.outlines import Labels, Mask, Numbers, Pieces, Points, Polygons, pieces_of
from counterstain.geometry import Box, Size
from counterstain.results import UNCOVERED


@dataclass
class Traced:
    """Regions in map pixels with what was summed over the pixels of each: how many, and their probability."""

    polygons: Polygons
    num_pixels: Numbers
    probability: Points


def sweep(label: Any, probability: Any, numbers: Sequence[int], block_px: int) -> Iterator[dict[int, Traced]]:
    """The regions of some classes, row of blocks by row of blocks; each row's from the top, by their first pixels.

    Args:
        label: (H, W) uint8, of boxes that can be read.
        probability: (C, H, W) float16, likewise.
        numbers: The classes' numbers.
        block_px: Pixels of the map traced at a time, along each side.

    Yields:
        What was finished, by the classes' numbers.
    """
    size = Size.of(label)
    fronts = {number: _Front(size.width + 2) for number in numbers}
    with closing(_read_ahead(_blocks(label, probability, numbers, block_px))) as blocks:
        for block in blocks:
            if block.left < 0:
                for front in fronts.values():
                    front.start_row()
            _add(block, fronts)
            if block.left + block_px >= size.width:
                is_last = block.top + block_px >= size.height
                yield {number: front.close_row(is_last=is_last) for number, front in fronts.items()}


@dataclass(frozen=True)
class _Block:
    """A window of the map.

    Args:
        left: Its first column, map pixels; -1 for the first of a row.
        top: Its first row, likewise.
        labels: (H, W) uint8.
        is_wanted: (256,) of each label, whether it is wanted and there.
        own: (H, W) float32, each pixel's own class's probability; None where no class is wanted.
    """

    left: int
    top: int
    labels: Labels
    is_wanted: Mask
    own: npt.NDArray[np.float32] | None


def _blocks(label: Any, probability: Any, numbers: Sequence[int], block_px: int) -> Iterator[_Block]:
    """The windows, row by row. A ring of pixels that belong to nothing closes regions at the edge of the map."""
    size, is_wanted = Size.of(label), np.zeros(256, bool)
    is_wanted[list(numbers)] = True
    windows = _Windows(size.width)
    for top in range(-1, size.height, block_px):
        windows.start_row()
        for left in range(-1, size.width, block_px):
            box = Box.from_corners(left, top, min(left + block_px, size.width), min(top + block_px, size.height))
            labels = windows.next(label, box)
            is_there = is_wanted & (np.bincount(labels.ravel(), minlength=256) > 0)
            own = _own(labels, probability, np.flatnonzero(is_there).tolist(), box) if is_there.any() else None
            yield _Block(left, top, labels, is_there, own)


def _read_ahead(blocks: Iterator[_Block]) -> Generator[_Block, None, None]:
    """The same, each read by another thread while the one before is traced."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-map") as reader:
        following = reader.submit(next, blocks, None)
        while (block := following.result()) is not None:
            following = reader.submit(next, blocks, None)
            yield block


def _add(block: _Block, fronts: dict[int, "_Front"]) -> None:
    """Traces a window."""
    if block.own is None:
        for front in fronts.values():
            front.skip()
        return
    pieces = pieces_of(block.labels, block.is_wanted, (block.left + 0.5, block.top + 0.5))
    sums = pieces.sums(block.own)
    for number, front in fronts.items():
        front.add(*_of_class(pieces, sums, number), block.left + 1)


def _own(labels: Labels, probability: Any, numbers: Sequence[int], box: Box) -> npt.NDArray[np.float32]:
    """The probability of each pixel's own class; 0 in the first row and column, which are those of blocks before."""
    own = np.zeros(labels.shape, np.float32)
    new = Box.from_corners(box.x + 1, box.y + 1, box.right + 1, box.bottom + 1)
    inside = new.intersection(Box(0, 0, probability.shape[2], probability.shape[1]))
    if inside.is_empty:
        return own
    here = inside.shifted(-box.x, -box.y).slices()
    for number in numbers:
        is_one = labels[here] == number
        if is_one.any():
            # by torch, since numpy's own conversion of halves takes ten times as long
            values = torch.from_numpy(np.asarray(probability[(number, *inside.slices())])).float().numpy()
            np.copyto(own[here], values, where=is_one)
    own[np.isnan(own)] = 0
    return own


def _of_class(pieces: Pieces, sums: Points, number: int) -> tuple[Traced, list[Numbers]]:
    """The pieces of one class, and for the pixels of each edge their piece of that class from 1."""
    start, stop = np.searchsorted(pieces.labels, (number, number + 1)).tolist()
    traced = Traced(pieces.polygons[start:stop], pieces.num_pixels[start:stop], sums[start:stop])
    return traced, [np.where((edge > start) & (edge <= stop), edge - start, 0) for edge in pieces.seams]


class _Windows:
    """Reads a label map in windows that share a row or a column with their neighbours, every pixel once.

    Args:
        width: Of the map.
    """

    def __init__(self, width: int) -> None:
        self._above = np.full(width + 2, UNCOVERED, np.uint8)
        self._below = self._above.copy()
        self._beside: Labels | None = None

    def start_row(self) -> None:
        """Begins a row of windows: what was below is now above."""
        self._above, self._below, self._beside = self._below, self._above, None

    def next(self, label: Any, box: Box) -> Labels:
        """The window from a box's upper left pixel to the pixel beyond its lower right one.

        Beyond the map lies a label that no class has. Windows follow one another from left to right.
        """
        columns = slice(int(box.x) + 1, int(box.right) + 2)
        window = np.full((int(box.height) + 1, int(box.width) + 1), UNCOVERED, np.uint8)
        window[0] = self._above[columns]
        if self._beside is not None:
            window[:, 0] = self._beside
        new = Box.from_corners(box.x + 1, box.y + 1, box.right + 1, box.bottom + 1)
        inside = new.intersection(Box(0, 0, label.shape[1], label.shape[0]))
        if not inside.is_empty:
            window[inside.shifted(-box.x, -box.y).slices()] = label[inside.slices()]
        self._below[columns], self._beside = window[-1], window[:, -1].copy()
        return window


@dataclass
class _Piece:
    """What one block knows of a region that may go on in another."""

    polygon: shapely.Polygon
    num_pixels: int
    probability: float


@dataclass
class _Front:
    """The pieces of regions that a sweep has not finished, and which of them belong together.

    Pieces have keys in the order they came in, and a region has the place of its first. What touches no seam is finished at
    once, and waits for the end of its row in arrays: pieces as objects are for the few others.

    Args:
        width: Of the map with its ring.
    """

    width: int
    _pieces: dict[int, _Piece] = field(default_factory=dict)
    _parents: dict[int, int] = field(default_factory=dict)
    _alone: list[tuple[Numbers, Traced]] = field(default_factory=list)
    _above: Numbers = field(init=False)
    _below: Numbers = field(init=False)
    _beside: Numbers | None = None
    _next: int = 1

    def __post_init__(self) -> None:
        self._above = np.zeros(self.width, np.int64)
        self._below = np.zeros(self.width, np.int64)

    def start_row(self) -> None:
        """Begins a row of blocks: what was below is now above."""
        self._above, self._below, self._beside = self._below, np.zeros(self.width, np.int64), None

    def skip(self) -> None:
        """Passes a block without any piece."""
        self._beside = None

    def add(self, traced: Traced, edges: Sequence[Numbers], column: int) -> None:
        """Takes the pieces of a block and joins them with those of its neighbours.

        Args:
            traced: The pieces.
            edges: The piece of each pixel, from 1, in the block's first row, last row, first column and last column; the
                first ones are the last ones of its neighbours.
            column: Where it starts in the map with its ring.
        """
        first_row, last_row, first_column, last_column = edges
        keys = np.append(0, np.arange(self._next, self._next + len(traced.polygons)))
        self._next += len(traced.polygons)
        on_seam = np.zeros(len(keys), bool)
        for edge in edges:
            on_seam[edge] = True
        self._alone.append((keys[1:][~on_seam[1:]], _chosen(traced, ~on_seam[1:])))
        seamed = _chosen(traced, on_seam[1:])
        pieces = zip(seamed.polygons, seamed.num_pixels.tolist(), seamed.probability.tolist(), strict=True)
        for key, piece in zip(keys[1:][on_seam[1:]].tolist(), pieces, strict=True):
            self._pieces[key], self._parents[key] = _Piece(*piece), key
        columns = slice(column, column + len(first_row))
        self._join(self._above[columns], keys[first_row])
        if self._beside is not None:
            self._join(self._beside, keys[first_column])
        self._below[columns] = keys[last_row]
        self._beside = keys[last_column]

    def close_row(self, *, is_last: bool) -> Traced:
        """Gives out the regions that no later block can add to."""
        is_open = set() if is_last else {self._root(key) for key in np.unique(self._below).tolist() if key}
        finished: dict[int, list[_Piece]] = {}
        firsts: dict[int, int] = {}
        for key in list(self._pieces):
            root = self._root(key)
            if root not in is_open:
                firsts.setdefault(root, key)
                finished.setdefault(root, []).append(self._pieces.pop(key))
        for key in [key for key in self._parents if self._root(key) not in is_open]:
            del self._parents[key]
        batches = [*self._alone, (np.fromiter(firsts.values(), np.int64), _joined(finished.values()))]
        self._alone = []
        keys = np.concatenate([one for one, _ in batches])
        together = Traced(
            np.concatenate([one.polygons for _, one in batches]),
            np.concatenate([one.num_pixels for _, one in batches]),
            np.concatenate([one.probability for _, one in batches]),
        )
        return _chosen(together, np.argsort(keys))

    def _join(self, some: Numbers, others: Numbers) -> None:
        both = (some > 0) & (others > 0)
        for one, other in np.unique(np.stack([some[both], others[both]], axis=1), axis=0).tolist():
            first, second = sorted((self._root(one), self._root(other)))
            self._parents[second] = first

    def _root(self, key: int) -> int:
        while self._parents[key] != key:
            self._parents[key] = self._parents[self._parents[key]]
            key = self._parents[key]
        return key


def _chosen(traced: Traced, which: Mask | Numbers) -> Traced:
    return Traced(traced.polygons[which], traced.num_pixels[which], traced.probability[which])


def _joined(regions: Iterable[list[_Piece]]) -> Traced:
    """One polygon for the pieces of each region."""
    found = list(regions)
    polygons = np.empty(len(found), object)
    is_joined = np.zeros(len(found), bool)
    for number, pieces in enumerate(found):
        if len(pieces) == 1:
            polygons[number] = pieces[0].polygon
        else:
            # Pieces share whole edges, vertex by vertex, and nothing else: a coverage.
            polygons[number] = shapely.coverage_union_all([piece.polygon for piece in pieces])
            is_joined[number] = True
    if is_joined.any():
        polygons[is_joined] = _corners_only(shapely.get_geometry(polygons[is_joined], 0))
    num_pixels = [sum(piece.num_pixels for piece in pieces) for pieces in found]
    probability = [math.fsum(piece.probability for piece in pieces) for pieces in found]
    return Traced(polygons, np.array(num_pixels, np.int64), np.array(probability, np.float64))


def _corners_only(polygons: Polygons) -> Polygons:
    """Polygons without the vertices that joining left on straight lines."""
    rings, owners = shapely.get_rings(polygons, return_index=True)
    points, numbers = shapely.get_coordinates(rings, return_index=True)
    is_closing = np.append(np.diff(numbers) > 0, True)
    return np.asarray(shapely.polygons(_rings(points[~is_closing], numbers[~is_closing]), indices=owners))


def _rings(points: Points, numbers: Numbers) -> Polygons:
    """Rings of their corners alone.

    Args:
        points: (N, 2) vertices of all rings, one ring after the other, none of them closed.
        numbers: (N,) the ring of each vertex, from 0.
    """
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    ends = np.append(starts[1:], len(numbers)) - 1
    leaving = np.empty_like(points)
    np.subtract(points[1:], points[:-1], out=leaving[:-1])
    leaving[ends] = points[starts] - points[ends]
    arriving = np.empty_like(points)
    arriving[1:] = leaving[:-1]
    arriving[starts] = leaving[ends]
    is_corner = arriving[:, 0] * leaving[:, 1] != arriving[:, 1] * leaving[:, 0]
    rings: Polygons = shapely.linearrings(points[is_corner], indices=numbers[is_corner])
    return rings
