"""How fast a slide is diagnosed, for each 1e8 pixels of level 0, against what the device's matrix products allow.

The paper (DSNet, arXiv 2109.05788, section V-A) gives 44.1 ms on an RTX 2080, networks alone. Here: the S-CAE's encoder
over the cells of 1e8 pixels (1,526 of 256 px each, batches on the device), DSNet on their grid of 39 x 39, and the rate of
large matrix products in the same precision and run, as the limit. Every cell is encoded, as if a slide had no glass. With
--slide, a slide is encoded from its file to HDF5 and scored, and its time told for 1e8 pixels of its scanned area and for
1e8 pixels of the cells that were encoded.

    python benchmarks/dsnet_speed.py [--batch 512] [--slide SLIDE.svs] > result.json
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from command import command_given
from counterstain.models.dsnet import DSNet
from counterstain.models.scae import SCAE, SCAESettings
from counterstain.models.slide_network import SlideBatch
from speed import CUDA, DEVICE, finish, matrix_rate, precise, seconds

AREA = 1e8  # level-0 pixels
CELL_PX, SHOWN_PX, GRID = 256, 112, 39


def macs_of_cell() -> float:
    """Multiply-adds of the encoder for one cell."""
    encoder = SCAE(SCAESettings(decoder="tiny")).encoder.eval()
    encoder.tau.fill_(0.0)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 3, SHOWN_PX, SHOWN_PX))
    return float(counter.get_total_flops()) / 2


def encoding(batch: int) -> Callable[[], object]:
    """One batch of cells that lie on the device through the encoder."""
    encoder = SCAE(SCAESettings(decoder="tiny")).encoder.to(DEVICE, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    encoder.tau.fill_(0.0)
    images = torch.rand(batch, 3, SHOWN_PX, SHOWN_PX, device=DEVICE).contiguous(memory_format=torch.channels_last)

    def step() -> object:
        with torch.inference_mode(), precise():
            return encoder(images)

    return step


def diagnosing() -> Callable[[], object]:
    """DSNet on the grid of 1e8 pixels, a third of its cells not observed."""
    network = DSNet(128).to(DEVICE).eval()
    observed = (torch.rand(1, 1, GRID, GRID, device=DEVICE) < 0.67).float()
    features = torch.rand(1, 128, GRID, GRID, device=DEVICE) * observed
    thumbnails = torch.rand(1, 3, 2 * GRID, 2 * GRID, device=DEVICE)
    batch = SlideBatch(features, observed, torch.ones_like(observed), thumbnails)

    def step() -> object:
        with torch.inference_mode(), precise():
            return network(batch)

    return step


def from_file(path: Path) -> dict[str, Any]:
    """A slide from its file to a score: tissue, cells, reading, encoder, HDF5, DSNet."""
    from counterstain.data.encoded_files import read_encoded
    from counterstain.infer.encode import EncodeSettings, encode_slide
    from counterstain.methods.slide_batches import GridSlide, collate
    from counterstain.models.encoders import PatchEncoder
    from counterstain.results import EncoderSpec
    from counterstain.slides import open_slide

    class Fresh(PatchEncoder):
        """An untrained S-CAE's encoder: as fast as a trained one."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = SCAE(SCAESettings(decoder="tiny")).encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.encoder.tau.fill_(0.0)
            self.spec = EncoderSpec("scae", 128, "untrained", SHOWN_PX, "none needed")

        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            embeddings: torch.Tensor = self.encoder(images_BCHW.contiguous(memory_format=torch.channels_last))
            return embeddings.float()

    network = DSNet(128).to(DEVICE).eval()
    with tempfile.TemporaryDirectory() as folder, open_slide(path) as slide:
        start = time.perf_counter()
        header = encode_slide(slide, Fresh(), Path(folder), settings=EncodeSettings())
        encoded = time.perf_counter()
        grid = read_encoded(Path(folder), "scae")
        with torch.inference_mode(), precise():
            network(collate([GridSlide.of(grid)]).to(DEVICE))
        finish()
        done = time.perf_counter()
        cell_px = grid.frame.downsample_x * grid.frame.downsample_y
        area = slide.bounds.width * slide.bounds.height
    return {
        "cells": header.num_cells,
        "scanned_px": area,
        "seconds_encoding": encoded - start,
        "seconds_diagnosing": done - encoded,
        "ms_for_1e8_scanned_px": 1e3 * (done - start) * AREA / area,
        "ms_for_1e8_encoded_px": 1e3 * (done - start) * AREA / (header.num_cells * cell_px),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512 if CUDA else 32)
    parser.add_argument("--repeats", type=int, default=20 if CUDA else 5)
    parser.add_argument("--slide", type=Path)
    given = parser.parse_args()
    cells = AREA / CELL_PX**2
    rate = matrix_rate(given.repeats)
    encoder_s = seconds(encoding(given.batch), given.repeats) / given.batch * cells
    network_s = seconds(diagnosing(), given.repeats)
    tree = {
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if CUDA else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch": given.batch,
        "ms_for_1e8_px": {
            "encoder": 1e3 * encoder_s,
            "dsnet": 1e3 * network_s,
            "both": 1e3 * (encoder_s + network_s),
            "paper_rtx_2080": 44.1,
        },
        "encoder_share_of_matrix_rate": macs_of_cell() * cells / encoder_s / rate,
        "from_file": from_file(given.slide) if given.slide else None,
    }
    print(json.dumps(tree, indent=2))


if __name__ == "__main__":
    main()
