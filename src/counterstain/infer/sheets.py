"""Sheets: tiles of neighbouring rows of a grid, cut from the same pixels.

    rows -> sheets of at most a few megabytes -> level windows (slides/scan.py) -> pixels of the frame -> batches, as views

A sheet holds one pane for each group of columns that its tiles cover, so that what lies between groups takes no memory.
Where tiles of the grid are the tiles of the file, the sheet is a pile of them.

Does not know: files, threads, models.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import sub

import numpy as np
import numpy.typing as npt

from counterstain.errors import DamagedSlideError
from counterstain.geometry import Box, Size
from counterstain.slides.lattice import Lattice
from counterstain.slides.memory import POOL
from counterstain.slides.resample import Pixels
from counterstain.slides.windows import Filled, Pane, Source, Window
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
        groups: The columns that they cover, from and to; tiles that touch are one group.
    """

    row: int
    y: int
    xs: tuple[int, ...]
    groups: tuple[tuple[int, int], ...]


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
        blame: Makes the error for a stored tile and the reason why it can't be decoded.
    """

    source: Source
    lattice: Lattice
    tile: Size
    batch_size: int
    blame: Callable[[int, DamagedSlideError], DamagedSlideError]

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

    def printed(self, sheet: Sheet, filled: Filled) -> Printed:
        """The sheet's pixels, made of the level's."""
        if self.lattice.is_level and self.lattice.ends_whole:
            return Printed(filled.panes, filled.failures)
        panes = []
        for box, pane, pixels in zip(sheet.boxes, filled.window.panes, filled.panes, strict=True):
            made = POOL.lease(*box.size.shape, 3)
            for piece in self._pieces(sheet, box):
                self.lattice.render(pixels, pane.box, piece, made[piece.shifted(-box.x, -box.y).slices()])
            panes.append(made)
        return Printed(tuple(panes), filled.failures)

    def batches(self, sheet: Sheet, printed: Printed) -> Iterator[tuple[Cut, Pixels]]:
        """The sheet's tiles, batch by batch: each a cut of one row, and (tiles, height, width, 3) uint8 RGB.

        Raises:
            DamagedSlideError: At the first batch that a stored tile is missing from.
        """
        done = 0
        for cut in sheet.cuts:
            for start in range(0, len(cut.xs), self.batch_size):
                part = replace(cut, xs=cut.xs[start : start + self.batch_size])
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
            whole = self._cut(number, row.y, row.xs)
            if self._num_bytes([whole]) <= _SHEET_BYTES:
                yield whole
                continue
            held: Cut | None = None
            for start in range(0, len(row.xs), self.batch_size):
                part = self._cut(number, row.y, row.xs[start : start + self.batch_size])
                longer = part if held is None else self._cut(number, row.y, held.xs + part.xs)
                if held is not None and self._num_bytes([longer]) > _SHEET_BYTES:
                    yield held
                    longer = part
                held = longer
            assert held is not None
            yield held

    def _cut(self, row: int, y: int, xs: tuple[int, ...]) -> Cut:
        places = np.array(xs)
        last = [*np.flatnonzero(np.diff(places) > self.tile.width).tolist(), len(xs) - 1]
        first = [0, *(end + 1 for end in last[:-1])]
        groups = tuple((xs[start], xs[end] + self.tile.width) for start, end in zip(first, last, strict=True))
        return Cut(row, y, xs, groups)

    def _num_bytes(self, cuts: Sequence[Cut]) -> int:
        height = cuts[-1].y - cuts[0].y + self.tile.height
        width = sum(stop - start for start, stop in _united(cuts))
        return int(width * height * 3 * max(1.0, self.lattice.x.scale * self.lattice.y.scale))

    def _sheet(self, cuts: Sequence[Cut]) -> Sheet:
        top, bottom = cuts[0].y, cuts[-1].y + self.tile.height
        boxes = tuple(Box.from_corners(left, top, right, bottom) for left, right in _united(cuts))
        tiles = self._stored_under(cuts)
        if all(map(self._is_pile, cuts)):
            return Sheet(tuple(cuts), boxes, Window((self._pile(cuts),), tiles))
        panes = []
        for box in boxes:
            under = self.lattice.under(box)
            panes.append(Pane(int(under.x), int(under.y), Size(int(under.width), int(under.height))))
        return Sheet(tuple(cuts), boxes, Window(tuple(panes), tiles))

    def _is_pile(self, cut: Cut) -> bool:
        """Whether each tile of the grid is one of the file."""
        if not (self.lattice.is_level and self.lattice.ends_whole and self.tile == self.source.tile):
            return False
        left, top = round(self.lattice.x.start), round(self.lattice.y.start)
        columns_fit = all((left + x) % self.tile.width == 0 for x in cut.xs)
        return columns_fit and (top + cut.y) % self.tile.height == 0

    def _pile(self, cuts: Sequence[Cut]) -> Pane:
        left, top = round(self.lattice.x.start), round(self.lattice.y.start)
        (down, across), slot, slots = self.source.num_tiles, 0, {}
        for cut in cuts:
            row = (top + cut.y) // self.tile.height
            for x in cut.xs:
                column = (left + x) // self.tile.width
                if 0 <= row < down and 0 <= column < across:
                    slots[row * self.source.level.across + column] = slot
                slot += 1
        return Pane(0, 0, self.tile, slots, slot)

    def _stored_under(self, cuts: Sequence[Cut]) -> npt.NDArray[np.int64]:
        """The stored tiles that are needed, ascending."""
        spans = []
        for cut in cuts:
            for left, right in cut.groups:
                box = Box(left, cut.y, right - left, self.tile.height)
                spans.append(self.source.span(self.lattice.under(box)))
        top, bottom = min(rows.start for rows, _ in spans), max(rows.stop for rows, _ in spans)
        touched = np.zeros((bottom - top, self.source.level.across), np.bool_)
        for rows, columns in spans:
            touched[rows.start - top : rows.stop - top, columns] = True
        tiles: npt.NDArray[np.int64] = np.flatnonzero(touched) + top * self.source.level.across
        return tiles

    def _pieces(self, sheet: Sheet, pane: Box) -> Iterator[Box]:
        """The parts of a pane that tiles lie on, each once as far as rows are alike."""
        above: list[tuple[int, int]] = []
        bottom = int(pane.y)
        for cut in sheet.cuts:
            groups = [group for group in cut.groups if pane.x <= group[0] < pane.right]
            for left, right in groups:
                is_done = any(start <= left and right <= stop for start, stop in above)
                top = max(bottom, cut.y) if is_done else cut.y
                yield Box.from_corners(left, top, right, cut.y + self.tile.height)
            above, bottom = groups, cut.y + self.tile.height

    def _images(self, cut: Cut, sheet: Sheet, printed: Printed) -> Pixels:
        views = [self._view(cut.y, xs, sheet, printed) for xs in self._even(cut.xs, sheet)]
        return views[0] if len(views) == 1 else np.concatenate(views)

    def _even(self, xs: tuple[int, ...], sheet: Sheet) -> Iterator[tuple[int, ...]]:
        """Runs of tiles that lie on one pane, equally far apart."""
        panes = np.searchsorted([box.x for box in sheet.boxes], xs, "right").tolist()
        steps, start = list(map(sub, xs[1:], xs[:-1])), 0
        for stop in range(1, len(xs) + 1):
            if stop == len(xs) or panes[stop] != panes[start] or steps[stop - 1] != steps[start]:
                yield xs[start:stop]
                start = stop

    def _view(self, y: int, xs: tuple[int, ...], sheet: Sheet, printed: Printed) -> Pixels:
        """(tiles, height, width, 3) of a run, which share memory where they overlap."""
        place = next(place for place, box in enumerate(sheet.boxes) if box.x <= xs[0] < box.right)
        box, pixels = sheet.boxes[place], printed.panes[place]
        down, across, color = pixels.strides
        start = (y - int(box.y)) * down + (xs[0] - int(box.x)) * across
        strides = ((xs[1] - xs[0]) * across if len(xs) > 1 else 0, down, across, color)
        return np.ndarray((len(xs), *self.tile.shape, 3), np.uint8, pixels, start, strides)

    def _refuse_missing(self, cut: Cut, failures: dict[int, DamagedSlideError]) -> None:
        for tile in self._stored_under([self._cut(cut.row, cut.y, cut.xs)]).tolist():
            if tile in failures:
                raise self.blame(tile, failures[tile]) from failures[tile]


def _united(cuts: Sequence[Cut]) -> list[tuple[int, int]]:
    """Columns of the frame that tiles cover; groups that touch are one."""
    united: list[tuple[int, int]] = []
    for left, right in sorted({group for cut in cuts for group in cut.groups}):
        if united and left <= united[-1][1]:
            united[-1] = united[-1][0], max(united[-1][1], right)
        else:
            united.append((left, right))
    return united
