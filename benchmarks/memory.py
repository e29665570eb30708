"""Peak memory of a slide's prediction: what it adds to a process that has everything imported and the model loaded.

    python benchmarks/memory.py [--sides 10000 100000]

Claim: it does not grow with the slide: what is added differs by 10 % at most, and the peaks lie under 2 GiB. Each slide is
predicted in a process of its own; the peak since the model was loaded is read from the system. Both slides have the same
amount of tissue (all of the small one), so that the readers' caches are filled alike and the large one ends within minutes.
The slides are flat TIFF pyramids whose JPEG tiles repeat, written in seconds. With `--exports` GeoJSON and OME-TIFF are
written too. Prints JSON.
"""

import argparse
import gc
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command import command_given
from machine import machine_in_words

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MPP, TILE = 0.5, 256
AS_THE_COMMAND_LINE = {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1"}
JPEG: dict[str, Any] = {
    "photometric": "rgb",
    "compression": "jpeg",
    "compressionargs": {"level": 85},
}


def encoded_tile(pixels: "npt.NDArray[np.uint8]") -> bytes:
    """A tile as it lies in a file: encoded once, written many times."""
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(file, pixels, tile=pixels.shape[:2], **JPEG)
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        start = page.dataoffsets[0]
        return file.getvalue()[start : start + page.databytecounts[0]]


def write_slide(path: Path, side: int, tissue_side: int) -> None:
    """A pyramid of JPEG tiles: noisy pink in a square in the middle, light grey elsewhere."""
    import numpy as np
    import tifffile

    rng = np.random.default_rng(0)
    low, high = (side - tissue_side) / 2, (side + tissue_side) / 2
    is_inside = [low <= (index + 0.5) * TILE < high for index in range(-(-side // TILE))]
    places = [row and column for row in is_inside for column in is_inside]
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for scale in (1, 4, 16):  # tiles shrink with the level, so that each lies under the same pixels of level 0
            shape, width = (TILE // scale, TILE // scale, 3), -(-side // scale)
            stained = encoded_tile(np.clip(rng.normal((205, 120, 170), 25, shape), 0, 255).astype(np.uint8))
            white = encoded_tile(np.full(shape, 245, np.uint8))
            writer.write(
                (stained if is_stained else white for is_stained in places),
                shape=(width, width, 3),
                dtype="uint8",
                tile=shape[:2],
                resolution=(1e4 / MPP / scale, 1e4 / MPP / scale),
                resolutionunit="CENTIMETER",
                subfiletype=int(scale > 1),
                **JPEG,
            )


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


def measure(path: Path, out: Path, num_workers: int, *, with_exports: bool) -> None:
    """Predicts one slide and prints what it took."""
    import psutil

    for name in ("scipy.ndimage", "shapely", "zarr", "tifffile", "simplejpeg", "counterstain.slides"):
        importlib.import_module(name)
    import zarr

    from counterstain.export import write
    from counterstain.infer import PredictSettings, predict_slide
    from counterstain.slides import open_slide
    from counterstain.testing.planted import PlantedInput, PlantedModel

    zarr.create_array(zarr.storage.MemoryStore(), data=__import__("numpy").zeros(3))  # starts its threads
    model = PlantedModel(PlantedInput(tile_px=224, halo_px=32, mpp=MPP))
    settings = PredictSettings(device="cpu", num_workers=num_workers, num_threads=1, overlap=0, runtime="torch")
    gc.collect()
    baseline, is_exact, start = psutil.Process().memory_info().rss, reset_peak(), time.monotonic()
    result = predict_slide(open_slide(path), model, out, settings, "planted")
    for name in ("geojson", "ome_tiff") if with_exports else ():
        write(name, result)
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
    parser.add_argument("--sides", type=int, nargs="+", default=[10_000, 100_000], help="widths of the slides, px")
    parser.add_argument("--workers", type=int, default=1, help="threads that read")
    parser.add_argument("--exports", action="store_true", help="write GeoJSON and OME-TIFF as well")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        path, out = arguments.measure
        measure(path, out, arguments.workers, with_exports=arguments.exports)
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in arguments.sides:
            path = Path(folder) / f"{side}.tif"
            write_slide(path, side, min(arguments.sides))
            command = [sys.executable, __file__, "--workers", str(arguments.workers)]
            command += ["--exports"] if arguments.exports else []
            command += ["--measure", str(path), str(Path(folder) / f"out{side}")]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, env={**os.environ, **AS_THE_COMMAND_LINE}
            )
            results[str(side)] = json.loads(done.stdout.splitlines()[-1])
            path.unlink()
    peak, added = ([entry[key] for entry in results.values()] for key in ("peak_mib", "added_mib"))
    report = {
        "command": command_given(),
        "date": date.today().isoformat(),
        "machine": machine_in_words(),
        "slides": results,
        "largest_over_smallest_peak": max(peak) / min(peak),
        "largest_over_smallest_added": max(added) / min(added),
        "is_accepted": max(added) <= 1.1 * min(added) and max(peak) < 2048,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
