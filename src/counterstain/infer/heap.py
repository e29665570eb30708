"""Gives memory that was freed back to the system.

glibc keeps freed blocks of less than 32 MiB for later, and before version 2.38 it seldom finds them again for aligned
requests, which all of torch's are (its bug 14581): beside the tiles that a reader's cache keeps, a network's activations
made the heap of a prediction grow from 0.1 to 1 GiB. So it is trimmed whenever it has grown, as long as that takes no more
than a twentieth of the time.

The other way, to have glibc return large blocks at once (M_MMAP_THRESHOLD), made a ResNet-18 half as slow again, since then
each activation is mapped and cleared anew.

Does not know: what the memory was for.
"""

import ctypes
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

_STATM = Path("/proc/self/statm")
_GROWN_BYTES = 64 << 20
_SHARE_OF_TIME = 0.05


class HeapTrimmer:
    """Trims the heap when the process has grown. Does nothing where the C library is not glibc on Linux."""

    def __init__(self) -> None:
        self._trim = _glibc_trim()
        self._low_bytes, self._not_before_s = 0, 0.0

    def when_grown(self) -> None:
        """Gives back what is free, when there is much more in memory than the last time."""
        if self._trim is None or time.monotonic() < self._not_before_s:
            return
        if _resident_bytes() > self._low_bytes + _GROWN_BYTES:
            self.now()

    def now(self) -> None:
        """Gives back what is free, after something large has ended. Takes milliseconds."""
        if self._trim is None:
            return
        start = time.monotonic()
        self._trim(0)
        end = time.monotonic()
        self._low_bytes, self._not_before_s = _resident_bytes(), end + (end - start) / _SHARE_OF_TIME


def _resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _glibc_trim() -> Callable[[int], int] | None:
    if platform.libc_ver()[0] != "glibc" or not _STATM.exists():
        return None
    trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    return trim
