"""Peak memory of a slide's prediction: what it adds to a process that has everything imported and the model loaded.

    python benchmarks/memory.py --sides 10000 60000

Claim: it does not grow with the slide. Each slide is predicted in a process of its own; the peak since the model was loaded
is read from the system. Both slides have the same amount of tissue (all of the small one), so that the readers' caches are
filled alike and the large one ends within minutes. The slides are flat TIFF pyramids whose JPEG tiles repeat, written in
seconds. Prints JSON.
"""

import argparse
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MPP, TILE = 0.5, 256


def write_slide(path: Path, side: int, tissue_side: int) -> None:
    """A pyramid of JPEG tiles: noisy pink in a square in the middle, white elsewhere."""
    import numpy as np
    import tifffile

    rng = np.random.default_rng(0)
    stained = np.clip(rng.normal((205, 120, 170), 25, (TILE, TILE, 3)), 0, 255).astype(np.uint8)
    white = np.full((TILE, TILE, 3), 245, np.uint8)

    def tiles(width: int, low: float, high: float):  # type: ignore[no-untyped-def]
        num = -(-width // TILE)
        for row in range(num):
            for column in range(num):
                inside = all(low <= (index + 0.5) * TILE < high for index in (row, column))
                yield stained if inside else white

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        width, level = side, 0
        while width >= 512 or level == 0:
            scale = side / width
            low, high = (side - tissue_side) / 2 / scale, (side + tissue_side) / 2 / scale
            writer.write(
                tiles(width, low, high),
                shape=(width, width, 3),
                dtype="uint8",
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 85},
                resolution=(1e4 / MPP / scale, 1e4 / MPP / scale),
                resolutionunit="CENTIMETER",
                subfiletype=int(level > 0),
            )
            width, level = width // 4, level + 1


def reset_peak() -> bool:
    """Makes the system count the peak anew; says whether it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """The most memory this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(path: Path, out: Path, num_workers: int) -> None:
    """Predicts one slide and prints what it took."""
    import psutil

    for name in ("scipy.ndimage", "shapely", "zarr", "tifffile", "simplejpeg", "counterstain.slides"):
        importlib.import_module(name)
    import zarr

    from counterstain.infer import PredictSettings, predict_slide
    from counterstain.slides import open_slide
    from counterstain.testing.planted import PlantedInput, PlantedModel

    zarr.create_array(zarr.storage.MemoryStore(), data=__import__("numpy").zeros(3))  # starts its threads
    model = PlantedModel(PlantedInput(tile_px=224, halo_px=32, mpp=MPP))
    settings = PredictSettings(device="cpu", num_workers=num_workers, num_threads=1, overlap=0)
    gc.collect()
    baseline, is_exact, start = psutil.Process().memory_info().rss, reset_peak(), time.monotonic()
    predict_slide(open_slide(path), model, out, settings, "planted")
    print(
        json.dumps(
            {
                "baseline_mib": baseline / 2**20,
                "peak_mib": peak_bytes() / 2**20,
                "added_mib": (peak_bytes() - baseline) / 2**20,
                "peak_is_since_baseline": is_exact,
                "seconds": time.monotonic() - start,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[10_000, 60_000], help="widths of the slides, px")
    parser.add_argument("--workers", type=int, default=1, help="threads that read")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure, arguments.workers)
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in arguments.sides:
            path = Path(folder) / f"{side}.tif"
            write_slide(path, side, min(arguments.sides))
            command = [sys.executable, __file__, "--workers", str(arguments.workers)]
            command += ["--measure", str(path), str(Path(folder) / f"out{side}")]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ})
            results[str(side)] = json.loads(done.stdout.splitlines()[-1])
            path.unlink()
    added = [entry["added_mib"] for entry in results.values()]
    report = {
        "slides": results,
        "largest_over_smallest": max(added) / min(added),
        "accepted": max(added) < 1.15 * min(added),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
