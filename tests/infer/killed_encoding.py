"""Encodes a slide and is killed at a batch: `python killed_encoding.py SLIDE OUT BATCH`.

The tests load this file too, so that the killed, the resumed and the uninterrupted encoding run the same code.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from counterstain.infer import encode
from counterstain.slides import open_slide
from counterstain.testing.encoding import CELLS, CPU, MeanEncoder

SETTINGS = replace(CPU, batch_size=4, num_workers=1)
CHUNK = 8
"""Cells to a chunk here, so that a small slide has some."""


class Mortal(MeanEncoder):
    """Killed at a batch."""

    def __init__(self, killed_at: int | None) -> None:
        super().__init__()
        self.killed_at = killed_at

    def forward(self, images_BCHW: Tensor) -> Tensor:
        if self.killed_at == self.num_batches:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images_BCHW)


def run(slide: Path, out: Path, killed_at: int | None = None) -> int:
    """How many batches it took."""
    encoder = Mortal(killed_at)
    encode._CHUNK_CELLS = CHUNK
    encode.encode_slide(open_slide(slide), encoder, out, CELLS, SETTINGS)
    return encoder.num_batches


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
