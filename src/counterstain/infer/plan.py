"""The order in which a slide's map is made: strips from the left, in each strip bands from the top.

A strip is a few thousand map pixels wide, so that what a band holds in memory does not grow with the slide. Tiles on the
border of two strips are predicted for both: one or two in a hundred. Bands are numbered through all strips; an interrupted
prediction goes on at the first band that was not stored.

    frame     the slide at the model's resolution; tiles have coordinates in it
    map       the frame, `map_stride` times coarser; strips and bands have coordinates in it

Does not know: pixels, models, files.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from counterstain.errors import InputError
from counterstain.geometry import Frame, Size
from counterstain.tiles import TileGrid, TileRow

_STRIP_PX = 16  # chunks' widths of frame pixels under a strip


@dataclass(frozen=True)
class Strip:
    """An area of the map over its whole height, as wide as its tiles need: what lies beside tissue takes no memory.

    Args:
        number: Its position from the left.
        left: Its first column of the map, a multiple of a chunk's width.
        size: Of the area, map pixels.
        rows: Tiles whose cores touch it, frame pixels; rows without any are left out.
    """

    number: int
    left: int
    size: Size
    rows: tuple[TileRow, ...]


@dataclass(frozen=True)
class Plan:
    """All strips and bands of a map.

    Args:
        grid: The tiles.
        map_stride: Frame pixels for one of the map.
        chunk_px: Height of a band; strips are a multiple of it wide.

    Raises:
        InputError: When tiles don't fall on whole map pixels.
    """

    grid: TileGrid
    map_stride: int
    chunk_px: int

    def __post_init__(self) -> None:
        lengths = (self.grid.tile_px, self.grid.halo_px, self.grid.stride_px)
        starts = (start for row in self.grid.rows for start in (row.y, *row.xs))
        if any(length % self.map_stride for length in lengths) or any(start % self.map_stride for start in starts):
            raise InputError(
                f"Tiles of this grid don't fall on whole pixels of a map with stride {self.map_stride}. Pass --map-stride "
                "1, or a tile size, halo and stride that are multiples of it."
            )

    @property
    def frame(self) -> Frame:
        """The map's."""
        return self.grid.frame.coarser(self.map_stride)

    @property
    def strip_px(self) -> int:
        """Width of a strip, with what lies beside its tiles."""
        return self.chunk_px * max(1, _STRIP_PX // self.map_stride)

    @property
    def bands_per_strip(self) -> int:
        """How many bands a strip has."""
        return -(-self.frame.size.height // self.chunk_px)

    @property
    def num_strips(self) -> int:
        """How many strips there are."""
        return -(-self.frame.size.width // self.strip_px)

    def strips(self, bands_done: int = 0) -> Iterator[tuple[Strip, int]]:
        """Strips with tiles that are not finished, each with its first row that is not, given how many bands are."""
        first, bands = divmod(bands_done, self.bands_per_strip)
        for number in range(first, self.num_strips):
            top = bands * self.chunk_px if number == first else 0
            strip = self._strip(number, top)
            if strip.rows:
                yield strip, top

    def number_of(self, strip: Strip, top: int) -> int:
        """The number, through all strips, of the band that starts at a row."""
        return strip.number * self.bands_per_strip + top // self.chunk_px

    def num_tiles(self, bands_done: int = 0) -> int:
        """Tiles to predict when so many bands are done; those on the border of two strips count twice."""
        return sum(len(row.xs) for strip, _ in self.strips(bands_done) for row in strip.rows)

    def core_of(self, start: int) -> int:
        """The first map pixel of a tile's core, along one axis; negative where the tile overhangs."""
        return (start + self.grid.halo_px) // self.map_stride

    @property
    def core_px(self) -> int:
        """Width and height of a core, map pixels."""
        return (self.grid.tile_px - 2 * self.grid.halo_px) // self.map_stride

    @property
    def overlap_px(self) -> int:
        """What two neighbouring cores have in common, map pixels."""
        return self.core_px - self.grid.stride_px // self.map_stride

    def _strip(self, number: int, top: int) -> Strip:
        left = number * self.strip_px
        right = min(left + self.strip_px, self.frame.size.width)
        rows = []
        for row in self.grid.rows:
            if self.core_of(row.y) + self.core_px <= top:
                continue
            first = bisect_right(row.xs, left - self.core_px, key=self.core_of)
            xs = row.xs[first : bisect_left(row.xs, right, key=self.core_of)]
            if xs:
                rows.append(TileRow(row.y, xs))
        start, stop = self._columns(rows, left, right) if rows else (left, right)
        return Strip(number, start, Size(stop - start, self.frame.size.height), tuple(rows))

    def _columns(self, rows: Sequence[TileRow], left: int, right: int) -> tuple[int, int]:
        """The columns of a strip that tiles touch, in whole chunks.

        One more at each end is free of tiles: glass that touches a rim may go on beyond it, and is painted otherwise.
        """
        first = min(self.core_of(row.xs[0]) for row in rows) - 1
        past = max(self.core_of(row.xs[-1]) for row in rows) + self.core_px + 1
        chunk = self.chunk_px
        return max(left, first // chunk * chunk), min(right, -(-past // chunk) * chunk)
