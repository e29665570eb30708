"""`predict_slide`: a slide and a model in, the slide's map on disk out.

    tissue -> grid -> strips and bands (plan.py) -> batches of tiles (stream.py) -> maps (runtime.py)
           -> blended bands (stitch.py) -> labels and probabilities (paint.py) -> map.zarr (store.py)

    out/map.zarr          probability, label; progress in its attributes
    out/tissue.geojson    what was looked at
    out/slide.json        what went into it: slide, model, settings, versions

Bands are painted and stored beside the network, in order. Memory is bounded whatever the slide's area. Killed and called
again, it goes on at the first band that was not stored and ends with the same map. Results made of other inputs are
refused, finished ones returned at once.

Does not know: methods, exports, cohorts.
"""

import platform
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import counterstain
from counterstain import log
from counterstain.errors import NoTissueError, UnsupportedSlideError
from counterstain.files import settings_hash, write_json
from counterstain.geometry import Box, Frame, Size
from counterstain.infer.dense import DenseModel
from counterstain.infer.heap import HeapTrimmer
from counterstain.infer.inputs import what_differs
from counterstain.infer.later import Later
from counterstain.infer.paint import Painter, halves
from counterstain.infer.plan import Plan, Strip
from counterstain.infer.runtime import Runner, reader_threads, threads
from counterstain.infer.settings import PredictSettings, TileSizes, tile_sizes
from counterstain.infer.stitch import Band, Stitcher, window
from counterstain.infer.store import MapStore, standing
from counterstain.infer.stream import Batch, Cutter
from counterstain.results import SlideMap, SlideRecord
from counterstain.settings import to_tree
from counterstain.slides.base import Slide
from counterstain.tiles import GridSettings, TileGrid, grid
from counterstain.tissue import Tissue, find_tissue

_WAITING = 0  # bands, while one is painted and stored beside the network

MOST_ENLARGED = 2.5
"""A slide this many times coarser than the model's resolution is still mapped: 20x for a model of 40x is."""


def predict_slide(
    slide: Slide,
    model: DenseModel,
    out: Path,
    settings: PredictSettings,
    model_digest: str,
    tissue: Tissue | None = None,
) -> SlideMap:
    """Makes a slide's map, or finishes one that was interrupted, or returns one that is done.

    Args:
        slide: Of known resolution.
        model: Whose maps.
        out: The folder of this slide.
        settings: Tiles, blending, device.
        model_digest: A hash of the model's weights and config, by which results of another model are known.
        tissue: Where to look; None finds it by `settings.tissue`.

    Returns:
        The finished map.

    Raises:
        MissingResolutionError: When the slide's resolution is unknown.
        InputError: When the model's resolution is unknown, or tiles, device or model don't fit.
        UnsupportedSlideError: When the slide is much coarser than the model's resolution.
        NoTissueError: When there is nothing to look at.
        StaleResultError: When `out` holds a map of other inputs and `settings.overwrite` is not set.
        DamagedSlideError: When a tile can't be decoded; what was stored before stays, and is not done again.
    """
    path, record = out / "map.zarr", slide.record()
    if settings.white_background is None:
        settings = replace(settings, white_background=model.input.white_is_background)
    target_mpp = _target_mpp(slide, model, settings)
    sizes = tile_sizes(model.input, settings, settings.map_stride)
    runner = Runner(model, settings, settings.map_stride, sizes.tile_px)
    # "auto" is another precision and library on another machine, and a map is made by one of each throughout.
    tree = {**settings.that_matter(), "precision": runner.runtime.label, "model_mpp": target_mpp, **asdict(sizes)}
    inputs_hash = _inputs_hash(record, model_digest, tree, tissue)
    made_of: dict[str, Any] = {
        "slide": record.to_json(),
        "model_digest": model_digest,
        "settings": to_tree(settings),
        **runner.described,
        "outline": None if tissue is None else tissue.content_hash(),
    }

    def differing() -> list[str]:
        matter = {name: made_of["settings"].get(name) for name in settings.that_matter()}
        return what_differs(out / "slide.json", {**made_of, "settings": matter})

    before = standing(path, inputs_hash, differing, overwrite=settings.overwrite)
    if before.is_complete:
        log.say(f"{out}: already done")
        return SlideMap.open(path)
    if tissue is None:
        tissue = find_tissue(slide, settings.tissue)
        if tissue.note is not None:
            log.say(f"{slide.path}: tissue was {tissue.note}")
        slide.close()  # lets go of the tiles that its cache holds; it opens again by itself
    plan = Plan(_tiles(slide, tissue, target_mpp, sizes), settings.map_stride, settings.chunk_px)
    if before.bands_done is None:
        tissue.save(out / "tissue.geojson")
        result = SlideMap(path, plan.frame, model.classes, record, inputs_hash)
        write_json(out / "slide.json", _description(result, {**made_of, "tissue_note": tissue.note}))
        store = MapStore.create(result, settings.chunk_px)
    else:
        store = MapStore.reopen(path)
    painter = Painter(model.classes, settings.map_stride, bool(settings.white_background))
    work = _Work(slide, runner, plan, painter, tissue if settings.clip_to_tissue else None, store)
    with threads(settings.num_threads):
        work.finish(before.bands_done or 0, settings)
    return SlideMap.open(path)


def _target_mpp(slide: Slide, model: DenseModel, settings: PredictSettings) -> float:
    target_mpp = settings.target_mpp(model.input)
    if slide.mpp.mean > MOST_ENLARGED * target_mpp:
        raise UnsupportedSlideError(
            f"Slide '{slide.path}' has {slide.mpp.mean:.4g} um/px; the model looks at {target_mpp:.4g}, and pixels "
            f"enlarged more than {MOST_ENLARGED:g} times show it nothing. Scan it finer, or train a model at its "
            "resolution."
        )
    return target_mpp


def _tiles(slide: Slide, tissue: Tissue, target_mpp: float, sizes: TileSizes) -> TileGrid:
    settings = GridSettings(sizes.tile_px, sizes.stride_px, sizes.halo_px)
    tiles = grid(slide.bounds, slide.mpp, target_mpp, settings, tissue)
    if not tiles.rows:
        raise NoTissueError(f"No tissue lies on slide '{slide.path}'. Look at its tissue mask, or pass another.")
    return tiles


@dataclass(frozen=True)
class _Work:
    """Everything that the making of one map needs."""

    slide: Slide
    runner: Runner
    plan: Plan
    painter: Painter
    clip: Tissue | None
    store: MapStore

    def finish(self, bands_done: int, settings: PredictSettings) -> None:
        """Makes and stores the bands that are not done."""
        plan, tile_px = self.plan, self.plan.grid.tile_px
        workers = reader_threads(settings.num_workers)
        cutter = Cutter(plan.grid.frame, Size(tile_px, tile_px), settings.batch_size, workers)
        batches = cutter.stream(self.slide, (row for strip, _ in plan.strips(bands_done) for row in strip.rows))
        total, todo = plan.num_tiles(), plan.num_tiles(bands_done)
        name = f"Predicting {self.slide.path.name}"
        heap = HeapTrimmer()
        heap.now()  # finding tissue held a view of the slide and more
        with (
            closing(batches),
            log.progress(name, total, "tiles", done=total - todo) as counter,
            Later(_WAITING) as later,
            closing(self.runner.maps(batches, lambda batch: batch.images_BHWC, plan.grid.halo_px)) as mapped,
        ):
            for strip, top in plan.strips(bands_done):
                blend = _Blend(self.runner, plan, strip, top, counter, heap)
                for band in blend.bands(mapped, settings.batch_size):
                    later.do(partial(self._store, strip, band))
            assert next(mapped, None) is None, "all batches were blended"
        self.store.mark(plan.num_strips * plan.bands_per_strip, is_complete=True)

    def _store(self, strip: Strip, band: Band) -> None:
        is_wanted = band.is_covered
        if self.clip is not None and is_wanted.any():
            area = Box(strip.left, band.top, strip.size.width, len(is_wanted))
            is_wanted = is_wanted & tissue_under(self.clip, self.plan.frame, area)
        if not is_wanted.any():
            return
        is_glass = self.painter.glass(band.mean_CHW, is_wanted)
        for start in range(0, strip.size.width, self.plan.chunk_px):
            columns = slice(start, start + self.plan.chunk_px)
            if not is_wanted[:, columns].any():
                continue
            parts = band.mean_CHW[:, :, columns], is_wanted[:, columns], is_glass[:, columns]
            probability, label = self.painter.paint(*parts)
            self.store.write(strip.left + start, band.top, halves(probability), label)
        self.store.mark(self.plan.number_of(strip, band.top) + 1, is_complete=False)


_Mapped = tuple[Batch, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class _Blend:
    """Blends one strip."""

    runner: Runner
    plan: Plan
    strip: Strip
    top: int
    counter: log.Counter
    heap: HeapTrimmer

    def bands(self, mapped: Iterator[_Mapped], batch_size: int) -> Iterator[Band]:
        """The strip's bands, made of the next batches' maps."""
        plan = self.plan
        stitcher = Stitcher(self.runner.num_channels, self.strip.size, plan.chunk_px, plan.core_px, self.top)
        for row in self.strip.rows:
            yield from stitcher.bands_above(plan.core_of(row.y))
            for batch, cores in islice(mapped, -(-len(row.xs) // batch_size)):
                assert batch.y == row.y, "batches come in the order of the rows"
                self._add(stitcher, batch, cores)
        yield from stitcher.rest()

    def _add(self, stitcher: Stitcher, batch: Batch, cores: npt.NDArray[np.float32]) -> None:
        plan = self.plan
        weights = window(Size(plan.core_px, plan.core_px), plan.overlap_px, plan.overlap_px)
        for x, core_CHW in zip(batch.xs, cores, strict=True):
            stitcher.add(core_CHW, weights, plan.core_of(x) - self.strip.left, plan.core_of(batch.y))
        self.counter.advance(len(batch.xs))
        self.heap.when_grown()


def tissue_under(tissue: Tissue, frame: Frame, area: Box) -> npt.NDArray[np.bool_]:
    """Whether the centre of each pixel of an area lies in tissue.

    Args:
        tissue: The mask, coarser than the frame as a rule.
        frame: In whose pixels the area is given.
        area: Whole pixels.

    Returns:
        (height, width) bool; False beyond the mask.
    """
    centres = frame.to_level0(Box(area.x + 0.5, area.y + 0.5, area.width, area.height))
    own = tissue.frame
    columns = (centres.x + np.arange(area.size.width) * frame.downsample_x - own.origin.x) / own.downsample_x
    rows = (centres.y + np.arange(area.size.height) * frame.downsample_y - own.origin.y) / own.downsample_y
    x, y = np.floor(columns).astype(np.int64), np.floor(rows).astype(np.int64)
    height, width = tissue.mask.shape
    inside_x, inside_y = (x >= 0) & (x < width), (y >= 0) & (y < height)
    under: npt.NDArray[np.bool_] = tissue.mask[np.ix_(y.clip(0, height - 1), x.clip(0, width - 1))]
    under &= inside_y[:, None] & inside_x[None, :]
    return under


def _inputs_hash(record: SlideRecord, model_digest: str, tree: dict[str, Any], tissue: Tissue | None) -> str:
    """Of everything that changes the map. The slide may have moved: its path is left out."""
    if tissue is not None:
        tree = {**tree, "tissue": tissue.content_hash()}
    slide = [record.content_hash, record.size, record.mpp, record.bounds]
    return settings_hash(slide, model_digest, tree)


def _description(result: SlideMap, made_of: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": "counterstain.slide",
        "version": 1,
        "inputs_hash": result.inputs_hash,
        "map_frame": asdict(result.frame),
        **made_of,
        "versions": {
            "counterstain": counterstain.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
