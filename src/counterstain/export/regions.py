"""Polygons of each class from a slide's label map, in bounded memory: swept for them (sweep.py), placed and chosen.

Contours run through the middle between a pixel of the class and its neighbour of another, and cut corners at half a
pixel; pixels that touch at a corner alone belong to different regions. Along a straight border two classes share the very
line, at a corner each gives way by a triangle of 1/8 pixel.

Does not know: file formats.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from counterstain.errors import InputError
from counterstain.export.sweep import Traced, sweep
from counterstain.geometry import Frame
from counterstain.infer.chunks import opened
from counterstain.results import Region, SlideMap

_BLOCK_PX = 1024
_SLIVER = 1e-3  # map pixels of area under which what a cut leaves is nothing
_EDGE_PX = 1e-6  # level-0 pixels by which a region may leave the scanned part before it is cut

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
    names = traced_classes(slide_map, settings)
    return (batch for name in names for batch in _swept(slide_map, settings, [name], block_px))


def mixed_batches(
    slide_map: SlideMap, settings: RegionSettings = ALL_REGIONS, *, block_px: int = _BLOCK_PX
) -> Iterator[RegionBatch]:
    """The same regions in one sweep for all classes, each of which has its own from top to bottom.

    Raises:
        UnknownNameError: When a class in the settings is none of the map's.
    """
    return _swept(slide_map, settings, traced_classes(slide_map, settings), block_px)


def traced_classes(slide_map: SlideMap, settings: RegionSettings) -> tuple[str, ...]:
    """The classes that settings ask for, in their order, each once.

    Raises:
        UnknownNameError: When one of them is none of the map's.
    """
    classes = slide_map.classes
    if settings.classes is None:
        return tuple(name for name in classes.names if name != classes.background)
    for name in settings.classes:
        classes.index(name)
    return tuple(dict.fromkeys(settings.classes))


def _swept(slide_map: SlideMap, settings: RegionSettings, names: Sequence[str], block_px: int) -> Iterator[RegionBatch]:
    numbers = {slide_map.classes.index(name): name for name in names}
    label, probability = opened(slide_map.label), opened(slide_map.probability)
    for row in sweep(label, probability, tuple(numbers), block_px):
        for number, traced in row.items():
            if len(traced.polygons):
                yield _finished(traced, numbers[number], slide_map, settings)


def _finished(traced: Traced, name: str, slide_map: SlideMap, settings: RegionSettings) -> RegionBatch:
    """Regions on level 0, as the settings want them."""
    mpp = slide_map.slide.mpp
    um2 = mpp.x * mpp.y
    means = traced.probability / traced.num_pixels
    polygons, sources = _inside(_on_level0(traced.polygons, slide_map.frame), slide_map)
    if settings.fill_holes_um2:
        polygons = np.array([_without_holes(polygon, settings.fill_holes_um2 / um2) for polygon in polygons], object)
    areas = shapely.area(polygons)
    is_kept = areas * um2 >= settings.min_area_um2
    polygons, sources, areas = polygons[is_kept], sources[is_kept], areas[is_kept]
    if settings.simplify_um:
        polygons = shapely.simplify(polygons, settings.simplify_um / max(mpp.x, mpp.y), preserve_topology=True)
        areas = shapely.area(polygons)
    return RegionBatch(name, polygons, areas * um2 / 1e6, means[sources])


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
