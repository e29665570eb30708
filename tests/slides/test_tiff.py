"""Tiled TIFF: the exam in four dialects, levels, missing tiles, refusals."""

from pathlib import Path
from typing import Any, ClassVar

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from counterstain.errors import DamagedSlideError, UnsupportedSlideError
from counterstain.geometry import Box, Size
from counterstain.slides import OpenSlideSlide, Pixels, Slide, TiffSlide, open_slide
from counterstain.slides import stored as stored_module
from counterstain.slides import tiff as tiff_module
from counterstain.slides.tiff import pyramid
from counterstain.testing.slide_files import TiffDialect, abbreviated_jpeg, tiles_of, write_raw_tiles, write_tiff
from counterstain.testing.slide_pixels import scene
from counterstain.testing.slides import SlideContract, check_readers_agree

SIZE = Size(203, 149)


class TestGenericTiff(SlideContract):
    reader: ClassVar[type[Slide]] = TiffSlide

    def write(self, path: Path, pixels: Pixels, mpp: float | None) -> Path:
        return write_tiff(path.with_suffix(".tif"), pixels, mpp, TiffDialect(predictor=True))


class TestAperio(SlideContract):
    """JPEG tiles, levels at fractions of level 0."""

    reader: ClassVar[type[Slide]] = TiffSlide
    loss: ClassVar[float] = 8

    def write(self, path: Path, pixels: Pixels, mpp: float | None) -> Path:
        jpeg = {"compressionargs": {"level": 97}, "subsampling": (1, 1)}
        dialect = TiffDialect("aperio", (1.7, 3.4), 48, "jpeg", extra=jpeg)
        return write_tiff(path.with_suffix(".svs"), pixels, mpp, dialect)


class TestOmeTiff(SlideContract):
    """JPEG 2000, levels in SubIFDs."""

    reader: ClassVar[type[Slide]] = TiffSlide

    def write(self, path: Path, pixels: Pixels, mpp: float | None) -> Path:
        dialect = TiffDialect("ome", (2, 4.3), 32, "jpeg2000")
        return write_tiff(path.with_suffix(".ome.tif"), pixels, mpp, dialect)


class TestBigTiffWithoutLevels(SlideContract):
    """One level, tiles larger than the slide, no compression."""

    reader: ClassVar[type[Slide]] = TiffSlide

    def write(self, path: Path, pixels: Pixels, mpp: float | None) -> Path:
        dialect = TiffDialect(factors=(), tile_px=256, compression=None)
        return write_tiff(path.with_suffix(".btf"), pixels, mpp, dialect)


class TestStrips(SlideContract):
    """A pyramid stored in strips, each level's last one short."""

    reader: ClassVar[type[Slide]] = TiffSlide

    def write(self, path: Path, pixels: Pixels, mpp: float | None) -> Path:
        dialect = TiffDialect(predictor=True, extra={"tile": None, "rowsperstrip": 20})
        return write_tiff(path.with_suffix(".tif"), pixels, mpp, dialect)


@pytest.mark.parametrize("kind", ["generic", "aperio"])
def test_openslide_sees_the_same(tmp_path: Path, kind: str) -> None:
    path = write_tiff(tmp_path / "slide.tif", scene(Size(512, 384)), 0.5, TiffDialect(kind, (2, 4)))
    check_readers_agree(TiffSlide(path), OpenSlideSlide(path))


@pytest.mark.parametrize("is_rgb", [True, False])
def test_tiles_with_shared_tables_and_no_marks_have_their_colours(tmp_path: Path, is_rgb: bool) -> None:
    pixels = scene(SIZE)
    coded = [abbreviated_jpeg(tile, is_rgb=is_rgb) for tile in tiles_of(pixels, 64)]
    tables = coded[0][0]
    path = write_raw_tiles(
        tmp_path / "aperio.svs",
        SIZE,
        64,
        [tile for _, tile in coded],
        compression="jpeg",
        photometric="rgb",
        compressionargs={"outcolorspace": "rgb" if is_rgb else "ycbcr"},
        description="Aperio Image Library fake\r\n|MPP = 0.5",
        extratags=[(347, 7, len(tables), tables, True)],
    )
    given = TiffSlide(path).read(Box.whole(SIZE), 0.5)
    assert np.abs(given.astype(int) - pixels).max() <= 8
    check_readers_agree(TiffSlide(path), OpenSlideSlide(path), loss=0)


def test_grey_slides_are_shown_in_grey(tmp_path: Path) -> None:
    grey = scene(SIZE)[:, :, 0]
    path = write_tiff(tmp_path / "grey.tif", grey, 0.5, TiffDialect(extra={"photometric": "minisblack"}))
    assert (TiffSlide(path).read(Box.whole(SIZE), 0.5) == grey[:, :, None]).all()


def test_transparent_slides_are_put_on_white(tmp_path: Path) -> None:
    pixels = np.dstack([scene(SIZE), np.zeros(SIZE.shape, np.uint8)])
    pixels[:70, :, 3] = 255
    extra = {"extrasamples": ["unassalpha"]}
    slide = TiffSlide(write_tiff(tmp_path / "rgba.tif", pixels, 0.5, TiffDialect(extra=extra)))
    given = slide.read(Box.whole(SIZE), 0.5)
    assert (given[:70] == pixels[:70, :, :3]).all()
    assert (given[70:] == 255).all()


@pytest.mark.parametrize("is_lost", ["offset", "length"])
def test_tiles_that_the_scanner_left_out_are_white(tmp_path: Path, is_lost: str) -> None:
    pixels = scene(SIZE)
    path = write_tiff(tmp_path / "slide.tif", pixels, 0.5)
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags["TileOffsets" if is_lost == "offset" else "TileByteCounts"]
        values = list(tag.value)
    values[1] = 0
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags[tag.code].overwrite(values)
    given = TiffSlide(path).read(Box.whole(SIZE), 0.5)
    assert (given[:64, 64:128] == 255).all()
    assert (given[:64, :64] == pixels[:64, :64]).all()
    assert (given[64:] == pixels[64:]).all()


def test_tiles_that_were_cropped_at_the_edge_are_taken(tmp_path: Path) -> None:
    pixels = scene(SIZE)
    tiles = [
        simplejpeg.encode_jpeg(np.ascontiguousarray(pixels[y : y + 64, x : x + 64]), 95, colorsubsampling="444")
        for y in range(0, 149, 64)
        for x in range(0, 203, 64)
    ]
    path = write_raw_tiles(tmp_path / "cropped.tif", SIZE, 64, tiles, compression="jpeg", photometric="rgb")
    assert np.abs(TiffSlide(path, 0.5).read(Box.whole(SIZE), 0.5).astype(int) - pixels).max() <= 8
    tiles[0] = tiles[-1]
    path = write_raw_tiles(tmp_path / "small.tif", SIZE, 64, tiles, compression="jpeg", photometric="rgb")
    with pytest.raises(DamagedSlideError, match=r"tile \(0, 0\) of level 0 is 11 x 21, not 64 x 64"):
        TiffSlide(path, 0.5).read(Box.whole(SIZE), 0.5)


def test_a_tile_is_decoded_once_for_boxes_that_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = TiffSlide(write_tiff(tmp_path / "slide.tif", scene(SIZE), 0.5))
    decoded = []
    decode = stored_module.decode_tile
    monkeypatch.setattr(stored_module, "decode_tile", lambda *given: decoded.append(given) or decode(*given))
    for x in range(0, 140, 10):
        slide.read(Box(x, 30, 64, 64), 0.5)
    assert len(decoded) == 8
    slide.close()
    slide.read(Box(10, 30, 64, 64), 0.5)
    assert len(decoded) == 12, "a closed slide keeps tiles"


def test_kept_tiles_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_module, "_CACHE_BYTES", 3 * 64 * 64 * 3)
    pixels = scene(SIZE)
    slide = TiffSlide(write_tiff(tmp_path / "slide.tif", pixels, 0.5))
    assert (slide.read(Box.whole(SIZE), 0.5) == pixels).all()
    assert slide._handle._bytes == 3 * 64 * 64 * 3
    assert len(slide._handle._tiles) == 3


def test_a_kept_tile_is_not_given_away(tmp_path: Path) -> None:
    pixels = scene(SIZE)
    slide = TiffSlide(write_tiff(tmp_path / "slide.tif", pixels, 0.5))
    slide.read(Box(10, 10, 64, 64), 0.5)
    slide.read(Box(0, 0, 64, 64), 0.5)[:] = 0
    assert (slide.read(Box(0, 0, 64, 64), 0.5) == pixels[:64, :64]).all()


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([(1000, 800), (500, 400), (250, 200)], [1, 2]),
        ([(250, 200), (500, 400)], [1, 0]),
        ([(499, 400), (249, 199)], [0, 1]),
        ([(500, 300), (387, 463), (1280, 431)], []),
        ([(500, 400), (500, 400), (501, 401)], [2, 0]),
        ([(400, 320), (333, 267), (100, 79)], [0, 1, 2]),
    ],
)
def test_levels_are_smaller_and_of_the_same_aspect(candidates: list[tuple[int, int]], chosen: list[int]) -> None:
    assert pyramid(Size(1000, 800), [Size(*size) for size in candidates]) == chosen


@given(
    width=st.integers(2000, 200_000),
    height=st.integers(2000, 200_000),
    factor=st.sampled_from([2, 4]),
    is_up=st.booleans(),
)
def test_halving_by_any_rounding_makes_levels(width: int, height: int, factor: int, is_up: bool) -> None:
    sizes = [Size(width, height)]
    while min(sizes[-1].shape) > 100:
        last = sizes[-1]
        sizes.append(Size(*(-(-side // factor) if is_up else side // factor for side in (last.width, last.height))))
    assert pyramid(sizes[0], sizes[1:]) == list(range(len(sizes) - 1))


def test_labels_and_thumbnails_are_no_levels(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    base = scene(Size(200, 160))
    shared = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(base, description="Aperio Image Library\r\n200x160|MPP = 0.5", **shared)
        tiff.write(scene(Size(150, 120)), photometric="rgb", metadata=None, description="Aperio\r\n200x160 -> 150x120")
        tiff.write(scene(Size(100, 80)), description="Aperio Image Library\r\n200x160 -> 100x80", **shared)
        tiff.write(scene(Size(50, 40)), description="Aperio Image Library\nlabel 50x40", **shared)
        tiff.write(scene(Size(60, 48)), description="Aperio Image Library\nmacro 60x48", **shared)
        tiff.write(scene(Size(40, 32)), subfiletype=9, **shared)
    slide = TiffSlide(path)
    assert [level.size for level in slide.levels] == [Size(200, 160), Size(100, 80)]
    assert slide.properties["MPP"] == "0.5"
    assert slide.properties["Aperio"] == "Aperio Image Library 200x160"


def test_a_list_of_too_few_tiles_is_damaged(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", scene(SIZE), 0.5, TiffDialect(factors=()))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages.first.tags["ImageLength"]
        tag.overwrite(1000)
    with pytest.raises(DamagedSlideError, match="12 lengths of 64 tiles"):
        TiffSlide(path)


@pytest.mark.parametrize(
    ("reason", "pixels", "extra"),
    [
        ("16 bit", scene(SIZE).astype(np.uint16), {}),
        ("32 bit", scene(SIZE).astype(np.float32), {}),
        ("separate planes", np.moveaxis(scene(SIZE), 2, 0), {"planarconfig": "separate"}),
        ("photometric interpretation 5", np.dstack([scene(SIZE), scene(SIZE)[:, :, :1]]), {"photometric": "separated"}),
        ("photometric interpretation 8", scene(SIZE), {"photometric": "cielab"}),
        ("2 planes of the same size", np.stack([scene(SIZE)] * 2), {}),
        ("compression 34925", scene(SIZE), {"compression": "lzma"}),
    ],
)
def test_what_cannot_be_shown_rightly_is_refused(
    tmp_path: Path, reason: str, pixels: Pixels, extra: dict[str, str]
) -> None:
    path = tmp_path / "slide.tif"
    shared = {"photometric": "rgb", "tile": (64, 64), "compression": "deflate", "metadata": None}
    tifffile.imwrite(path, pixels, **{**shared, **extra})
    assert TiffSlide.detects(path)
    with pytest.raises(UnsupportedSlideError, match=reason) as refusal:
        TiffSlide(path)
    assert str(path) in str(refusal.value)


_JPEG = {"compression": "jpeg", "compressionargs": {"level": 90}}


@pytest.mark.parametrize("rows", [1, 16, 149])
@pytest.mark.parametrize(
    "extra",
    [
        {"compression": None},
        {"compression": "lzw", "predictor": True},
        {"compression": "deflate"},
        {"compression": "packbits"},
        {"compression": "zstd"},
        {"compression": "jpeg2000"},
        _JPEG | {"subsampling": (2, 2)},
        _JPEG | {"subsampling": (2, 1)},
        _JPEG | {"compressionargs": {"level": 90, "outcolorspace": "rgb"}},
    ],
    ids=lambda extra: "-".join(map(str, extra.values())),
)
def test_strips_of_every_compression_give_what_tifffile_gives(tmp_path: Path, rows: int, extra: dict[str, Any]) -> None:
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, scene(SIZE), photometric="rgb", rowsperstrip=rows, metadata=None, **extra)
    slide = open_slide(path, 0.5)
    assert slide.reader == "tiff"
    # imagecodecs and simplejpeg decode with the same library
    np.testing.assert_array_equal(slide.read(Box.whole(SIZE), 0.5), tifffile.imread(path))


def test_strips_of_other_kinds_are_read_as_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, path = scene(SIZE), tmp_path / "a.tif"
    Image.fromarray(pixels).quantize(16).save(path)  # a palette
    assert open_slide(path).reader == "image"
    tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=100)
    assert open_slide(path).reader == "tiff"
    monkeypatch.setattr(tiff_module, "_MOST_STRIP_PX", 99 * 203)
    assert open_slide(path).reader == "image"


def test_pages_in_strips_that_are_no_pyramid_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as tiff:
        for size in (SIZE, Size(180, 30)):
            tiff.write(scene(size), photometric="rgb", metadata=None)
    with pytest.raises(UnsupportedSlideError, match="2 pages in strips that are no pyramid"):
        open_slide(path)


def test_a_strip_that_was_cut_short_is_damaged_and_the_last_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, scene(SIZE), photometric="rgb", rowsperstrip=64, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages.first.tags["StripByteCounts"]
        tag.overwrite([64 * 203 * 3, 50 * 203 * 3, 21 * 203 * 3])
    slide = TiffSlide(path, 0.5)
    assert (slide.read(Box(0, 128, 203, 21), 0.5) == scene(SIZE)[128:]).all()
    with pytest.raises(DamagedSlideError, match=r"tile \(0, 1\) of level 0 is 203 x 50, not 203 x 64"):
        slide.read(Box(0, 64, 10, 10), 0.5)


def test_other_vendors_are_left_to_others(tmp_path: Path) -> None:
    trestle, text = (tmp_path / name for name in ("trestle.tif", "text.tif"))
    tifffile.imwrite(trestle, scene(SIZE), photometric="rgb", tile=(64, 64), software="MedScan 3.0", metadata=None)
    text.write_text("no TIFF")
    for path, reason in ((trestle, "Trestle"), (text, "no TIFF")):
        assert not TiffSlide.detects(path)
        with pytest.raises(UnsupportedSlideError, match=reason):
            TiffSlide(path)


def test_tiles_beyond_the_end_of_the_file_are_found_at_once(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", scene(SIZE), 0.5, TiffDialect(factors=()))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages.first.tags["TileOffsets"]
        tag.overwrite([*tag.value[:-1], path.stat().st_size - 3])
    with pytest.raises(DamagedSlideError, match="cut short"):
        TiffSlide(path)


@pytest.mark.parametrize("is_big", [False, True])
def test_a_file_that_lost_its_last_pages_is_cut_short(
    tmp_path: Path, is_big: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path, bigtiff=is_big) as writer:
        for shrunk in (1, 2):
            pixels = scene(SIZE)[::shrunk, ::shrunk]
            writer.write(pixels, tile=(64, 64), photometric="rgb", metadata=None, contiguous=False)
    with tifffile.TiffFile(path) as tiff:
        second = tiff.pages[1].offset
    assert len(TiffSlide(path, 0.5).levels) == 2
    path.write_bytes(path.read_bytes()[:second])
    with pytest.raises(DamagedSlideError, match=r"cut short: a page after the last"):
        TiffSlide(path, 0.5)
    assert not capfd.readouterr().err, "tifffile's own words do not reach the terminal"


def test_a_damaged_tile_spares_the_others(tmp_path: Path) -> None:
    pixels = scene(SIZE)
    tiles = [imagecodecs.zlib_encode(tile.tobytes()) for tile in tiles_of(pixels, 64)]
    tiles[5] = b"\0" * len(tiles[5])
    path = write_raw_tiles(tmp_path / "slide.tif", SIZE, 64, tiles, compression="deflate", photometric="rgb")
    slide = TiffSlide(path, 0.5)
    with pytest.raises(DamagedSlideError, match=r"tile \(1, 1\) of level 0 can't be decoded"):
        slide.read(Box(70, 70, 10, 10), 0.5)
    assert (slide.read(Box(0, 0, 64, 64), 0.5) == pixels[:64, :64]).all()
