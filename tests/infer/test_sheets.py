"""Streams from stored tiles: the same pixels as boxes read one by one, each tile decoded once."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from counterstain.errors import DamagedSlideError
from counterstain.geometry import Box, Frame, Point, Size
from counterstain.infer import sheets as sheets_module
from counterstain.infer.stream import Batch, Cutter
from counterstain.slides import TiffSlide
from counterstain.slides import scan as scan_module
from counterstain.slides import stored as stored_module
from counterstain.slides.base import frame_of
from counterstain.slides.lattice import Side
from counterstain.slides.windows import Source
from counterstain.testing.slide_files import TiffDialect, tiles_of, write_raw_tiles, write_tiff
from counterstain.testing.slide_pixels import scene
from counterstain.tiles import TileRow

SIZE = Size(531, 403)  # of no whole number of tiles
MPP = 0.5


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> TiffSlide:
    """Levels of 531, 265 and 177 px (the last of no whole factor), tiles of 64 px."""
    path = tmp_path_factory.mktemp("slide") / "slide.svs"
    jpeg = {"compressionargs": {"level": 90}, "subsampling": (2, 2)}
    return TiffSlide(write_tiff(path, scene(SIZE), MPP, TiffDialect("aperio", (2, 3), 64, "jpeg", extra=jpeg)))


def rows_of(size: Size, tile: int, stride: int, start: int, left: int = 0) -> list[TileRow]:
    """A grid with a hole in its middle, which overhangs the slide on all sides where `start` is below 0."""
    rows = []
    for y in range(start, size.height, stride):
        xs = [x for x in range(start + left, size.width, stride) if not (120 <= x < 250 and 90 <= y < 300)]
        rows.append(TileRow(y, tuple(xs)))
    return rows


def stream(slide: TiffSlide, frame: Frame, rows: list[TileRow], tile: int, num_workers: int = 0) -> list[Batch]:
    """All batches, held together: none may change when later ones are read."""
    return list(Cutter(frame, Size(tile, tile), 5, num_workers).stream(slide, rows))


def check_pixels(slide: TiffSlide, frame: Frame, batches: list[Batch], tile: int, tolerance: int) -> None:
    for batch in batches:
        for x, image in zip(batch.xs, batch.images_BHWC, strict=True):
            alone = slide.read_resized(frame.to_level0(Box(x, batch.y, tile, tile)), Size(tile, tile))
            assert np.abs(image.astype(int) - alone).max() <= tolerance, (x, batch.y)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("most", [1, 100_000, 8 << 20])
@pytest.mark.parametrize(("tile", "stride", "start"), [(64, 64, 0), (64, 64, -64), (56, 56, 7), (56, 28, -9)])
def test_tiles_at_a_level_are_its_very_pixels(
    slide: TiffSlide, num_workers: int, most: int, tile: int, stride: int, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets_module, "_SHEET_BYTES", most)
    frame, rows = frame_of(slide, MPP), rows_of(SIZE, tile, stride, start)
    batches = stream(slide, frame, rows, tile, num_workers)
    assert [(row.y, xs) for row in rows for xs in parts(row.xs)] == [(batch.y, batch.xs) for batch in batches]
    check_pixels(slide, frame, batches, tile, 0)


def parts(xs: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [xs[start : start + 5] for start in range(0, len(xs), 5)]


@pytest.mark.parametrize("mpp", [0.31, 0.5004, 0.66, 1.0, 1.31, 1.5, 2.0, 3.1])
def test_other_resolutions_are_resampled_exactly(slide: TiffSlide, mpp: float) -> None:
    frame = frame_of(slide, mpp)
    batches = stream(slide, frame, rows_of(frame.size, 40, 20, -7), 40)
    # one grey value: sums of float32 weights that were rounded from another start
    check_pixels(slide, frame, batches, 40, 0 if mpp == 1.0 else 1)


@pytest.mark.parametrize(("x", "y"), [(3.4, 5.25), (0, 5.25), (0, 0)])
@pytest.mark.parametrize("scale", [1.0, 1.00001, 1.99999])
@pytest.mark.parametrize("whole", [Size(450, 320), Size(560, 440)])
def test_a_frame_between_pixels_is_resampled(slide: TiffSlide, x: float, y: float, scale: float, whole: Size) -> None:
    frame = Frame(Point(x, y), scale, scale, Size(round(whole.width / scale), round(whole.height / scale)))
    check_pixels(slide, frame, stream(slide, frame, rows_of(frame.size, 40, 40, -7), 40), 40, 1)


@pytest.mark.parametrize("mpp", [0.5, 0.66, 1.5])
def test_where_a_stream_begins_changes_no_pixel(slide: TiffSlide, mpp: float) -> None:
    frame = frame_of(slide, mpp)
    rows = rows_of(frame.size, 40, 20, 3)
    later = {(batch.y, batch.xs): batch for batch in stream(slide, frame, rows[4:], 40, 2)}
    assert later
    for batch in stream(slide, frame, rows, 40):
        if (batch.y, batch.xs) in later:
            np.testing.assert_array_equal(later.pop((batch.y, batch.xs)).images_BHWC, batch.images_BHWC)
    assert not later


@pytest.mark.parametrize("stride", [56, 28])
def test_each_stored_tile_is_decoded_once_whatever_the_grid(
    slide: TiffSlide, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = Counter[bytes]()
    decode = stored_module.decode_tile
    monkeypatch.setattr(
        stored_module, "decode_tile", lambda data, *rest: decoded.update([bytes(data)]) or decode(data, *rest)
    )
    monkeypatch.setattr(sheets_module, "_SHEET_BYTES", 60_000)
    left = [TileRow(row.y, tuple(x for x in row.xs if x < 280)) for row in rows_of(SIZE, 56, stride, 7)]
    right = [TileRow(row.y, tuple(x for x in row.xs if x > 230)) for row in rows_of(SIZE, 56, stride, 7)]
    stream(slide, frame_of(slide, MPP), left + right, 56)
    assert set(decoded.values()) == {1}
    again = decoded.copy()
    monkeypatch.setattr(scan_module, "_KEPT_BYTES", 0)
    stream(slide, frame_of(slide, MPP), left + right, 56)
    assert max((decoded - again).values()) > 1, "nothing was to be kept"


def test_a_kept_tile_may_be_forgotten_by_a_faster_thread(slide: TiffSlide, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(slide.path, slide.stored(0))
    here, there = source.window(Box(0, 0, 64, 64)), source.window(Box(0, 128, 64, 64))
    work = scan_module._Work(source, [here, there, here, there, here])
    planned, read = list(work.plan()), scan_module.read_bytes
    hand, other = scan_module._Hand(source), scan_module._Hand(source)

    def read_after_the_last(*asked: Any) -> dict[int, memoryview]:
        monkeypatch.setattr(scan_module, "read_bytes", read)
        work.do(planned[4][1][0], other)
        return read(*asked)

    with hand.file, other.file:
        work.do(planned[0][1][0], hand)
        monkeypatch.setattr(scan_module, "read_bytes", read_after_the_last)
        work.do(planned[2][1][0], hand)
    for number in (2, 4):
        np.testing.assert_array_equal(planned[number][0].panes[0], planned[0][0].panes[0])


def test_a_held_image_stays_as_it_is_and_memory_is_used_again(slide: TiffSlide) -> None:
    frame, held, places = frame_of(slide, MPP), [], set()
    for batch in Cutter(frame, Size(56, 56), 1, 0).stream(slide, rows_of(SIZE, 56, 56, 0)[:1] * 40):
        places.add(batch.images_BHWC.ctypes.data)
        if len(held) < 3:
            held.append((batch.images_BHWC[:, 5:], batch.images_BHWC[:, 5:].copy()))
        del batch
    for image, before in held:
        np.testing.assert_array_equal(image, before)
    assert len(places) < 60, "each sheet took fresh memory"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_tile_ends_the_stream_at_its_batch(tmp_path: Path, num_workers: int) -> None:
    pixels = scene(Size(256, 256))
    tiles = [simplejpeg.encode_jpeg(tile, 90) for tile in tiles_of(pixels, 64)]
    tiles[9] = tiles[9][: len(tiles[9]) // 2]
    path = write_raw_tiles(tmp_path / "slide.tif", Size(256, 256), 64, tiles, compression="jpeg", photometric="ycbcr")
    slide, delivered = TiffSlide(path, MPP), []
    rows = [TileRow(y, (0, 56, 112, 168)) for y in (0, 56, 112, 168)]
    cutter = Cutter(frame_of(slide, MPP), Size(56, 56), 1, num_workers)
    with pytest.raises(DamagedSlideError, match=r"tile \(1, 2\) of level 0 can't be decoded"):
        delivered.extend((batch.xs[0], batch.y) for batch in cutter.stream(slide, rows))
    assert delivered == [(x, y) for y in (0, 56) for x in (0, 56, 112, 168)] + [(0, 112)]


def test_tiles_that_were_left_out_are_white(tmp_path: Path) -> None:
    pixels = scene(Size(256, 256))
    coded: list[Any] = [simplejpeg.encode_jpeg(tile, 90) for tile in tiles_of(pixels, 64)]
    coded[5] = b""
    path = write_raw_tiles(tmp_path / "slide.tif", Size(256, 256), 64, coded, compression="jpeg", photometric="ycbcr")
    slide = TiffSlide(path, MPP)
    for tile in (64, 56):
        frame = frame_of(slide, MPP)
        batches = stream(slide, frame, rows_of(Size(256, 256), tile, tile, 0), tile)
        check_pixels(slide, frame, batches, tile, 0)
    assert (slide.read_resized(Box(64, 64, 64, 64), Size(64, 64)) == 255).all()


@pytest.mark.parametrize("start", [0.0, 64 - 1e-9, 64 + 1e-9])
def test_cells_that_end_where_a_stored_tile_ends_need_no_neighbour(start: float) -> None:
    side = Side(start, 8 / 7, 56 * 5, 531, 531.0)
    assert [side.under(56 * cell, 56, is_whole=False) for cell in range(3)] == [
        (round(start) + 64 * cell, round(start) + 64 * (cell + 1)) for cell in range(3)
    ]
    for cell in range(3):
        axis = side.axis(56 * cell, 56)
        assert (axis.first, axis.last) == side.under(56 * cell, 56, is_whole=False)
