"""The port through which everything reads slides.

A slide answers boxes: `read(box, mpp)` gives the pixels of a level-0 box at any resolution. This module chooses the
level, reads the whole level pixels under the box and resamples them with exact half-pixel geometry (`resample.py`), white
beyond the slide; a reader only says what levels there are and decodes pixels of one of them.

Does not know: file formats, tissue, tiles, models.
"""

import math
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np

from counterstain.errors import DamagedSlideError, InputError, MissingResolutionError, UnsupportedSlideError
from counterstain.files import existing, file_hash
from counterstain.geometry import Box, Frame, Mpp, Point, Size
from counterstain.results import SlideRecord
from counterstain.slides.codecs import reductions
from counterstain.slides.header import Header, Level, Resolution, TileBytes
from counterstain.slides.lattice import Lattice, on_whole_pixels
from counterstain.slides.resample import Pixels, axis_of, reduce, resample
from counterstain.slides.scan import scan
from counterstain.slides.stored import StoredLevel
from counterstain.slides.windows import Filled, Source

_PIECE_PX = 1024  # side of what is resampled at once, in pixels of the source or the answer, whichever are more
_LEVEL_SLACK = 1e-3  # a level coarser than asked for by this much is still taken: enlarging it so little costs nothing


class Slide(ABC):
    """A slide file, read by boxes in level-0 pixels.

    Opening reads the header only. Handles to the file open on first use and are left behind when a slide is pickled, so
    slides travel to worker processes, also spawned ones. A slide may be read from one thread at a time.

    Args:
        path: The file, or the folder of a format that is one.
        mpp: Overrides the file's own resolution: the user knows better.
        assume_mpp: Stands in where the file has no resolution and none was given; recorded as "assumed".

    Raises:
        MissingFileError: When nothing is there.
        DamagedSlideError: When the header can't be read.
        UnsupportedSlideError: When the file holds what this reader can't show rightly.
    """

    reader: ClassVar[str]
    """The reader's name in READERS."""

    @final
    def __init__(
        self, path: Path | str, mpp: Mpp | float | None = None, *, assume_mpp: Mpp | float | None = None
    ) -> None:
        self.path = existing(path, "a slide")
        self._handle: Any = None
        self._process = 0
        self._header = self._read_header()
        if mpp is not None:
            self._header = replace(self._header, resolution=Resolution(_mpp_of(mpp), "user"))
        elif assume_mpp is not None and self._header.resolution is None:
            self._header = replace(self._header, resolution=Resolution(_mpp_of(assume_mpp), "assumed"))

    @classmethod
    @abstractmethod
    def detects(cls, path: Path) -> bool:
        """Whether this reader is the one for a file, judged by its content and not by its name alone."""

    @abstractmethod
    def _read_header(self) -> Header:
        """Opens the file, reads its structure and closes it again."""

    @abstractmethod
    def _open(self) -> Any:
        """Opens what `_decode` needs.

        Called once for each process, on first use; again after `close` and after a read that failed.
        """

    @abstractmethod
    def _decode(self, handle: Any, level: int, box: Box) -> Pixels:
        """Decodes whole pixels of one level.

        Args:
            handle: What `_open` gave.
            level: Its position in `levels`.
            box: Whole level pixels (not level-0), wholly inside the level.

        Returns:
            (height, width, 3) uint8 RGB, transparent or unscanned places already composited on white; a fresh array
            that the caller may write into.

        Raises:
            DamagedSlideError: When the pixels can't be decoded.
        """

    def stored(self, level: int) -> StoredLevel | None:
        """A level's tiles as they lie in the file, to be decoded directly; None where a reader has no such thing.

        They must decode to the pixels that `read` gives.
        """
        return None

    @property
    def size(self) -> Size:
        """Level 0."""
        return self._header.levels[0].size

    @property
    def levels(self) -> tuple[Level, ...]:
        """Finest first."""
        return self._header.levels

    @property
    def mpp(self) -> Mpp:
        """Of level 0.

        Raises:
            MissingResolutionError: When the file has none and none was given.
        """
        if self._header.resolution is None:
            raise MissingResolutionError(
                f"Slide '{self.path}' has no resolution. Pass --mpp or add an 'mpp' column to the cohort table."
            )
        return self._header.resolution.mpp

    @property
    def resolution(self) -> Resolution | None:
        """The resolution with its source; None where it is unknown."""
        return self._header.resolution

    @property
    def bounds(self) -> Box:
        """The scanned part of level 0; all of it where the file does not say."""
        return self._header.bounds or Box.whole(self.size)

    @property
    def properties(self) -> Mapping[str, str]:
        """The file's own metadata, as text."""
        return self._header.properties

    def tile_bytes(self) -> tuple[TileBytes, ...] | None:
        """How many bytes each stored tile has, level by level, finest first; None where the reader can't tell."""
        return None

    def record(self) -> SlideRecord:
        """What artefacts remember of this slide.

        Raises:
            MissingResolutionError: When its resolution is unknown.
        """
        mpp = self.mpp
        assert self._header.resolution is not None
        return SlideRecord(
            path=str(self.path),
            reader=self.reader,
            size=self.size,
            mpp=mpp,
            mpp_source=self._header.resolution.source,
            bounds=self.bounds,
            content_hash=file_hash(self.path),
        )

    @final
    def read(self, box: Box, mpp: float) -> Pixels:
        """The pixels of a box at a resolution.

        Args:
            box: Level-0 pixels, fractions allowed. What lies beyond the slide is white.
            mpp: um/px of the answer. The coarsest level that is fine enough is read and reduced by area integration; a
                resolution finer than level 0 is interpolated linearly.

        Returns:
            (height, width, 3) uint8 RGB, fresh; height and width are the box's in pixels of `mpp`, rounded, at least 1.
            Output pixel i covers level-0 x in [box.x + i * s, box.x + (i + 1) * s), s = box.width / width.

        Raises:
            InputError: When the box is empty or not finite, or `mpp` is not above 0.
            MissingResolutionError: When the slide's resolution is unknown.
            DamagedSlideError: When the pixels can't be decoded.
        """
        own, target = self.mpp, _mpp_of(mpp)
        _refuse_empty(box)
        width, height = box.width * own.x / target.x, box.height * own.y / target.y
        return self.read_resized(box, Size(max(1, round(width)), max(1, round(height))))

    @final
    def read_resized(self, box: Box, size: Size) -> Pixels:
        """The pixels of a level-0 box, resampled to a size: `read` for slides whose resolution is unknown.

        Memory beyond the answer is bounded: what is large is resampled in pieces.

        Returns:
            (size.height, size.width, 3) uint8 RGB, fresh.

        Raises:
            InputError: When the box or the size is empty, or the box is not finite.
            DamagedSlideError: When the pixels can't be decoded.
        """
        _refuse_empty(box)
        _refuse_no_pixel(box, size)
        number = self._level_for(min(box.width / size.width, box.height / size.height))
        level = self.levels[number]
        on_level = box.scaled(1 / level.downsample_x, 1 / level.downsample_y)
        whole, factors = on_whole_pixels(on_level, size)
        if whole is not None:
            if factors == (1, 1) and Box.whole(level.size).contains(whole):
                return self._pixels(number, whole)
            on_level = whole
        return self._resampled(number, on_level, size)

    @final
    def close(self) -> None:
        """Lets the file go; it opens again by itself when it is read again."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._close(handle)

    def _close(self, handle: Any) -> None:
        """Closes what `_open` gave."""
        if hasattr(handle, "close"):
            handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_handle"):  # else the constructor refused the file
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {self.size.width} x {self.size.height})"

    def source(self, frame: Frame, *, is_scaled: bool = False) -> tuple[Source, Lattice, int] | None:
        """Stored tiles that a frame's pixels can be made of, how, and their level; None where a reader has none.

        Args:
            frame: Whose pixels.
            is_scaled: Whether tiles may be decoded at a fraction of their size, as `read_scaled` tells.
        """
        scale = min(frame.downsample_x, frame.downsample_y)
        number = self._level_for(scale)
        level, stored = self.levels[number], self.stored(number)
        if stored is None:
            return None
        most = scale / max(level.downsample_x, level.downsample_y) * (1 + _LEVEL_SLACK)
        fits = [factor for factor in reductions(stored.coding) if is_scaled and factor <= most]
        source = Source(self.path, stored, max(fits, default=1))
        downsample = level.downsample_x * source.factor, level.downsample_y * source.factor
        return source, Lattice.of(frame, source.size, self.size, downsample), number

    @final
    def read_scaled(self, box: Box, size: Size) -> Pixels:
        """As `read_resized`, faster and less exact: JPEG tiles are decoded at 1/2, 1/4 or 1/8 where that is fine enough.

        They are made of their lowest frequencies alone. That differs from the mean of their pixels by 0.1 to 3 grey values
        on tissue, by tens along its finest lines, and by less than half a one on average over an area; where colours are
        stored at half the width (4:2:2), they stay so. Where nothing stored is JPEG, all is exact.

        Args:
            box: Level-0 pixels, fractions allowed. What lies beyond the slide is white.
            size: Of the answer.

        Returns:
            (size.height, size.width, 3) uint8 RGB, fresh.

        Raises:
            InputError: When the box or the size is empty, or the box is not finite.
            DamagedSlideError: When the pixels can't be decoded.
        """
        _refuse_empty(box)
        _refuse_no_pixel(box, size)
        frame = Frame(Point(box.x, box.y), box.width / size.width, box.height / size.height, size)
        direct = self.source(frame, is_scaled=True)
        if direct is None or direct[0].factor == 1:
            return self.read_resized(box, size)
        source, lattice, level = direct
        pixels = np.empty((*size.shape, 3), np.uint8)
        parts = list(_parts(size, Size(_PIECE_PX, _PIECE_PX)))
        windows = [source.window(lattice.under(part)) for part in parts]

        def render(number: int, filled: Filled) -> None:
            for tile, reason in filled.failures.items():
                raise self.damaged_tile(level, tile, reason) from reason
            lattice.render(filled.panes[0], windows[number].panes[0].box, parts[number], pixels[parts[number].slices()])

        with closing(scan(source, windows, render, num_workers=0)) as rendered:
            deque(rendered, maxlen=0)
        return pixels

    def _level_for(self, scale: float) -> int:
        """The coarsest level that is not coarser than `scale` level-0 pixels."""
        fits = [
            number
            for number, level in enumerate(self.levels)
            if max(level.downsample_x, level.downsample_y) <= scale * (1 + _LEVEL_SLACK)
        ]
        return max(fits, key=lambda number: self.levels[number].downsample_x, default=0)

    def _pixels(self, number: int, box: Box) -> Pixels:
        if self._process != os.getpid():
            self.close()  # a forked process shares its parent's file positions: it needs handles of its own
        if self._handle is None:
            self._handle, self._process = self._open(), os.getpid()
        try:
            return self._decode(self._handle, number, box)
        except DamagedSlideError:
            self.close()  # an OpenSlide handle that failed once fails for ever, also on whole tiles
            raise

    def _resampled(self, number: int, on_level: Box, size: Size) -> Pixels:
        scale_x, scale_y = on_level.width / size.width, on_level.height / size.height
        step_x, step_y = (max(1, int(_PIECE_PX / max(1.0, scale))) for scale in (scale_x, scale_y))
        if size.width <= step_x and size.height <= step_y:
            return self._piece(number, on_level, size)
        pixels = np.empty((*size.shape, 3), np.uint8)
        for part in _parts(size, Size(step_x, step_y)):
            place = part.scaled(scale_x, scale_y).shifted(on_level.x, on_level.y)
            pixels[part.slices()] = self._piece(number, place, part.size)
        return pixels

    def _piece(self, number: int, on_level: Box, size: Size) -> Pixels:
        level = self.levels[number]
        whole, factors = on_whole_pixels(on_level, size)
        if whole is not None and Box.whole(level.size).contains(whole):
            return reduce(self._pixels(number, whole), factors)
        scale_x, scale_y = on_level.width / size.width, on_level.height / size.height
        end_x, end_y = self.size.width / level.downsample_x, self.size.height / level.downsample_y
        columns = axis_of(on_level.x, scale_x, size.width, level.size.width, end_x)
        rows = axis_of(on_level.y, scale_y, size.height, level.size.height, end_y)
        source = Box.from_corners(columns.first, rows.first, columns.last, rows.last)
        pixels = np.empty((0, 0, 3), np.uint8) if source.is_empty else self._pixels(number, source)
        return resample(pixels, rows, columns)

    def _damaged(self, reason: object) -> DamagedSlideError:
        """The error for pixels or a header that can't be decoded."""
        return DamagedSlideError(damage(self.path, reason))

    def damaged_tile(self, level: int, index: int, reason: object) -> DamagedSlideError:
        """The error for a tile of a level that is `stored`, at its position."""
        stored = self.stored(level)
        assert stored is not None
        row, column = divmod(index, stored.across)
        return self._damaged(f"tile ({column}, {row}) of level {level} {reason}")

    def _unsupported(self, reason: object, remedy: str) -> UnsupportedSlideError:
        """The error for a file that this reader can't show rightly."""
        return UnsupportedSlideError(f"Slide '{self.path}' can't be read: {_one_line(reason)}. {remedy}")


def damage(path: Path, reason: object) -> str:
    """What is said of a slide file that can't be decoded, in one line with its remedy."""
    return f"Slide '{path}' is damaged: {_one_line(reason)}. Copy it again from its source, or leave it out."


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split()).rstrip(".")


def _refuse_empty(box: Box) -> None:
    if not all(map(math.isfinite, (box.x, box.y, box.right, box.bottom))) or box.is_empty:
        raise InputError(f"{box} was given to be read; give one that is finite and not empty.")


def _refuse_no_pixel(box: Box, size: Size) -> None:
    if min(size.width, size.height) < 1:
        raise InputError(f"{box} was to be read as {size}; give a size of at least one pixel each way.")


def _parts(size: Size, most: Size) -> Iterator[Box]:
    """Boxes of a size at most that cover another, row by row."""
    for y in range(0, size.height, most.height):
        for x in range(0, size.width, most.width):
            yield Box(x, y, min(most.width, size.width - x), min(most.height, size.height - y))


def _mpp_of(mpp: Mpp | float) -> Mpp:
    return mpp if isinstance(mpp, Mpp) else Mpp.square(mpp)


def frame_of(slide: Slide, mpp: float) -> Frame:
    """The frame at `mpp` um/px that covers the slide's scanned part.

    Raises:
        MissingResolutionError: When the slide's resolution is unknown.
    """
    return Frame.covering(slide.bounds, slide.mpp, mpp)
