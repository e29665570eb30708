"""Training images a second: patches decoded each time against patches kept decoded, epoch by epoch.

    python benchmarks/training_input.py [--patches 400] [--side 224] [--epochs 3] [--rounds 3] [--num-workers 0]
        [--out RESULT.json]

Claim: from the second epoch on, and from the first of a later run, a loader takes a tenth of the CPU seconds that decoding
PNG files takes; the epoch that fills the store takes a tenth more than decoding at most. JPEG files, which are decoded in a
third of the time, gain less and pay the same few tenths of a millisecond a patch. What is measured is the loader of
training, batches of 20, with nothing done to the batches. Each round has a new store.

Patches: cut from a drawn slide (`benchmarks/slides.py`) and written as PNG and as JPEG. Prints JSON.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from command import command_given
from counterstain.data import PatchRecord, WeakPatches, WeakSettings
from counterstain.training import train_loader
from machine import machine_in_words
from slides import PERIOD_PX, drawn_plane

_KINDS: dict[str, dict[str, Any]] = {"png": {}, "jpg": {"quality": 90}}
_BATCH = 20

Taken = dict[str, float]


def write_patches(folder: Path, kind: str, num: int, side: int) -> list[PatchRecord]:
    """Patches of tissue, with labels that mean nothing."""
    plane = drawn_plane(1.0, 0)
    rng = np.random.default_rng(0)
    found = []
    for number, (x, y) in enumerate(rng.integers(0, PERIOD_PX - side, (num, 2)).tolist()):
        path = folder / f"{number:05d}.{kind}"
        Image.fromarray(plane[y : y + side, x : x + side]).save(path, **_KINDS[kind])
        found.append(PatchRecord(path, (number % 2, 1 - number % 2), str(number)))
    return found


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def epochs_of(records: list[PatchRecord], settings: WeakSettings, num: int, num_workers: int) -> list[Taken]:
    """Patches a second and CPU milliseconds a patch of each epoch; where processes read, of all epochs together."""
    taken = []
    for part in range(1 if num_workers else num):
        wall, cpu, seen = time.perf_counter(), cpu_seconds(), 0
        if part == 0:
            loader = train_loader(WeakPatches(records, settings), batch_size=_BATCH, seed=1, num_workers=num_workers)
        for _ in range(num if num_workers else 1):
            for images_BCHW, _ in loader:
                seen += len(images_BCHW)
        if num_workers:
            del loader  # ends the processes, whose seconds count then
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
        taken.append({"patches_a_second": seen / wall, "cpu_ms_a_patch": 1000 * cpu / seen})
    return taken


def measured(records: list[PatchRecord], side: int, epochs: int, rounds: int, num_workers: int) -> dict[str, Any]:
    """Decoding, a run that fills the store, and a later run, in turn."""
    tasks: dict[str, Callable[[], list[Taken]]] = {
        name: lambda cache=cache: epochs_of(  # type: ignore[misc]
            records, WeakSettings(side, cache=cache), epochs, num_workers
        )
        for name, cache in (("decoded", "off"), ("filling_run", "auto"), ("later_run", "auto"))
    }
    seen: dict[str, list[list[Taken]]] = {name: [] for name in tasks}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["COUNTERSTAIN_CACHE"] = folder
            for name, task in tasks.items():
                seen[name].append(task())
    tree: dict[str, Any] = {
        name: {
            f"epoch_{epoch + 1}" if not num_workers else f"epochs_1_to_{epochs}": {
                figure: summary([taken[epoch][figure] for taken in runs]) for figure in runs[0][0]
            }
            for epoch in range(len(runs[0]))
        }
        for name, runs in seen.items()
    }

    def cost(name: str, epochs: slice) -> list[float]:
        return [statistics.median(one["cpu_ms_a_patch"] for one in taken[epochs]) for taken in seen[name]]

    decoding, first = cost("decoded", slice(None)), cost("filling_run", slice(0, 1))
    later = cost("later_run", slice(0, 1))
    tree["cpu_of_first_epoch_to_decoding"] = summary([one / other for one, other in zip(first, decoding, strict=True)])
    tree["times_less_cpu_in_a_later_runs_first_epoch"] = summary(
        [one / other for one, other in zip(decoding, later, strict=True)]
    )
    if not num_workers and epochs > 1:
        second = cost("filling_run", slice(1, None))
        ratios = [one / other for one, other in zip(decoding, second, strict=True)]
        tree["times_less_cpu_from_the_second_epoch_on"] = summary(ratios)
    return tree


def summary(values: list[float]) -> dict[str, float]:
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 4) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=400)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ.pop("COUNTERSTAIN_PATCH_CACHE_GIB", None)
    results = {}
    for kind in _KINDS:
        with tempfile.TemporaryDirectory() as folder:
            records = write_patches(Path(folder), kind, given.patches, given.side)
            results[kind] = measured(records, given.side, given.epochs, given.rounds, given.num_workers)
    tree = {
        "claim": "training images kept decoded, against decoding them each time",
        "command": command_given(),
        "date": date.today().isoformat(),
        "machine": machine_in_words(),
        "patches": given.patches,
        "side_px": given.side,
        "batch_size": _BATCH,
        "processes_that_read": given.num_workers,
        "files": results,
    }
    text = json.dumps(tree, indent=2)
    if given.out is not None:
        given.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
