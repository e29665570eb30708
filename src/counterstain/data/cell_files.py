"""The cells of a slide on disk: `cells.zarr`.

Which cells are observed, the thumbnail, the run-length filter's scores; in the attributes, the grid's frame, the slide, and
how cells were chosen. It appears whole or not at all, under the hash of what it was made from.

Shapes: N observed cells, H W rows and columns of cells; the thumbnail has 2H x 2W pixels.
Does not know: how cells are chosen, features.
"""

import hashlib
import shutil
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain.data.encoded import EncodedSlide
from counterstain.errors import InputError, StaleResultError
from counterstain.files import existing, settings_hash
from counterstain.geometry import Frame, Point, Size
from counterstain.results import SlideRecord

CELLS = "cells.zarr"

_SAME_SIZE = 1.2  # patches of "20x" are 256 pixels of 0.45 to 0.53 um, and pass for one size in every tool

_FORMAT, _VERSION = "counterstain.cells", 1

_OF_ONE_SLIDE = (
    "cell_um",
    "run_threshold",
    "outline_hash",
)  # what differs between slides whose cells were chosen alike


@dataclass(frozen=True, eq=False)
class CellGrid:
    """Which cells of a slide are looked at.

    Args:
        frame: A pixel of it is a cell; its size is the grid's.
        observed_HW: (H, W) bool.
        cell_um: Width and height of a cell.
        inputs_hash: Of the slide and of how its cells were chosen.
        thumbnail_HWC: (2H, 2W, 3) uint8; None where no slide was at hand.
        run_scores_HW: (H, W) float32, the run-length filter's scores; None where it was not used.
        slide: What the cells were cut from; None where no slide was at hand.
        chosen: How the cells were chosen, plain values.
    """

    frame: Frame
    observed_HW: npt.NDArray[np.bool_]
    cell_um: float
    inputs_hash: str
    thumbnail_HWC: npt.NDArray[np.uint8] | None = None
    run_scores_HW: npt.NDArray[np.float32] | None = None
    slide: SlideRecord | None = None
    chosen: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def cells_N2(self) -> npt.NDArray[np.int32]:  # noqa: N802
        """(N, 2) int32: row and column of the observed cells, row by row."""
        return np.argwhere(self.observed_HW).astype(np.int32)

    def corners(self) -> npt.NDArray[np.float64]:
        """(N, 2) float64: the level-0 (x, y) of the left upper corner of each observed cell."""
        frame = self.frame
        scale, origin = (frame.downsample_x, frame.downsample_y), (frame.origin.x, frame.origin.y)
        corners: npt.NDArray[np.float64] = self.cells_N2[:, ::-1] * np.array(scale) + np.array(origin)
        return corners


def are_cells_alike(one_um: float, other_um: float) -> bool:
    """Whether cells of two sizes may stand in one set.

    Cells that were cut here have one size exactly; imported ones were cut by magnification, and differ by some per cent
    from scanner to scanner.
    """
    return max(one_um, other_um) <= _SAME_SIZE * min(one_um, other_um)


def write_cells(folder: Path, grid: CellGrid) -> None:
    """Writes `cells.zarr`; what lies there is replaced."""
    import zarr

    path, temporary = folder / CELLS, folder / f".{CELLS}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    attributes = {
        "format": _FORMAT,
        "version": _VERSION,
        "frame": asdict(grid.frame),
        "cell_um": grid.cell_um,
        "num_observed": int(np.count_nonzero(grid.observed_HW)),
        "inputs_hash": grid.inputs_hash,
        "slide": None if grid.slide is None else grid.slide.to_json(),
        "chosen": grid.chosen,
        "complete": False,
    }
    group = zarr.create_group(temporary, attributes=attributes, zarr_format=3)
    arrays = {"observed": grid.observed_HW, "run_scores": grid.run_scores_HW, "thumbnail": grid.thumbnail_HWC}
    for name, array in arrays.items():
        if array is not None:
            group.create_array(name, data=array)
    group.attrs.update({"complete": True})
    if path.exists():
        shutil.rmtree(path)
    temporary.replace(path)


def cells_hash(folder: Path) -> str | None:
    """The hash of the cells that lie in a folder; None where there are none, or nobody can tell."""
    import zarr

    if not (folder / CELLS).exists():
        return None
    try:
        attributes = dict(zarr.open_group(folder / CELLS, mode="r").attrs)
    except (FileNotFoundError, ValueError):
        return ""
    return str(attributes.get("inputs_hash", "")) if attributes.get("complete") else ""


def read_cells(folder: Path) -> CellGrid:
    """Reads `cells.zarr`.

    Raises:
        MissingFileError: When it is not there.
        InputError: When it is no grid of cells of this version.
    """
    import zarr

    path = existing(folder / CELLS, "an encoded slide's cells")
    try:
        group = zarr.open_group(path, mode="r")
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{path} is no Zarr group. Encode the slide again.") from error
    attributes: dict[str, Any] = dict(group.attrs)
    is_ours = attributes.get("format") == _FORMAT and attributes.get("version") == _VERSION
    if not is_ours or not attributes.get("complete"):
        raise InputError(f"{path} holds no cells of version {_VERSION}. Encode the slide again.")

    def array(name: str) -> Any:
        return np.asarray(group[name][...]) if name in group else None

    frame, slide = attributes["frame"], attributes["slide"]
    return CellGrid(
        frame=Frame(Point(**frame["origin"]), frame["downsample_x"], frame["downsample_y"], Size(**frame["size"])),
        observed_HW=array("observed"),
        cell_um=attributes["cell_um"],
        inputs_hash=attributes["inputs_hash"],
        thumbnail_HWC=array("thumbnail"),
        run_scores_HW=array("run_scores"),
        slide=None if slide is None else SlideRecord.from_json(slide),
        chosen=attributes["chosen"],
    )


def how_chosen(folder: Path) -> dict[str, Any]:
    """How an encoded slide's cells were chosen, plain values: equal for slides whose cells were chosen alike.

    What is each slide's own is left out, and the size of a cell, which is compared by `are_cells_alike`. Imported cells say
    only that they are; made up ones say nothing.

    Raises:
        MissingFileError: When the slide is not there.
    """
    import zarr

    chosen: Any = zarr.open_group(existing(folder / CELLS, "an encoded slide's cells"), mode="r").attrs["chosen"]
    return {name: value for name, value in chosen.items() if name not in _OF_ONE_SLIDE}


def outline_hash(folder: Path) -> tuple[bool, str | None]:
    """Whether a slide's cells say what outline was written beside them, and its hash; None where none was."""
    import zarr

    if cells_hash(folder) in (None, ""):
        return False, None
    chosen: Any = zarr.open_group(folder / CELLS, mode="r").attrs["chosen"]
    return "outline_hash" in chosen, chosen.get("outline_hash")


def grid_size(folder: Path) -> Size:
    """The rows and columns of an encoded slide's grid, without reading it.

    Raises:
        MissingFileError: When it is not there.
    """
    import zarr

    size: Any = zarr.open_group(existing(folder / CELLS, "an encoded slide's cells"), mode="r").attrs["frame"]
    return Size(**size["size"])


def has_thumbnail(folder: Path) -> bool:
    """Whether an encoded slide has a thumbnail, without reading it.

    Raises:
        MissingFileError: When the slide is not there.
    """
    import zarr

    return "thumbnail" in zarr.open_group(existing(folder / CELLS, "an encoded slide's cells"), mode="r")


def are_cells_kept(folder: Path, inputs_hash: str, *, overwrite: bool = False) -> bool:
    """Whether the cells that lie in a folder are those of some inputs.

    Args:
        folder: Of the slide.
        inputs_hash: Of all that the cells hang on.
        overwrite: Whether cells of other inputs count as none.

    Raises:
        StaleResultError: When they are of others, or nobody can tell.
    """
    before = cells_hash(folder)
    if before is None or before == inputs_hash or overwrite:
        return before == inputs_hash
    raise StaleResultError(
        f"{folder / CELLS} was made of another slide, or with other settings of cells, than given now. Give another output "
        "folder, or pass --overwrite to replace it and what was made of it."
    )


def grid_of(slide: EncodedSlide, cell_um: float, record: SlideRecord | None = None) -> CellGrid:
    """The cells of an encoded slide whose cells were not chosen here: imported, or made up.

    Args:
        slide: Encoded.
        cell_um: Width and height of a cell.
        record: The slide that it stands for; None where none is at hand.
    """
    observed_HW, thumbnail_HWC = slide.observed, slide.thumbnail_HWC
    seen = [array_hash(np.packbits(observed_HW)), None if thumbnail_HWC is None else array_hash(thumbnail_HWC)]
    return CellGrid(
        frame=slide.frame,
        observed_HW=observed_HW,
        cell_um=cell_um,
        inputs_hash=settings_hash(slide.frame, cell_um, seen, None if record is None else record.content_hash),
        thumbnail_HWC=thumbnail_HWC,
        slide=record,
        chosen={"filter": "imported"},
    )


def array_hash(array: npt.NDArray[Any]) -> str:
    """A SHA-256 of what an array holds."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
