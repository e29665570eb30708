"""A training that kills itself where it is told to, for `test_resume` to start in a process of its own."""

import os
import signal
import sys
from pathlib import Path

from counterstain.data import open_patches
from counterstain.methods import FusionKD, FusionKDConfig
from counterstain.methods.fusion_kd import cache, distil, judging, learn
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
    most_agreement=1.0,
    candidates=2,
    ema=0.9,
    flip=True,
    turn=True,
)
TRAINING = TrainSettings(epochs=2, batch_size=12, seed=3)

PLACES = {
    "maps": (cache, "_bytes"),  # of each batch of a teacher's maps
    "training": (learn, "write_state"),  # at the end of a student's epoch, before its checkpoint
    "judging": (judging.Judge, "evidence"),  # of the witness, the teacher, the two candidates, the next round's two
    "ledger": (distil.Distillation, "_write_ledger"),
    "tidying": (distil.Distillation, "_tidy"),  # once in the beginning, then after each round's row is written
}


def train(data: Path, run: Path) -> None:
    """Trains to the end."""
    patches = open_patches(data, "table")
    FusionKD.create(CONFIG, patches, tile_px=32, seed=3).fit(patches, run, TRAINING)


def die(data: Path, run: Path, place: str, count: int) -> None:
    """Trains until the `count`th call of a place's function, which is the last thing that this process does."""
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), [0]

    def dying(*given: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given, **named)

    setattr(owner, name, dying)
    train(data, run)


if __name__ == "__main__":
    die(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
