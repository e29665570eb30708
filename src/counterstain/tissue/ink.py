"""Pen marks: green, blue, red and black ink, on glass and over tissue.

Ink is told from stain by what it takes out of the light (optical densities of red, green, blue, which add where two
things lie over each other). Haematoxylin and eosin take green most, DAB takes blue. Green and blue ink take red most; red
ink takes nearly no red, and blue as much as green; black ink takes all alike. Only a broad patch of a sure colour is ink,
since a stroke is wide and nuclei and blood cells are not; from there it grows into the fainter colour around it, as far as
the soft edge of a stroke goes. Ink over tissue is told by comparison with the ordinary tissue of the slide, whose own red
and darkness vary from one laboratory to the next.

Does not know: slides, um, the shape of tissue.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from counterstain.tissue.glass import planes

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

INKS = ("green", "blue", "red", "black")
"""The colours that can be told from stain."""

_EIGHT = np.ones((3, 3), bool)
_STAINED = 0.3  # total density above which a pixel has a colour to speak of
_LEAST_TISSUE = 0.01  # of a view, to tell what its tissue looks like
_USUAL = (1.0, -0.25, 0.05)  # total density, red - green and blue - red of haematoxylin and eosin, where there is less


@dataclass(frozen=True)
class Stroke:
    """The size of pen strokes, in pixels.

    Args:
        core_px: Radius of the smallest patch of sure colour that counts.
        edge_px: How far a stroke's soft edge reaches beyond the sure colour.
    """

    core_px: float
    edge_px: float


def find_ink(light_HW3: Floats, inks: tuple[str, ...], stroke: Stroke) -> Mask:
    """Where ink lies.

    Args:
        light_HW3: Transmittance, (H, W, 3) float32 in (0, 1].
        inks: Which of `INKS` to look for.
        stroke: Sizes in pixels.

    Returns:
        (H, W) bool.

    Source: ours; the numbers were set by eye on thumbnails of slides with pen marks; on slides without marks, stained with
        haematoxylin and eosin or DAB, they find nothing.
    """
    density = np.log(light_HW3)
    np.negative(density, out=density)
    ink = np.zeros(light_HW3.shape[:2], bool)
    rules = _rules(density)
    for name in inks:
        sure, faint = rules[name]
        core = touching(sure, _broad(sure, stroke.core_px))
        if core.any():
            ink |= touching(core | (faint() & within(core, stroke.edge_px)), core)
    return ink


def within(mask: Mask, radius: float) -> Mask:
    """(H, W) bool: what lies no farther than `radius` pixels from a mask."""
    if radius <= 0 or not mask.any():
        return mask
    near: Mask = ndimage.distance_transform_edt(~mask) <= radius
    return near


def touching(mask: Mask, seeds: Mask) -> Mask:
    """The patches of a mask that hold a seed."""
    if not seeds.any():
        return np.zeros_like(mask)
    labels, num_patches = ndimage.label(mask, _EIGHT)
    has_seed = np.zeros(num_patches + 1, bool)
    has_seed[np.unique(labels[seeds & mask])] = True
    has_seed[0] = False
    kept: Mask = has_seed[labels]
    return kept


def grown(mask: Mask) -> Mask:
    """(H, W) bool: a mask and the eight neighbours of each of its pixels."""
    down = mask.copy()
    down[1:] |= mask[:-1]
    down[:-1] |= mask[1:]
    wide = down.copy()
    wide[:, 1:] |= down[:, :-1]
    wide[:, :-1] |= down[:, 1:]
    return wide


def _rules(density: Floats) -> dict[str, tuple[Mask, Callable[[], Mask]]]:
    """For each ink, where its colour is sure, and what tells where it may be: most slides have none, and never ask."""
    parts = planes(density)
    total: Floats = parts[0] + (parts[1] + parts[2])
    least = np.maximum(total, 1e-3)
    # In place: of a view of two million pixels each copy of its colours is 24 MB.
    red, green, blue = (np.divide(part, least, out=part) for part in parts)
    del least
    cold, warm = red - green, blue - red
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    surely_red = (warm > 0.3) & (total > 1.0)
    # At the edge of a stroke, ink is as faint as stain.
    beside_ink = grown(grown(((cold > 0.2) & (total > 0.6)) | surely_red | (total > 3.0)))
    is_ordinary = (total > _STAINED) & (cold < 0.2) & ~beside_ink
    usual_total, usual_cold, usual_warm = _USUAL
    if np.count_nonzero(is_ordinary) > _LEAST_TISSUE * total.size:
        usual_total, usual_cold, usual_warm = (float(np.median(values[is_ordinary])) for values in (total, cold, warm))

    is_cold = ((cold > max(0.2, usual_cold + 0.15)) & (total > 0.6)) | (
        (cold > max(0.0, usual_cold + 0.25)) & (total > 1.6)
    )
    is_blue = blue < 0.6 * green
    # Over tissue, red ink is far darker than the tissue and redder than it; nuclei are dark, but colder than most.
    over_tissue = (warm > max(0.1, usual_warm + 0.05)) & (total > max(2.1, 1.7 * usual_total))

    def may_be_cold() -> Mask:
        return (cold > max(-0.08, usual_cold + 0.1)) & (total > 0.12)

    def may_be_red() -> Mask:
        return (warm > max(0.1, usual_warm + 0.05)) & (total > 1.4 * usual_total) | (
            (warm > max(0.22, usual_warm + 0.1)) & (total > 0.12)
        )

    def may_be_black() -> Mask:
        return (spread < 0.2) & (total > max(1.5, 1.5 * usual_total)) | ((spread < 0.08) & (total > 0.4))

    return {
        "green": (is_cold & ~is_blue, may_be_cold),
        "blue": (is_cold & is_blue, may_be_cold),
        "red": (surely_red | over_tissue, may_be_red),
        "black": ((spread < 0.18) & (total > 3.0), may_be_black),
    }


def _broad(mask: Mask, radius: float) -> Mask:
    """The parts of a mask in which a disc of that radius fits; the view's border cuts discs, it does not push them."""
    if radius <= 0 or mask.all():
        return mask
    if np.count_nonzero(mask) < radius * radius:
        return np.zeros_like(mask)
    return within(ndimage.distance_transform_edt(mask) > radius, radius)
