"""Tissue on a slide: a mask in a frame, and the questions that tiles and reports ask of it.

A pixel of the mask covers its cell of the frame exactly; areas and coverages are those of the cells, fractions included.

Does not know: how tissue was found, GeoJSON's rules.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from shapely import Polygon

from counterstain.files import settings_hash, write_text
from counterstain.geometry import Box, Frame, Mpp, Point, Size
from counterstain.tissue.geojson import INK, TISSUE, write_areas
from counterstain.tissue.polygons import trace
from counterstain.tissue.runs import RunScores

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Tissue:
    """Where tissue lies on a slide.

    Args:
        mask: (H, W) bool.
        frame: Where its pixels lie on the slide.
        ink: (H, W) bool, pen marks that were left out; None where nobody looked for any.
        runs: The run-length filter's scores, where it was used.
        note: Why another method than the one asked for found it; None where the one asked for did.
    """

    mask: Mask
    frame: Frame
    ink: Mask | None = None
    runs: RunScores | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        assert Size.of(self.mask) == self.frame.size, "a mask fills its frame"

    def polygons(self) -> list[Polygon]:
        """Outlines with their holes, valid, level-0 pixels."""
        return trace(self.mask, self.frame)

    def ink_polygons(self) -> list[Polygon]:
        """Outlines of the pen marks that were left out, level-0 pixels."""
        return [] if self.ink is None else trace(self.ink, self.frame)

    def area_mm2(self, mpp: Mpp) -> float:
        """The area of the tissue.

        Args:
            mpp: Of level 0.
        """
        pixel_um2 = self.frame.downsample_x * mpp.x * self.frame.downsample_y * mpp.y
        return float(np.count_nonzero(self.mask)) * pixel_um2 / 1e6

    def touches(self, box: Box) -> bool:
        """Whether any tissue lies in a level-0 box."""
        inside = self.frame.from_level0(box).rounded_out().intersection(Box.whole(self.frame.size))
        return not inside.is_empty and bool(self.mask[inside.slices()].any())

    def coverage(self, box: Box) -> float:
        """The share of a level-0 box that is tissue, in [0, 1]; what lies beyond the frame is none."""
        on_mask = self.frame.from_level0(box)
        if on_mask.is_empty:
            return 0.0
        covered = (
            self._covered_to(on_mask.right, on_mask.bottom)
            - self._covered_to(on_mask.x, on_mask.bottom)
            - self._covered_to(on_mask.right, on_mask.y)
            + self._covered_to(on_mask.x, on_mask.y)
        )
        return float(np.clip(covered / on_mask.area, 0.0, 1.0))

    def content_hash(self) -> str:
        """A SHA-256 of mask and frame: what depends on the tissue is stale when it changes."""
        bits = hashlib.sha256(np.packbits(self.mask).tobytes()).hexdigest()
        return settings_hash(bits, self.frame)

    def to_geojson(self, origin: Point | None = None) -> dict[str, Any]:
        """Tissue and ink as a GeoJSON tree of QuPath annotations.

        Args:
            origin: The level-0 point that coordinates count from. None for the corner of the frame, which is that of the
                slide's scanned part: QuPath counts from there.
        """
        polygons = {TISSUE: self.polygons(), INK: self.ink_polygons()}
        return write_areas(polygons, self.frame, origin or self.frame.origin)

    def save(self, path: Path | str, origin: Point | None = None) -> None:
        """Writes tissue and ink as GeoJSON, atomically, to look at and mend; `load_tissue` reads it back.

        Args:
            path: Where, ending in .geojson.
            origin: As in `to_geojson`.
        """
        write_text(Path(path), json.dumps(self.to_geojson(origin), allow_nan=False) + "\n")

    @cached_property
    def _sums(self) -> npt.NDArray[np.int64]:
        """(H + 1, W + 1): tissue pixels above and left of each corner."""
        sums = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int64)
        np.cumsum(np.cumsum(self.mask, axis=0, dtype=np.int64), axis=1, out=sums[1:, 1:])
        return sums

    def _covered_to(self, x: float, y: float) -> float:
        """The area of tissue above and left of a point, in mask pixels: exact between corners, since cells are flat."""
        x, y = min(max(x, 0.0), self.frame.size.width), min(max(y, 0.0), self.frame.size.height)
        column, row = min(int(x), self.frame.size.width - 1), min(int(y), self.frame.size.height - 1)
        right, below = x - column, y - row
        upper = self._sums[row, column] * (1 - right) + self._sums[row, column + 1] * right
        lower = self._sums[row + 1, column] * (1 - right) + self._sums[row + 1, column + 1] * right
        return float(upper * (1 - below) + lower * below)
