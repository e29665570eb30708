"""The files of a map's Zarr arrays, written directly: a chunk of bytes as Zstandard, and several of them as one shard.

Zarr's own writing takes three times as long as compression does, most of it in comparing chunks with the value that fills
empty ones. Who paints a map knows which chunks are empty.

Source: Zarr core specification, version 3, and its codec "sharding_indexed" (the index at the end, of little-endian uint64
offsets and lengths, closed by a CRC-32C).
Does not know: what the arrays mean.
"""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from imagecodecs import zstd_encode

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected

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
