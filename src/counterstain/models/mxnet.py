"""MXNet's `.params` files as named tensors, without MXNet, whose last release does not run with the numpy of today.

A file is a list of arrays, then a list of their names, little endian throughout:

    u64 0x112 | u64 0 | u64 count | arrays | u64 count | names, each u64 length and UTF-8

An array begins with a u32 that tells its layout, from old to new:

    the number of sides itself     its sides as u32                                     until 2017
    0xF993FAC8                     u32 number of sides, sides as i64
    0xF993FAC9                     i32 storage (0 is dense), then as above
    0xF993FACA                     the same, of an MXNet in which no sides mean one number; -1 sides mean nothing

then i32 device type, i32 device number, i32 type of number, and the numbers in C order. Of an array of nothing, no more is
stored than its sides.

A damaged file is refused at the first thing that can't be, with its byte: no size in it is believed before it is compared
with what is left of the file.

Does not know: which network the tensors belong to.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from counterstain.errors import WeightsError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_LIST = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_MOST_SIDES = 32  # of an array in MXNet; a first number above it is no old array's
_TYPES = ("<f4", "<f8", "<f2", "<u1", "<i4", "<i1", "<i8")


@dataclass
class _Cursor:
    """Where reading stands; every byte is taken through it.

    Args:
        path: For messages.
        bytes_N: The file.
        at: The next byte.
    """

    path: Path
    bytes_N: "npt.NDArray[np.uint8]"
    at: int = 0

    def take(self, length: int, what: str) -> "npt.NDArray[np.uint8]":
        """The next bytes, as a view."""
        left = len(self.bytes_N) - self.at
        if length > left:
            raise self.refusal(f"{what} should take {length} bytes, and {left} are left")
        self.at += length
        return self.bytes_N[self.at - length : self.at]

    def number(self, kind: Literal["<I", "<i", "<q", "<Q"], what: str) -> int:
        """The next whole number, of a kind as `struct` writes it."""
        (value,) = struct.unpack(kind, self.take(struct.calcsize(kind), what).data)
        return int(value)

    def refusal(self, reason: str) -> WeightsError:
        """The error to raise here."""
        return WeightsError(f"{self.path} is no MXNet parameter file: at byte {self.at}, {reason}. Fetch it again.")


def read_mxnet(path: Path) -> dict[str, Tensor]:
    """The arrays of a `.params` file under their names, "arg:" or "aux:" in front as they stand there.

    The tensors are views of the file, paged in as they are looked at: a file of 400 MB takes no memory of its own. What is
    written into them stays in memory.

    Raises:
        WeightsError: When it is damaged, cut short, longer than it says, or holds sparse arrays or arrays without names.

    Source: the file format of Apache MXNet 0.9 to 1.9 (`NDArray::Load`).
    """
    import numpy as np

    is_empty = path.stat().st_size == 0  # nothing can't be mapped
    cursor = _Cursor(path, np.empty(0, np.uint8) if is_empty else np.memmap(path, np.uint8, "c").view(np.ndarray))
    if cursor.number("<Q", "the first number") != _LIST:
        raise cursor.refusal(f"the file does not begin with {_LIST:#x}")
    cursor.take(8, "the reserved number")
    count = cursor.number("<Q", "the number of arrays")
    tensors = [_read_array(cursor, f"array {index + 1} of {count}") for index in range(count)]
    names = _read_names(cursor, count)
    if cursor.at != len(cursor.bytes_N):
        raise cursor.refusal(f"the list ends, and {len(cursor.bytes_N) - cursor.at} bytes follow")
    return dict(zip(names, tensors, strict=True))


def _read_array(cursor: _Cursor, what: str) -> Tensor:
    layout = cursor.number("<I", what)
    if layout in (_V2, _V3) and (storage := cursor.number("<i", f"the storage of {what}")) != 0:
        raise cursor.refusal(f"{what} is sparse (storage {storage}), and only dense ones can be read")
    sides = _read_sides(cursor, layout, what)
    if sides is None:
        return torch.empty(0)
    cursor.take(8, f"the device of {what}")
    kind = cursor.number("<i", f"the type of {what}")
    if not 0 <= kind < len(_TYPES):
        raise cursor.refusal(f"{what} has numbers of type {kind}, and 0 to {len(_TYPES) - 1} are known")
    size = math.prod(sides) * int(_TYPES[kind][-1])
    values_N = cursor.take(size, f"{what}, of {' x '.join(map(str, sides)) or 'one number'},").view(_TYPES[kind])
    # an array of bytes may leave what follows between the addresses of its numbers, which torch does not expect
    aligned_N = values_N if values_N.flags.aligned else values_N.copy()
    return torch.from_numpy(aligned_N).reshape(sides)


def _read_sides(cursor: _Cursor, layout: int, what: str) -> tuple[int, ...] | None:
    """The shape of an array; None when it is one of nothing."""
    is_old = layout not in (_V1, _V2, _V3)
    number = layout if is_old else cursor.number("<i", f"the sides of {what}")
    if number == (-1 if layout == _V3 else 0):
        return None
    if not 0 <= number <= _MOST_SIDES:
        problem = f"begins with {layout:#x}, which no known layout does" if is_old else f"has {number} sides"
        raise cursor.refusal(f"{what} {problem}")
    sides = tuple(cursor.number("<I" if is_old else "<q", f"the sides of {what}") for _ in range(number))
    if min(sides, default=1) < 1:
        raise cursor.refusal(f"{what} has sides of {sides}")
    return sides


def _read_names(cursor: _Cursor, count: int) -> list[str]:
    given = cursor.number("<Q", "the number of names")
    if given != count:
        raise cursor.refusal(f"{count} arrays have {given} names")
    names: list[str] = []
    for index in range(count):
        what = f"name {index + 1} of {count}"
        encoded = cursor.take(cursor.number("<Q", what), what).tobytes()
        try:
            name = encoded.decode()
        except UnicodeDecodeError as error:
            raise cursor.refusal(f"{what} is no text") from error
        if name in names:
            raise cursor.refusal(f"two arrays are called {name!r}")
        names.append(name)
    return names
