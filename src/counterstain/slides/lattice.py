"""The pixels of a frame as they lie on a level, and how they are made of the level's.

What a pixel of the frame shows follows from its own place alone, not from what else is made along with it: pieces that are
made one by one fit together, and a scan that goes on where another stopped ends with the same pixels.

Does not know: files, tiles.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from counterstain.geometry import Box, Frame, Size
from counterstain.slides.resample import NOTHING, Axis, Pixels, axis_of, reduce, resample

WHOLE = 1 / 64
"""Level pixels: what has its edges this close to whole pixels is read without resampling."""

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Side:
    """One axis of a lattice, in level pixels.

    Args:
        start: Where the frame begins.
        scale: Level pixels under one of the frame.
        num: Pixels of the frame.
        size: Pixels of the level.
        extent: Where the slide ends.
    """

    start: float
    scale: float
    num: int
    size: int
    extent: float

    @cached_property
    def factor(self) -> int | None:
        """Level pixels under one of the frame where that is a whole number, at whole pixels, along all of the frame."""
        factor = max(1, round(self.scale))
        drift = abs(self.start + self.num * self.scale - round(self.start) - self.num * factor)
        return factor if max(drift, abs(self.start - round(self.start))) <= WHOLE else None

    def snapped(self, factor: int) -> "Side":
        """The same side with its pixels on whole ones, which are `factor` of the level's."""
        return replace(self, start=float(round(self.start)), scale=float(factor))

    def under(self, first: int, num: int, *, is_whole: bool) -> tuple[int, int]:
        """The first level pixel, and the one past the last, that pixels of the frame are made of."""
        if is_whole:
            assert self.factor is not None, "a whole number of level pixels lies under each"
            start = round(self.start) + first * self.factor
            stop = start + num * self.factor
            # the last pixel of a level that was rounded down stands for what the slide has beyond it
            return (self.size - 1 if self.size <= start < self.extent else start), stop
        low, high = self.start + first * self.scale, self.start + (first + num) * self.scale
        if self.scale < 1:  # neighbours of the outermost, too
            low, high = low - 1, high + 1
        elif self.size <= low < self.extent:
            low = self.size - 1  # the last pixel is stretched to where the slide ends
        # an edge between tiles that rounding moved would have one more of them decoded
        left, right = math.floor(low + NOTHING), math.ceil(high - NOTHING)
        return min(max(left, 0), self.size), min(max(right, 0), self.size)

    def inside(self) -> tuple[int, int]:
        """The first pixel of the frame, and the one past the last, that lie wholly on the slide."""
        end = min(self.extent, self.size) + WHOLE
        return math.ceil((-WHOLE - self.start) / self.scale), math.floor((end - self.start) / self.scale)

    def axis(self, first: int, num: int) -> Axis:
        """The weights of level pixels for pixels of the frame."""
        return axis_of(self.start, self.scale, num, self.size, self.extent, first)


@dataclass(frozen=True)
class Lattice:
    """A frame on a level.

    Args:
        x: Along x.
        y: Along y.
    """

    x: Side
    y: Side

    @classmethod
    def of(cls, frame: Frame, level: Size, slide: Size, downsample: tuple[float, float]) -> "Lattice":
        """The lattice of a frame on a level of a slide, given level-0 pixels under one of the level's, along x and y."""
        down_x, down_y = downsample
        along_x = Side(
            frame.origin.x / down_x, frame.downsample_x / down_x, frame.size.width, level.width, slide.width / down_x
        )
        along_y = Side(
            frame.origin.y / down_y, frame.downsample_y / down_y, frame.size.height, level.height, slide.height / down_y
        )
        if along_x.factor is None or along_y.factor is None:
            return cls(along_x, along_y)
        return cls(along_x.snapped(along_x.factor), along_y.snapped(along_y.factor))

    @cached_property
    def is_whole(self) -> bool:
        """Whether a whole number of level pixels lies under each of the frame."""
        return self.x.factor is not None and self.y.factor is not None

    @cached_property
    def is_level(self) -> bool:
        """Whether the frame's pixels are the level's."""
        return self.x.factor == 1 and self.y.factor == 1

    @cached_property
    def ends_whole(self) -> bool:
        """Whether the slide ends where the level's pixels do."""
        return all(abs(side.extent - side.size) <= _TOLERANCE for side in (self.x, self.y))

    def under(self, box: Box) -> Box:
        """The level pixels that a box of the frame is made of; with `is_whole`, also those beyond the level."""
        left, right = self.x.under(int(box.x), int(box.width), is_whole=self.is_whole)
        top, bottom = self.y.under(int(box.y), int(box.height), is_whole=self.is_whole)
        return Box.from_corners(left, top, right, bottom)

    def render(self, pixels: Pixels, source: Box, box: Box, into: Pixels) -> None:
        """Makes pixels of the frame.

        Args:
            pixels: (H, W, 3) uint8, of the level; what lies beyond it is not looked at.
            source: Which: level pixels, whole, that contain `under(box)`.
            box: Which pixels of the frame, whole.
            into: (height, width, 3) uint8 of the box; with `is_level` it may be the same memory as `pixels`.
        """
        if not self.is_whole:
            self._resampled(pixels, source, box, into)
            return
        inner = self._inner(box)
        edges = [(part, self._resampled(pixels, source, part)) for part in _around(box, inner)]
        if not inner.is_empty and not (self.is_level and np.may_share_memory(pixels, into)):
            whole = self.under(inner).shifted(-source.x, -source.y)
            assert self.x.factor is not None
            assert self.y.factor is not None
            part = pixels[whole.slices()]
            place = into[inner.shifted(-box.x, -box.y).slices()]
            place[...] = part if self.is_level else reduce(part, (self.x.factor, self.y.factor))
        for edge, made in edges:
            into[edge.shifted(-box.x, -box.y).slices()] = made

    def _inner(self, box: Box) -> Box:
        (left, right), (top, bottom) = self.x.inside(), self.y.inside()
        return box.intersection(Box.from_corners(left, top, right, bottom))

    def _resampled(self, pixels: Pixels, source: Box, box: Box, into: Pixels | None = None) -> Pixels:
        columns, rows = self.x.axis(int(box.x), int(box.width)), self.y.axis(int(box.y), int(box.height))
        left, top = int(source.x), int(source.y)
        part = pixels[rows.first - top : rows.last - top, columns.first - left : columns.last - left]
        return resample(part, rows, columns, into)


def _around(box: Box, inner: Box) -> list[Box]:
    """What of a box lies around an inner one: above, below, left, right."""
    if inner.is_empty:
        return [box]
    parts = [
        Box.from_corners(box.x, box.y, box.right, inner.y),
        Box.from_corners(box.x, inner.bottom, box.right, box.bottom),
        Box.from_corners(box.x, inner.y, inner.x, inner.bottom),
        Box.from_corners(inner.right, inner.y, box.right, inner.bottom),
    ]
    return [part for part in parts if not part.is_empty]


def on_whole_pixels(box: Box, size: Size) -> tuple[Box | None, tuple[int, int]]:
    """The box moved onto whole pixels where a whole number of them lies under each pixel of the answer, and those."""
    across, down = max(1, round(box.width / size.width)), max(1, round(box.height / size.height))
    whole = Box(round(box.x), round(box.y), size.width * across, size.height * down)
    pairs = ((box.x, whole.x), (box.y, whole.y), (box.right, whole.right), (box.bottom, whole.bottom))
    return (whole if all(abs(one - other) <= WHOLE for one, other in pairs) else None), (across, down)
