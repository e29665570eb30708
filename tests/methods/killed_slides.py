"""A training of a slide method that kills itself after its second epoch, for `test_slide_method` to start on its own."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from counterstain.data.encoded import SlideSet
from counterstain.methods import MeanPool
from counterstain.methods.slide_baselines import MeanPoolConfig
from counterstain.testing.encoded_slides import EncodedSlides, write_encoded_slides
from counterstain.training import TrainSettings

QUICK = TrainSettings(epochs=3, batch_size=4, seed=5)
CONFIG = MeanPoolConfig(learning_rate=0.05, warmup_epochs=0, schedule="cosine")
SLIDES = EncodedSlides(in_thumbnail=90)


def halves_of(slides: SlideSet) -> tuple[SlideSet, SlideSet]:
    """Slides to learn from and to validate on."""
    ids = [slide.slide_id for slide in slides.slides]
    return slides.of(ids[:12]), slides.of(ids[12:])


def main(encoded: Path, run: Path, select: Any) -> None:
    """Trains until the second epoch's checkpoint is written."""
    from counterstain.training.fit import fit

    module: Any = sys.modules[fit.__module__]
    save = module._save_checkpoint

    def killed(trainer: Any, path: Path) -> None:
        save(trainer, path)
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    module._save_checkpoint = killed
    train, val = halves_of(write_encoded_slides(encoded, SLIDES))
    config = replace(CONFIG, select=select, crop_cells=2)
    MeanPool.create(config, train, QUICK.seed).fit(train, val, run, QUICK)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
