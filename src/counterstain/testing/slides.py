"""The exam that every reader of slides sits: inherit it, name the reader, write a file.

    class TestMySlide(SlideContract):
        reader = MySlide

        def write(self, path, pixels, mpp):
            return my_writer(path.with_suffix(".my"), pixels, mpp)

Does not know: any format.
"""

import multiprocessing
import pickle
from abc import ABC, abstractmethod
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from counterstain.errors import InputError, MissingFileError, MissingResolutionError, SlideError, UnsupportedSlideError
from counterstain.geometry import Box, Mpp, Size
from counterstain.slides import Pixels, Slide
from counterstain.testing.slide_pixels import area_twin, gradient, scene

MPP = 0.5

BOXES = {  # box, size of the answer
    "native": (Box(10, 20, 60, 50), Size(60, 50)),
    "native, all of it": (Box(0, 0, 203, 149), Size(203, 149)),
    "native, between pixels": (Box(10.4, 20.7, 60, 50), Size(60, 50)),
    "halved": (Box(16, 8, 120, 100), Size(60, 50)),
    "halved, odd corner": (Box(17, 9, 120, 100), Size(60, 50)),
    "a little reduced": (Box(12, 7, 150.3, 130.7), Size(117, 103)),
    "reduced to few": (Box(0, 0, 203, 149), Size(13, 10)),
    "reduced to one": (Box(3.5, 2.25, 180, 140), Size(1, 1)),
    "enlarged": (Box(30, 40, 31, 22), Size(93, 66)),
    "enlarged by a fraction": (Box(30.3, 40.6, 31.7, 22.2), Size(53, 37)),
    "wider one way than the other": (Box(20, 20, 120, 30), Size(40, 90)),
    "over the left and upper edge": (Box(-20.5, -11.25, 80, 70), Size(64, 56)),
    "over the right and lower edge": (Box(150, 110, 90, 70), Size(40, 31)),
    "enlarged over an edge": (Box(190, 140, 20, 16), Size(50, 40)),
}


class SlideContract(ABC):
    """What a reader promises. A subclass gives `reader` and `write`."""

    reader: ClassVar[type[Slide]]
    loss: ClassVar[float] = 0
    """Grey levels by which the format's compression changes a smooth picture, at most."""
    stores_mpp: ClassVar[bool] = True
    """Whether `write` puts the resolution into the file."""
    needs_mpp: ClassVar[bool] = False
    """Whether the reader can't open a file without one."""

    @abstractmethod
    def write(self, path: Path, pixels: Pixels, mpp: float | None) -> Path:
        """Writes a slide that shows (H, W, 3) uint8 pixels.

        Args:
            path: Where, without a suffix.
            pixels: Level 0. Further levels, if the format has them, are its area averages.
            mpp: The resolution to be stored; None for a file without.

        Returns:
            What to open.
        """

    @pytest.fixture
    def pixels(self) -> Pixels:
        """Level 0 of the slide: odd sides, no multiples of tiles."""
        return scene(Size(203, 149))

    @pytest.fixture
    def slide(self, tmp_path: Path, pixels: Pixels) -> Slide:
        """The slide of `pixels`, at MPP."""
        return self._open(self.write(tmp_path / "slide", pixels, self._stored(MPP)), MPP)

    def _stored(self, mpp: float) -> float | None:
        return mpp if self.stores_mpp else None

    def _open(self, path: Path, mpp: float) -> Slide:
        return self.reader(path, None if self.stores_mpp else mpp)

    def test_its_own_files_are_detected(self, slide: Slide) -> None:
        assert self.reader.detects(slide.path)

    def test_foreign_files_are_not_detected(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("Aperio, II*, DICM: words, not a slide.")
        (tmp_path / "empty.svs").touch()
        assert not any(self.reader.detects(path) for path in (tmp_path, *tmp_path.iterdir()))

    def test_level_0_is_what_was_written(self, slide: Slide, pixels: Pixels) -> None:
        assert slide.size == slide.levels[0].size == Size.of(pixels)
        assert slide.bounds == Box.whole(slide.size)
        given = slide.read(Box.whole(slide.size), slide.mpp.mean)
        assert np.abs(given.astype(int) - pixels).max() <= self.loss

    def test_levels_get_coarser(self, slide: Slide) -> None:
        factors = [level.downsample_x for level in slide.levels]
        assert factors[0] == 1
        assert factors == sorted(set(factors))

    @pytest.mark.parametrize("name", BOXES)
    def test_boxes_agree_with_the_slow_twin(self, slide: Slide, pixels: Pixels, name: str) -> None:
        box, size = BOXES[name]
        difference = np.abs(slide.read_resized(box, size).astype(float) - area_twin(pixels, box, size))
        near_x = _near(box.x, box.width / size.width, size.width, slide)
        near_y = _near(box.y, box.height / size.height, size.height, slide, is_row=True)
        inner = difference[~near_y][:, ~near_x]
        # a coarser level's pixels are averages of their own: beyond rounding, the picture's curvature remains
        assert inner.max(initial=0) <= 3 + self.loss
        assert inner.sum() <= (0.6 + self.loss / 2) * inner.size
        # scanners leave up to a level pixel at the right and lower edge out of coarser levels
        assert difference.max() <= 10 + self.loss

    @pytest.mark.parametrize("mpp", [MPP / 3, MPP * 0.73, MPP, MPP * 1.4, MPP * 2, MPP * 2.9, MPP * 5.5])
    @pytest.mark.parametrize("corner", [(8, 16), (9.5, 15), (10, 17.5)])
    def test_a_gradient_keeps_its_place(self, tmp_path: Path, mpp: float, corner: tuple[float, float]) -> None:
        path = self.write(tmp_path / "gradient", gradient(Size(127, 126)), self._stored(MPP))
        box = Box(*corner, 88, 66)
        given = self._open(path, MPP).read(box, mpp)
        size = Size.of(given)
        assert (size.width, size.height) == (round(88 * MPP / mpp), round(66 * MPP / mpp))
        columns = box.x + (np.arange(size.width) + 0.5) * box.width / size.width
        rows = box.y + (np.arange(size.height) + 0.5) * box.height / size.height
        off_x = given[:, :, 0] - (2 * columns - 1)
        off_y = given[:, :, 1] - (2 * rows - 1)[:, None]
        # a shift by half a level-0 pixel would be 1 in the mean
        assert max(abs(off_x.mean()), abs(off_y.mean())) < 0.3
        assert max(np.abs(off_x).max(), np.abs(off_y).max()) <= 1.3 + self.loss

    @pytest.mark.parametrize("scale", [0.6, 1, 1.5, 2, 3.7])
    def test_a_box_and_its_part_agree(self, slide: Slide, scale: float) -> None:
        whole = slide.read_resized(Box(7, 5, 40 * scale, 30 * scale), Size(40, 30)).astype(int)
        part = slide.read_resized(Box(7 + 10 * scale, 5 + 6 * scale, 20 * scale, 12 * scale), Size(20, 12))
        assert np.abs(whole[6:18, 10:30] - part).max() <= 1

    def test_what_lies_beyond_the_slide_is_white(self, slide: Slide, pixels: Pixels) -> None:
        given = slide.read_resized(Box(-16, -8, 240, 170), Size(240, 170))
        assert (given[:8] == 255).all()
        assert (given[:, :16] == 255).all()
        assert (given[8 + 149 :] == 255).all()
        assert (given[:, 16 + 203 :] == 255).all()
        assert np.abs(given[8 : 8 + 149, 16 : 16 + 203].astype(int) - pixels).max() <= self.loss
        assert (slide.read_resized(Box(1000, 1000, 50, 50), Size(20, 20)) == 255).all()

    def test_the_edge_of_the_slide_is_not_washed_out(self, tmp_path: Path) -> None:
        grey = np.full((90, 110, 3), 100, np.uint8)
        slide = self._open(self.write(tmp_path / "grey", grey, self._stored(MPP)), MPP)
        for scale in (0.5, 1, 1.7, 3):
            size = Size(int(110 / scale), int(90 / scale))
            given = slide.read_resized(Box(0, 0, size.width * scale, size.height * scale), size)
            assert np.abs(given.astype(int) - 100).max() <= 1 + self.loss

    def test_answers_are_the_callers_own(self, slide: Slide) -> None:
        box, size = Box(0, 0, 64, 64), Size(64, 64)
        first = slide.read_resized(box, size)
        before = first.copy()
        first[:] = 0
        assert (slide.read_resized(box, size) == before).all()

    def test_it_travels(self, slide: Slide) -> None:
        box, size = Box(10, 20, 60, 50), Size(60, 50)
        before = slide.read_resized(box, size)
        packed = pickle.dumps(slide)
        assert (pickle.loads(packed).read_resized(box, size) == before).all()
        assert len(packed) < 100_000, "pixels travel with it"

    def test_it_is_read_in_a_spawned_process(self, slide: Slide) -> None:
        box, size = Box(10, 20, 60, 50), Size(30, 25)
        here = slide.read_resized(box, size)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            there = pool.submit(slide.read_resized, box, size).result()
        assert (here == there).all()

    def test_it_opens_again_after_closing(self, slide: Slide) -> None:
        box, size = Box(10, 20, 60, 50), Size(60, 50)
        with slide:
            before = slide.read_resized(box, size)
        slide.close()
        assert (slide.read_resized(box, size) == before).all()

    @pytest.mark.parametrize("part", [0.0, 0.05, 0.5, 0.9])
    def test_a_file_cut_short_is_refused(self, slide: Slide, part: float) -> None:
        whole = slide.path.read_bytes()
        slide.path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(SlideError, match=slide.path.name) as refusal:
            self.reader(slide.path, MPP).read(Box.whole(slide.size), MPP)
        assert "\n" not in str(refusal.value)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(MissingFileError, match="nowhere"):
            self.reader(tmp_path / "nowhere.svs")

    def test_the_users_resolution_wins(self, slide: Slide) -> None:
        told = self.reader(slide.path, Mpp(0.3, 0.6), assume_mpp=9)
        assert told.mpp == Mpp(0.3, 0.6)
        assert told.record().mpp_source == "user"
        assert told.read(Box(0, 0, 100, 100), 0.6).shape == (100, 50, 3)

    def test_the_files_resolution_is_read(self, slide: Slide) -> None:
        if not self.stores_mpp:
            assert self.reader(slide.path).resolution is None
            return
        assert slide.mpp.x == pytest.approx(MPP, rel=1e-3)
        assert slide.mpp.y == pytest.approx(MPP, rel=1e-3)
        assert slide.record().mpp_source in ("reader", "tiff tags")
        assert self.reader(slide.path, assume_mpp=9).mpp == slide.mpp

    def test_a_missing_resolution_is_an_error(self, tmp_path: Path, pixels: Pixels) -> None:
        path = self.write(tmp_path / "bare", pixels, None)
        if self.needs_mpp:
            with pytest.raises(UnsupportedSlideError, match="resolution"):
                self.reader(path)
            return
        slide = self.reader(path)
        with pytest.raises(MissingResolutionError, match="--mpp"):
            slide.read(Box(0, 0, 10, 10), MPP)
        with pytest.raises(MissingResolutionError, match="bare"):
            slide.record()
        assert slide.read_resized(Box(0, 0, 10, 10), Size(10, 10)).shape == (10, 10, 3)
        assert self.reader(slide.path, assume_mpp=0.7).record().mpp_source == "assumed"

    def test_impossible_boxes_are_refused(self, slide: Slide) -> None:
        for box in (Box(0, 0, 0, 10), Box(0, float("nan"), 10, 10)):
            with pytest.raises(InputError, match="finite and not empty"):
                slide.read(box, MPP)
        with pytest.raises(InputError, match="at least one pixel"):
            slide.read_resized(Box(0, 0, 10, 10), Size(0, 10))
        with pytest.raises(InputError, match="above 0"):
            slide.read(Box(0, 0, 10, 10), 0.0)


def _near(start: float, scale: float, num: int, slide: Slide, *, is_row: bool = False) -> npt.NDArray[np.bool_]:
    """(num,): which output pixels meet the level-0 pixels under the last pixel of the coarsest level."""
    end = slide.size.height if is_row else slide.size.width
    low = start + np.arange(num) * scale
    near: npt.NDArray[np.bool_] = (low + scale > end - slide.levels[-1].downsample_x) & (low < end) & (num > 1)
    return near


def check_readers_agree(one: Slide, other: Slide, *, loss: float = 1) -> None:
    """Asserts that two readers give the same pixels of one file, but for the rounding of the decoders.

    Args:
        one: A slide.
        other: The same file, opened by another reader.
        loss: Grey levels by which pixels may differ.
    """
    assert one.size == other.size
    assert [level.size for level in one.levels] == [level.size for level in other.levels]
    for level in one.levels:
        width, height = min(level.size.width, 700), min(level.size.height, 700)
        x, y = (level.size.width - width) // 2, (level.size.height - height) // 2
        box = Box(x, y, width, height).scaled(level.downsample_x, level.downsample_y)
        for size in (Size(width, height), Size(max(1, int(width / 1.3)), max(1, int(height / 1.3)))):
            first, second = (slide.read_resized(box, size).astype(int) for slide in (one, other))
            assert np.abs(first - second).max() <= loss, f"they differ at {level}"
