"""Trains a patch encoder on the slides of a cohort: cells are drawn slide by slide, then an S-CAE learns from all of them.

    FOLDER/cells/        what was drawn, a file for each slide: a killed training reads no slide twice
    FOLDER/model.json    the encoder, as `scae_encoder` opens it

A slide that can't be read is kept with its reason and the others go on.

Does not know: labels, splits: whoever calls it gives training slides alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from counterstain import log
from counterstain.data.cohorts import CohortSlide
from counterstain.data.encoder_patches import DrawnCells, DrawSettings, draw_slide_cells
from counterstain.errors import InputError, listed
from counterstain.jobs.run import Failure, run_all
from counterstain.methods.scae import PRESETS, TRAINING, SCAEConfig, train_scae
from counterstain.slides import open_slide
from counterstain.training import TrainSettings

NUM_CELLS = {"paper": 36_000, "small": 3_000}
"""Cells that each preset learns from: Camelyon16's in DSNet (arXiv 2109.05788), section IV-D; a tenth on a CPU."""


@dataclass(frozen=True)
class EncoderTraining:
    """How an encoder learns.

    Args:
        config: What it is.
        training: How long.
        num_cells: In all; dealt out evenly over the slides.
        draw: How they are drawn; the number from each slide is `num_cells`'s.
        slide_mpp: um/px of the slides' level 0, where files say it wrongly.
        assume_mpp: Likewise, for slides that say nothing.
    """

    config: SCAEConfig = field(default_factory=lambda: PRESETS["small"])
    training: TrainSettings = field(default_factory=lambda: TRAINING["small"])
    num_cells: int = NUM_CELLS["small"]
    draw: DrawSettings = field(default_factory=DrawSettings)
    slide_mpp: float | None = None
    assume_mpp: float | None = None

    @classmethod
    def preset(cls, name: str, seed: int = 0) -> "EncoderTraining":
        """The training of a preset: "paper" or "small"."""
        return cls(PRESETS[name], replace(TRAINING[name], seed=seed), NUM_CELLS[name], DrawSettings(seed=seed))


def train_encoder(entries: Sequence[CohortSlide], folder: Path, how: EncoderTraining) -> tuple[Failure, ...]:
    """Trains an encoder, or finishes one that was interrupted.

    Args:
        entries: Training slides.
        folder: The run folder.
        how: What it is and how it learns.

    Returns:
        The slides that could not be read.

    Raises:
        InputError: When none could be, or the cells are fewer than the slides.
        StaleResultError: When the folder holds an encoder of other slides or settings.
    """
    if how.num_cells < len(entries):
        raise InputError(
            f"{how.num_cells} cells were to be drawn from {len(entries)} slides; give one a slide at least."
        )
    draw = replace(how.draw, num_per_slide=math.ceil(how.num_cells / max(1, len(entries))))
    cells = folder / "cells"
    with log.progress("Drawing cells", len(entries), "slides") as counter:
        work = {entry.slide_id: _drawing(entry, cells, draw, how, counter) for entry in entries}
        outcomes = run_all(work, folder / "failed")
    if not outcomes.done:
        reasons = [f"{one.slide_id}: {one.reason}" for one in outcomes.failures]
        raise InputError(
            listed("No training slide could be read, so there is nothing to learn an encoder from:", reasons)
        )
    train_scae(DrawnCells.joined(list(outcomes.done.values())), folder, how.config, how.training)
    return outcomes.failures


def _drawing(
    entry: CohortSlide, cells: Path, draw: DrawSettings, how: EncoderTraining, counter: log.Counter
) -> Callable[[], DrawnCells]:
    def work() -> DrawnCells:
        mpp = how.slide_mpp if how.slide_mpp is not None else entry.mpp
        with open_slide(entry.path, mpp, assume_mpp=how.assume_mpp) as slide:
            drawn = draw_slide_cells(slide, draw, cells)
        counter.advance(note=entry.slide_id)
        return drawn

    return work
