"""Every real slide at hand: read rightly, or refused in one clear line."""

from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tifffile

from counterstain.errors import CounterstainError
from counterstain.geometry import Box, Size
from counterstain.slides import DicomSlide, OpenSlideSlide, Pixels, TiffSlide, open_slide
from counterstain.testing.slides import check_readers_agree

READ = {  # reader, level 0, number of levels, um/px, mean colour
    "svs/CMU-1-Small-Region.svs": ("tiff", (2220, 2967), 1, 0.499, (214, 195, 208)),
    "svs/TCGA-CR-7395-01A-01-TS1.svs": ("tiff", (4443, 3567), 2, None, (217, 158, 188)),
    "dicom/multi_frame_jpeg2000_camelyon_challenge_image.dcm": ("dicom", (1696, 812), 1, 28.969, (202, 190, 213)),
    "dicom/multi_frame_jpeg_camelyon_challenge_image.dcm": ("dicom", (1152, 700), 1, 28.969, (207, 193, 215)),
    "ndpi/test3-TRITC-2-(560).ndpi": ("openslide", (3968, 4864), 7, 0.2282, (19, 0, 1)),
    "ome_tiff/OS-1-detail.ome.tif": ("tiff", (1101, 1101), 1, 0.2271, (144, 124, 180)),
    "ome_tiff/OS-2-ndpi.ome.tif": ("tiff", (2202, 2202), 1, 0.2271, (181, 188, 200)),
    "ome_tiff/OS-2-vsi.ome.tif": ("tiff", (1445, 1445), 1, 0.3461, (194, 197, 200)),
    "other/boxes.tiff": ("tiff", (300, 250), 4, None, (159, 164, 192)),
    "other/boxes_0.dcm": ("dicom", (16, 16), 1, 0.499, (238, 234, 237)),
    "other/boxes_1.dcm": ("dicom", (16, 16), 1, 0.499, (238, 234, 237)),
    "other/pathml_small_HE_levels.tiff": ("tiff", (300, 250), 4, None, (159, 164, 192)),
    "other/small.svs": ("tiff", (16, 16), 1, 0.499, (238, 234, 237)),
}
REFUSED = {
    "other/broken.svs": "known to none of the readers",
    "other/unopenable.tiff": "compression 52479 is not known",
    "other/unreadable.svs": r"tile \(0, 0\) of level 0 can't be decoded",
}


@pytest.mark.parametrize("name", READ)
def test_a_good_slide_is_read(real_data: Path, name: str) -> None:
    reader, size, num_levels, mpp, color = READ[name]
    slide = open_slide(real_data / "wsi" / name)
    assert (slide.reader, slide.size, len(slide.levels)) == (reader, Size(*size), num_levels)
    if mpp is None:
        assert slide.resolution is None
    else:
        assert slide.mpp.x == pytest.approx(mpp, rel=1e-3)
    factor = max(1, max(size) / 300)
    view = slide.read_resized(Box.whole(slide.size), Size(round(size[0] / factor), round(size[1] / factor)))
    assert view.mean(axis=(0, 1)) == pytest.approx(color, abs=1)


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_slide_is_refused_in_one_line(real_data: Path, name: str) -> None:
    with pytest.raises(CounterstainError, match=REFUSED[name]) as refusal:
        open_slide(real_data / "wsi" / name, 0.5).read(Box(0, 0, 16, 16), 0.5)
    assert name in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_every_slide_at_hand_is_in_one_of_the_lists(real_data: Path) -> None:
    folder = real_data / "wsi"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}
    assert files == {*READ, *REFUSED}


@pytest.mark.parametrize("name", ["svs/CMU-1-Small-Region.svs", "other/small.svs", "other/boxes.tiff"])
def test_direct_decoding_and_openslide_agree(real_data: Path, name: str) -> None:
    path = real_data / "wsi" / name
    check_readers_agree(TiffSlide(path), OpenSlideSlide(path), loss=1)


def test_jpeg2000_agrees_with_openslide(real_data: Path) -> None:
    path = real_data / "wsi/svs/TCGA-CR-7395-01A-01-TS1.svs"
    one, other = TiffSlide(path), OpenSlideSlide(path)
    box, size = Box(1800.0, 1500.0, 512, 512), Size(512, 512)
    assert (one.read_resized(box, size) == other.read_resized(box, size)).all()
    # OpenSlide takes its second level for 2.0005 times smaller and interpolates: a blur, no shift
    small = Size(256, 256)
    halves = [slide.read_resized(box, small).astype(float).mean(axis=2) for slide in (one, other)]
    assert _shift(*halves) < 0.3


def _shift(one: np.ndarray, other: np.ndarray) -> float:
    """By how many pixels a picture lies beside another, from its slopes."""
    slopes = np.stack([part[1:-1, 1:-1].ravel() for part in np.gradient(one)], axis=1)
    moved, *_ = np.linalg.lstsq(slopes, (other - one)[1:-1, 1:-1].ravel(), rcond=None)
    return float(np.abs(moved).max())


@pytest.mark.parametrize("name", ["OS-1-detail.ome.tif", "OS-2-ndpi.ome.tif", "OS-2-vsi.ome.tif"])
def test_ome_tiff_agrees_with_tifffile(real_data: Path, name: str) -> None:
    path = real_data / "wsi/ome_tiff" / name
    slide = TiffSlide(path)
    expected = tifffile.imread(path)
    given = slide.read_resized(Box.whole(slide.size), slide.size)
    assert np.abs(given.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["multi_frame_jpeg", "multi_frame_jpeg2000"])
def test_dicom_agrees_with_wsidicom(real_data: Path, name: str) -> None:
    wsidicom = pytest.importorskip("wsidicom", reason="the twin is an extra")
    path = real_data / "wsi/dicom" / f"{name}_camelyon_challenge_image.dcm"
    given = DicomSlide(path).read_resized(Box(100, 150, 400, 300), Size(400, 300))
    with wsidicom.WsiDicom.open(path) as other:
        expected = other.read_region((100, 150), 0, (400, 300), as_array=True)
    assert np.abs(given.astype(int) - expected).max() <= 1


def test_an_aperio_tile_is_decoded_to_the_bit(real_data: Path) -> None:
    """All 130 tiles of the test slide that OpenSlide's authors give away, against OpenSlide itself."""
    path = real_data / "wsi/svs/CMU-1-Small-Region.svs"
    one, other = TiffSlide(path), OpenSlideSlide(path)
    for y in range(0, 2967, 240):
        row = Box(0, y, 2220, min(240, 2967 - y))
        assert (one.read_resized(row, row.size) == other.read_resized(row, row.size)).all()


def test_thumbnails_are_images(real_data: Path) -> None:
    for path in sorted((real_data / "thumbs_pen_marks").glob("*.png")):
        assert open_slide(path).reader == "image"


def test_a_patch_of_a_data_set_is_an_image(real_data: Path) -> None:
    path = next((real_data / "ebhi_seg/dev/images").glob("*.jpg"))
    slide = open_slide(path, 0.5)
    given: Pixels = slide.read(Box.whole(slide.size), 0.5)
    assert (given == simplejpeg.decode_jpeg(path.read_bytes())).mean() > 0.99
