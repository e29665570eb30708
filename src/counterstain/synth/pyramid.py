"""Pyramidal JPEG-tiled TIFF of any size in bounded memory.

Pixels come in strips from the top down. Each strip is cut into tiles, coded and written at once; beside it every smaller
level collects the rows it needs, averages them, and keeps its own coded tiles in a temporary file until their turn comes.
Nothing but a few strips is in memory, whatever the slide's height.

Three dialects: an Aperio-like SVS, a Leica-like SCN (a scanned area inside a larger slide, which OpenSlide reports as
bounds), and a generic TIFF.

Does not know: what is on the slide.
"""

import math
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import simplejpeg
import tifffile
from PIL import Image

from counterstain.errors import InputError
from counterstain.files import atomic
from counterstain.geometry import Box, Size
from counterstain.log import progress
from counterstain.synth.look import Pixels

Container = Literal["aperio", "generic", "leica"]

_STRIP_BYTES = 48 << 20  # most of a strip of level 0 in memory
_STRIP_PX = 512  # rows rendered at once, when memory allows
_CLASSIC_PX = 3.5e9  # more pixels might pass the 4 GiB of a classic TIFF
_NM = 1000


@dataclass(frozen=True)
class Pyramid:
    """What a slide file is to be.

    Args:
        size: Level 0 as a reader sees it.
        scanned: The part of it that holds pixels; all of it unless the container is "leica".
        mpp: um/px; None leaves the resolution out.
        downsamples: Of the smaller levels, ascending, each above 1; fractions allowed.
        tile_px: Width and height of tiles, a multiple of 16.
        jpeg_quality: 1 to 100.
        container: The dialect.

    Raises:
        InputError: When the numbers can't be a slide.
    """

    size: Size
    scanned: Box
    mpp: float | None
    downsamples: tuple[float, ...]
    tile_px: int
    jpeg_quality: int
    container: Container

    def __post_init__(self) -> None:
        if self.tile_px % 16 or self.tile_px < 16:
            raise InputError(f"Tiles of {self.tile_px} px were given; give a multiple of 16.")
        if not 1 <= self.jpeg_quality <= 100:
            raise InputError(f"A JPEG quality of {self.jpeg_quality} was given; give 1 to 100.")
        if list(self.downsamples) != sorted(set(self.downsamples)) or any(not down > 1 for down in self.downsamples):
            raise InputError(f"Downsamples {list(self.downsamples)} were given; give ascending numbers above 1.")
        if self.container == "leica" and self.mpp is None:
            raise InputError("A Leica slide can't be without a resolution. Give its mpp, or another container.")
        if self.container == "leica" and self.scanned == Box.whole(self.size):
            raise InputError("A Leica slide scanned from rim to rim is taken for its own overview. Give it a margin.")
        if not Box.whole(self.size).contains(self.scanned) or self.scanned.is_empty:
            raise InputError(f"The scanned area {self.scanned} was given; it must lie in the slide of {self.size}.")

    def level_sizes(self) -> list[Size]:
        """Of the stored pixels, finest first. Whole downsamples drop what is left over, as scanners do.

        Raises:
            InputError: When a level would be empty.
        """
        sizes = [self.scanned.size]
        for down in self.downsamples:
            reduced = [side / down for side in (sizes[0].width, sizes[0].height)]
            width, height = (math.floor(side + 1e-9) if down == int(down) else round(side) for side in reduced)
            if width < 1 or height < 1:
                raise InputError(f"A slide of {sizes[0]} can't be reduced {down:g} times. Leave that level out.")
            sizes.append(Size(width, height))
        return sizes


def write_pyramid(path: Path, pyramid: Pyramid, render: Callable[[Box], Pixels]) -> None:
    """Writes a slide.

    Args:
        path: The file.
        pyramid: What it is to be.
        render: Gives the pixels of a box of whole level-0 pixels, (H, W, 3) uint8.
    """
    sizes = pyramid.level_sizes()
    is_big = pyramid.container == "leica" or sizes[0].area > _CLASSIC_PX
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".levels-") as spool,
        atomic(path) as temporary,
        ExitStack() as spools,
        tifffile.TiffWriter(temporary, bigtiff=is_big) as tiff,
    ):
        files = [spools.enter_context((Path(spool) / str(number)).open("w+b")) for number in range(1, len(sizes))]
        levels = _levels(pyramid, sizes, files)
        tiles = spools.enter_context(closing(_coded_strips(pyramid, sizes[0], levels, render)))
        _write_level(tiff, pyramid, sizes, 0, tiles)
        for number, level in enumerate(levels, 1):
            _write_level(tiff, pyramid, sizes, number, level.coded())


def _write_level(tiff: Any, pyramid: Pyramid, sizes: list[Size], number: int, tiles: Iterator[bytes]) -> None:
    down = sizes[0].width / sizes[number].width
    tags: dict[str, Any] = {}
    if pyramid.mpp is not None and pyramid.container != "aperio":
        per_cm = 1e4 / (pyramid.mpp * down)
        tags = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
    tiff.write(
        tiles,
        shape=(*sizes[number].shape, 3),
        dtype=np.uint8,
        tile=(pyramid.tile_px, pyramid.tile_px),
        photometric="rgb",
        compression="jpeg",
        subsampling=(2, 2),
        # Levels of an SVS keep kind 0, as Aperio's own do
        subfiletype=1 if number and pyramid.container == "generic" else 0,
        description=_description(pyramid, sizes, number),
        software="counterstain",
        metadata=None,
        **tags,
    )


def _description(pyramid: Pyramid, sizes: list[Size], number: int) -> str | None:
    if pyramid.container == "generic":
        return "Synthetic slide by counterstain, no scan" if number == 0 else None
    if pyramid.container == "leica":
        return _leica_description(pyramid, sizes) if number == 0 else None
    base, size, tile = sizes[0], sizes[number], pyramid.tile_px
    reduced = "" if number == 0 else f" -> {size.width}x{size.height}"
    fields = ["Synthetic = by counterstain, no scan"]
    if pyramid.mpp is not None:
        fields = [f"AppMag = {10 / pyramid.mpp:g}", f"MPP = {pyramid.mpp:g}", *fields]
    return (
        f"Aperio Image Library v0.0.0 \r\n{base.width}x{base.height} [0,0 {base.width}x{base.height}] "
        f"({tile}x{tile}){reduced} JPEG/RGB Q={pyramid.jpeg_quality}|" + "|".join(fields)
    )


def _leica_description(pyramid: Pyramid, sizes: list[Size]) -> str:
    """The XML of an SCN file, as far as readers look at it; lengths in nanometres."""
    assert pyramid.mpp is not None
    nm, area = pyramid.mpp * _NM, pyramid.scanned
    dimensions = "".join(
        f'<dimension sizeX="{size.width}" sizeY="{size.height}" r="{number}" ifd="{number}"/>'
        for number, size in enumerate(sizes)
    )
    return (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="synthetic" sizeX="{round(pyramid.size.width * nm)}" '
        f'sizeY="{round(pyramid.size.height * nm)}"><image name="synthetic">'
        f'<device model="counterstain, no scanner" version="1"/><pixels sizeX="{sizes[0].width}" '
        f'sizeY="{sizes[0].height}">{dimensions}</pixels><view sizeX="{round(area.width * nm)}" '
        f'sizeY="{round(area.height * nm)}" offsetX="{round(area.x * nm)}" offsetY="{round(area.y * nm)}" '
        f'spacingZ="0"/><scanSettings><objectiveSettings><objective>{max(1, round(10 / pyramid.mpp))}</objective>'
        "</objectiveSettings><illuminationSettings><numericalAperture>0.5</numericalAperture>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
        "</collection></scn>"
    )


def _coded_strips(
    pyramid: Pyramid, size: Size, levels: list["_Level"], render: Callable[[Box], Pixels]
) -> Generator[bytes]:
    """The tiles of level 0, coded; every strip also goes to the levels below."""
    tile = pyramid.tile_px
    most = max(1, _STRIP_BYTES // (size.width * 3 * tile))
    height = tile * max(1, min(_STRIP_PX // tile, most))
    with progress("writing slide", math.ceil(size.height / height), "strips") as counter:
        for top in range(0, size.height, height):
            strip = Box(pyramid.scanned.x, pyramid.scanned.y + top, size.width, min(height, size.height - top))
            pixels = render(strip)
            # The writer stops asking after the last tile, so whatever else is to be done comes before it.
            if levels:
                levels[0].push(pixels)
            counter.advance()
            yield from _coded(pixels, tile, pyramid.jpeg_quality)


def _coded(pixels: Pixels, tile: int, quality: int) -> Iterator[bytes]:
    """JPEG tiles of a strip, row by row; what overhangs repeats the last pixels, which costs no sharp edge."""
    height, width = pixels.shape[:2]
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            part = pixels[top : top + tile, left : left + tile]
            if part.shape[:2] != (tile, tile):
                part = np.pad(part, ((0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)), mode="edge")
            coded: bytes = simplejpeg.encode_jpeg(
                np.ascontiguousarray(part), quality=quality, colorspace="RGB", colorsubsampling="420"
            )
            yield coded


def _levels(pyramid: Pyramid, sizes: list[Size], files: Sequence[IO[bytes]]) -> list["_Level"]:
    """The smaller levels, each fed by the one above it."""
    downs = [(1.0, 1.0), *(_scale(sizes[0], size) for size in sizes[1:])]
    levels: list[_Level] = []
    for number in range(len(sizes) - 1, 0, -1):
        scale = (downs[number][0] / downs[number - 1][0], downs[number][1] / downs[number - 1][1])
        coding = pyramid.tile_px, pyramid.jpeg_quality
        below = levels[0] if levels else None
        levels.insert(0, _Level(sizes[number - 1], sizes[number], scale, coding, files[number - 1], below))
    return levels


def _scale(base: Size, size: Size) -> tuple[float, float]:
    """Level-0 pixels under a level's pixel: the whole number that explains both sides, else the sides' ratio."""
    return _factor(base.width, size.width), _factor(base.height, size.height)


def _factor(base: int, side: int) -> float:
    whole = max(1, round(base / side))
    return float(whole) if abs(base / whole - side) < 1 else base / side


class _Level:
    """A smaller level while it grows."""

    def __init__(
        self,
        above: Size,
        size: Size,
        scale: tuple[float, float],
        coding: tuple[int, int],
        spool: IO[bytes],
        below: "_Level | None",
    ) -> None:
        self._above, self._size, self._scale, self._coding, self._below = above, size, scale, coding, below
        self._spool = spool
        self._lengths: list[int] = []
        self._rows = np.empty((0, size.width, 3), np.uint8)
        self._first_row, self._done = 0, 0

    def push(self, pixels: Pixels) -> None:
        """Takes the next rows of the level above."""
        right = min(self._size.width * self._scale[0], self._above.width)
        narrow = _resized(pixels, Size(self._size.width, len(pixels)), (0, 0, right, len(pixels)))
        self._rows = np.concatenate([self._rows, narrow])
        tile = self._coding[0]
        while self._done < self._size.height:
            end = min(self._done + tile, self._size.height)
            if self._first_row + len(self._rows) < min(math.ceil(end * self._scale[1]), self._above.height):
                return
            self._emit(end)

    def coded(self) -> Iterator[bytes]:
        """The coded tiles, row by row; once, after the last row of the level above."""
        assert self._done == self._size.height, "a level is missing rows"
        self._spool.seek(0)
        for length in self._lengths:
            yield self._spool.read(length)

    def _emit(self, end: int) -> None:
        top = self._done * self._scale[1] - self._first_row
        bottom = min(end * self._scale[1], self._above.height) - self._first_row
        pixels = _resized(self._rows, Size(self._size.width, end - self._done), (0, top, self._size.width, bottom))
        for coded in _coded(pixels, *self._coding):
            self._spool.write(coded)
            self._lengths.append(len(coded))
        used = math.floor(bottom)
        self._rows, self._first_row, self._done = self._rows[used:], self._first_row + used, end
        if self._below is not None:
            self._below.push(pixels)


def _resized(pixels: Pixels, size: Size, region: tuple[float, float, float, float]) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size.width, size.height), Image.Resampling.BOX, box=region))
