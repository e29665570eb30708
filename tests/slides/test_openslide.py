"""OpenSlide: the exam, what is transparent, what it refuses."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from counterstain.errors import UnsupportedSlideError
from counterstain.geometry import Box, Size
from counterstain.slides import OpenSlideSlide, Pixels, Slide
from counterstain.slides.openslide import _bounds, _resolution
from counterstain.testing.slide_files import TiffDialect, write_dicom, write_tiff
from counterstain.testing.slide_pixels import gradient, scene
from counterstain.testing.slides import SlideContract


class TestOpenSlide(SlideContract):
    """Without further levels: at fractions of level 0 OpenSlide itself is up to half a level-0 pixel off."""

    reader: ClassVar[type[Slide]] = OpenSlideSlide

    def write(self, path: Path, pixels: Pixels, mpp: float | None) -> Path:
        return write_tiff(path.with_suffix(".tif"), pixels, mpp, TiffDialect(factors=()))


def test_levels_at_fractions_are_read_in_their_place(tmp_path: Path) -> None:
    pixels = gradient(Size(127, 126))
    slide = OpenSlideSlide(write_tiff(tmp_path / "slide.svs", pixels, 0.5, TiffDialect("aperio", (2, 3.3), 16)))
    for scale in (2, 3.3, 3.5):
        given = slide.read_resized(Box(21, 21, 20 * scale, 20 * scale), Size(20, 20))
        columns = 21 + (np.arange(20) + 0.5) * scale
        assert np.abs(given[:, :, 0] - (2 * columns - 1)).max() <= 2  # a level-0 pixel; two steps of red each


@pytest.fixture
def rgba(tmp_path: Path) -> tuple[Slide, Pixels]:
    """A slide that fades out to the right, and its straight RGBA pixels."""
    pixels = np.dstack([scene(Size(256, 128)), np.zeros((128, 256), np.uint8)])
    pixels[:, :, 3] = np.arange(256)[::-1]
    extra = {"extrasamples": ["unassalpha"]}
    path = write_tiff(tmp_path / "rgba.tif", pixels, 0.5, TiffDialect(factors=(), extra=extra))
    return OpenSlideSlide(path), pixels


def test_what_is_transparent_is_put_on_white(rgba: tuple[Slide, Pixels]) -> None:
    slide, pixels = rgba
    given = slide.read(Box(0, 0, 256, 128), 0.5)
    opacity = pixels[:, :, 3:] / 255
    expected = pixels[:, :, :3] * opacity + 255 * (1 - opacity)
    # OpenSlide multiplies, its binding divides again: two roundings
    assert np.abs(given - expected).max() <= 2


def test_the_scanned_part_is_known() -> None:
    sides = {"x": "100", "y": "200", "width": "3000", "height": "4000"}
    assert _bounds({f"openslide.bounds-{side}": value for side, value in sides.items()}) == Box(100, 200, 3000, 4000)
    assert _bounds({"openslide.bounds-x": "100"}) is None


def test_only_mpp_counts_as_resolution() -> None:
    power = {"openslide.objective-power": "20", "openslide.vendor": "aperio"}
    assert _resolution(power) is None
    mpp = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}
    found, tagged = (_resolution({**mpp, "openslide.vendor": vendor}) for vendor in ("hamamatsu", "generic-tiff"))
    assert found is not None
    assert tagged is not None
    assert (found.mpp.x, found.mpp.y, found.source, tagged.source) == (0.25, 0.26, "reader", "tiff tags")
    print_dpi = {"openslide.mpp-x": "84.67", "openslide.mpp-y": "84.67", "openslide.vendor": "generic-tiff"}
    assert _resolution(print_dpi) is None


def test_what_openslide_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    notes = tmp_path / "notes.svs"
    notes.write_text("no slide")
    with pytest.raises(UnsupportedSlideError, match="OpenSlide does not know it"):
        OpenSlideSlide(notes)
    unknown = write_dicom(tmp_path / "dicom", scene(Size(64, 64)), 0.5, syntax="jpegls")
    with pytest.raises(UnsupportedSlideError, match="Unsupported transfer syntax"):
        OpenSlideSlide(unknown)


def test_a_slide_damaged_after_it_was_opened_is_named(rgba: tuple[Slide, Pixels]) -> None:
    slide, _ = rgba
    whole = slide.path.read_bytes()
    slide.path.write_bytes(b"\0" * len(whole))
    with pytest.raises(OSError, match=r"rgba\.tif"):
        slide.read(Box(0, 0, 10, 10), 0.5)
