"""The cells with most evidence, cut from the slide: a sheet to look at, and a table of their places.

Each is shown with half a cell of its surroundings on every side, its own border drawn; a small view of the slide says where
they lie. These are the places that a pathologist would look at first to agree or to disagree.

Does not know: how evidence comes about.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from counterstain.errors import InputError
from counterstain.export.heat import draw_heading, number_texts
from counterstain.export.picture import GAP, INK, MARGIN, SOFT, draw_framed, panel_size, scale_bar, write_picture
from counterstain.export.sheet import Sheet, fitted, width_of
from counterstain.files import refuse_overwrite, write_text
from counterstain.geometry import Box, Size
from counterstain.infer.evidence import EvidenceMap
from counterstain.results import SlideScore
from counterstain.slides import Slide

_HEADING = 168
_UNDER = 50  # height of the words under a tile
_LOCATOR = 340


@dataclass(frozen=True)
class TopTileSettings:
    """How many cells are shown, and how large.

    Args:
        count: Cells; fewer where fewer were observed.
        tile_px: Width of a shown cell with its surroundings.
        columns: Cells side by side.
        around: Of a cell's width, shown on every side of it.

    Raises:
        InputError: When they make no sheet.
    """

    count: int = 12
    tile_px: int = 240
    columns: int = 4
    around: float = 0.5

    def __post_init__(self) -> None:
        if self.count < 1 or self.tile_px < 48 or self.columns < 1 or self.around < 0:
            raise InputError(
                f"{self.count} cells of {self.tile_px} px in {self.columns} columns with {self.around} cells around each "
                "were asked for; give at least 1 cell, 48 px, 1 column and 0 around."
            )


@dataclass(frozen=True)
class TopTile:
    """A cell with much evidence.

    Args:
        rank: From 1, the most.
        row: Of the grid.
        column: Of the grid.
        place: Level-0 pixels.
        evidence: In the network's own unit.
    """

    rank: int
    row: int
    column: int
    place: Box
    evidence: float


def top_tiles(evidence: EvidenceMap, count: int) -> tuple[TopTile, ...]:
    """The observed cells with most evidence, the most first; of equals the upper left one."""
    rows, columns = np.nonzero(evidence.observed)
    values = evidence.evidence_HW[rows, columns]
    best = np.argsort(-values, kind="stable")[:count]
    return tuple(
        TopTile(rank, row, column, evidence.frame.to_level0(Box(column, row, 1, 1)), value)
        for rank, (row, column, value) in enumerate(
            zip(rows[best].tolist(), columns[best].tolist(), values[best].tolist(), strict=True), start=1
        )
    )


def write_top_table(evidence: EvidenceMap, path: Path, count: int = 12, *, overwrite: bool = False) -> None:
    """Writes the places as CSV: level-0 pixels from the corner of level 0, and um from that of the scanned part.

    Raises:
        ExistingOutputError: When the file is there and may not be replaced.
    """
    if not overwrite:
        refuse_overwrite(path)
    bounds, mpp = evidence.slide.bounds, evidence.slide.mpp
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("rank", "evidence", "x", "y", "width", "height", "x_um", "y_um", "row", "column"))
    for tile in top_tiles(evidence, count):
        place = tile.place
        um = ((place.x - bounds.x) * mpp.x, (place.y - bounds.y) * mpp.y)
        sides = [f"{value:.10g}" for value in (place.x, place.y, place.width, place.height, *um)]
        table.writerow((tile.rank, f"{tile.evidence:.9g}", *sides, tile.row, tile.column))
    write_text(path, text.getvalue())


def write_top_tiles(
    evidence: EvidenceMap,
    score: SlideScore,
    path: Path,
    slide: Slide | None = None,
    settings: TopTileSettings | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Writes the sheet as PNG.

    Args:
        evidence: Of the slide.
        score: What is said of it, for the heading.
        path: The PNG.
        slide: What the evidence was made from; None to open it where it lay then.
        settings: How many and how large; None for the defaults.
        overwrite: Replace a file that is there.

    Raises:
        ExistingOutputError, MissingFileError, SlideError: As `write_picture`.
    """
    chosen = settings or TopTileSettings()
    write_picture(
        evidence, path, lambda source: draw_top_tiles(evidence, score, source, chosen), slide, overwrite=overwrite
    )


def draw_top_tiles(evidence: EvidenceMap, score: SlideScore, slide: Slide, settings: TopTileSettings) -> Sheet:
    """The sheet before it is written."""
    tiles = top_tiles(evidence, settings.count)
    layout = TopLayout.of(evidence, settings, len(tiles))
    sheet = Sheet(layout.width, layout.height)
    width = layout.width - 2 * MARGIN
    draw_heading(sheet, evidence, score, width)
    _draw_locator(sheet, evidence, slide, layout, tiles)
    numbers = number_texts([tile.evidence for tile in tiles])
    for tile, number, corner in zip(tiles, numbers, layout.corners, strict=True):
        _draw_view(sheet, slide, tile.place, corner, layout.tile, settings.around)
        _draw_words(sheet, tile, number, corner, layout.tile)
    if tiles:
        _draw_tile_scale(sheet, evidence, tiles[0], layout, settings)
    base = layout.height - MARGIN
    words = f"Evidence of a slide label, not an outline of {evidence.positive}."
    sheet.text((MARGIN, base), fitted(words, 17, width, bold=True), 17, INK, bold=True)
    return sheet


@dataclass(frozen=True)
class TopLayout:
    """Where everything stands, in pixels of the sheet.

    Args:
        width: Of the sheet.
        height: Likewise.
        locator: Upper left corner of the small view.
        view: Its size.
        tile: Of a shown cell.
        corners: Upper left corners of the cells' pictures.
    """

    width: int
    height: int
    locator: tuple[int, int]
    view: Size
    tile: Size
    corners: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, evidence: EvidenceMap, settings: TopTileSettings, count: int) -> Self:
        """The layout for a number of cells and a slide's shape."""
        view = panel_size(evidence.slide, _LOCATOR)
        side = settings.tile_px
        left, top = MARGIN + view.width + GAP + 8, _HEADING + 34
        corners = tuple(
            (left + number % settings.columns * (side + 20), top + number // settings.columns * (side + _UNDER + 12))
            for number in range(count)
        )
        columns = settings.columns
        right = max(left + columns * (side + 20) - 20, MARGIN + 760)
        bottom = max([top + view.height, *(y + side + _UNDER for _, y in corners)])
        return cls(right + MARGIN, bottom + 54 + MARGIN, (MARGIN, top), view, Size(side, side), corners)


def _draw_locator(
    sheet: Sheet, evidence: EvidenceMap, slide: Slide, layout: TopLayout, tiles: Sequence[TopTile]
) -> None:
    x, y = layout.locator
    bounds = evidence.slide.bounds
    sheet.text((x, y - 12), "Where they lie", 17, SOFT)
    draw_framed(sheet, layout.locator, slide.read_resized(bounds, layout.view))
    scale_x, scale_y = layout.view.width / bounds.width, layout.view.height / bounds.height
    for tile in tiles:
        place = tile.place.shifted(-bounds.x, -bounds.y).scaled(scale_x, scale_y)
        side_x, side_y = max(place.width, 7), max(place.height, 7)
        corner = (x + place.x + (place.width - side_x) / 2, y + place.y + (place.height - side_y) / 2)
        sheet.box(corner, (side_x, side_y), fill=False, ec="white", lw=2.6)
        sheet.box(corner, (side_x, side_y), fill=False, ec=INK, lw=1.3)
    um_per_px = bounds.width * evidence.slide.mpp.x / layout.view.width
    _draw_bar(sheet, (x, y + layout.view.height + 14), um_per_px, max(60, 0.4 * layout.view.width))


def _draw_view(sheet: Sheet, slide: Slide, place: Box, corner: tuple[int, int], size: Size, around: float) -> None:
    """A cell with what lies around it, its border drawn."""
    x, y = corner
    draw_framed(sheet, corner, slide.read_resized(place.grown(around * place.width, around * place.height), size))
    inset_x, inset_y = (side * around / (1 + 2 * around) for side in (size.width, size.height))
    own = (size.width - 2 * inset_x, size.height - 2 * inset_y)
    sheet.box((x + inset_x, y + inset_y), own, fill=False, ec="white", lw=2.2)
    sheet.box((x + inset_x, y + inset_y), own, fill=False, ec=INK, lw=1.0)


def _draw_words(sheet: Sheet, tile: TopTile, number: str, corner: tuple[int, int], size: Size) -> None:
    x, base = corner[0], corner[1] + size.height + 22
    rank = f"{tile.rank}"
    sheet.text((x, base), rank, 16, INK, bold=True)
    sheet.text((x + width_of(rank, 16, bold=True) + 10, base), f"evidence {number}", 16, INK)
    place = tile.place
    words = f"x {place.x + place.width / 2:,.0f}   y {place.y + place.height / 2:,.0f} px"
    sheet.text((x, base + 22), fitted(words, 14, size.width), 14, SOFT)


def _draw_tile_scale(
    sheet: Sheet, evidence: EvidenceMap, tile: TopTile, layout: TopLayout, settings: TopTileSettings
) -> None:
    """One bar above the cells for all of them: they have one scale."""
    left, top = layout.corners[0]
    um_per_px = tile.place.width * (1 + 2 * settings.around) * evidence.slide.mpp.x / layout.tile.width
    most = 0.4 * layout.tile.width
    width = settings.columns * (layout.tile.width + 20) - 20
    length, text = scale_bar(most, um_per_px)
    bar = length + width_of(text, 15, bold=True) + 10
    words = "Cells with most evidence, level-0 places of their centres"
    sheet.text((left, top - 12), fitted(words, 17, width - bar - 20), 17, SOFT)
    _draw_bar(sheet, (left + width - bar, top - 17), um_per_px, most)


def _draw_bar(sheet: Sheet, corner: tuple[float, float], um_per_px: float, most: float) -> None:
    """A scale bar no longer than `most` pixels, its length beside it."""
    x, y = corner
    length, text = scale_bar(most, um_per_px)
    sheet.box((x, y), (length, 5), fc=INK, ec="none")
    sheet.text((x + length + 10, y + 7), text, 15, INK, bold=True)
