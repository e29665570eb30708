"""A slide's map on disk while it is being made: `map.zarr`, its progress, and whether it may be reused.

Probabilities are stored as shards of one chunk per class: one file for a square of the map, and a reader that wants one
class decodes one class. Squares without tissue have no file. Each file is written whole and renamed; how many bands are
finished is written after their pixels. So a kill leaves a map whose finished bands are right.

Does not know: slides, models, how a map is made.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from counterstain.errors import StaleResultError
from counterstain.files import make_folder, read_json
from counterstain.geometry import Size
from counterstain.infer.chunks import replace_file, write_chunk, write_shard
from counterstain.results import UNCOVERED, SlideMap

_ZSTD_LEVEL = 1  # 3 takes twice as long for 2 % less


@dataclass(frozen=True)
class Standing:
    """What lies where a map is to be written.

    Args:
        bands_done: How many bands are finished; None where there is no map.
        is_complete: Whether all of them are.
    """

    bands_done: int | None
    is_complete: bool


def standing(
    path: Path, inputs_hash: str, differing: Callable[[], Sequence[str]] = tuple, *, overwrite: bool = False
) -> Standing:
    """What lies at `path`, when it was made of the same inputs.

    Args:
        path: The Zarr group.
        inputs_hash: Of everything that goes into the map.
        differing: Asked for what differs, in words, where the inputs are others.
        overwrite: Whether a map of other inputs counts as none.

    Raises:
        StaleResultError: When it was made of others, or is no map.
    """
    import zarr

    if not path.exists():
        return Standing(None, is_complete=False)
    try:
        attributes = dict(zarr.open_group(path, mode="r").attrs)
    except (FileNotFoundError, ValueError):
        attributes = {}
    if attributes.get("inputs_hash") == inputs_hash:
        return Standing(int(attributes["bands_done"]), bool(attributes["complete"]))
    if overwrite:
        return Standing(None, is_complete=False)
    told = "; ".join(differing())
    raise StaleResultError(
        f"{path} was made of another slide, model, tissue or other settings than given now{told and f' ({told})'}. Give "
        "another output folder, or pass --overwrite to replace it."
    )


class MapStore:
    """A map that is being written.

    Args:
        path: The Zarr group.
    """

    def __init__(self, path: Path) -> None:
        import zarr

        self._path = path
        label: Any = zarr.open_array(path / "label", mode="r")
        self._size, self._chunk_px = Size.of(label), int(label.chunks[0])

    @classmethod
    def create(cls, result: SlideMap, chunk_px: int) -> Self:
        """An empty map at `result.path`; what lies there is replaced."""
        import zarr

        size, num_classes = result.frame.size, len(result.classes)
        temporary = result.path.with_name(f".{result.path.name}")
        for leftover in (temporary, result.path):
            _remove(leftover)
        make_folder(result.path.parent)
        group = zarr.create_group(
            temporary, attributes={**result.attributes(), "bands_done": 0, "complete": False}, zarr_format=3
        )
        codec = zarr.codecs.ZstdCodec(level=_ZSTD_LEVEL)
        group.create_array(
            "probability",
            shape=(num_classes, *size.shape),
            dtype="float16",
            chunks=(1, chunk_px, chunk_px),
            shards=(num_classes, chunk_px, chunk_px),
            fill_value=np.nan,
            compressors=codec,
            dimension_names=("class", "y", "x"),
        )
        group.create_array(
            "label",
            shape=size.shape,
            dtype="uint8",
            chunks=(chunk_px, chunk_px),
            fill_value=UNCOVERED,
            compressors=codec,
            dimension_names=("y", "x"),
        )
        temporary.replace(result.path)
        return cls(result.path)

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """A map that was interrupted; files that were being written then are removed."""
        for partial in path.rglob("*.partial"):
            partial.unlink()
        return cls(path)

    def write(self, x: int, y: int, probability_CHW: npt.NDArray[np.float16], label_HW: npt.NDArray[np.uint8]) -> None:
        """Stores a chunk: at column x and row y, whole but at the edges of the map. One without a label is left out."""
        chunk_px = self._chunk_px
        expected = (min(chunk_px, self._size.height - y), min(chunk_px, self._size.width - x))
        assert x % chunk_px == y % chunk_px == 0, "chunks are stored whole"
        assert label_HW.shape == expected, "chunks are stored whole"
        if (label_HW == UNCOVERED).all():
            return
        if expected != (chunk_px, chunk_px):
            beyond = [(0, chunk_px - length) for length in expected]
            probability_CHW = np.pad(probability_CHW, [(0, 0), *beyond], constant_values=np.nan)
            label_HW = np.pad(label_HW, beyond, constant_values=UNCOVERED)
        row, column = str(y // chunk_px), str(x // chunk_px)
        shard = [one[None] for one in probability_CHW]
        write_shard(self._path / "probability" / "c" / "0" / row / column, shard, _ZSTD_LEVEL)
        write_chunk(self._path / "label" / "c" / row / column, label_HW, _ZSTD_LEVEL)

    def mark(self, bands_done: int, *, is_complete: bool) -> None:
        """Notes how many bands are stored."""
        tree = read_json(self._path / "zarr.json")
        tree["attributes"] |= {"bands_done": bands_done, "complete": is_complete}
        replace_file(self._path / "zarr.json", [json.dumps(tree, indent=2, allow_nan=False).encode()])


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
