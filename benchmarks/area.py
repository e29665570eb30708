"""What a prediction costs against the area of its slide.

    python benchmarks/area.py [--sides 10240 30720 102400] [--rounds 1]

Claim: cost grows as the area does, from 10,000 to 100,000 px a side within 5 %. The slides repeat one plane, so that tissue
grows as they do; the network gives maps that were drawn before and costs nothing, so that what is measured is the engine:
tissue, reading, blending, painting, Zarr, then GeoJSON and OME-TIFF. CPU seconds of all threads for each tile and for each
10^8 px; `slope` is the exponent b of cost = a * area^b between the smallest and the largest slide. Prints JSON.
"""

import argparse
import gc
import json
import math
import shutil
import statistics
import tempfile
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from command import command_given
from counterstain.export import write
from counterstain.infer import PredictSettings, predict_slide
from counterstain.results import SlideMap
from counterstain.slides import open_slide
from machine import machine_in_words
from overhead import EXPORTS, FreeModel, Work
from slides import write_slide
from timing import timed


def measured(path: Path, out: Path, settings: PredictSettings, rounds: int) -> dict[str, Any]:
    """CPU seconds of a slide's prediction and of its exports."""
    model = FreeModel(settings.batch_size)
    with open_slide(path) as slide:
        num_tiles = Work(slide, model, settings, out).plan().num_tiles()
    found: dict[str, list[float]] = {"predict": [], **{name: [] for name in EXPORTS}}
    results: list[SlideMap] = []

    def predict() -> None:
        with open_slide(path) as slide:
            results.append(predict_slide(slide, model, out, settings, "free"))

    for _ in range(rounds):
        shutil.rmtree(out, ignore_errors=True)
        gc.collect()
        found["predict"].append(timed(predict)[1])
        for name in EXPORTS:
            found[name].append(timed(partial(write, name, results[-1]))[1])
    seconds = {name: statistics.median(values) for name, values in found.items()}
    return {"tiles": num_tiles, "cpu_seconds": seconds | {"whole": sum(seconds.values())}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[10240, 30720, 102400])
    parser.add_argument("--tissue", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    settings = PredictSettings(device="cpu", runtime="torch", num_threads=1)
    found: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in sorted(given.sides):
            path, out = Path(folder) / "slide.svs", Path(folder) / "out"
            write_slide(path, side, given.tissue)
            if not found:
                measured(path, out, settings, 1)  # warms up
            found[side] = measured(path, out, settings, given.rounds)
            path.unlink()
    for side, entry in found.items():
        for name, seconds in entry["cpu_seconds"].items():
            entry.setdefault("cpu_ms_a_tile", {})[name] = round(1e3 * seconds / entry["tiles"], 4)
            entry.setdefault("cpu_seconds_for_1e8_px", {})[name] = round(1e8 * seconds / side**2, 4)
    small, large = min(found), max(found)
    growth = {
        name: found[large]["cpu_seconds"][name] / found[small]["cpu_seconds"][name]
        for name in found[small]["cpu_seconds"]
    }
    areas = (large / small) ** 2
    report = {
        "command": command_given(),
        "date": date.today().isoformat(),
        "machine": machine_in_words(),
        "tissue": given.tissue,
        "sides": {str(side): entry for side, entry in found.items()},
        "growth_over_area": {name: round(value / areas, 4) for name, value in growth.items()},
        "slope": {name: round(math.log(value) / math.log(areas), 4) for name, value in growth.items()},
        "is_accepted": abs(growth["whole"] / areas - 1) <= 0.05,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
