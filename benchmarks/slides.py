"""Test slides of any size, written in seconds: synthetic tissue repeated, each tile coded once and written many times.

    python benchmarks/slides.py OUT.svs --side 40960 --tissue 0.4

A plane of 4,096 px is drawn once: tissue in a disc, or everywhere, and glass with a scanner's noise around it. Slides
repeat it, so tissue grows as their area does. They have three levels of 256 px JPEG tiles, 4:2:2, about 0.3 bytes a pixel
of tissue, as Aperio's scanners write them, and open in every reader.

Does not know: what is measured on them.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
import tifffile
from PIL import Image

from counterstain.geometry import Box
from counterstain.synth.scene import Scene, SceneSettings

Pixels = npt.NDArray[np.uint8]

MPP = 0.5
TILE_PX = 256
PERIOD_PX = 4096
_DRAWN_PX = 2048
_SCALES = (1, 4, 16)
_QUALITY = 80
_GLASS = 243
_EDGE_PX = 24.0  # over which tissue fades into glass


@dataclass(frozen=True)
class Coded:
    """A level of the repeated plane.

    Args:
        tiles: Row by row, each a JPEG stream.
        across: Tiles in a row of the plane.
    """

    tiles: tuple[tuple[bytes, ...], ...]
    across: int


def write_slide(path: Path, side: int, tissue: float = 0.4, seed: int = 0) -> None:
    """Writes a slide.

    Args:
        path: An .svs or .tif file.
        side: Width and height, px; parts of the last tiles overhang.
        tissue: The share of the plane under tissue, at most 0.75, or 1 for tissue everywhere.
        seed: Of what is drawn.
    """
    levels = _coded(tissue, seed)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for scale, level in zip(_SCALES, levels, strict=True):
            length = side // scale
            writer.write(
                _tiles(level, length),
                shape=(length, length, 3),
                dtype="uint8",
                tile=(TILE_PX, TILE_PX),
                photometric="ycbcr",
                compression="jpeg",
                subsampling=(2, 1),
                description=_description(side, length),
                metadata=None,
                subfiletype=0,
            )


def _tiles(level: Coded, length: int) -> Iterator[bytes]:
    num = -(-length // TILE_PX)
    for row in range(num):
        for column in range(num):
            yield level.tiles[row % level.across][column % level.across]


def _description(side: int, length: int) -> str:
    size = f"{side}x{side}" if length == side else f"{side}x{side} -> {length}x{length}"
    return f"Aperio Image Library v12.0.15\n{size} JPEG/RGB Q={_QUALITY}|AppMag = 20|MPP = {MPP}"


@cache
def _coded(tissue: float, seed: int) -> tuple[Coded, ...]:
    plane = drawn_plane(tissue, seed)
    levels = (plane if scale == 1 else np.asarray(Image.fromarray(plane).reduce(scale)) for scale in _SCALES)
    return tuple(_level(np.ascontiguousarray(level)) for level in levels)


def _level(pixels: Pixels) -> Coded:
    across = len(pixels) // TILE_PX
    spans = [slice(start * TILE_PX, (start + 1) * TILE_PX) for start in range(across)]
    return Coded(tuple(tuple(_jpeg(pixels[rows, columns]) for columns in spans) for rows in spans), across)


def _jpeg(pixels: Pixels) -> bytes:
    stream: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), _QUALITY, "RGB", "422")
    return stream


def drawn_plane(tissue: float, seed: int) -> Pixels:
    """(4096, 4096, 3) uint8 RGB: what slides repeat."""
    scene = Scene(SceneSettings(seed=seed, mpp=MPP))
    drawn = scene.render(Box(0, 0, _DRAWN_PX, _DRAWN_PX))
    repeats = PERIOD_PX // _DRAWN_PX
    pixels = np.tile(drawn, (repeats, repeats, 1))
    if tissue >= 1:
        return pixels
    noise = np.random.default_rng(seed).normal(0, 1.2, pixels.shape).astype(np.float32)
    part = _disc(tissue)[:, :, None]
    mixed = part * pixels + (1 - part) * (_GLASS + noise)
    return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


def _disc(tissue: float) -> npt.NDArray[np.float32]:
    """(4096, 4096) float32 in [0, 1]: how much of a pixel is tissue."""
    radius = PERIOD_PX * np.sqrt(tissue / np.pi)
    centred = np.arange(PERIOD_PX, dtype=np.float32) + 0.5 - PERIOD_PX / 2
    distance = np.sqrt(centred[:, None] ** 2 + centred[None, :] ** 2)
    part: npt.NDArray[np.float32] = np.clip((radius - distance) / _EDGE_PX + 0.5, 0, 1)
    return part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=40960)
    parser.add_argument("--tissue", type=float, default=0.4)
    given = parser.parse_args()
    write_slide(given.out, given.side, given.tissue)


if __name__ == "__main__":
    main()
