"""Decoded patches on disk: one file of pixels, mapped into memory, that every process and every later run reads from.

A row is filled when its patch is first read, so nothing is decoded beforehand and nothing twice. The file's name follows
from the images (names, lengths, times of change, order), the size they are read at and how they are read: an image that
was changed has another file. A row's mark is the checksum of its bytes and is written after them. What a kill, a full disk
or a power cut left half done, and what was damaged since, has no mark that fits, and is decoded anew.

    marks_N uint64 | pixels_NCHW uint8

Does not know: labels, masks, how an image is decoded.
"""

import math
import os
import shutil
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL

from counterstain.cache import cache_folder, drop_oldest, mark_used
from counterstain.errors import InputError
from counterstain.files import settings_hash

Pixels = npt.NDArray[np.uint8]

_GIB = 4.0  # of one data set: some 28 000 patches of 224 px
_FOLDER_HOLDS = 2  # data sets of the largest size
_FREE_SHARE = 0.5  # of the free disk that a data set may take
_READING = 1  # raise it when the same file gives other pixels
_MARK = 8  # bytes
_MARKED = 1 << 32  # beside a checksum, which may itself be 0


class DecodedPatches:
    """Rows of pixels, each empty until it is put.

    Several processes may read and fill the same file: they put the same bytes.

    Args:
        path: The file, as `open_decoded` made it.
        num: Rows.
        side: Width and height, px.
    """

    def __init__(self, path: Path, num: int, side: int) -> None:
        self._path, self._num, self._side = path, num, side
        self._is_checked = np.zeros(num, np.bool_)
        self._mapped: tuple[npt.NDArray[np.uint64], Pixels] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without what is mapped, which would be copied whole to a process that reads."""
        return {**self.__dict__, "_mapped": None}

    def get(self, index: int) -> Pixels | None:
        """A row's pixels.

        Returns:
            (3, side, side) uint8, a copy; None when the row is empty or damaged.
        """
        maps = self._maps()
        if maps is None:
            return None
        marks_N, pixels_NCHW = maps
        mark = int(marks_N[index])
        if not mark:
            return None
        pixels_CHW: Pixels = pixels_NCHW[index].copy()
        if not self._is_checked[index]:
            if mark != _mark_of(pixels_CHW):
                return None
            self._is_checked[index] = True
        return pixels_CHW

    def put(self, index: int, pixels_CHW: Pixels) -> None:
        """Fills a row, unless the disk is full or the file was removed: then it stays empty.

        Args:
            index: Of the row.
            pixels_CHW: (3, side, side) uint8, contiguous.
        """
        assert pixels_CHW.shape == (3, self._side, self._side), "a row has one size"
        # Written, not assigned to the mapping: on a full disk that would end the process.
        with suppress(OSError), self._path.open("r+b") as file:
            file.seek(_MARK * self._num + index * pixels_CHW.nbytes)
            file.write(pixels_CHW.data)
            file.flush()
            file.seek(_MARK * index)
            file.write(np.uint64(_mark_of(pixels_CHW)).tobytes())

    def _maps(self) -> tuple[npt.NDArray[np.uint64], Pixels] | None:
        if self._mapped is None:
            with suppress(OSError, ValueError):  # removed, or cut short, since it was opened
                shape = (self._num, 3, self._side, self._side)
                marks_N = np.memmap(self._path, np.uint64, "r", shape=(self._num,))
                pixels_NCHW = np.memmap(self._path, np.uint8, "r", _MARK * self._num, shape)
                self._mapped = np.asarray(marks_N), np.asarray(pixels_NCHW)
        return self._mapped


def open_decoded(images: Sequence[Path], side: int) -> DecodedPatches | None:
    """The file of decoded pixels of these images, in this order; made when it is not there.

    Args:
        images: Their files. None is opened.
        side: Width and height that they are read at, px.

    Returns:
        None where it does not fit, may not be written, or an image is missing.

    Raises:
        InputError: When the environment variable COUNTERSTAIN_PATCH_CACHE_GIB is no number.
    """
    most = _most_bytes()
    length = len(images) * (_MARK + 3 * side**2)
    if length > most:
        return None
    try:
        path = cache_folder("patches") / f"{_key(images, side)}.pixels"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # patients' tissue: this user's alone
        if not path.exists() and not _has_room(path.parent, length):
            return None
        with path.open("ab") as file:
            # Also sets right what was cut short: the marks of rows that are lost no longer fit.
            if os.fstat(file.fileno()).st_size != length:
                file.truncate(length)
    except OSError:
        return None
    mark_used(path)
    drop_oldest(path.parent, max(length, int(_FOLDER_HOLDS * most)))
    return DecodedPatches(path, len(images), side)


def _key(images: Sequence[Path], side: int) -> str:
    """Another one for other images; the same where only their folder was renamed or moved on its disk.

    The time at which a file's entry was changed is no copying program's to set: it tells an image that was replaced by one
    of the same length and date.
    """
    facts = []
    for image in images:
        state = image.stat()
        facts.append((image.name, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return settings_hash(facts, side, _READING, PIL.__version__)


def _has_room(folder: Path, length: int) -> bool:
    return length <= _FREE_SHARE * shutil.disk_usage(folder).free


def _most_bytes() -> float:
    given = os.environ.get("COUNTERSTAIN_PATCH_CACHE_GIB", str(_GIB))
    try:
        most = float(given)
    except ValueError:
        most = math.nan
    if not most >= 0:
        raise InputError(
            f"COUNTERSTAIN_PATCH_CACHE_GIB was given as {given!r}; a number of GiB was expected. 0 keeps no patches."
        )
    return most * (1 << 30)


def _mark_of(pixels: Pixels) -> int:
    return _MARKED | zlib.crc32(pixels.data)
