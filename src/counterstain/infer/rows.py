"""Rows of numbers on their way to disk: a plain file that grows by whole chunks and outlives a kill.

The file's length says how many rows are done: a chunk is flushed to disk before the next is begun, and what a kill left of
an unfinished one is cut off when the file is opened again. It carries the hash of its inputs in its name, so that rows of
other inputs are never taken for a beginning.

Does not know: what the rows are.
"""

import os
import re
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from counterstain.files import make_folder


class PartialRows:
    """A file of float16 rows that is being written; a context, within which it is open.

    Args:
        target: What the rows are to become; the partial file lies beside it.
        inputs_hash: Of all that the rows hang on.
        shape: (rows, channels) when all is done.
        chunk: Rows that are written at once.
    """

    def __init__(self, target: Path, inputs_hash: str, shape: tuple[int, int], chunk: int) -> None:
        self.path = target.with_name(f".{target.stem}.{inputs_hash[:16]}.rows")
        self._others = re.compile(re.escape(f".{target.stem}.") + "[0-9a-f]{16}" + re.escape(".rows"))
        self._shape, self._chunk = shape, chunk
        self._row_bytes = 2 * shape[1]

    def __enter__(self) -> Self:
        """Opens the file, and removes those of other inputs."""
        make_folder(self.path.parent)
        for other in self.path.parent.iterdir():
            if other != self.path and self._others.fullmatch(other.name):  # names of encoders have dots in them
                other.unlink(missing_ok=True)
        self._file = self.path.open("ab")
        self._file.truncate(self.num_done * self._row_bytes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def num_done(self) -> int:
        """Rows of whole chunks in the file."""
        num_rows = min(self.path.stat().st_size // self._row_bytes, self._shape[0])
        return num_rows if num_rows == self._shape[0] else num_rows // self._chunk * self._chunk

    def append(self, rows_NC: npt.NDArray[np.float16]) -> None:
        """Writes the next chunk, to the disk itself."""
        self._file.write(np.ascontiguousarray(rows_NC).data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def rows(self) -> npt.NDArray[np.float16]:
        """(rows, channels) float16, all of them, in the file."""
        assert self.num_done == self._shape[0], "rows are taken when all are done"
        return np.memmap(self.path, np.float16, "r", shape=self._shape)

    def remove(self) -> None:
        """Deletes the file, once the rows are where they belong."""
        self._file.close()
        self.path.unlink(missing_ok=True)
