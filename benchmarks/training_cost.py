"""What training costs: SSHR against pipelines of several stages, same backbone, same patches, same machine, one run.

Every variant of a study is trained on the same few patches for one epoch a stage, several rounds in turn, and the
processor's seconds are taken, so that other work on the machine counts little; on a GPU, wall seconds. From the cost of a
pass over a patch in each stage follow the totals for schedules: as the study trains, and as published (25 epochs of SSHR;
20 and 30 of MLPS, 20 and 20 by its readme). Latency is that of `predict_maps` for a patch, alone and in batches of 16.

    python benchmarks/training_cost.py --study pipelines_synthetic --data SETS/luad --weights W.npz --second-weights W.npz
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from counterstain import log
from counterstain.data import PatchDataset, image_size, open_patches
from counterstain.files import read_json
from counterstain.methods import DenseMethod, find_method, load_dense_method
from counterstain.recipes.studies import study_file
from counterstain.report.study import Variant, read_study

PUBLISHED = {"published": (25, 20, 30), "readme": (25, 20, 20)}
"""Epochs of SSHR, of a pipeline's first and second stage."""


def seconds() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def one_epoch(variant: Variant) -> Variant:
    """One epoch of each stage, with attention from the first where there is any, and nothing chosen on validation."""
    changes: dict[str, Any] = {"presence_thresholds": 0.5}
    if variant.method == "multi_stage":
        changes |= {"stage_one_epochs": 1, "second_epochs": 1, "attention_start_epoch": 0}
    return replace(variant, config=replace(variant.config, **changes), training=replace(variant.training, epochs=1))


def train(variant: Variant, data: PatchDataset, run: Path) -> dict[str, float]:
    """Seconds of each stage for a patch. The whole is measured; stages share it as their wall minutes do."""
    size = image_size(data.train[0].image)
    method = find_method(variant.method).create(variant.config, data, tile_px=min(size.width, size.height), seed=0)
    start = seconds()
    method.fit(data, run, variant.training)
    spent = seconds() - start
    note = read_json(run / "training.json")
    stages = note.get("stages", {"single": note["minutes"]})
    total = sum(stages.values())
    return {name: spent * minutes / total / len(data.train) for name, minutes in stages.items()}


def latency_ms(method: DenseMethod, tile_px: int, batch: int) -> float:
    """Of a patch, the median of several batches."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    method.network.to(device).eval()
    images = torch.rand(batch, 3, tile_px, tile_px, device=device)
    method.predict_maps(images)
    found = []
    for _ in range(8):
        start = seconds()
        method.predict_maps(images)
        found.append((seconds() - start) / batch * 1000)
    return statistics.median(found)


def total(stages: dict[str, float], epochs: tuple[int, int, int]) -> float:
    """Seconds for a patch over a schedule."""
    single, first, second = epochs
    times = {"single": single, "classification": first, "pseudo_masks": 1, "segmentation": second}
    return sum(times[name] * spent for name, spent in stages.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--second-weights", type=Path)
    parser.add_argument("--patches", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    files = {"weights": options.weights, "second_weights": options.second_weights}
    study = read_study(study_file(options.study)).with_settings({name: file for name, file in files.items() if file})
    data = open_patches(options.data)
    data = replace(data, train=data.train[: options.patches])
    spent: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in study.variants}
    latency: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        few = replace(data, train=data.train[: 2 * study.variants[0].training.batch_size])
        train(one_epoch(study.variants[0]), few, Path(folder) / "warm")  # what is imported and allocated once
        for number in range(options.rounds):
            for variant in study.variants:
                log.say(f"Round {number + 1} of {options.rounds}: {variant.name}")
                run = Path(folder) / variant.folder / str(number)
                spent[variant.name].append(train(one_epoch(variant), data, run))
        for variant in study.variants:
            method = load_dense_method(Path(folder) / variant.folder / "0")
            side = method.input.tile_px
            latency[variant.name] = {f"batch {batch}": latency_ms(method, side, batch) for batch in (1, 16)}
    single = study.variants[0].training.epochs
    schedules = {"study": (single, single, single), **PUBLISHED}
    reference = spent[study.reference]
    rows = {
        variant.name: {
            "seconds_per_patch_and_pass": {
                stage: statistics.median(one[stage] for one in spent[variant.name]) for stage in spent[variant.name][0]
            },
            "times_the_reference": {
                name: [
                    total(own, epochs) / total(other, epochs)
                    for own, other in zip(spent[variant.name], reference, strict=True)
                ]
                for name, epochs in schedules.items()
            },
            "latency_ms": latency[variant.name],
        }
        for variant in study.variants
    }
    result = {
        "what": "training cost and latency, processor seconds" + (" (GPU: wall)" if torch.cuda.is_available() else ""),
        "study": study.name,
        "reference": study.reference,
        "patches": len(data.train),
        "rounds": options.rounds,
        "schedules": schedules,
        "rows": rows,
        "command": " ".join(["python benchmarks/training_cost.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
