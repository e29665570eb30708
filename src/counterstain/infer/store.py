"""A slide's map on disk while it is being made: `map.zarr`, its progress, and whether it may be reused.

Probabilities are stored as shards of one chunk per class: one file for a square of the map, and a reader that wants one
class decodes one class. Squares without tissue have no file. Zarr writes each file whole and renames it; how many bands are
finished is written after their pixels. So a kill leaves a map whose finished bands are right.

Does not know: slides, models, how a map is made.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from counterstain.errors import StaleResultError
from counterstain.results import UNCOVERED, SlideMap

if TYPE_CHECKING:
    pass

_ZSTD_LEVEL = 3


@dataclass(frozen=True)
class Standing:
    """What lies where a map is to be written.

    Args:
        bands_done: How many bands are finished; None where there is no map.
        is_complete: Whether all of them are.
    """

    bands_done: int | None
    is_complete: bool


def standing(path: Path, inputs_hash: str, *, overwrite: bool = False) -> Standing:
    """What lies at `path`, when it was made of the same inputs.

    Args:
        path: The Zarr group.
        inputs_hash: Of everything that goes into the map.
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
    raise StaleResultError(
        f"{path} was made of another slide, model, tissue or other settings than given now. Give another output folder, or "
        "pass --overwrite to replace it."
    )


class MapStore:
    """A map that is being written.

    Args:
        path: The Zarr group.
    """

    def __init__(self, path: Path) -> None:
        import zarr

        self._group: zarr.Group = zarr.open_group(path, mode="r+")
        self._probability: Any = self._group["probability"]
        self._label: Any = self._group["label"]

    @classmethod
    def create(cls, result: SlideMap, chunk_px: int) -> Self:
        """An empty map at `result.path`; what lies there is replaced."""
        import zarr

        size, num_classes = result.frame.size, len(result.classes)
        temporary = result.path.with_name(f".{result.path.name}")
        for leftover in (temporary, result.path):
            _remove(leftover)
        result.path.parent.mkdir(parents=True, exist_ok=True)
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
        """Stores whole chunks, from column x and row y on."""
        height, width = label_HW.shape
        self._probability[:, y : y + height, x : x + width] = probability_CHW
        self._label[y : y + height, x : x + width] = label_HW

    def mark(self, bands_done: int, *, is_complete: bool) -> None:
        """Notes how many bands are stored."""
        self._group.attrs.update({"bands_done": bands_done, "complete": is_complete})


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
