"""The port: levels, pieces, processes, records."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from counterstain.errors import DamagedSlideError
from counterstain.geometry import Box, Mpp, Size
from counterstain.slides import Header, Level, Pixels, Resolution, Slide, TiffSlide, frame_of
from counterstain.testing.slide_files import write_tiff
from counterstain.testing.slide_pixels import scene


class PaintedSlide(Slide):
    """A slide of any size whose red is 1 / 500 of the column; it notes what is asked of it."""

    reader: ClassVar[str] = "painted"
    factors: ClassVar[Sequence[float]] = (1,)
    level0: ClassVar[Size] = Size(100_000, 80_000)

    @classmethod
    def detects(cls, path: Path) -> bool:
        return False

    def _read_header(self) -> Header:
        self.asked: list[tuple[int, Box]] = []
        sizes = [Size(int(self.level0.width / by), int(self.level0.height / by)) for by in self.factors]
        levels = tuple(Level.of(size, self.level0) for size in sizes)
        return Header(levels, Resolution(Mpp.square(0.25), "reader"), Box(500, 300, 4000, 2000), {})

    def _open(self) -> int:
        return os.getpid()

    def _decode(self, handle: int, level: int, box: Box) -> Pixels:
        self.asked.append((level, box))
        if box.x == 13 * 7:
            raise DamagedSlideError("here it is broken")
        columns = (np.arange(box.x, box.right) + 0.5) * self.levels[level].downsample_x / 500
        return np.broadcast_to(columns.astype(np.uint8)[None, :, None], (*box.size.shape, 3)).copy()


class Pyramid(PaintedSlide):
    factors: ClassVar[Sequence[float]] = (1, 4, 16.02, 64)


@pytest.mark.parametrize(
    ("mpp", "level"), [(0.1, 0), (0.25, 0), (0.9, 0), (0.9999, 1), (1, 1), (3.9, 1), (4.1, 2), (16, 3), (500, 3)]
)
def test_the_coarsest_level_that_is_fine_enough_is_read(tmp_path: Path, mpp: float, level: int) -> None:
    slide = Pyramid(tmp_path)
    slide.read(Box(1000, 1000, 1600, 1600), mpp)
    assert {number for number, _ in slide.asked} == {level}


def test_a_view_of_a_huge_slide_without_small_levels_is_read_in_pieces(tmp_path: Path) -> None:
    slide = PaintedSlide(tmp_path)
    view = slide.read_resized(Box(0, 0, 8_000, 3_000), Size(40, 15))
    assert max(box.area for _, box in slide.asked) <= 1024**2
    expected = np.floor((np.arange(8_000) + 0.5) / 500).reshape(40, 200).mean(axis=1)
    assert np.abs(view[:, :, 0] - expected).max() <= 0.5


def test_an_enlarged_view_is_made_in_pieces_that_fit_together(tmp_path: Path) -> None:
    slide = PaintedSlide(tmp_path)
    whole = slide.read_resized(Box(0, 0, 400, 2), Size(2400, 12)).astype(int)
    assert len(slide.asked) > 1
    assert np.abs(np.diff(whole[:, :, 0], axis=1)).max() <= 1


def test_whole_pixels_are_read_without_resampling(tmp_path: Path) -> None:
    slide = Pyramid(tmp_path)
    slide.read(Box(1024, 2048, 256, 128), 0.25)
    slide.read(Box(1024.005, 2048, 255.99, 128), 0.25)
    slide.read(Box(1024, 2048, 1024, 512), 1)
    level0 = (0, Box(1024, 2048, 256, 128))
    assert slide.asked == [level0, level0, (1, Box(256, 512, 256, 128))]


def test_a_handle_that_failed_is_opened_anew(tmp_path: Path) -> None:
    slide = PaintedSlide(tmp_path)
    slide.read_resized(Box(0, 0, 8, 8), Size(8, 8))
    with pytest.raises(DamagedSlideError, match="broken"):
        slide.read_resized(Box(91, 0, 8, 8), Size(8, 8))
    assert slide._handle is None
    assert slide.read_resized(Box(0, 0, 8, 8), Size(8, 8)).shape == (8, 8, 3)


_FORKS = """
import os, sys
from counterstain.geometry import Box, Size
from counterstain.slides import TiffSlide
slide = TiffSlide(sys.argv[1])
box, size = Box(10, 20, 60, 50), Size(60, 50)
here = slide.read_resized(box, size)
handle = slide._handle
child = os.fork()
if child == 0:
    there = slide.read_resized(box, size)
    os._exit(0 if (there == here).all() and slide._handle is not handle else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_opens_handles_of_its_own(tmp_path: Path) -> None:
    """In a process of its own: a fork of the tests' process would copy the locks of its threads."""
    path = write_tiff(tmp_path / "slide.tif", scene(Size(203, 149)), 0.5)
    done = subprocess.run([sys.executable, "-c", _FORKS, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_frame_covers_what_was_scanned(tmp_path: Path) -> None:
    slide = PaintedSlide(tmp_path)
    frame = frame_of(slide, 1.0)
    assert frame.size == Size(1000, 500)
    assert frame.box == slide.bounds == Box(500, 300, 4000, 2000)


def test_a_record_remembers_the_slide(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", scene(Size(100, 80)), 0.5)
    record = TiffSlide(path).record()
    assert (record.path, record.reader, record.size) == (str(path), "tiff", Size(100, 80))
    assert record.mpp.mean == pytest.approx(0.5)
    other = write_tiff(tmp_path / "other.tif", scene(Size(100, 81)), 0.5)
    assert TiffSlide(other).record().content_hash != record.content_hash


def test_it_names_itself(tmp_path: Path) -> None:
    slide = PaintedSlide(tmp_path / ".")
    assert "PaintedSlide" in repr(slide)
    assert "100000 x 80000" in repr(slide)
