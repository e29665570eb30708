"""What pictures of a slide share: panels that show its scanned part, colours over pale grey, a scale bar, and the PNG.

A picture is drawn on a sheet from an open slide, then written. In a panel under colours the slide goes pale grey; what gets
a colour is looked up at twice the panel's resolution and averaged, so that borders are smooth.

H W: rows and columns of a view's pixels.
Does not know: maps, evidence, legends.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from counterstain import __version__
from counterstain.errors import InputError
from counterstain.export.geojson import Placed
from counterstain.export.ome_tiff import Gridded
from counterstain.export.sheet import DPI, Sheet, width_of
from counterstain.files import atomic, refuse_overwrite
from counterstain.geometry import Size
from counterstain.results import SlideRecord
from counterstain.slides import Slide, open_slide

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
Corner = tuple[int, int]
Value = TypeVar("Value", bound=np.generic)

INK, SOFT, LINE = "#1c2024", "#69717b", "#d5d9de"
MARGIN, GAP = 44, 28
CAPTION = 34  # height of what stands above a panel
WIDE = 1.7  # width to height of a slide whose panels go one above the other
_FINER = 2  # colours are drawn this much finer than the panel and averaged
_SOURCES = {
    "user": "as given",
    "reader": "from the slide file",
    "tiff tags": "from its TIFF tags",
    "assumed": "assumed, not known",
}


def write_picture(
    placed: Placed, path: Path, draw: Callable[[Slide], Sheet], slide: Slide | None, *, overwrite: bool
) -> None:
    """Draws a picture and writes it as PNG that remembers what it was made from.

    Args:
        placed: What is shown.
        path: The PNG.
        draw: Makes the sheet from the slide.
        slide: What `placed` was made from, which is left open; None to open it where it lay then.
        overwrite: Replace a file that is there.

    Raises:
        ExistingOutputError: When the file is there and may not be replaced.
        MissingFileError: When no slide was given and it lies elsewhere now.
        SlideError: When it can't be read.
    """
    if not overwrite:
        refuse_overwrite(path)
    with open_slide(placed.slide.path, placed.slide.mpp) if slide is None else nullcontext(slide) as source:
        sheet = draw(source)
    about = {"Software": f"counterstain {__version__}", "Comment": f"inputs_hash {placed.inputs_hash}"}
    with atomic(Path(path)) as temporary:
        sheet.figure.savefig(temporary, format="png", dpi=DPI, metadata=about)


def check_panels(panel_px: int, opacity: float) -> None:
    """Refuses panels that make no picture.

    Raises:
        InputError: When they are too small to be seen, or colours have an opacity that there is not.
    """
    if panel_px < 64 or not 0 <= opacity <= 1:
        raise InputError(
            f"Panels of {panel_px} px with opacity {opacity} were asked for; give at least 64 px and an opacity in [0, 1]."
        )


def panel_size(record: SlideRecord, panel_px: int) -> Size:
    """The size of a panel that shows the scanned part without stretching it."""
    bounds, mpp = record.bounds, record.mpp
    width, height = bounds.width * mpp.x, bounds.height * mpp.y
    longest = panel_px * WIDE if width > WIDE * height else panel_px
    scale = longest / max(width, height)
    return Size(max(1, round(width * scale)), max(1, round(height * scale)))


def panel_corners(panel: Size, top: int) -> tuple[tuple[Corner, Corner], int]:
    """The upper left corners of two panels below a heading, and the width that they take together.

    They stand side by side, on wide slides one above the other.
    """
    if panel.width > WIDE * panel.height:
        return ((MARGIN, top), (MARGIN, top + panel.height + CAPTION + 16)), panel.width
    return ((MARGIN, top), (MARGIN + panel.width + GAP, top)), 2 * panel.width + GAP


def draw_panels(
    sheet: Sheet, record: SlideRecord, corners: Sequence[Corner], captioned: Sequence[tuple[str, Pixels]]
) -> None:
    """Draws views of the scanned part with their captions, and a scale bar into the first."""
    for (caption, view), (x, y) in zip(captioned, corners, strict=True):
        sheet.text((x, y - 12), caption, 17, SOFT)
        draw_framed(sheet, (x, y), view)
    height, width = captioned[0][1].shape[:2]
    draw_scale_bar(sheet, record, corners[0], Size(width, height))


def draw_framed(sheet: Sheet, corner: Corner, view: Pixels) -> None:
    """Draws a view with a thin line around it."""
    (x, y), (height, width) = corner, view.shape[:2]
    sheet.picture(x, y, view)
    sheet.box((x - 0.5, y - 0.5), (width, height), fill=False, ec=LINE, lw=0.8)


def draw_scale_bar(sheet: Sheet, record: SlideRecord, corner: Corner, panel: Size) -> None:
    """Draws a bar of a round length into a panel that shows the scanned part, its upper left corner given."""
    um_per_px = record.bounds.width * record.mpp.x / panel.width
    # About a quarter of the panel, more on a narrow one, where a quarter would be too short to measure with.
    length, text = scale_bar(max(0.28 * panel.width, min(120, 0.6 * panel.width)), um_per_px)
    width = max(length, width_of(text, 16, bold=True)) + 24
    left, top = corner[0] + 14, corner[1] + panel.height - 14 - 46
    sheet.rounded((left, top), (width, 46), 6, fc="white", ec="none", alpha=0.88)
    sheet.text((left + 12, top + 22), text, 16, INK, bold=True)
    sheet.box((left + 12, top + 31), (length, 5), fc=INK, ec="none")


def scale_bar(most: float, um_per_px: float) -> tuple[float, str]:
    """The pixels of a scale bar that is no longer than `most` and stands for a round length, and that length in words."""
    length_um = round_length(most * um_per_px)
    return length_um / um_per_px, f"{length_um / 1e3:g} mm" if length_um >= 1e3 else f"{length_um:g} µm"


def round_length(most: float) -> float:
    """The largest of 1, 2 or 5 times a power of ten that is no more than `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most)


def facts_of(record: SlideRecord) -> list[str]:
    """A slide's resolution with its source, and the size of its scanned part, in words."""
    mpp, bounds = record.mpp, record.bounds
    return [
        f"{mpp.mean:.3g} µm/px, {_SOURCES.get(record.mpp_source, record.mpp_source)}",
        f"scanned part {bounds.width * mpp.x / 1e3:.3g} × {bounds.height * mpp.y / 1e3:.3g} mm",
    ]


def finer(panel: Size) -> Size:
    """The size at which a panel's colours are drawn."""
    return Size(panel.width * _FINER, panel.height * _FINER)


def at_centres(
    gridded: Gridded, size: Size, read: Callable[[Indices, Indices], npt.NDArray[Value]], beyond: Value
) -> npt.NDArray[Value]:
    """What lies under the centre of each pixel of a view of the scanned part.

    Args:
        gridded: Whose grid it is.
        size: Of the view.
        read: From rows (H,) and columns (W,) of the grid to their values (H, W).
        beyond: What stands where the grid does not reach.

    Returns:
        (size.height, size.width), of the type of `beyond`.
    """
    bounds, frame = gridded.slide.bounds, gridded.frame
    x = bounds.x + (np.arange(size.width) + 0.5) * bounds.width / size.width
    y = bounds.y + (np.arange(size.height) + 0.5) * bounds.height / size.height
    columns = np.floor((x - frame.origin.x) / frame.downsample_x).astype(np.intp)
    rows = np.floor((y - frame.origin.y) / frame.downsample_y).astype(np.intp)
    has_column = (columns >= 0) & (columns < frame.size.width)
    has_row = (rows >= 0) & (rows < frame.size.height)
    values: npt.NDArray[Value] = np.full(size.shape, beyond)
    values[np.ix_(has_row, has_column)] = read(rows[has_row], columns[has_column])
    return values


def colored(view: Pixels, colors: Floats, alpha: Floats) -> Pixels:
    """A view in pale grey under colours.

    Args:
        view: (H, W, 3) uint8 RGB.
        colors: (2 H, 2 W, 3) float32 RGB in [0, 1].
        alpha: (2 H, 2 W) float32 in [0, 1], how strong they lie on the view.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    light = view.astype(np.float32) @ np.array((0.299, 0.587, 0.114), np.float32) / 255
    # The slide's own dark and light stay in the colours, or what has one would drown in it.
    pale, shade = 1 - 0.75 * (1 - light), 0.72 + 0.28 * light
    covered = _averaged(alpha[..., None])
    mixed = pale[..., None] * (1 - covered) + _averaged(colors * alpha[..., None]) * shade[..., None]
    rounded: Pixels = np.round(mixed * 255).clip(0, 255).astype(np.uint8)
    return rounded


def _averaged(values: Floats) -> Floats:
    """(2 H, 2 W, C) to (H, W, C)."""
    height, width, channels = values.shape
    fours = values.reshape(height // _FINER, _FINER, width // _FINER, _FINER, channels)
    means: Floats = fours.mean(axis=(1, 3))
    return means
