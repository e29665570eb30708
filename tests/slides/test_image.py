"""Plain images: the exam, modes, limits."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from counterstain.errors import DamagedSlideError, UnsupportedSlideError
from counterstain.geometry import Box, Size
from counterstain.slides import ImageSlide, Pixels, Slide
from counterstain.testing.slide_pixels import scene
from counterstain.testing.slides import SlideContract

SIZE = Size(60, 50)


class TestPng(SlideContract):
    reader: ClassVar[type[Slide]] = ImageSlide
    stores_mpp: ClassVar[bool] = False

    def write(self, path: Path, pixels: Pixels, mpp: float | None) -> Path:
        Image.fromarray(pixels).save(path.with_suffix(".png"), dpi=(50800, 50800))
        return path.with_suffix(".png")


class TestJpeg(SlideContract):
    reader: ClassVar[type[Slide]] = ImageSlide
    stores_mpp: ClassVar[bool] = False
    loss: ClassVar[float] = 6

    def write(self, path: Path, pixels: Pixels, mpp: float | None) -> Path:
        path = path.with_suffix(".jpg")
        path.write_bytes(simplejpeg.encode_jpeg(pixels, 97, colorsubsampling="444"))
        return path


@pytest.mark.parametrize("kind", ["bmp", "tif", "webp"])
def test_other_kinds_of_image_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"image.{kind}"
    Image.fromarray(scene(SIZE)).save(path, lossless=True)
    assert ImageSlide.detects(path)
    assert (ImageSlide(path, 1).read(Box.whole(SIZE), 1) == scene(SIZE)).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_all_modes_of_a_byte_become_rgb_on_white(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(scene(SIZE)).convert("RGBA")
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(np.tile(np.arange(60, dtype=np.uint8) * 4, (50, 1))))
    image = image.convert(mode) if mode != "RGBA" else image
    image.save(tmp_path / "image.png")
    given = ImageSlide(tmp_path / "image.png", 1).read(Box.whole(SIZE), 1)
    white = Image.new("RGBA", (60, 50), "white")
    expected = np.array(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    assert np.abs(given.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("pixels", [np.zeros((9, 9), np.uint16), np.zeros((9, 9), np.float32)])
def test_deeper_pixels_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "deep.tif")
    with pytest.raises(UnsupportedSlideError, match="Convert it to 8 bit RGB"):
        ImageSlide(tmp_path / "deep.tif")


def test_pages_without_tiles_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(scene(SIZE)) for _ in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UnsupportedSlideError, match="3 pages"):
        ImageSlide(tmp_path / "pages.tif")


@pytest.mark.parametrize("limit", [2000, 1000])
def test_an_image_too_large_for_one_piece_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    Image.fromarray(scene(SIZE)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # Pillow warns beyond it and refuses beyond twice of it
    assert ImageSlide.detects(tmp_path / "large.png")
    with pytest.raises(UnsupportedSlideError, match="tiled pyramidal TIFF"):
        ImageSlide(tmp_path / "large.png")


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(UnsupportedSlideError, match="none of PNG"):
        ImageSlide(tmp_path / "notes.png")


def test_an_image_damaged_inside_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)).save(path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 400] = bytes(400)
    path.write_bytes(whole)
    with pytest.raises(DamagedSlideError, match=r"image\.png"):
        ImageSlide(path, 1).read(Box.whole(SIZE), 1)


def test_a_file_that_vanishes_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(scene(SIZE)).save(path)
    slide = ImageSlide(path, 1)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"image\.png"):
        slide.read(Box.whole(SIZE), 1)
