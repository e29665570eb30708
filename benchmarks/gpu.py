"""How fast networks run on a GPU, what each measure brings, and how busy `predict` and `prepare` keep it.

    python benchmarks/gpu.py > result.json
    python benchmarks/gpu.py --device cpu    # whether the script runs, at a tiny size; its figures are no results

Claims: SSHR on Wide-ResNet38 takes 0.6 ms at most for a patch of 224 px, in bulk; a prediction from a slide that lies in
memory keeps the GPU busy for 0.90 of its time; S-CAE and DSNet take 2 ms at most for 1e8 pixels of level 0.

The SSHR steps start with uint8 pixels on the device and end with pooled maps there: eager float32, bf16, channels last,
heads folded into products of matrices, a CUDA graph; then from host memory to host memory, as a prediction runs. All of
them are measured in turn, round by round, and each is given as a ratio to the one before. DSNet runs eagerly, as in use:
its grid has another size for each slide.

The busy share: what the GPU takes for the batches of a slide that lie there already, replayed one after the other, to what
`predict_slide` takes. A slide and one of half its side are predicted, and their difference is counted, so that what a slide
takes once (tissue, capture) does not. What decoding adds: the same pixels as a JPEG-tiled file.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads

import numpy as np
import torch

from command import command_given
from counterstain.data.encoded_files import FeatureHeader
from counterstain.geometry import Box, Mpp, Size
from counterstain.infer import PredictSettings, predict_slide
from counterstain.infer.device import Pipeline, filled_size
from counterstain.infer.encode import EncoderStep, EncodeSettings, encode_slide
from counterstain.infer.plan import Plan
from counterstain.infer.runtime import Runner, _Means
from counterstain.infer.settings import tile_sizes
from counterstain.infer.tta import AveragedViews
from counterstain.methods import SSHR, InputSpec, SSHRConfig
from counterstain.methods.sshr import halo_px
from counterstain.models import HFRM
from counterstain.models.count import count
from counterstain.models.encoders import PatchEncoder
from counterstain.models.scae import SCAE, SCAESettings
from counterstain.results import Classes, EncoderSpec
from counterstain.slides import Pixels, open_slide
from counterstain.slides.base import Slide
from counterstain.slides.header import Header, Level, Resolution
from counterstain.tiles import GridSettings, grid
from counterstain.tissue import find_tissue
from dsnet_speed import AREA, CELL_PX, SHOWN_PX, diagnosing
from machine import machine_in_words
from slides import MPP, drawn_plane, write_slide
from speed import CUDA, finish, matrix_rate
from timing import in_turn, ratios, spread

CLASSES = Classes(("a", "b", "c", "d"), ((0, 0, 0),) * 4)
SSHR_BAR_MS, BUSY_BAR, DSNET_BAR_MS = 0.6, 0.9, 2.0
STRIDE = 4
CELLS = round(AREA / CELL_PX**2)


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    device: str
    backbone: str
    tile_px: int
    batches: tuple[int, ...]
    cell_batches: tuple[int, ...]
    side: int
    rounds: int


FULL = Sizes("cuda", "wide_resnet38", 224, (16, 64, 128), (64, 512, CELLS), 12288, 5)
DRY = Sizes("cpu", "tiny", 64, (4,), (8,), 512, 1)


def random_sshr(sizes: Sizes) -> SSHR:
    torch.manual_seed(0)
    config = SSHRConfig(backbone=sizes.backbone, presence_thresholds=0.5)
    return SSHR(config, CLASSES, InputSpec(sizes.tile_px, halo_px(config, sizes.tile_px), MPP))


def _apart(hfrm: HFRM, low_BCHW: torch.Tensor, deep_BDhw: torch.Tensor, head: torch.nn.Conv2d) -> torch.Tensor:
    seen_BKHW: torch.Tensor = head(hfrm(low_BCHW, deep_BDhw))
    return seen_BKHW


@contextmanager
def heads_apart() -> Iterator[None]:
    """Within it, heads are not folded: rectified maps are made, as on a CPU."""
    folded = HFRM.projected
    HFRM.projected = _apart  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        HFRM.projected = folded  # type: ignore[method-assign]


def seconds_in_turn(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Wall seconds of each, until the device has finished, after two rounds to warm up."""

    def finished(action: Callable[[], object]) -> None:
        action()
        finish()

    whole = {name: partial(finished, action) for name, action in actions.items()}
    return {name: times.wall for name, times in in_turn(whole, rounds, warm_ups=2, before=finish).items()}


def steps_told(times: dict[str, list[float]], scale: float) -> dict[str, Any]:
    """Each step's milliseconds, and how many times faster it is than the one before, round by round."""
    told: dict[str, Any] = {}
    before: list[float] | None = None
    for name, seconds in times.items():
        told[name] = {"ms": spread([1e3 * scale * one for one in seconds])}
        if before is not None:
            told[name]["times_the_step_before"] = spread(ratios(before, seconds))
        before = seconds
    return told


def sshr_steps(sizes: Sizes, batch: int) -> dict[str, Any]:
    """Milliseconds of a patch, step by step."""
    plain, placed = random_sshr(sizes), random_sshr(sizes)
    settings = PredictSettings(device=sizes.device, batch_size=batch, runtime="torch")
    runner = Runner(placed, settings, STRIDE, sizes.tile_px)
    runtime = runner.runtime
    plain.network.to(runtime.device).eval()
    exact = replace(runtime, autocast=None)
    images = np.random.default_rng(0).integers(0, 256, (batch, sizes.tile_px, sizes.tile_px, 3), np.uint8)
    pixels = torch.from_numpy(images).to(runtime.device)

    def eager(model: SSHR, runtime: Any, *, is_folded: bool) -> Callable[[], object]:
        means = _Means(AveragedViews(model, "none"), runtime, STRIDE, False, 0)

        @torch.inference_mode()
        def action() -> object:
            if is_folded:
                return means(pixels)
            with heads_apart():
                return means(pixels)

        return action

    actions: dict[str, Callable[[], object]] = {
        "eager_float32": eager(plain, exact, is_folded=False),
        "bf16": eager(plain, runtime, is_folded=False),
        "channels_last": eager(placed, runtime, is_folded=False),
        "heads_folded": eager(placed, runtime, is_folded=True),
    }
    if CUDA:
        runner.run(images)
        actions["cuda_graph"] = replayed(runner._pipelines[0], batch)
    times = seconds_in_turn(actions, sizes.rounds)
    told = steps_told(times, 1 / batch)
    several = [images] * 8
    whole = seconds_in_turn({"pipeline": lambda: sum(1 for _ in runner.maps(several, lambda one: one))}, sizes.rounds)
    told["from_host_to_host"] = {"ms": spread([1e3 * one / batch / len(several) for one in whole["pipeline"]])}
    return told


def replayed(pipeline: Pipeline, num: int) -> Callable[[], object]:
    """The replay of what a pipeline captured for so many images."""
    lane = pipeline._lane
    assert lane is not None, "a GPU has one"
    if lane._graphs is None:
        raise SystemExit("What was to be measured could not be captured; see the line above.")
    return lane._graphs[filled_size(num, lane._full)].graph.replay


class MemorySlide(Slide):
    """Raw pixels in a mapped file, which the system keeps in memory."""

    reader: ClassVar[str] = "memory"

    @classmethod
    def detects(cls, path: Path) -> bool:
        return path.suffix == ".npy"

    def _read_header(self) -> Header:
        height, width = np.load(self.path, mmap_mode="r").shape[:2]
        levels = tuple(Level(Size(width // scale, height // scale), scale, scale) for scale in (1, 16))
        return Header(levels, Resolution(Mpp.square(MPP), "reader"), None, {})

    def _open(self) -> Any:
        whole = np.load(self.path, mmap_mode="r")
        return [whole, np.ascontiguousarray(whole[8::16, 8::16])]

    def _decode(self, handle: Any, level: int, box: Box) -> Pixels:
        pixels: Pixels = np.asarray(handle[level][box.slices()])
        return pixels


def write_plane(path: Path, side: int) -> Path:
    """The same pixels, but for compression, as a test slide has."""
    plane = drawn_plane(1.0, 0)
    repeats = -(-side // len(plane))
    np.save(path, np.tile(plane, (repeats, repeats, 1))[:side, :side])
    return path


def predicting(sizes: Sizes, batch: int, folder: Path) -> dict[str, Any]:
    """How busy a prediction keeps the device, from memory and from a JPEG-tiled file."""
    model = random_sshr(sizes)
    settings = PredictSettings(device=sizes.device, batch_size=batch, runtime="torch")
    sides = (sizes.side // 2, sizes.side)
    network: list[float] = []
    seconds: dict[str, list[float]] = {"memory": [], "file": []}
    tiles = 0
    for side in sides:
        raw, coded = write_plane(folder / f"{side}.npy", side), folder / f"{side}.svs"
        write_slide(coded, side, 1.0)
        lengths = batch_lengths(MemorySlide(raw), model, settings)
        tiles = sum(lengths)
        network.append(network_seconds(model, settings, lengths, sizes))
        for name, slide in (("memory", MemorySlide(raw)), ("file", open_slide(coded))):
            seconds[name].append(predict_seconds(slide, model, folder / "out", settings))
    added = network[1] - network[0]
    slope = {name: both[1] - both[0] for name, both in seconds.items()}
    return {
        "sides_px": sides,
        "tiles_of_the_larger": tiles,
        "network_seconds": network,
        "predict_seconds": seconds,
        "busy_share_from_memory": added / slope["memory"],
        "busy_share_of_the_whole_larger_slide": network[1] / seconds["memory"][1],
        "busy_share_from_file": added / slope["file"],
        "times_as_long_from_a_file": slope["file"] / slope["memory"],
        "is_accepted": added / slope["memory"] >= BUSY_BAR,
    }


def predict_seconds(slide: Slide, model: SSHR, out: Path, settings: PredictSettings) -> float:
    """Wall seconds of a prediction, the better of two: the first fills the system's cache of files."""

    def predict() -> None:
        with slide:
            predict_slide(slide, model, out, settings, "random")

    times = in_turn({"predict": predict}, 2, before=lambda: shutil.rmtree(out, ignore_errors=True))
    return min(times["predict"].wall)


def batch_lengths(slide: Slide, model: SSHR, settings: PredictSettings) -> list[int]:
    """How many tiles each batch of a prediction has."""
    sizes = tile_sizes(model.input, settings, settings.map_stride)
    tiles = GridSettings(sizes.tile_px, sizes.stride_px, sizes.halo_px)
    plan = Plan(
        grid(slide.bounds, slide.mpp, MPP, tiles, find_tissue(slide, settings.tissue)),
        settings.map_stride,
        settings.chunk_px,
    )
    lengths = []
    for strip, _ in plan.strips():
        for row in strip.rows:
            lengths += [min(settings.batch_size, len(row.xs) - at) for at in range(0, len(row.xs), settings.batch_size)]
    return lengths


def network_seconds(model: SSHR, settings: PredictSettings, lengths: list[int], sizes: Sizes) -> float:
    """Of the same batches, which lie on the device."""
    runner = Runner(model, settings, settings.map_stride, sizes.tile_px)
    halo = tile_sizes(model.input, settings, settings.map_stride).halo_px
    images = np.random.default_rng(0).integers(0, 256, (settings.batch_size, sizes.tile_px, sizes.tile_px, 3), np.uint8)
    actions: dict[int, Callable[[], object]] = {}
    for length in set(lengths):
        runner.run(images[:length], halo)
        again = partial(runner.run, images[:length], halo)
        actions[length] = replayed(runner._pipelines[halo], length) if CUDA else again

    def all_of_them() -> None:
        for length in lengths:
            actions[length]()

    return min(seconds_in_turn({"all": all_of_them}, 1)["all"])


class Fresh(PatchEncoder):
    """An untrained S-CAE's encoder: as fast as a trained one."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SCAE(SCAESettings(decoder="tiny")).encoder
        self.encoder.tau.fill_(0.0)
        self.spec = EncoderSpec("scae", 128, "untrained", SHOWN_PX, "none needed")
        self.requires_grad_(False)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self.encoder(images_BCHW)
        return embeddings.float()


def encoding(sizes: Sizes, batch: int) -> dict[str, Any]:
    """Milliseconds of 1e8 pixels' cells, in batches that lie on the device, and from host to host."""
    step = EncoderStep(Fresh(), EncodeSettings(batch, device=sizes.device, runtime="torch"))
    images = np.random.default_rng(0).integers(0, 256, (batch, SHOWN_PX, SHOWN_PX, 3), np.uint8)
    pixels = torch.from_numpy(images).to(step.runtime.device)
    compute = step._pipeline._compute

    @torch.inference_mode()
    def eager() -> object:
        return compute(pixels)

    step.encode(images)
    actions: dict[str, Callable[[], object]] = {"eager": eager}
    if CUDA:
        actions["cuda_graph"] = replayed(step._pipeline, batch)
    told = steps_told(seconds_in_turn(actions, sizes.rounds), CELLS / batch)
    several = [images] * 8
    whole = seconds_in_turn({"pipeline": lambda: sum(1 for _ in step.stream(several))}, sizes.rounds)["pipeline"]
    told["from_host_to_host"] = {"ms": spread([1e3 * one * CELLS / batch / len(several) for one in whole])}
    return told


def preparing(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """From a JPEG-tiled file to embeddings on disk."""
    path = folder / "cells.svs"
    write_slide(path, sizes.side, 1.0)
    settings = EncodeSettings(sizes.cell_batches[-1], device=sizes.device, runtime="torch")
    headers: list[FeatureHeader] = []

    def encode() -> None:
        headers.append(encode_slide(slide, Fresh(), folder / f"cells{len(headers)}", settings=settings))

    with open_slide(path) as slide:
        best = min(in_turn({"encode": encode}, 2)["encode"].wall)
    num_cells = headers[-1].num_cells
    return {"cells": num_cells, "ms_for_1e8_encoded_px": 1e3 * best * CELLS / num_cells}


def measured(sizes: Sizes) -> dict[str, Any]:
    patches = {str(batch): sshr_steps(sizes, batch) for batch in sizes.batches}
    cells = {str(batch): encoding(sizes, batch) for batch in sizes.cell_batches}
    scored = seconds_in_turn({"dsnet": diagnosing()}, sizes.rounds)["dsnet"]
    last = "cuda_graph" if CUDA else "heads_folded"
    patch_ms = min(one[last]["ms"]["median"] for one in patches.values())
    cells_ms = min(one["cuda_graph" if CUDA else "eager"]["ms"]["median"] for one in cells.values())
    dsnet_ms = 1e3 * statistics.median(scored)
    best = min(patches, key=lambda batch: patches[batch][last]["ms"]["median"])
    macs = count(random_sshr(sizes).network, sizes.tile_px, sizes.tile_px).macs
    rate = matrix_rate(sizes.rounds)
    with tempfile.TemporaryDirectory() as folder:
        busy, from_file = predicting(sizes, int(best), Path(folder)), preparing(sizes, Path(folder))
    return {
        "sshr_patch_by_batch": patches,
        "sshr_ms_a_patch": patch_ms,
        "sshr_share_of_matrix_products": macs / rate / (patch_ms / 1e3),
        "sshr_is_accepted": patch_ms <= SSHR_BAR_MS,
        "predict": busy,
        "scae_1e8_px_by_batch": cells,
        "dsnet_ms": spread([1e3 * one for one in scored]),
        "scae_and_dsnet_ms_for_1e8_px": cells_ms + dsnet_ms,
        "scae_and_dsnet_is_accepted": cells_ms + dsnet_ms <= DSNET_BAR_MS,
        "prepare_from_file": from_file,
        "matrix_products_gmac_per_s": rate / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run, tiny, no result")
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--side", type=int)
    parser.add_argument("--rounds", type=int)
    given = parser.parse_args()
    if given.device == "cuda" and not CUDA:
        sys.exit("There is no GPU here, and nothing was measured. --device cpu tries the script out, at a tiny size.")
    if given.device == "cpu" and CUDA:
        sys.exit("There is a GPU here; the dry run is for machines without. Leave --device out.")
    changes = {name: getattr(given, name) for name in ("side", "rounds") if getattr(given, name)}
    sizes = replace(FULL if CUDA else DRY, **changes)
    if given.batches:
        sizes = replace(sizes, batches=tuple(given.batches))
    tree = {
        "is_result": CUDA,
        "note": None
        if CUDA
        else "A dry run on a CPU at a tiny size: whether the script runs. No figure here means anything.",
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine_in_words(),
        "gpu": torch.cuda.get_device_name() if CUDA else None,
        "torch": torch.__version__,
        "backbone": sizes.backbone,
        "tile_px": sizes.tile_px,
        "bars": {"sshr_ms_a_patch": SSHR_BAR_MS, "busy_share": BUSY_BAR, "scae_and_dsnet_ms": DSNET_BAR_MS},
        **measured(sizes),
    }
    if not CUDA:
        tree |= dict.fromkeys(("sshr_is_accepted", "scae_and_dsnet_is_accepted"))
        tree["predict"]["is_accepted"] = None
    print(json.dumps(tree, indent=2))


if __name__ == "__main__":
    main()
