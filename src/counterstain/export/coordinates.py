"""Polygons as GeoJSON's lists of coordinates, many at a time.

The text is the one that `json.dumps` gives of shapely's `mapping`, with few decimals. A map's polygons have their vertices
on a grid, so that the same numbers return again and again: each is written out once and looked up from then on.

Does not know: features, files.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from counterstain.geometry import Point

_DECIMALS = 3  # of a level-0 pixel
_CORNER = Point(0, 0)

Polygons = npt.NDArray[np.object_]
Points = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]


def polygon_texts(polygons: Polygons, origin: Point = _CORNER) -> list[str]:
    """Of each polygon the value of "coordinates".

    Args:
        polygons: (N,) polygons; none may be empty or of several parts.
        origin: Where coordinates start.
    """
    if not len(polygons):
        return []
    _, points, (ring_starts, polygon_starts) = shapely.to_ragged_array(polygons)
    points = _rounded_points(polygons, points - (origin.x, origin.y), ring_starts[polygon_starts])
    words = np.empty(2 * len(points), object)
    words[0::2], words[1::2] = _texts(points[:, 0], ",[", ","), _texts(points[:, 1], "", "]")
    first = ring_starts[:-1] * 2
    words[first] = [f"],[{word[1:]}" for word in words[first].tolist()]
    pieces = words.tolist()
    starts = (ring_starts[polygon_starts] * 2).tolist()
    return [f"[{''.join(pieces[start:end])[2:]}]]" for start, end in pairwise(starts)]


def rounded(geometry: BaseGeometry) -> BaseGeometry:
    """The geometry with few decimals, unless that would make it invalid; a MultiPolygon of one part as that part."""
    if isinstance(geometry, shapely.MultiPolygon) and len(geometry.geoms) == 1:
        geometry = geometry.geoms[0]
    few: BaseGeometry = shapely.transform(geometry, lambda points: np.round(points, _DECIMALS))
    return few if few.is_valid else geometry


def _rounded_points(polygons: Polygons, points: Points, starts: npt.NDArray[np.integer[Any]]) -> Points:
    """Vertices with few decimals, but those of polygons that would be invalid by it.

    Args:
        polygons: (N,) whose they are.
        points: (P, 2) where they lie now.
        starts: (N + 1,) the first vertex of each polygon.
    """
    few = np.round(points, _DECIMALS)
    if np.array_equal(points, few):
        return points
    # Rounding can close a passage that is narrower than it, after simplification.
    is_spoilt = ~shapely.is_valid(shapely.set_coordinates(polygons.copy(), few))
    if is_spoilt.any():
        is_kept = np.repeat(is_spoilt, np.diff(starts))
        few[is_kept] = points[is_kept]
    return few


def _texts(values: Points, before: str, after: str) -> Texts:
    """Each number as JSON has it, between what stands around it."""
    different, places = np.unique(values, return_inverse=True)
    table: Texts = np.array([f"{before}{value!r}{after}" for value in different.tolist()], object)
    return table[places]
