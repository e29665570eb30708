"""Windows of a level in, their pixels out, in order; each stored tile is decoded once, whatever the windows are.

    windows -> units of neighbouring tiles -> bytes, read together -> decoded by a few threads -> copied to where they belong

A tile that falls whole into a window of whole tiles is decoded in its place. Any other is decoded into one small piece of
memory, which stays in the processor's cache, and copied from there to every open window that it touches: its own and the
next. Tiles that a later window needs again are kept, as far as a budget of bytes allows; else they are decoded again.

Pixels lie in memory that is used again as soon as nobody refers to it: whoever keeps an array, or a view of one, keeps it.

Does not know: formats, resampling, grids of tiles.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, TypeVar
from weakref import finalize

import numpy as np

from counterstain.errors import DamagedSlideError
from counterstain.geometry import Box, Size
from counterstain.slides.resample import Pixels
from counterstain.slides.stored import StoredLevel, read_bytes

AHEAD_BYTES = 24 << 20
"""Of windows that are filled before they are asked for. More would leave the processor's cache before they are used."""

_KEPT_BYTES = 64 << 20  # of tiles that a later window needs again
_UNIT_TILES = 16  # decoded by one thread at a time
_POOLED_STEP = 1 << 20  # bytes: so that memory of nearly the same length is used again

T = TypeVar("T")


class Pool:
    """Memory for arrays, used again when nothing refers to an array or to a view of it any more."""

    def __init__(self) -> None:
        self._free: dict[int, deque[bytearray]] = {}

    def lease(self, *shape: int) -> Pixels:
        """An array of uint8; what it holds is not defined."""
        count = math.prod(shape)
        length = -(-max(count, 1) // _POOLED_STEP) * _POOLED_STEP
        free = self._free.setdefault(length, deque())
        try:
            raw = free.pop()  # what was given back last lies in the cache
        except IndexError:
            raw = bytearray(length)
        array = np.frombuffer(raw, np.uint8, count)  # its base is no array, so every view refers to it, and not to `raw`
        finalize(array, free.append, raw).atexit = False
        return array.reshape(shape)


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


@dataclass(frozen=True)
class Window:
    """Parts of a level that are filled together.

    Args:
        panes: The parts.
        tiles: Stored tiles that are wanted, ascending; what lies under others is not defined.
    """

    panes: tuple[Pane, ...]
    tiles: tuple[int, ...]


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

    @property
    def tile(self) -> Size:
        """Of what is decoded."""
        stored = self.level.coding.tile
        return Size(stored.width // self.factor, stored.height // self.factor)

    @property
    def size(self) -> Size:
        """The level's, as decoded: pixels that lie wholly on it."""
        return Size(max(1, self.level.size.width // self.factor), max(1, self.level.size.height // self.factor))

    def tiles_under(self, left: int, top: int, size: Size) -> list[range]:
        """The tiles that a box touches, row by row."""
        tile, across = self.tile, self.level.across
        columns = range(max(0, left // tile.width), min(across, -(-(left + size.width) // tile.width)))
        down = -(-self.level.size.height // self.level.coding.tile.height)
        rows = range(max(0, top // tile.height), min(down, -(-(top + size.height) // tile.height)))
        return [range(row * across + columns.start, row * across + columns.stop) for row in rows] if columns else []

    def part(self, number: int) -> Box:
        """The part of the level that a tile shows: less than a tile at the level's end."""
        tile, size = self.tile, self.size
        row, column = divmod(number, self.level.across)
        x, y = column * tile.width, row * tile.height
        return Box(x, y, max(0, min(tile.width, size.width - x)), max(0, min(tile.height, size.height - y)))


def scan(
    source: Source, windows: Sequence[Window], finish: Callable[[int, Filled], T], num_workers: int
) -> Generator[T, None, None]:
    """What `finish` makes of each window, in their order. Close the iterator when you stop early.

    Args:
        source: Where tiles come from.
        windows: What is wanted; neighbours should follow one another.
        finish: Called in a worker with the number of each window and its pixels, when it is filled.
        num_workers: Threads that decode ahead; 0 decodes when a window is asked for.
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
        self.scratch: Pixels = np.empty((*source.tile.shape, 3), np.uint8)


@dataclass(frozen=True)
class _Order:
    """One tile that is to be decoded."""

    tile: int
    windows: tuple[Filled, ...]
    is_kept: bool
    is_last: bool


class _Work:
    """Decides which tiles are decoded for which windows, and does it."""

    def __init__(self, source: Source, windows: Sequence[Window]) -> None:
        self.source, self._windows = source, windows
        self._pool, self._kept = Pool(), dict[int, Pixels]()
        self._last_use = np.full(source.level.offsets.size, -1, np.int64)
        for number, window in enumerate(windows):
            self._last_use[list(window.tiles)] = number
        self._tile_bytes = source.tile.area * 3
        self._num_kept = 0
        self._kept_numbers: set[int] = set()

    def __len__(self) -> int:
        return len(self._windows)

    def plan(self) -> Iterator[tuple[Filled, list[list[_Order]]]]:
        """Each window, not filled yet, and the units of work that fill it, if all before were done or are under way."""
        opened: Filled | None = None
        covered: set[int] = set()
        for number, window in enumerate(self._windows):
            here = self._open(window) if opened is None else opened
            following = self._windows[number + 1] if number + 1 < len(self._windows) else None
            shared = set(window.tiles).intersection(following.tiles) if following else set()
            missing = [tile for tile in window.tiles if tile not in covered]
            covered = shared.intersection(missing)
            opened = self._open(following) if following and covered else None
            both = (here, opened) if opened else (here,)
            orders = [self._order(tile, both if tile in covered else (here,), number) for tile in missing]
            yield here, [orders[at : at + _UNIT_TILES] for at in range(0, len(orders), _UNIT_TILES)]

    def _order(self, tile: int, windows: tuple[Filled, ...], number: int) -> _Order:
        last = int(self._last_use[tile])
        is_last = last < number + len(windows)
        if is_last and tile in self._kept_numbers:
            self._kept_numbers.discard(tile)
        is_kept = not is_last and tile not in self._kept_numbers
        if is_kept and (len(self._kept_numbers) + 1) * self._tile_bytes > _KEPT_BYTES:
            is_kept = False
        if is_kept:
            self._kept_numbers.add(tile)
        return _Order(tile, windows, is_kept, is_last)

    def _open(self, window: Window) -> Filled:
        return Filled(window, tuple(self._blank(pane) for pane in window.panes))

    def _blank(self, pane: Pane) -> Pixels:
        """Memory for a pane, white where no tile will be copied to."""
        size, tile = self.source.size, self.source.tile
        if pane.slots is None:
            pixels = self._pool.lease(*pane.size.shape, 3)
            pixels[: max(0, -pane.top)] = 255
            pixels[:, : max(0, -pane.left)] = 255
            pixels[max(0, size.height - pane.top) :] = 255
            pixels[:, max(0, size.width - pane.left) :] = 255
            return pixels
        pixels = self._pool.lease(pane.num_slots, *tile.shape, 3)
        whole = {slot for number, slot in pane.slots.items() if self.source.part(number).size == tile}
        for slot in range(pane.num_slots):
            if slot not in whole:
                pixels[slot] = 255
        return pixels

    def do(self, unit: list[_Order], hand: _Hand) -> None:
        """Decodes the tiles of a unit into their windows."""
        level = self.source.level
        data = read_bytes(hand.file, level, [order.tile for order in unit if order.tile not in self._kept])
        for order in unit:
            copies = [copy for filled in order.windows for copy in _copies(filled, order.tile, self.source)]
            try:
                pixels = self._kept.get(order.tile)
                if pixels is None:
                    into = copies[0].target if copies[0].is_whole else hand.scratch
                    pixels = level.decoded(data[order.tile], order.tile, self.source.factor, into)
            except DamagedSlideError as error:
                for filled in order.windows:
                    filled.failures[order.tile] = error
                continue
            for copy in copies:
                if copy.target is not pixels:
                    copy.target[...] = pixels[copy.rows, copy.columns]
            if order.is_kept:
                self._kept[order.tile] = pixels.copy()
            elif order.is_last:
                self._kept.pop(order.tile, None)


@dataclass(frozen=True, slots=True)
class _Copy:
    """Where a part of a tile goes to; a whole one goes to contiguous memory."""

    target: Pixels
    rows: slice
    columns: slice
    is_whole: bool = False


def _copies(filled: Filled, number: int, source: Source) -> Iterator[_Copy]:
    part, length = source.part(number), source.tile
    x, y = int(part.x), int(part.y)
    right, bottom = int(part.right), int(part.bottom)
    for pane, pixels in zip(filled.window.panes, filled.panes, strict=True):
        if pane.slots is not None:
            if number in pane.slots:
                width, height = right - x, bottom - y
                target = pixels[pane.slots[number]]
                is_whole = width == length.width and height == length.height
                yield _Copy(target if is_whole else target[:height, :width], slice(height), slice(width), is_whole)
            continue
        x0, x1 = max(x, pane.left), min(right, pane.left + pane.size.width)
        y0, y1 = max(y, pane.top), min(bottom, pane.top + pane.size.height)
        if x0 < x1 and y0 < y1:
            target = pixels[y0 - pane.top : y1 - pane.top, x0 - pane.left : x1 - pane.left]
            yield _Copy(target, slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))


def _here(work: _Work, finish: Callable[[int, Filled], T]) -> Iterator[T]:
    hand = _Hand(work.source)
    with hand.file:
        for number, (filled, units) in enumerate(work.plan()):
            for unit in units:
                work.do(unit, hand)
            result = finish(number, filled)
            del filled, units
            yield result
            del result


def _ahead(work: _Work, finish: Callable[[int, Filled], T], num_workers: int) -> Iterator[T]:
    """As `_here`, with units done by threads, before they are asked for."""
    hands: SimpleQueue[_Hand] = SimpleQueue()
    for _ in range(num_workers):
        hands.put(_Hand(work.source))
    executor = ThreadPoolExecutor(num_workers, thread_name_prefix="read-tiles")

    def do(unit: list[_Order]) -> None:
        hand = hands.get()
        try:
            work.do(unit, hand)
        finally:
            hands.put(hand)

    def finished(number: int, filled: Filled, before: list[Future[None]]) -> T:
        for future in before:  # submitted earlier, so done or under way
            future.result()
        return finish(number, filled)

    under_way: deque[tuple[Future[T], int]] = deque()
    plan, last = enumerate(work.plan()), list[Future[None]]()
    try:
        while True:
            while len(under_way) < 2 or sum(num_bytes for _, num_bytes in under_way) < AHEAD_BYTES:
                number, (filled, units) = next(plan, (-1, (None, [])))
                if filled is None:
                    break
                futures = [executor.submit(do, unit) for unit in units]
                # some of its tiles are decoded along with the window before
                result = executor.submit(finished, number, filled, last + futures)
                under_way.append((result, sum(pane.nbytes for pane in filled.panes)))
                last = futures
            filled, units = None, []
            if not under_way:
                return
            yield under_way.popleft()[0].result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        while not hands.empty():
            hands.get().file.close()
