"""Polygons of each class from a slide's label map, in bounded memory.

The map is swept in blocks whose edges run through pixel centres. In each block contourpy traces the mask of one class
along the borders of its pixels, so that the pieces of two blocks meet exactly on their seam; a region is given out,
joined by shapely, as soon as no block below can add to it. What stays in memory is a block and the regions that the
sweep's front cuts.

Contours run through the middle between a pixel of the class and its neighbour of another, and cut corners at half a
pixel; pixels that touch at a corner alone belong to different regions. Each class is traced by its own mask: along a
straight border two classes share the very line, at a corner each gives way by a triangle of 1/8 pixel.

Does not know: file formats.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from contourpy import FillType, SerialContourGenerator, ZInterp
from scipy import ndimage

from counterstain.errors import InputError
from counterstain.geometry import Box, Frame, Size
from counterstain.infer.chunks import opened
from counterstain.results import UNCOVERED, Region, SlideMap

_BLOCK_PX = 1024
_SLIVER = 1e-3  # map pixels of area under which what a cut leaves is nothing
_EDGE_PX = 1e-6  # level-0 pixels by which a region may leave the scanned part before it is cut

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Polygons = npt.NDArray[np.object_]


@dataclass(frozen=True)
class RegionSettings:
    """Which regions are kept, and how smooth they are.

    Args:
        min_area_um2: Smaller regions are left out. 0 keeps all.
        fill_holes_um2: Smaller holes are filled, also where another class lies in them. 0 fills none.
        simplify_um: How far a polygon's line may move while vertices are dropped. 0 keeps every corner.
        classes: The classes to trace; None for all but the background.

    Raises:
        InputError: When a number is negative or not finite.
    """

    min_area_um2: float = 0.0
    fill_holes_um2: float = 0.0
    simplify_um: float = 0.0
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("min_area_um2", "fill_holes_um2", "simplify_um"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} was given as {value}; give 0 or a finite number above it.")


ALL_REGIONS = RegionSettings()
"""Every region of every class but the background, with every corner."""


def regions(
    slide_map: SlideMap, settings: RegionSettings = ALL_REGIONS, *, block_px: int = _BLOCK_PX
) -> Iterator[Region]:
    """The regions of a map, class by class and from top to bottom.

    Args:
        slide_map: A finished map.
        settings: What to keep.
        block_px: The map pixels traced at a time, along each side; the result does not depend on it.

    Yields:
        Regions with valid polygons in level-0 pixels, wholly inside the scanned part of the slide.

    Raises:
        UnknownNameError: When a class in the settings is none of the map's.
    """
    return (
        Region(polygon, batch.class_name, area_mm2, mean)
        for batch in region_batches(slide_map, settings, block_px=block_px)
        for polygon, area_mm2, mean in zip(batch.polygons, batch.areas_mm2.tolist(), batch.means.tolist(), strict=True)
    )


@dataclass(frozen=True)
class RegionBatch:
    """Some regions of one class.

    Args:
        class_name: One of the classes.
        polygons: (N,) as `Region` has them.
        areas_mm2: (N,) float64.
        means: (N,) float64, mean probabilities of their own class.
    """

    class_name: str
    polygons: Polygons
    areas_mm2: Points
    means: Points


def region_batches(
    slide_map: SlideMap, settings: RegionSettings = ALL_REGIONS, *, block_px: int = _BLOCK_PX
) -> Iterator[RegionBatch]:
    """The regions of a map as `regions` gives them, many at a time.

    Raises:
        UnknownNameError: When a class in the settings is none of the map's.
    """
    classes = slide_map.classes
    names = settings.classes
    if names is None:
        names = tuple(name for name in classes.names if name != classes.background)
    numbers = [classes.index(name) for name in names]
    # opened once: classes look at the same labels
    label, probability = opened(slide_map.label), opened(slide_map.probability)
    return (
        _finished(traced, name, slide_map, settings)
        for name, number in zip(names, numbers, strict=True)
        for traced in _trace(label, probability, number, block_px)
        if len(traced.polygons)
    )


@dataclass
class _Traced:
    """Regions in map pixels with what was summed over the pixels of each: how many, and their probability."""

    polygons: Polygons
    num_pixels: Numbers
    probability: Points


def _trace(label: Any, probability: Any, number: int, block_px: int) -> Iterator[_Traced]:
    """Sweeps over the map for one class; gives regions row of blocks by row of blocks."""
    size = Size.of(label)
    front, windows = _Front(size.width + 2), _Windows(size.width)
    # A ring of pixels that belong to nothing closes regions at the edge of the map.
    for top in range(-1, size.height, block_px):
        front.start_row()
        windows.start_row()
        for left in range(-1, size.width, block_px):
            box = Box.from_corners(left, top, min(left + block_px, size.width), min(top + block_px, size.height))
            mask = windows.next(label, box) == number
            if not mask.any():
                front.skip()
                continue
            components = np.zeros(mask.shape, np.int32)
            used = _used(mask)
            count = int(ndimage.label(mask[used], output=components[used]))
            corner_x, corner_y = left + used[1].start, top + used[0].start
            num_pixels, sums = _sums(components, used, count, probability, number, box)
            polygons, owners = _contours(mask[used], components[used], corner_x + 0.5, corner_y + 0.5)
            order = np.argsort(owners)
            assert np.array_equal(owners[order], np.arange(1, count + 1)), "a component is not one polygon"
            front.add(_Traced(polygons[order], num_pixels, sums), components, left + 1)
        yield front.close_row(is_last=top + block_px >= size.height)


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


def _used(mask: Mask) -> tuple[slice, slice]:
    """Rows and columns that hold all of a mask and a pixel around it: much of a block has nothing in it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    # A contour needs two pixels each way.
    top, left = max(0, int(rows[0]) - 1), max(0, int(columns[0]) - 1)
    right = min(width, int(columns[-1]) + 2)
    # contourpy copies what it gets unless whole rows are next to one another
    across = slice(0, width) if _is_wide(right - left) else slice(left, right)
    return slice(top, min(height, int(rows[-1]) + 2)), across


def _sums(
    components: npt.NDArray[np.int32],
    used: tuple[slice, slice],
    count: int,
    probability: Any,
    number: int,
    box: Box,
) -> tuple[Numbers, Points]:
    """Of each component its pixels and their probabilities; the last row and column are left to the next block."""
    rows, columns = used
    held = Box.from_corners(box.x + columns.start, box.y + rows.start, box.x + columns.stop, box.y + rows.stop)
    inside = held.intersection(box).intersection(Box(0, 0, probability.shape[2], probability.shape[1]))
    if inside.is_empty:
        return np.zeros(count, np.int64), np.zeros(count)
    own = components[inside.shifted(-box.x, -box.y).slices()].ravel()
    places = np.flatnonzero(own > 0)
    owners = own[places]
    values = np.asarray(probability[(number, *inside.slices())]).ravel()[places].astype(np.float64)
    values[np.isnan(values)] = 0
    num_pixels = np.bincount(owners, minlength=count + 1)[1:]
    return num_pixels, np.bincount(owners, weights=values, minlength=count + 1)[1:].astype(np.float64)


def _contours(mask: Mask, components: npt.NDArray[np.int32], left: float, top: float) -> tuple[Polygons, Numbers]:
    """The polygons of a mask, and for each the component it goes around; its first pixel's centre lies at left, top."""
    columns, rows = _places(*mask.shape)
    # `contour_generator` makes the same, after looking for values that are no numbers
    generator = SerialContourGenerator(
        columns,
        rows,
        mask.astype(np.float64),
        None,
        corner_mask=True,
        line_type=SerialContourGenerator.default_line_type,
        fill_type=FillType.ChunkCombinedOffsetOffset,
        quad_as_tri=False,
        z_interp=ZInterp.Linear,
    )
    points, ring_offsets, polygon_offsets = (chunks[0] for chunks in generator.filled(0.5, 2.0))
    # Each vertex lies on a pixel of the component or half-way between one and a pixel outside the mask.
    first = points[ring_offsets[polygon_offsets[:-1]]]
    low, high = np.floor(first).astype(int), np.ceil(first).astype(int)
    owners = np.maximum(components[low[:, 1], low[:, 0]], components[high[:, 1], high[:, 0]])
    ring_numbers = np.repeat(np.arange(len(ring_offsets) - 1), np.diff(ring_offsets))
    # contourpy closes rings; the repeated first vertex would look collinear.
    is_own = np.ones(len(points), bool)
    is_own[ring_offsets[1:] - 1] = False
    rings = _rings(points[is_own] + (left, top), ring_numbers[is_own])
    # Offsets of polygons count rings.
    polygon_numbers = np.repeat(np.arange(len(polygon_offsets) - 1), np.diff(polygon_offsets))
    polygons: Polygons = np.asarray(shapely.polygons(rings, indices=polygon_numbers))
    return polygons, owners.astype(np.int64)


def _places(height: int, width: int) -> tuple[Points, Points]:
    """The column and the row of every pixel, as contourpy wants them: made anew they take as long as its contours."""
    columns, rows = _all_places(max(height, width, _BLOCK_PX + 1), width if _is_wide(width) else _BLOCK_PX + 1)
    return columns[:height, :width], rows[:height, :width]


def _is_wide(width: int) -> bool:
    return 2 * width > _BLOCK_PX


@lru_cache(maxsize=2)  # of blocks, and of the last block of a row
def _all_places(height: int, width: int) -> tuple[Points, Points]:
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    return columns, rows


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


def _corners_only(polygons: Polygons) -> Polygons:
    """Polygons without the vertices that joining left on straight lines."""
    rings, owners = shapely.get_rings(polygons, return_index=True)
    points, numbers = shapely.get_coordinates(rings, return_index=True)
    is_closing = np.append(np.diff(numbers) > 0, True)
    return np.asarray(shapely.polygons(_rings(points[~is_closing], numbers[~is_closing]), indices=owners))


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
    _alone: list[tuple[Numbers, _Traced]] = field(default_factory=list)
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

    def add(self, traced: _Traced, components: npt.NDArray[np.int32], column: int) -> None:
        """Takes the pieces of a block and joins them with those of its neighbours.

        Args:
            traced: One piece for each component, in their order.
            components: (h, w) the block's components from 1; its first row and column are the last of its neighbours.
            column: Where it starts in the map with its ring.
        """
        keys = np.append(0, np.arange(self._next, self._next + len(traced.polygons)))
        self._next += len(traced.polygons)
        on_seam = np.zeros(len(keys), bool)
        for edge in (components[0], components[-1], components[:, 0], components[:, -1]):
            on_seam[edge] = True
        self._alone.append((keys[1:][~on_seam[1:]], _chosen(traced, ~on_seam[1:])))
        seamed = _chosen(traced, on_seam[1:])
        pieces = zip(seamed.polygons, seamed.num_pixels.tolist(), seamed.probability.tolist(), strict=True)
        for key, piece in zip(keys[1:][on_seam[1:]].tolist(), pieces, strict=True):
            self._pieces[key], self._parents[key] = _Piece(*piece), key
        edges = slice(column, column + components.shape[1])
        self._join(self._above[edges], keys[components[0]])
        if self._beside is not None:
            self._join(self._beside, keys[components[:, 0]])
        self._below[edges] = keys[components[-1]]
        self._beside = keys[components[:, -1]]

    def close_row(self, *, is_last: bool) -> _Traced:
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
        together = _Traced(
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


def _chosen(traced: _Traced, which: Mask | Numbers) -> _Traced:
    return _Traced(traced.polygons[which], traced.num_pixels[which], traced.probability[which])


def _joined(regions: Iterable[list[_Piece]]) -> _Traced:
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
    return _Traced(polygons, np.array(num_pixels, np.int64), np.array(probability, np.float64))


def _finished(traced: _Traced, name: str, slide_map: SlideMap, settings: RegionSettings) -> RegionBatch:
    """Regions on level 0, as the settings want them."""
    mpp = slide_map.slide.mpp
    um2 = mpp.x * mpp.y
    means = traced.probability / traced.num_pixels
    polygons, sources = _inside(_on_level0(traced.polygons, slide_map.frame), slide_map)
    if settings.fill_holes_um2:
        polygons = np.array([_without_holes(polygon, settings.fill_holes_um2 / um2) for polygon in polygons], object)
    is_kept = shapely.area(polygons) * um2 >= settings.min_area_um2
    polygons, sources = polygons[is_kept], sources[is_kept]
    if settings.simplify_um:
        polygons = shapely.simplify(polygons, settings.simplify_um / max(mpp.x, mpp.y), preserve_topology=True)
    return RegionBatch(name, polygons, shapely.area(polygons) * um2 / 1e6, means[sources])


def _on_level0(polygons: Polygons, frame: Frame) -> Polygons:
    a, _, _, e, x, y = frame.affine()
    moved: Polygons = shapely.transform(polygons, lambda points: points * (a, e) + np.array((x, y)))
    return moved


def _inside(polygons: Polygons, slide_map: SlideMap) -> tuple[Polygons, Numbers]:
    """The parts of polygons in the scanned part of the slide, and of which polygon each is a part.

    A map's last row and column may reach beyond it.
    """
    sources, bounds, frame = np.arange(len(polygons)), slide_map.slide.bounds, slide_map.frame
    allowed = bounds.grown(_EDGE_PX)
    left, top, right, bottom = shapely.bounds(polygons).reshape(-1, 4).T
    reaches_out = (left < allowed.x) | (top < allowed.y) | (right > allowed.right) | (bottom > allowed.bottom)
    if not reaches_out.any():
        return polygons, sources
    scanned = shapely.box(bounds.x, bounds.y, bounds.right, bounds.bottom)
    pieces = polygons.copy()
    pieces[reaches_out] = shapely.intersection(polygons[reaches_out], scanned)
    parts, origins = shapely.get_parts(pieces, return_index=True)
    # Where a region lies beyond the edge and touches it, a line, a point or a sliver of rounding is left of it.
    is_left = shapely.area(parts) > _SLIVER * frame.downsample_x * frame.downsample_y
    return parts[is_left], sources[origins[is_left]]


def _without_holes(polygon: shapely.Polygon, smaller_than: float) -> shapely.Polygon:
    """The polygon without its small holes; areas in level-0 pixels."""
    if not polygon.interiors or not smaller_than:
        return polygon
    kept = [hole for hole in polygon.interiors if shapely.Polygon(hole).area >= smaller_than]
    return shapely.Polygon(polygon.exterior, kept)
