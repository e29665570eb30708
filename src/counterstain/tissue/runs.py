"""The run-length filter: cells of a slide with much change in them are tissue of interest.

A slide is cut into square cells of a fixed size in um, each read at a fixed number of pixels, since the number of runs
depends on the scale. A cell's grey values are quantised and counted in runs of equal values along its rows: glass, ink and
smooth tissue give few runs, nuclei many. The scores of all cells are sorted and a threshold is put between the two kinds.

Does not know: colours, polygons.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError, UnsupportedSlideError
from counterstain.geometry import Box, Frame, Size
from counterstain.slides.base import Slide
from counterstain.tissue.glass import otsu

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_STRIP_PX = 1 << 24  # pixels of the view in memory at a time
_COARSEST = 2.0  # times the resolution that cells are read at: beyond it, interpolation smooths what should be counted


@dataclass(frozen=True)
class RunsSettings:
    """The run-length filter's recipe.

    Args:
        cell_um: Width and height of a cell: 256 pixels of 0.25 um/px.
        cell_px: Pixels a cell is read at. The paper resizes to 112; 64 are one level of the usual pyramid.
        step: Grey values that count as equal: 1 would find "change" in the noise of empty glass.
        box_px: Pixels, along each side, that are averaged into one before the runs are counted.
        threshold: How the threshold is put: "otsu" on the scores, "gap" in the widest gap of their middle, "fixed".
        clamp: The smallest and largest threshold that "otsu" and "gap" may give.
        fixed: The threshold of "fixed".

    Raises:
        InputError: When a number is out of its range.

    Source: DSNet (IEEE TMI 2022, arXiv 2109.05788), section IV-C and figure 5. It gives no numbers; these are ours: with
        them, glass scores near 0, ink and smooth tissue near 0.15, cells full of nuclei above 0.5.
    """

    cell_um: float = 64.0
    cell_px: int = 64
    step: int = 16
    box_px: int = 2
    threshold: Literal["otsu", "gap", "fixed"] = "otsu"
    clamp: tuple[float, float] = (0.15, 0.4)
    fixed: float = 0.3

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cell_um) and self.cell_um > 0):
            raise InputError(f"Cells of {self.cell_um} um were given; give a number above 0, 64 for instance.")
        if self.box_px < 1 or self.cell_px < self.box_px or self.cell_px % self.box_px:
            raise InputError(
                f"Cells of {self.cell_px} px averaged over {self.box_px} px were given; give a multiple of the second."
            )
        if not 1 <= self.step <= 255:
            raise InputError(f"A grey step of {self.step} was given; give 1 to 255, 16 for instance.")
        if self.threshold not in ("otsu", "gap", "fixed"):
            raise InputError(f"Threshold {self.threshold!r} was given; give 'otsu', 'gap' or 'fixed'.")
        if not 0 <= self.clamp[0] <= self.clamp[1] <= 1:
            raise InputError(f"A clamp of {self.clamp} was given; give the smaller limit first, both in 0 to 1.")


@dataclass(frozen=True, eq=False)
class RunScores:
    """The run-length filter's scores, kept to look at.

    Args:
        scores: (H, W) float32 in (0, 1]: runs for each pixel of a cell.
        frame: A pixel is a cell.
        threshold: Cells above it are tissue of interest.
    """

    scores: Floats
    frame: Frame
    threshold: float

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """(H, W) bool: the cells of interest."""
        return self.scores > self.threshold


def score_runs(slide: Slide, settings: RunsSettings) -> RunScores:
    """Scores every cell of a slide's scanned part, a few rows of cells in memory at a time.

    Raises:
        UnsupportedSlideError: When the slide is so coarse that its cells hold no detail.
        MissingResolutionError: When the slide's resolution is unknown.
        DamagedSlideError: When the pixels can't be decoded.
    """
    needed = settings.cell_um / settings.cell_px
    if slide.mpp.mean > _COARSEST * needed:
        raise UnsupportedSlideError(
            f"Slide '{slide.path}' has {slide.mpp.mean:.3g} um/px; the run-length filter reads {needed:.3g} um/px and "
            f"expects at most {_COARSEST * needed:.3g}. Find its tissue by the method 'otsu'."
        )
    frame = Frame.covering(slide.bounds, slide.mpp, settings.cell_um)
    size, cell = frame.size, settings.cell_px
    rows = max(1, _STRIP_PX // (size.width * cell * cell))
    strips = []
    for top in range(0, size.height, rows):
        height = min(rows, size.height - top)
        box = frame.to_level0(Box(0, top, size.width, height))
        view = slide.read_resized(box, Size(size.width * cell, height * cell))
        strips.append(cell_scores(view, settings))
    scores = np.concatenate(strips)
    return RunScores(scores, frame, runs_threshold(scores, settings))


def cell_scores(view: Pixels, settings: RunsSettings) -> Floats:
    """The score of each cell of a view.

    Args:
        view: (rows * cell_px, columns * cell_px, 3) uint8 RGB.
        settings: The recipe.

    Returns:
        (rows, columns) float32 in (0, 1]: R / n, R = 1 + the number of changes along a raster scan of the n values.
    """
    cell = settings.cell_px
    # row by row: what is made of one stays in the processor's cache
    rows = [_row_scores(view[top : top + cell], settings) for top in range(0, len(view) // cell * cell, cell)]
    return np.stack(rows)


def _row_scores(view: Pixels, settings: RunsSettings) -> Floats:
    """(columns,) float32, of one row of cells."""
    cell, box = settings.cell_px, settings.box_px
    columns, side = view.shape[1] // cell, cell // box
    whole: Any = np.uint16 if 3 * box * box * 255 < 1 << 16 else np.uint32
    down = view[::box].astype(whole)
    for row in range(1, box):
        down += view[row::box]
    # a product with ones, exact in float32 up to 2 ** 24, adds short runs several times as fast as a sum
    sums = (down.reshape(-1, 3 * box).astype(np.float32) @ np.ones(3 * box, np.float32)).astype(whole)
    # floor(mean / step) without floats
    levels = sums // whole(3 * box * box * settings.step)
    scan = levels.reshape(side, columns, side).transpose(1, 0, 2).reshape(columns, side * side)
    changes = np.count_nonzero(scan[:, 1:] != scan[:, :-1], axis=1)
    scores: Floats = ((1 + changes) / (side * side)).astype(np.float32)
    return scores


def runs_threshold(scores: Floats, settings: RunsSettings) -> float:
    """The threshold between smooth cells and rich ones.

    Args:
        scores: Any shape, at least one.
        settings: How to put it, and the clamp.
    """
    if settings.threshold == "fixed":
        return settings.fixed
    low, high = np.percentile(scores, (1, 99))
    middle = np.sort(scores[(scores >= low) & (scores <= high)].astype(np.float64).ravel())
    found = otsu(middle) if settings.threshold == "otsu" else _widest_gap(middle)
    return float(np.clip(found, *settings.clamp))


def _widest_gap(ordered: npt.NDArray[np.float64]) -> float:
    gaps = np.diff(ordered)
    if gaps.size == 0:
        return float(ordered[0])
    place = int(gaps.argmax())
    return float((ordered[place] + ordered[place + 1]) / 2)
