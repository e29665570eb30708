"""A picture of a slide beside its class map, with legend and scale bar, as PNG.

The slide's scanned part is read at the size of a panel. In the other panel the same view goes pale grey and takes the
colours of the classes, drawn at twice the panel's resolution and averaged so that borders are smooth; a darker line runs
along them. Where nothing was predicted, and on the background, it stays grey.

The layout is arithmetic in pixels: header, panels side by side (one above the other on wide slides), and the legend below
them (beside them on narrow ones).

Does not know: how maps are made, polygons.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from counterstain.export.picture import (
    CAPTION,
    GAP,
    INK,
    MARGIN,
    SOFT,
    Pixels,
    at_centres,
    check_panels,
    colored,
    draw_panels,
    facts_of,
    finer,
    panel_corners,
    panel_size,
    write_picture,
)
from counterstain.export.sheet import Sheet, fitted, width_of
from counterstain.geometry import Size
from counterstain.infer.areas import areas_mm2
from counterstain.results import RGB, UNCOVERED, SlideMap
from counterstain.slides import Slide

Labels = npt.NDArray[np.uint8]

_HEADER = 122  # height
_ROW, _LEGEND_TOP = 34, 76  # heights of a legend's line and of what stands above its lines
_NARROW = 900  # width of panels under which no legend fits
_NUMBERS, _SHARE = 182, 76  # widths in a legend's column: area and share, share alone
_GUTTER, _LEAST, _MOST = 28, 420, 560  # widths: between a legend's columns, of a legend, of a column


@dataclass(frozen=True)
class OverlaySettings:
    """How large the picture is and how strong its colours.

    Args:
        panel_px: The longest side of a panel; of panels one above the other, times 1.7.
        opacity: Of the class colours, in [0, 1].

    Raises:
        InputError: When either makes no picture.
    """

    panel_px: int = 900
    opacity: float = 0.6

    def __post_init__(self) -> None:
        check_panels(self.panel_px, self.opacity)


def write_overlay(
    slide_map: SlideMap,
    path: Path,
    slide: Slide | None = None,
    settings: OverlaySettings | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Writes the picture.

    Args:
        slide_map: A finished map.
        path: The PNG.
        slide: What the map was made from; None to open it where it lay then.
        settings: Size and strength; None for the defaults.
        overwrite: Replace a file that is there.

    Raises:
        ExistingOutputError, MissingFileError, SlideError: As `write_picture`.
    """
    chosen = settings or OverlaySettings()
    write_picture(slide_map, path, lambda source: draw_overlay(slide_map, source, chosen), slide, overwrite=overwrite)


def draw_overlay(slide_map: SlideMap, slide: Slide, settings: OverlaySettings) -> Sheet:
    """The picture before it is written."""
    layout = Layout.of(slide_map, settings.panel_px)
    view = slide.read_resized(slide_map.slide.bounds, layout.panel)
    labels = labels_at(slide_map, finer(layout.panel))
    areas = areas_mm2(slide_map)  # a summary would take the probabilities' logarithms too
    sheet = Sheet(layout.width, layout.height)
    _draw_header(sheet, slide_map, layout)
    mapped = blend(view, labels, slide_map, settings.opacity)
    draw_panels(sheet, slide_map.slide, layout.panels, (("Slide", view), ("Class map", mapped)))
    _draw_legend(sheet, slide_map, areas, layout)
    return sheet


@dataclass(frozen=True)
class Layout:
    """Where everything stands, in pixels of the picture.

    Args:
        width: Of the picture.
        height: Likewise.
        panel: Of each panel.
        panels: Upper left corners, slide first.
        legend: Upper left corner.
        legend_width: Of the legend.
        columns: Of the legend.
        cell: Width of each.
    """

    width: int
    height: int
    panel: Size
    panels: tuple[tuple[int, int], tuple[int, int]]
    legend: tuple[int, int]
    legend_width: int
    columns: int
    cell: float

    @classmethod
    def of(cls, slide_map: SlideMap, panel_px: int) -> Self:
        """The layout for a slide's shape in um and the number of its classes."""
        panel, names = panel_size(slide_map.slide, panel_px), slide_map.classes.names
        cell = min(_MOST, 30 + max(width_of(name, 17) for name in names) + _NUMBERS)
        left, top = MARGIN, _HEADER + CAPTION
        panels, content = panel_corners(panel, top)
        bottom = panels[1][1] + panel.height
        is_beside = content < _NARROW
        legend = (left + content + GAP + 8, top) if is_beside else (left, bottom + 32)
        legend_width = round(max(cell, _LEAST)) if is_beside else content
        columns, cell = columns_of(len(names), legend_width, cell)
        legend_bottom = legend[1] + _LEGEND_TOP + _ROW * -(-len(names) // columns)
        right = legend[0] + legend_width if is_beside else left + content
        return cls(
            width=right + MARGIN,
            height=max(bottom, legend_bottom) + MARGIN,
            panel=panel,
            panels=panels,
            legend=legend,
            legend_width=legend_width,
            columns=columns,
            cell=cell,
        )


def columns_of(num_lines: int, width: int, least: float) -> tuple[int, float]:
    """How many columns a legend has, as even as they get, and how wide each is.

    Args:
        num_lines: Lines of the legend.
        width: All there is.
        least: What a column needs.
    """
    most = max(1, int((width + _GUTTER) // (least + _GUTTER)))
    num_rows = -(-num_lines // min(most, num_lines))
    columns = -(-num_lines // num_rows)
    return columns, min(_MOST, (width - _GUTTER * (columns - 1)) / columns)


def labels_at(slide_map: SlideMap, size: Size) -> Labels:
    """The label under the centre of each pixel of a view of the scanned part.

    Returns:
        (size.height, size.width) uint8; `UNCOVERED` also where the map does not reach.
    """
    return at_centres(slide_map, size, lambda rows, columns: slide_map.label.oindex[rows, columns], np.uint8(UNCOVERED))


def blend(view: Pixels, labels: Labels, slide_map: SlideMap, opacity: float) -> Pixels:
    """A view in pale grey under the colours of the classes.

    Args:
        view: (H, W, 3) uint8 RGB.
        labels: (2 H, 2 W) uint8.
        slide_map: Whose colours to take.
        opacity: Of the colours.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    table, is_shown = _colors(slide_map)
    alpha = is_shown[labels] * np.float32(opacity)
    colors = table[labels]
    border = _borders(labels) & is_shown[labels].astype(bool)
    colors[border] *= 0.5
    alpha[border] = max(opacity, 0.85)
    return colored(view, colors, alpha)


def _colors(slide_map: SlideMap) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(256, 3) the colour of each label in [0, 1], and (256,) 1 where it is shown."""
    classes = slide_map.classes
    table, is_shown = np.ones((256, 3), np.float32), np.zeros(256, np.float32)
    table[: len(classes)] = np.array(classes.colors, np.float32) / 255
    is_shown[: len(classes)] = [name != classes.background for name in classes.names]
    return table, is_shown


def _borders(labels: Labels) -> npt.NDArray[np.bool_]:
    """Where a label differs from one beside it."""
    border = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    border[1:] |= down
    border[:-1] |= down
    border[:, 1:] |= right
    border[:, :-1] |= right
    return border


def _draw_header(sheet: Sheet, slide_map: SlideMap, layout: Layout) -> None:
    record, frame = slide_map.slide, slide_map.frame
    width = layout.width - 2 * MARGIN
    title = fitted(Path(record.path).name, 30, width, bold=True)
    sheet.text((MARGIN, 66), title, 30, INK, bold=True)
    facts = [*facts_of(record), f"map {frame.downsample_x * record.mpp.x:.3g} µm/px"]
    sheet.text((MARGIN, 100), fitted("   ·   ".join(facts), 17, width), 17, SOFT)


def _draw_legend(sheet: Sheet, slide_map: SlideMap, areas: Mapping[str, float], layout: Layout) -> None:
    x, y = layout.legend
    bounds, mpp = slide_map.slide.bounds, slide_map.slide.mpp
    scanned = bounds.area * mpp.x * mpp.y / 1e6
    line = f"{area_text(sum(areas.values()))} mapped of {area_text(scanned)} scanned"
    sheet.text((x, y + 16), fitted(line, 17, layout.legend_width), 17, SOFT)
    _draw_shares(sheet, slide_map, areas, layout)
    num_rows = -(-len(areas) // layout.columns)
    entries = zip(areas.items(), shares_of(areas), slide_map.classes.colors, strict=True)
    for number, ((name, area), share, color) in enumerate(entries):
        left = x + number // num_rows * (layout.cell + _GUTTER)
        base, right = y + _LEGEND_TOP + number % num_rows * _ROW + 22, left + layout.cell
        sheet.rounded((left, base - 16), (18, 18), 4, fc=_unit(color), ec=SOFT, lw=0.5)
        sheet.text((right, base), share_text(share), 17, INK, right=True)
        sheet.text((right - _SHARE, base), area_text(area), 17, SOFT, right=True)
        sheet.text((left + 30, base), fitted(name, 17, layout.cell - _NUMBERS - 30), 17, INK)


def _draw_shares(sheet: Sheet, slide_map: SlideMap, areas: Mapping[str, float], layout: Layout) -> None:
    """A bar cut into the classes' shares of the covered area."""
    x, y = layout.legend
    start, width = float(x), layout.legend_width
    sheet.box((x, y + 34), (width, 16), fc="#f1f3f5", ec="none")
    for share, color in zip(shares_of(areas), slide_map.classes.colors, strict=True):
        length = width * (share or 0)
        sheet.box((start, y + 34), (length, 16), fc=_unit(color), ec="white", lw=1.2)
        start += length


def shares_of(areas: Mapping[str, float]) -> list[float | None]:
    """What of the covered area each class has; None on a slide where nothing is covered."""
    covered = sum(areas.values())
    return [area / covered if covered else None for area in areas.values()]


def area_text(area_mm2: float) -> str:
    """An area in mm², down to a thousandth."""
    if 0 < area_mm2 < 0.001:
        return "< 0.001 mm²"
    decimals = 3 if area_mm2 < 1 else 2 if area_mm2 < 10 else 1 if area_mm2 < 100 else 0
    return f"{area_mm2:,.{decimals if area_mm2 else 0}f} mm²"


def share_text(fraction: float | None) -> str:
    """A share in per cent; what is not there has none."""
    if not fraction:
        return "–"
    return "< 0.1 %" if fraction < 0.001 else f"{fraction:.1%}".replace("%", " %")


def _unit(color: RGB) -> tuple[float, float, float]:
    red, green, blue = color
    return red / 255, green / 255, blue / 255
