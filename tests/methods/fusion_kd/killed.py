"""A training that kills itself where it is told to: `killed.py DATA RUN PLACE COUNT`, run by `test_resume`."""

import os
import signal
import sys
from pathlib import Path

from counterstain.data import open_patches
from counterstain.methods import FusionKD, FusionKDConfig
from counterstain.methods.fusion_kd import cache, distil
from counterstain.training import TrainSettings

CONFIG = FusionKDConfig(
    teacher="tiny_mil",
    student="tiny_mil",
    teacher_options={"width": 4},
    student_options={"width": 4},
    learning_rate=1e-3,
    area_band=None,
    selector="proxy",
    max_rounds=2,
    candidates=2,
    ema=0.9,
    augment_teacher=True,
    flip=True,
    turn=True,
    patience=1,
)
TRAINING = TrainSettings(epochs=2, batch_size=8, seed=3)


def train(data: Path, run: Path) -> None:
    """Trains to the end."""
    patches = open_patches(data, "table")
    FusionKD.create(CONFIG, patches, tile_px=32, seed=3).fit(patches, run, TRAINING)


def die_at(place: str, count: int) -> None:
    """Makes the `count`th call of a function the last thing that this process does."""
    owner, name = {
        "maps": (cache, "_bytes"),
        "training": (distil, "write_state"),
        "candidates": (distil.Distillation, "_best_candidate"),
        "ledger": (distil.Distillation, "_write_ledger"),
        "tidying": (distil.Distillation, "_tidy"),
    }[place]
    original, calls = getattr(owner, name), [0]

    def dying(*given: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given, **named)

    setattr(owner, name, dying)


if __name__ == "__main__":
    die_at(sys.argv[3], int(sys.argv[4]))
    train(Path(sys.argv[1]), Path(sys.argv[2]))
