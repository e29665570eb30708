"""A whole prediction, from a slide's file to GeoJSON and OME-TIFF, against its network alone.

    python benchmarks/whole_predict.py [--backbones mobilenet_v2 resnet18] [--side 4096] [--rounds 3]

Claim: a whole prediction takes little longer than its network: network alone / whole >= 0.90 in wall seconds. The network
is SSHR with random weights, run by the same runtime on as many threads over the same batches of the same tiles, which lie
in memory as floats; whole is `predict_slide`, tissue and all, with both exports. The two take turns; medians, least and
most are given, CPU seconds of all threads beside wall. What the whole costs besides the network is told for each tile.
Prints JSON.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import argparse
import gc
import json
import shutil
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from command import command_given
from counterstain.cli.exported import export_all
from counterstain.geometry import Size
from counterstain.infer import PredictSettings, predict_slide
from counterstain.infer.plan import Plan
from counterstain.infer.pool import float_images
from counterstain.infer.runtime import Runner, reader_threads, threads
from counterstain.infer.settings import tile_sizes
from counterstain.infer.stream import Cutter
from counterstain.methods import SSHR, InputSpec, SSHRConfig
from counterstain.methods.sshr import halo_px
from counterstain.results import Classes
from counterstain.slides import Slide, open_slide
from counterstain.tiles import GridSettings, grid
from counterstain.tissue import find_tissue
from machine import machine_in_words
from slides import MPP, write_slide
from timing import Times, in_turn, ratios, spread

CLASSES = Classes(
    ("tumour", "stroma", "lymphocytes", "necrosis"), ((200, 30, 30), (30, 160, 60), (40, 60, 200), (120, 120, 120))
)
EXPORTS = ("geojson", "ome_tiff")


def random_model(backbone: str, tile_px: int) -> SSHR:
    """SSHR with random weights, none of whose classes is ever judged absent."""
    torch.manual_seed(0)
    config = SSHRConfig(backbone, presence_thresholds=(0.0,) * len(CLASSES))
    spec = InputSpec(tile_px, halo_px(config, tile_px), MPP, white_is_background=True)
    method = SSHR(config, CLASSES, spec)
    method.network.eval()
    return method


def batches_of(slide: Slide, model: SSHR, settings: PredictSettings) -> list[Tensor]:
    """The batches that a prediction gives its network."""
    sizes = tile_sizes(model.input, settings, settings.map_stride)
    tiles = GridSettings(sizes.tile_px, sizes.stride_px, sizes.halo_px)
    found = grid(slide.bounds, slide.mpp, MPP, tiles, find_tissue(slide, settings.tissue))
    plan = Plan(found, settings.map_stride, settings.chunk_px)
    size = Size(sizes.tile_px, sizes.tile_px)
    cutter = Cutter(found.frame, size, settings.batch_size, reader_threads(settings.num_workers))
    rows = (row for strip, _ in plan.strips() for row in strip.rows)
    return [float_images(torch.from_numpy(batch.images_BHWC.copy())) for batch in cutter.stream(slide, rows)]


def measured(path: Path, out: Path, backbone: str, given: argparse.Namespace) -> dict[str, Any]:
    slide, model = open_slide(path), random_model(backbone, given.tile_px)
    settings = PredictSettings(device="cpu", num_threads=given.threads)
    batches = batches_of(slide, model, settings)
    sizes = tile_sizes(model.input, settings, settings.map_stride)
    runner = Runner(model, settings, settings.map_stride, sizes.tile_px)

    def network() -> None:
        with torch.inference_mode(), threads(settings.num_threads), runner.runtime.context():
            for images_BCHW in batches:
                runner._model.predict_maps(images_BCHW)

    def whole() -> None:
        shutil.rmtree(out, ignore_errors=True)
        with open_slide(path) as opened:
            result = predict_slide(opened, model, out, settings, backbone)
            export_all(result, opened, out, EXPORTS)

    times = in_turn({"network": network, "whole": whole}, given.rounds, warm_ups=1, before=gc.collect)
    return report(times, sum(map(len, batches))) | {
        "halo_px": sizes.halo_px,
        "stride_px": sizes.stride_px,
        "geojson_kib": round((out / "regions.geojson").stat().st_size / 1024),
        "runtime": runner.runtime.label,
    }


def report(times: dict[str, Times], num_tiles: int) -> dict[str, Any]:
    """Ratios of what was measured in turn."""
    found: dict[str, Any] = {"tiles": num_tiles}
    for place, kind in enumerate(("wall", "cpu")):
        of = {name: several[place] for name, several in times.items()}
        found[f"{kind}_seconds"] = {name: spread(values, 4) for name, values in of.items()}
        found[f"network_over_whole_{kind}"] = spread(ratios(of["network"], of["whole"]), 4)
        rest = [all_of_it - alone for alone, all_of_it in zip(of["network"], of["whole"], strict=True)]
        found[f"{kind}_ms_a_tile_besides_the_network"] = spread([1e3 * one / num_tiles for one in rest], 4)
    found["is_accepted"] = found["network_over_whole_wall"]["median"] >= 0.9
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["mobilenet_v2", "resnet18"])
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--tissue", type=float, default=0.4)
    parser.add_argument("--tile-px", type=int, default=224)
    parser.add_argument("--threads", type=int, default=None, help="of the network; as a prediction chooses by default")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.svs"
        write_slide(path, given.side, given.tissue)
        for backbone in given.backbones:
            found[backbone] = measured(path, Path(folder) / backbone, backbone, given)
    result = {
        "command": command_given(),
        "date": date.today().isoformat(),
        "machine": machine_in_words(),
        "slide": {"side": given.side, "tissue": given.tissue, "mpp": MPP},
        "backbones": found,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
