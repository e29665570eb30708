"""Trainings of slide methods that kill themselves in their second epoch, for `test_slide_method` to start on their own."""

import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from counterstain.data.encoded import SlideSet
from counterstain.methods import DSNet, MeanPool
from counterstain.methods.slide_baselines import MeanPoolConfig
from counterstain.methods.slide_config import SlideConfig
from counterstain.methods.slide_method import SlideMethod
from counterstain.testing.encoded_slides import EncodedSlides, write_encoded_slides
from counterstain.training import TrainSettings

QUICK = TrainSettings(epochs=3, batch_size=4, seed=5)
CONFIG = MeanPoolConfig(learning_rate=0.05, warmup_epochs=0, schedule="cosine")
SLIDES = EncodedSlides(in_thumbnail=90)


@dataclass(frozen=True)
class Killed:
    """A training and where it is killed.

    Args:
        method: What learns.
        config: Its settings.
        training: For how long.
        after: "checkpoint": the second epoch's was written; "best": the weights of the best epoch were written for the
            second time, and the checkpoint of their epoch was not.
    """

    method: type[SlideMethod]
    config: SlideConfig
    training: TrainSettings = QUICK
    after: Literal["checkpoint", "best"] = "checkpoint"

    def fit(self, halves: tuple[SlideSet, SlideSet], run: Path) -> SlideMethod:
        """Trains, or goes on."""
        method = self.method.create(self.config, halves[0], self.training.seed)
        method.fit(*halves, run, self.training)
        return method


_TWO_STREAMS = replace(DSNet.presets["short"], levels=(1,), warmup_epochs=1, select="auroc", crop_cells=2)
CASES = {
    "last epoch": Killed(MeanPool, replace(CONFIG, select="last", crop_cells=2)),
    "best epoch": Killed(MeanPool, replace(CONFIG, select="auroc", crop_cells=2)),
    "before the checkpoint": Killed(MeanPool, replace(CONFIG, select="auroc", crop_cells=2), after="best"),
    "two streams": Killed(DSNet, _TWO_STREAMS, TrainSettings(epochs=3, batch_size=4, seed=5)),
    "read by a process": Killed(DSNet, _TWO_STREAMS, TrainSettings(epochs=3, batch_size=4, seed=5, num_workers=1)),
}
"""What is killed, by name. The last two have running statistics and means of ordinary cells, the last a reading process."""


def halves_of(slides: SlideSet) -> tuple[SlideSet, SlideSet]:
    """Slides to learn from and to validate on."""
    ids = [slide.slide_id for slide in slides.slides]
    return slides.of(ids[:12]), slides.of(ids[12:])


def main(encoded: Path, run: Path, case: Killed) -> None:
    """Trains until it is killed."""
    from counterstain.methods import slide_method
    from counterstain.training.fit import fit

    training: Any = sys.modules[fit.__module__]
    save, write = training._save_checkpoint, slide_method.write_state
    written: list[Path] = []

    def saved(trainer: Any, path: Path) -> None:
        save(trainer, path)
        if case.after == "checkpoint" and trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrote(path: Path, state: Any) -> None:
        write(path, state)
        written.append(path)
        if case.after == "best" and len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    training._save_checkpoint = saved
    slide_method.write_state = wrote
    case.fit(halves_of(write_encoded_slides(encoded, SLIDES)), run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), CASES[sys.argv[3]])
