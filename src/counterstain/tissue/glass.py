"""What light passed: the glass's own colour, optical density, and which pixels carry a stain.

A view of a slide (RGB) is divided by the colour of its empty glass, so that a yellowish lamp or a grey scanner counts as
white. Stained tissue then shows as saturation: it takes some colours out of the light and leaves others, whereas dust, the
coverslip's edge and shadows take all of them alike. The threshold is Otsu's, clamped, since a slide that is nearly all
glass or all tissue has no valley for Otsu to find.

Does not know: slides, um, pens, shapes.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
_Number = TypeVar("_Number", bound=np.number)

DEFAULT_GLASS = (245.0, 245.0, 245.0)
"""The colour of glass where a view shows none."""

_PALE = 150  # glass darker than this was never seen on a bright-field slide
_NEAR_TOP = 0.95  # of the palest pixels' value: still glass
_MAX_TINT = 22  # between the largest and the smallest channel of glass
_LEAST_GLASS = 2e-3  # of a view, to be taken for glass
_UNLIT = 12  # in every channel: scanners fill what they did not scan with black
_DARK = 60  # median brightness of what is lit, below which a slide is no bright-field one
_DARKEST = 12.0  # intensities below are noise; keeps densities below 3


def is_dark(image: Pixels) -> bool:
    """Whether a view has a dark background, as fluorescence has.

    Black places count for nothing: they may be unscanned parts of a bright slide.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    red, green, blue = planes(image)
    sums = red.astype(np.uint16) + green + blue
    counts = np.bincount(sums[np.maximum(np.maximum(red, green), blue) > _UNLIT])
    return not counts.any() or _percentile(counts, 50) / 3 < _DARK


def glass_color(image: Pixels) -> Floats:
    """The colour of empty glass.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (3,) float32 RGB in [0, 255]; `DEFAULT_GLASS` where the view shows no glass.
    """
    red, green, blue = planes(image)
    least = np.minimum(np.minimum(red, green), blue)
    most = np.maximum(np.maximum(red, green), blue)
    top = _percentile(np.bincount(least.ravel()), 99)
    is_glass = (least >= max(_PALE, _NEAR_TOP * top)) & (most - least <= _MAX_TINT)
    if is_glass.mean() < _LEAST_GLASS:
        return np.array(DEFAULT_GLASS, np.float32)
    return np.array([_percentile(np.bincount(plane[is_glass]), 50) for plane in (red, green, blue)], np.float32)


def transmittance(image: Pixels, glass: Floats, sigma: float = 1.0) -> Floats:
    """How much of the light came through, noise smoothed away.

    Args:
        image: (H, W, 3) uint8 RGB.
        glass: (3,) as `glass_color` gives it.
        sigma: Of the Gaussian, pixels.

    Returns:
        (H, W, 3) float32 in (0, 1]: 1 is empty glass. Each colour lies in one piece of memory.
    """
    light = np.empty((3, *image.shape[:2]), np.float32)
    for plane, source, own in zip(light, planes(image), glass, strict=True):
        ndimage.gaussian_filter(source.astype(np.float32), sigma, output=plane)
        np.clip(plane, _DARKEST, own, out=plane)
        plane /= own
    return np.moveaxis(light, 0, 2)


def saturation(light_HW3: Floats) -> Floats:
    """(H, W) float32 in [0, 1): 0 where all colours pass alike.

    Args:
        light_HW3: As `transmittance` gives it.
    """
    red, green, blue = planes(light_HW3)
    shares = np.minimum(np.minimum(red, green), blue) / np.maximum(np.maximum(red, green), blue)
    return np.subtract(np.float32(1), shares, dtype=np.float32)


def planes(image_HW3: npt.NDArray[_Number]) -> list[npt.NDArray[_Number]]:
    """The three colours, (H, W) each: along an axis of three, numpy takes several times as long to find the largest."""
    return [image_HW3[..., channel] for channel in range(3)]


def _percentile(counts: npt.NDArray[np.intp], percent: float) -> float:
    """A percentile of whole numbers, linear between neighbours, from how often each occurs."""
    up_to = np.cumsum(counts)
    place = percent / 100 * (int(up_to[-1]) - 1)
    low, high = np.searchsorted(up_to, (np.floor(place), np.ceil(place)), "right")
    return float(low + (high - low) * (place - np.floor(place)))


def otsu(values: npt.NDArray[np.floating], num_bins: int = 256) -> float:
    """The threshold that splits values into two classes of least variance.

    Args:
        values: Any shape, at least one, finite.
        num_bins: Of the histogram, between the smallest and the largest value.

    Source: Otsu 1979.
    """
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return low
    counts, edges = np.histogram(values, num_bins, (low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    # Bins between two heaps all serve as well as one another: the middle of them is the farthest from both.
    best = np.flatnonzero(between >= np.nanmax(between) * (1 - 1e-9))
    return float((edges[best[0] + 1] + edges[best[-1] + 1]) / 2)
