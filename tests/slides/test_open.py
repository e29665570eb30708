"""`open_slide`: which reader opens what, and what nobody does."""

from pathlib import Path

import pytest
import tifffile
from PIL import Image

from counterstain.errors import DamagedSlideError, MissingFileError, UnsupportedSlideError
from counterstain.geometry import Mpp, Size
from counterstain.slides import READERS, open_slide
from counterstain.testing.slide_files import TiffDialect, write_tiff
from counterstain.testing.slide_pixels import scene

SIZE = Size(100, 80)


def test_every_reader_stands_under_its_own_name() -> None:
    assert all(reader.reader == name for name, reader in READERS.items())


@pytest.mark.parametrize("suffix", [".tif", ".svs", ".dat", ""])
def test_content_decides_and_not_the_name(tmp_path: Path, suffix: str) -> None:
    tiled = write_tiff(tmp_path / f"tiled{suffix}", scene(SIZE), 0.5, TiffDialect("aperio"))
    Image.fromarray(scene(SIZE)).save(tmp_path / f"image{suffix}", "PNG")
    tifffile.imwrite(tmp_path / f"strips{suffix}", scene(SIZE), photometric="rgb", metadata=None)
    Image.fromarray(scene(SIZE)).quantize(16).save(tmp_path / f"palette{suffix}", "TIFF")
    assert open_slide(tiled).reader == "tiff"
    assert open_slide(tmp_path / f"image{suffix}").reader == "image"
    assert open_slide(str(tmp_path / f"strips{suffix}")).reader == "tiff"
    assert open_slide(tmp_path / f"palette{suffix}").reader == "image"


def test_a_slide_of_a_vendor_of_its_own_goes_to_openslide(tmp_path: Path) -> None:
    path = tmp_path / "trestle.tif"
    description = "Background Color=FFFFFF;White Balance=0;Objective Power=20"
    shared = {"photometric": "rgb", "tile": (64, 64), "software": "MedScan 3.0", "metadata": None}
    tifffile.imwrite(path, scene(SIZE), description=description, **shared)
    assert open_slide(path).reader == "openslide"


def test_the_resolution_is_passed_on(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", scene(SIZE), None)
    assert open_slide(path).resolution is None
    assert open_slide(path, 0.3).mpp == Mpp(0.3, 0.3)
    assumed = open_slide(path, assume_mpp=Mpp(0.3, 0.4)).resolution
    assert assumed is not None
    assert (assumed.mpp, assumed.source) == (Mpp(0.3, 0.4), "assumed")


def test_the_readers_own_error_is_kept(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", scene(SIZE), 0.5)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedSlideError, match=r"slide\.tif"):
        open_slide(path)


def test_what_nobody_knows_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a slide")
    (tmp_path / "empty.svs").touch()
    for path in (tmp_path / "notes.txt", tmp_path / "empty.svs", tmp_path):
        with pytest.raises(UnsupportedSlideError, match=path.name) as refusal:
            open_slide(path)
        assert "\n" not in str(refusal.value)
    with pytest.raises(MissingFileError, match="nothing is there"):
        open_slide(tmp_path / "nowhere.svs")
