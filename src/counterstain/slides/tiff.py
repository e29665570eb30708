"""Tiled TIFF, Aperio SVS and OME-TIFF, their tiles decoded directly.

tifffile reads the structure once: which pages are levels, where their tiles lie and how they are coded. What remains is
plain data that travels with the slide; a read seeks, decodes and copies, without OpenSlide. Decoded tiles are kept for a
while, so that boxes that overlap or cut tiles decode each of them once.

Vendors whose pages are no plain pyramid (overlapping tiles, several scans in one file, padded levels) are refused: they
are OpenSlide's.

Does not know: resampling, other formats, what is on the slide.
"""

import io
import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import tifffile

from counterstain.geometry import Box, Size
from counterstain.slides import codecs
from counterstain.slides.base import Header, Level, Resolution, Slide
from counterstain.slides.codecs import Coding, decode_tile
from counterstain.slides.resample import Pixels
from counterstain.slides.resolution import from_aperio, from_ome, from_tags

# Bytes of decoded tiles a handle keeps: a row of 256 px tiles across a slide of 80,000 px.
_CACHE_BYTES = 64 << 20

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# What tifffile raises where the structure of a file is damaged, found by cutting and flipping bytes of real ones.
_STRUCTURE_ERRORS = (
    tifffile.TiffFileError,
    ValueError,
    struct.error,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
)

_SCANNED_PAGES = 16  # looked at for a tiled one; a pyramid has fewer, a stack of thousands of planes has more
_REDUCED = 1  # NewSubfileType of a level; other bits mean masks and macro images


@dataclass(frozen=True, slots=True)
class _TiledLevel:
    """A level's tiles, row by row.

    Args:
        size: Its pixels.
        coding: How its tiles are stored.
        across: Tiles in a row.
        offsets: Where each begins in the file.
        num_bytes: How long each is; 0 where the scanner left it out.
    """

    size: Size
    coding: Coding
    across: int
    offsets: npt.NDArray[np.uint64]
    num_bytes: npt.NDArray[np.uint64]


class _Handle:
    """The open file and the tiles decoded last."""

    def __init__(self, path: Path) -> None:
        self.file: io.FileIO = path.open("rb", buffering=0)
        self._tiles: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self._bytes = 0

    def close(self) -> None:
        self.file.close()

    def bytes_at(self, offset: int, count: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(count) or b""

    def kept(self, key: tuple[int, int]) -> Pixels | None:
        if key in self._tiles:
            self._tiles.move_to_end(key)
        return self._tiles.get(key)

    def keep(self, key: tuple[int, int], pixels: Pixels) -> None:
        self._tiles[key] = pixels
        self._bytes += pixels.nbytes
        while self._bytes > _CACHE_BYTES and len(self._tiles) > 1:
            self._bytes -= self._tiles.popitem(last=False)[1].nbytes


class TiffSlide(Slide):
    """A tiled TIFF whose pages are a pyramid: Aperio SVS, OME-TIFF (levels in SubIFDs too), generic."""

    reader: ClassVar[str] = "tiff"
    _tiled: tuple[_TiledLevel, ...]

    @classmethod
    def detects(cls, path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            if file.read(4) not in _MAGIC:
                return False
        try:
            with tifffile.TiffFile(path) as tiff:
                return _foreign(tiff) is None and any(page.is_tiled for page in tiff.pages[:_SCANNED_PAGES])
        except _STRUCTURE_ERRORS:
            return True  # a TIFF all the same: opening it says what is wrong

    def _read_header(self) -> Header:
        try:
            with tifffile.TiffFile(self.path) as tiff:
                return self._read_structure(tiff)
        except _STRUCTURE_ERRORS as error:
            raise self._damaged(f"its TIFF structure can't be read ({error})") from error

    def _read_structure(self, tiff: tifffile.TiffFile) -> Header:
        foreign = _foreign(tiff)
        if foreign is not None:
            raise self._unsupported(f"it is a {foreign} file, whose pages are no plain pyramid", "Use OpenSlideSlide.")
        pages = self._levels_of(tiff)
        self._tiled = tuple(self._tiled_level(page) for page in pages)
        self._refuse_cut_short()
        size = self._tiled[0].size
        properties = _properties(tiff, pages[0])
        return Header(
            levels=tuple(Level.of(level.size, size) for level in self._tiled),
            resolution=_resolution(tiff, pages[0], size, properties),
            bounds=None,
            properties=properties,
        )

    def _levels_of(self, tiff: tifffile.TiffFile) -> list[Any]:
        """The pages that are levels, finest first."""
        tiled = [page for page in tiff.pages if page.is_tiled and not _is_beside(page)]
        if not tiled:
            raise self._unsupported("none of its pages is tiled", "Convert it to a tiled pyramid.")
        base = max(tiled, key=lambda page: _size(page).area)
        stack = [page for page in tiled if _size(page) == _size(base)]
        if len(stack) > 1:
            raise self._unsupported(
                f"it holds {len(stack)} planes of the same size, a stack or single channels",
                "Export one RGB plane of it.",
            )
        candidates = [page for page in tiled if page is not base] + [
            sub for sub in base.pages or () if sub.is_tiled and not _is_beside(sub)
        ]
        chosen = pyramid(_size(base), [_size(page) for page in candidates])
        return [base, *(candidates[position] for position in chosen)]

    def _tiled_level(self, page: Any) -> _TiledLevel:
        reason = _unreadable(page)
        if reason is not None:
            raise self._unsupported(reason, "Convert it to 8 bit RGB with JPEG or deflate compression.")
        alpha = int(page.extrasamples[0]) if page.extrasamples else 0
        tile = Size(int(page.tilewidth), int(page.tilelength))
        size = _size(page)
        across, down = -(-size.width // tile.width), -(-size.height // tile.height)
        offsets, num_bytes = (np.array(values, np.uint64) for values in (page.dataoffsets, page.databytecounts))
        if min(offsets.size, num_bytes.size) < across * down:
            raise self._damaged(f"it lists {min(offsets.size, num_bytes.size)} of {across * down} tiles of a level")
        coding = Coding(
            tile=tile,
            compression=int(page.compression),
            photometric=int(page.photometric),
            samples=int(page.samplesperpixel),
            alpha=alpha,
            is_differenced=page.predictor == 2,
            jpeg_tables=page.jpegtables or b"",
        )
        return _TiledLevel(size, coding, across, offsets, np.where(offsets == 0, np.uint64(0), num_bytes))

    def _refuse_cut_short(self) -> None:
        expected = max(int((level.offsets + level.num_bytes).max()) for level in self._tiled)
        held = self.path.stat().st_size
        if held < expected:
            raise self._damaged(f"it is cut short, its tiles need {expected} bytes and the file has {held}")

    def _open(self) -> _Handle:
        return _Handle(self.path)

    def _decode(self, handle: _Handle, level: int, box: Box) -> Pixels:
        tile = self._tiled[level].coding.tile
        size = box.size
        left, top = round(box.x), round(box.y)
        columns = range(left // tile.width, (left + size.width - 1) // tile.width + 1)
        rows = range(top // tile.height, (top + size.height - 1) // tile.height + 1)
        if size == tile and len(columns) == len(rows) == 1:
            return self._whole_tile(handle, level, rows[0], columns[0])
        pixels = np.empty((*size.shape, 3), np.uint8)
        for row in rows:
            y0, y1 = max(top, row * tile.height), min(top + size.height, (row + 1) * tile.height)
            for column in columns:
                x0, x1 = max(left, column * tile.width), min(left + size.width, (column + 1) * tile.width)
                source = self._tile(handle, level, row, column)
                y, x = row * tile.height, column * tile.width
                pixels[y0 - top : y1 - top, x0 - left : x1 - left] = source[y0 - y : y1 - y, x0 - x : x1 - x]
        return pixels

    def _whole_tile(self, handle: _Handle, level: int, row: int, column: int) -> Pixels:
        """A tile that is the answer: given away instead of kept, which saves a copy."""
        kept = handle.kept((level, row * self._tiled[level].across + column))
        return self._decoded(handle, level, row, column) if kept is None else kept.copy()

    def _tile(self, handle: _Handle, level: int, row: int, column: int) -> Pixels:
        key = level, row * self._tiled[level].across + column
        pixels = handle.kept(key)
        if pixels is None:
            pixels = self._decoded(handle, level, row, column)
            handle.keep(key, pixels)
        return pixels

    def _decoded(self, handle: _Handle, level: int, row: int, column: int) -> Pixels:
        """(tile height, tile width, 3): a tile, white where the scanner left it out."""
        stored = self._tiled[level]
        index = row * stored.across + column
        tile, count = stored.coding.tile, int(stored.num_bytes[index])
        if count == 0:
            return np.full((*tile.shape, 3), 255, np.uint8)
        try:
            pixels = decode_tile(handle.bytes_at(int(stored.offsets[index]), count), stored.coding)
        except codecs.DECODE_ERRORS as error:
            raise self._damaged(f"tile ({column}, {row}) of level {level} can't be decoded ({error})") from error
        if pixels.shape[:2] == tile.shape:
            return pixels
        return self._filled_up(pixels, level, row, column)

    def _filled_up(self, pixels: Pixels, level: int, row: int, column: int) -> Pixels:
        """A tile of another size than it should have: some writers crop those that overhang the level."""
        stored = self._tiled[level]
        tile = stored.coding.tile
        height = min(tile.height, stored.size.height - row * tile.height)
        width = min(tile.width, stored.size.width - column * tile.width)
        given = Size.of(pixels)
        if given.width < width or given.height < height:
            raise self._damaged(f"tile ({column}, {row}) of level {level} holds {given} pixels")
        whole = np.full((*tile.shape, 3), 255, np.uint8)
        whole[:height, :width] = pixels[:height, :width]
        return whole


def pyramid(base: Size, candidates: Sequence[Size]) -> list[int]:
    """Which images are levels below a base: of its aspect, each smaller than the one before.

    Args:
        base: The finest level.
        candidates: What else lies in the file, in any order.

    Returns:
        Positions in `candidates`, finest first.
    """
    chosen: list[int] = []
    above = base
    for position in sorted(range(len(candidates)), key=lambda number: -candidates[number].area):
        size = candidates[position]
        if size.width < above.width and size.height < above.height and _is_reduced(base, size):
            chosen.append(position)
            above = size
    return chosen


def _is_reduced(base: Size, size: Size) -> bool:
    """Whether one factor, up to rounding by a pixel, explains both sides."""
    sides = ((base.width, size.width), (base.height, size.height))
    low = max(whole / (part + 1) for whole, part in sides)
    high = min(whole / max(part - 1, 0.5) for whole, part in sides)
    return low <= high


def _size(page: Any) -> Size:
    return Size(int(page.imagewidth), int(page.imagelength))


def _foreign(tiff: tifffile.TiffFile) -> str | None:
    """The vendor's name where pages are no plain pyramid."""
    page: Any = tiff.pages.first
    marks = {
        "Hamamatsu NDPI": page.is_ndpi,
        "Leica SCN": page.is_scn,
        "Ventana BIF": page.is_bif,
        "Philips TIFF": page.is_philips,
        "Trestle": page.software.startswith("MedScan"),
    }
    return next((name for name, is_it in marks.items() if is_it), None)


def _is_beside(page: Any) -> bool:
    """Whether a page is a label, a macro image or a mask, tiled or not."""
    words = page.description.split("\n", 1)[-1].split() if page.is_svs else []
    return bool(int(page.subfiletype) & ~_REDUCED) or words[:1] in (["label"], ["macro"])


def _unreadable(page: Any) -> str | None:
    """Why a level's pixels can't be shown rightly; None when they can."""
    samples, photometric = int(page.samplesperpixel), int(page.photometric)
    if page.bitspersample != 8 or page.sampleformat != 1:
        return f"its samples have {page.bitspersample} bit"
    if samples > 1 and page.planarconfig != 1:
        return "its colours lie in separate planes"
    if int(page.compression) not in codecs.COMPRESSIONS:
        return f"its compression {int(page.compression)} is not known"
    if page.fillorder != 1 or page.predictor not in (1, 2) or page.imagedepth != 1:
        return "its bits, rows or depth are in an unusual order"
    is_alpha = len(page.extrasamples) == 1 and int(page.extrasamples[0]) in (codecs.PREMULTIPLIED, codecs.STRAIGHT)
    is_rgba = samples == 4 and is_alpha and int(page.compression) != codecs.JPEG
    if photometric == codecs.RGB and (samples == 3 or is_rgba):
        return None
    if photometric == codecs.YCBCR and samples == 3 and int(page.compression) in (codecs.JPEG, codecs.YCBCR_JPEG2000):
        return None
    if photometric in (codecs.BLACK_IS_ZERO, codecs.WHITE_IS_ZERO) and samples == 1:
        return None
    return f"its pixels are {samples} samples of photometric interpretation {photometric}, neither RGB nor grey"


def _properties(tiff: tifffile.TiffFile, page: Any) -> dict[str, str]:
    """An Aperio description's fields by their names; else the few TIFF tags that tell something."""
    description: str = page.description or ""
    if page.is_svs:
        first, *fields = description.split("|")
        pairs = (field.partition("=") for field in fields)
        return {"Aperio": " ".join(first.split()), **{name.strip(): value.strip() for name, _, value in pairs}}
    found = {"Software": page.software, "ImageDescription": "" if tiff.is_ome else description}
    found |= {name: str(page.tags.valueof(name) or "") for name in ("Make", "Model", "DateTime")}
    return {name: text for name, text in found.items() if text}


def _resolution(tiff: tifffile.TiffFile, page: Any, size: Size, properties: dict[str, str]) -> Resolution | None:
    said = from_aperio(properties) if page.is_svs else None
    if tiff.is_ome and tiff.ome_metadata:
        said = from_ome(tiff.ome_metadata, size)
    if said is not None:
        return said
    x, y, unit = (page.tags.valueof(name) for name in ("XResolution", "YResolution", "ResolutionUnit"))
    is_fraction = isinstance(x, tuple) and isinstance(y, tuple)
    return from_tags(x, y, int(unit or 2)) if is_fraction else None  # TIFF's default unit is the inch
