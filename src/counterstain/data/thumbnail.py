"""The thumbnail of a grid of cells: two pixels a cell along each side, by area averaging.

Does not know: how cells are chosen, files.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from counterstain.data.encoded import THUMBNAIL_SCALE
from counterstain.geometry import Frame, Size

if TYPE_CHECKING:
    from counterstain.slides.base import Slide


def read_thumbnail(slide: "Slide", frame: Frame) -> npt.NDArray[np.uint8]:
    """T: what a slide shows under a grid of cells.

    Rows and columns 2i and 2i + 1 cover row or column i of the cells exactly, whatever fraction of a level-0 pixel a cell
    has. It is read in one go: a slide resamples large boxes piece by piece.

    Args:
        slide: Any.
        frame: A pixel of it is a cell.

    Returns:
        (2H, 2W, 3) uint8 RGB; what lies beyond the slide, or was not scanned, is white.

    Raises:
        DamagedSlideError: When the pixels can't be decoded.

    Source: DSNet (arXiv 2109.05788), section III-A and IV-D: K = 56 of a cell's 112 pixels, which makes both of its streams
        end on one grid.
    """
    size = Size(THUMBNAIL_SCALE * frame.size.width, THUMBNAIL_SCALE * frame.size.height)
    return slide.read_resized(frame.box, size)
