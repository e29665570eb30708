"""Rows of a grid in, batches of tile images out, in order, read ahead by a few threads.

A batch holds tiles of one row only, so that what stands together in a batch follows from the grid alone: a resumed
prediction computes the same batches.

Where the slide's stored tiles can be decoded directly, rows are read together as sheets (sheets.py), each stored tile once,
and a batch is a view of a sheet: images that overlap share memory, which stays as it is while anyone refers to the batch.
Other readers are asked for strips of neighbouring tiles, each thread with a pickled copy of the slide; of these at most
`num_workers` + 2 batches are in memory at any time.

A reading error is raised at its batch, with what came before it delivered; the threads are gone and their files closed when
the stream ends, whichever way.

Does not know: models, what becomes of the images.
"""

import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from counterstain.geometry import Box, Frame, Size
from counterstain.infer.sheets import Cut, Press
from counterstain.slides.base import Slide
from counterstain.slides.scan import scan
from counterstain.tiles import TileRow


@dataclass(frozen=True)
class Batch:
    """Tiles of one row.

    Args:
        row: Position of the row among those asked for.
        y: First row of every tile, frame pixels.
        xs: First column of each tile.
        images_BHWC: uint8 RGB; what lies beyond the slide is white. Only to be read: images that overlap share memory.
    """

    row: int
    y: int
    xs: tuple[int, ...]
    images_BHWC: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Task:
    row: int
    y: int
    xs: tuple[int, ...]


@dataclass(frozen=True)
class Cutter:
    """How tiles are cut from a slide.

    Args:
        frame: The slide at the model's resolution; rows are given in its pixels.
        tile: The size of a tile.
        batch_size: Tiles of a batch at most.
        num_workers: Threads that read ahead; 0 reads when a batch is asked for.
        is_scaled: Whether tiles are read as `Slide.read_scaled` does, faster and less exact.
    """

    frame: Frame
    tile: Size
    batch_size: int
    num_workers: int
    is_scaled: bool = False

    def stream(self, slide: Slide, rows: Iterable[TileRow]) -> Generator[Batch, None, None]:
        """The rows' tiles, batch by batch in their order. Close the iterator when you stop early.

        Raises:
            DamagedSlideError: When a tile can't be decoded, at its batch.
        """
        direct = slide.source(self.frame, is_scaled=self.is_scaled)
        if direct is None:
            yield from self._asked(slide, rows)
            return
        source, lattice, level = direct
        press = Press(source, lattice, self.tile, self.batch_size, partial(slide.damaged_tile, level))
        with closing(_pressed(press, rows, self.num_workers)) as pressed:
            for cut, images in pressed:
                yield Batch(cut.row, cut.y, cut.xs, images)
                del images

    def _asked(self, slide: Slide, rows: Iterable[TileRow]) -> Iterator[Batch]:
        """Batches read from a slide that is asked for boxes."""
        tasks = self._tasks(rows)
        if self.num_workers == 0:
            for task in tasks:
                yield self._read(slide, task)
            return
        copies: SimpleQueue[Slide] = SimpleQueue()
        for _ in range(self.num_workers):
            copies.put(pickle.loads(pickle.dumps(slide)))

        def read(task: _Task) -> Batch:
            own = copies.get()
            try:
                return self._read(own, task)
            finally:
                copies.put(own)

        try:
            yield from _ahead(read, tasks, self.num_workers)
        finally:
            for _ in range(self.num_workers):
                copies.get().close()

    def _tasks(self, rows: Iterable[TileRow]) -> Iterator[_Task]:
        for number, row in enumerate(rows):
            for start in range(0, len(row.xs), self.batch_size):
                yield _Task(number, row.y, tuple(row.xs[start : start + self.batch_size]))

    def _read(self, slide: Slide, task: _Task) -> Batch:
        images = np.empty((len(task.xs), *self.tile.shape, 3), np.uint8)
        done = 0
        for run in _runs(task.xs, self.tile.width):
            width = run[-1] - run[0] + self.tile.width
            box = self.frame.to_level0(Box(run[0], task.y, width, self.tile.height))
            pixels = slide.read_resized(box, Size(width, self.tile.height))
            for x in run:
                images[done] = pixels[:, x - run[0] : x - run[0] + self.tile.width]
                done += 1
        return Batch(task.row, task.y, task.xs, images)


_Images = tuple[Cut, npt.NDArray[np.uint8]]


def _pressed(press: Press, rows: Iterable[TileRow], num_workers: int) -> Generator[_Images, None, None]:
    sheets = list(press.plan(rows))
    windows = [sheet.window for sheet in sheets]
    results = scan(press.source, windows, lambda number, filled: press.printed(sheets[number], filled), num_workers)
    with closing(results):
        for sheet in sheets:
            yield from press.batches(sheet, next(results))


def _runs(xs: tuple[int, ...], tile_px: int) -> Iterator[tuple[int, ...]]:
    """Tiles of a row that touch or overlap one another, together."""
    start = 0
    for index in range(1, len(xs) + 1):
        if index == len(xs) or xs[index] > xs[index - 1] + tile_px:
            yield xs[start:index]
            start = index


def _ahead(read: Callable[[_Task], Batch], tasks: Iterator[_Task], num_workers: int) -> Iterator[Batch]:
    """Results in the order of the tasks, one more under way than there are threads."""
    executor = ThreadPoolExecutor(num_workers, thread_name_prefix="read-tiles")
    pending: deque[Future[Batch]] = deque()
    try:
        pending.extend(executor.submit(read, task) for task in islice(tasks, num_workers + 1))
        while pending:
            batch = pending.popleft().result()
            pending.extend(executor.submit(read, task) for task in islice(tasks, 1))
            yield batch
            del batch
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
