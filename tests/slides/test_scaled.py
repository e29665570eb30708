"""Reading at a fraction of the size: close to the exact mean, in the right place, the same from box and stream."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image

from counterstain.errors import DamagedSlideError, InputError
from counterstain.geometry import Box, Frame, Point, Size
from counterstain.infer.stream import Cutter
from counterstain.slides import ImageSlide, Pixels, TiffSlide
from counterstain.slides.codecs import RGB, YCBCR, YCBCR_JPEG2000, Coding, reductions
from counterstain.testing.slide_files import abbreviated_jpeg, tiles_of, write_raw_tiles
from counterstain.testing.slide_pixels import scene
from counterstain.tiles import TileRow

SIZE = Size(531, 403)


def jpeg_slide(path: Path, subsampling: str = "422", tile_px: int = 64, pixels: Pixels | None = None) -> TiffSlide:
    pixels = scene(SIZE) if pixels is None else pixels
    tiles = [simplejpeg.encode_jpeg(tile, 92, colorsubsampling=subsampling) for tile in tiles_of(pixels, tile_px)]
    write_raw_tiles(path, Size.of(pixels), tile_px, tiles, compression="jpeg", photometric="ycbcr")
    return TiffSlide(path, 0.5)


def difference(slide: TiffSlide, box: Box, size: Size) -> npt.NDArray[np.int64]:
    return slide.read_scaled(box, size).astype(np.int64) - slide.read_resized(box, size)


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
@pytest.mark.parametrize(
    ("box", "size"),
    [
        (Box(0, 0, 512, 384), Size(256, 192)),
        (Box(0, 0, 512, 384), Size(128, 96)),
        (Box(0, 0, 512, 384), Size(64, 48)),
        (Box(64, 0, 256, 256), Size(112, 112)),
        (Box(13.4, 51.2, 256, 256), Size(112, 112)),
        (Box(300, 250, 256, 256), Size(112, 112)),
        (Box(-30, -20, 600, 500), Size(90, 75)),
    ],
)
def test_scaled_pixels_are_close_to_the_mean_and_not_moved(
    tmp_path: Path, subsampling: str, box: Box, size: Size
) -> None:
    slide = jpeg_slide(tmp_path / "slide.tif", subsampling)
    apart = difference(slide, box, size)
    assert np.abs(apart).max() > 0, "nothing was decoded smaller"
    # a colour sample of 4:2:2 stands for two pixels along x, of whatever size: noise in colours is smoothed more
    assert np.abs(apart).mean() < (8 if subsampling == "422" and box.width >= 8 * size.width else 2.5)
    assert np.abs(apart.mean((0, 1))).max() < 0.5
    if box.x >= 0:
        moved = slide.read_resized(box.shifted(0.5 * box.width / size.width, 0), size)
        assert np.abs(slide.read_scaled(box, size) - moved.astype(np.int64)).mean() > np.abs(apart).mean()


def test_smooth_pixels_are_the_same(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(384) // 4, np.arange(512) // 4)[:, :, None].repeat(3, axis=2).astype(np.uint8)
    slide = jpeg_slide(tmp_path / "slide.tif", pixels=ramp)
    for num in (4, 2, 8):
        assert np.abs(difference(slide, Box(0, 0, 512, 384), Size(512 // num, 384 // num))).max() <= 2


def test_a_stream_of_cells_gives_what_reading_one_gives(tmp_path: Path) -> None:
    slide = jpeg_slide(tmp_path / "slide.tif")
    frame = Frame(Point(3, 5), 64 / 28, 64 / 28, Size(8 * 28, 6 * 28))
    rows = [TileRow(y, (0, 28, 84, 140, 196)) for y in (0, 28, 140)]
    cutter = Cutter(frame, Size(28, 28), 4, 2, is_scaled=True)
    for batch in cutter.stream(slide, rows):
        for x, image in zip(batch.xs, batch.images_BHWC, strict=True):
            alone = slide.read_scaled(frame.to_level0(Box(x, batch.y, 28, 28)), Size(28, 28))
            assert np.abs(image.astype(int) - alone).max() <= 1


def test_large_boxes_are_made_in_parts_that_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = jpeg_slide(tmp_path / "slide.tif")
    before = slide.read_scaled(Box(5, 3, 510, 390), Size(170, 130))
    monkeypatch.setattr("counterstain.slides.base._PIECE_PX", 40)
    assert (slide.read_scaled(Box(5, 3, 510, 390), Size(170, 130)) == before).all()


def test_a_last_tile_of_less_than_a_pixel_is_passed_over(tmp_path: Path) -> None:
    slide = jpeg_slide(tmp_path / "slide.tif", "444", pixels=scene(Size(257, 195)))
    for num in (2, 4, 8):
        size = Size(320 // num, 256 // num)
        assert np.abs(difference(slide, Box(0, 0, 320, 256), size)).mean() < 2.5
        frame = Frame(Point(0, 0), num, num, size)
        side = 64 // num
        cutter = Cutter(frame, Size(side, side), 8, 0, is_scaled=True)
        rows = [TileRow(y, tuple(range(0, size.width, side))) for y in range(0, size.height, side)]
        for batch in cutter.stream(slide, rows):
            for x, image in zip(batch.xs, batch.images_BHWC, strict=True):
                alone = slide.read_scaled(frame.to_level0(Box(x, batch.y, side, side)), Size(side, side))
                assert np.abs(image.astype(int) - alone).max() <= 1


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.9])
def test_what_is_not_much_smaller_is_exact(tmp_path: Path, scale: float) -> None:
    slide = jpeg_slide(tmp_path / "slide.tif")
    assert not difference(slide, Box(7, 9, 100 * scale, 80 * scale), Size(100, 80)).any()


def test_what_is_no_jpeg_is_exact(tmp_path: Path) -> None:
    tiles = [imagecodecs.zlib_encode(tile.tobytes()) for tile in tiles_of(scene(SIZE), 64)]
    path = write_raw_tiles(tmp_path / "slide.tif", SIZE, 64, tiles, compression="deflate", photometric="rgb")
    assert not difference(TiffSlide(path, 0.5), Box(0, 0, 512, 384), Size(64, 48)).any()
    Image.fromarray(scene(SIZE)).save(tmp_path / "image.png")
    image = ImageSlide(tmp_path / "image.png", 0.5)
    box, size = Box(0, 0, 512, 384), Size(64, 48)
    assert (image.read_scaled(box, size) == image.read_resized(box, size)).all()


def test_reductions_divide_the_tile() -> None:
    assert reductions(Coding(Size(256, 256), 7, YCBCR, 3)) == (2, 4, 8)
    assert reductions(Coding(Size(240, 244), 7, YCBCR, 3)) == (2, 4)
    assert reductions(Coding(Size(255, 256), 7, YCBCR, 3)) == ()
    assert reductions(Coding(Size(256, 256), YCBCR_JPEG2000, YCBCR, 3)) == ()


def test_shared_tables_absent_and_cropped_tiles(tmp_path: Path) -> None:
    pixels = scene(SIZE)
    coded: list[Any] = [abbreviated_jpeg(tile, is_rgb=True) for tile in tiles_of(pixels, 64)]
    tables, tiles = coded[0][0], [tile for _, tile in coded]
    tiles[0] = b""
    extra = [(347, 7, len(tables), tables, True)]
    path = write_raw_tiles(
        tmp_path / "a.svs",
        SIZE,
        64,
        tiles,
        compression="jpeg",
        photometric="rgb",
        compressionargs={"outcolorspace": "rgb"},
        extratags=extra,
    )
    slide = TiffSlide(path, 0.5)
    assert slide.stored(0).coding.photometric == RGB
    assert np.abs(difference(slide, Box(0, 0, 512, 384), Size(128, 96))).mean() < 2.5
    assert (slide.read_scaled(Box(0, 0, 64, 64), Size(16, 16)) == 255).all()

    corners = [(x, y) for y in range(0, SIZE.height, 64) for x in range(0, SIZE.width, 64)]
    parts = [np.ascontiguousarray(pixels[y : y + 64, x : x + 64]) for x, y in corners]
    cropped = [simplejpeg.encode_jpeg(part, 92, colorsubsampling="444") for part in parts]
    path = write_raw_tiles(tmp_path / "b.tif", SIZE, 64, cropped, compression="jpeg", photometric="ycbcr")
    assert np.abs(difference(TiffSlide(path, 0.5), Box(0, 0, 531, 403), Size(133, 101))).mean() < 2.5


def test_damage_and_wrong_use_are_told(tmp_path: Path) -> None:
    slide = jpeg_slide(tmp_path / "slide.tif")
    with pytest.raises(InputError, match="at least one pixel"):
        slide.read_scaled(Box(0, 0, 10, 10), Size(0, 10))
    tiles = [simplejpeg.encode_jpeg(tile, 92) for tile in tiles_of(scene(SIZE), 64)]
    tiles[10] = tiles[10][:300]
    path = write_raw_tiles(tmp_path / "cut.tif", SIZE, 64, tiles, compression="jpeg", photometric="ycbcr")
    with pytest.raises(DamagedSlideError, match=r"tile \(1, 1\) of level 0 can't be decoded"):
        TiffSlide(path, 0.5).read_scaled(Box(0, 0, 512, 384), Size(64, 48))
