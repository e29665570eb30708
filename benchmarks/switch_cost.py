"""What rounds of role reversal cost, against the F1 that they gained.

    python benchmarks/switch_cost.py STUDY_OUT --data DATA --variants fusion_kd___wce schedule proxy > switch_cost.json

From finished runs, means over seeds: minutes of each training by the clock (a teacher that was taken from another run costs
what it cost there), rounds, the disk of a round's maps at most, the gain over the reference as the study's table has it.
Measured anew, each in a process of its own: peak memory, processor and wall seconds of the teacher alone for one epoch on
some images, and of teacher and one round for one epoch each, with the maps, the verifier, the witness and the judging that
the variant's selector wants; a witness too learns for one epoch. What a process needs before it trains is told beside them.
Prints JSON.
"""

import argparse
import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from command import command_given
from counterstain import log
from counterstain.data import PatchDataset, open_patches
from counterstain.errors import InputError
from counterstain.files import read_json
from counterstain.methods import FusionKD, FusionKDConfig, load_dense_method
from counterstain.recipes.studies import study_file
from counterstain.report.study import read_study
from counterstain.settings import build, read_toml
from counterstain.training import TrainSettings

NOTHING, TEACHER, ROUND = "nothing", "teacher", "round"
WORK = (NOTHING, TEACHER, ROUND)
AS_THE_COMMAND_LINE = {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1"}
WITNESS = "witness"
IMPORTED = ("lightning.pytorch", "sklearn.linear_model", "sklearn.metrics", "safetensors.torch")


def used() -> tuple[float, float]:
    """Peak memory of this process in MiB, and its processor seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    kib = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return kib / 1024, usage.ru_utime + usage.ru_stime


def some(data: PatchDataset, num_patches: int) -> PatchDataset:
    """Training images drawn at random, of many patients; the validation split stays whole."""
    drawn = np.random.default_rng(0).permutation(len(data.train))[:num_patches]
    return replace(data, train=tuple(data.train[index] for index in sorted(drawn)))


def shortened(config: FusionKDConfig, work: str) -> FusionKDConfig:
    """One epoch of the teacher, and of one student where one is wanted, from nothing."""
    config = replace(config, teacher_run=None, teacher_epochs=1, round_epochs=1, candidates=1)
    if work == TEACHER:
        return replace(config, selector="schedule", max_rounds=0)
    return replace(config, max_rounds=1)


def measure(run: Path, folder: Path, work: str, num_patches: int) -> None:
    """Trains in this process and prints what it took; the data are those of the run."""
    tree = read_toml(run / "config.toml")
    source = tree["data"]
    data = some(open_patches(folder, source.get("layout"), mpp=source.get("mpp")), num_patches)
    method = load_dense_method(run)
    training = replace(build(TrainSettings, tree["training"]), epochs=1, patience=None, num_workers=0)
    config = shortened(method.config, work)
    for name in IMPORTED:  # once a process, whatever it trains
        importlib.import_module(name)
    start, cpu = time.perf_counter(), used()[1]
    if work != NOTHING:
        with tempfile.TemporaryDirectory() as out:
            FusionKD.create(config, data, tile_px=method.input.tile_px, seed=0).fit(data, Path(out), training)
    peak, cpu_after = used()
    print(json.dumps({"peak_mib": peak, "cpu_s": cpu_after - cpu, "wall_s": time.perf_counter() - start}))


def measured(run: Path, options: argparse.Namespace, work: str) -> dict[str, float]:
    """What a process of its own says."""
    log.say(f"Measuring {work}: {run.parent.name}")
    command = [sys.executable, __file__, str(run), "--data", str(options.data), "--patches", str(options.patches)]
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(
        [*command, "--measure", work],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, **AS_THE_COMMAND_LINE, **threads},
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {name: round(value, 1) for name, value in found.items()}


def stages_of(run: Path) -> dict[str, float]:
    """Minutes by training; those of a teacher or witness that another run of the study made are that run's."""
    stages: dict[str, float] = dict(read_json(run / "training.json")["stages"])
    config = load_dense_method(run).config
    if config.teacher_run is not None:
        given = run.parents[1] / Path(config.teacher_run).parent.name / run.name
        names = (TEACHER, WITNESS) if config.selector == "proxy" else (TEACHER,)
        theirs = read_json(given / "training.json")["stages"]
        stages = {**{name: theirs[name] for name in names if name in theirs}, **stages}
    return stages


def cost_of(run: Path) -> dict[str, Any]:
    """Of a finished run."""
    rows, stages = read_json(run / "ledger.json")["rows"], stages_of(run)
    return {
        "rounds": len(rows),
        "decisions": [row["decision"] for row in rows],
        "kept": read_json(run / "ledger.json")["kept"],
        "map_megabytes": max((row["maps"]["megabytes"] for row in rows), default=0.0),
        "minutes_by_stage": {name: round(minutes, 2) for name, minutes in stages.items()},
        "minutes": sum(stages.values()),
    }


def row_of(folder: str, of_table: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What the result says of a variant."""
    metric, seeds = options.metric, of_table["seeds"]
    runs = {seed: options.study_out / folder / f"seed_{seed}" for seed in seeds}
    costs = {seed: cost_of(run) for seed, run in runs.items()}
    minutes = float(np.mean([cost["minutes"] for cost in costs.values()]))
    gain = of_table["gain_over_reference"]
    return {
        "name": of_table["name"],
        "seeds": seeds,
        metric: of_table[metric],
        "gain_over_reference": gain,
        "rounds": float(np.mean([cost["rounds"] for cost in costs.values()])),
        "map_megabytes": float(np.mean([cost["map_megabytes"] for cost in costs.values()])),
        "minutes": minutes,
        "by_seed": {f"seed_{seed}": cost for seed, cost in costs.items()},
        **({"one_round": measured(runs[seeds[0]], options, ROUND)} if gain is not None and options.data else {}),
    }


def table_of(options: argparse.Namespace) -> dict[str, Any]:
    """The study's own result.

    Raises:
        InputError: When there is none, or there are several to choose from.
    """
    files = [options.result] if options.result else sorted(options.study_out.glob(f"*_{options.split}.json"))
    if len(files) != 1:
        names = [path.name for path in files]
        raise InputError(f"{options.study_out.name} has results {names}; name one of them with --result.")
    tree: dict[str, Any] = read_json(files[0])
    return tree


def options_given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study_out", type=Path, help="what `counterstain compare` wrote")
    parser.add_argument("--data", type=Path, help="to measure memory and time on; without it runs alone are read")
    parser.add_argument("--study", default="fusion_kd", help="the file or name that was compared")
    parser.add_argument("--variants", nargs="+", help="folders in STUDY_OUT; all of the table by default")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="of the table that gains are read from")
    parser.add_argument("--result", type=Path, help="the table's JSON, where there are several")
    parser.add_argument("--patches", type=int, default=160, help="training images that are measured on, at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", choices=WORK, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = options_given()
    if options.measure:
        torch.set_num_threads(options.threads)
        measure(options.study_out, options.data, options.measure, options.patches)
        return
    table, study = table_of(options), read_study(study_file(options.study))
    options.metric = table["metric"]
    folders = {study.variant(row["name"]).folder: row for row in table["rows"] if row["seeds"]}
    missing = sorted(set(options.variants or ()) - set(folders))
    if missing:
        raise InputError(f"The table has no variants {missing}; it has {list(folders)}.")
    reference = study.variant(table["reference"]).folder
    chosen = [name for name in folders if options.variants is None or name in {reference, *options.variants}]
    first = options.study_out / reference / f"seed_{folders[reference]['seeds'][0]}"
    alone = {work: measured(first, options, work) for work in (NOTHING, TEACHER)} if options.data else {}
    result = {
        "what": "cost of rounds: minutes by the clock, disk, and of one epoch each the peak memory and seconds; F1 gained",
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "study": table["study"],
        "split": table["split"],
        "data": table["data"]["name"],
        "data_digest": table["data_digest"],
        "reference": table["reference"],
        "patches_measured_on": options.patches,
        "measured_alone": alone,
        "rows": {name: row_of(name, folders[name], options) for name in chosen},
        "machine": {"torch": torch.__version__, "python": platform.python_version(), "threads": options.threads},
    }
    print(json.dumps(result, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
