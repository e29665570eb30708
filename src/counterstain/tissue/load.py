"""Tissue from polygons that a person drew or mended.

The polygons of a GeoJSON file are painted on the same plane in which `find_tissue` searches, so that everything that takes
found tissue takes mended tissue as well.

Does not know: how tissue is found.
"""

from pathlib import Path

import numpy as np

from counterstain.errors import NoTissueError
from counterstain.files import existing
from counterstain.geometry import Point
from counterstain.slides.base import Slide
from counterstain.tissue.find import view_frame
from counterstain.tissue.geojson import EXCLUDE, INK, TISSUE, read_areas
from counterstain.tissue.mask import Tissue
from counterstain.tissue.polygons import Ring, paint
from counterstain.tissue.settings import DEFAULT, TissueSettings


def load_tissue(
    path: Path | str, slide: Slide, settings: TissueSettings = DEFAULT, origin: Point | None = None
) -> Tissue:
    """The tissue that a GeoJSON file outlines.

    Args:
        path: GeoJSON as `Tissue.save` or QuPath writes it. Objects classified "Tissue" or not at all are tissue; "Exclude"
            and "Ink" are taken out of it.
        slide: The slide they were drawn on.
        settings: Their resolution is that of the mask, unless the file notes the frame it was traced in.
        origin: The level-0 point that the file's coordinates count from. None takes what the file notes, else the corner
            of the slide's scanned part, from which QuPath counts.

    Raises:
        MissingFileError: When the file is not there.
        InputError: When it is no GeoJSON, or holds other objects than areas of tissue.
        NoTissueError: When it covers no pixel of the mask.
        MissingResolutionError: When the slide's resolution is unknown.
    """
    path = existing(path, "a GeoJSON file of tissue")
    areas = read_areas(path)
    frame = areas.frame or view_frame(slide, settings)
    start = origin or areas.origin or Point(slide.bounds.x, slide.bounds.y)
    corner = np.array([start.x, start.y])

    def on_level0(name: str) -> list[list[Ring]]:
        return [[ring + corner for ring in rings] for rings in areas.polygons[name]]

    ink = paint(on_level0(INK), frame)
    mask = paint(on_level0(TISSUE), frame) & ~paint(on_level0(EXCLUDE), frame) & ~ink
    if not mask.any():
        raise NoTissueError(
            f"{path} covers no tissue on slide '{slide.path}'; expected polygons classified {TISSUE!r}, in level-0 pixels. "
            "Draw them on this slide, and export them with their classification."
        )
    return Tissue(mask, frame, ink if ink.any() else None)
