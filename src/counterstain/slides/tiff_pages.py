"""The structure of a TIFF file as plain data: what tifffile found, checked and converted once.

In a damaged file any tag may hold anything (a tuple for a width, an array for a unit), and tifffile hands that on. Here
all of it becomes numbers and text or a `DamagedSlideError`, so that what comes after may trust it.

Does not know: which pages are levels, how tiles are decoded.
"""

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from counterstain.errors import DamagedSlideError
from counterstain.geometry import Size
from counterstain.slides.base import damage

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it says of damage, we say in our words

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SCANNED_PAGES = 16  # looked at for a tiled one; a pyramid has fewer, a stack of thousands of planes has more

# What tifffile raises, and conversions of what it gives, for files with bytes cut off or flipped.
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
    MemoryError,
)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a TIFF file; numbers of tags are TIFF's own.

    Args:
        size: Its pixels.
        tile: Its tiles' size; a strip's where it is stored in strips.
        is_tiled: Whether it is stored in tiles.
        offsets: Where each tile or strip begins.
        num_bytes: How long each is.
        samples: A pixel's.
        bits: A sample's.
        sample_format: 1 is unsigned integer.
        alphas: The kind of each sample beyond the colours.
        compression: A number.
        photometric: A number.
        predictor: 1 is none, 2 differences along rows.
        is_usual: Whether colours are interleaved, bits in the usual order and the image flat.
        kind: NewSubfileType.
        jpeg_tables: What all JPEG tiles share; empty where there is nothing.
        text: ImageDescription.
        sub_pages: Pages that it keeps to itself: where OME-TIFF has its levels.
    """

    size: Size
    tile: Size
    is_tiled: bool
    offsets: npt.NDArray[np.uint64]
    num_bytes: npt.NDArray[np.uint64]
    samples: int
    bits: int
    sample_format: int
    alphas: tuple[int, ...]
    compression: int
    photometric: int
    predictor: int
    is_usual: bool
    kind: int
    jpeg_tables: bytes
    text: str
    sub_pages: tuple["Page", ...]


@dataclass(frozen=True, slots=True)
class Structure:
    """A TIFF file.

    Args:
        pages: In the file's order.
        foreign: The vendor's name where the pages are known to be no plain pyramid.
        ome_xml: The OME metadata; empty where there is none.
        resolution: XResolution and YResolution of the first page as fractions, and ResolutionUnit.
        tags: The first page's tags that tell something, as text.
    """

    pages: tuple[Page, ...]
    foreign: str | None
    ome_xml: str
    resolution: tuple[tuple[int, int], tuple[int, int], int] | None
    tags: dict[str, str]


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in _MAGIC


def is_tiled(path: Path) -> bool | None:
    """Whether a TIFF has a tiled page; None for a vendor's own kind of pyramid. True where its structure can't be read."""
    try:
        with _opened(path) as tiff:
            if _foreign(tiff) is not None:
                return None
            return any(page.is_tiled for page in islice(tiff.pages, _SCANNED_PAGES))
    except DamagedSlideError:
        return True


def read_structure(path: Path) -> Structure:
    """Reads what a TIFF file holds, without decoding a pixel.

    Raises:
        DamagedSlideError: When that can't be read.
    """
    with _opened(path) as tiff:
        first: Any = tiff.pages.first
        pages = tuple(_page(page) for page in tiff.pages)
        if _ends_early(tiff):
            raise DamagedSlideError(damage(path, "it is cut short: a page after the last lies beyond its end"))
        for page in pages:
            if min(min(part.size.shape + part.tile.shape) for part in (page, *page.sub_pages)) < 1:
                raise DamagedSlideError(damage(path, f"a page of {page.size}, or one of its SubIFDs, is empty"))
        return Structure(
            pages=pages,
            foreign=_foreign(tiff),
            ome_xml=str(tiff.ome_metadata or "") if tiff.is_ome else "",
            resolution=_resolution(first),
            tags=_tags(first),
        )


@contextmanager
def _opened(path: Path) -> Iterator[tifffile.TiffFile]:
    try:
        # numpy would warn where flipped bytes make tifffile's sums overflow
        with np.errstate(all="ignore"), tifffile.TiffFile(path) as tiff:
            yield tiff
        # it and its pages refer to one another: a large index would stay until all objects are searched
        vars(tiff).clear()
    except _STRUCTURE_ERRORS as error:
        told = "it ends before its first page" if isinstance(error, IndexError) else f"{type(error).__name__}: {error}"
        reason = f"its TIFF structure can't be read ({told})"
        raise DamagedSlideError(damage(path, reason)) from error


def _ends_early(tiff: tifffile.TiffFile) -> bool:
    """Whether the last page that was found points to one beyond the end: tifffile takes it for the last."""
    if tiff.is_ndpi:  # whose pointers are of another kind
        return False
    layout, file, last = tiff.tiff, tiff.filehandle, tiff.pages[-1]
    file.seek(last.offset)
    (num_tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(last.offset + layout.tagnosize + num_tags * layout.tagsize)
    (following,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
    return bool(following >= file.size)


def _foreign(tiff: tifffile.TiffFile) -> str | None:
    page: Any = tiff.pages.first
    marks = {
        "Hamamatsu NDPI": page.is_ndpi,
        "Leica SCN": page.is_scn,
        "Ventana BIF": page.is_bif,
        "Philips TIFF": page.is_philips,
        "Trestle": page.software.startswith("MedScan"),
    }
    return next((name for name, is_it in marks.items() if is_it), None)


def _page(page: Any) -> Page:
    size = Size(int(page.imagewidth), int(page.imagelength))
    is_tiled = bool(page.is_tiled)
    strip = Size(size.width, min(int(page.rowsperstrip) or size.height, size.height))
    bits = page.bitspersample
    order = (int(page.fillorder), int(page.imagedepth), int(page.planarconfig) if page.samplesperpixel > 1 else 1)
    return Page(
        size=size,
        tile=Size(int(page.tilewidth), int(page.tilelength)) if is_tiled else strip,
        is_tiled=is_tiled,
        offsets=np.array(page.dataoffsets, np.uint64),
        num_bytes=np.array(page.databytecounts, np.uint64),
        samples=int(page.samplesperpixel),
        bits=max(bits) if isinstance(bits, tuple) else int(bits),
        sample_format=int(page.sampleformat) if not isinstance(page.sampleformat, tuple) else 0,
        alphas=tuple(int(alpha) for alpha in page.extrasamples),
        compression=int(page.compression),
        photometric=int(page.photometric),
        predictor=int(page.predictor),
        is_usual=order == (1, 1, 1),
        kind=int(page.subfiletype),
        jpeg_tables=bytes(page.jpegtables or b""),
        text=str(page.description or ""),
        sub_pages=tuple(_page(sub) for sub in page.pages or ()),
    )


def _resolution(page: Any) -> tuple[tuple[int, int], tuple[int, int], int] | None:
    x, y, unit = (page.tags.valueof(name) for name in ("XResolution", "YResolution", "ResolutionUnit"))
    if x is None or y is None:
        return None
    fractions = tuple((int(above), int(below)) for above, below in (x, y))
    return fractions[0], fractions[1], 2 if unit is None else int(unit)  # TIFF's default unit is the inch


def _tags(page: Any) -> dict[str, str]:
    found = {name: str(page.tags.valueof(name) or "") for name in ("Software", "Make", "Model", "DateTime")}
    return {name: " ".join(text.split()) for name, text in found.items() if text}
