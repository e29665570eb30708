"""The tiles of one level as they are stored: where each lies in the file, how it is coded, and its pixels.

What is stored in strips has tiles too: as wide as the level.

Does not know: which files hold such levels, boxes, resampling.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from counterstain.errors import DamagedSlideError
from counterstain.geometry import Size
from counterstain.slides import codecs
from counterstain.slides.codecs import Coding, decode_tile
from counterstain.slides.resample import Pixels

_MOST_GAP = 1 << 14  # bytes between two tiles that are read along with them: less than another read would take
_MOST_READ = 1 << 22  # bytes read at once


@dataclass(frozen=True)
class StoredLevel:
    """A level's tiles, row by row.

    Args:
        size: Its pixels.
        coding: How its tiles are stored.
        offsets: Where each begins in the file.
        num_bytes: How long each is; 0 where the scanner left it out.
    """

    size: Size
    coding: Coding
    offsets: npt.NDArray[np.uint64]
    num_bytes: npt.NDArray[np.uint64]

    @cached_property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.size.width // self.coding.tile.width)

    def decoded(self, data: bytes | memoryview, index: int, factor: int = 1, into: Pixels | None = None) -> Pixels:
        """The pixels of a tile.

        Args:
            data: Its bytes; empty where the scanner left it out.
            index: Its position.
            factor: How many times smaller it is wanted: 1, or one of the codec's `reductions`.
            into: Memory to use, of the answer's shape and contiguous.

        Returns:
            (tile height / factor, tile width / factor, 3) uint8 RGB, white where the scanner left it out; in `into` where
            that was given.

        Raises:
            DamagedSlideError: When it can't be decoded; says why, but not in which slide.
        """
        tile = self.coding.tile
        shape = (tile.height // factor, tile.width // factor, 3)
        if not data:
            return _white(shape, into)
        try:
            pixels = decode_tile(data, self.coding, factor, into)
        except codecs.DECODE_ERRORS as error:
            raise DamagedSlideError(f"can't be decoded ({error})") from error
        if pixels.shape == shape:
            return pixels
        return self._filled_up(pixels, index, factor, into)

    def _filled_up(self, pixels: Pixels, index: int, factor: int, into: Pixels | None) -> Pixels:
        """A tile of another size than it should have: some writers crop those that overhang the level."""
        tile, (row, column) = self.coding.tile, divmod(index, self.across)
        height = min(tile.height, self.size.height - row * tile.height)
        width = min(tile.width, self.size.width - column * tile.width)
        given = Size.of(pixels)
        if given.width * factor < width or given.height * factor < height:
            size = f"{given.width * factor} x {given.height * factor}"
            raise DamagedSlideError(f"is {size}, not {width} x {height}")
        kept = pixels[: -(-height // factor), : -(-width // factor)].copy()  # it may lie in `into`
        whole = _white((tile.height // factor, tile.width // factor, 3), into)
        whole[: len(kept), : kept.shape[1]] = kept
        return whole


def read_bytes(file: BinaryIO, level: StoredLevel, indices: list[int]) -> dict[int, memoryview]:
    """The bytes of tiles, those that lie close together in the file read at once; empty where a tile was left out."""
    offsets, lengths = level.offsets[indices].tolist(), level.num_bytes[indices].tolist()
    spans = sorted(zip(offsets, lengths, indices, strict=True))
    found = {index: memoryview(b"") for _, count, index in spans if not count}
    for run in _close_together([span for span in spans if span[1]]):
        first, (offset, count, _) = run[0][0], run[-1]
        file.seek(first)
        data = memoryview(file.read(offset + count - first) or b"")
        found.update((index, data[offset - first : offset - first + count]) for offset, count, index in run)
    return found


_Span = tuple[int, int, int]  # where it begins, how long it is, whose it is


def _close_together(spans: list[_Span]) -> Iterator[list[_Span]]:
    start = 0
    for stop in range(1, len(spans) + 1):
        before, count, _ = spans[stop - 1]
        if stop < len(spans):
            gap = spans[stop][0] - before - count
            if gap <= _MOST_GAP and sum(spans[stop][:2]) - spans[start][0] <= _MOST_READ:
                continue
        yield spans[start:stop]
        start = stop


def _white(shape: tuple[int, int, int], into: Pixels | None) -> Pixels:
    if into is None:
        return np.full(shape, 255, np.uint8)
    into[...] = 255
    return into
