"""What a reader learns by opening a slide file, without decoding a pixel: levels, resolution, the scanned part, and what
stored tiles weigh.

Does not know: file formats, how pixels are decoded or resampled.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from counterstain.geometry import Box, Mpp, Size


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

        Scanners halve a level and drop or fill up what is left over, so 2967 / 4 is stored as 741 or 742 pixels of
        exactly 4: where one whole factor explains both width and height, it is taken, else the ratio of each.
        """
        factor = max(1, round(math.sqrt(level0.area / size.area)))
        sides = ((level0.width, size.width), (level0.height, size.height))
        if all(abs(whole / factor - part) < 1 for whole, part in sides):
            return cls(size, float(factor), float(factor))
        return cls(size, level0.width / size.width, level0.height / size.height)


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


@dataclass(frozen=True, slots=True, eq=False)
class TileBytes:
    """What the stored tiles of one level weigh, told by the file's own index: nothing is decoded.

    Args:
        level: Its position in `levels`.
        tile: Width and height of a stored tile, in pixels of the level.
        counts: (rows, columns) bytes of each tile; 0 where the scanner left it out.
        codec: "jpeg", "jpeg2000", "webp" or "other".
    """

    level: int
    tile: Size
    counts: npt.NDArray[np.uint64]
    codec: str
