"""Planted evidence: cells of known evidence on a plain slide, at any ratio and with its scanned part anywhere.

Does not know: what is being checked.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from counterstain.geometry import Box, Frame, Mpp, Point, Size
from counterstain.infer.evidence import EvidenceMap
from counterstain.results import Classes, SlideRecord
from counterstain.testing.writers import Place

DIAGNOSIS = Classes(("normal", "tumour"), ((120, 120, 120), (205, 51, 51)), background="normal")


def plant_evidence(folder: Path, values: npt.NDArray[np.float32], place: Place | None = None) -> EvidenceMap:
    """Evidence of a plain slide, which is written.

    Args:
        folder: Where the slide is written.
        values: (H, W) float32, NaN for what was not observed.
        place: Where the grid lies; its scanned part begins at the grid's corner. None for the corner of level 0, a cell
            being 8 pixels.
    """
    place = place or Place(downsample=(8.0, 8.0))
    height, width = values.shape
    (x, y), (down_x, down_y), covered = place.corner, place.downsample, 1 - place.overhang
    bounds = Box(x, y, (width - 1 + covered) * down_x, (height - 1 + covered) * down_y)
    size = Size(int(np.ceil(bounds.right - 1e-6)), int(np.ceil(bounds.bottom - 1e-6)))
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size.width, size.height), (240, 220, 230)).save(folder / "slide.png")
    record = SlideRecord(str(folder / "slide.png"), "image", size, Mpp(*place.mpp), "user", bounds, "0" * 64)
    frame = Frame(Point(x, y), down_x, down_y, Size(width, height))
    return EvidenceMap(values.astype(np.float32), frame, DIAGNOSIS, record, "f" * 64)
