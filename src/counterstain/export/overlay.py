"""A picture of a slide beside its class map, with legend and scale bar, as PNG.

The slide's scanned part is read at the size of a panel. In the other panel the same view goes pale grey and takes the
colours of the classes, drawn at twice the panel's resolution and averaged so that borders are smooth; a darker line runs
along them. Where nothing was predicted, and on the background, it stays grey.

The layout is arithmetic in pixels: header, panels side by side (one above the other on wide slides), and the legend below
them (beside them on narrow ones).

Does not know: how maps are made, polygons.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from counterstain import __version__
from counterstain.errors import InputError
from counterstain.export.sheet import DPI, Sheet, fitted, width_of
from counterstain.export.summary import Summary, summarise
from counterstain.files import atomic, refuse_overwrite
from counterstain.geometry import Size
from counterstain.results import RGB, UNCOVERED, SlideMap, SlideRecord
from counterstain.slides import Slide, open_slide

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]

_FINER = 2  # class colours are drawn this much finer than the panel and averaged
INK, SOFT, LINE = "#1c2024", "#69717b", "#d5d9de"
MARGIN, GAP = 44, 28
_HEADER, _CAPTION = 122, 34  # heights
_ROW, _LEGEND_TOP = 34, 76  # heights of a legend's line and of what stands above its lines
_NARROW = 900  # width of panels under which no legend fits
_NUMBERS, _SHARE = 182, 76  # widths in a legend's column: area and share, share alone
_GUTTER, _LEAST, _MOST = 28, 420, 560  # widths: between a legend's columns, of a legend, of a column
WIDE = 1.7  # width to height of a slide whose panels go one above the other
_SOURCES = {
    "user": "as given",
    "reader": "from the slide file",
    "tiff tags": "from its TIFF tags",
    "assumed": "assumed, not known",
}


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
        if self.panel_px < 64 or not 0 <= self.opacity <= 1:
            raise InputError(
                f"Panels of {self.panel_px} px with opacity {self.opacity} were asked for; give at least 64 px and an "
                "opacity in [0, 1]."
            )


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
        ExistingOutputError: When the file is there and may not be replaced.
        MissingFileError: When no slide was given and it lies elsewhere now.
        SlideError: When it can't be read.
    """
    settings = settings or OverlaySettings()
    if not overwrite:
        refuse_overwrite(path)
    if slide is None:
        with open_slide(slide_map.slide.path, slide_map.slide.mpp) as opened:
            sheet = draw_overlay(slide_map, opened, settings)
    else:
        sheet = draw_overlay(slide_map, slide, settings)
    about = {"Software": f"counterstain {__version__}", "Comment": f"inputs_hash {slide_map.inputs_hash}"}
    with atomic(Path(path)) as temporary:
        sheet.figure.savefig(temporary, format="png", dpi=DPI, metadata=about)


def draw_overlay(slide_map: SlideMap, slide: Slide, settings: OverlaySettings) -> Sheet:
    """The picture before it is written."""
    layout = Layout.of(slide_map, settings.panel_px)
    view = slide.read_resized(slide_map.slide.bounds, layout.panel)
    labels = labels_at(slide_map, Size(layout.panel.width * _FINER, layout.panel.height * _FINER))
    summary = summarise(slide_map)
    sheet = Sheet(layout.width, layout.height)
    _draw_header(sheet, slide_map, layout)
    mapped = blend(view, labels, slide_map, settings.opacity)
    for caption, pixels, (x, y) in zip(("Slide", "Class map"), (view, mapped), layout.panels, strict=True):
        sheet.text((x, y - 12), caption, 17, SOFT)
        sheet.picture(x, y, pixels)
        sheet.box((x - 0.5, y - 0.5), (layout.panel.width, layout.panel.height), fill=False, ec=LINE, lw=0.8)
    draw_scale_bar(sheet, slide_map.slide, layout.panels[0], layout.panel)
    _draw_legend(sheet, slide_map, summary, layout)
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
        left, top = MARGIN, _HEADER + _CAPTION
        if panel.width > WIDE * panel.height:
            second = (left, top + panel.height + _CAPTION + 16)
            content = panel.width
        else:
            second = (left + panel.width + GAP, top)
            content = 2 * panel.width + GAP
        bottom = second[1] + panel.height
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
            panels=((left, top), second),
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


def panel_size(record: SlideRecord, panel_px: int) -> Size:
    """The size of a panel that shows the scanned part without stretching it."""
    bounds, mpp = record.bounds, record.mpp
    width, height = bounds.width * mpp.x, bounds.height * mpp.y
    longest = panel_px * WIDE if width > WIDE * height else panel_px
    scale = longest / max(width, height)
    return Size(max(1, round(width * scale)), max(1, round(height * scale)))


def labels_at(slide_map: SlideMap, size: Size) -> Labels:
    """The label under the centre of each pixel of a view of the scanned part.

    Returns:
        (size.height, size.width) uint8; `UNCOVERED` also where the map does not reach.
    """
    bounds, frame = slide_map.slide.bounds, slide_map.frame
    x = bounds.x + (np.arange(size.width) + 0.5) * bounds.width / size.width
    y = bounds.y + (np.arange(size.height) + 0.5) * bounds.height / size.height
    columns = np.floor((x - frame.origin.x) / frame.downsample_x).astype(np.intp)
    rows = np.floor((y - frame.origin.y) / frame.downsample_y).astype(np.intp)
    has_column = (columns >= 0) & (columns < frame.size.width)
    has_row = (rows >= 0) & (rows < frame.size.height)
    labels = np.full(size.shape, UNCOVERED, np.uint8)
    labels[np.ix_(has_row, has_column)] = slide_map.label.oindex[rows[has_row], columns[has_column]]
    return labels


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
    light = view.astype(np.float32) @ np.array((0.299, 0.587, 0.114), np.float32) / 255
    # The slide's own dark and light stay in the colours, or cells would drown in them.
    pale, shade = 1 - 0.75 * (1 - light), 0.72 + 0.28 * light
    table, is_shown = _colors(slide_map)
    alpha = is_shown[labels] * np.float32(opacity)
    colors = table[labels]
    border = _borders(labels) & is_shown[labels].astype(bool)
    colors[border] *= 0.5
    alpha[border] = max(opacity, 0.85)
    weighted = _averaged(colors * alpha[..., None])
    covered = _averaged(alpha[..., None])
    mixed = pale[..., None] * (1 - covered) + weighted * shade[..., None]
    rounded: Pixels = np.round(mixed * 255).clip(0, 255).astype(np.uint8)
    return rounded


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


def _averaged(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(2 H, 2 W, C) to (H, W, C)."""
    height, width, channels = values.shape
    means: npt.NDArray[np.float32] = values.reshape(height // _FINER, _FINER, width // _FINER, _FINER, channels).mean(
        axis=(1, 3)
    )
    return means


def _draw_header(sheet: Sheet, slide_map: SlideMap, layout: Layout) -> None:
    record, frame = slide_map.slide, slide_map.frame
    width = layout.width - 2 * MARGIN
    title = fitted(Path(record.path).name, 30, width, bold=True)
    sheet.text((MARGIN, 66), title, 30, INK, bold=True)
    facts = [*facts_of(record), f"map {frame.downsample_x * record.mpp.x:.3g} µm/px"]
    sheet.text((MARGIN, 100), fitted("   ·   ".join(facts), 17, width), 17, SOFT)


def facts_of(record: SlideRecord) -> list[str]:
    """A slide's resolution with its source, and the size of its scanned part, in words."""
    mpp, bounds = record.mpp, record.bounds
    return [
        f"{mpp.mean:.3g} µm/px, {_SOURCES.get(record.mpp_source, record.mpp_source)}",
        f"scanned part {bounds.width * mpp.x / 1e3:.3g} × {bounds.height * mpp.y / 1e3:.3g} mm",
    ]


def draw_scale_bar(sheet: Sheet, record: SlideRecord, corner: tuple[int, int], panel: Size) -> None:
    """Draws a bar of a round length into a panel that shows the scanned part, its upper left corner given."""
    um_per_px = record.bounds.width * record.mpp.x / panel.width
    # About a quarter of the panel, more on a narrow one, where a quarter would be too short to measure with.
    length_um = round_length(max(0.28 * panel.width, min(120, 0.6 * panel.width)) * um_per_px)
    length = length_um / um_per_px
    text = f"{length_um / 1e3:g} mm" if length_um >= 1e3 else f"{length_um:g} µm"
    width = max(length, width_of(text, 16, bold=True)) + 24
    left, top = corner[0] + 14, corner[1] + panel.height - 14 - 46
    sheet.rounded((left, top), (width, 46), 6, fc="white", ec="none", alpha=0.88)
    sheet.text((left + 12, top + 22), text, 16, INK, bold=True)
    sheet.box((left + 12, top + 31), (length, 5), fc=INK, ec="none")


def round_length(most: float) -> float:
    """The largest of 1, 2 or 5 times a power of ten that is no more than `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most)


def _draw_legend(sheet: Sheet, slide_map: SlideMap, summary: Summary, layout: Layout) -> None:
    x, y = layout.legend
    bounds, mpp = slide_map.slide.bounds, slide_map.slide.mpp
    scanned = bounds.area * mpp.x * mpp.y / 1e6
    line = f"{area_text(summary.covered_mm2)} mapped of {area_text(scanned)} scanned"
    sheet.text((x, y + 16), fitted(line, 17, layout.legend_width), 17, SOFT)
    _draw_shares(sheet, slide_map, summary, layout)
    num_rows = -(-len(summary.classes) // layout.columns)
    for number, (entry, color) in enumerate(zip(summary.classes, slide_map.classes.colors, strict=True)):
        left = x + number // num_rows * (layout.cell + _GUTTER)
        base, right = y + _LEGEND_TOP + number % num_rows * _ROW + 22, left + layout.cell
        sheet.rounded((left, base - 16), (18, 18), 4, fc=_unit(color), ec=SOFT, lw=0.5)
        sheet.text((right, base), share_text(entry.fraction), 17, INK, right=True)
        sheet.text((right - _SHARE, base), area_text(entry.area_mm2), 17, SOFT, right=True)
        sheet.text((left + 30, base), fitted(entry.name, 17, layout.cell - _NUMBERS - 30), 17, INK)


def _draw_shares(sheet: Sheet, slide_map: SlideMap, summary: Summary, layout: Layout) -> None:
    """A bar cut into the classes' shares of the covered area."""
    x, y = layout.legend
    start, width = float(x), layout.legend_width
    sheet.box((x, y + 34), (width, 16), fc="#f1f3f5", ec="none")
    for entry, color in zip(summary.classes, slide_map.classes.colors, strict=True):
        length = width * (entry.fraction or 0)
        sheet.box((start, y + 34), (length, 16), fc=_unit(color), ec="white", lw=1.2)
        start += length


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
