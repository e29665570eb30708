"""A whole `prepare` for DSNet, from a slide's file to the embeddings of its cells, against decoding and encoder alone.

    python benchmarks/whole_prepare.py [--side 10240] [--rounds 3]

Claim: (decoding alone + encoder alone) / whole >= 0.90. Whole is `encode_slide`: finding cells, the thumbnail, reading,
the S-CAE's encoder with random weights, the HDF5. Decoding alone is libjpeg-turbo, half of the size for cells of 256 px,
each stored tile with a cell once, from memory, on one thread. The encoder alone runs by the same runtime on as many threads
over the same batches, which lie in memory as floats. The three take turns; medians, least and most, wall and CPU seconds of
all threads. Whole may overlap decoding and encoder, so that its wall ratio may pass 1. Prints JSON.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import argparse
import gc
import json
import shutil
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch

from command import command_given
from counterstain.infer.cells import find_cells
from counterstain.infer.encode import EncoderStep, EncodeSettings, cell_images, encode_slide
from counterstain.infer.pool import float_images
from counterstain.infer.runtime import threads
from counterstain.methods.scae import SCAEPatchEncoder
from counterstain.models.scae import SCAE, SCAESettings
from counterstain.results import EncoderSpec
from counterstain.slides import Slide, TiffSlide, open_slide
from counterstain.slides.codecs import jpeg_stream
from machine import machine_in_words
from slides import write_slide
from timing import in_turn, ratios, spread

INPUT_PX, CELL_MPP = 112, 0.25


def random_encoder() -> SCAEPatchEncoder:
    """S-CAE's encoder with random weights."""
    torch.manual_seed(0)
    network = SCAE(SCAESettings()).eval()
    network.encoder.tau.fill_(0.5)  # as training would have found it
    spec = EncoderSpec("scae", network.encoder.num_features, "random", INPUT_PX)
    return SCAEPatchEncoder(network, spec)


def decoding(slide: Slide, cells_N2: np.ndarray[Any, Any]) -> Callable[[], None]:
    """Decodes each stored tile with a cell once; cells lie on the file's tiles."""
    assert isinstance(slide, TiffSlide)
    level, data = slide._stored[0], slide.path.read_bytes()
    side = level.coding.tile.width
    numbers = cells_N2[:, 0] * -(-slide.size.width // side) + cells_N2[:, 1]
    streams = [
        jpeg_stream(data[level.offsets[number] : level.offsets[number] + level.num_bytes[number]], level.coding)
        for number in numbers.tolist()
    ]
    buffer = bytearray(level.coding.tile.area * 3)

    def decode() -> None:
        for stream in streams:
            simplejpeg.decode_jpeg(stream, "RGB", min_height=INPUT_PX, min_width=INPUT_PX, min_factor=2, buffer=buffer)

    return decode


def measured(path: Path, out: Path, rounds: int, num_threads: int | None) -> dict[str, Any]:
    encoder, settings = random_encoder(), EncodeSettings(device="cpu", num_threads=num_threads)
    slide = open_slide(path, CELL_MPP)
    grid = find_cells(slide)
    batches = [float_images(torch.from_numpy(one.copy())) for one in cell_images(slide, grid, INPUT_PX, 0, settings)]
    step = EncoderStep(encoder, settings)

    def encode() -> None:
        with torch.inference_mode(), threads(num_threads):
            for images_BCHW in batches:
                step._encoder(images_BCHW)

    def whole() -> None:
        shutil.rmtree(out, ignore_errors=True)
        with open_slide(path, CELL_MPP) as opened:
            encode_slide(opened, encoder, out, settings=settings)

    frame = grid.frame
    first = np.array([round(frame.origin.y / frame.downsample_y), round(frame.origin.x / frame.downsample_x)])
    actions = {"decoding": decoding(slide, grid.cells_N2 + first), "encoder": encode, "whole": whole}
    whole()
    times = in_turn(actions, rounds, before=gc.collect)
    found: dict[str, Any] = {"cells": len(grid.cells_N2), "runtime": step.runtime.label}
    for place, kind in enumerate(("wall", "cpu")):
        of = {name: several[place] for name, several in times.items()}
        found[f"{kind}_seconds"] = {name: spread(values, 4) for name, values in of.items()}
        parts = [decoded + encoded for decoded, encoded in zip(of["decoding"], of["encoder"], strict=True)]
        found[f"parts_over_whole_{kind}"] = spread(ratios(parts, of["whole"]), 4)
    found["is_accepted"] = found["parts_over_whole_wall"]["median"] >= 0.9
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10240)
    parser.add_argument("--tissue", type=float, default=0.4)
    parser.add_argument("--threads", type=int, default=None, help="of the network; as `prepare` chooses by default")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.svs"
        write_slide(path, given.side, given.tissue)
        found = measured(path, Path(folder) / "out", given.rounds, given.threads)
    result = {
        "command": command_given(),
        "date": date.today().isoformat(),
        "machine": machine_in_words(),
        "slide": {"side": given.side, "tissue": given.tissue, "mpp": CELL_MPP},
        **found,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
