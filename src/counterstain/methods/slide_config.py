"""What all slide methods learn with: the settings that their own configs inherit.

Does not know: any network.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from counterstain.errors import InputError, UnknownNameError

Schedule = Literal["steps", "cosine"]
Select = Literal["auroc", "last"]
ThresholdChoice = Literal["youden", "f1", "half"]


@dataclass(frozen=True)
class SlideConfig:
    """How a slide method learns; its network's own settings stand in the subclass.

    Args:
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        warmup_from: The learning rate that the warm-up rises from, in a line.
        warmup_epochs: Over which it rises to `learning_rate`.
        schedule: "steps" divides it as `drop_every` and `drop_by` say, "cosine" lets it fall to 0 where training ends.
        drop_every: Epochs.
        drop_by: What "steps" divides by.
        select: Which epoch is kept: "auroc", the one with the best AUROC on the validation slides, or "last". What was
            selected on the validation slides is calibrated on them with a little optimism; with "last" there is none.
        balance: Whether a slide's loss is weighted by how rare its class is.
        turn: Whether slides are mirrored and turned by quarters.
        hide_cells: Observed cells of a training slide are hidden, up to this share of them, drawn anew for each slide and
            epoch: a network that knows what it was not shown can learn from less. Ours.
        crop_cells: How many rows and columns of cells a random crop takes away at most.
        error: What part of slides the prediction sets may miss, in each class: the promise behind abstaining.
        threshold: How the threshold of a decision is chosen on the validation slides: "youden", "f1", or "half" for 0.5.

    Raises:
        InputError: When a number is out of its range; `UnknownNameError` for names.

    Source: DSNet (arXiv 2109.05788), section IV-D b: AdamW, 1e-4 with a warm-up from 1e-6, divided by 5 every 30 epochs,
        weight decay 1e-5, flips, quarter turns, crops of at most 7. The length of the warm-up is ours. The paper keeps the
        epoch that is best on the slides it reports; here those are never looked at.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    warmup_from: float = 1e-6
    warmup_epochs: int = 5
    schedule: Schedule = "steps"
    drop_every: int = 30
    drop_by: float = 5.0
    select: Select = "auroc"
    balance: bool = False
    turn: bool = True
    crop_cells: int = 7
    hide_cells: float = 0.0
    error: float = 0.1
    threshold: ThresholdChoice = "youden"

    def __post_init__(self) -> None:
        for field, names in {"schedule": Schedule, "select": Select, "threshold": ThresholdChoice}.items():
            if getattr(self, field) not in get_args(names):
                raise UnknownNameError(field, getattr(self, field), get_args(names))
        if self.learning_rate <= 0 or not 0 <= self.warmup_from <= self.learning_rate:
            raise InputError(
                f"A learning rate of {self.learning_rate} with a warm-up from {self.warmup_from} was given; the second "
                "must be between 0 and the first."
            )
        for name in ("weight_decay", "warmup_epochs", "crop_cells"):
            if getattr(self, name) < 0:
                raise InputError(f"Setting {name!r} was given as {getattr(self, name)}; it must be 0 or more.")
        if self.drop_every < 1 or self.drop_by < 1:
            raise InputError(
                f"A rate divided by {self.drop_by} every {self.drop_every} epochs was given; give 1 or more."
            )
        if not 0 <= self.hide_cells < 1:
            raise InputError(f"A share of {self.hide_cells} cells to hide was given; give 0 or more, and less than 1.")
        if not 0 < self.error < 1:
            raise InputError(f"An error of {self.error} was given; give a part of 1 between 0 and 1, 0.1 for instance.")

    def rate(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """The learning rate of a step, counted from 0, as a part of `learning_rate`."""
        epoch = step / steps_per_epoch
        if epoch < self.warmup_epochs:
            first = self.warmup_from / self.learning_rate
            return first + (1 - first) * (step + 1) / (self.warmup_epochs * steps_per_epoch)
        if self.schedule == "steps":
            return float(self.drop_by ** -(int(epoch) // self.drop_every))
        part = (epoch - self.warmup_epochs) / max(1e-9, epochs - self.warmup_epochs)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, part)))
