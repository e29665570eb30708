"""Tiles: colours above all."""

import base64
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from counterstain.errors import DamagedSlideError
from counterstain.geometry import Size
from counterstain.slides import OpenSlideSlide, Pixels, TiffSlide
from counterstain.slides.codecs import (
    BLACK_IS_ZERO,
    DECODE_ERRORS,
    JPEG,
    PREMULTIPLIED,
    RGB,
    STRAIGHT,
    WHITE_IS_ZERO,
    YCBCR,
    YCBCR_JPEG2000,
    Coding,
    decode_tile,
)
from counterstain.testing.slide_files import abbreviated_jpeg, write_raw_tiles
from counterstain.testing.slide_pixels import scene
from counterstain.testing.slides import check_readers_agree

TILE = Size(64, 64)

# A JPEG 2000 stream of 16 x 16 pixels with half as many colour samples along x, which no library at hand can write;
# made with OpenJPEG from seeded noise.
SMALL_CHROMA = base64.b64decode(
    "/0//UQAvAAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAADBwEBBwIBBwIB/1IADAAAAAEAAQQEAAH/XAAHQEBISFD/"
    "ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAFBAAH/k8+07B9Yaodc6qKg7octHxqCkPNj29wS"
    "oOEsx9emjQoGcZj1cjC+oZR7pLXWs+1r+ntUmIfm4PIPh2Rysbt/z7R4J2GL6Fo5Cfij6CX3m+qu/QTouHBsPGDMekA761Yfz7R0"
    "E9TOGdhueKUk3BJ2GrzdGkaeDGprVO6dAZ9RXMfAfCzAfCzAHUAgGKs4TzLu9pzt/EeQdvKLBPcxvfjErHIVH5nMl63ZmF41yYs6"
    "wVHC8j08jDOd8bfJcxgnT+0oJr9V0Hyg6w6MZrbAfCjA+QfAHSwQzDTzP1KM88sWDNZfUkYWPwQmAkYzio/NlEUC6m1inyR+dGav"
    "uhwHYj/zwfOTgHTYA6YAFxsJNvaTMimYiE4W3cRjF6Gi1Q49u2IsN3O7cs/tDd8XawilA39/i8JuLZ//2Q=="
)


def jpeg(photometric: int, tables: bytes = b"", samples: int = 3) -> Coding:
    return Coding(TILE, JPEG, photometric, samples, jpeg_tables=tables)


def far(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.parametrize("is_rgb", [True, False])
def test_unmarked_samples_are_what_the_tags_say(is_rgb: bool) -> None:
    pixels = scene(TILE)
    tables, tile = abbreviated_jpeg(pixels, is_rgb=is_rgb)
    assert far(decode_tile(tile, jpeg(RGB if is_rgb else YCBCR, tables)), pixels) <= 8
    assert far(decode_tile(tile, jpeg(YCBCR if is_rgb else RGB, tables)), pixels) > 60, "the trap is no trap"


def test_a_jfif_mark_wins_over_the_tags() -> None:
    pixels = scene(TILE)
    assert far(decode_tile(simplejpeg.encode_jpeg(pixels, 95, colorsubsampling="444"), jpeg(RGB)), pixels) <= 8


def test_an_adobe_mark_of_the_tile_wins_over_the_tags() -> None:
    pixels = scene(TILE)
    marked = imagecodecs.jpeg8_encode(pixels, level=95, colorspace="RGB", outcolorspace="RGB")
    assert far(decode_tile(marked, jpeg(YCBCR)), pixels) <= 8


def test_grey_tiles_become_rgb() -> None:
    grey = np.ascontiguousarray(scene(TILE)[:, :, 0])
    for tile, coding in (
        (imagecodecs.jpeg8_encode(grey, level=95), jpeg(BLACK_IS_ZERO, samples=1)),
        (grey.tobytes(), Coding(TILE, 1, BLACK_IS_ZERO, 1)),
        ((255 - grey).tobytes(), Coding(TILE, 1, WHITE_IS_ZERO, 1)),
    ):
        assert far(decode_tile(tile, coding), np.repeat(grey[:, :, None], 3, axis=2)) <= 8


@pytest.mark.parametrize("alpha", [PREMULTIPLIED, STRAIGHT])
def test_transparency_is_put_on_white(alpha: int) -> None:
    color, opacity = scene(TILE), scene(TILE)[:, :, 2:]
    stored = color if alpha == STRAIGHT else np.round(color * (opacity / 255)).astype(np.uint8)
    expected = color * (opacity / 255) + 255 * (1 - opacity / 255)
    tile = np.concatenate([stored, opacity], axis=2).tobytes()
    assert np.abs(decode_tile(tile, Coding(TILE, 1, RGB, 4, alpha)) - expected).max() <= 1


@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 32946, 50000])
@pytest.mark.parametrize("is_differenced", [True, False])
def test_plain_samples_come_back(compression: int, is_differenced: bool) -> None:
    pixels = scene(TILE)
    stored = np.diff(pixels, axis=1, prepend=np.zeros((64, 1, 3), np.uint8)) if is_differenced else pixels
    encoders = {5: "lzw", 8: "zlib", 32773: "packbits", 32946: "zlib", 50000: "zstd"}
    raw = np.ascontiguousarray(stored).tobytes()
    tile = raw if compression == 1 else getattr(imagecodecs, f"{encoders[compression]}_encode")(raw)
    coding = Coding(TILE, compression, RGB, 3, is_differenced=is_differenced)
    decoded = decode_tile(tile, coding)
    assert (decoded == pixels).all()
    decoded[0, 0] = 0  # the caller's own
    with pytest.raises(DECODE_ERRORS):
        decode_tile(tile[: len(tile) // 3], coding)


def test_data_that_swells_is_refused() -> None:
    bomb = imagecodecs.zlib_encode(bytes(1 << 20))
    with pytest.raises(DECODE_ERRORS):
        decode_tile(bomb, Coding(TILE, 8, RGB, 3))
    large = simplejpeg.encode_jpeg(np.zeros((80, 64, 3), np.uint8))
    with pytest.raises(DamagedSlideError, match="larger"):
        decode_tile(large, jpeg(RGB))


def test_a_jpeg_that_ends_early_is_damaged() -> None:
    tile = simplejpeg.encode_jpeg(scene(TILE))
    for cut in (tile[:-30], tile[: len(tile) // 2], tile[:3], b"", b"no JPEG at all"):
        with pytest.raises(DECODE_ERRORS):
            decode_tile(cut, jpeg(RGB))


@pytest.mark.parametrize("compression", [33005, 34712])
def test_jpeg2000_of_rgb_is_taken_as_it_is(compression: int) -> None:
    pixels = scene(TILE)
    tile = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="J2K")
    assert far(decode_tile(tile, Coding(TILE, compression, RGB, 3)), pixels) == 0


def test_jpeg2000_of_another_depth_is_damaged() -> None:
    tile = imagecodecs.jpeg2k_encode(scene(TILE).astype(np.uint16) * 16, level=0, codecformat="J2K")
    with pytest.raises(DamagedSlideError, match="uint16"):
        decode_tile(tile, Coding(TILE, 33005, RGB, 3))


def test_jpeg2000_of_ycbcr_is_converted_as_openslide_does(tmp_path: Path) -> None:
    pixels = scene(TILE)
    stored = np.array(Image.fromarray(pixels).convert("YCbCr"))
    tile = imagecodecs.jpeg2k_encode(stored, level=0, codecformat="J2K", mct=False)
    assert far(decode_tile(tile, Coding(TILE, YCBCR_JPEG2000, YCBCR, 3)), pixels) <= 3
    _agrees_with_openslide(tmp_path, TILE, tile)


def test_jpeg2000_with_fewer_colour_samples_is_converted_once(tmp_path: Path) -> None:
    _agrees_with_openslide(tmp_path, Size(16, 16), SMALL_CHROMA)


def _agrees_with_openslide(folder: Path, size: Size, tile: bytes) -> None:
    path = write_raw_tiles(
        folder / "aperio.svs",
        size,
        size.width,
        [tile],
        compression=YCBCR_JPEG2000,
        photometric="rgb",
        description="Aperio Image Library fake\r\n|MPP = 0.5",
    )
    # OpenSlide repeats colour samples, imagecodecs too; both round
    check_readers_agree(TiffSlide(path), OpenSlideSlide(path), loss=2)
