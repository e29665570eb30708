"""SSHR against plain CAM on real tissue: EBHI-Seg, presence labels of small patches, scored on whole images.

Patients are split 60/20/20 (seed 0). From training patients' images 64 px patches are drawn at random places, each labelled
[gland or lesion present, other present] where it covers at least a tenth of the patch, equal thirds of the three label
pairs: weak labels simulated from masks. Both methods learn from these labels alone, with the same recipe, seed and
budget; the plain CAM lacks the rectification and nothing else. Fusion weights and presence thresholds of each are chosen on
the validation patients; `--test` opens the test patients once.

    python benchmarks/ebhi_seg.py EBHI_SEG WEIGHTS.npz --work WORK [--seeds 0 1] [--test] > result.json
"""

import argparse
import json
import platform
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterstain.data import CropSettings, PatchDataset, draw_weak_patches, open_masked_images, open_patches
from counterstain.files import read_json, write_json
from counterstain.infer import PredictSettings
from counterstain.methods import SSHR, SSHRConfig, load_dense_method
from counterstain.methods.tune import tune
from counterstain.metrics import bootstrap_difference, mean_iou
from counterstain.recipes import recipe
from counterstain.report import Evaluation, evaluate, open_test_split
from counterstain.results import Classes
from counterstain.settings import build, read_toml
from counterstain.training import TrainSettings

CLASSES = Classes(("gland or lesion", "other"), ((205, 51, 51), (255, 165, 0)))
VARIANTS: dict[str, dict[str, Any]] = {"sshr": {}, "plain_cam": {"semantic": False, "context": False}}
FUSIONS = (
    (0.0, 0.6, 0.2, 0.2),
    (0.25, 0.25, 0.25, 0.25),
    (0.2, 0.2, 0.2, 0.4),
    (0.2, 0.0, 0.4, 0.4),
    (0.2, 0.0, 0.6, 0.2),
    (0.0, 0.0, 1.0, 0.0),
    (0.0, 0.0, 0.0, 1.0),
)
PREDICT = PredictSettings(halo_px=0, overlap=0.5, batch_size=36)


def dataset(source: Path, work: Path) -> PatchDataset:
    folder = work / "patches"
    if not (folder / "labels.csv").exists():
        records = open_masked_images(source / "labels_dev.csv", root=source / "dev")
        settings = CropSettings(patch_px=64, min_cover=0.1, draws_per_image=256, seed=0, mask_values=(1, 0))
        draw_weak_patches(records, CLASSES, folder, settings)
    return open_patches(folder, "table")


def train(name: str, seed: int, data: PatchDataset, tree: dict[str, Any], weights: Path, work: Path) -> Path:
    run = work / f"{name}_{seed}"
    config = replace(build(SSHRConfig, tree["settings"]), weights=weights, **VARIANTS[name])
    method = SSHR.create(config, data, tile_px=64, seed=seed)
    method.fit(data, run, replace(build(TrainSettings, tree["training"]), seed=seed))
    return run


def chosen(run: Path, data: PatchDataset) -> tuple[SSHR, dict[str, Any]]:
    """The run's model with the fusion weights, and the thresholds for them, that validation prefers."""
    note = run / "chosen_on_val.json"
    method = load_dense_method(run)
    assert isinstance(method, SSHR)
    if note.exists():
        best = read_json(note)
        return method.finished_with(tuple(best["fusion"]), tuple(best["thresholds"])), best
    tuned = tune(method, data, FUSIONS)
    best = {
        "fusion": tuned.method.config.fusion,
        "thresholds": tuned.method.thresholds,
        "window_mean_iou_by_fusion": {" ".join(map(str, one)): score for one, score in tuned.tried.items()},
    }
    write_json(note, best)
    return tuned.method, best


def scales(method: SSHR) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in method.network.named_parameters() if name.endswith("_scale")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ebhi_seg", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipe", default="ebhi_seg")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--again", action="store_true", help="open the test patients once more; the result says so")
    options = parser.parse_args()
    tree = read_toml(recipe(options.recipe))
    data = dataset(options.ebhi_seg, options.work)
    result: dict[str, Any] = {
        "what": "EBHI-Seg dev, two-class mean IoU over whole images; weak labels simulated from masks",
        "recipe": options.recipe,
        "data": data.summary(),
        "command": " ".join(["python", "benchmarks/ebhi_seg.py", "EBHI_SEG", "WEIGHTS.npz", *sys.argv[5:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
        "seeds": {},
    }
    for seed in options.seeds:
        found: dict[str, Any] = {}
        scored: dict[str, dict[str, Evaluation]] = {}
        for name in VARIANTS:
            run = train(name, seed, data, tree, options.weights, options.work / options.recipe)
            method, best = chosen(run, data)
            splits = ("val", "test") if options.test else ("val",)
            if options.test:
                found["test_openings"] = len(open_test_split(run, data.digest(), again=options.again))
            scored[name] = {split: evaluate(method, data, split, PREDICT) for split in splits}
            found[name] = {
                "minutes": read_json(run / "training.json")["minutes"],
                "scales": scales(method),
                "chosen_on_val": best,
                **{split: one.to_json() for split, one in scored[name].items()},
            }
        for split in scored["sshr"]:
            sshr, plain = scored["sshr"][split], scored["plain_cam"][split]
            difference = bootstrap_difference(sshr.confusions_NKK, plain.confusions_NKK, sshr.patients, mean_iou)
            found[f"sshr_minus_plain_{split}"] = difference.to_json()
        result["seeds"][str(seed)] = found
    print(json.dumps(result, indent=2, default=lambda value: np.asarray(value).tolist()))


if __name__ == "__main__":
    main()
