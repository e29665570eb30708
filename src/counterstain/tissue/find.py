"""Finds tissue on a slide, by the method that its settings name.

"otsu" searches a view of some um/px for what is stained (`search.py`). "bytes" reads no pixels where it is sure: it looks
at how many bytes the stored tiles have (`stored.py`), and leaves slides of which these tell nothing to "otsu". "runs"
judges cells by their run lengths (`runs.py`), "both" asks for both.

Does not know: tiles, models, files other than slides.
"""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from counterstain.errors import InputError, NoTissueError, UnsupportedSlideError
from counterstain.geometry import Box, Frame, Mpp
from counterstain.log import logger
from counterstain.slides.base import Slide
from counterstain.tissue.glass import glass_color, is_dark
from counterstain.tissue.mask import Tissue
from counterstain.tissue.runs import RunScores, score_runs
from counterstain.tissue.search import Found, mended, search
from counterstain.tissue.settings import DEFAULT, TissueSettings
from counterstain.tissue.stored import find_in_bytes

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


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
    note = None
    if settings.method == "bytes":
        told = find_in_bytes(slide, view_frame(slide, settings).downsample_x * slide.mpp.x, settings)
        if isinstance(told, Tissue):
            return _refuse_nothing(told, slide, settings)
        note = f"found by the method 'otsu', since {told}"
        logger.info("%s: tissue is %s", slide.path, note)
    frame = view_frame(slide, settings)
    view = slide.read_resized(frame.box, frame.size)
    if is_dark(view):
        raise UnsupportedSlideError(
            f"Slide '{slide.path}' has a dark background, as fluorescence has; tissue is found on light glass only. "
            "Leave the slide out, or give its tissue as a GeoJSON file."
        )
    pixel = Mpp(slide.mpp.x * frame.downsample_x, slide.mpp.y * frame.downsample_y)
    found = search(view, glass_color(view), pixel, settings)
    scores = score_runs(slide, settings.runs) if settings.method in ("runs", "both") else None
    if scores is not None:
        found = _with_runs(found, scores, frame, settings)
    return _refuse_nothing(Tissue(mended(found, pixel, settings), frame, found.ink, scores, note), slide, settings)


def _refuse_nothing(tissue: Tissue, slide: Slide, settings: TissueSettings) -> Tissue:
    if not tissue.mask.any():
        raise NoTissueError(
            f"Slide '{slide.path}' shows no tissue by the method {settings.method!r}; expected a patch of at least "
            f"{settings.min_area_um2:g} um2 outside pen marks. Look at the slide, or give its tissue as a GeoJSON file."
        )
    return tissue


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
            f"Method {settings.method!r} was given for an image; it takes a slide. Give 'otsu', or a slide."
        )
    if is_dark(image):
        raise UnsupportedSlideError("The image has a dark background, as fluorescence has; expected light glass.")
    own = settings.mpp if mpp is None else mpp
    height, width = image.shape[:2]
    frame = Frame.covering(Box(0, 0, width, height), Mpp.square(own), max(own, settings.mpp))
    box = (0, 0, width, height)
    view = np.asarray(Image.fromarray(image).resize((frame.size.width, frame.size.height), Image.Resampling.BOX, box))
    pixel = Mpp(own * width / frame.size.width, own * height / frame.size.height)
    mask = mended(search(view, glass_color(view), pixel, settings), pixel, settings)
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def _with_runs(found: Found, scores: RunScores, frame: Frame, settings: TissueSettings) -> Found:
    """Keeps what lies in cells of interest, by the centres of the view's pixels."""
    step_x = frame.downsample_x / scores.frame.downsample_x
    step_y = frame.downsample_y / scores.frame.downsample_y
    columns = np.minimum(((np.arange(frame.size.width) + 0.5) * step_x).astype(int), scores.frame.size.width - 1)
    rows = np.minimum(((np.arange(frame.size.height) + 0.5) * step_y).astype(int), scores.frame.size.height - 1)
    rich = scores.mask[np.ix_(rows, columns)]
    return replace(found, tissue=rich & ~found.ink if settings.method == "runs" else rich & found.tissue)
