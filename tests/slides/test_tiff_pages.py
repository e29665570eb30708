"""The structure of damaged TIFF files."""

import random
from pathlib import Path

import pytest

from counterstain.errors import DamagedSlideError
from counterstain.geometry import Size
from counterstain.slides.tiff_pages import is_tiff, is_tiled, read_structure
from counterstain.testing.slide_files import TiffDialect, write_tiff
from counterstain.testing.slide_pixels import scene


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("pages") / "slide.ome.tif"
    return write_tiff(path, scene(Size(100, 80)), 0.5, TiffDialect("ome")).read_bytes()


def test_all_of_it_becomes_plain_data(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "slide.tif"
    path.write_bytes(whole)
    structure = read_structure(path)
    (page,) = structure.pages
    assert (page.size, page.tile, page.samples, page.bits) == (Size(100, 80), Size(64, 64), 3, 8)
    assert (page.compression, page.photometric, page.is_usual) == (32946, 2, True)
    assert [sub.size for sub in page.sub_pages] == [Size(50, 40), Size(25, 20)]
    assert len(page.offsets) == len(page.num_bytes) == 4
    assert "PhysicalSizeX" in structure.ome_xml
    assert structure.foreign is None


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bytes_give_a_structure_or_one_error(tmp_path: Path, whole: bytes, seed: int) -> None:
    dice = random.Random(seed)
    damaged = bytearray(whole)
    for _ in range(12):
        place = dice.randrange(600) if dice.random() < 0.5 else len(damaged) - 1 - dice.randrange(800)
        damaged[place] = dice.randrange(256)
    damaged[:4] = whole[:4]
    path = tmp_path / "slide.tif"
    path.write_bytes(damaged)
    try:
        said = ""
        pages = read_structure(path).pages
    except DamagedSlideError as error:
        said, pages = str(error), ()
    assert all(min(page.size.shape) > 0 for page in pages)
    assert pages or (str(path) in said and "\n" not in said)


def test_a_tiff_that_cannot_be_read_is_still_a_tiff(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "slide.tif"
    path.write_bytes(whole[:20])
    assert is_tiff(path)
    assert is_tiled(path)
    with pytest.raises(DamagedSlideError, match="structure"):
        read_structure(path)


def test_folders_and_text_are_no_tiff(tmp_path: Path) -> None:
    (tmp_path / "slide.tif").write_text("II")
    assert not is_tiff(tmp_path)
    assert not is_tiff(tmp_path / "slide.tif")
