"""Windows of a level: what is wanted of it, the pixels once they are filled, and the stored tiles that they come from.

Does not know: when and where tiles are decoded, formats, resampling, grids of tiles.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from counterstain.errors import DamagedSlideError
from counterstain.geometry import Box, Size
from counterstain.slides.resample import Pixels
from counterstain.slides.stored import StoredLevel


@dataclass(frozen=True)
class Pane:
    """A box of a level, or a pile of whole tiles.

    Args:
        left: Its first column, level pixels; may lie beyond the level, where pixels are white.
        top: Its first row.
        size: Of it.
        slots: Where given, the pane is a pile of tiles and not a box: position in the pile by tile.
        num_slots: Tiles of the pile; those that are not in `slots` are white.
    """

    left: int
    top: int
    size: Size
    slots: Mapping[int, int] | None = None
    num_slots: int = 0

    @property
    def box(self) -> Box:
        """Level pixels."""
        return Box(self.left, self.top, self.size.width, self.size.height)


@dataclass(frozen=True, eq=False)
class Window:
    """Parts of a level that are filled together.

    Args:
        panes: The parts.
        tiles: (N,) int64, stored tiles that are wanted, ascending; what lies under others is not defined.
    """

    panes: tuple[Pane, ...]
    tiles: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Filled:
    """The pixels of a window.

    Args:
        window: The window.
        panes: Of each pane, (height, width, 3) uint8 RGB, or (slots, tile height, tile width, 3).
        failures: Why tiles could not be decoded, by their position in the level.
    """

    window: Window
    panes: tuple[Pixels, ...]
    failures: dict[int, DamagedSlideError] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where tiles come from.

    Args:
        path: The file.
        level: Its tiles.
        factor: How many times smaller each is decoded. Windows are given in pixels of what is decoded.
    """

    path: Path
    level: StoredLevel
    factor: int = 1

    @cached_property
    def tile(self) -> Size:
        """Of what is decoded."""
        stored = self.level.coding.tile
        return Size(stored.width // self.factor, stored.height // self.factor)

    @cached_property
    def size(self) -> Size:
        """The level's, as decoded: pixels that lie wholly on it."""
        return Size(max(1, self.level.size.width // self.factor), max(1, self.level.size.height // self.factor))

    @cached_property
    def num_tiles(self) -> tuple[int, int]:
        """Tiles along (y, x) that show something: one that ends the level with less than a pixel, as decoded, does not."""
        return -(-self.size.height // self.tile.height), -(-self.size.width // self.tile.width)

    def span(self, box: Box) -> tuple[slice, slice]:
        """Rows and columns of the tiles that a box touches; empty where it lies beyond the level."""
        tile, (down, across) = self.tile, self.num_tiles
        top, bottom = max(0, int(box.y) // tile.height), min(down, -(-int(box.bottom) // tile.height))
        left, right = max(0, int(box.x) // tile.width), min(across, -(-int(box.right) // tile.width))
        return slice(top, max(top, bottom)), slice(left, max(left, right))

    def window(self, box: Box) -> Window:
        """All of a box, level pixels."""
        rows, columns = self.span(box)
        numbers = np.arange(rows.start, rows.stop)[:, None] * self.level.across + np.arange(columns.start, columns.stop)
        return Window((Pane(int(box.x), int(box.y), box.size),), numbers.ravel().astype(np.int64))

    def is_whole(self, number: int) -> bool:
        """Whether a tile lies wholly on the level."""
        row, column = divmod(number, self.level.across)
        down, across = self._num_whole
        return row < down and column < across

    @cached_property
    def _num_whole(self) -> tuple[int, int]:
        return self.size.height // self.tile.height, self.size.width // self.tile.width
