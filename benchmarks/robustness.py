"""How much of their mean IoU trained models keep as images are corrupted: stain shift, blur, JPEG, five strengths each.

    python benchmarks/robustness.py PLAIN=RUN_A SSHR=RUN_B --data DATA --plot robustness.png > robustness.json

Every model maps the same images of a split under the same protocol; the truth is untouched. Intervals are over patients,
as are those of each model's difference to the first one named. Finished cells are kept in each run folder, so that the same
command goes on where it was interrupted. The test split counts as opened, and an interrupted one is opened with --again.
Prints JSON.
"""

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from counterstain.data import PatchDataset, open_patches
from counterstain.files import settings_hash
from counterstain.infer import PredictSettings
from counterstain.methods import load_dense_method, model_digest
from counterstain.metrics import bootstrap_difference, mean_iou
from counterstain.report import (
    CORRUPTIONS,
    EvaluateSettings,
    Kept,
    RobustnessSettings,
    RobustnessTable,
    draw_robustness,
    measure_robustness,
    notes_on_patients,
    open_test_split,
)


def named_run(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(f"{text!r} was given; NAME=RUN was expected")
    return name, Path(folder)


def measured(run: Path, data: PatchDataset, split: str, predict: PredictSettings, settings: RobustnessSettings) -> Any:
    """A run's table; each choice of images, protocol and windows has a file of cells of its own."""
    which = settings_hash(
        data.digest(), split, predict.that_matter(), [settings.max_images, settings.seed, settings.scoring.gate]
    )
    kept = Kept(run / f"robustness_{split}_{which[:8]}.json", model_digest(run))
    return measure_robustness(load_dense_method(run), data, split, predict, settings, kept)


def differences(table: RobustnessTable, first: RobustnessTable) -> dict[str, list[dict[str, Any]]]:
    """Mean IoU of a model less that of the first, paired by patient."""

    def paired(counts_PKK: Any, other_PKK: Any) -> dict[str, Any]:
        return bootstrap_difference(
            counts_PKK, other_PKK, first.patients, lambda counts: mean_iou(counts, first.protocol.background)
        ).to_json()

    return {
        name: [paired(cell.counts_PKK, other.counts_PKK) for cell, other in zip(cells, first.cells[name], strict=True)]
        for name, cells in table.cells.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=named_run, nargs="+", metavar="NAME=RUN")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--layout")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--again", action="store_true", help="open the test split once more; the result says so")
    parser.add_argument("--plot", type=Path, required=True, help="where to write the figure")
    parser.add_argument("--corruptions", nargs="+", choices=tuple(CORRUPTIONS), default=list(CORRUPTIONS))
    parser.add_argument("--max-images", type=int, help="of as many patients as there can be")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images")
    parser.add_argument("--protocol", choices=("exclude_background", "with_background"), default="exclude_background")
    parser.add_argument("--gate", choices=("predicted", "truth", "none"), default="predicted")
    parser.add_argument("--tta", choices=("none", "hv3", "d4"), default="none")
    parser.add_argument("--overlap", type=float, default=0.25)
    options = parser.parse_args()
    names = [name for name, _ in options.runs]
    if len(set(names)) < len(names):
        parser.error(f"the names {names} were given; every run needs one of its own")

    data = open_patches(options.data, options.layout)
    predict = PredictSettings(tta=options.tta, overlap=options.overlap)
    scoring = EvaluateSettings(protocol=options.protocol, gate=options.gate)
    settings = RobustnessSettings(tuple(options.corruptions), options.max_images, options.seed, scoring)
    tables: dict[str, RobustnessTable] = {}
    models: dict[str, Any] = {}
    for name, run in options.runs:
        openings = open_test_split(run, data.digest(), options.again) if options.split == "test" else []
        tables[name] = measured(run, data, options.split, predict, settings)
        models[name] = {
            "model_digest": model_digest(run),
            "test_openings": len(openings),
            **tables[name].to_json(),
            "notes": [*tables[name].protocol.notes, *notes_on_patients(run, data, options.split, data.digest())],
        }
    first = next(iter(tables.values()))
    if len(first.patients) > 1:
        for name in list(tables)[1:]:
            models[name]["less_the_first_model"] = differences(tables[name], first)
    draw_robustness(tables, options.plot)
    result = {
        "what": "mean IoU under corruption; strength 0 is the images as they are",
        "command": " ".join(["python benchmarks/robustness.py", *(f"{name}=RUN" for name in names), "--data DATA"]),
        "date": datetime.now(UTC).date().isoformat(),
        "data": data.summary(),
        "data_digest": data.digest(),
        "settings": {**asdict(settings), "tta": options.tta, "overlap": options.overlap},
        "models": models,
    }
    print(json.dumps(result, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
