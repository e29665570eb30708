"""How fast tiles are read, as a share of what decoding alone takes.

    python benchmarks/reading.py [--slide SLIDE.svs] [--side 8192] [--rounds 5] [--out benchmarks/results/reading.json]

Claims: tiles that are the file's own are read at 0.95 of the decoder's speed or better, tiles that cut them at 0.90 of
decoding each touched tile once, whatever their stride; two threads give 1.8 times one; all of it is 4 times as fast as
OpenSlide. 256 -> 112 px images, as an encoder of cells is given them, take 1 / 1.3 of decoding whole tiles and resizing.

The limit is libjpeg-turbo decoding each touched tile once from memory, into one buffer that is used again and so stays in
the processor's cache. Nobody who hands over batches can do that: the same into the memory of two batches is measured
beside. Tiles that cut the file's own can't reach it either: the decoder writes contiguous memory alone, so that each pixel
is copied once at least, and the same with that copy into a row of tiles is measured beside. So is what two threads of the
bare decoder gain: a shared machine does not always give two cores. Ours is what prediction calls: the stream of batches
over the strips of a plan, their pixels looked at by nobody. Cells are compared with the same stream that decodes whole, and
with bare decoding and our resampling, both from memory. All run in turn in one process, several rounds; a ratio is the
median of the rounds' own ratios, of CPU seconds in one thread (which other processes disturb least) and of wall time where
threads are compared.
Prints JSON, one entry for each slide: tissue everywhere, a disc of tissue, and a real one where it is given.
"""

import argparse
import json
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from command import command_given
from counterstain.geometry import Box, Frame, Point, Size
from counterstain.infer.plan import Plan
from counterstain.infer.stream import Cutter
from counterstain.slides import OpenSlideSlide, Slide, TiffSlide, frame_of
from counterstain.slides.codecs import JPEG, decode_tile, jpeg_stream
from counterstain.slides.memory import decoder_memory
from counterstain.slides.resample import axis_of, resample
from counterstain.tiles import TileGrid, TileRow
from machine import machine_in_words
from slides import write_slide
from timing import Times, in_turn, ratios, spread

_BATCH = 16
_KINDS = ("limit", "limit of two", "batches", "copied", "0 threads", "1 threads", "2 threads", "openslide")
# That OpenSlide is asked for: it is slow, and a share tells; neighbours, which its cache serves.
_RUNS, _RUN_TILES = 3, 50


@dataclass(frozen=True)
class Grid:
    """Tiles over all of a slide's level 0."""

    tile: int
    stride: int
    start: int

    def rows(self, slide: Slide) -> list[TileRow]:
        """In the order of a prediction: strip by strip."""
        frame = frame_of(slide, slide.mpp.mean)
        ends = frame.size.width - self.tile + 1, frame.size.height - self.tile + 1
        xs = tuple(range(self.start, ends[0], self.stride))
        rows = tuple(TileRow(y, xs) for y in range(self.start, ends[1], self.stride))
        plan = Plan(TileGrid(frame, self.tile, self.stride, 0, rows), map_stride=1, chunk_px=256)
        return [row for strip, _ in plan.strips() for row in strip.rows]


def streaming(
    slide: Slide, frame: Frame, rows: list[TileRow], tile: int, num_workers: int, *, is_scaled: bool = False
) -> Callable[[], None]:
    """Reads all tiles as prediction does."""
    cutter = Cutter(frame, Size(tile, tile), _BATCH, num_workers, is_scaled)

    def read() -> None:
        for _ in cutter.stream(slide, rows):
            pass
        slide.close()

    return read


def touched(slide: TiffSlide, rows: list[TileRow], tile: int) -> list[int]:
    """The stored tiles that a grid on level 0 touches."""
    level = slide.stored(0)
    side, down = level.coding.tile, -(-level.size.height // level.coding.tile.height)
    is_touched = np.zeros((down, level.across), np.bool_)
    for row in rows:
        for x in row.xs:
            is_touched[
                row.y // side.height : -(-(row.y + tile) // side.height),
                x // side.width : -(-(x + tile) // side.width),
            ] = True
    return [int(number) for number in np.flatnonzero(is_touched)]


def stored_tiles(slide: TiffSlide, numbers: list[int]) -> list[bytes]:
    """Their bytes, held in memory."""
    level, data = slide.stored(0), np.memmap(slide.path, np.uint8, "r")
    places = ((int(level.offsets[number]), int(level.num_bytes[number])) for number in numbers)
    return [data[start : start + count].tobytes() for start, count in places if count]


def decoding(slide: TiffSlide, numbers: list[int], num_buffers: int = 1) -> Callable[[], None]:
    """The limit: stored tiles are decoded, nothing else, into one buffer or into several in turn."""
    coding, tiles = slide.stored(0).coding, stored_tiles(slide, numbers)
    if coding.compression != JPEG:

        def decode_others() -> None:
            for tile in tiles:
                decode_tile(tile, coding)

        return decode_others
    buffers = list(decoder_memory(num_buffers, *coding.tile.shape, 3))
    streams = [(jpeg_stream(tile, coding), buffers[number % num_buffers]) for number, tile in enumerate(tiles)]

    def decode() -> None:
        for stream, buffer in streams:
            simplejpeg.decode_jpeg(stream, "RGB", buffer=buffer)

    return decode


def decoding_in_two(slide: TiffSlide, numbers: list[int]) -> Callable[[], None]:
    """The limit shared out to two threads: what this machine has to gain by them."""
    halves = [decoding(slide, numbers[start::2]) for start in (0, 1)]

    def decode() -> None:
        threads = [threading.Thread(target=half) for half in halves]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return decode


def decoding_and_copying(slide: TiffSlide, numbers: list[int]) -> Callable[[], None]:
    """The limit, each tile copied to its place in a row of tiles."""
    level = slide.stored(0)
    coding, tile = level.coding, level.coding.tile
    streams = [jpeg_stream(data, coding) for data in stored_tiles(slide, numbers)]
    buffer = decoder_memory(*tile.shape, 3)
    row = np.zeros((tile.height, level.across * tile.width, 3), np.uint8)

    def decode() -> None:
        for number, stream in enumerate(streams):
            x = number % level.across * tile.width
            row[:, x : x + tile.width] = simplejpeg.decode_jpeg(stream, "RGB", buffer=buffer)

    return decode


def decoding_and_resizing(slide: TiffSlide, numbers: list[int], input_px: int) -> Callable[[], None]:
    """Whole tiles are decoded and made smaller by area integration: what scaled decoding is compared with."""
    coding, tiles = slide.stored(0).coding, stored_tiles(slide, numbers)
    streams = [jpeg_stream(tile, coding) for tile in tiles]
    buffer = decoder_memory(*coding.tile.shape, 3)
    side = coding.tile.width
    axis = axis_of(0, side / input_px, input_px, side, side)

    def read() -> None:
        for stream in streams:
            resample(simplejpeg.decode_jpeg(stream, "RGB", buffer=buffer), axis, axis)

    return read


def asking_openslide(slide: Slide, rows: list[TileRow], tile: int) -> tuple[Callable[[], None], float]:
    """Reads some of the tiles one by one, as OpenSlide is used, and which share of all they are."""
    other = OpenSlideSlide(slide.path, slide.mpp)
    places = [(x, row.y) for row in rows for x in row.xs]
    step = max(_RUN_TILES, -(-len(places) // _RUNS))
    some = [place for start in range(0, len(places), step) for place in places[start : start + _RUN_TILES]]

    def read() -> None:
        for x, y in some:
            other.read_resized(Box(x, y, tile, tile), Size(tile, tile))
        other.close()

    return read, len(some) / len(places)


def ratio(above: list[float], below: list[float], factor: float = 1.0) -> dict[str, float]:
    """Of two tasks, round by round, and of the best rounds."""
    rounds = spread([factor * one for one in ratios(above, below)], 3)
    return {**rounds, "of_best": round(factor * min(above) / min(below), 3)}


@dataclass(frozen=True)
class Tasks:
    """What is timed on one slide.

    Args:
        actions: By their kinds and the names of their grids.
        tiles: Of each grid, how many stored ones it touches and how many it has.
        shares: Of each grid's tiles, that OpenSlide is asked for.
    """

    actions: dict[str, Callable[[], None]]
    tiles: dict[str, dict[str, int]]
    shares: dict[str, float]


def tasks_on(slide: TiffSlide) -> Tasks:
    """Every kind of reading over every grid."""
    side = slide.stored(0).coding.tile.width
    grids = {
        f"aligned_{side}": Grid(side, side, 0),
        "224_stride_224": Grid(224, 224, 7),
        "224_stride_112": Grid(224, 112, 7),
    }
    frame = frame_of(slide, slide.mpp.mean)
    found = Tasks({}, {}, {})
    for name, grid in grids.items():
        rows = grid.rows(slide)
        numbers = touched(slide, rows, grid.tile)
        found.tiles[name] = {"stored": len(numbers), "grid": sum(len(row.xs) for row in rows)}
        found.actions[f"limit {name}"] = decoding(slide, numbers)
        found.actions[f"limit of two {name}"] = decoding_in_two(slide, numbers)
        found.actions[f"batches {name}"] = decoding(slide, numbers, num_buffers=2 * _BATCH)
        found.actions[f"copied {name}"] = decoding_and_copying(slide, numbers)
        for threads in (0, 1, 2):
            found.actions[f"{threads} threads {name}"] = streaming(slide, frame, rows, grid.tile, threads)
        found.actions[f"openslide {name}"], found.shares[name] = asking_openslide(slide, rows, grid.tile)
    return found


def measured(slide: TiffSlide, rounds: int, with_cells: bool) -> dict[str, Any]:
    """All claims on one slide."""
    side = slide.stored(0).coding.tile.width
    tasks, aligned = tasks_on(slide), f"aligned_{side}"
    cells = cell_tasks(slide, side) if with_cells else {}
    times = in_turn({**tasks.actions, **cells}, rounds, warm_ups=1)
    decoded_mpx = tasks.tiles[aligned]["stored"] * side**2 / 1e6
    result: dict[str, Any] = {
        "size": [slide.size.width, slide.size.height],
        "limit_mpx_per_cpu_s": spread([decoded_mpx / seconds for seconds in times[f"limit {aligned}"].cpu], 3),
        **{name: grid_told(name, tasks, times) for name in tasks.tiles},
    }
    if with_cells:
        whole, scaled, exact = (times[name].cpu for name in ("decode and resize", "scaled cells", "exact cells"))
        result["256_to_112"] = {
            "scaled_against_the_same_decoded_whole_cpu": ratio(exact, scaled),
            "scaled_against_bare_decoding_and_resizing_cpu": ratio(whole, scaled),
        }
    return result


def grid_told(name: str, tasks: Tasks, times: dict[str, Times]) -> dict[str, Any]:
    """The claims on one grid."""
    limit, both, batches, copied, here, one, two, peer = (times[f"{kind} {name}"] for kind in _KINDS)
    return {
        "tiles": tasks.tiles[name],
        "share_of_limit_cpu": ratio(limit.cpu, here.cpu),
        "share_of_limit_cpu_one_thread_ahead": ratio(limit.cpu, one.cpu),
        "share_of_decoding_into_batches_cpu": ratio(batches.cpu, here.cpu),
        "share_of_decoding_and_one_copy_cpu": ratio(copied.cpu, here.cpu),
        "two_threads_against_one_wall": ratio(one.wall, two.wall),
        "two_threads_of_the_bare_decoder_wall": ratio(limit.wall, both.wall),
        "times_openslide_cpu": ratio(peer.cpu, here.cpu, 1 / tasks.shares[name]),
        "cpu_ms_per_grid_tile": spread([1e3 * seconds / tasks.tiles[name]["grid"] for seconds in here.cpu], 3),
    }


def cell_tasks(slide: TiffSlide, side: int, input_px: int = 112) -> dict[str, Callable[[], None]]:
    """Cells of one stored tile each, read at the size that an encoder wants."""
    down = side / input_px
    columns, rows = slide.size.width // side, slide.size.height // side
    frame = Frame(Point(0, 0), down, down, Size(columns * input_px, rows * input_px))
    xs = tuple(range(0, columns * input_px, input_px))
    grid = [TileRow(y * input_px, xs) for y in range(rows)]
    numbers = [row * slide.stored(0).across + column for row in range(rows) for column in range(columns)]
    return {
        "decode and resize": decoding_and_resizing(slide, numbers, input_px),
        "exact cells": streaming(slide, frame, grid, input_px, 0),
        "scaled cells": streaming(slide, frame, grid, input_px, 0, is_scaled=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="a real slide, beside the written ones")
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    slides: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, tissue in (("tissue_everywhere", 1.0), ("tissue_in_discs", 0.4)):
            path = Path(folder) / f"{name}.svs"
            write_slide(path, given.side, tissue)
            slides[name] = measured(TiffSlide(path), given.rounds, with_cells=True)
            path.unlink()
    if given.slide is not None:
        slides[given.slide.name] = measured(TiffSlide(given.slide), given.rounds, with_cells=False)
    result = {
        "claim": "reading",
        "command": command_given(),
        "date": date.today().isoformat(),
        "machine": machine_in_words(),
        "rounds": given.rounds,
        "slides": slides,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
