"""Every format that OpenSlide reads.

OpenSlide answers boxes of a level with the alpha it has there; what the scanner skipped is transparent and becomes white.
Its handles can't be pickled and, once a tile failed, fail for ever: the port opens them anew.

Does not know: resampling, other readers.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import openslide
from PIL import Image

from counterstain.geometry import Box, Size
from counterstain.slides.base import Slide
from counterstain.slides.header import Header, Level, Resolution
from counterstain.slides.resample import Pixels
from counterstain.slides.resolution import from_metadata, from_tags_mpp

_WHITE = (255, 255, 255)


class OpenSlideSlide(Slide):
    """A slide read by OpenSlide."""

    reader: ClassVar[str] = "openslide"

    @classmethod
    def detects(cls, path: Path) -> bool:
        return path.is_file() and openslide.OpenSlide.detect_format(path) is not None

    def _read_header(self) -> Header:
        try:
            with openslide.OpenSlide(self.path) as handle:
                return header_of(handle)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise self._unsupported("OpenSlide does not know it", "Export it as a tiled pyramidal TIFF.") from error
        except openslide.OpenSlideError as error:
            raise self._unsupported(
                f"OpenSlide refuses it ({error})", "Copy it again, or export it as TIFF."
            ) from error

    def _open(self) -> openslide.OpenSlide:
        try:
            return openslide.OpenSlide(self.path)
        except openslide.OpenSlideError as error:
            raise self._damaged(error) from error

    def _decode(self, handle: openslide.OpenSlide, level: int, box: Box) -> Pixels:
        try:
            return decode_box(handle, level, box)
        except openslide.OpenSlideError as error:
            raise self._damaged(f"level {level} can't be decoded at {box} ({error})") from error


def header_of(handle: openslide.OpenSlide) -> Header:
    """What an open slide says of itself."""
    sizes = [Size(*dimensions) for dimensions in handle.level_dimensions]
    properties = dict(handle.properties)
    return Header(
        levels=tuple(Level.of(size, sizes[0]) for size in sizes),
        resolution=_resolution(properties),
        bounds=_bounds(properties),
        properties=properties,
    )


def decode_box(handle: openslide.OpenSlide, level: int, box: Box) -> Pixels:
    """Decodes whole pixels of a level, on white.

    OpenSlide takes the corner in whole level-0 pixels: where its downsample is a fraction, what it gives is up to half
    a level-0 pixel off, interpolated linearly.

    Raises:
        openslide.OpenSlideError: When it can't; the handle is of no more use then.
    """
    downsample = handle.level_downsamples[level]
    corner = round(box.x * downsample), round(box.y * downsample)
    region = handle.read_region(corner, level, (box.size.width, box.size.height))
    if region.getextrema()[3] == (255, 255):
        return np.array(region.convert("RGB"))
    # openslide-python has undone the premultiplication already
    white = Image.new("RGB", region.size, _WHITE)
    white.paste(region, mask=region.getchannel("A"))
    return np.array(white)


def _resolution(properties: dict[str, str]) -> Resolution | None:
    x, y = (properties.get(f"openslide.mpp-{axis}") for axis in "xy")
    if x is None or y is None:
        return None
    is_generic = properties.get("openslide.vendor") == "generic-tiff"  # then OpenSlide took it from the TIFF tags
    return (from_tags_mpp if is_generic else from_metadata)(float(x), float(y))


def _bounds(properties: dict[str, str]) -> Box | None:
    sides = [properties.get(f"openslide.bounds-{side}") for side in ("x", "y", "width", "height")]
    numbers = [int(side) for side in sides if side is not None]
    return Box(*numbers) if len(numbers) == 4 else None
