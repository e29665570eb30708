"""Which cells of a slide are looked at, kept on disk with the slide's thumbnail.

    slide -> tissue mask (find.py) and run lengths (runs.py) -> observed cells -> tightest box of whole cells -> cells.zarr

Square cells of a fixed size in um are laid over the scanned part of a slide. A cell is observed when its pixels change
often (DSNet's run-length filter), when enough of it is tissue, or when both hold. What lies around the observed ones is cut
off.

Shapes: H W rows and columns of cells.
Does not know: encoders, features.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from counterstain.data.cell_files import CellGrid, are_cells_kept, outline_hash, read_cells, write_cells
from counterstain.data.thumbnail import read_thumbnail
from counterstain.errors import ExistingOutputError, InputError, NoTissueError, UnknownNameError, UnsupportedSlideError
from counterstain.files import settings_hash, whole_hash
from counterstain.geometry import Frame, Point, Size
from counterstain.settings import build, to_tree
from counterstain.slides.base import Slide
from counterstain.tissue import RunScores, RunsSettings, Tissue, TissueSettings, find_tissue, score_runs

OUTLINE = "tissue.geojson"
"""Beside the cells: the tissue that they were chosen by, to look at and mend."""

FILTERS = ("runs", "otsu", "runs_and_tissue")

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CellSettings:
    """How a slide is cut into cells, and which of them are looked at.

    Args:
        cell_um: Width and height of a cell: 256 pixels of 0.25 um/px.
        filter: "runs": cells with much change in them, as DSNet has it; "otsu": cells with enough tissue in them;
            "runs_and_tissue": both, so that what has much change but is no tissue (pen marks, dust, letters) is left out.
        min_tissue: The share of a cell that must be tissue, where tissue counts.
        tissue: How tissue is found, and the run-length filter's recipe. Its cells are this cell size, read at its um/px.

    Raises:
        InputError: When a number is out of its range, or the filter unknown.

    Source: DSNet (arXiv 2109.05788), section IV-C. To ask for tissue as well is ours: slides have letters and pen marks.
    """

    cell_um: float = 64.0
    filter: Literal["runs", "otsu", "runs_and_tissue"] = "runs_and_tissue"
    min_tissue: float = 0.25
    tissue: TissueSettings = field(default_factory=TissueSettings)

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise UnknownNameError("filter of cells", self.filter, FILTERS)
        if not (math.isfinite(self.cell_um) and self.cell_um > 0):
            raise InputError(f"Cells of {self.cell_um} um were given; give a number above 0, 64 for instance.")
        if not 0 < self.min_tissue <= 1:
            raise InputError(f"A share of tissue of {self.min_tissue} was given; give one above 0 and at most 1.")

    @property
    def runs(self) -> RunsSettings:
        """The run-length filter's recipe for cells of this size: runs are counted at its own um/px."""
        own = self.tissue.runs
        boxes = max(1, round(self.cell_um * own.cell_px / own.cell_um / own.box_px))
        return replace(own, cell_um=self.cell_um, cell_px=boxes * own.box_px)


DEFAULT = CellSettings()


def settings_of(chosen: Mapping[str, Any], cell_um: float) -> CellSettings | None:
    """The settings that cells were chosen with, as `how_chosen` tells of them; None for imported cells, and untold ones.

    Args:
        chosen: Plain values.
        cell_um: Width and height of a cell.
    """
    if chosen.get("filter") not in FILTERS:
        return None
    return build(CellSettings, {**chosen, "cell_um": cell_um})


def find_cells(slide: Slide, settings: CellSettings = DEFAULT, tissue: Tissue | None = None) -> CellGrid:
    """Chooses a slide's cells and reads its thumbnail.

    Args:
        slide: Of known resolution.
        settings: How.
        tissue: Where tissue lies, as a person outlined it; found where None. With the filter "runs" it is not looked at.

    Raises:
        MissingResolutionError: When the slide's resolution is unknown.
        UnsupportedSlideError: When it is too coarse for the run-length filter, or its background is dark.
        NoTissueError: When no cell is left.
        DamagedSlideError: When the pixels can't be decoded.
    """
    return _choose(slide, settings, tissue)[0]


def _choose(slide: Slide, settings: CellSettings, tissue: Tissue | None) -> tuple[CellGrid, Tissue | None]:
    """The cells, and the tissue that they were chosen by."""
    record, inputs_hash = slide.record(), _inputs_hash(slide, settings, tissue)
    frame = Frame.covering(slide.bounds, slide.mpp, settings.cell_um)
    observed_HW: Mask = np.ones(frame.size.shape, np.bool_)
    scores = None
    if settings.filter != "otsu":
        scores = _runs(slide, settings)
        observed_HW &= scores.mask
    if settings.filter != "runs":
        tissue = find_tissue(slide, replace(settings.tissue, method="otsu")) if tissue is None else tissue
        observed_HW &= coverage(tissue, frame) >= settings.min_tissue
    if not observed_HW.any():
        raise NoTissueError(
            f"No cell of {settings.cell_um:g} um on slide '{slide.path}' passes the filter {settings.filter!r}. Look at "
            "the slide; pass another filter as --cells, or leave the slide out."
        )
    rows, columns = (_span(np.flatnonzero(observed_HW.any(axis))) for axis in (1, 0))
    cropped = _cropped(frame, rows, columns)
    grid = CellGrid(
        frame=cropped,
        observed_HW=observed_HW[rows, columns],
        cell_um=settings.cell_um,
        inputs_hash=inputs_hash,
        thumbnail_HWC=read_thumbnail(slide, cropped),
        run_scores_HW=None if scores is None else scores.scores[rows, columns],
        slide=record,
        chosen={**to_tree(settings), **({} if scores is None else {"run_threshold": scores.threshold})},
    )
    return grid, tissue


def keep_cells(
    slide: Slide,
    folder: Path,
    settings: CellSettings = DEFAULT,
    tissue: Tissue | None = None,
    *,
    overwrite: bool = False,
) -> CellGrid:
    """The cells that a slide's folder holds, or finds them and keeps them there, with the outline of the tissue.

    An outline that was changed since it was written, or that a person put there, is never replaced.

    Args:
        slide: Of known resolution.
        folder: Of the slide.
        settings: How cells are chosen.
        tissue: As for `find_cells`.
        overwrite: Whether cells of another slide or other settings are replaced instead of refused.

    Raises:
        StaleResultError: When the folder holds cells of another slide or other settings and `overwrite` is not set.
        ExistingOutputError: When tissue was to be found and a person's outline lies in the folder.
        MissingResolutionError, UnsupportedSlideError, NoTissueError, DamagedSlideError: As `find_cells`.
    """
    if are_cells_kept(folder, _inputs_hash(slide, settings, tissue), overwrite=overwrite):
        return read_cells(folder)
    grid, looked_at = _choose(slide, settings, tissue)
    written = None if looked_at is None else _keep_outline(looked_at, folder, overwrite, is_given=tissue is not None)
    grid = replace(grid, chosen={**grid.chosen, "outline_hash": written})
    write_cells(folder, grid)
    return grid


def _keep_outline(tissue: Tissue, folder: Path, overwrite: bool, *, is_given: bool) -> str | None:
    """Writes the outline beside the cells, unless what lies there is a person's; the hash of what was written."""
    path, new = folder / OUTLINE, folder / f".{OUTLINE}"
    tissue.save(new)
    own, before = whole_hash(new), whole_hash(path) if path.exists() else None
    is_told, written = outline_hash(folder)
    # cells of an earlier version don't say what was written beside them
    is_ours = before in (None, own, written) or (overwrite and not is_told and not is_given)
    if is_ours:
        new.replace(path)
        return own
    new.unlink()
    if is_given:
        return None
    raise ExistingOutputError(
        f"{path} is not the outline that was found here. Pass it as --outline to choose cells by it, or move it away."
    )


def coverage(tissue: Tissue, frame: Frame) -> npt.NDArray[np.float64]:
    """The share of each cell that is tissue.

    Args:
        tissue: In any frame of the same slide.
        frame: A pixel of it is a cell.

    Returns:
        (H, W) float64 in [0, 1], exact: a pixel of the mask counts by what of it lies in the cell.
    """
    own = tissue.frame
    rows = _edges(frame.origin.y, frame.downsample_y, frame.size.height, own.origin.y, own.downsample_y)
    columns = _edges(frame.origin.x, frame.downsample_x, frame.size.width, own.origin.x, own.downsample_x)
    covered = _between(_between(tissue.mask.astype(np.float64), rows).T, columns).T
    cell_px = frame.downsample_y / own.downsample_y * frame.downsample_x / own.downsample_x
    return (covered / cell_px).clip(0, 1)


def _edges(start: float, step: float, num: int, own_start: float, own_step: float) -> npt.NDArray[np.float64]:
    """Where the edges of cells lie along an axis of the mask, in its pixels."""
    return (start + np.arange(num + 1, dtype=np.float64) * step - own_start) / own_step


def _between(values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sums of rows between edges, parts of rows by their share; there is nothing beyond the first and the last row."""
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    places = edges.clip(0, len(values))
    first = np.minimum(places.astype(np.int64), len(values) - 1)
    share = (places - first)[:, None]
    return np.diff(sums[first] * (1 - share) + sums[first + 1] * share, axis=0)


def _runs(slide: Slide, settings: CellSettings) -> RunScores:
    try:
        return score_runs(slide, settings.runs)
    except UnsupportedSlideError as error:
        raise UnsupportedSlideError(
            f"Slide '{slide.path}' has {slide.mpp.mean:.3g} um/px, too coarse for the run-length filter to tell nuclei "
            "from smooth tissue. Pass --cells otsu, or scan it finer."
        ) from error


def _span(places: npt.NDArray[np.int64]) -> slice:
    return slice(int(places[0]), int(places[-1]) + 1)


def _cropped(frame: Frame, rows: slice, columns: slice) -> Frame:
    x = frame.origin.x + columns.start * frame.downsample_x
    y = frame.origin.y + rows.start * frame.downsample_y
    size = Size(columns.stop - columns.start, rows.stop - rows.start)
    return Frame(Point(x, y), frame.downsample_x, frame.downsample_y, size)


def _inputs_hash(slide: Slide, settings: CellSettings, tissue: Tissue | None) -> str:
    """Of everything that changes the cells. The slide may have moved: its path is left out."""
    record = slide.record()
    seen: list[Any] = [record.content_hash, record.size, record.mpp, record.bounds]
    return settings_hash(seen, settings, None if tissue is None else tissue.content_hash())
