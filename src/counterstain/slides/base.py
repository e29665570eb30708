"""The port through which everything reads slides.

A slide answers boxes: `read(box, mpp)` gives the pixels of a level-0 box at any resolution. This module chooses the
level, reads whole level pixels around the box, composites on white and resamples with exact half-pixel geometry; a reader
only says what levels there are and decodes pixels of one of them.

Does not know: file formats, tissue, tiles, models.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from counterstain.errors import MissingResolutionError
from counterstain.files import file_hash
from counterstain.geometry import Box, Frame, Mpp, Size
from counterstain.results import SlideRecord

Pixels = npt.NDArray[np.uint8]

_MARGIN_PX = 4  # level pixels read around a box, so that resampling at its edge sees what lies beyond
_AT_ONCE_PX = 1 << 25  # level pixels decoded for one resampling; more are taken in pieces
_NATIVE = 1e-3  # a scale this close to 1 counts as the level itself


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution stored in a file.

    Args:
        size: Its pixels.
        downsample_x: Level-0 pixels under one of its pixels, along x.
        downsample_y: Likewise along y.
    """

    size: Size
    downsample_x: float
    downsample_y: float

    @classmethod
    def of(cls, size: Size, level0: Size) -> Self:
        """A level of a pyramid, its downsamples from the two sizes.

        Scanners halve a level and drop what is left over, so 2967 / 4 is stored as 741 pixels of exactly 4: where a
        whole factor explains both the level's width (or height), that factor is taken, else the ratio.
        """
        return cls(size, _downsample(level0.width, size.width), _downsample(level0.height, size.height))


def _downsample(level0: int, level: int) -> float:
    factor = max(1, round(level0 / level))
    return float(factor) if abs(level0 / factor - level) < 1 else level0 / level


@dataclass(frozen=True, slots=True)
class Resolution:
    """A slide's resolution and where it was read.

    Args:
        mpp: Of level 0.
        source: "user", "reader", "tiff tags" or "assumed".
    """

    mpp: Mpp
    source: str


@dataclass(frozen=True, slots=True)
class Header:
    """What a reader learns by opening a file, without decoding a pixel.

    Args:
        levels: Finest first, at least one.
        resolution: None where the file has none.
        bounds: The scanned part of level 0; None where the file does not say.
        properties: The file's own metadata, as text.
    """

    levels: tuple[Level, ...]
    resolution: Resolution | None
    bounds: Box | None
    properties: Mapping[str, str]


class Slide(ABC):
    """A slide file, read by boxes in level-0 pixels.

    Opening reads the header only. Handles to the file open on first use and are left behind when a slide is pickled, so
    slides travel to worker processes, also spawned ones. A slide may be read from one thread at a time.

    Args:
        path: The file, or the folder of a format that is one.
        mpp: Overrides the file's own resolution: the user knows better.

    Raises:
        DamagedSlideError: When the header can't be read.
        UnsupportedSlideError: When the file holds what this reader can't show rightly.
    """

    reader: ClassVar[str]
    """The reader's name in READERS."""

    @final
    def __init__(self, path: Path | str, mpp: Mpp | float | None = None) -> None:
        self.path = Path(path)
        self._handle: Any = None
        self._header = self._read_header()
        if mpp is not None:
            given = Mpp.square(mpp) if isinstance(mpp, (int, float)) else mpp
            header = self._header
            self._header = Header(header.levels, Resolution(given, "user"), header.bounds, header.properties)

    @classmethod
    @abstractmethod
    def detects(cls, path: Path) -> bool:
        """Whether this reader is the one for a file, judged by its content and not by its name alone."""

    @abstractmethod
    def _read_header(self) -> Header:
        """Opens the file, reads its structure and closes it again."""

    @abstractmethod
    def _open(self) -> Any:
        """Opens what `_decode` needs. Called once for each process, on first use."""

    @abstractmethod
    def _decode(self, handle: Any, level: int, box: Box) -> Pixels:
        """Decodes whole pixels of one level.

        Args:
            handle: What `_open` gave.
            level: Its position in `levels`.
            box: Whole level pixels (not level-0), wholly inside the level.

        Returns:
            (height, width, 3) uint8 RGB, transparent or unscanned places already composited on white.

        Raises:
            DamagedSlideError: When the pixels can't be decoded.
        """

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
            mpp: um/px of the answer. The finest level that is not finer than needed is read and reduced; a resolution
                finer than level 0 is interpolated.

        Returns:
            (height, width, 3) uint8 RGB; height and width are the box's in pixels of `mpp`, rounded, at least 1. Output
            pixel i covers level-0 x in [box.x + i * s, box.x + (i + 1) * s), s = box.width / width.

        Raises:
            MissingResolutionError: When the slide's resolution is unknown.
            DamagedSlideError: When the pixels can't be decoded.
        """
        own = self.mpp
        size = Size(max(1, round(box.width * own.x / mpp)), max(1, round(box.height * own.y / mpp)))
        return self.read_resized(box, size)

    @final
    def read_resized(self, box: Box, size: Size) -> Pixels:
        """The pixels of a level-0 box, resampled to a size: `read` for slides whose resolution is unknown.

        Returns:
            (size.height, size.width, 3) uint8 RGB.

        Raises:
            DamagedSlideError: When the pixels can't be decoded.
        """
        scale_x, scale_y = box.width / size.width, box.height / size.height
        number = self._level_for(min(scale_x, scale_y))
        level = self.levels[number]
        on_level = box.scaled(1 / level.downsample_x, 1 / level.downsample_y)
        is_native = (
            abs(on_level.width / size.width - 1) < _NATIVE
            and abs(on_level.height / size.height - 1) < _NATIVE
            and on_level.rounded_out().size == size
        )
        if is_native:
            return self._padded(number, on_level.rounded_out())
        if on_level.area > _AT_ONCE_PX and size.area > 1:
            return self._halved(box, size)
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

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {self.size.width} x {self.size.height})"

    def _level_for(self, scale: float) -> int:
        """The coarsest level that is not coarser than `scale` level-0 pixels."""
        fits = [
            number
            for number, level in enumerate(self.levels)
            if max(level.downsample_x, level.downsample_y) <= scale * (1 + _NATIVE)
        ]
        return max(fits, key=lambda number: self.levels[number].downsample_x, default=0)

    def _padded(self, number: int, box: Box) -> Pixels:
        """Whole pixels of a level, white beyond it."""
        inside = box.intersection(Box.whole(self.levels[number].size))
        if inside == box:
            return self._pixels(number, box)
        pixels = np.full((*box.size.shape, 3), 255, np.uint8)
        if not inside.is_empty:
            pixels[inside.shifted(-box.x, -box.y).slices()] = self._pixels(number, inside)
        return pixels

    def _pixels(self, number: int, box: Box) -> Pixels:
        if self._handle is None:
            self._handle = self._open()
        return self._decode(self._handle, number, box)

    def _halved(self, box: Box, size: Size) -> Pixels:
        """Two halves read one after the other, so that a view of a slide without small levels fits in memory."""
        if size.width >= size.height:
            left = size.width // 2
            cut = box.width * left / size.width
            first = self.read_resized(Box(box.x, box.y, cut, box.height), Size(left, size.height))
            rest = Box(box.x + cut, box.y, box.width - cut, box.height)
            return np.concatenate([first, self.read_resized(rest, Size(size.width - left, size.height))], axis=1)
        top = size.height // 2
        cut = box.height * top / size.height
        first = self.read_resized(Box(box.x, box.y, box.width, cut), Size(size.width, top))
        rest = Box(box.x, box.y + cut, box.width, box.height - cut)
        return np.concatenate([first, self.read_resized(rest, Size(size.width, size.height - top))], axis=0)

    def _resampled(self, number: int, on_level: Box, size: Size) -> Pixels:
        # The margin grows with the reduction, since an antialiasing filter reaches that far.
        reach_x = _MARGIN_PX * max(1.0, on_level.width / size.width)
        reach_y = _MARGIN_PX * max(1.0, on_level.height / size.height)
        source = on_level.grown(math.ceil(reach_x), math.ceil(reach_y)).rounded_out()
        pixels = Image.fromarray(self._padded(number, source))
        inner = on_level.shifted(-source.x, -source.y)
        region = (inner.x, inner.y, inner.right, inner.bottom)
        is_reducing = on_level.width > size.width
        method = Image.Resampling.BOX if is_reducing else Image.Resampling.BILINEAR
        return np.asarray(pixels.resize((size.width, size.height), method, box=region))


def frame_of(slide: Slide, mpp: float) -> Frame:
    """The frame at `mpp` um/px that covers the slide's scanned part.

    Raises:
        MissingResolutionError: When the slide's resolution is unknown.
    """
    return Frame.covering(slide.bounds, slide.mpp, mpp)
