"""What counterstain does on this machine, beside what its hardware allows: reading, stitching, networks; and how long a
slide takes with all that.

Everything is measured within a minute, on pictures made here; files are written to a temporary folder alone.

    B  images    C  channels    H  height    W  width

Does not know: how limits are measured (hardware.py), how figures are shown.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from counterstain.errors import CounterstainError, InputError
from counterstain.geometry import Box, Mpp, Size
from counterstain.infer.dense import DenseModel
from counterstain.infer.runtime import NEEDED, Runner, available_cores, network_threads, reader_threads, threads
from counterstain.infer.settings import PredictSettings, tile_sizes
from counterstain.infer.stitch import Stitcher, window
from counterstain.infer.stream import Cutter
from counterstain.jobs.hardware import (
    DRAWN_PX,
    MPP,
    PATIENCE_S,
    QUALITY,
    TILE_PX,
    Figure,
    best_seconds,
    cores_told,
    decoded_mpx_per_s,
    drawn_tissue,
    hardware,
    jpeg_tiles,
)
from counterstain.methods import SSHR, InputSpec, SSHRConfig, load_dense_method
from counterstain.models.count import count
from counterstain.results import Classes
from counterstain.slides import TiffSlide
from counterstain.synth.pyramid import Pyramid, write_pyramid
from counterstain.tiles import GridSettings, grid

USUAL_SIDE_PX, USUAL_MPP, USUAL_TISSUE = 40_960, MPP, 0.4
"""The slide that times are told for: 20 mm wide and high, two fifths of it tissue."""

_SLIDE_PX = 3072
_CUT_PX = 224  # tiles that fall on no stored ones
_MAP_STRIDE = 4
_BATCH = 4
_GPU_BATCH = 32
_SMALL = "SSHR, MobileNetV2, untrained"
_CLASSES = Classes(("a", "b", "c", "d"), ((0, 0, 0),) * 4)


@dataclass(frozen=True)
class NetworkTime:
    """A network in one runtime.

    Args:
        model: Its name.
        runtime: "torch" or another library, with the device.
        ms_a_tile: Of the whole step, uint8 tile to map.
        gflop_a_tile: Its multiply-adds, each counted as two.
        of_limit: What these would take at the rate of large matrix products, over what it takes.
        problem: Why it could not be run; empty where it could.
    """

    model: str
    runtime: str
    ms_a_tile: float | None
    gflop_a_tile: float
    of_limit: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Bench:
    """All of it.

    Args:
        cores: That this process may use.
        network_threads: That a network gets on them.
        reader_threads: That read tiles.
        figures: Of the machine and of counterstain's parts.
        networks: Each model in each runtime.
        outlook: How long a slide takes, in words; one line for each model.
    """

    cores: int
    network_threads: int
    reader_threads: int
    figures: tuple[Figure, ...]
    networks: tuple[NetworkTime, ...]
    outlook: tuple[str, ...]

    def tree(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure(run: Path | None = None, patience_s: float = PATIENCE_S) -> Bench:
    """Measures this machine.

    Args:
        run: A finished run whose model gives maps, to be timed as well.
        patience_s: Seconds for each figure, beyond one repetition of it.

    Raises:
        MissingFileError: When the run is not finished.
        InputError: When its method gives no maps.
    """
    models: dict[str, DenseModel] = {_SMALL: small_model()}
    if run is not None:
        models[run.name] = load_dense_method(run)
    before = hardware(patience_s)
    with tempfile.TemporaryDirectory(prefix="counterstain-bench-") as folder, _cache_in(Path(folder)):
        reading = read_rates(Path(folder), patience_s)
        stitching = stitch_ms(patience_s)
        times = [
            network_time(name, model, runtime, patience_s) for name, model in models.items() for runtime in runtimes()
        ]
    # What else the machine does changes within seconds, and a limit is what was possible at some time.
    limits = [max(pair, key=lambda figure: figure.value) for pair in zip(before, hardware(patience_s), strict=True)]
    figures = {figure.what: figure for figure in (*limits, *reading, stitching)}
    networks = [_beside_limit(entry, figures) for entry in times]
    return Bench(
        cores=available_cores(),
        network_threads=network_threads(None),
        reader_threads=reader_threads(None),
        figures=tuple(figures.values()),
        networks=tuple(networks),
        outlook=tuple(_outlook(name, model, networks, figures) for name, model in models.items()),
    )


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Within it, exported networks are kept in a folder that goes away."""
    before = os.environ.get("COUNTERSTAIN_CACHE")
    os.environ["COUNTERSTAIN_CACHE"] = str(folder / "cache")
    try:
        yield
    finally:
        del os.environ["COUNTERSTAIN_CACHE"]
        if before is not None:
            os.environ["COUNTERSTAIN_CACHE"] = before


def read_rates(folder: Path, patience_s: float = PATIENCE_S) -> list[Figure]:
    """Tiles of a slide read as prediction reads them, on one thread, and the share of what decoding alone takes."""
    drawn = np.tile(drawn_tissue(), (_SLIDE_PX // DRAWN_PX, _SLIDE_PX // DRAWN_PX, 1))
    whole = Size.of(drawn)
    path = folder / "tissue.svs"
    pyramid = Pyramid(whole, Box.whole(whole), USUAL_MPP, (), TILE_PX, QUALITY, "aperio")
    write_pyramid(path, pyramid, lambda box: drawn[box.slices()])
    limit = decoded_mpx_per_s(jpeg_tiles(drawn), 1, patience_s)
    found = []
    with TiffSlide(path) as slide:
        for name, tile_px in (("on stored tiles", TILE_PX), ("across stored tiles", _CUT_PX)):
            tiles = grid(slide.bounds, Mpp.square(USUAL_MPP), USUAL_MPP, GridSettings(tile_px))
            cutter = Cutter(tiles.frame, Size(tile_px, tile_px), 16, 0)

            def read(cutter: Cutter = cutter, rows: Any = tiles.rows) -> None:
                slide.close()
                for _ in cutter.stream(slide, rows):
                    pass

            rate = whole.area / best_seconds(read, patience_s) / 1e6
            what = f"reading tiles of {tile_px} px {name}"
            found.append(Figure(what, rate, "Mpx/s", rate / limit, "decoding alone"))
    return found


def stitch_ms(patience_s: float = PATIENCE_S) -> Figure:
    """Blending maps of four classes at a quarter of the resolution, a quarter overlapping: ms a tile."""
    core, stride, across, down = Size(56, 56), 42, 64, 16
    weights = window(core, core.width - stride, core.height - stride)
    values = np.random.default_rng(0).random((4, *core.shape), np.float32)
    size = Size(across * stride, down * stride)

    def stitch() -> None:
        stitcher = Stitcher(4, size, 128, core.height)
        for y in range(0, size.height, stride):
            for _ in stitcher.bands_above(y):
                pass
            for x in range(0, size.width, stride):
                stitcher.add(values, weights, x, y)
        for _ in stitcher.rest():
            pass

    return Figure("stitching", 1e3 * best_seconds(stitch, patience_s) / (across * down), "ms a tile")


def runtimes() -> list[str]:
    """What can run a network here: torch on the CPU, other libraries that are installed, and the GPU."""
    there = [name for name, needed in NEEDED.items() if all(map(find_spec, needed))]
    return ["torch", *there, *(["GPU"] if torch.cuda.is_available() else [])]


def small_model() -> DenseModel:
    """SSHR on a small backbone, with random weights: times do not depend on them."""
    config = SSHRConfig(backbone="mobilenet_v2", presence_thresholds=0.5)
    return SSHR(config, _CLASSES, InputSpec(_CUT_PX, 0, 1.0))


def network_time(name: str, model: DenseModel, runtime: str, patience_s: float = PATIENCE_S) -> NetworkTime:
    """How long a model takes for a tile in a runtime, all threads.

    Args:
        name: What it is called.
        model: It.
        runtime: One of `runtimes`.
        patience_s: Seconds for it.
    """
    tile_px = model.input.tile_px
    batch = _GPU_BATCH if runtime == "GPU" else _BATCH
    images = np.random.default_rng(0).integers(0, 256, (batch, tile_px, tile_px, 3), np.uint8)
    gflop = 2e-9 * count(_Maps(model), tile_px, tile_px).macs
    try:
        with threads(None):
            runner = _runner(model, runtime)
            taken = best_seconds(lambda: runner.run(images), patience_s) / batch
    except CounterstainError as error:
        return NetworkTime(name, runtime, None, gflop, problem=" ".join(str(error).split()))
    return NetworkTime(name, runtime, 1e3 * taken, gflop)


def _beside_limit(entry: NetworkTime, figures: dict[str, Figure]) -> NetworkTime:
    """A network's time with the share of matrix products that it comes to, on as many cores as a network gets."""
    if entry.ms_a_tile is None:
        return entry
    if entry.runtime == "GPU":
        gflops = 1e3 * figures["matrix products, GPU"].value
    else:
        used = min(network_threads(None), available_cores())
        one, every = (figures[f"matrix products, {cores_told(num)}"].value for num in (1, available_cores()))
        gflops = every if used == available_cores() else one * used
    return replace(entry, of_limit=1e3 * entry.gflop_a_tile / gflops / entry.ms_a_tile)


def _runner(model: DenseModel, runtime: str) -> Runner:
    is_gpu = runtime == "GPU"
    asked: dict[str, Any] = {"device": "cuda" if is_gpu else "cpu", "runtime": "torch" if is_gpu else runtime}
    settings = PredictSettings(batch_size=_GPU_BATCH if is_gpu else _BATCH, **asked)
    return Runner(model, settings, _MAP_STRIDE, model.input.tile_px)


class _Maps(nn.Module):
    """What is counted: a model's maps as a function of images, gates and fusion included."""

    def __init__(self, model: DenseModel) -> None:
        super().__init__()
        self.network, self._model = model.network, model

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self._model.predict_maps(images_BCHW)


def _outlook(name: str, model: DenseModel, networks: list[NetworkTime], figures: dict[str, Figure]) -> str:
    """How long the usual slide takes with the fastest runtime."""
    times = [entry for entry in networks if entry.model == name and entry.ms_a_tile is not None]
    if not times:
        raise InputError(f"No runtime here can run {name}: {networks[0].problem}")
    fastest = min(times, key=lambda entry: entry.ms_a_tile or 0)
    assert fastest.ms_a_tile is not None
    num_tiles = tiles_of_usual_slide(model)
    mpx = USUAL_TISSUE * USUAL_SIDE_PX**2 / 1e6
    read_s = mpx / figures[f"reading tiles of {_CUT_PX} px across stored tiles"].value / reader_threads(None)
    stitch_s = num_tiles * figures["stitching"].value / 1e3
    network_s = num_tiles * fastest.ms_a_tile / 1e3
    # On a CPU all of it takes turns on the same cores; a GPU computes while the CPU reads and stitches.
    seconds = max(network_s, read_s + stitch_s) if fastest.runtime == "GPU" else network_s + read_s + stitch_s
    return (
        f"A slide of {USUAL_SIDE_PX:,} x {USUAL_SIDE_PX:,} px at {USUAL_MPP:g} um/px with {USUAL_TISSUE:.0%} tissue takes "
        f"about {_duration(seconds)} with {name} on {fastest.runtime}: {num_tiles:,} tiles of {model.input.tile_px} px at "
        f"{model.input.mpp or USUAL_MPP:g} um/px, {network_s / seconds:.0%} of it the network."
    )


def tiles_of_usual_slide(model: DenseModel) -> int:
    """Tiles over the tissue of the usual slide, at the model's resolution and the default overlap."""
    stride = tile_sizes(model.input, PredictSettings(), _MAP_STRIDE).stride_px
    side = USUAL_SIDE_PX * USUAL_MPP / (model.input.mpp or USUAL_MPP)
    return max(1, round(USUAL_TISSUE * (side / stride) ** 2))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"
