"""Memory for pixels: begun where decoders write it fastest, and used again as soon as nobody refers to it.

Does not know: what the pixels show.
"""

import math
from collections import OrderedDict
from threading import RLock
from weakref import finalize

import numpy as np
import numpy.typing as npt

from counterstain.slides.resample import Pixels

_STEP = 1 << 16  # bytes: so that memory of nearly the same length is used again
_ROOM = 32  # bytes more than are wanted: pixels begin somewhere in them


def decoder_start(raw: bytearray | npt.NDArray[np.uint8]) -> int:
    """Where in memory that is 32 bytes too long pixels best begin.

    Where rows begin at a multiple of 32 bytes, libjpeg-turbo writes them past the processor's caches: it takes 7 % longer,
    and whoever uses the pixels next has to fetch them.
    """
    address: int = np.frombuffer(raw, np.uint8).__array_interface__["data"][0]
    return (16 - address) % _ROOM


def decoder_memory(*shape: int) -> Pixels:
    """An uninitialised array of uint8 to decode into, begun at `decoder_start`."""
    count = math.prod(shape)
    raw = np.empty(count + _ROOM, np.uint8)
    start = decoder_start(raw)
    return raw[start : start + count].reshape(shape)


class Pool:
    """Memory for arrays, used again when nothing refers to an array or to a view of it any more.

    Args:
        most_free: Bytes that are kept for later at most.
    """

    def __init__(self, most_free: int) -> None:
        self._most_free, self._num_free = most_free, 0
        self._free: OrderedDict[int, list[tuple[bytearray, int]]] = OrderedDict()
        self._lock = RLock()  # an array may die anywhere, also while its own thread is in here

    def lease(self, *shape: int) -> Pixels:
        """An array of uint8; what it holds is not defined."""
        count = math.prod(shape)
        piece = self._taken(-(-max(count, 1) // _STEP) * _STEP)
        # its base is no array, so every view refers to it, and not to the memory
        array = np.frombuffer(piece[0], np.uint8, count, piece[1])
        finalize(array, self._give_back, piece).atexit = False
        return array.reshape(shape)

    def _taken(self, length: int) -> tuple[bytearray, int]:
        """Memory, and where to begin in it."""
        with self._lock:
            pieces = self._free.get(length)
            if pieces:
                self._num_free -= length
                return pieces.pop()  # what was given back last lies in the cache
        raw = bytearray(length + _ROOM)
        return raw, decoder_start(raw)

    def _give_back(self, piece: tuple[bytearray, int]) -> None:
        length = len(piece[0]) - _ROOM
        with self._lock:
            self._free.setdefault(length, []).append(piece)
            self._free.move_to_end(length)
            self._num_free += length
            while self._num_free > self._most_free and self._free:
                oldest = next(iter(self._free))  # the length that was given back longest ago: others are wanted now
                if self._free[oldest]:
                    self._num_free -= oldest
                    del self._free[oldest][0]
                else:
                    del self._free[oldest]


POOL = Pool(most_free=32 << 20)
"""Of all scans of a process: fresh memory would cost a fifth of the time that decoding takes."""
