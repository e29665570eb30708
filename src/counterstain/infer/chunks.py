"""The files of a map's Zarr arrays, written and read directly: a chunk of bytes as Zstandard, several of them as one shard.

Zarr's own writing takes three times as long as compression does, most of it in comparing chunks with the value that fills
empty ones. Who paints a map knows which chunks are empty. Its reading takes several times as long as decompression does,
most of it in handing chunks from thread to thread. Arrays that are stored otherwise than here are left to Zarr.

Source: Zarr core specification, version 3, and its codec "sharding_indexed" (the index at the end, of little-endian uint64
offsets and lengths, closed by a CRC-32C).
Does not know: what the arrays mean.
"""

import json
import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from imagecodecs import zstd_decode, zstd_encode

from counterstain.errors import StaleResultError

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected

_KEPT_BYTES = 32 << 20  # of chunks that were read last
_ZSTD: Any = [{"name": "bytes"}, {"name": "zstd"}]
_INDEX: Any = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]

_MISSING = (1 << 64) - 1  # offset and length of a chunk that a shard does not have

Chunk = npt.NDArray[Any]


def write_chunk(path: Path, chunk: Chunk, level: int) -> None:
    """Writes a chunk.

    Args:
        path: The file; its folder is made.
        chunk: In the array's type, little-endian.
        level: Of Zstandard.
    """
    replace_file(path, [_compressed(chunk, level)])


def write_shard(path: Path, chunks: Sequence[Chunk], level: int) -> None:
    """Writes a shard of chunks in the order of the array's first axis.

    Args:
        path: The file; its folder is made.
        chunks: As `write_chunk` takes them; none of them empty.
        level: Of Zstandard.
    """
    pieces = [_compressed(chunk, level) for chunk in chunks]
    lengths = [len(piece) for piece in pieces]
    offsets = np.cumsum([0, *lengths[:-1]])
    index = np.stack([offsets, lengths], axis=1).astype("<u8").tobytes()
    replace_file(path, [*pieces, index, crc32c(index).to_bytes(4, "little")])


def opened(array: Any) -> Any:
    """An array to read boxes from, faster than Zarr does where it is stored as here; else itself.

    Args:
        array: A `zarr.Array` of (H, W) or (C, H, W).
    """
    folder = Path(str(array.store_path.store.root)) / array.store_path.path
    tree = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    return _Stored(folder, array) if _is_ours(tree) else array


def _is_ours(tree: dict[str, Any]) -> bool:
    shape, chunk = tree["shape"], tree["chunk_grid"]["configuration"]["chunk_shape"]
    codecs = tree["codecs"]
    if len(shape) == 3 and len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
        about = codecs[0]["configuration"]
        is_whole = chunk[0] == shape[0] and about["chunk_shape"] == [1, *chunk[1:]]
        if not (is_whole and _same(about["index_codecs"], _INDEX) and about.get("index_location", "end") == "end"):
            return False
        codecs = about["codecs"]
    elif len(shape) != 2:
        return False
    keys = {"name": "default", "configuration": {"separator": "/"}}
    return _same(codecs, _ZSTD) and tree["chunk_key_encoding"] == keys and not tree.get("storage_transformers")


class _Stored:
    """An array of chunks as they are written here.

    Args:
        folder: Of the array.
        array: As Zarr opened it.
    """

    def __init__(self, folder: Path, array: Any) -> None:
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)
        self._folder, self._array, self._fill = folder, array, array.fill_value
        self._chunk: tuple[int, int] = tuple(array.chunks[-2:])
        self._kept: OrderedDict[tuple[int, ...], Chunk | None] = OrderedDict()
        self._most_kept = max(4, _KEPT_BYTES // (math.prod(self._chunk) * self.dtype.itemsize))

    def __getitem__(self, key: Any) -> Chunk:
        """A box: slices of rows and columns without steps, and before them the class, or a slice of all of them."""
        *planes, rows, columns = key
        box = [slice(*one.indices(length)[:2]) for one, length in zip((rows, columns), self.shape[-2:], strict=True)]
        if not planes:
            return self._box((), box)
        if isinstance(planes[0], slice):
            return np.stack([self._box((number,), box) for number in range(self.shape[0])[planes[0]]])
        return self._box((int(planes[0]),), box)

    def _box(self, plane: tuple[int, ...], box: list[slice]) -> Chunk:
        (high, wide), (rows, columns) = self._chunk, box
        made: Chunk = np.full((rows.stop - rows.start, columns.stop - columns.start), self._fill, self.dtype)
        for row in range(rows.start // high, -(-rows.stop // high)):
            for column in range(columns.start // wide, -(-columns.stop // wide)):
                chunk = self._read((*plane, row, column))
                if chunk is None:
                    continue
                top, bottom = max(rows.start, row * high), min(rows.stop, (row + 1) * high)
                left, right = max(columns.start, column * wide), min(columns.stop, (column + 1) * wide)
                part = chunk[top - row * high : bottom - row * high, left - column * wide : right - column * wide]
                made[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] = part
        return made

    def _read(self, place: tuple[int, ...]) -> Chunk | None:
        """A chunk; None where there is none."""
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        coded = self._coded(place)
        chunk = None
        if coded is not None:
            length = math.prod(self._chunk) * self.dtype.itemsize
            chunk = np.frombuffer(zstd_decode(coded, out=length), self.dtype).reshape(self._chunk)
        self._kept[place] = chunk
        if len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)
        return chunk

    def _coded(self, place: tuple[int, ...]) -> bytes | None:
        *plane, row, column = place
        try:
            file = (self._folder / "c" / "/".join(map(str, [*("0" for _ in plane), row, column]))).open("rb")
        except FileNotFoundError:
            return None
        with file:
            if not plane:
                return file.read()
            length = 16 * self.shape[0]
            file.seek(-length - 4, os.SEEK_END)
            index, checksum = file.read(length), file.read(4)
            if crc32c(index) != int.from_bytes(checksum, "little"):
                raise StaleResultError(
                    f"{file.name} is damaged: the index at its end has another checksum than it says. Remove the map and "
                    "predict again."
                )
            offset, num_bytes = np.frombuffer(index, "<u8").reshape(-1, 2)[plane[0]].tolist()
            if offset == num_bytes == _MISSING:
                return None
            file.seek(offset)
            return file.read(num_bytes)


def _same(codecs: Any, expected: Any) -> bool:
    """Whether codecs are these; what else is said of one that has no settings here does not change how it is read."""
    return len(codecs) == len(expected) and all(
        one["name"] == other["name"]
        and other.get("configuration", one.get("configuration")) == one.get("configuration")
        for one, other in zip(codecs, expected, strict=True)
    )


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) of a few bytes."""
    table, value = _crc_table(), 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        return value

    return tuple(map(entry, range(256)))


def _compressed(chunk: Chunk, level: int) -> bytes:
    contiguous: Any = np.ascontiguousarray(chunk)
    return bytes(zstd_encode(contiguous, level))


def replace_file(path: Path, pieces: Sequence[bytes]) -> None:
    """Writes a file whole beside its path and renames it; killed, it leaves one that ends in `.partial`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.writelines(pieces)
    partial.replace(path)
