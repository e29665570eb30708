"""Networks in 8-bit integers: how much faster than float32 in the same runtime, and what they lose.

Speed: ResNet-18-SSHR and the S-CAE encoder, ONNX Runtime, one thread, repetitions interleaved. Loss: an SSHR of the small
preset learns from a set of labelled patches, is calibrated on its training split, and both forms are scored on the
validation split's masks.

    python benchmarks/int8.py --data PATCHES [--epochs 4] [--repeats 7] > result.json

PATCHES: a set of patches with masks in its validation split, as `counterstain synth patches` writes one.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads

import argparse
import json
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from command import command_given
from counterstain.data import open_patches
from counterstain.infer import DenseModel, PredictSettings
from counterstain.infer.exported import Place, Step, exported, images
from counterstain.infer.int8 import Int8Model, write_int8
from counterstain.infer.onnx_runtime import open_onnx
from counterstain.jobs.onnx import export_onnx
from counterstain.methods import SSHR
from counterstain.models.encoders import PatchEncoder
from counterstain.report import evaluate
from counterstain.training import TrainSettings
from machine import one_thread
from networks import NETWORKS, statistics_of
from timing import spread

TIMED = ("resnet18_sshr", "scae")


def speed(name: str, repeats: int, folder: Path) -> dict[str, Any]:
    network = NETWORKS[name]
    torch.manual_seed(0)
    model = network.build(network.px)
    size = (network.px, network.px)
    if isinstance(model, PatchEncoder):
        statistics_of(model)
        step = Step(model, model, model.identity()).eval()
    else:
        statistics_of(model.network)
        step = Step(model.network, model.predict_maps, model.identity()).eval()
    tiles_BHWC = (images(16, size).permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    write_int8(step, tiles_BHWC, folder / f"{name}.onnx")
    forms = {"float32": exported(step, size, Place("onnx", 1)), "int8": open_onnx(folder / f"{name}.onnx", 1)}
    shown, times = images(network.batch, size, seed=1), {form: list[float]() for form in forms}
    for _ in range(repeats + 1):
        for form, run in forms.items():
            start = time.process_time()
            run(shown)
            times[form].append((time.process_time() - start) * 1000 / network.batch)
    ratios = [one / other for one, other in zip(times["float32"][1:], times["int8"][1:], strict=True)]
    return {
        "cpu_ms_per_image": {form: spread(values[1:]) for form, values in times.items()},
        "times_as_fast": {
            **spread(ratios),
            "of_medians": statistics.median(times["float32"][1:]) / statistics.median(times["int8"][1:]),
        },
    }


def loss(folder: Path, epochs: int, tile_px: int, run: Path) -> dict[str, Any]:
    data = open_patches(folder)
    method = SSHR.create(SSHR.presets["small"], data, tile_px, seed=0)
    method.fit(data, run, TrainSettings(epochs=epochs, batch_size=16, num_workers=0))
    path = export_onnx(method, run, data=data)
    settings = PredictSettings(device="cpu", num_threads=1, runtime="torch")
    forms: dict[str, DenseModel] = {"float32": method, "int8": Int8Model(method, path, 1)}
    scores = {}
    for form, model in forms.items():
        found = evaluate(model, data, "val", settings)
        scores[form] = found.scores.mean_iou
    return {"data": data.name, "split": "val", "mean_iou": scores, "lost": scores["float32"] - scores["int8"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--tile-px", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "speed": {name: speed(name, options.repeats, Path(folder)) for name in TIMED},
            "loss": loss(options.data, options.epochs, options.tile_px, Path(folder) / "run"),
            "command": command_given(),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": one_thread("torch", "onnxruntime"),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
