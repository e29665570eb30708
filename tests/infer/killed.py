"""Predicts a planted slide and is killed at a batch: `python killed.py SLIDE OUT BATCH`.

The tests load this file too, so that the killed, the resumed and the uninterrupted prediction run the same code.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from counterstain.infer import PredictSettings, predict_slide
from counterstain.results import SlideMap
from counterstain.testing.planted import ArraySlide, PlantedInput, PlantedModel

SETTINGS = PredictSettings(
    map_stride=2, chunk_px=16, batch_size=3, num_workers=1, num_threads=1, device="cpu", white_background=True
)


class Smooth(PlantedModel):
    """A small network with nothing round in its values, killed at a batch."""

    def __init__(self, killed_at: int | None) -> None:
        super().__init__(PlantedInput(tile_px=32, halo_px=4, mpp=1.0))
        self.killed_at, self.num_batches = killed_at, 0
        self.network = nn.Conv2d(3, 3, 5, padding=2)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def predict_maps(self, images_BCHW: Tensor) -> Tensor:
        if self.killed_at == self.num_batches:
            os.kill(os.getpid(), signal.SIGKILL)
        self.num_batches += 1
        return self.network(images_BCHW).softmax(1)


def predict(slide: Path, out: Path, killed_at: int | None = None) -> tuple[SlideMap, int]:
    """The map, and how many batches it took."""
    model = Smooth(killed_at)
    return predict_slide(ArraySlide(slide), model, out, SETTINGS, model_digest="smooth"), model.num_batches


if __name__ == "__main__":
    predict(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
