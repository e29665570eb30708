"""From masks to polygons and back.

Traced polygons run through the middle between a pixel of the mask and its neighbour, so that they follow the borders of
pixels and cut corners at half a pixel; holes are nested, everything is valid. Painting takes a pixel whose centre lies
inside, by the even-odd rule, so that painting what was traced gives the same mask back.

Does not know: files, what the mask stands for.
"""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import shapely
from contourpy import FillType, contour_generator
from shapely import Polygon

from counterstain.geometry import Frame

Mask = npt.NDArray[np.bool_]
Ring = npt.NDArray[np.float64]


def trace(mask: Mask, frame: Frame) -> list[Polygon]:
    """The outlines of a mask.

    Args:
        mask: (H, W) bool, pixels of the frame.
        frame: Where they lie.

    Returns:
        Valid polygons with their holes, level-0 pixels, in the order of their first row.
    """
    if not mask.any():
        return []
    # A ring of empty pixels closes outlines at the mask's edge; its first pixel's centre is at -0.5.
    padded = np.pad(mask, 1).astype(np.float64)
    generator = contour_generator(z=padded, name="serial", fill_type=FillType.OuterOffset)
    points, offsets = generator.filled(0.5, 2.0)
    scale = np.array([frame.downsample_x, frame.downsample_y])
    corner = np.array([frame.origin.x, frame.origin.y])
    polygons = []
    for ring_points, ring_offsets in zip(points, offsets, strict=True):
        level0 = (ring_points - 0.5) * scale + corner
        rings = [level0[start:end] for start, end in pairwise(ring_offsets)]
        polygons.append(Polygon(rings[0], rings[1:]))
    # Tolerance 0 drops only the vertices in the middle of straight lines.
    straight: list[Polygon] = shapely.simplify(polygons, 0.0).tolist()
    return straight


def paint(polygons: Iterable[list[Ring]], frame: Frame) -> Mask:
    """The pixels of a frame whose centres lie in any of the polygons.

    Args:
        polygons: Each as its rings, (N, 2) level-0 points, outline first; the even-odd rule makes the others holes. Rings
            may be closed or not, and cross themselves.
        frame: The plane to paint on.

    Returns:
        (H, W) bool.
    """
    mask = np.zeros(frame.size.shape, bool)
    scale = np.array([frame.downsample_x, frame.downsample_y])
    corner = np.array([frame.origin.x, frame.origin.y])
    for rings in polygons:
        _paint_one([(ring - corner) / scale for ring in rings], mask)
    return mask


def _paint_one(rings: list[Ring], mask: Mask) -> None:
    """Paints one polygon, its rings in pixels of the mask, where each row's centre line crosses its edges."""
    height, width = mask.shape
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    top = np.clip(np.ceil(np.minimum(start[:, 1], end[:, 1]) - 0.5), 0, height).astype(np.int64)
    bottom = np.clip(np.ceil(np.maximum(start[:, 1], end[:, 1]) - 0.5), 0, height).astype(np.int64)
    first, last = int(top.min()), int(bottom.max())
    if first >= last:
        return
    edges = np.repeat(np.arange(len(start)), bottom - top)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(bottom - top) - bottom, bottom - top)
    along = (rows + 0.5 - start[edges, 1]) / (end[edges, 1] - start[edges, 1])
    crossings = start[edges, 0] + along * (end[edges, 0] - start[edges, 0])
    columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)
    # Whether a pixel is inside is the parity of the crossings at or left of it.
    changes = np.zeros((last - first, width + 1), np.int32)
    np.add.at(changes, (rows - first, columns), 1)
    mask[first:last] |= np.cumsum(changes[:, :width], axis=1) % 2 == 1
