"""How much of their mean IoU trained models keep as images are corrupted: stain shift, blur, JPEG, five strengths each.

    python benchmarks/robustness.py PLAIN=RUN_A SSHR=RUN_B --data DATA --plot robustness.png > robustness.json

Every model maps the same images of a split under the same protocol; the truth is untouched. Intervals are over patients,
as are those of each model's difference to the first one named. Finished cells are kept in each run folder, so that the same
command goes on where it was interrupted. What can be found wrong is before the test split counts as opened; an interrupted
one is opened with --again.
Prints JSON.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from command import command_given
from counterstain.data import PatchDataset, open_patches
from counterstain.errors import InputError, listed
from counterstain.files import settings_hash
from counterstain.infer import PredictSettings, runtime_of_images
from counterstain.infer.settings import tile_sizes
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
    refuse_other_classes,
    refuse_other_gate,
)


def named_run(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(f"{text!r} was given; NAME=RUN was expected")
    return name, Path(folder)


@dataclass(frozen=True)
class Question:
    """What every run is asked."""

    data: PatchDataset
    digest: str
    split: str
    again: bool
    predict: PredictSettings
    settings: RobustnessSettings

    def cells_of(self, run: Path) -> Kept:
        """Each choice of images, protocol, windows and precision has a file of cells of its own."""
        precision = runtime_of_images(self.predict).label
        which = settings_hash(
            self.digest,
            self.split,
            {**self.predict.that_matter(), "precision": precision},
            [self.settings.max_images, self.settings.seed, self.settings.scoring.gate],
        )
        return Kept(run / f"robustness_{self.split}_{which[:8]}.json", model_digest(run))


def check(run: Path, asked: Question) -> None:
    """Refuses what can't be scored, before the split is opened for any run.

    Raises:
        InputError: When classes differ, the gate can't be given, tiles don't fit, or an image has no mask.
    """
    method = load_dense_method(run)
    refuse_other_classes(method, asked.data)
    refuse_other_gate(method, asked.settings.scoring.gate)
    tile_sizes(method.input, asked.predict, map_stride=1)
    unmasked = [str(record.image) for record in asked.data.split(asked.split) if not record.has_truth]
    if unmasked:
        raise InputError(listed(f"Images of the {asked.split} split have no mask to score against:", unmasked))


def measured(run: Path, asked: Question) -> tuple[RobustnessTable, dict[str, Any]]:
    """A run's table, and what the result says of the run."""
    openings = open_test_split(run, asked.digest, asked.again) if asked.split == "test" else []
    table = measure_robustness(
        load_dense_method(run), asked.data, asked.split, asked.predict, asked.settings, asked.cells_of(run)
    )
    return table, {
        "model_digest": model_digest(run),
        "test_openings": len(openings),
        **table.to_json(),
        "notes": [*table.protocol.notes, *notes_on_patients(run, asked.data, asked.split, asked.digest)],
    }


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


def options_given() -> argparse.Namespace:
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
    return options


def question(options: argparse.Namespace) -> Question:
    data = open_patches(options.data, options.layout)
    predict = PredictSettings(tta=options.tta, overlap=options.overlap)
    scoring = EvaluateSettings(protocol=options.protocol, gate=options.gate)
    settings = RobustnessSettings(tuple(options.corruptions), options.max_images, options.seed, scoring)
    return Question(data, data.digest(), options.split, options.again, predict, settings)


def main() -> None:
    options = options_given()
    asked = question(options)
    for _, run in options.runs:
        check(run, asked)
    tables: dict[str, RobustnessTable] = {}
    models: dict[str, dict[str, Any]] = {}
    for name, run in options.runs:
        tables[name], models[name] = measured(run, asked)
    first = next(iter(tables.values()))
    if len(first.patients) > 1:
        for name in list(tables)[1:]:
            models[name]["less_the_first_model"] = differences(tables[name], first)
    draw_robustness(tables, options.plot)
    result = {
        "what": "mean IoU under corruption; strength 0 is the images as they are",
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "data": asked.data.summary(),
        "data_digest": asked.digest,
        "settings": {**asdict(asked.settings), "tta": options.tta, "overlap": options.overlap},
        "models": models,
    }
    print(json.dumps(result, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
