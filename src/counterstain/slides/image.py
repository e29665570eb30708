"""Plain images, and TIFF files in few long strips: the whole image decoded at once by Pillow.

An image file says nothing that could be believed about its resolution (a JPEG's 300 dpi are a printer's), so that comes
from the user alone. An orientation that a camera noted is not applied: level 0 is what is stored.

Does not know: pyramids, tiles.
"""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from counterstain.geometry import Box, Size
from counterstain.slides.base import Slide
from counterstain.slides.header import Header, Level
from counterstain.slides.resample import Pixels

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)
"""What Pillow's plugins raise for damaged files; SyntaxError is what it calls a broken PNG."""


class ImageSlide(Slide):
    """A plain image: one level, no resolution of its own."""

    reader: ClassVar[str] = "image"

    @classmethod
    def detects(cls, path: Path) -> bool:
        if not path.is_file():
            return False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its size: `_read_header` refuses what is too large
                with Image.open(path, formats=_FORMATS):
                    return True
        except Image.DecompressionBombError:
            return True
        except _DECODE_ERRORS:
            return False

    def _read_header(self) -> Header:
        with self._pillow() as image:
            size, mode, kind = Size(*image.size), image.mode, str(image.format)
            num_pages = int(getattr(image, "n_frames", 1))
        if num_pages > 1:
            raise self._unsupported(f"it holds {num_pages} pages without tiles", "Export one page of it.")
        if mode not in _MODES:
            raise self._unsupported(f"its pixels are of mode {mode}", "Convert it to 8 bit RGB.")
        return Header((Level.of(size, size),), None, None, {"Format": kind, "Mode": mode})

    def _open(self) -> Pixels:
        with self._pillow() as image:
            return _on_white(image)

    def _decode(self, handle: Pixels, level: int, box: Box) -> Pixels:
        return handle[box.slices()].copy()

    @contextmanager
    def _pillow(self) -> Iterator[Image.Image]:
        """The open image, with what Pillow raises translated."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(self.path, formats=_FORMATS) as image:
                    yield image
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise self._unsupported(
                f"it has more than the {Image.MAX_IMAGE_PIXELS:,} pixels that are decoded at once",
                "Convert it to a tiled pyramidal TIFF, which is read in pieces.",
            ) from error
        except UnidentifiedImageError as error:
            raise self._unsupported(f"it is none of {', '.join(_FORMATS)}", "Convert it to one of these.") from error
        except _DECODE_ERRORS as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise  # the file could not be opened at all
            raise self._damaged(f"it can't be decoded ({error})") from error


def _on_white(image: Image.Image) -> Pixels:
    """(H, W, 3) uint8, transparency composited on white."""
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        colored = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(colored, mask=colored.getchannel("A"))
        return np.array(white)
    return np.array(image.convert("RGB"))
