"""Trains a patch encoder on the slides of a cohort: cells are drawn slide by slide, then an S-CAE learns from all of them.

    FOLDER/cells/        what was drawn, a file for each slide: a killed training reads no slide twice
    FOLDER/made_from.json    slides and settings: others are refused before anything is drawn of them
    FOLDER/model.json    the encoder, as `scae_encoder` opens it

A slide that can't be read is kept with its reason and the others go on.

Does not know: labels, splits: whoever calls it gives training slides alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from counterstain import log
from counterstain.data.cohorts import CohortSlide
from counterstain.data.encoder_patches import DrawnCells, DrawSettings, draw_slide_cells
from counterstain.errors import InputError, StaleResultError, counted, in_short, listed
from counterstain.files import file_hash, read_json, write_json
from counterstain.jobs.run import Failure, run_all
from counterstain.methods.scae import PRESETS, TRAINING, SCAEConfig, train_scae
from counterstain.settings import differing, to_tree
from counterstain.slides import open_slide
from counterstain.training import TrainSettings

NUM_CELLS = {"paper": 36_000, "small": 3_000}
"""Cells that each preset learns from: Camelyon16's in DSNet (arXiv 2109.05788), section IV-D; a tenth on a CPU."""


_NOTE = "made_from.json"


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

    def drawing(self, num_slides: int) -> DrawSettings:
        """How cells are drawn of each of so many slides.

        Raises:
            InputError: When the cells are fewer than the slides.
        """
        if self.num_cells < num_slides:
            raise InputError(
                f"{self.num_cells} cells were to be drawn from {num_slides} slides; give one a slide at least."
            )
        return replace(self.draw, num_per_slide=math.ceil(self.num_cells / max(1, num_slides)))


def train_encoder(
    entries: Sequence[CohortSlide], folder: Path, how: EncoderTraining, run: Path | None = None
) -> tuple[Failure, ...]:
    """Trains an encoder, or finishes one that was interrupted.

    Args:
        entries: Training slides.
        folder: Of the encoder.
        how: What it is and how it learns.
        run: The run folder, where the encoder's is a part of it.

    Returns:
        The slides of which no cells could be drawn.

    Raises:
        InputError: When none could be, or the cells are fewer than the slides.
        StaleResultError: When the folder holds an encoder of other slides or settings.
    """
    draw = how.drawing(len(entries))
    made_from = _made_from(entries, how)
    if (folder / _NOTE).exists():
        note = read_json(folder / _NOTE)
        _refuse_others(note, made_from, folder, run or folder)
        if (folder / "model.json").exists():
            log.say(f"{folder}: the encoder is done")
            return tuple(Failure(**one) for one in note["failures"])
    log.say(f"Training an encoder (S-CAE) on cells of {len(entries)} slides")
    cells = folder / "cells"
    work = {entry.slide_id: partial(_drawing, entry, cells, draw, how) for entry in entries}
    with log.progress("Drawing cells", len(entries), "slides") as counter:
        outcomes = run_all(work, folder / "failed", counter)
    if not outcomes.done:
        reasons = [f"{one.slide_id}: {one.reason}" for one in outcomes.failures]
        raise InputError(
            listed("No training slide could be read, so there is nothing to learn an encoder from:", reasons)
        )
    if not (folder / "run.json").exists():  # what was begun by somebody else is not ours to describe
        write_json(folder / _NOTE, {**made_from, "failures": [asdict(one) for one in outcomes.failures]})
    train_scae(DrawnCells.joined(list(outcomes.done.values())), folder, how.config, how.training)
    return outcomes.failures


def _made_from(entries: Sequence[CohortSlide], how: EncoderTraining) -> dict[str, Any]:
    """All that changes an encoder, as plain values: settings, and of each slide its content and the table's resolution."""
    settings = to_tree(how)
    settings["training"].pop("num_workers")
    return {"settings": settings, "slides": {entry.slide_id: [_content(entry.path), entry.mpp] for entry in entries}}


def _content(path: Path) -> str | None:
    try:
        return file_hash(path)
    except OSError:
        return None  # it is no slide, which drawing says with its reason


def _refuse_others(note: Mapping[str, Any], made_from: Mapping[str, Any], folder: Path, run: Path) -> None:
    """Refuses slides and settings that are not those of what lies in a folder.

    Raises:
        StaleResultError: With what differs.
    """
    found = [*differing(note["settings"], made_from["settings"]), *slides_differ(note["slides"], made_from["slides"])]
    if found:
        raise StaleResultError(
            f"{folder} holds an encoder of other settings or data: {'; '.join(found)}. Give another run folder, or remove "
            f"{run} to start afresh."
        )


def slides_differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, how one set of slides differs from another; nothing where it does not.

    Args:
        before: By slide id, what is known of the slides of the one.
        now: Likewise of the other.
    """
    sets = {
        "more": [name for name in now if name not in before],
        "fewer": [name for name in before if name not in now],
        "changed": [name for name in now if name in before and now[name] != before[name]],
    }
    return [f"{counted(len(names), 'slide')} {what} ({in_short(names)})" for what, names in sets.items() if names]


def _drawing(entry: CohortSlide, cells: Path, draw: DrawSettings, how: EncoderTraining) -> DrawnCells:
    mpp = how.slide_mpp if how.slide_mpp is not None else entry.mpp
    with open_slide(entry.path, mpp, assume_mpp=how.assume_mpp) as slide:
        return draw_slide_cells(slide, draw, cells)
