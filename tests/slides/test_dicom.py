"""DICOM: the exam with both engines, series and folders."""

import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from counterstain.errors import DamagedSlideError, MissingExtraError, UnsupportedSlideError
from counterstain.geometry import Box, Size
from counterstain.slides import DicomSlide, Pixels, Slide, open_slide
from counterstain.testing.slide_files import write_dicom
from counterstain.testing.slide_pixels import scene
from counterstain.testing.slides import SlideContract, check_readers_agree

pytest.importorskip("wsidicom", reason="DICOM slides that OpenSlide refuses take the extra 'dicom'")
SIZE = Size(203, 149)


class TestDicom(SlideContract):
    reader: ClassVar[type[Slide]] = DicomSlide

    def write(self, path: Path, pixels: Pixels, mpp: float | None) -> Path:
        return write_dicom(path, pixels, mpp)


class TestDicomThatOpenSlideRefuses(SlideContract):
    reader: ClassVar[type[Slide]] = DicomSlide
    needs_mpp: ClassVar[bool] = True

    def write(self, path: Path, pixels: Pixels, mpp: float | None) -> Path:
        return write_dicom(path, pixels, mpp, syntax="jpegls", factors=(2, 4))


def test_both_engines_give_the_same_pixels(tmp_path: Path) -> None:
    pixels = scene(Size(256, 192))
    one, other = (
        DicomSlide(write_dicom(tmp_path / syntax, pixels, 0.5, syntax=syntax, factors=(2, 4)))
        for syntax in ("raw", "jpegls")
    )
    assert other.properties["Engine"] == "wsidicom"
    assert "Engine" not in one.properties
    check_readers_agree(one, other, loss=0)


@pytest.mark.parametrize("syntax", ["raw", "jpegls"])
def test_a_folder_and_any_file_of_it_are_the_same_slide(tmp_path: Path, syntax: str) -> None:
    pixels = scene(SIZE)
    level0 = write_dicom(tmp_path / "series", pixels, 0.5, syntax=syntax, factors=(2,))
    write_dicom(tmp_path / "elsewhere", pixels, 0.5)
    for path in (level0, level0.parent / "level1.dcm", level0.parent):
        slide = open_slide(path)
        assert isinstance(slide, DicomSlide)
        assert [level.size for level in slide.levels] == [SIZE, Size(101, 74)]
        assert (slide.read(Box.whole(SIZE), 0.5) == pixels).all()
    assert open_slide(level0.parent).record().content_hash != open_slide(level0).record().content_hash


def test_a_folder_of_two_slides_is_no_slide(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_dicom(tmp_path, scene(SIZE), 0.5).rename(tmp_path / f"{name}.dcm")
    assert not DicomSlide.detects(tmp_path)
    with pytest.raises(UnsupportedSlideError, match="2 DICOM series"):
        DicomSlide(tmp_path)
    with pytest.raises(UnsupportedSlideError, match="not that of one DICOM series"):
        open_slide(tmp_path)
    assert DicomSlide(tmp_path / "one.dcm").levels == DicomSlide(tmp_path / "two.dcm").levels


def test_other_dicom_objects_are_no_slides(tmp_path: Path) -> None:
    from pydicom import dcmread

    path = write_dicom(tmp_path / "series", scene(SIZE), 0.5)
    data = dcmread(path)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"  # CT
    data.save_as(path)
    assert DicomSlide.detects(path)
    with pytest.raises(UnsupportedSlideError, match="no DICOM whole-slide image"):
        open_slide(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnsupportedSlideError, match="folder without DICOM slides"):
        DicomSlide(tmp_path / "empty")


def test_grey_frames_are_shown_in_grey(tmp_path: Path) -> None:
    slide = DicomSlide(write_dicom(tmp_path / "series", scene(SIZE), 0.5))
    assert isinstance(slide, DicomSlide)
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert (slide._as_rgb(grey) == grey[:, :, None]).all()
    with pytest.raises(UnsupportedSlideError, match="uint16"):
        slide._as_rgb(grey.astype(np.uint16))


@pytest.mark.parametrize("num_bytes", [900, 1100])
def test_a_series_without_its_finest_level_is_not_taken_for_whole(tmp_path: Path, num_bytes: int) -> None:
    path = write_dicom(tmp_path / "series", scene(SIZE), 0.5, syntax="jpegls", factors=(2,))
    path.write_bytes(path.read_bytes()[:num_bytes])
    for given in (path, path.parent / "level1.dcm", path.parent):
        with pytest.raises(DamagedSlideError, match=r"level0\.dcm"):
            open_slide(given)


@pytest.mark.parametrize("syntax", ["raw", "jpegls"])
def test_frames_damaged_after_opening_are_named(tmp_path: Path, syntax: str) -> None:
    path = write_dicom(tmp_path / "series", scene(SIZE), 0.5, syntax=syntax)
    slide = DicomSlide(path)
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(DamagedSlideError, match=r"level0\.dcm"):
        slide.read(Box.whole(SIZE), 0.5)


@pytest.mark.parametrize("syntax", ["raw", "jpegls"])
def test_a_file_overwritten_after_opening_is_named(tmp_path: Path, syntax: str) -> None:
    path = write_dicom(tmp_path / "series", scene(SIZE), 0.5, syntax=syntax)
    slide = DicomSlide(path)
    path.write_bytes(bytes(1000))
    with pytest.raises(DamagedSlideError, match=r"level0\.dcm"):
        slide.read(Box.whole(SIZE), 0.5)


def test_what_neither_engine_opens_has_both_reasons(tmp_path: Path) -> None:
    from pydicom import dcmread

    path = write_dicom(tmp_path / "series", scene(SIZE), 0.5, syntax="jpegls")
    data = dcmread(path)
    del data.TotalPixelMatrixColumns
    data.save_as(path)
    with pytest.raises(DamagedSlideError, match=r"OpenSlide \(.*transfer syntax.*wsidicom \(WsiDicomNotFound"):
        DicomSlide(path)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "series", scene(SIZE), 0.5, syntax="jpegls")
    monkeypatch.setitem(sys.modules, "wsidicom", None)
    with pytest.raises(MissingExtraError, match=r"counterstain\[dicom\]") as missing:
        open_slide(path)
    assert "Unsupported transfer syntax" in str(missing.value)
    assert open_slide(write_dicom(tmp_path / "usual", scene(SIZE), 0.5)).size == SIZE
