import threading
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapely import Polygon

from counterstain.errors import DamagedSlideError
from counterstain.geometry import Box, Size
from counterstain.infer.stream import Batch, Cutter
from counterstain.slides import TiffSlide
from counterstain.slides.base import Slide, frame_of
from counterstain.testing.planted import ArraySlide, PlantedSettings, plant
from counterstain.testing.slide_files import TiffDialect, write_tiff
from counterstain.testing.slide_pixels import scene
from counterstain.tiles import TileRow

ROWS = (TileRow(-8, (-8, 16, 40, 64)), TileRow(24, (40,)), TileRow(56, (-8, 120, 144, 300)), TileRow(88, (0, 24)))
DECODED: list[Box] = []


class Watched(ArraySlide):
    """Notes what is decoded."""

    def _decode(self, handle: Any, level: int, box: Box) -> Any:
        DECODED.append(box)
        return super()._decode(handle, level, box)


class Damaged(ArraySlide):
    """Can't be decoded below row 60 of level 0."""

    def _decode(self, handle: Any, level: int, box: Box) -> Any:
        if box.bottom > 60:
            raise DamagedSlideError(f"Slide '{self.path}' is damaged. Scan it again.")
        return super()._decode(handle, level, box)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.planted"
    regions = [
        ("tumour", Polygon([(10, 10), (90, 30), (60, 100)])),
        ("stroma", Polygon([(80, 0), (330, 90), (90, 110)])),
    ]
    plant(path, PlantedSettings(Size(350, 131), mpp=1.0), regions)
    return path


def cutter(slide: Slide, num_workers: int, mpp: float = 1.0) -> Cutter:
    return Cutter(frame_of(slide, mpp), Size(32, 32), batch_size=3, num_workers=num_workers)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-tiles")]


def batches(slide: Slide, num_workers: int, mpp: float = 1.0) -> list[Batch]:
    return list(cutter(slide, num_workers, mpp).stream(slide, ROWS))


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_batches_keep_to_their_row_and_order(path: Path, num_workers: int) -> None:
    found = [(batch.row, batch.y, batch.xs) for batch in batches(ArraySlide(path), num_workers)]
    assert found == [
        (0, -8, (-8, 16, 40)),
        (0, -8, (64,)),
        (1, 24, (40,)),
        (2, 56, (-8, 120, 144)),
        (2, 56, (300,)),
        (3, 88, (0, 24)),
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("mpp", [1.0, 0.73, 1.9])
def test_a_tile_is_what_reading_it_alone_gives(path: Path, num_workers: int, mpp: float) -> None:
    slide = ArraySlide(path)
    frame = frame_of(slide, mpp)
    for batch in batches(slide, num_workers, mpp):
        for x, image in zip(batch.xs, batch.images_BHWC, strict=True):
            alone = slide.read_resized(frame.to_level0(Box(x, batch.y, 32, 32)), Size(32, 32))
            # One gray level: resampling weights are rounded from the start of the strip that was read.
            assert np.abs(image.astype(int) - alone).max() <= (0 if mpp == 1 else 1)


@pytest.mark.parametrize("mpp", [1.0, 2.0, 1.7])
def test_tiles_of_a_slide_in_strips_are_what_reading_them_alone_gives(tmp_path: Path, mpp: float) -> None:
    dialect = TiffDialect(compression="jpeg", factors=(), extra={"tile": None, "rowsperstrip": 24})
    slide = TiffSlide(write_tiff(tmp_path / "a.tif", scene(Size(350, 131)), 1.0, dialect))
    frame = frame_of(slide, mpp)
    for batch in batches(slide, 2, mpp):
        for x, image in zip(batch.xs, batch.images_BHWC, strict=True):
            alone = slide.read_resized(frame.to_level0(Box(x, batch.y, 32, 32)), Size(32, 32))
            assert np.abs(image.astype(int) - alone).max() <= (1 if mpp == 1.7 else 0)


def test_threads_change_nothing(path: Path) -> None:
    slide = ArraySlide(path)
    for one, other in zip(batches(slide, 0, 0.6), batches(slide, 3, 0.6), strict=True):
        np.testing.assert_array_equal(one.images_BHWC, other.images_BHWC)


def test_overlapping_tiles_are_read_as_one_and_gaps_are_not_read(path: Path) -> None:
    DECODED.clear()
    list(cutter(Watched(path), 0).stream(Watched(path), [TileRow(0, (0, 24, 200))]))
    assert [Box(0, 0, 56, 32), Box(200, 0, 32, 32)] == DECODED


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_comes_after_what_could_be_read(path: Path, num_workers: int) -> None:
    delivered = []
    with pytest.raises(DamagedSlideError, match="is damaged"):
        delivered.extend(batch.row for batch in cutter(Damaged(path), num_workers).stream(Damaged(path), ROWS))
    assert delivered == [0, 0, 1]
    assert not readers()


def test_no_thread_is_left_when_the_stream_is_closed_early(path: Path) -> None:
    slide = ArraySlide(path)
    stream = cutter(slide, 2).stream(slide, ROWS)
    next(stream)
    assert readers()
    stream.close()
    assert not readers()


def test_reading_ahead_is_bounded(path: Path) -> None:
    rows = [TileRow(y, (0,)) for y in range(0, 100, 2)]
    slide = Watched(path)
    DECODED.clear()
    stream = cutter(slide, 2).stream(slide, rows)
    for count, _ in enumerate(islice(stream, 19), 1):
        assert len(DECODED) <= count + 3
    assert count == 19  # an empty stream would have shown nothing
    stream.close()
    assert len(DECODED) < len(rows)


def test_nothing_asked_is_nothing_read(path: Path) -> None:
    slide = ArraySlide(path)
    assert list(cutter(slide, 2).stream(slide, [])) == []
    assert not readers()
