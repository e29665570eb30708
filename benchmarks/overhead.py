"""What a prediction costs besides its network: CPU milliseconds for each 224 px tile, stage by stage.

    python benchmarks/overhead.py [--side 12288] [--overlaps 0 0.25 0.5] [--rounds 3]

Claim: everything in `predict` but the network takes no more than 1 ms of CPU for each tile. The network gives a map that
was drawn before and costs nothing. `whole` is `predict_slide` (reading, decoding, finding tissue, conversion to float32,
pooling to the map, blending, painting, the Zarr store), then GeoJSON and OME-TIFF; CPU seconds of all threads together.
Then each stage is run alone on the same slide, its input made beforehand; rounds are interleaved and the median is given,
with the least and the most. Decoding alone (libjpeg-turbo, each stored tile that a prediction touches once, from memory)
stands beside them as what no reader can save. Prints JSON.
"""

import argparse
import gc
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Self

import numpy as np
import simplejpeg
import torch
from scipy import ndimage
from torch import Tensor, nn

from command import command_given
from counterstain.export import write
from counterstain.export.regions import regions
from counterstain.geometry import Size
from counterstain.infer import PredictSettings, predict_slide
from counterstain.infer.paint import Painter, halves
from counterstain.infer.plan import Plan
from counterstain.infer.runtime import Runner, reader_threads
from counterstain.infer.settings import tile_sizes
from counterstain.infer.stitch import Band, Stitcher, window
from counterstain.infer.store import MapStore
from counterstain.infer.stream import Batch, Cutter
from counterstain.results import Classes, SlideMap
from counterstain.slides import Slide, TiffSlide, open_slide
from counterstain.slides.codecs import jpeg_stream
from counterstain.testing.planted import PlantedInput
from counterstain.tiles import GridSettings, grid
from counterstain.tissue import find_tissue
from machine import machine_in_words
from slides import write_slide
from timing import in_turn, spread

CLASSES = Classes(
    ("tumour", "stroma", "lymphocytes", "necrosis"), ((200, 30, 30), (30, 160, 60), (40, 60, 200), (120, 120, 120))
)
TILE_PX, NUM_BATCHES, EXPORTS = 224, 8, ("geojson", "ome_tiff")
BLOB_PX = 32  # what a network's last maps see as one pixel
NAMES = {"geojson": "a.geojson", "ome_tiff": "a.ome.tiff", "summary": "a.json"}


class FreeModel:
    """Gives tiles blobs of four classes, drawn before: none of them for a second time until all were given."""

    classes = CLASSES
    input = PlantedInput(tile_px=TILE_PX, halo_px=0, mpp=0.5, white_is_background=True)

    def __init__(self, batch_size: int) -> None:
        self.network = nn.Identity()
        self._batches = [blobs(batch_size, seed) for seed in range(NUM_BATCHES)]
        self._given = 0

    def predict_maps(self, images_BCHW: Tensor) -> Tensor:
        """(B, 4, 224, 224) probabilities."""
        self._given += 1
        return self._batches[self._given % NUM_BATCHES][: len(images_BCHW)]


def blobs(num: int, seed: int) -> Tensor:
    """(num, 4, 224, 224) float32 probabilities."""
    noise = np.random.default_rng(seed).normal(size=(num, len(CLASSES), TILE_PX, TILE_PX)).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, (0, 0, BLOB_PX, BLOB_PX), mode="wrap")
    return torch.tensor(smooth / smooth.std()).mul(2).softmax(1)


@dataclass(frozen=True)
class Work:
    """A slide, how it is predicted, and where results go."""

    slide: Slide
    model: FreeModel
    settings: PredictSettings
    out: Path

    def plan(self) -> Plan:
        """As a prediction makes it."""
        slide, sizes = self.slide, tile_sizes(self.model.input, self.settings, self.settings.map_stride)
        tiles = GridSettings(sizes.tile_px, sizes.stride_px, sizes.halo_px)
        found = grid(slide.bounds, slide.mpp, 0.5, tiles, find_tissue(slide, self.settings.tissue))
        return Plan(found, self.settings.map_stride, self.settings.chunk_px)

    def predict(self) -> SlideMap:
        """Anew."""
        shutil.rmtree(self.out, ignore_errors=True)
        return predict_slide(self.slide, self.model, self.out, self.settings, "free")

    def batches(self, plan: Plan) -> Iterator[Batch]:
        """As a prediction reads them."""
        tile = Size(plan.grid.tile_px, plan.grid.tile_px)
        cutter = Cutter(plan.grid.frame, tile, self.settings.batch_size, reader_threads(self.settings.num_workers))
        return cutter.stream(self.slide, (row for strip, _ in plan.strips() for row in strip.rows))


@dataclass(frozen=True)
class Inputs:
    """What stages are given, made beforehand.

    Args:
        plan: Of the prediction.
        result: Of it.
        images_BHWC: uint8, the first batch.
        runner: Of the network.
        cores: (N, 4, h, w) float32 cores of tiles' maps, for some batches.
        bands: Blended cores, with where they start.
        painter: Of the map.
        painted: Columns, rows, probabilities and labels of the map's chunks.
        alone: The folder where stages write.
    """

    plan: Plan
    result: SlideMap
    images_BHWC: Any
    runner: Runner
    cores: Any
    bands: list[tuple[int, Band]]
    painter: Painter
    painted: list[tuple[int, int, Any, Any]]
    alone: Path

    @classmethod
    def of(cls, work: Work) -> Self:
        """Predicts once, and keeps what lies between the stages."""
        plan, result = work.plan(), work.predict()
        images_BHWC = next(iter(work.batches(plan))).images_BHWC
        runner = Runner(work.model, work.settings, plan.map_stride)
        cores = np.concatenate([runner.run(images_BHWC, plan.grid.halo_px) for _ in range(NUM_BATCHES)])
        bands, painter = list(stitched(plan, cores)), Painter(CLASSES, plan.map_stride, with_gray=True)
        painted = [part for left, band in bands for part in chunks(painter, plan.chunk_px, left, band)]
        alone = work.out.with_name(f"{work.out.name}_alone")
        return cls(plan, result, images_BHWC, runner, cores, bands, painter, painted, alone)

    def facts(self) -> dict[str, Any]:
        """What stages work on, in numbers."""
        size = self.result.frame.size
        return {"tiles": self.plan.num_tiles(), "map": [size.width, size.height]} | drawn(self.result)


def stages_of(work: Work, made: Inputs) -> dict[str, Callable[[], object]]:
    """Actions by their names."""
    origin = made.result.classes, made.result.slide, made.result.inputs_hash
    store = MapStore.create(SlideMap(made.alone / "alone.zarr", made.result.frame, *origin), made.plan.chunk_px)
    return {
        "whole": lambda: predict_and_export(work),
        "decoding_alone": decoding(work.slide, made.plan),
        "tissue": lambda: find_tissue(work.slide, work.settings.tissue),
        "read": lambda: read(work, made.plan),
        "convert_and_pool": lambda: convert_and_pool(made),
        "stitch": lambda: sum(1 for _ in stitched(made.plan, made.cores)),
        "paint": lambda: paint(made),
        "store": lambda: store_all(store, made),
        **{name: partial(write, name, made.result, made.alone / file, overwrite=True) for name, file in NAMES.items()},
    }


def predict_and_export(work: Work) -> None:
    """All of it."""
    made = work.predict()
    for name in EXPORTS:
        write(name, made)


def read(work: Work, plan: Plan) -> None:
    """All batches."""
    with closing(work.batches(plan)) as batches:  # type: ignore[type-var]
        for _ in batches:
            pass


def convert_and_pool(made: Inputs) -> None:
    """As many batches as the plan has."""
    for _ in range(0, made.plan.num_tiles(), len(made.images_BHWC)):
        made.runner.run(made.images_BHWC, made.plan.grid.halo_px)


def paint(made: Inputs) -> None:
    """All bands."""
    for left, band in made.bands:
        for _ in chunks(made.painter, made.plan.chunk_px, left, band):
            pass


def store_all(store: MapStore, made: Inputs) -> None:
    """All chunks."""
    for x, y, probability, label in made.painted:
        store.write(x, y, probability, label)
    for number in range(len(made.bands)):
        store.mark(number, is_complete=False)


def drawn(result: SlideMap) -> dict[str, int]:
    """How much GeoJSON has to say."""
    import shapely

    polygons = [region.polygon for region in regions(result)]
    return {"regions": len(polygons), "vertices": int(shapely.get_num_coordinates(polygons).sum())}


def stitched(plan: Plan, cores: Any) -> Iterator[tuple[int, Band]]:
    """Blends cores, over and over; gives bands and where they start."""
    weights = window(Size(plan.core_px, plan.core_px), plan.overlap_px, plan.overlap_px)
    numbers = count()
    for strip, top in plan.strips():
        stitcher = Stitcher(cores.shape[1], strip.size, plan.chunk_px, plan.core_px, top)
        for row in strip.rows:
            yield from ((strip.left, band) for band in stitcher.bands_above(plan.core_of(row.y)))
            for x in row.xs:
                core = cores[next(numbers) % len(cores)]
                stitcher.add(core, weights, plan.core_of(x) - strip.left, plan.core_of(row.y))
        yield from ((strip.left, band) for band in stitcher.rest())


def chunks(painter: Painter, chunk_px: int, left: int, band: Band) -> Iterator[tuple[int, int, Any, Any]]:
    """Paints a band as a prediction does: column, row, probabilities and labels of its chunks."""
    is_glass = painter.glass(band.mean_CHW, band.is_covered)
    for start in range(0, band.is_covered.shape[1], chunk_px):
        columns = slice(start, start + chunk_px)
        if band.is_covered[:, columns].any():
            parts = band.mean_CHW[:, :, columns], band.is_covered[:, columns], is_glass[:, columns]
            probability, label = painter.paint(*parts)
            yield left + start, band.top, halves(probability), label


def decoding(slide: Slide, plan: Plan) -> Callable[[], None]:
    """Decodes every stored tile of level 0 that a tile of the plan touches, once."""
    assert isinstance(slide, TiffSlide)
    level, data = slide._stored[0], slide.path.read_bytes()
    side, across = level.coding.tile.width, -(-slide.size.width // level.coding.tile.width)
    down = -(-slide.size.height // side)
    touched = np.zeros((down, across), bool)
    for row, x in plan.grid:
        box = plan.grid.box(row, x)
        rows = slice(max(0, int(box.y // side)), int(-(-box.bottom // side)))
        touched[rows, max(0, int(box.x // side)) : int(-(-box.right // side))] = True
    numbers = np.flatnonzero(touched.ravel())
    streams = [
        jpeg_stream(data[level.offsets[number] : level.offsets[number] + level.num_bytes[number]], level.coding)
        for number in numbers.tolist()
    ]
    buffer = bytearray(level.coding.tile.area * 3)

    def decode() -> None:
        for stream in streams:
            simplejpeg.decode_jpeg(stream, "RGB", buffer=buffer)

    return decode


def measured(work: Work, rounds: int) -> dict[str, Any]:
    """All stages, milliseconds of a tile."""
    made = Inputs.of(work)
    facts, times = made.facts(), in_turn(stages_of(work, made), rounds, before=gc.collect)

    def told(seconds: list[float]) -> dict[str, float]:
        return spread([1e3 * one / facts["tiles"] for one in seconds], 4)

    cpu = {name: told(found.cpu) for name, found in times.items()}
    wall = {name: told(found.wall) for name, found in times.items()}
    is_accepted = cpu["whole"]["median"] <= 1.0
    return {**facts, "cpu_ms_a_tile": cpu, "wall_ms_a_tile": wall, "is_accepted": is_accepted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=12288)
    parser.add_argument("--tissue", type=float, default=0.4)
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.0, 0.25, 0.5])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.svs"
        write_slide(path, given.side, given.tissue)
        for overlap in given.overlaps:
            settings = PredictSettings(device="cpu", runtime="torch", overlap=overlap, num_threads=1)
            work = Work(open_slide(path), FreeModel(settings.batch_size), settings, Path(folder) / f"out{overlap}")
            found[str(overlap)] = measured(work, given.rounds)
    report = {
        "command": command_given(),
        "date": date.today().isoformat(),
        "machine": machine_in_words(),
        "slide": {"side": given.side, "tissue": given.tissue, "mpp": 0.5},
        "overlap": found,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
