"""A sheet to draw on in pixels: pictures, text, boxes; matplotlib behind it.

Coordinates are pixels of the sheet, x to the right and y down. Pictures keep their pixels exactly. Text is set in the one
family that comes with matplotlib, so that a sheet looks the same on every machine.

Does not know: slides, maps, what is drawn.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, Rectangle

DPI = 100
_POINTS = 72 / DPI

_MEASURE: Any = RendererAgg(1, 1, DPI)  # type: ignore[no-untyped-call]

Color = str | tuple[float, float, float]


class Sheet:
    """A white sheet.

    Args:
        width: Pixels.
        height: Likewise.
    """

    def __init__(self, width: int, height: int) -> None:
        self.height = height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)
        self._axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), frame_on=False)
        self._axes.set_axis_off()

    def picture(self, x: int, y: int, pixels: npt.NDArray[np.uint8]) -> None:
        """Puts (height, width, 3) uint8 pixels with their upper left corner at a place."""
        self.figure.figimage(pixels, x, self.height - y - pixels.shape[0], origin="upper", zorder=-1)

    def text(
        self,
        place: tuple[float, float],
        text: str,
        size: float,
        color: Color,
        *,
        bold: bool = False,
        right: bool = False,
    ) -> None:
        """Writes a line on a base line, from its left end or, with `right`, up to its right end."""
        align: Literal["left", "right"] = "right" if right else "left"
        font = _font(size, bold)
        self._axes.text(*place, text, color=color, ha=align, va="baseline", fontproperties=font, parse_math=False)

    def box(self, corner: tuple[float, float], size: tuple[float, float], **style: Any) -> None:
        """Draws a rectangle; style as matplotlib's `Rectangle` takes it."""
        self._axes.add_patch(Rectangle(corner, *size, **style))

    def rounded(self, corner: tuple[float, float], size: tuple[float, float], radius: float, **style: Any) -> None:
        """Draws a rectangle with round corners."""
        shape = f"round,pad=0,rounding_size={radius}"
        self._axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=shape, **style))


def width_of(text: str, size: float, *, bold: bool = False) -> float:
    """How many pixels wide a line would be."""
    width, _, _ = _MEASURE.get_text_width_height_descent(text, _font(size, bold), ismath=False)
    return float(width)


def fitted(text: str, size: float, width: float, *, bold: bool = False) -> str:
    """The text, shortened in its middle until it is no wider than `width`."""
    kept, shortened = len(text), text
    while width_of(shortened, size, bold=bold) > width and kept > 2:
        kept -= 1
        shortened = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
    return shortened


def _font(size: float, bold: bool) -> FontProperties:
    return FontProperties(family="DejaVu Sans", size=size * _POINTS, weight="bold" if bold else "normal")
