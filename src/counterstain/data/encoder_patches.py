"""Cells to train an encoder on: drawn at random from slides, without labels.

    slide -> overview -> random corners -> cells, nearly all of them on tissue   (seeded by the slide's content)

What is drawn from a slide hangs on the slide, the seed and the settings alone, and is kept in a file, so that a training
that was killed reads no slide twice.

An encoder learns from training slides only. The paper also drew cells from validation slides: without labels, but
embeddings that have learned from a slide know it better than a new one, and what is measured on it says too much (a
transductive leak). Validation and test slides are therefore never given here.

Shapes: N cells, P x P pixels of a cell.
Does not know: encoders, splits, labels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt

from counterstain import log
from counterstain.data.cell_files import array_hash
from counterstain.errors import InputError, NoTissueError, StaleResultError, UnsupportedSlideError
from counterstain.files import atomic, file_hash, settings_hash
from counterstain.geometry import Box, Size
from counterstain.slides import Slide, open_slide

READING: Final = "scaled"
"""How cells are read, as `Slide.read_scaled` tells: in training as in prediction. Features read otherwise are others."""

CELL_UM = 64.0
"""Width and height of a cell: 256 pixels of 0.25 um/px (DSNet, arXiv 2109.05788, section IV-C)."""

_OVERVIEW_PX = 4  # pixels of the overview to a cell
_SURELY_BRIGHT = 20.0  # grey values above the limit at which the overview is believed without reading the cell
_MOST_TRIES = 200  # corners for each cell that is wanted


@dataclass(frozen=True)
class DrawSettings:
    """How cells are drawn.

    Args:
        num_per_slide: Cells of each slide.
        cell_um: Width and height of a cell.
        input_px: Width and height at which a cell is read.
        seed: Of all draws.
        dark_share: The part of the cells, at least, that are dark: stained, that is.
        limit: A cell is dark where the mean of each of its channels is below this grey value.
        reading: As `READING` has it.

    Raises:
        InputError: When a number is out of its range.

    Source: DSNet (arXiv 2109.05788), section IV-D: "at least 90 %" of cells with channel means below 0.7 x 255, 600 cells a
        slide of Camelyon16 and 100 of TCGA.
    """

    num_per_slide: int = 600
    cell_um: float = CELL_UM
    input_px: int = 112
    seed: int = 0
    dark_share: float = 0.9
    limit: float = 0.7 * 255
    reading: Literal["scaled"] = READING

    def __post_init__(self) -> None:
        if min(self.num_per_slide, self.input_px) < 1:
            raise InputError(
                f"{self.num_per_slide} cells of {self.input_px} px were to be drawn from a slide; give 1 or more of each."
            )
        if not (math.isfinite(self.cell_um) and self.cell_um > 0):
            raise InputError(f"Cells of {self.cell_um} um were given; give a number above 0, {CELL_UM:g} for instance.")
        if not 0 <= self.dark_share <= 1:
            raise InputError(f"dark_share was given as {self.dark_share}; give a share from 0 to 1.")


@dataclass(frozen=True, eq=False)
class DrawnCells:
    """Cells of one slide or several.

    Args:
        pixels_NPP3: (N, P, P, 3) uint8 RGB.
        slide_N: int32, the position of each cell's slide in `names`.
        corners_N2: int64 (x, y), level-0 pixels, the left upper corner of each.
        names: Of the slides.
        hashes: Of the slides' content, in the same order.
        settings: How they were drawn.
    """

    pixels_NPP3: npt.NDArray[np.uint8]
    slide_N: npt.NDArray[np.int32]
    corners_N2: npt.NDArray[np.int64]
    names: tuple[str, ...]
    hashes: tuple[str, ...]
    settings: DrawSettings

    def __len__(self) -> int:
        return len(self.pixels_NPP3)

    def digest(self) -> str:
        """Of what was drawn from which slides, wherever they lie: at another resolution the same slide has other cells."""
        drawn = [array_hash(array) for array in (self.slide_N, self.corners_N2, self.pixels_NPP3)]
        return settings_hash("cells", self.hashes, drawn, self.settings)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The cells of several draws, one after the other.

        Raises:
            InputError: When there are none, or they were drawn otherwise.
        """
        if not parts or any(part.settings != parts[0].settings for part in parts):
            raise InputError(
                f"{len(parts)} draws of cells were to be joined; give one or more, all drawn with the same settings."
            )
        starts = np.cumsum([0, *(len(part.names) for part in parts[:-1])])
        return cls(
            np.concatenate([part.pixels_NPP3 for part in parts]),
            np.concatenate([part.slide_N + start for part, start in zip(parts, starts, strict=True)]).astype(np.int32),
            np.concatenate([part.corners_N2 for part in parts]),
            tuple(name for part in parts for name in part.names),
            tuple(one for part in parts for one in part.hashes),
            parts[0].settings,
        )


def draw_cells(
    slides: Sequence[Path | str | Slide], settings: DrawSettings | None = None, kept: Path | None = None
) -> DrawnCells:
    """Draws cells from every slide; a slide that fails ends it.

    Args:
        slides: Training slides, files or open ones.
        settings: How.
        kept: A folder of what was drawn before, a file for each slide; slides found there are not read again.

    Raises:
        InputError: When there is no slide.
        NoTissueError: When a slide has too little that is stained.
        UnsupportedSlideError: When a slide is smaller than a cell.
        MissingResolutionError: When a slide's resolution is unknown.
        DamagedSlideError: When pixels can't be decoded.
    """
    settings = DrawSettings() if settings is None else settings
    if not slides:
        raise InputError("No slides were given to draw cells from. Give the training slides.")
    with log.progress("drawing cells", len(slides), "slides") as counter:
        parts = []
        for slide in slides:
            parts.append(draw_slide_cells(slide, settings, kept))
            counter.advance()
    return DrawnCells.joined(parts)


def draw_slide_cells(slide: Slide | Path | str, settings: DrawSettings, kept: Path | None = None) -> DrawnCells:
    """Draws cells from one slide, at random places of its scanned part.

    Args:
        slide: A training slide, a file or an open one.
        settings: How.
        kept: As `draw_cells` takes it.

    Returns:
        `settings.num_per_slide` cells, or fewer where more dark ones were not found, which is said.

    Raises:
        NoTissueError: When not one dark cell was found.
        UnsupportedSlideError: When the slide is smaller than a cell.
        MissingResolutionError: When its resolution is unknown.
        DamagedSlideError: When pixels can't be decoded.
        StaleResultError: When what was kept can't be read.
    """
    path = Path(slide.path if isinstance(slide, Slide) else slide)
    content = file_hash(path)
    if kept is None:
        return _draw(slide, path, content, settings)
    # A resolution that the user gave stands in no file: cells of another one are other cells.
    mpp = (slide.mpp.x, slide.mpp.y) if isinstance(slide, Slide) else None
    file = kept / f"{settings_hash(content, settings, mpp)[:16]}.npz"
    if file.exists():
        return replace(_read(file, settings, content), names=(path.name,))
    drawn = _draw(slide, path, content, settings)
    with atomic(file) as temporary:
        np.savez(temporary, pixels=drawn.pixels_NPP3, corners=drawn.corners_N2)
    return drawn


def drawn_pixels(file: Path) -> npt.NDArray[np.uint8]:
    """(N, P, P, 3) uint8: the cells that are kept in a file.

    Raises:
        StaleResultError: When they can't be read.
    """
    return _arrays(file)[0]


def _arrays(file: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Pixels and corners."""
    import zipfile

    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["pixels"], arrays["corners"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StaleResultError(
            f"{file} holds no cells that can be read ({error}). Remove it to draw them anew."
        ) from error


def _read(file: Path, settings: DrawSettings, content: str) -> DrawnCells:
    pixels, corners = _arrays(file)
    return DrawnCells(pixels, np.zeros(len(pixels), np.int32), corners, (file.name,), (content,), settings)


def _draw(slide: Slide | Path | str, path: Path, content: str, settings: DrawSettings) -> DrawnCells:
    opened = slide if isinstance(slide, Slide) else open_slide(slide)
    try:
        pixels, corners = _chosen(opened, content, settings)
    finally:
        if opened is not slide:
            opened.close()
    if len(pixels) < settings.num_per_slide:
        log.say(
            f"Slide '{path}': {len(pixels)} of {settings.num_per_slide} cells to train an encoder were found; the others "
            f"were too bright: a channel's mean is {settings.limit:g} or more, of 255."
        )
    return DrawnCells(
        np.stack(pixels),
        np.zeros(len(pixels), np.int32),
        np.array(corners, np.int64).reshape(-1, 2),
        (path.name,),
        (content,),
        settings,
    )


def _chosen(
    slide: Slide, content: str, settings: DrawSettings
) -> tuple[list[npt.NDArray[np.uint8]], list[tuple[int, int]]]:
    """Dark cells and, among every ten of them, one that may be bright."""
    bounds, width, height = slide.bounds, settings.cell_um / slide.mpp.x, settings.cell_um / slide.mpp.y
    if bounds.width < width or bounds.height < height:
        raise UnsupportedSlideError(f"Slide '{slide.path}' is smaller than a cell of {settings.cell_um:g} um.")
    seems_bright = _overview(slide, settings)
    random = np.random.default_rng([settings.seed, int(content[:15], 16)])
    size = Size(settings.input_px, settings.input_px)
    wanted_dark = math.ceil(settings.dark_share * settings.num_per_slide)
    dark: list[tuple[npt.NDArray[np.uint8], tuple[int, int]]] = []
    bright: list[tuple[npt.NDArray[np.uint8], tuple[int, int]]] = []
    for _ in range(_MOST_TRIES * settings.num_per_slide):
        x = math.floor(bounds.x + random.random() * (bounds.width - width))
        y = math.floor(bounds.y + random.random() * (bounds.height - height))
        box, is_full = Box(x, y, width, height), len(bright) >= settings.num_per_slide - wanted_dark
        if is_full and seems_bright(box):
            continue
        pixels = slide.read_scaled(box, size)
        if is_dark_cell(pixels, settings.limit):
            dark.append((pixels, (x, y)))
        elif not is_full:
            bright.append((pixels, (x, y)))
        if len(dark) + len(bright) >= settings.num_per_slide and len(dark) >= wanted_dark:
            break
    if not dark:
        raise NoTissueError(
            f"Slide '{slide.path}' has no cell of {settings.cell_um:g} um that is dark enough to train an encoder: the "
            f"mean of each channel below {settings.limit:g}, of 255."
        )
    most_bright = len(bright)
    if settings.dark_share:
        most_bright = math.floor(len(dark) * (1 / settings.dark_share - 1) + 1e-9)  # 1 / 0.95 is no exact number
    chosen = [*dark, *bright[:most_bright]][: settings.num_per_slide]
    return [pixels for pixels, _ in chosen], [corner for _, corner in chosen]


def is_dark_cell(pixels: npt.NDArray[np.uint8], limit: float) -> bool:
    """Whether the mean of each channel is below a grey value.

    Args:
        pixels: (P, P, 3) uint8 RGB.
        limit: A grey value, 0 to 255.
    """
    return bool((pixels.reshape(-1, 3).mean(0) < limit).all())


def _overview(slide: Slide, settings: DrawSettings) -> Callable[[Box], bool]:
    """Says of a cell, without reading it, whether it is too bright by far: most of a slide is glass."""
    bounds = slide.bounds
    scale = settings.cell_um / _OVERVIEW_PX
    columns, rows = (
        max(1, round(length * mpp / scale))
        for length, mpp in ((bounds.width, slide.mpp.x), (bounds.height, slide.mpp.y))
    )
    view = slide.read_scaled(bounds, Size(columns, rows))
    across, down = bounds.width / columns, bounds.height / rows

    def seems_bright(box: Box) -> bool:
        left, top = int((box.x - bounds.x) / across), int((box.y - bounds.y) / down)
        right, bottom = math.ceil((box.right - bounds.x) / across), math.ceil((box.bottom - bounds.y) / down)
        return not is_dark_cell(view[top:bottom, left:right], settings.limit + _SURELY_BRIGHT)

    return seems_bright
