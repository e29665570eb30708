"""Encoded slides: a grid of cells, an embedding for each cell of interest, and a thumbnail aligned with the grid.

A slide becomes two matrices on one grid: V, an embedding for every observed cell and nothing elsewhere, and T, a thumbnail
with exactly two rows and columns of pixels to a cell. Coarser thumbnails are averages of T, made when they are looked at.
What was observed is carried explicitly and never told from zeros.

Shapes: N observed cells, C channels of an embedding, H W rows and columns of the grid; T has 2H x 2W pixels.
Does not know: how cells are chosen, what encodes them, files.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.files import settings_hash
from counterstain.geometry import Frame
from counterstain.results import Classes, EncoderSpec

THUMBNAIL_SCALE = 2
"""Pixels of the finest thumbnail to a cell, along each side: then both streams of DSNet end on one grid."""


@dataclass(frozen=True, eq=False)
class EncodedSlide:
    """One slide as slide methods see it.

    Args:
        features_NC: float16 or float32, one row for each observed cell.
        cells_N2: int32 (row, column) of those cells, no cell twice, in row-major order.
        frame: A pixel of it is a cell; its size is the grid's.
        thumbnail_HWC: (2H, 2W, 3) uint8 RGB, glass and what lies beyond the slide white; None where no slide was at hand.

    Raises:
        InputError: When the parts do not fit each other.
    """

    features_NC: npt.NDArray[np.floating]
    cells_N2: npt.NDArray[np.int32]
    frame: Frame
    thumbnail_HWC: npt.NDArray[np.uint8] | None

    def __post_init__(self) -> None:
        height, width = self.frame.size.shape
        if len(self.features_NC) != len(self.cells_N2):
            raise InputError(
                f"{len(self.features_NC)} embeddings were given for {len(self.cells_N2)} cells; encode the slide again."
            )
        if len(self.cells_N2) and not ((self.cells_N2 >= 0) & (self.cells_N2 < (height, width))).all():
            raise InputError(f"Cells lie outside a grid of {height} x {width}; encode the slide again.")
        if (np.diff(self.cells_N2 @ np.array([width, 1], np.int64)) <= 0).any():
            raise InputError(
                "Cells were given twice or out of order; give each cell once, row by row, and its embedding in that order."
            )
        if self.thumbnail_HWC is not None and self.thumbnail_HWC.shape != (
            THUMBNAIL_SCALE * height,
            THUMBNAIL_SCALE * width,
            3,
        ):
            raise InputError(
                f"A thumbnail of {self.thumbnail_HWC.shape} was given for {height} x {width} cells; it must have exactly "
                "two rows and columns to a cell. Encode the slide again."
            )

    @property
    def observed(self) -> npt.NDArray[np.bool_]:
        """(H, W) bool: the cells that have an embedding."""
        observed = np.zeros(self.frame.size.shape, np.bool_)
        observed[self.cells_N2[:, 0], self.cells_N2[:, 1]] = True
        return observed

    def dense_features(self) -> npt.NDArray[np.floating]:
        """V: (H, W, C) of the embeddings' dtype, exactly 0 where nothing was observed."""
        grid = np.zeros((*self.frame.size.shape, self.features_NC.shape[1]), self.features_NC.dtype)
        grid[self.cells_N2[:, 0], self.cells_N2[:, 1]] = self.features_NC
        return grid


@dataclass(frozen=True, slots=True)
class LabelledSlide:
    """A slide of a set.

    Args:
        slide_id: Unique in the set.
        patient_id: Splits never divide a patient.
        label: Index of its class; 1 is positive. None where it is only to be scored.
        folder: Of its artefacts: `cells.zarr` and `features/<encoder>.h5`.
        split: "train", "val" or "test" as a table said it; None where folds are to be drawn.
        site: Where it was made, None where unknown.
        scanner: What it was scanned with, None where unknown.
    """

    slide_id: str
    patient_id: str
    label: int | None
    folder: Path
    split: str | None = None
    site: str | None = None
    scanner: str | None = None


@dataclass(frozen=True)
class SlideSet:
    """Encoded slides with labels, all encoded alike.

    Args:
        name: What reports call it.
        classes: Two: the background ("normal") first, then the positive one.
        encoder: What made the embeddings.
        slides: In the cohort's order.
        cell_um: Width and height of a cell.
        inputs: By slide id, the hash that its embeddings were made under; part of the set's digest.
        chosen: How the cells were chosen, plain values; only "imported" where another tool chose them, empty where nobody
            says.
    """

    name: str
    classes: Classes
    encoder: EncoderSpec
    slides: tuple[LabelledSlide, ...]
    cell_um: float
    inputs: dict[str, str]
    chosen: dict[str, Any] = field(default_factory=dict)

    def of(self, slide_ids: Iterable[str]) -> Self:
        """The set of some of the slides, in the set's own order."""
        wanted = set(slide_ids)
        return replace(self, slides=tuple(slide for slide in self.slides if slide.slide_id in wanted))

    def split(self, name: str) -> Self:
        """The slides of one split."""
        return replace(self, slides=tuple(slide for slide in self.slides if slide.split == name))

    def digest(self) -> str:
        """Of slides, labels, patients, splits, and what embeddings were made of."""
        rows = [
            [slide.slide_id, slide.patient_id, slide.label, slide.split, self.inputs.get(slide.slide_id)]
            for slide in self.slides
        ]
        return settings_hash(self.classes.names, self.encoder, self.cell_um, rows)
