"""Tiled TIFF, Aperio SVS and OME-TIFF, their tiles decoded directly; TIFF in strips, each strip taken for a tile.

The structure is read once (`tiff_pages.py`): which pages are levels, where their tiles lie and how they are coded. What
remains is plain data that travels with the slide; a read seeks, decodes (`codecs.py`) and copies, without OpenSlide.
Decoded tiles are kept for a while, so that boxes that overlap or cut tiles decode each of them once.

Vendors whose pages are no plain pyramid (overlapping tiles, several scans in one file, padded levels) are refused: they
are OpenSlide's.

Does not know: resampling, other formats, what is on the slide.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from counterstain.errors import DamagedSlideError
from counterstain.geometry import Box, Size
from counterstain.slides import codecs
from counterstain.slides.base import Slide
from counterstain.slides.codecs import Coding
from counterstain.slides.header import Header, Level, Resolution, TileBytes
from counterstain.slides.resample import Pixels
from counterstain.slides.resolution import from_aperio, from_ome, from_tags
from counterstain.slides.stored import StoredLevel, read_bytes
from counterstain.slides.tiff_pages import Page, Structure, is_tiff, is_tiled, read_structure

# Bytes of decoded tiles a handle keeps for the next box: a row of 256 px tiles across 30,000 px. Scans keep their own.
_CACHE_BYTES = 24 << 20
_MOST_TILE_PX = 1 << 26  # a tile is decoded at once
_MOST_STRIP_PX = 1 << 22  # and so is a strip, for any part of it: images in few strips are read whole, by `image.py`
_REDUCED = 1  # NewSubfileType of a level; other bits mean masks and macro images
_APERIO = "Aperio "


class _Handle:
    """The open file and the tiles decoded last."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._tiles: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self._bytes = 0

    def close(self) -> None:
        self._file.close()

    def bytes_of(self, level: StoredLevel, index: int) -> memoryview:
        return read_bytes(self._file, level, [index])[index]

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
    """A TIFF whose pages are a pyramid, in tiles or strips: Aperio SVS, OME-TIFF (levels in SubIFDs too), generic."""

    reader: ClassVar[str] = "tiff"
    _stored: tuple[StoredLevel, ...]

    @classmethod
    def detects(cls, path: Path) -> bool:
        if not is_tiff(path):
            return False
        tiled = is_tiled(path)
        return tiled is True or (tiled is False and _has_short_strips(path))

    def _read_header(self) -> Header:
        if not is_tiff(self.path):
            raise self._unsupported("it is no TIFF", "Open it with open_slide, which finds the reader.")
        structure = read_structure(self.path)
        if structure.foreign is not None:
            raise self._unsupported(f"it is a {structure.foreign} file, no plain pyramid", "Use OpenSlideSlide.")
        pages = self._levels_of(structure)
        self._stored = tuple(self._stored_level(page) for page in pages)
        self._refuse_cut_short()
        size = pages[0].size
        properties = _aperio_fields(pages[0].text) or structure.tags
        return Header(
            levels=tuple(Level.of(page.size, size) for page in pages),
            resolution=_resolution(structure, size, properties),
            bounds=None,
            properties=properties,
        )

    def tile_bytes(self) -> tuple[TileBytes, ...] | None:
        if self._stored[0].coding.is_strip:
            return None  # a strip's size does not tell where in its width something lies
        return tuple(
            TileBytes(
                number, stored.coding.tile, stored.num_bytes.reshape(-1, stored.across), codecs.kind(stored.coding)
            )
            for number, stored in enumerate(self._stored)
        )

    def _levels_of(self, structure: Structure) -> list[Page]:
        """The pages that are levels, finest first."""
        pages = [page for page in _stored_alike(structure) if _is_level(page)]
        if not pages:
            raise self._unsupported("none of its pages is a level", "Convert it to a tiled pyramid.")
        base = max(pages, key=lambda page: page.size.area)
        planes = [page for page in pages if page.size == base.size]
        if len(planes) > 1:
            raise self._unsupported(
                f"it holds {len(planes)} planes of the same size, a stack or single channels",
                "Export one RGB plane of it.",
            )
        below = [page for page in base.sub_pages if _is_level(page) and page.is_tiled == base.is_tiled]
        candidates = [page for page in (*pages, *below) if page is not base]
        chosen = pyramid(base.size, [page.size for page in candidates])
        if not base.is_tiled and len(chosen) < len(candidates):
            raise self._unsupported(
                f"it holds {len(candidates) + 1} pages in strips that are no pyramid", "Export one page of it."
            )
        return [base, *(candidates[position] for position in chosen)]

    def _stored_level(self, page: Page) -> StoredLevel:
        reason = _unreadable(page)
        if reason is not None:
            raise self._unsupported(reason, "Convert it to 8 bit RGB with JPEG or deflate compression.")
        across, down = -(-page.size.width // page.tile.width), -(-page.size.height // page.tile.height)
        num_tiles = across * down
        offsets, num_bytes = page.offsets[:num_tiles], page.num_bytes[:num_tiles]
        if min(offsets.size, num_bytes.size) < num_tiles:
            parts = "tiles" if page.is_tiled else "strips"
            raise self._damaged(f"it lists {offsets.size} places and {num_bytes.size} lengths of {num_tiles} {parts}")
        coding = Coding(
            tile=page.tile,
            compression=page.compression,
            photometric=page.photometric,
            samples=page.samples,
            alpha=page.alphas[0] if page.alphas else 0,
            is_differenced=page.predictor == 2,
            jpeg_tables=page.jpeg_tables,
            is_strip=not page.is_tiled,
        )
        return StoredLevel(page.size, coding, offsets, np.where(offsets == 0, np.uint64(0), num_bytes))

    def _refuse_cut_short(self) -> None:
        expected = max(int((level.offsets + level.num_bytes).max()) for level in self._stored)
        held = self.path.stat().st_size
        if held < expected:
            raise self._damaged(f"it is cut short, its tiles need {expected} bytes and the file has {held}")

    def stored(self, level: int) -> StoredLevel:
        return self._stored[level]

    def _open(self) -> _Handle:
        return _Handle(self.path)

    def _decode(self, handle: _Handle, level: int, box: Box) -> Pixels:
        tile = self._stored[level].coding.tile
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
        """A tile that is the whole answer: given away instead of kept, which saves a copy."""
        kept = handle.kept((level, row * self._stored[level].across + column))
        return self._decoded(handle, level, row, column) if kept is None else kept.copy()

    def _tile(self, handle: _Handle, level: int, row: int, column: int) -> Pixels:
        key = level, row * self._stored[level].across + column
        pixels = handle.kept(key)
        if pixels is None:
            pixels = self._decoded(handle, level, row, column)
            handle.keep(key, pixels)
        return pixels

    def _decoded(self, handle: _Handle, level: int, row: int, column: int) -> Pixels:
        """(tile height, tile width, 3): a tile, white where the scanner left it out."""
        stored = self._stored[level]
        index = row * stored.across + column
        try:
            return stored.decoded(handle.bytes_of(stored, index), index)
        except DamagedSlideError as error:
            raise self.damaged_tile(level, index, error) from error


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


def _has_short_strips(path: Path) -> bool:
    """Whether a TIFF without tiles is stored in strips that can be decoded one by one, each a small part of it."""
    pages = [page for page in _stored_alike(read_structure(path)) if _is_level(page)]
    return bool(pages) and all(_unreadable(page) is None and page.tile.area <= _MOST_STRIP_PX for page in pages)


def _stored_alike(structure: Structure) -> list[Page]:
    """The pages in tiles; all of them where none is: what lies in strips beside tiles is a label or a thumbnail."""
    return [page for page in structure.pages if page.is_tiled] or list(structure.pages)


def _is_level(page: Page) -> bool:
    """Whether a page may be a level: no label, macro image or mask."""
    words = page.text.split("\n", 1)[-1].split() if page.text.startswith(_APERIO) else []
    return not page.kind & ~_REDUCED and words[:1] not in (["label"], ["macro"])


def _unreadable(page: Page) -> str | None:
    """Why a level's pixels can't be shown rightly; None when they can."""
    if page.bits != 8 or page.sample_format != 1:
        return f"its samples have {page.bits} bit or are no whole numbers"
    if page.compression not in codecs.COMPRESSIONS:
        return f"its compression {page.compression} is not known"
    if not page.is_usual or page.predictor not in (1, 2):
        return "its colours lie in separate planes, or its bits in an unusual order"
    if page.tile.area > _MOST_TILE_PX:
        return f"its tiles of {page.tile.width} x {page.tile.height} are too large to be decoded at once"
    is_rgba = page.samples == 4 and page.alphas in ((codecs.PREMULTIPLIED,), (codecs.STRAIGHT,))
    kinds = {
        codecs.RGB: page.samples == 3 or (is_rgba and page.compression != codecs.JPEG),
        codecs.YCBCR: page.samples == 3 and page.compression in (codecs.JPEG, codecs.YCBCR_JPEG2000),
        codecs.BLACK_IS_ZERO: page.samples == 1,
        codecs.WHITE_IS_ZERO: page.samples == 1,
    }
    if not kinds.get(page.photometric, False):
        return f"its pixels are {page.samples} samples of photometric interpretation {page.photometric}"
    return None


def _aperio_fields(text: str) -> dict[str, str]:
    """The fields of an Aperio description; empty for any other."""
    if not text.startswith(_APERIO):
        return {}
    first, *fields = text.split("|")
    pairs = (field.partition("=") for field in fields)
    return {"Aperio": " ".join(first.split()), **{name.strip(): value.strip() for name, _, value in pairs}}


def _resolution(structure: Structure, size: Size, properties: dict[str, str]) -> Resolution | None:
    said = from_ome(structure.ome_xml, size) if structure.ome_xml else from_aperio(properties)
    if said is None and structure.resolution is not None:
        return from_tags(*structure.resolution)
    return said
