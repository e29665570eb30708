"""Stain and ink in one view of a slide, and what is mended of them.

A view is divided by the colour of its glass, searched for ink, and split into glass and stain by a clamped Otsu threshold
on its saturation. Ink is taken out, small holes are filled and specks dropped.

Does not know: slides, where the view lies.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from counterstain.geometry import Mpp
from counterstain.tissue.glass import Floats, otsu, saturation, transmittance
from counterstain.tissue.ink import Stroke, find_ink, touching, within
from counterstain.tissue.settings import TissueSettings

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_STROKE_UM = 60.0  # radius of the smallest patch of ink: pens draw lines of some 300 um and more
_STROKE_EDGE_UM = 300.0
_INK_MARGIN_UM = 24.0
_SURE = 2.0  # times the threshold: a patch that is nowhere more saturated than this is dust or glue
_SMALL_SHARE = 0.05  # of a view: specks and holes are smaller, whatever the settings say
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True, eq=False)
class Found:
    """What one view shows, before it is mended: tissue and ink, (H, W) bool."""

    tissue: Mask
    ink: Mask


def search(view: Pixels, glass: Floats, pixel: Mpp, settings: TissueSettings) -> Found:
    """Splits a view into ink, stain and the rest.

    Args:
        view: (H, W, 3) uint8 RGB.
        glass: (3,) float32, the colour of its glass.
        pixel: um under one of its pixels.
        settings: Inks and limits of the threshold.
    """
    light = transmittance(view, glass)
    ink = find_ink(light, settings.inks, Stroke(_STROKE_UM / pixel.mean, _STROKE_EDGE_UM / pixel.mean))
    ink = within(ink, _INK_MARGIN_UM / pixel.mean)
    colour = saturation(light)
    seen = colour[~ink]
    if seen.size == 0:
        return Found(np.zeros_like(ink), ink)
    threshold = float(np.clip(otsu(seen), *settings.saturation))
    stained = (colour > threshold) & ~ink
    return Found(touching(stained, stained & (colour > _SURE * threshold)), ink)


def mended(found: Found, pixel: Mpp, settings: TissueSettings) -> Mask:
    """Fills holes, drops specks, adds the margin; ink stays out."""
    pixel_um2 = pixel.x * pixel.y
    # A view of a single patch may be smaller than what is a speck on a slide.
    most_px = _SMALL_SHARE * found.tissue.size
    mask = found.tissue | small_patches(
        ~found.tissue & ~found.ink, min(most_px, settings.max_hole_um2 / pixel_um2), None
    )
    mask &= ~small_patches(mask, min(most_px, settings.min_area_um2 / pixel_um2), _EIGHT)
    return within(mask, settings.margin_um / pixel.mean) & ~found.ink


def small_patches(mask: Mask, num_px: float, structure: Mask | None) -> Mask:
    """The patches of a mask that have fewer pixels than `num_px`."""
    if num_px <= 1:
        return np.zeros_like(mask)
    labels, _ = ndimage.label(mask, structure)
    is_small = np.bincount(labels.ravel()) < num_px
    is_small[0] = False
    small: Mask = is_small[labels]
    return small
