"""Slides: files of pixels, read by boxes at any resolution.

`open_slide` looks at a file's content, chooses the one reader for it and keeps that reader's errors. A new format is a
file with a `Slide` in it, a line in READERS and three lines of test (`counterstain.testing.slides.SlideContract`).
"""

from pathlib import Path

from counterstain.errors import UnsupportedSlideError
from counterstain.files import existing
from counterstain.geometry import Mpp
from counterstain.slides.base import Slide, frame_of
from counterstain.slides.dicom import DicomSlide
from counterstain.slides.header import Header, Level, Resolution, TileBytes
from counterstain.slides.image import ImageSlide
from counterstain.slides.openslide import OpenSlideSlide
from counterstain.slides.resample import Pixels
from counterstain.slides.tiff import TiffSlide

READERS: dict[str, type[Slide]] = {
    "tiff": TiffSlide,
    "dicom": DicomSlide,
    "openslide": OpenSlideSlide,
    "image": ImageSlide,
}
"""The readers by name; the first that detects a file opens it."""


def open_slide(path: Path | str, mpp: Mpp | float | None = None, *, assume_mpp: Mpp | float | None = None) -> Slide:
    """Opens a slide with the reader that its content asks for.

    Args:
        path: The file, or the folder of a DICOM series.
        mpp: Overrides the file's own resolution.
        assume_mpp: Stands in where the file has no resolution; recorded as "assumed".

    Raises:
        MissingFileError: When nothing is there.
        UnsupportedSlideError: When no reader knows the file, or not this kind of it.
        DamagedSlideError: When the file's structure can't be read.
        MissingExtraError: When it takes an optional library that is not installed.
    """
    path = existing(path, "a slide")
    for reader in READERS.values():
        if reader.detects(path):
            return reader(path, mpp, assume_mpp=assume_mpp)
    if path.is_dir():
        raise UnsupportedSlideError(f"'{path}' is a folder, but not that of one DICOM series. Give a slide file.")
    raise UnsupportedSlideError(
        f"Slide '{path}' is known to none of the readers ({', '.join(READERS)}). "
        "Check that it is whole, or convert it to a pyramidal TIFF."
    )


__all__ = [
    "READERS",
    "Header",
    "Level",
    "Pixels",
    "Resolution",
    "Slide",
    "TileBytes",
    "frame_of",
    "open_slide",
    "DicomSlide",
    "ImageSlide",
    "OpenSlideSlide",
    "TiffSlide",
]
