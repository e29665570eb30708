"""Real slides, and thumbnails of slides with pen marks.

The masks were looked at; these numbers hold what was seen: boxes that lie on ink, on tissue and on glass, and how much of
each picture is tissue. The thumbnails' resolutions are unpublished: they are estimated from fat cells and from the width of
strokes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from counterstain.errors import NoTissueError, UnsupportedSlideError
from counterstain.slides import open_slide
from counterstain.tissue import Tissue, TissueSettings, find_tissue

Corners = tuple[int, int, int, int]


@dataclass(frozen=True)
class Picture:
    """What a person sees in a thumbnail: boxes as (left, top, right, bottom)."""

    name: str
    mpp: float
    ink: tuple[Corners, ...]
    tissue: tuple[Corners, ...]
    glass: tuple[Corners, ...]
    share: tuple[float, float]


PICTURES = (
    Picture(
        "tcga-green-pen",
        4.0,
        ((350, 10, 440, 60), (320, 100, 400, 200), (230, 270, 330, 300), (180, 420, 300, 620)),
        ((20, 60, 230, 240), (20, 430, 130, 620), (500, 20, 740, 620), (360, 390, 740, 620)),
        (),
        (0.70, 0.80),
    ),
    Picture(
        "tcga-red-pen",
        4.0,
        ((45, 180, 150, 330), (60, 390, 140, 440), (30, 0, 90, 18), (130, 5, 230, 20), (45, 55, 75, 75)),
        ((230, 110, 460, 440), (200, 150, 300, 250)),
        (),
        (0.55, 0.66),
    ),
    Picture(
        "wsi-blue-pen",
        30.0,
        ((149, 66, 173, 70), (153, 102, 159, 132), (163, 0, 173, 1)),
        ((54, 78, 100, 94), (92, 30, 112, 48), (2, 62, 12, 74), (20, 66, 32, 86), (128, 80, 138, 88)),
        ((118, 100, 145, 130), (140, 5, 155, 45), (30, 118, 100, 132)),
        (0.36, 0.45),
    ),
    Picture(
        "diagnostic-slide-thumb-rgb",
        40.0,
        (
            *((275, 29, 285, 35), (120, 40, 160, 48), (26, 240, 32, 260), (64, 480, 88, 490), (380, 424, 400, 430)),
            *((36, 75, 42, 95), (414, 115, 422, 155), (455, 270, 463, 340), (72, 433, 78, 439)),
            *((85, 119, 91, 125), (226, 185, 232, 191), (129, 264, 135, 270), (172, 275, 178, 281)),
            *((164, 307, 170, 313), (87, 313, 93, 319), (313, 385, 319, 391), (402, 292, 408, 298)),
            *((101, 243, 106, 255), (283, 292, 289, 297)),
        ),
        (
            *((125, 140, 180, 210), (240, 190, 270, 230), (335, 243, 395, 260), (90, 370, 150, 412)),
            *((424, 330, 438, 365), (270, 408, 380, 414), (350, 120, 390, 135)),
        ),
        ((2, 2, 20, 200), (440, 2, 466, 60), (400, 480, 466, 522), (100, 512, 300, 524)),
        (0.31, 0.40),
    ),
    Picture("tcga-lung-rgb", 0.5, (), ((0, 0, 512, 512),), (), (1.0, 1.0)),
)


def found_in(real_data: Path, picture: Picture) -> Tissue:
    return find_tissue(open_slide(real_data / "thumbs_pen_marks" / f"{picture.name}.png", picture.mpp))


def boxed(mask: np.ndarray, tissue: Tissue, corners: Corners) -> float:
    """The share of a box of the thumbnail that a mask covers."""
    left, top, right, bottom = corners
    columns = ((np.arange(left, right) + 0.5) / tissue.frame.downsample_x).astype(int)
    rows = ((np.arange(top, bottom) + 0.5) / tissue.frame.downsample_y).astype(int)
    return float(mask[np.ix_(rows, columns)].mean())


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_pen_marks_are_left_out_and_the_tissue_beside_them_is_kept(real_data: Path, picture: Picture) -> None:
    found = found_in(real_data, picture)
    ink = found.ink if found.ink is not None else np.zeros_like(found.mask)
    for corners in picture.ink:
        assert boxed(found.mask, found, corners) == 0, f"ink at {corners} is taken for tissue"
        assert boxed(ink, found, corners) > 0.95, f"ink at {corners} is overlooked"
    for corners in picture.tissue:
        assert boxed(found.mask, found, corners) > 0.95, f"tissue at {corners} is lost"
    for corners in picture.glass:
        assert boxed(found.mask, found, corners) < 0.01, f"glass at {corners} is taken for tissue"
    low, high = picture.share
    assert low <= found.mask.mean() <= high


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("svs/CMU-1-Small-Region.svs", 0.37, 0.45),
        ("svs/TCGA-CR-7395-01A-01-TS1.svs", 0.62, 0.69),
        ("dicom/multi_frame_jpeg2000_camelyon_challenge_image.dcm", 0.32, 0.40),
        ("dicom/multi_frame_jpeg_camelyon_challenge_image.dcm", 0.26, 0.33),
        ("ome_tiff/OS-1-detail.ome.tif", 1.0, 1.0),
        ("ome_tiff/OS-2-ndpi.ome.tif", 0.75, 0.90),
    ],
)
def test_slides_without_pen_marks_keep_their_tissue(real_data: Path, name: str, low: float, high: float) -> None:
    slide = open_slide(real_data / "wsi" / name, 0.5 if "TCGA" in name else None)
    found = find_tissue(slide)
    assert low <= found.mask.mean() <= high
    assert found.ink is not None
    assert found.ink.mean() < 0.002


def test_all_three_methods_agree_on_two_slides(real_data: Path) -> None:
    for name in ("CMU-1-Small-Region", "TCGA-CR-7395-01A-01-TS1"):
        slide = open_slide(real_data / "wsi" / "svs" / f"{name}.svs", 0.5)
        stained = find_tissue(slide).mask
        rich = find_tissue(slide, TissueSettings(method="runs"))
        assert (stained & rich.mask).sum() / (stained | rich.mask).sum() > 0.8
        assert rich.runs is not None
        assert 0.15 < rich.runs.threshold < 0.4


def test_a_pale_immunostain_that_its_colour_hides_shows_in_its_detail(real_data: Path) -> None:
    slide = open_slide(real_data / "wsi" / "ome_tiff" / "OS-2-vsi.ome.tif")
    assert find_tissue(slide, TissueSettings(method="runs")).mask.mean() > 0.8


def test_a_fluorescence_slide_is_refused(real_data: Path) -> None:
    with pytest.raises(UnsupportedSlideError, match="dark background"):
        find_tissue(open_slide(real_data / "wsi" / "ndpi" / "test3-TRITC-2-(560).ndpi"))


def test_a_corner_of_empty_glass_is_refused(real_data: Path) -> None:
    with pytest.raises(NoTissueError):
        find_tissue(open_slide(real_data / "wsi" / "other" / "small.svs"))
