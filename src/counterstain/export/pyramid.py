"""The tiles of a class map and of its smaller levels, coded for a TIFF, from one sweep over the map.

    label map, row of tiles by row of tiles -> tiles of level 0, handed out as they come
                                            -> rows of the levels below -> their tiles, kept in a file until they are wanted

Pixels of a level are those of the map nearest to their centres. Tiles are coded in threads; those of one label, as all are
beside the tissue, once for all. What stays in memory is a row of tiles of each level.

Does not know: TIFF, what labels mean.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from imagecodecs import deflate_encode

from counterstain.export.blocks import blocks, halved
from counterstain.geometry import Size

TILE_PX = 512
_STRIP_PX = 8 * TILE_PX  # map pixels of a row of tiles read at a time
_EFFORT = 1  # of libdeflate: faster than zlib's lowest, and smaller
_MOST_THREADS = 4

Labels = npt.NDArray[np.uint8]


def level_sizes(size: Size) -> list[Size]:
    """A map's size and those of its levels, each half the one above, down to one tile."""
    sizes = [size]
    while max(sizes[-1].shape) > TILE_PX:
        sizes.append(halved(sizes[-1]))
    return sizes


@dataclass
class _Level:
    """A smaller level that is being made.

    Args:
        size: Of all of it.
        rows: (height,) the row of the map that each of its rows shows.
        columns: (width,) likewise.
        held: (TILE_PX, width) uint8: its rows since the last whole row of tiles.
        places: Where its finished tiles lie in the file, from where to where.
    """

    size: Size
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    held: Labels
    places: list[tuple[int, int]] = field(default_factory=list)


class ClassPyramid:
    """Coded tiles of a label map and its levels. Ask for level 0 first, and for all of it.

    Args:
        label: (H, W) uint8, an array or Zarr's.
        palette: (256, samples) uint8, what stands for each label.
        fill: The label beyond the map's edge.
        spool: An empty file, for the levels below.
    """

    def __init__(self, label: Any, palette: npt.NDArray[np.uint8], fill: int, spool: BinaryIO) -> None:
        self._label, self._palette, self._fill, self._spool = label, palette, fill, spool
        self.sizes = level_sizes(Size(label.shape[1], label.shape[0]))
        self._levels = [self._empty(1 << number, size) for number, size in enumerate(self.sizes) if number]
        self._plain: dict[int, bytes] = {}

    def tiles(self, number: int) -> Iterator[bytes]:
        """The tiles of a level, row by row, each as a zlib stream."""
        if number == 0:
            yield from self._sweep()
            return
        for start, end in self._levels[number - 1].places:
            self._spool.seek(start)
            yield self._spool.read(end - start)

    def _empty(self, step: int, size: Size) -> _Level:
        down, across = (
            np.minimum(np.arange(length) * step + step // 2, full - 1)
            for length, full in zip(size.shape, self.sizes[0].shape, strict=True)
        )
        return _Level(size, down, across, np.empty((TILE_PX, size.width), np.uint8))

    def _sweep(self) -> Iterator[bytes]:
        with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1), thread_name_prefix="code-tiles") as pool:
            for strip in blocks(self.sizes[0], Size(_STRIP_PX, TILE_PX)):
                values = np.asarray(self._label[strip.slices()])
                tiles = [values[box.slices()] for box in blocks(strip.size, Size(TILE_PX, TILE_PX))]
                coded = list(pool.map(self._coded, tiles))
                for level in self._levels:
                    self._take(level, values, int(strip.x), int(strip.y))
                    if strip.right == self.sizes[0].width:
                        self._finish(level, int(strip.bottom), pool)
                yield from coded  # last, since nobody asks once more after the last tile

    def _take(self, level: _Level, values: Labels, x: int, y: int) -> None:
        """Copies what of a level lies in a strip of the map."""
        top, bottom = np.searchsorted(level.rows, (y, y + values.shape[0])).tolist()
        left, right = np.searchsorted(level.columns, (x, x + values.shape[1])).tolist()
        rows, columns = level.rows[top:bottom] - y, level.columns[left:right] - x
        level.held[top % TILE_PX : top % TILE_PX + bottom - top, left:right] = values[_even(rows)][:, _even(columns)]

    def _finish(self, level: _Level, bottom: int, pool: ThreadPoolExecutor) -> None:
        """Codes a level's row of tiles when the map was read down to its end."""
        done = int(np.searchsorted(level.rows, bottom))
        num_rows = done - len(level.places) // -(-level.size.width // TILE_PX) * TILE_PX
        if num_rows == 0 or (num_rows < TILE_PX and done < level.size.height):
            return
        tiles = [level.held[:num_rows, start : start + TILE_PX] for start in range(0, level.size.width, TILE_PX)]
        for data in pool.map(self._coded, tiles):
            start = self._spool.seek(0, os.SEEK_END)
            self._spool.write(data)
            level.places.append((start, start + len(data)))

    def _coded(self, labels: Labels) -> bytes:
        first = int(labels[0, 0])
        is_plain = bool((labels == first).all()) and (labels.shape == (TILE_PX, TILE_PX) or first == self._fill)
        if is_plain and first in self._plain:
            return self._plain[first]
        if labels.shape != (TILE_PX, TILE_PX):
            beyond = [(0, TILE_PX - length) for length in labels.shape]
            labels = np.pad(labels, beyond, constant_values=self._fill)
        samples: Any = np.take(self._palette, labels, axis=0)
        data = bytes(deflate_encode(samples, _EFFORT))
        if is_plain:
            self._plain[first] = data
        return data


def _even(places: npt.NDArray[np.int64]) -> Any:
    """Places as a slice where they are evenly spaced, which is read faster."""
    steps = np.diff(places)
    if len(steps) == 0 or (steps != steps[0]).any():
        return places
    return slice(int(places[0]), int(places[-1]) + 1, int(steps[0]))
