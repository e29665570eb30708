"""Finds tissue on a low-resolution view of a slide.

A view of some um/px is read, divided by the colour of its glass, searched for ink, and split into glass and stain by a
clamped Otsu threshold on its saturation; or cells are judged by their run lengths; or both must agree. Then ink is taken
out, small holes are filled and specks dropped.

Does not know: tiles, models, files other than slides.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from counterstain.errors import InputError, NoTissueError, UnknownNameError, UnsupportedSlideError
from counterstain.geometry import Box, Frame, Mpp
from counterstain.slides.base import Slide
from counterstain.tissue.glass import glass_color, is_dark, otsu, saturation, transmittance
from counterstain.tissue.ink import INKS, Stroke, find_ink, touching, within
from counterstain.tissue.mask import Tissue
from counterstain.tissue.runs import RunScores, RunsSettings, score_runs

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

METHODS = ("otsu", "runs", "both")

_STROKE_UM = 60.0  # radius of the smallest patch of ink: pens draw lines of some 300 um and more
_STROKE_EDGE_UM = 300.0
_INK_MARGIN_UM = 24.0
_SURE = 2.0  # times the threshold: a patch that is nowhere more saturated than this is dust or glue
_SMALL_SHARE = 0.05  # of a view: specks and holes are smaller, whatever the settings say
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is found.

    Args:
        method: "otsu": what is stained; "runs": cells rich in detail, by the run-length filter; "both": what both keep.
        mpp: um/px of the view that is searched. A slide that is coarser is searched as it is.
        max_px: The view of a large slide is made coarser until it has no more pixels than this.
        saturation: The smallest and largest threshold that Otsu's method may give.
        inks: Pen colours to leave out, of "green", "blue", "red", "black". Empty keeps everything.
        min_area_um2: Smaller specks are dropped, at most a twentieth of the view.
        max_hole_um2: Smaller holes are filled (vessels, fat cells, cracks), at most a twentieth of the view.
        margin_um: Widens the tissue by so much; never into ink.
        runs: The run-length filter's recipe.

    Raises:
        InputError: When a number is out of its range, or a name unknown.
    """

    method: Literal["otsu", "runs", "both"] = "otsu"
    mpp: float = 8.0
    max_px: int = 2_000_000
    saturation: tuple[float, float] = (0.03, 0.04)
    inks: tuple[str, ...] = INKS
    min_area_um2: float = 10_000.0
    max_hole_um2: float = 40_000.0
    margin_um: float = 0.0
    runs: RunsSettings = field(default_factory=RunsSettings)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownNameError("tissue method", self.method, METHODS)
        for ink in self.inks:
            if ink not in INKS:
                raise UnknownNameError("ink", ink, INKS)
        if not (math.isfinite(self.mpp) and self.mpp > 0 and self.max_px >= 1):
            raise InputError(f"A view of {self.mpp} um/px and {self.max_px} px was given; both must be above 0.")
        if not 0 <= self.saturation[0] <= self.saturation[1] <= 1:
            raise InputError(f"Saturations {self.saturation} were given; give the smaller first, both in 0 to 1.")
        for name in ("min_area_um2", "max_hole_um2", "margin_um"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} was given as {value}; give 0 or a finite number above it.")


DEFAULT = TissueSettings()


def view_frame(slide: Slide, settings: TissueSettings = DEFAULT) -> Frame:
    """The plane in which tissue is searched: the scanned part of a slide at the settings' resolution.

    Raises:
        MissingResolutionError: When the slide's resolution is unknown.
    """
    own, bounds = slide.mpp, slide.bounds
    area_um2 = bounds.width * own.x * bounds.height * own.y
    coarsest = math.sqrt(area_um2 / settings.max_px)
    return Frame.covering(bounds, own, max(settings.mpp, own.x, own.y, coarsest))


def find_tissue(slide: Slide, settings: TissueSettings = DEFAULT) -> Tissue:
    """Finds the tissue on a slide.

    Args:
        slide: Bright-field, on light glass.
        settings: How.

    Returns:
        The tissue, with the ink that was left out, and the run-length scores where that filter was used.

    Raises:
        NoTissueError: When there is none.
        UnsupportedSlideError: When the background is dark, as in fluorescence, or too coarse for the run-length filter.
        MissingResolutionError: When the slide's resolution is unknown.
        DamagedSlideError: When the pixels can't be decoded.
    """
    frame = view_frame(slide, settings)
    view = slide.read_resized(frame.box, frame.size)
    if is_dark(view):
        raise UnsupportedSlideError(
            f"Slide '{slide.path}' has a dark background, as fluorescence has; tissue is found on light glass only. "
            "Leave the slide out, or give its tissue as a GeoJSON file."
        )
    pixel = Mpp(slide.mpp.x * frame.downsample_x, slide.mpp.y * frame.downsample_y)
    found = _search(view, pixel, settings)
    scores = None if settings.method == "otsu" else score_runs(slide, settings.runs)
    if scores is not None:
        found = _with_runs(found, scores, frame, settings)
    mask = _mended(found, pixel, settings)
    if not mask.any():
        raise NoTissueError(
            f"Slide '{slide.path}' shows no tissue by the method {settings.method!r}; expected a patch of at least "
            f"{settings.min_area_um2:g} um2 outside pen marks. Look at the slide, or give its tissue as a GeoJSON file."
        )
    return Tissue(mask, frame, found.ink, scores)


def find_tissue_in_image(image: Pixels, mpp: float | None = None, settings: TissueSettings = DEFAULT) -> Mask:
    """Finds tissue in a thumbnail or a patch.

    Args:
        image: (H, W, 3) uint8 RGB.
        mpp: Its um/px. It is searched at the settings' resolution where it is finer. None, for a thumbnail of unknown
            resolution, takes it as it is and reads the settings' um as if it had the settings' resolution.
        settings: How; the run-length filter needs a slide.

    Returns:
        (H, W) bool; nowhere true when there is no tissue.

    Raises:
        InputError: When the settings ask for the run-length filter.
        UnsupportedSlideError: When the background is dark, as in fluorescence.
    """
    if settings.method != "otsu":
        raise InputError(
            f"Method {settings.method!r} was given for an image; it reads a slide. Give 'otsu', or a slide."
        )
    if is_dark(image):
        raise UnsupportedSlideError("The image has a dark background, as fluorescence has; expected light glass.")
    own = settings.mpp if mpp is None else mpp
    height, width = image.shape[:2]
    frame = Frame.covering(Box(0, 0, width, height), Mpp.square(own), max(own, settings.mpp))
    box = (0, 0, width, height)
    view = np.asarray(Image.fromarray(image).resize((frame.size.width, frame.size.height), Image.Resampling.BOX, box))
    pixel = Mpp(own * width / frame.size.width, own * height / frame.size.height)
    mask = _mended(_search(view, pixel, settings), pixel, settings)
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


@dataclass(frozen=True, eq=False)
class _Found:
    """What one view shows, before it is mended: tissue and ink, (H, W) bool."""

    tissue: Mask
    ink: Mask


def _search(view: Pixels, pixel: Mpp, settings: TissueSettings) -> _Found:
    """Splits a view into ink, stain and the rest."""
    light = transmittance(view, glass_color(view))
    ink = find_ink(light, settings.inks, Stroke(_STROKE_UM / pixel.mean, _STROKE_EDGE_UM / pixel.mean))
    ink = within(ink, _INK_MARGIN_UM / pixel.mean)
    colour = saturation(light)
    seen = colour[~ink]
    if seen.size == 0:
        return _Found(np.zeros_like(ink), ink)
    threshold = float(np.clip(otsu(seen), *settings.saturation))
    stained = (colour > threshold) & ~ink
    return _Found(touching(stained, stained & (colour > _SURE * threshold)), ink)


def _with_runs(found: _Found, scores: RunScores, frame: Frame, settings: TissueSettings) -> _Found:
    """Keeps what lies in cells of interest, by the centres of the view's pixels."""
    step_x = frame.downsample_x / scores.frame.downsample_x
    step_y = frame.downsample_y / scores.frame.downsample_y
    columns = np.minimum(((np.arange(frame.size.width) + 0.5) * step_x).astype(int), scores.frame.size.width - 1)
    rows = np.minimum(((np.arange(frame.size.height) + 0.5) * step_y).astype(int), scores.frame.size.height - 1)
    rich = scores.mask[np.ix_(rows, columns)]
    return replace(found, tissue=rich & ~found.ink if settings.method == "runs" else rich & found.tissue)


def _mended(found: _Found, pixel: Mpp, settings: TissueSettings) -> Mask:
    """Fills holes, drops specks, adds the margin; ink stays out."""
    pixel_um2 = pixel.x * pixel.y
    # A view of a single patch may be smaller than what is a speck on a slide.
    most_px = _SMALL_SHARE * found.tissue.size
    mask = found.tissue | _small(~found.tissue & ~found.ink, min(most_px, settings.max_hole_um2 / pixel_um2), None)
    mask &= ~_small(mask, min(most_px, settings.min_area_um2 / pixel_um2), _EIGHT)
    return within(mask, settings.margin_um / pixel.mean) & ~found.ink


def _small(mask: Mask, num_px: float, structure: Mask | None) -> Mask:
    """The patches of a mask that have fewer pixels than `num_px`."""
    labels, _ = ndimage.label(mask, structure)
    is_small = np.bincount(labels.ravel()) < num_px
    is_small[0] = False
    small: Mask = is_small[labels]
    return small
