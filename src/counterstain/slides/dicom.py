"""DICOM whole-slide images: one file, or the folder of a series.

OpenSlide reads most of them. What it refuses (some compressions) is given to wsidicom, an optional extra. Either finds
the other files of the series in the same folder, so any file of a series stands for all of it.

Does not know: resampling, DICOM objects other than slides.
"""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import openslide

from counterstain.errors import MissingExtraError
from counterstain.geometry import Box, Size
from counterstain.slides.base import Slide
from counterstain.slides.header import Header, Level
from counterstain.slides.openslide import decode_box, header_of
from counterstain.slides.resample import Pixels
from counterstain.slides.resolution import from_metadata

_WHOLE_SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
_SOP_CLASS = b"\x02\x00\x02\x00UI"  # (0002,0002) in the file's meta group
_SERIES = b"\x20\x00\x0e\x00UI"  # (0020,000E)
_WIDTH = b"\x48\x00\x06\x00UL\x04\x00"  # (0048,0006) TotalPixelMatrixColumns, four bytes
_HEAD_BYTES = 1 << 16  # where these stand: ICC profiles and pixels come later


class DicomSlide(Slide):
    """A DICOM slide, read by OpenSlide or else by wsidicom."""

    reader: ClassVar[str] = "dicom"
    _files: tuple[Path, ...]
    _is_openslide: bool

    @classmethod
    def detects(cls, path: Path) -> bool:
        if path.is_dir():
            return len({_uid(_head(file) or b"", _SERIES) for file in _slide_files(path.iterdir())}) == 1
        return _head(path) is not None

    def _read_header(self) -> Header:
        self._files = self._series()
        try:
            with openslide.OpenSlide(self._files[0]) as handle:
                self._is_openslide = True
                header = header_of(handle)
        except openslide.OpenSlideError as refusal:
            self._is_openslide = False
            header = self._wsidicom_header(refusal)
        self._refuse_partial(header.levels[0].size.width)
        return header

    def _refuse_partial(self, width: int) -> None:
        """Refuses a series of which a file was skipped: wsidicom logs files that it can't open, and goes on."""
        for file in self._files:
            head = _head(file) or b""
            start = head.find(_WIDTH) + len(_WIDTH)
            if start < len(_WIDTH) and len(head) < _HEAD_BYTES:
                raise self._damaged(f"'{file.name}' ends within its header")
            if start >= len(_WIDTH) and int.from_bytes(head[start : start + 4], "little") > width:
                raise self._damaged(f"'{file.name}', its finest level, can't be read")

    def _series(self) -> tuple[Path, ...]:
        """The files of the series, the given one first."""
        if self.path.is_dir():
            files = _slide_files(self.path.iterdir())
            if not files:
                raise self._unsupported("it is a folder without DICOM slides", "Give a slide file.")
        else:
            files = _slide_files([self.path])
            if not files:
                raise self._unsupported("it is no DICOM whole-slide image", "Give a slide, not another kind of object.")
        series = {_uid(_head(file) or b"", _SERIES) for file in files}
        if len(series) > 1:
            raise self._unsupported(
                f"the folder holds {len(series)} DICOM series", "Give one file of the one you mean."
            )
        if self.path.is_dir():
            return tuple(files)
        siblings = _slide_files(other for other in self.path.parent.iterdir() if other != self.path)
        return (self.path, *(other for other in siblings if {_uid(_head(other) or b"", _SERIES)} == series))

    def _open(self) -> Any:
        if not self._is_openslide:
            return self._open_wsidicom()
        try:
            return openslide.OpenSlide(self._files[0])
        except openslide.OpenSlideError as error:
            raise self._damaged(error) from error

    def _decode(self, handle: Any, level: int, box: Box) -> Pixels:
        errors = (openslide.OpenSlideError,) if self._is_openslide else _wsidicom_errors()
        try:
            if self._is_openslide:
                return decode_box(handle, level, box)
            size = (box.size.width, box.size.height)
            corner = (round(box.x), round(box.y))
            pixels = handle.read_region(corner, handle.levels[level].level, size, as_array=True)
        except errors as error:
            raise self._damaged(f"level {level} can't be decoded at {box} ({error})") from error
        return self._as_rgb(pixels)

    def _as_rgb(self, pixels: Any) -> Pixels:
        image = np.atleast_3d(np.asarray(pixels))
        if image.dtype != np.uint8 or image.shape[2] not in (1, 3):
            kind = f"{image.shape[2]} samples of {image.dtype}"
            raise self._unsupported(f"its pixels are {kind}, neither 8 bit RGB nor grey", "Convert it.")
        return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else np.array(image)

    def _wsidicom_header(self, refusal: Exception) -> Header:
        try:
            from wsidicom import WsiDicom
        except ImportError as error:
            purpose = f"Slide '{self.path}', which OpenSlide refuses ({refusal}),"
            raise MissingExtraError("wsidicom", "dicom", purpose) from error
        from wsidicom.errors import WsiDicomNoResolutionError

        try:
            with WsiDicom.open(list(self._files)) as handle:
                sizes = [Size(level.size.width, level.size.height) for level in handle.levels]
                levels = tuple(Level.of(size, sizes[0]) for size in sizes)
                mpp = handle.levels[0].mpp
                return Header(levels, from_metadata(mpp.width, mpp.height), None, {"Engine": "wsidicom"})
        except WsiDicomNoResolutionError as error:
            raise self._unsupported(
                f"OpenSlide refuses it ({refusal}), and wsidicom opens none without a resolution",
                "Write the pixel spacing into the file, or convert it to JPEG, which OpenSlide reads with --mpp.",
            ) from error
        except _wsidicom_errors() as error:
            reasons = f"OpenSlide ({refusal}) nor wsidicom ({type(error).__name__}: {error})"
            raise self._damaged(f"neither {reasons} can open it") from error

    def _open_wsidicom(self) -> Any:
        from wsidicom import WsiDicom

        try:
            return WsiDicom.open(list(self._files))
        except _wsidicom_errors() as error:
            raise self._damaged(error) from error


def series_of(path: Path) -> str | None:
    """The series that a file belongs to, read from its first bytes; None for anything but a DICOM slide."""
    files = _slide_files([path])
    return _uid(_head(files[0]) or b"", _SERIES) if files else None


def _wsidicom_errors() -> tuple[type[Exception], ...]:
    """What wsidicom, pydicom and the decoders below them raise for damaged files: they have no base class in common."""
    from pydicom import errors as pydicom_errors
    from wsidicom import errors as wsidicom_errors

    modules = (vars(wsidicom_errors), vars(pydicom_errors))
    own = (item for module in modules for item in module.values() if isinstance(item, type))
    decoders = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, EOFError, OSError, struct.error)
    return (*(item for item in own if issubclass(item, Exception)), *decoders)


def _slide_files(paths: Iterable[Path]) -> list[Path]:
    """Those that are DICOM whole-slide images, by name."""
    return sorted(path for path in paths if _uid(_head(path) or b"", _SOP_CLASS) == _WHOLE_SLIDE_CLASS)


def _head(path: Path) -> bytes | None:
    """The first bytes of a DICOM file; None when it is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(132)
        return start + file.read(_HEAD_BYTES) if start[128:] == b"DICM" else None


def _uid(head: bytes, tag: bytes) -> str:
    """A UID element's value, explicit little endian as all compressed DICOM is; "" where there is none."""
    start = head.find(tag)
    if start < 0:
        return ""
    first = start + len(tag) + 2
    length = int.from_bytes(head[first - 2 : first], "little")
    return head[first : first + length].rstrip(b"\0 ").decode("ascii", "replace")
