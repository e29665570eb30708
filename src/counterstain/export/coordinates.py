"""Polygons as GeoJSON's lists of coordinates, many at a time.

The text is the one that `json.dumps` gives of shapely's `mapping`, with few decimals. A map's polygons have their vertices
on a grid, so that the same numbers return again and again: each is written out once and looked up from then on.

Does not know: features, files.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

_DECIMALS = 3  # of a level-0 pixel

Polygons = npt.NDArray[np.object_]
Texts = npt.NDArray[np.object_]


def polygon_texts(polygons: Polygons) -> list[str]:
    """Of each polygon the value of "coordinates".

    Args:
        polygons: (N,) polygons; none may be empty or of several parts.
    """
    if not len(polygons):
        return []
    _, points, (ring_starts, polygon_starts) = shapely.to_ragged_array(rounded(polygons))
    words = np.empty(2 * len(points), object)
    words[0::2], words[1::2] = _texts(points[:, 0], ",[", ","), _texts(points[:, 1], "", "]")
    first = ring_starts[:-1] * 2
    words[first] = [f"],[{word[1:]}" for word in words[first].tolist()]
    pieces = words.tolist()
    starts = (ring_starts[polygon_starts] * 2).tolist()
    return [f"[{''.join(pieces[start:end])[2:]}]]" for start, end in pairwise(starts)]


def rounded(geometries: Polygons) -> Polygons:
    """Geometries with few decimals; those that would be invalid by it are left as they are."""
    points = shapely.get_coordinates(geometries)
    few = np.round(points, _DECIMALS)
    if np.array_equal(points, few):
        return geometries
    moved = shapely.set_coordinates(geometries.copy(), few)
    # Rounding can close a passage that is narrower than it, after simplification.
    return np.where(shapely.is_valid(moved), moved, geometries)


def rounded_one(geometry: BaseGeometry) -> BaseGeometry:
    """As `rounded`; a MultiPolygon of one part as that part."""
    if isinstance(geometry, shapely.MultiPolygon) and len(geometry.geoms) == 1:
        geometry = geometry.geoms[0]
    found: BaseGeometry = rounded(np.array([geometry], object))[0]
    return found


def _texts(values: npt.NDArray[np.float64], before: str, after: str) -> Texts:
    """Each number as JSON has it, between what stands around it."""
    different, places = np.unique(values, return_inverse=True)
    table: Texts = np.array([f"{before}{value!r}{after}" for value in different.tolist()], object)
    return table[places]
