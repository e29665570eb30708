"""Reading every tile of level 0: ours and OpenSlide's, as fractions of what decoding alone would take.

    python benchmarks/reading.py SLIDE.svs [--rounds 5]

Claim: the direct reader comes close to the decoder's own speed, for boxes that fall on the file's tiles and for boxes that
cut them. The limit is libjpeg-turbo (or the slide's own codec) decoding each stored tile once, from memory, its buffer
reused. All are measured in turn in one process, one thread, in CPU seconds, which other processes disturb least; rounds are
interleaved and the best of each counts. Prints JSON.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import simplejpeg

from counterstain.geometry import Box, Size
from counterstain.slides import OpenSlideSlide, Slide, TiffSlide
from counterstain.slides.codecs import JPEG, decode_tile, jpeg_stream


def decoding_limit(slide: TiffSlide) -> Callable[[], None]:
    """Decodes every stored tile of level 0 once."""
    level = slide._tiled[0]
    data = slide.path.read_bytes()
    buffer = bytearray(level.coding.tile.area * 3)
    places = zip(level.offsets.tolist(), level.num_bytes.tolist(), strict=True)
    tiles = [data[start : start + count] for start, count in places if count]

    def decode_jpeg() -> None:
        for stream in streams:
            simplejpeg.decode_jpeg(stream, "RGB", buffer=buffer)

    def decode_others() -> None:
        for tile in tiles:
            decode_tile(tile, level.coding)

    if level.coding.compression != JPEG:
        return decode_others
    streams = [jpeg_stream(tile, level.coding) for tile in tiles]
    return decode_jpeg


def reading(slide: Slide, tile: Size) -> Callable[[], None]:
    """Reads level 0 in boxes of a size, row by row, from a closed file."""
    width, height = slide.size.width, slide.size.height

    def read() -> None:
        slide.close()
        for y in range(0, height, tile.height):
            for x in range(0, width, tile.width):
                box = Box(x, y, min(tile.width, width - x), min(tile.height, height - y))
                slide.read_resized(box, box.size)

    return read


def best_times(tasks: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    times = dict.fromkeys(tasks, float("inf"))
    for _ in range(rounds):
        for name, task in tasks.items():
            start = time.process_time()
            task()
            times[name] = min(times[name], time.process_time() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    ours, theirs = TiffSlide(given.slide), OpenSlideSlide(given.slide)
    stored = ours._tiled[0].coding.tile
    sizes = {f"stored_{stored.width}": stored, "box_256": Size(256, 256), "box_224": Size(224, 224)}
    tasks = {"limit": decoding_limit(ours)}
    for name, size in sizes.items():
        tasks[f"ours_{name}"], tasks[f"openslide_{name}"] = reading(ours, size), reading(theirs, size)
    times = best_times(tasks, given.rounds)
    limit = times.pop("limit")
    result = {
        "slide": given.slide.name,
        "size": [ours.size.width, ours.size.height],
        "stored_tile": [stored.width, stored.height],
        "limit_mpx_per_s": round(ours.size.area / limit / 1e6, 1),
        "fraction_of_limit": {name: round(limit / seconds, 3) for name, seconds in times.items()},
        "times_openslide": {name: round(times[f"openslide_{name}"] / times[f"ours_{name}"], 2) for name in sizes},
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
