"""Blends the maps of overlapping tiles in bounded memory.

Cores (a tile's map without its halo) come row by row from the top; each is weighted by a window that rises over the
overlap as a raised cosine. What is kept is a rolling band: as soon as no later core can touch a band, it is handed out
and forgotten here; whoever takes it may keep it.

The blend is a running weighted mean, m += (x - m) * w / W, in float32: where all tiles agree it gives back their value
exactly, also where a single tile's tiny weight at its rim is all there is.

Does not know: slides, models, files, halos.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from counterstain.geometry import Size

Floats = npt.NDArray[np.float32]


@lru_cache(maxsize=256)
def window(core: Size, overlap_x: int, overlap_y: int) -> Floats:
    """The weight of each pixel of a core, above 0 everywhere.

    Over the overlap it rises as sin^2 from its rim, so that two neighbours' weights add up to 1.

    Args:
        core: Its size.
        overlap_x: Pixels it has in common with each neighbour along x; more than half its width counts as half.
        overlap_y: Likewise along y.

    Returns:
        (height, width) float32 in (0, 1], read-only.
    """
    weights = np.outer(_profile(core.height, overlap_y), _profile(core.width, overlap_x)).astype(np.float32)
    weights.flags.writeable = False
    return weights


def _profile(length: int, overlap: int) -> npt.NDArray[np.float64]:
    ramp = min(overlap, length // 2)
    profile = np.ones(length)
    if ramp > 0:
        rise = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / ramp) ** 2
        profile[:ramp], profile[length - ramp :] = rise, rise[::-1]
    return profile


@dataclass(frozen=True)
class Band:
    """Finished rows.

    Args:
        top: The first of them.
        mean_CHW: float32 blended values, 0 where nothing was added. Nobody writes to it any more.
        is_covered: (H, W) bool.
    """

    top: int
    mean_CHW: Floats
    is_covered: npt.NDArray[np.bool_]


class Stitcher:
    """Blends the cores of one area of the map.

    Args:
        num_channels: Of every core.
        size: The area. What reaches beyond it is cut off.
        band_px: Rows of a band; the last may have fewer.
        core_px: Height of the tallest core.
        top: The first row of interest, a multiple of `band_px`: a resumed prediction starts there.
    """

    def __init__(self, num_channels: int, size: Size, band_px: int, core_px: int, top: int = 0) -> None:
        assert top % band_px == 0, "bands start at multiples of their height"
        self._size, self._band_px, self._top, self._last_y = size, band_px, top, top - core_px
        rows = min(band_px + core_px, max(0, size.height - top))
        self._mean = np.zeros((num_channels, rows, size.width), np.float32)
        self._weight = np.zeros((rows, size.width), np.float32)

    def add(self, core_CHW: Floats, weights_HW: Floats, x: int, y: int) -> None:
        """Blends a core in. Rows of cores must come from the top, and after `bands_above` of their own y.

        Args:
            core_CHW: Its values.
            weights_HW: Its window.
            x: Its first column in the area; may be negative.
            y: Its first row; may lie above the first row of interest.
        """
        assert y >= self._last_y, "rows of cores come from the top"
        self._last_y = y
        height, width = weights_HW.shape
        above, left = max(0, self._top - y), max(0, -x)
        below = min(height, self._top + self._weight.shape[0] - y)
        right = min(width, self._size.width - x)
        assert min(y + height, self._size.height) <= self._top + self._weight.shape[0], "a band was not taken in time"
        if above >= below or left >= right:
            return
        rows, columns = slice(y + above - self._top, y + below - self._top), slice(x + left, x + right)
        weights = weights_HW[above:below, left:right]
        total = self._weight[rows, columns]
        total += weights
        mean = self._mean[:, rows, columns]
        mean += (core_CHW[:, above:below, left:right] - mean) * (weights / total)

    def bands_above(self, y: int) -> Iterator[Band]:
        """Bands that end at or above a row, from which on the next cores come. Ask for all of them."""
        while self._top < self._size.height:
            height = min(self._band_px, self._size.height - self._top)
            if self._top + height > y:
                return
            yield Band(self._top, self._mean[:, :height], self._weight[:height] > 0)
            self._forget(height)

    def rest(self) -> Iterator[Band]:
        """The bands still held, when the last core has been added."""
        yield from self.bands_above(self._size.height)

    def _forget(self, height: int) -> None:
        """Goes on in new arrays: the old ones are the band's."""
        self._top += height
        kept = self._weight.shape[0] - height
        old_mean, old_weight = self._mean, self._weight
        # not `zeros_like`: that writes zeros, and rows without tiles would take memory
        self._mean, self._weight = np.zeros(old_mean.shape, np.float32), np.zeros(old_weight.shape, np.float32)
        self._mean[:, :kept], self._weight[:kept] = old_mean[:, height:], old_weight[height:]
