"""What training costs: SSHR against pipelines of several stages, same backbone, same patches, same machine, one run.

A pass of a stage over a patch costs the slope between trainings of one epoch and of three, so that what a training takes
once (hashing the data, starting a trainer, writing the model) does not count; an epoch's checkpoint does, and counts the
less the more patches there are. Pseudo masks are written once, and timed by themselves. Every round measures each variant
in turn, in the processor's seconds, so that other work on the machine counts little; on a GPU, in wall seconds. From that
follow the totals for schedules: as each variant of the study trains, and as published (25 epochs of SSHR; 20 and 30 of
MLPS, 20 and 20 by its readme). Attention, where there is any, is on in every pass that is measured.

Latency is that of `predict_maps` for a patch, alone and in batches of 16, by one thread: by the clock, which other work on
the machine lengthens, and the processor's.

    python benchmarks/training_cost.py --study pipelines_synthetic --data SETS/luad --weights W.npz --second-weights W.npz
"""

import argparse
import json
import math
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from command import command_given
from counterstain import log
from counterstain.data import PatchDataset, image_size, open_patches
from counterstain.data.weak import WeakPatches, WeakSettings
from counterstain.errors import InputError
from counterstain.methods import DenseMethod, find_method, load_dense_method
from counterstain.methods.multi_stage import MultiStage
from counterstain.methods.pseudo_masks import PseudoMasks, PseudoMaskSettings, write_pseudo_masks
from counterstain.recipes.studies import study_file
from counterstain.report.study import Study, Variant, read_study

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PUBLISHED = {
    "published": {"single": 25, "classification": 20, "segmentation": 30},
    "readme": {"single": 25, "classification": 20, "segmentation": 20},
}
"""Epochs of SSHR, of a pipeline's first and second stage."""
EPOCHS_OF = {"classification": "stage_one_epochs", "segmentation": "second_epochs"}
LONGER = 3
"""Epochs of the longer training of each pair."""


@dataclass
class Measured:
    """Of a variant: for each round the seconds of each stage for a patch; and milliseconds of a patch's map."""

    rounds: list[dict[str, float]]
    latency_ms: dict[str, dict[str, float]]


def seconds() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def own_epochs(variant: Variant) -> dict[str, int]:
    """Epochs of each stage, as the variant trains."""
    if variant.method != MultiStage.name:
        return {"single": variant.training.epochs}
    return {stage: getattr(variant.config, name) or variant.training.epochs for stage, name in EPOCHS_OF.items()}


def shortened(variant: Variant, epochs: dict[str, int]) -> Variant:
    """So many epochs of each stage, with attention from the first where there is any, and nothing chosen on validation."""
    changes: dict[str, Any] = {"presence_thresholds": 0.5}
    if variant.method == MultiStage.name:
        changes |= {"attention_start_epoch": 0, **{EPOCHS_OF[stage]: number for stage, number in epochs.items()}}
    # reading in this process, so that its seconds count
    training = replace(variant.training, epochs=epochs.get("single", 1), patience=None, num_workers=0)
    return replace(variant, config=replace(variant.config, **changes), training=training)


def fit_seconds(variant: Variant, data: PatchDataset, run: Path) -> float:
    size = image_size(data.train[0].image)
    method = find_method(variant.method).create(variant.config, data, tile_px=min(size.width, size.height), seed=0)
    start = seconds()
    method.fit(data, run, variant.training)
    return seconds() - start


def mask_seconds(method: MultiStage, data: PatchDataset, folder: Path) -> float:
    """Seconds that the pseudo masks of all patches take."""
    config, tile = method.config, method.input
    is_white_out = tile.white_is_background if config.white_background is None else config.white_background
    masks = PseudoMasks(folder, [record.image for record in data.train], config.taps)
    patches = WeakPatches(data.train, WeakSettings(patch_px=tile.tile_px))
    classifier = method.network.classifier.to(DEVICE).eval()
    settings = PseudoMaskSettings(config.taps, is_white_out, config.scale)
    start = seconds()
    write_pseudo_masks(masks, classifier, patches, settings, data.classes.colors, 0)
    return seconds() - start


def stage_seconds(variant: Variant, data: PatchDataset, folder: Path) -> dict[str, float]:
    """Seconds of a pass of each stage over a patch; the run of one epoch each is left in folder/once."""
    once = dict.fromkeys(own_epochs(variant), 1)
    shortest = fit_seconds(shortened(variant, once), data, folder / "once")
    found = {}
    for stage in once:
        longer = fit_seconds(shortened(variant, {**once, stage: LONGER}), data, folder / stage)
        found[stage] = (longer - shortest) / (LONGER - 1) / len(data.train)
    method = load_dense_method(folder / "once")
    if isinstance(method, MultiStage):
        found["pseudo_masks"] = mask_seconds(method, data, folder / "masks") / len(data.train)
    return found


def latency_ms(method: DenseMethod, batch: int) -> dict[str, float]:
    """Of a patch, the medians of several batches, by one thread."""
    method.network.to(DEVICE).eval()
    images = torch.rand(batch, 3, method.input.tile_px, method.input.tile_px, device=DEVICE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    method.predict_maps(images)
    found: dict[str, list[float]] = {"wall": [], "cpu": []}
    for _ in range(8):
        seconds()  # waits for the device
        wall, cpu = time.perf_counter(), time.process_time()
        method.predict_maps(images)
        seconds()
        found["wall"].append((time.perf_counter() - wall) / batch * 1000)
        found["cpu"].append((time.process_time() - cpu) / batch * 1000)
    torch.set_num_threads(threads)
    return {clock: statistics.median(times) for clock, times in found.items()}


def total(stages: dict[str, float], epochs: dict[str, int]) -> float:
    """Seconds for a patch over a schedule; its pseudo mask is written once."""
    return sum(epochs.get(stage, 1) * spent for stage, spent in stages.items())


def whole_batches(data: PatchDataset, study: Study, num_patches: int) -> PatchDataset:
    """The first patches, as many as make whole batches for every variant: the rest of an epoch is dropped in training."""
    step = math.lcm(*(variant.training.batch_size for variant in study.variants))
    num = min(num_patches, len(data.train)) // step * step
    if not num:
        raise InputError(f"{num_patches} of {len(data.train)} patches were given; whole batches need {step} or more.")
    return replace(data, train=data.train[:num])


def measure(study: Study, data: PatchDataset, num_rounds: int, folder: Path) -> dict[str, Measured]:
    """Every variant in turn, round after round."""
    first = study.variants[0]
    once = dict.fromkeys(own_epochs(first), 1)
    fit_seconds(shortened(first, once), data, folder / "warm")  # what is imported and allocated once
    found = {variant.name: Measured([], {}) for variant in study.variants}
    for number in range(num_rounds):
        for variant in study.variants:
            log.say(f"Round {number + 1} of {num_rounds}: {variant.name}")
            run = folder / variant.folder / str(number)
            found[variant.name].rounds.append(stage_seconds(variant, data, run))
    for variant in study.variants:
        method = load_dense_method(folder / variant.folder / "0" / "once")
        found[variant.name].latency_ms = {f"batch {batch}": latency_ms(method, batch) for batch in (1, 16)}
    return found


def row(variant: Variant, reference: Variant, found: dict[str, Measured]) -> dict[str, Any]:
    """What the result says of a variant."""
    own, other = found[variant.name], found[reference.name]
    schedules = {"study": (own_epochs(variant), own_epochs(reference))}
    schedules |= {name: (epochs, epochs) for name, epochs in PUBLISHED.items()}
    return {
        "epochs_in_the_study": own_epochs(variant),
        "seconds_per_patch_and_pass": {
            stage: statistics.median(one[stage] for one in own.rounds) for stage in own.rounds[0]
        },
        "times_the_reference": {
            name: [
                total(one, epochs) / total(another, reference_epochs)
                for one, another in zip(own.rounds, other.rounds, strict=True)
            ]
            for name, (epochs, reference_epochs) in schedules.items()
        },
        "latency_ms": own.latency_ms,
    }


def options_given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--second-weights", type=Path)
    parser.add_argument("--patches", type=int, default=96, help="at most; as many as make whole batches")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    options = options_given()
    files = {"weights": options.weights, "second_weights": options.second_weights}
    study = read_study(study_file(options.study)).with_settings({name: file for name, file in files.items() if file})
    data = whole_batches(open_patches(options.data), study, options.patches)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(study, data, options.rounds, Path(folder))
    reference = next(variant for variant in study.variants if variant.name == study.reference)
    result = {
        "what": "training cost, processor seconds (on a GPU: wall), and latency, by the clock and the processor's",
        "study": study.name,
        "reference": study.reference,
        "patches": len(data.train),
        "rounds": options.rounds,
        "schedules": PUBLISHED,
        "rows": {variant.name: row(variant, reference, found) for variant in study.variants},
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "threads_of_latency": 1,
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
