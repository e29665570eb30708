"""Grids of tiles over a slide: pure arithmetic, no pixel is read.

A frame is the slide at the resolution that a model wants. Tiles are squares of it; a tile's core is what is left without
its halo, the margin whose predictions see too little around them. The cores start at the frame's corner and follow each
other by the stride, so that they cover all of it; of them, those that touch tissue are kept. Tiles may reach beyond the
slide, where a reader gives white.

Does not know: how slides are read, how tissue was found, models.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.geometry import Box, Frame, Mpp

_ROWS_AT_ONCE = 64  # of tiles: what is counted for them takes less memory than the mask
_TOLERANCE = 1e-6  # tissue pixels: a core that reaches less than this into one does not touch it


class TissueMask(Protocol):
    """What a grid needs to know of tissue."""

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """(H, W) bool."""

    @property
    def frame(self) -> Frame:
        """Where the mask's pixels lie on the slide."""


@dataclass(frozen=True)
class GridSettings:
    """The size and distance of tiles, in pixels of the target resolution.

    Args:
        tile_px: Width and height of a tile, halo included.
        stride_px: From one tile to the next; None for the width of a core, so that cores just meet.
        halo_px: The margin on every side that does not count as covered.

    Raises:
        InputError: When nothing is left of a tile without its halo, or tissue would fall between cores.
    """

    tile_px: int
    stride_px: int | None = None
    halo_px: int = 0

    def __post_init__(self) -> None:
        if self.tile_px < 1 or self.halo_px < 0 or self.core_px < 1:
            raise InputError(
                f"Tiles of {self.tile_px} px with a halo of {self.halo_px} px were given; expected a halo of 0 or more, "
                "less than half a tile. Make tiles larger or the halo smaller."
            )
        if not 1 <= self.step_px <= self.core_px:
            raise InputError(
                f"A stride of {self.stride_px} px was given for tiles of {self.tile_px} px with a halo of {self.halo_px} "
                f"px; expected 1 to {self.core_px}, else tissue between tiles would be left out. Lower the stride."
            )

    @property
    def core_px(self) -> int:
        """Width and height of a tile without its halo."""
        return self.tile_px - 2 * self.halo_px

    @property
    def step_px(self) -> int:
        """The stride that is used."""
        return self.core_px if self.stride_px is None else self.stride_px


@dataclass(frozen=True, slots=True)
class TileRow:
    """The tiles of a grid that start in one row.

    Args:
        y: The upper edge of the tiles, frame pixels; negative where the halo reaches beyond the frame.
        xs: Their left edges, from left to right.
    """

    y: int
    xs: tuple[int, ...]


@dataclass(frozen=True)
class TileGrid:
    """Tiles to read, row by row from top to bottom.

    Args:
        frame: The slide at the target resolution.
        tile_px: Width and height of a tile, halo included.
        stride_px: From one tile to the next.
        halo_px: The margin of a tile.
        rows: The rows that have tiles.
    """

    frame: Frame
    tile_px: int
    stride_px: int
    halo_px: int
    rows: tuple[TileRow, ...]

    def __len__(self) -> int:
        return sum(len(row.xs) for row in self.rows)

    def __iter__(self) -> Iterator[tuple[TileRow, int]]:
        """Every tile as its row and its left edge, in reading order."""
        return ((row, x) for row in self.rows for x in row.xs)

    def box(self, row: TileRow, x: int) -> Box:
        """The level-0 box of a tile, halo included."""
        return self.frame.to_level0(Box(x, row.y, self.tile_px, self.tile_px))

    def core(self, row: TileRow, x: int) -> Box:
        """What a tile covers of the frame, in frame pixels: without its halo, without what lies beyond the frame."""
        core_px = self.tile_px - 2 * self.halo_px
        return Box(x + self.halo_px, row.y + self.halo_px, core_px, core_px).intersection(Box.whole(self.frame.size))


def grid(
    slide_bounds: Box, mpp: Mpp, target_mpp: float, settings: GridSettings, tissue: TissueMask | None = None
) -> TileGrid:
    """Lays tiles over the scanned part of a slide.

    Args:
        slide_bounds: The scanned part, level-0 pixels.
        mpp: Of level 0.
        target_mpp: um/px of the tiles' pixels.
        settings: Size and distance of tiles.
        tissue: Where tissue lies; None keeps every tile.

    Returns:
        The grid: every point of tissue within the bounds lies in the core of some tile, and every tile has tissue in its
        core. It has no tile where there is no tissue.

    Raises:
        InputError: When the target resolution is not a number above 0.
    """
    if not (math.isfinite(target_mpp) and target_mpp > 0):
        raise InputError(f"Tiles of {target_mpp} um/px were asked for; give a finite number above 0, 0.5 for instance.")
    frame = Frame.covering(slide_bounds, mpp, target_mpp)
    lefts = _core_starts(frame.size.width, settings)
    tops = _core_starts(frame.size.height, settings)
    if tissue is None:
        xs = tuple((lefts - settings.halo_px).tolist())
        rows = [TileRow(int(top) - settings.halo_px, xs) for top in tops]
    else:
        rows = list(_rows_on(tissue, frame, settings, lefts, tops))
    return TileGrid(frame, settings.tile_px, settings.step_px, settings.halo_px, tuple(rows))


def _core_starts(extent_px: int, settings: GridSettings) -> npt.NDArray[np.int64]:
    """Where cores start along one axis, the last of them the first that reaches the end."""
    num_more = max(0, math.ceil((extent_px - settings.core_px) / settings.step_px))
    return np.arange(num_more + 1, dtype=np.int64) * settings.step_px


def _rows_on(
    tissue: TissueMask,
    frame: Frame,
    settings: GridSettings,
    lefts: npt.NDArray[np.int64],
    tops: npt.NDArray[np.int64],
) -> Iterator[TileRow]:
    """The rows of tiles whose cores touch tissue."""
    own = tissue.frame
    # What of a core lies beyond the slide touches nothing: a mask's last pixels reach there too.
    rights = np.minimum(lefts + settings.core_px, frame.size.width)
    bottoms = np.minimum(tops + settings.core_px, frame.size.height)
    scale_x, scale_y = frame.downsample_x / own.downsample_x, frame.downsample_y / own.downsample_y
    shift_x = (frame.origin.x - own.origin.x) / own.downsample_x
    shift_y = (frame.origin.y - own.origin.y) / own.downsample_y
    first_column, last_column = _touched(lefts * scale_x + shift_x, rights * scale_x + shift_x, own.size.width)
    first_row, last_row = _touched(tops * scale_y + shift_y, bottoms * scale_y + shift_y, own.size.height)
    for start in range(0, len(tops), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        spans = zip(first_row[part].tolist(), last_row[part].tolist(), strict=True)
        in_row = np.stack([tissue.mask[above:below].any(axis=0) for above, below in spans])
        counts = np.zeros((len(in_row), own.size.width + 1), np.int32)
        np.cumsum(in_row, axis=1, out=counts[:, 1:])
        kept = counts[:, last_column] > counts[:, first_column]
        for top, columns in zip((tops[part] - settings.halo_px).tolist(), kept, strict=True):
            xs = (lefts[columns] - settings.halo_px).tolist()
            if xs:
                yield TileRow(top, tuple(xs))


def _touched(
    starts: npt.NDArray[np.floating[Any]], ends: npt.NDArray[np.floating[Any]], extent: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The first pixel that each interval touches, and the one after the last."""
    first = np.clip(np.floor(starts + _TOLERANCE), 0, extent).astype(np.int64)
    last = np.clip(np.ceil(ends - _TOLERANCE), 0, extent).astype(np.int64)
    return first, np.maximum(first, last)
