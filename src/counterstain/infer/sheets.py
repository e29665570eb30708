"""Sheets: tiles of neighbouring rows of a grid, cut from the same pixels.

    rows -> sheets of at most a few megabytes -> level windows (slides/scan.py) -> pixels of the frame -> batches, as views

A sheet holds one pane for each group of columns that its tiles cover, so that what lies between groups takes no memory.
Where tiles of the grid are the tiles of the file, the sheet is a pile of them.

Does not know: files, threads, models.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from counterstain.errors import DamagedSlideError
from counterstain.geometry import Box, Size
from counterstain.slides.lattice import Lattice
from counterstain.slides.resample import Pixels
from counterstain.slides.scan import Filled, Pane, Pool, Source, Window
from counterstain.tiles import TileRow

_SHEET_BYTES = 8 << 20
"""Pixels of a sheet: more rows together copy less twice, fewer stay in the processor's cache until they are used."""


@dataclass(frozen=True)
class Cut:
    """Tiles of one row, or a part of it.

    Args:
        row: Position of the row among those asked for.
        y: First row of every tile, frame pixels.
        xs: First column of each.
    """

    row: int
    y: int
    xs: tuple[int, ...]


@dataclass(frozen=True)
class Sheet:
    """Tiles that are cut from the same pixels.

    Args:
        cuts: The tiles.
        boxes: Of its panes, frame pixels.
        window: The level's pixels that these are made of.
    """

    cuts: tuple[Cut, ...]
    boxes: tuple[Box, ...]
    window: Window


@dataclass(frozen=True)
class Printed:
    """A sheet's pixels.

    Args:
        panes: (height, width, 3) uint8 RGB for each box, frame pixels; or (tiles, height, width, 3) of a pile.
        failures: Why stored tiles could not be decoded.
    """

    panes: tuple[Pixels, ...]
    failures: dict[int, DamagedSlideError]


@dataclass(frozen=True)
class Press:
    """Makes sheets.

    Args:
        source: Stored tiles.
        lattice: The frame on them.
        tile: The size of a tile, frame pixels.
        batch_size: Tiles of a batch at most.
    """

    source: Source
    lattice: Lattice
    tile: Size
    batch_size: int

    def plan(self, rows: Iterable[TileRow]) -> Iterator[Sheet]:
        """The sheets that rows are cut from, in their order."""
        cuts: list[Cut] = []
        for cut in self._cuts(rows):
            together = [*cuts, cut]
            follows = not cuts or cuts[-1].y < cut.y <= cuts[-1].y + self.tile.height
            if cuts and not (follows and self._num_bytes(together) <= _SHEET_BYTES):
                yield self._sheet(cuts)
                together = [cut]
            cuts = together
        if cuts:
            yield self._sheet(cuts)

    def printed(self, sheet: Sheet, filled: Filled, pool: Pool) -> Printed:
        """The sheet's pixels, made of the level's."""
        if self.lattice.is_level and self.lattice.ends_whole:
            return Printed(filled.panes, filled.failures)
        panes = []
        for box, pane, pixels in zip(sheet.boxes, filled.window.panes, filled.panes, strict=True):
            source = Box(pane.left, pane.top, pane.size.width, pane.size.height)
            made = pool.lease(*box.size.shape, 3)
            for piece in self._pieces(sheet, box):
                self.lattice.render(pixels, source, piece, made[piece.shifted(-box.x, -box.y).slices()])
            panes.append(made)
        return Printed(tuple(panes), filled.failures)

    def batches(self, sheet: Sheet, printed: Printed) -> Iterator[tuple[Cut, Pixels]]:
        """The sheet's tiles, batch by batch: each a cut of one row, and (tiles, height, width, 3) uint8 RGB.

        Raises:
            FailedTileError: At the first batch that a tile is missing from.
        """
        done = 0
        for cut in sheet.cuts:
            for start in range(0, len(cut.xs), self.batch_size):
                part = Cut(cut.row, cut.y, cut.xs[start : start + self.batch_size])
                if printed.failures:
                    self._refuse_missing(part, printed.failures)
                if sheet.window.panes[0].slots is not None:
                    yield part, printed.panes[0][done : done + len(part.xs)]
                else:
                    yield part, self._images(part, sheet, printed)
                done += len(part.xs)

    def _cuts(self, rows: Iterable[TileRow]) -> Iterator[Cut]:
        """The rows, those that are too long for a sheet in parts of whole batches."""
        for number, row in enumerate(rows):
            start, stop = 0, self.batch_size
            while start < len(row.xs):
                following = row.xs[start : stop + self.batch_size]
                if stop < len(row.xs) and self._num_bytes([Cut(number, row.y, following)]) <= _SHEET_BYTES:
                    stop += self.batch_size
                    continue
                yield Cut(number, row.y, tuple(row.xs[start:stop]))
                start, stop = stop, stop + self.batch_size

    def _num_bytes(self, cuts: Sequence[Cut]) -> int:
        height = cuts[-1].y - cuts[0].y + self.tile.height
        width = sum(stop - start for start, stop in self._groups(cuts))
        return int(width * height * 3 * max(1.0, self.lattice.x.scale * self.lattice.y.scale))

    def _groups(self, cuts: Sequence[Cut]) -> list[tuple[int, int]]:
        """Columns of the frame that tiles cover; groups that touch are one."""
        groups: list[tuple[int, int]] = []
        for x in sorted({x for cut in cuts for x in cut.xs}):
            if groups and x <= groups[-1][1]:
                groups[-1] = groups[-1][0], max(groups[-1][1], x + self.tile.width)
            else:
                groups.append((x, x + self.tile.width))
        return groups

    def _sheet(self, cuts: Sequence[Cut]) -> Sheet:
        tiles = sorted({tile for cut in cuts for tile in self._stored_under(cut)})
        top, bottom = cuts[0].y, cuts[-1].y + self.tile.height
        boxes = tuple(Box.from_corners(left, top, right, bottom) for left, right in self._groups(cuts))
        if all(map(self._is_pile, cuts)):
            return Sheet(tuple(cuts), boxes, Window((self._pile(cuts),), tuple(tiles)))
        panes = []
        for box in boxes:
            under = self.lattice.under(box)
            panes.append(Pane(int(under.x), int(under.y), Size(int(under.width), int(under.height))))
        return Sheet(tuple(cuts), boxes, Window(tuple(panes), tuple(tiles)))

    def _is_pile(self, cut: Cut) -> bool:
        """Whether each tile of the grid is one of the file."""
        if not (self.lattice.is_level and self.lattice.ends_whole and self.tile == self.source.tile):
            return False
        left, top = round(self.lattice.x.start), round(self.lattice.y.start)
        columns_fit = all((left + x) % self.tile.width == 0 for x in cut.xs)
        return columns_fit and (top + cut.y) % self.tile.height == 0

    def _pile(self, cuts: Sequence[Cut]) -> Pane:
        places = [(x, cut.y) for cut in cuts for x in cut.xs]
        slots = {}
        for slot, (x, y) in enumerate(places):
            for tiles in self._stored(x, y):
                slots.update(dict.fromkeys(tiles, slot))
        return Pane(0, 0, self.tile, slots, len(places))

    def _stored(self, x: int, y: int, width: int | None = None) -> list[range]:
        box = Box(x, y, width or self.tile.width, self.tile.height)
        under = self.lattice.under(box)
        return self.source.tiles_under(int(under.x), int(under.y), Size(int(under.width), int(under.height)))

    def _stored_under(self, cut: Cut) -> Iterator[int]:
        for left, right in self._groups([cut]):
            for tiles in self._stored(left, cut.y, right - left):
                yield from tiles

    def _pieces(self, sheet: Sheet, pane: Box) -> Iterator[Box]:
        """The parts of a pane that tiles lie on, each once as far as rows are alike."""
        above: list[tuple[int, int]] = []
        bottom = int(pane.y)
        for cut in sheet.cuts:
            groups = [group for group in self._groups([cut]) if pane.x <= group[0] < pane.right]
            for left, right in groups:
                is_done = any(start <= left and right <= stop for start, stop in above)
                top = max(bottom, cut.y) if is_done else cut.y
                yield Box.from_corners(left, top, right, cut.y + self.tile.height)
            above, bottom = groups, cut.y + self.tile.height

    def _images(self, cut: Cut, sheet: Sheet, printed: Printed) -> Pixels:
        tile, xs = self.tile, cut.xs
        for box, pixels in zip(sheet.boxes, printed.panes, strict=True):
            if box.x <= xs[0] and xs[-1] < box.right:
                first = pixels[cut.y - int(box.y) :, xs[0] - int(box.x) :]
                steps = {after - before for before, after in zip(xs[:-1], xs[1:], strict=True)}
                if len(steps) <= 1:
                    down, across, color = first.strides
                    strides = (steps.pop() * across if steps else 0, down, across, color)
                    return as_strided(first, (len(xs), *tile.shape, 3), strides, writeable=False)
        images = np.empty((len(xs), *tile.shape, 3), np.uint8)
        for image, x in zip(images, xs, strict=True):
            for box, pixels in zip(sheet.boxes, printed.panes, strict=True):
                if box.x <= x < box.right:
                    image[...] = pixels[Box(x - box.x, cut.y - box.y, tile.width, tile.height).slices()]
        return images

    def _refuse_missing(self, cut: Cut, failures: dict[int, DamagedSlideError]) -> None:
        for tile in self._stored_under(cut):
            if tile in failures:
                raise FailedTileError(tile, failures[tile])


class FailedTileError(DamagedSlideError):
    """A stored tile can't be decoded; whoever knows the slide says which it is.

    Args:
        tile: Its position in the level.
        reason: Why.
    """

    def __init__(self, tile: int, reason: DamagedSlideError) -> None:
        super().__init__(str(reason))
        self.tile = tile
