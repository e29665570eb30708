"""What is believed of a file's resolution, and what is not."""

import pytest

from counterstain.geometry import Mpp, Size
from counterstain.slides.resolution import from_aperio, from_metadata, from_ome, from_tags

OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0"><Pixels SizeX="{width}" SizeY="80" {sizes}/></Image>'
    '<Image ID="Image:1"><Pixels SizeX="9" SizeY="9" PhysicalSizeX="7" PhysicalSizeY="7"/></Image></OME>'
)


def ome(sizes: str, width: int = 100) -> Mpp | None:
    found = from_ome(OME.format(sizes=sizes, width=width), Size(100, 80))
    return found.mpp if found else None


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600, 1200, 2400])
def test_printers_resolutions_are_not_believed(dpi: int) -> None:
    assert from_tags((dpi, 1), (dpi, 1), 2) is None


def test_tags_count_pixels_an_inch_or_a_centimetre() -> None:
    in_cm, in_inches = from_tags((40000, 2), (50000, 1), 3), from_tags((50800, 1), (50800, 1), 2)
    assert in_cm is not None
    assert in_inches is not None
    assert in_cm.mpp == Mpp(0.5, 0.2)
    assert in_cm.source == "tiff tags"
    assert in_inches.mpp == Mpp(0.5, 0.5)


def test_tags_without_a_unit_or_with_zeros_say_nothing() -> None:
    assert from_tags((20000, 1), (20000, 1), 1) is None
    assert from_tags((20000, 0), (20000, 0), 3) is None
    assert from_tags((0, 1), (0, 1), 3) is None


def test_aperio_says_mpp_and_its_objective_says_nothing() -> None:
    found = from_aperio({"MPP": "0.4990", "AppMag": "20"})
    assert found is not None
    assert (found.mpp, found.source) == (Mpp(0.499, 0.499), "reader")
    assert from_aperio({"AppMag": "20"}) is None
    assert from_aperio({"MPP": "unknown"}) is None
    assert from_aperio({"MPP": "0"}) is None


@pytest.mark.parametrize(
    ("sizes", "mpp"),
    [
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.26"', Mpp(0.25, 0.26)),
        ('PhysicalSizeX="0.25" PhysicalSizeXUnit="µm" PhysicalSizeY="0.25" PhysicalSizeYUnit="um"', Mpp(0.25, 0.25)),
        ('PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="2.5E-4" PhysicalSizeYUnit="mm"', Mpp(0.25, 0.25)),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" PhysicalSizeYUnit="pixel"', None),
        ('PhysicalSizeX="0.25"', None),
        ('PhysicalSizeX="wide" PhysicalSizeY="0.25"', None),
        ('PhysicalSizeX="nan" PhysicalSizeY="0.25"', None),
        ("", None),
    ],
)
def test_ome_sizes_have_units(sizes: str, mpp: Mpp | None) -> None:
    found = ome(sizes)
    assert (found is None) == (mpp is None)
    if found is not None and mpp is not None:
        assert (found.x, found.y) == pytest.approx((mpp.x, mpp.y))


def test_ome_speaks_of_the_image_of_this_size_alone() -> None:
    assert ome('PhysicalSizeX="0.25" PhysicalSizeY="0.25"', width=50) is None
    assert from_ome("no xml at all <", Size(100, 80)) is None


def test_what_no_microscope_does_is_not_believed() -> None:
    assert from_metadata(352.8, 352.8) is None
    assert from_metadata(0.001, 0.001) is None
    assert from_metadata(28.97, 28.97) is not None
