"""Windows of a level in, their pixels out, in order; each stored tile is decoded once, whatever the windows are.

    windows -> units of neighbouring tiles -> bytes, read together -> decoded by a few threads -> copied to their places

A tile that falls whole into a window of whole tiles is decoded in its place. Any other is decoded into one small piece of
memory, which stays in the processor's cache, and copied from there to every open window that it touches: its own and the
next. Tiles that a later window needs again are kept, as far as a budget of bytes allows; else they are decoded again.

Pixels lie in memory that is used again (memory.py): whoever keeps an array, or a view of one, keeps it.

Does not know: formats, resampling, grids of tiles.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from counterstain.errors import DamagedSlideError
from counterstain.slides.memory import POOL, decoder_memory
from counterstain.slides.resample import Pixels
from counterstain.slides.stored import read_bytes
from counterstain.slides.windows import Filled, Pane, Source, Window

AHEAD_BYTES = 16 << 20
"""Of windows that are filled before they are asked for: two, while a third is used."""

_KEPT_BYTES = 64 << 20  # of tiles that a later window needs again
_UNIT_TILES = 8  # decoded by one thread at a time

T = TypeVar("T")


def scan(
    source: Source, windows: Sequence[Window], finish: Callable[[int, Filled], T], num_workers: int
) -> Generator[T, None, None]:
    """What `finish` makes of each window, in their order. Close the iterator when you stop early.

    Args:
        source: Where tiles come from.
        windows: What is wanted; neighbours should follow one another.
        finish: Called in a worker with the number of each window and its pixels, when it is filled.
        num_workers: Threads that decode ahead, and as many that call `finish`; 0 does both when a window is asked for.
    """
    work = _Work(source, windows)
    if num_workers == 0:
        yield from _here(work, finish)
    else:
        yield from _ahead(work, finish, num_workers)


class _Hand:
    """What one thread decodes with."""

    def __init__(self, source: Source) -> None:
        self.file: BinaryIO = source.path.open("rb", buffering=0)
        self.scratch = decoder_memory(*source.tile.shape, 3)


@dataclass(frozen=True, eq=False)
class _Unit:
    """Neighbouring tiles of one row that are decoded one after the other.

    Args:
        tiles: The tiles.
        windows: Those that the tiles belong to.
        kept: Those of the tiles that are kept for a later window.
        forgotten: Those of the tiles that were kept for this window, the last that needs them.
    """

    tiles: list[int]
    windows: tuple[Filled, ...]
    kept: frozenset[int]
    forgotten: frozenset[int]


class _Work:
    """Decides which tiles are decoded for which windows, and does it."""

    def __init__(self, source: Source, windows: Sequence[Window]) -> None:
        self.source, self._windows = source, windows
        self._kept: dict[int, Pixels] = {}
        self._most_kept = _KEPT_BYTES // (source.tile.area * 3)
        self._to_keep: set[int] = set()
        num = source.level.offsets.size
        self._last_use, self._covered = np.full(num, -1, np.int32), np.full(num, -1, np.int32)
        self._is_next = np.zeros(num, np.bool_)
        for number, window in enumerate(windows):
            self._last_use[window.tiles] = number

    def plan(self) -> Iterator[tuple[Filled, list[_Unit]]]:
        """Each window, not filled yet, and the units of work that fill it, if all before were done or are under way."""
        following: Filled | None = None
        for number in range(len(self._windows)):
            here, units, following = self._planned(number, following)
            yield here, units
            del here, units  # the memory is wanted for the next window

    def _planned(self, number: int, opened: Filled | None) -> tuple[Filled, list[_Unit], Filled | None]:
        """A window, the units that fill it, and the next window where some of these fill that too."""
        window = self._windows[number]
        here, following = opened or self._open(window), None
        missing = window.tiles[self._covered[window.tiles] < number]
        shared = self._in_next(missing, number)
        self._covered[missing] = number + shared
        if shared.any():
            following = self._open(self._windows[number + 1])
        is_last = (self._last_use[missing] <= number + shared).tolist()
        tiles, is_shared, units = missing.tolist(), shared.tolist(), []
        for run in _runs(tiles, is_shared, self.source.level.across):
            windows = (here, following) if following and is_shared[run.start] else (here,)
            units.append(self._unit(tiles[run], windows, is_last[run]))
        return here, units, following

    def _in_next(self, tiles: npt.NDArray[np.int64], number: int) -> npt.NDArray[np.bool_]:
        """Which of the tiles the next window wants too."""
        if number + 1 == len(self._windows):
            return np.zeros(tiles.size, np.bool_)
        wanted = self._windows[number + 1].tiles
        self._is_next[wanted] = True
        found: npt.NDArray[np.bool_] = self._is_next[tiles]
        self._is_next[wanted] = False
        return found

    def _unit(self, tiles: list[int], windows: tuple[Filled, ...], is_last: list[bool]) -> _Unit:
        if not self._to_keep and all(is_last):
            return _Unit(tiles, windows, frozenset(), frozenset())
        done = {tile for tile, is_done in zip(tiles, is_last, strict=True) if is_done}
        forgotten = frozenset(self._to_keep & done)
        self._to_keep -= forgotten
        kept = frozenset(tiles) - done - self._to_keep
        kept = kept if len(kept) <= self._most_kept - len(self._to_keep) else frozenset()
        self._to_keep |= kept
        return _Unit(tiles, windows, kept, forgotten)

    def _open(self, window: Window) -> Filled:
        return Filled(window, tuple(self._blank(pane) for pane in window.panes))

    def _blank(self, pane: Pane) -> Pixels:
        """Memory for a pane, white where no tile will be copied to."""
        size, tile = self.source.size, self.source.tile
        if pane.slots is None:
            pixels = POOL.lease(*pane.size.shape, 3)
            pixels[: max(0, -pane.top)] = 255
            pixels[:, : max(0, -pane.left)] = 255
            pixels[max(0, size.height - pane.top) :] = 255
            pixels[:, max(0, size.width - pane.left) :] = 255
            return pixels
        pixels = POOL.lease(pane.num_slots, *tile.shape, 3)
        filled = (slot for number, slot in pane.slots.items() if self.source.is_whole(number))
        for slot in set(range(pane.num_slots)).difference(filled):
            pixels[slot] = 255
        return pixels

    def do(self, unit: _Unit, hand: _Hand) -> None:
        """Decodes the tiles of a unit into their windows."""
        source = self.source
        level, factor, width = source.level, source.factor, source.tile.width
        # looked up once: a later window, the last that needs a tile, may be done first and forget it
        kept_before = {tile: kept for tile in unit.tiles if (kept := self._kept.get(tile)) is not None}
        stored = read_bytes(hand.file, level, [tile for tile in unit.tiles if tile not in kept_before])
        row = unit.tiles[0] // level.across
        places = [place for filled in unit.windows for place in _places(filled, row, source)]
        x = (unit.tiles[0] - row * level.across) * width
        for tile in unit.tiles:
            targets = [target for place in places if (target := place.target(tile, x)) is not None]
            try:
                pixels = kept_before.get(tile)
                if pixels is None:
                    into = targets[0][0] if targets[0][1] is None else hand.scratch
                    pixels = level.decoded(stored[tile], tile, factor, into)
                for place, part in targets:
                    if part is not None:
                        place[...] = pixels[part]
                    elif place is not pixels:
                        place[...] = pixels
                if tile in unit.kept:
                    kept = POOL.lease(*pixels.shape)
                    kept[...] = pixels
                    self._kept[tile] = kept
                elif tile in unit.forgotten:
                    self._kept.pop(tile, None)
            except DamagedSlideError as error:
                for filled in unit.windows:
                    filled.failures[tile] = error
            x += width


_Target = tuple[Pixels, tuple[slice, slice] | None]  # where a tile goes to, and which part of it; None for all of it


@dataclass(frozen=True)
class _Strip:
    """The part of a pane that lies on one row of tiles.

    Args:
        pixels: Of it.
        left: Its first column, level pixels.
        right: The one past its last.
        width: Of a tile.
        rows: Those of the tiles that it shows.
    """

    pixels: Pixels
    left: int
    right: int
    width: int
    rows: slice

    def target(self, tile: int, x: int) -> _Target | None:
        """Where a tile goes to that begins at a column."""
        start, stop = max(x, self.left), min(x + self.width, self.right)
        if start >= stop:
            return None
        return self.pixels[:, start - self.left : stop - self.left], (self.rows, slice(start - x, stop - x))


@dataclass(frozen=True)
class _Pile:
    """A pane of whole tiles."""

    pixels: Pixels
    slots: Mapping[int, int]
    source: Source

    def target(self, tile: int, x: int) -> _Target | None:
        """Where a tile goes to that begins at a column."""
        slot = self.slots.get(tile)
        if slot is None:
            return None
        if self.source.is_whole(tile):
            return self.pixels[slot], None
        size, length = self.source.size, self.source.tile
        y = tile // self.source.level.across * length.height
        part = slice(max(0, min(length.height, size.height - y))), slice(max(0, min(length.width, size.width - x)))
        return self.pixels[slot][part], part


def _places(filled: Filled, row: int, source: Source) -> Iterator[_Strip | _Pile]:
    """The parts of a window that tiles of a row may be copied to."""
    tile, size = source.tile, source.size
    y = row * tile.height
    for pane, pixels in zip(filled.window.panes, filled.panes, strict=True):
        if pane.slots is not None:
            yield _Pile(pixels, pane.slots, source)
            continue
        top, bottom = max(y, pane.top), min(y + tile.height, pane.top + pane.size.height, size.height)
        if top < bottom:
            right = min(pane.left + pane.size.width, size.width)
            part = pixels[top - pane.top : bottom - pane.top]
            yield _Strip(part, pane.left, right, tile.width, slice(top - y, bottom - y))


def _runs(tiles: list[int], shared: list[bool], across: int) -> Iterator[slice]:
    """Neighbours of one row that belong to the same windows, a few at a time."""
    start = 0
    for stop in range(1, len(tiles) + 1):
        if stop < len(tiles) and stop - start < _UNIT_TILES:
            follows = tiles[stop] == tiles[stop - 1] + 1 and tiles[stop] % across
            if follows and shared[stop] == shared[start]:
                continue
        yield slice(start, stop)
        start = stop


def _here(work: _Work, finish: Callable[[int, Filled], T]) -> Iterator[T]:
    hand = _Hand(work.source)
    with hand.file:
        for number, (filled, units) in enumerate(work.plan()):
            while units:
                work.do(units.pop(0), hand)
            result = [finish(number, filled)]
            del filled
            yield result.pop()


def _ahead(work: _Work, finish: Callable[[int, Filled], T], num_workers: int) -> Iterator[T]:
    """As `_here`, with units done by threads, before they are asked for."""
    hands: SimpleQueue[_Hand] = SimpleQueue()
    executor = ThreadPoolExecutor(num_workers, thread_name_prefix="read-tiles")
    # Threads of their own: one that waits for the tiles of a window must not be missing where they are decoded.
    finishers = ThreadPoolExecutor(num_workers, thread_name_prefix="finish-windows")

    def do(unit: _Unit) -> None:
        hand = hands.get()
        try:
            work.do(unit, hand)
        finally:
            hands.put(hand)

    def finished(number: int, filled: Filled, before: list[Future[None]]) -> T:
        for future in before:
            future.result()
        return finish(number, filled)

    under_way: deque[tuple[Future[T], int]] = deque()
    plan, last = enumerate(work.plan()), list[Future[None]]()
    try:
        for _ in range(num_workers):
            hands.put(_Hand(work.source))
        while True:
            while len(under_way) < 2 or sum(num_bytes for _, num_bytes in under_way) < AHEAD_BYTES:
                number, (filled, units) = next(plan, (-1, (None, [])))
                if filled is None:
                    break
                futures = [executor.submit(do, unit) for unit in units]
                # some of its tiles are decoded along with the window before
                result = finishers.submit(finished, number, filled, last + futures)
                under_way.append((result, sum(pane.nbytes for pane in filled.panes)))
                last = futures
            filled, units = None, []
            if not under_way:
                return
            yield under_way.popleft()[0].result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        finishers.shutdown(wait=True, cancel_futures=True)
        while not hands.empty():
            hands.get().file.close()
