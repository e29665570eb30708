"""Points, sizes, boxes and resolutions; the only module that turns (x, y) into (row, column).

Level-0 pixels everywhere unless a name says otherwise; x runs right, y runs down, the origin is the outer corner of the
first pixel, so that pixel (column, row) covers [column, column + 1) x [row, row + 1) and has its centre at +0.5.
A `Frame` is a slide resampled to one resolution: integer pixels inside, level-0 boxes outside.

Does not know: files, slides, arrays' contents.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

from counterstain.errors import InputError

_TOLERANCE = 1e-6  # level-0 pixels: below it, a float coordinate counts as the integer beside it


@dataclass(frozen=True, slots=True)
class Point:
    """A place, (x, y)."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Size:
    """A width and a height in whole pixels."""

    width: int
    height: int

    @classmethod
    def of(cls, array: Any) -> Self:
        """The size of an image array whose first two axes are (rows, columns)."""
        return cls(int(array.shape[1]), int(array.shape[0]))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns), as numpy wants it."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Pixels in it."""
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-parallel rectangle, half open: [x, x + width) x [y, y + height).

    Coordinates may be fractions: a tile at another resolution seldom falls on whole level-0 pixels.
    """

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def from_corners(cls, left: float, top: float, right: float, bottom: float) -> Self:
        """The box between two corners."""
        return cls(left, top, right - left, bottom - top)

    @classmethod
    def whole(cls, size: Size) -> Self:
        """The box of everything in a size."""
        return cls(0, 0, size.width, size.height)

    @property
    def right(self) -> float:
        """The x just past it."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """The y just past it."""
        return self.y + self.height

    @property
    def area(self) -> float:
        """Width times height; 0 when it is empty."""
        return 0.0 if self.is_empty else self.width * self.height

    @property
    def is_empty(self) -> bool:
        """Whether no point lies in it."""
        return self.width <= 0 or self.height <= 0

    def intersection(self, other: "Box") -> "Box":
        """What both cover; `is_empty` says whether there is any."""
        left, top = max(self.x, other.x), max(self.y, other.y)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Box(left, top, max(0, right - left), max(0, bottom - top))

    def contains(self, other: "Box") -> bool:
        """Whether the other lies wholly in this one."""
        return self.x <= other.x and self.y <= other.y and other.right <= self.right and other.bottom <= self.bottom

    def grown(self, by_x: float, by_y: float | None = None) -> "Box":
        """The box with a margin on every side; a negative one shrinks it."""
        by_y = by_x if by_y is None else by_y
        return Box(self.x - by_x, self.y - by_y, self.width + 2 * by_x, self.height + 2 * by_y)

    def shifted(self, by_x: float, by_y: float) -> "Box":
        """The same box elsewhere."""
        return Box(self.x + by_x, self.y + by_y, self.width, self.height)

    def scaled(self, by_x: float, by_y: float | None = None) -> "Box":
        """The box with every coordinate multiplied."""
        by_y = by_x if by_y is None else by_y
        return Box(self.x * by_x, self.y * by_y, self.width * by_x, self.height * by_y)

    def rounded_out(self) -> "Box":
        """The smallest box of whole pixels that covers it."""
        left, top = math.floor(self.x + _TOLERANCE), math.floor(self.y + _TOLERANCE)
        right, bottom = math.ceil(self.right - _TOLERANCE), math.ceil(self.bottom - _TOLERANCE)
        return Box(left, top, max(0, right - left), max(0, bottom - top))

    @property
    def size(self) -> Size:
        """Its size, which must be whole pixels."""
        return Size(_whole(self.width), _whole(self.height))

    def slices(self) -> tuple[slice, slice]:
        """(rows, columns) to index an array with; its coordinates must be whole pixels."""
        x, y = _whole(self.x), _whole(self.y)
        return slice(y, y + _whole(self.height)), slice(x, x + _whole(self.width))


def _whole(value: float) -> int:
    rounded = round(value)
    assert abs(value - rounded) < _TOLERANCE, f"{value} is no whole number of pixels"
    return rounded


@dataclass(frozen=True, slots=True)
class Mpp:
    """Microns per pixel along x and along y.

    Raises:
        InputError: When either is not a finite number above 0.
    """

    x: float
    y: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value > 0 for value in (self.x, self.y)):
            raise InputError(f"A resolution of {self.x} x {self.y} um/px was given; both must be finite and above 0.")

    @classmethod
    def square(cls, mpp: float) -> Self:
        """The same along both axes."""
        return cls(mpp, mpp)

    @property
    def mean(self) -> float:
        """The geometric mean: a square pixel of the same area."""
        return math.sqrt(self.x * self.y)


@dataclass(frozen=True, slots=True)
class Frame:
    """A slide resampled to one resolution, as a plane of whole pixels.

    Frame pixel (i, j) covers level-0 x in [origin.x + i * downsample_x, origin.x + (i + 1) * downsample_x), and
    likewise y. Both downsamples may be fractions, and differ.
    """

    origin: Point
    downsample_x: float
    downsample_y: float
    size: Size

    @classmethod
    def covering(cls, box: Box, mpp: Mpp, target_mpp: float) -> Self:
        """The frame at `target_mpp` um/px that covers a level-0 box; its last row and column may reach beyond it."""
        down_x, down_y = target_mpp / mpp.x, target_mpp / mpp.y
        width = max(1, math.ceil(box.width / down_x - _TOLERANCE))
        height = max(1, math.ceil(box.height / down_y - _TOLERANCE))
        return cls(Point(box.x, box.y), down_x, down_y, Size(width, height))

    @property
    def box(self) -> Box:
        """Everything it covers, level-0."""
        return self.to_level0(Box.whole(self.size))

    def to_level0(self, box: Box) -> Box:
        """The level-0 box of a box in frame pixels."""
        return box.scaled(self.downsample_x, self.downsample_y).shifted(self.origin.x, self.origin.y)

    def from_level0(self, box: Box) -> Box:
        """The box in frame pixels, fractions kept, of a level-0 box."""
        return box.shifted(-self.origin.x, -self.origin.y).scaled(1 / self.downsample_x, 1 / self.downsample_y)

    def coarser(self, factor: int) -> "Frame":
        """The frame whose pixels are `factor` x `factor` of these, same origin, covering at least as much."""
        size = Size(-(-self.size.width // factor), -(-self.size.height // factor))
        return Frame(self.origin, self.downsample_x * factor, self.downsample_y * factor, size)

    def affine(self) -> tuple[float, float, float, float, float, float]:
        """(a, b, d, e, xoff, yoff) as `shapely.affinity.affine_transform` takes it, from frame to level-0 pixels."""
        return self.downsample_x, 0.0, 0.0, self.downsample_y, self.origin.x, self.origin.y
