"""The evidence behind a slide's score, for eyes and for other tools: a picture, tiles for QuPath, an OME-TIFF.

The picture shows the slide beside the same view in pale grey, on which every observed cell has a colour by its evidence;
where nothing was observed it stays grey. Colours run from the least to the most evidence of this one slide, so they say
where to look and never how much: that is what the numbers at the bar are for. Files for other tools hold the evidence as it
is.

Cells: squares of the grid on which a slide was encoded. H W: rows and columns of them, or of a view's pixels.
Does not know: how evidence comes about, which cells have most.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import matplotlib as mpl
import numpy as np
import shapely

from counterstain.errors import InputError
from counterstain.export.geojson import (
    CoordinateFrame,
    check_frame,
    describe,
    feature,
    feature_id,
    frame_offset,
    write_features,
)
from counterstain.export.ome_tiff import write_values
from counterstain.export.picture import (
    CAPTION,
    INK,
    MARGIN,
    SOFT,
    Floats,
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
from counterstain.geometry import Box, Size
from counterstain.infer.evidence import EvidenceMap
from counterstain.results import SlideScore
from counterstain.slides import Slide

# Perceptually uniform, pale for little; both ends cut to where colour is left.
_COLORS = ("magma_r", 0.08, 0.86)
_STEPS = 1024  # colours that are told apart
_WEAKEST = 0.5  # share of the opacity where there is least evidence
_HEADING = 168  # height
_BAR, _BAR_WIDTH = 16, 420
_LEAST = 760  # width of what stands under the heading, so that the words fit


@dataclass(frozen=True)
class HeatSettings:
    """How large the picture is and how strong its colours.

    Args:
        panel_px: The longest side of a panel; of panels one above the other, times 1.7.
        opacity: Of the colours, in [0, 1].
        limits: Evidence of the two ends of the colours, so that pictures of one run compare; None for this slide's own.

    Raises:
        InputError: When they make no picture.
    """

    panel_px: int = 900
    opacity: float = 0.8
    limits: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_panels(self.panel_px, self.opacity)
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise InputError(
                f"Colours from {self.limits[0]} to {self.limits[1]} were asked for; the first must be less."
            )


def write_heat_map(
    evidence: EvidenceMap,
    score: SlideScore,
    path: Path,
    slide: Slide | None = None,
    settings: HeatSettings | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Writes the picture as PNG.

    Args:
        evidence: Of the slide.
        score: What is said of it, for the heading.
        path: The PNG.
        slide: What the evidence was made from; None to open it where it lay then.
        settings: Size and strength; None for the defaults.
        overwrite: Replace a file that is there.

    Raises:
        ExistingOutputError, MissingFileError, SlideError: As `write_picture`.
    """
    chosen = settings or HeatSettings()
    write_picture(
        evidence, path, lambda source: draw_heat_map(evidence, score, source, chosen), slide, overwrite=overwrite
    )


def draw_heat_map(evidence: EvidenceMap, score: SlideScore, slide: Slide, settings: HeatSettings) -> Sheet:
    """The picture before it is written."""
    layout = HeatLayout.of(evidence, settings.panel_px)
    view = slide.read_resized(evidence.slide.bounds, layout.panel)
    values = evidence_at(evidence, finer(layout.panel))
    limits = settings.limits or evidence.limits()
    heated = heat(view, values, limits, settings.opacity)
    sheet = Sheet(layout.width, layout.height)
    draw_heading(sheet, evidence, score, layout.width - 2 * MARGIN)
    caption = fitted(f"Evidence for {evidence.positive}", 17, layout.panel.width)
    captioned = ((fitted("Slide", 17, layout.panel.width), view), (caption, heated))
    draw_panels(sheet, evidence.slide, layout.panels, captioned)
    _draw_legend(sheet, evidence, layout, limits, settings)
    return sheet


@dataclass(frozen=True)
class HeatLayout:
    """Where everything stands, in pixels of the picture.

    Args:
        width: Of the picture.
        height: Likewise.
        panel: Of each panel.
        panels: Upper left corners, slide first.
        legend: Upper left corner.
    """

    width: int
    height: int
    panel: Size
    panels: tuple[tuple[int, int], tuple[int, int]]
    legend: tuple[int, int]

    @classmethod
    def of(cls, evidence: EvidenceMap, panel_px: int) -> Self:
        """The layout for a slide's shape in um: panels side by side, one above the other on wide slides."""
        panel = panel_size(evidence.slide, panel_px)
        panels, content = panel_corners(panel, _HEADING + CAPTION)
        legend = (MARGIN, panels[1][1] + panel.height + 36)
        width = max(content, _LEAST) + 2 * MARGIN
        return cls(width, legend[1] + 130 + MARGIN, panel, panels, legend)


def evidence_at(evidence: EvidenceMap, size: Size) -> Floats:
    """The evidence of the cell under the centre of each pixel of a view of the scanned part.

    Returns:
        (size.height, size.width) float32; NaN where nothing was observed, also beyond the grid.
    """
    cells = evidence.evidence_HW
    return at_centres(evidence, size, lambda rows, columns: cells[np.ix_(rows, columns)], np.float32(np.nan))


def heat(view: Pixels, values: Floats, limits: tuple[float, float] | None, opacity: float) -> Pixels:
    """A view in pale grey under the colours of the evidence.

    Args:
        view: (H, W, 3) uint8 RGB.
        values: (2 H, 2 W) float32, NaN where there is to be no colour.
        limits: Evidence of the two ends of the colours; None where there is none.
        opacity: Of the colours.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    colors, strength = colors_of(np.nan_to_num(values), limits or (0.0, 1.0))
    return colored(view, colors, np.isfinite(values) * strength * np.float32(opacity))


def colors_of(values: Floats, limits: tuple[float, float]) -> tuple[Floats, Floats]:
    """The colours of evidence, and how strong they lie on the tissue: less where there is little, so that it stays seen.

    Returns:
        (..., 3) float32 colours in [0, 1]; (...) float32 in [0, 1]. Where all evidence is the same, it has the least's.
    """
    low, high = limits
    share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
    name, first, last = _COLORS
    places = np.linspace(0, 1, _STEPS)
    # matplotlib's own table has 256 steps, which a wide bar would show.
    own = mpl.colormaps[name](first + (last - first) * np.linspace(0, 1, 256))[:, :3]
    table = np.stack([np.interp(places, np.linspace(0, 1, 256), channel) for channel in own.T], axis=1)
    strength: Floats = _WEAKEST + (1 - _WEAKEST) * share
    steps = np.round(share * (_STEPS - 1)).astype(np.intp)
    return table.astype(np.float32)[steps], strength.astype(np.float32)


def number_texts(values: Sequence[float]) -> list[str]:
    """Numbers with as many decimals each as tell the largest from others to three figures."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest and not 1e-3 <= largest < 1e5:
        return [f"{value:.2e}" if value else "0" for value in values]
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest else 0
    return [f"{value:,.{decimals}f}" for value in values]


def draw_heading(sheet: Sheet, evidence: EvidenceMap, score: SlideScore, width: float) -> None:
    """The slide's name, what is said of it, and what that rests on; in three lines of a width."""
    record, frame = evidence.slide, evidence.frame
    title = fitted(Path(record.path).name, 30, width, bold=True)
    sheet.text((MARGIN, 66), title, 30, INK, bold=True)
    verdict, details = verdict_of(score), f"probability of {evidence.positive} {chance_text(score.probability)}"
    room = width - 24 - width_of(details, 20)
    shown = fitted(verdict, 20, max(room, width / 2), bold=True)
    sheet.text((MARGIN, 108), shown, 20, INK, bold=True)
    after = MARGIN + width_of(shown, 20, bold=True) + 24
    sheet.text((after, 108), fitted(details, 20, MARGIN + width - after), 20, INK)
    facts = [
        *facts_of(record),
        f"{evidence.observed.sum():,} cells of {frame.downsample_x * record.mpp.x:.3g} µm looked at",
    ]
    sheet.text((MARGIN, 142), fitted("   ·   ".join(facts), 17, width), 17, SOFT)


def verdict_of(score: SlideScore) -> str:
    """What is said of a slide, in words."""
    if score.decision is not None:
        return f"Diagnosis: {score.decision}"
    if score.prediction_set:
        return f"No decision: {' or '.join(score.prediction_set)}"
    return "No decision: like no class it knows"


def chance_text(probability: float) -> str:
    """A probability in per cent that never reads as certainty."""
    if probability < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if probability > 0.999 else f"{100 * probability:.1f} %"


def _draw_legend(
    sheet: Sheet,
    evidence: EvidenceMap,
    layout: HeatLayout,
    limits: tuple[float, float] | None,
    settings: HeatSettings,
) -> None:
    x, y = layout.legend
    width = layout.width - 2 * MARGIN
    if limits is not None:
        draw_color_bar(sheet, (x, y), min(_BAR_WIDTH, width - 320), limits, settings.opacity)
    left = x + (min(_BAR_WIDTH, width - 320) + 56 if limits is not None else 0)
    sheet.rounded((left, y + 27), (18, 18), 4, fc="#e3e3e3", ec=SOFT, lw=0.5)
    sheet.text((left + 28, y + 42), "not looked at", 17, INK)
    run = "from the least to the most evidence on this slide; they do not compare slides"
    scope = "between limits that were set" if settings.limits else run
    lines = (
        f"Evidence of a slide label, not an outline of {evidence.positive}.",
        f"Colours run {scope}." if limits is not None else "No cell was looked at.",
    )
    sheet.text((x, y + 102), fitted(lines[0], 17, width, bold=True), 17, INK, bold=True)
    sheet.text((x, y + 128), fitted(lines[1], 17, width), 17, SOFT)


def draw_color_bar(
    sheet: Sheet, corner: tuple[int, int], width: int, limits: tuple[float, float], opacity: float
) -> None:
    """A bar of the colours as they look on tissue, the evidence of its ends and its middle under it."""
    x, y = corner
    low, high = limits
    sheet.text((x, y + 12), "Evidence, in the network's own unit", 17, SOFT)
    colors, strength = colors_of(np.linspace(low, high, width, dtype=np.float32), limits)
    alpha = opacity * strength[:, None]
    # Tissue is about this light once it is pale grey.
    shown = np.round(255 * (0.94 * alpha * colors + 0.9 * (1 - alpha))).astype(np.uint8)
    sheet.picture(x, y + 28, np.repeat(shown[None], _BAR, axis=0))
    least, middle, most = number_texts((low, (low + high) / 2, high))
    sheet.text((x, y + 62), least, 15, SOFT)
    if high > low:
        sheet.text((x + (width - width_of(middle, 15)) / 2, y + 62), middle, 15, SOFT)
        sheet.text((x + width, y + 62), most, 15, SOFT, right=True)


@dataclass(frozen=True)
class HeatTileSettings:
    """Where coordinates start.

    Args:
        frame: As `GeoJSONSettings` has it.

    Raises:
        UnknownNameError: When the frame is none.
    """

    frame: CoordinateFrame = "qupath"

    def __post_init__(self) -> None:
        check_frame(self.frame)


def write_heat_tiles(
    evidence: EvidenceMap, path: Path, settings: HeatTileSettings | None = None, *, overwrite: bool = False
) -> None:
    """Writes the observed cells as tile objects, their evidence as a measurement, for QuPath's measurement maps.

    A tile has no class: what its cell holds is not known, only how much it spoke for the slide's.

    Args:
        evidence: Of the slide.
        path: Ends in .geojson or .json; .gz or .zip behind it compresses.
        settings: Where coordinates start; None for QuPath's frame.
        overwrite: Replace a file that is there.

    Raises:
        ExistingOutputError: When the file is there and may not be replaced.
        InputError: When the file's name would keep QuPath from opening it.
    """
    settings = settings or HeatTileSettings()
    about = describe(evidence, "counterstain.evidence", settings.frame, asdict(settings))
    write_features(path, _tiles(evidence, settings.frame), about, overwrite=overwrite)


def _tiles(evidence: EvidenceMap, frame: CoordinateFrame) -> Iterator[Mapping[str, Any]]:
    offset, bounds = frame_offset(evidence, frame), evidence.slide.bounds
    for row, column in np.argwhere(evidence.observed).tolist():
        place = evidence.frame.to_level0(Box(column, row, 1, 1)).intersection(bounds)
        if place.is_empty:
            continue
        place = place.shifted(-offset.x, -offset.y)
        yield feature(
            shapely.box(place.x, place.y, place.right, place.bottom),
            feature_id(evidence.inputs_hash, f"cell {row} {column}"),
            "tile",
            None,
            {f"Evidence: {evidence.positive}": float(evidence.evidence_HW[row, column])},
        )


def write_heat_ome_tiff(evidence: EvidenceMap, path: Path, *, overwrite: bool = False) -> None:
    """Writes the evidence as a float32 channel, a pixel for each cell, NaN where nothing was observed.

    Raises:
        ExistingOutputError: When the file is there and may not be replaced.
        InputError: When the file's name would keep readers from knowing it.
    """
    channel = f"evidence for {evidence.positive}"
    about = {"evidence": "in the network's own unit, unscaled; of a slide's label, no outline"}
    write_values(evidence, path, {channel: evidence.evidence_HW}, about, overwrite=overwrite)
