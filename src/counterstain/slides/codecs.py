"""Decodes one tile of a TIFF file: bytes in, RGB pixels out.

The bytes of JPEG tiles become a whole JPEG stream first: the tables that all tiles share are spliced in, and a marker that
says which colour space the samples are in. Aperio stores RGB samples without any marker; a decoder then takes them for
YCbCr and the colours come out wrong. Marks of the tile itself come later in the stream, so they win: Bio-Formats writes
YCbCr with a JFIF mark and calls it RGB in the TIFF tags.

Does not know: files, levels, which tile it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import imagecodecs
import numpy as np
import numpy.typing as npt
import simplejpeg

from counterstain.errors import DamagedSlideError
from counterstain.geometry import Size
from counterstain.slides.memory import decoder_memory
from counterstain.slides.resample import Pixels

DECODE_ERRORS = (DamagedSlideError, ValueError, RuntimeError)
"""What `decode_tile` raises: our own finding, simplejpeg's, imagecodecs'. Whoever knows the slide says which it is."""

RAW, JPEG = 1, 7
YCBCR_JPEG2000 = 33003
_JPEG2000 = (YCBCR_JPEG2000, 33005, 34712)

_CODECS: dict[int, Callable[..., bytes | bytearray]] = {  # TIFF's numbers of compressions that give plain samples
    5: imagecodecs.lzw_decode,
    8: imagecodecs.zlib_decode,
    32773: imagecodecs.packbits_decode,
    32946: imagecodecs.zlib_decode,
    50000: imagecodecs.zstd_decode,
}
_IMAGE_CODECS: dict[int, Callable[[bytes], npt.NDArray[np.uint8]]] = {  # and of those that give images
    **dict.fromkeys(_JPEG2000, imagecodecs.jpeg2k_decode),
    50001: imagecodecs.webp_decode,
}
COMPRESSIONS = frozenset({RAW, JPEG, *_CODECS, *_IMAGE_CODECS})
"""The TIFF compression numbers that can be decoded."""

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR = 0, 1, 2, 6
"""TIFF's photometric interpretations that can be shown; YCBCR only where the compression says how."""

PREMULTIPLIED, STRAIGHT = 1, 2
"""TIFF's two kinds of alpha."""


@dataclass(frozen=True, slots=True)
class Coding:
    """How the tiles of a level are stored.

    Args:
        tile: Their size, also of those that overhang the level.
        compression: TIFF's number, one of COMPRESSIONS.
        photometric: TIFF's number.
        samples: A pixel's: 1, 3, or 4 with alpha.
        alpha: PREMULTIPLIED or STRAIGHT where there are 4 samples, else 0.
        is_differenced: Whether rows hold differences between neighbours (TIFF's predictor 2).
        jpeg_tables: The tables that all tiles share, a JPEG stream of its own; empty where there are none.
        is_strip: Whether the tiles are strips: one that ends the level holds the rows that are left, and no more.
    """

    tile: Size
    compression: int
    photometric: int
    samples: int
    alpha: int = 0
    is_differenced: bool = False
    jpeg_tables: bytes = b""
    is_strip: bool = False


def kind(coding: Coding) -> str:
    """What codes the tiles: "jpeg", "jpeg2000", "webp" or "other"."""
    known = {JPEG: "jpeg", 50001: "webp", **dict.fromkeys(_JPEG2000, "jpeg2000")}
    return known.get(coding.compression, "other")


def decode_tile(data: bytes | memoryview, coding: Coding, factor: int = 1, into: Pixels | None = None) -> Pixels:
    """Decodes a tile.

    Args:
        data: As it is stored.
        coding: How.
        factor: 1, or one of `reductions`: a JPEG tile is decoded so many times smaller, from its lowest frequencies alone.
        into: (height, width, 3) uint8, contiguous, of the tile's size divided by `factor`: memory that is used instead of
            fresh one, which takes a fifth longer; best of `decoder_memory`. What it holds after an error is not
            defined.

    Returns:
        (height, width, 3) uint8 RGB, in `into` where that was given: the tile's size divided by `factor`; less only where
        the data holds less.

    Raises:
        DamagedSlideError: When the data is not what `coding` says.
        ValueError: When simplejpeg refuses it.
        RuntimeError: When imagecodecs does.
    """
    if coding.compression == JPEG:
        stream = jpeg_stream(data, coding)
        if factor > 1 or into is None:
            return _decoded_jpeg(stream, coding.tile, factor, into)
        # strict: a tile that libjpeg would fill up with grey is damaged
        return _checked(simplejpeg.decode_jpeg(stream, "RGB", buffer=into, strict=True), coding.tile)
    assert factor == 1, "only JPEG tiles can be decoded smaller"
    pixels = _decoded(bytes(data), coding)
    if into is None or pixels.shape != into.shape:
        return pixels
    into[...] = pixels
    return into


def reductions(coding: Coding) -> tuple[int, ...]:
    """How many times smaller tiles can be decoded, without 1: the powers of 2 of libjpeg that divide a tile's sides."""
    if coding.compression != JPEG:
        return ()
    return tuple(factor for factor in (2, 4, 8) if not (coding.tile.width % factor or coding.tile.height % factor))


def _decoded_jpeg(stream: bytes, tile: Size, factor: int, into: Pixels | None) -> Pixels:
    """A tile that is decoded smaller, or into memory made for it."""
    height, width, *_ = simplejpeg.decode_jpeg_header(stream)
    _refuse_larger(Size(width, height), tile)
    size = Size(-(-width // factor), -(-height // factor))
    buffer = decoder_memory(*size.shape, 3) if into is None else into
    smallest = {} if factor == 1 else {"min_height": size.height, "min_width": size.width}
    pixels: Pixels = simplejpeg.decode_jpeg(stream, "RGB", buffer=buffer, strict=True, **smallest)
    return pixels


def _checked(pixels: Pixels, tile: Size) -> Pixels:
    if pixels.shape[:2] != tile.shape:
        _refuse_larger(Size.of(pixels), tile)
    return pixels


def _refuse_larger(size: Size, tile: Size) -> None:
    if size.width > tile.width or size.height > tile.height:
        raise DamagedSlideError(f"a tile is {size.width} x {size.height}, larger than it should be")


def _decoded(data: bytes, coding: Coding) -> Pixels:
    """A tile that is no JPEG stream."""
    if coding.compression in _IMAGE_CODECS:
        image = np.atleast_3d(_IMAGE_CODECS[coding.compression](data))
        if image.dtype != np.uint8 or image.shape[2] != coding.samples:
            raise DamagedSlideError(
                f"a tile holds {image.shape[2]} samples of {image.dtype}, not {coding.samples} bytes"
            )
        if coding.compression == YCBCR_JPEG2000 and not _has_small_chroma(data):
            return _from_ycbcr(image)
        return _to_rgb(image, coding)
    row = coding.tile.width * coding.samples
    # `out` bounds what damaged data may swell to
    plain = data if coding.compression == RAW else _CODECS[coding.compression](data, out=row * coding.tile.height)
    height = min(len(plain) // row, coding.tile.height)
    if height < (1 if coding.is_strip else coding.tile.height):
        raise DamagedSlideError(f"a tile holds {len(plain)} bytes of the {row * coding.tile.height} it should")
    image = np.frombuffer(plain, np.uint8, height * row).reshape(height, coding.tile.width, coding.samples)
    if coding.is_differenced:
        image = np.cumsum(image, axis=1, dtype=np.uint8)
    return _to_rgb(image, coding)


def jpeg_stream(data: bytes | memoryview, coding: Coding) -> bytes:
    """The whole JPEG stream of a tile: start, colour mark, shared tables, the tile's own rest.

    Raises:
        DamagedSlideError: When the tile does not begin as a JPEG stream.
    """
    if data[:2] != b"\xff\xd8":
        raise DamagedSlideError("a tile does not begin as JPEG data")
    if not coding.jpeg_tables and coding.samples == 1:
        return bytes(data)
    return b"".join((_prefix(coding.jpeg_tables, coding.samples == 3, coding.photometric == RGB), data[2:]))


@lru_cache(maxsize=16)
def _prefix(tables: bytes, is_color: bool, is_rgb: bool) -> bytes:
    # APP14, "Adobe", version 100, two flags, transform: 0 leaves the samples alone, 1 is YCbCr
    mark = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([not is_rgb]) if is_color else b""
    return b"\xff\xd8" + mark + tables[2:-2]


def _to_rgb(image: npt.NDArray[np.uint8], coding: Coding) -> Pixels:
    if coding.photometric == WHITE_IS_ZERO:
        image = 255 - image
    if coding.samples == 1:
        return np.repeat(image, 3, axis=2)
    if coding.samples == 4:
        return _on_white(image, coding.alpha)
    return np.array(image)


def _has_small_chroma(data: bytes) -> bool:
    """Whether a JPEG 2000 stream has fewer colour than brightness samples; imagecodecs makes RGB of these by itself."""
    start = data.find(b"\xff\x4f\xff\x51")  # the codestream's first two marks, also inside a JP2 file
    return 0 <= start < len(data) - 47 and data[start + 46] > 1  # XRsiz of the second component


def _from_ycbcr(image: npt.NDArray[np.uint8]) -> Pixels:
    """ITU-R BT.601 over the full range, as JPEG has it: Aperio's JPEG 2000 streams leave the conversion to the reader."""
    y, cb, cr = (image[:, :, channel].astype(np.float32) for channel in range(3))
    cb, cr = cb - 128, cr - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2)
    return np.clip(rgb + 0.5, 0, 255).astype(np.uint8)


def _on_white(image: npt.NDArray[np.uint8], alpha: int) -> Pixels:
    opacity = image[:, :, 3:].astype(np.uint16)
    color = image[:, :, :3].astype(np.uint16)
    if alpha == STRAIGHT:
        color = (color * opacity + 127) // 255
    pixels: Pixels = np.minimum(color + (255 - opacity), 255).astype(np.uint8)
    return pixels
