"""Encoded slides on disk, a folder for each slide.

    FOLDER/cells.zarr              which cells of the slide, its thumbnail, how the cells were chosen
    FOLDER/features/ENCODER.h5     an embedding for each of them, in TRIDENT's dialect with more attributes

Cells hang on the slide and on how they are chosen; features on the cells and on the encoder. Each file carries the hash of
what it was made from, so a new encoder leaves the cells as they are, and features of other cells are never read. Both
appear whole or not at all.

Features are float32 on disk, since readers of this dialect hand them to networks as they are; where they were computed as
float16 the lower bits are zero, compress away, and are left out again on reading.

Shapes: N observed cells, C channels, H W rows and columns of cells; the thumbnail has 2H x 2W pixels.
Does not know: how cells are chosen, what encodes them.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain.data.cell_files import (
    CELLS,
    CellGrid,
    are_cells_kept,
    array_hash,
    grid_of,
    read_cells,
    write_cells,
)
from counterstain.data.compression import compression_ratio
from counterstain.data.encoded import EncodedSlide
from counterstain.errors import InputError, MissingFileError, StaleResultError
from counterstain.files import atomic, settings_hash
from counterstain.geometry import Mpp
from counterstain.results import EncoderSpec, SlideRecord

FEATURES = "features"

_FORMAT, _VERSION = "counterstain.features", 1
_CHUNK_CELLS = 512
_UM_PER_PX_AT_1X = 10.0  # what tools count a magnification from: 40x is 0.25 um/px
_PAPER_LEVELS = 3  # thumbnails that DSNet stacks


@dataclass(frozen=True)
class FeatureHeader:
    """What a file of features says of itself.

    Args:
        path: The file.
        encoder: What made them.
        num_cells: N.
        inputs_hash: Of cells, encoder and precision.
        cells_hash: Of the cells that they belong to.
        cell_um: Width and height of a cell.
        compression: Values of the pixels that an encoder is shown for each of V and three thumbnails, as DSNet counts.
        compression_of_scan: Likewise of level 0's pixels.
    """

    path: Path
    encoder: EncoderSpec
    num_cells: int
    inputs_hash: str
    cells_hash: str
    cell_um: float
    compression: float
    compression_of_scan: float


def feature_path(folder: Path, encoder_name: str) -> Path:
    """Where the features of an encoder are kept; what no file can be called becomes a dash."""
    return folder / FEATURES / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', encoder_name)}.h5"


def write_features(
    folder: Path, features_NC: npt.NDArray[np.floating[Any]], grid: CellGrid, encoder: EncoderSpec, inputs_hash: str
) -> Path:
    """Writes the features of all observed cells, a block at a time into a dataset of known size; replaces what is there.

    A dense grid of former features, which other tools would read, goes.

    Args:
        folder: Of the slide.
        features_NC: (N, C) float16 or float32, in the order of `grid.cells_N2`; may lie in a file (`numpy.memmap`).
        grid: The cells.
        encoder: What made the features.
        inputs_hash: Of all that they hang on.

    Returns:
        The file.

    Raises:
        InputError: When they are not one row of `encoder.num_features` numbers for each observed cell.
    """
    import h5py

    num_cells, channels = len(grid.cells_N2), encoder.num_features
    if features_NC.shape != (num_cells, channels):
        raise InputError(
            f"Features of shape {features_NC.shape} were given for {num_cells} cells and an encoder of {channels} "
            "channels. Encode the slide again."
        )
    path = feature_path(folder, encoder.name)
    shutil.rmtree(path.with_suffix(".zarr"), ignore_errors=True)
    rows = max(1, min(_CHUNK_CELLS, num_cells))
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        features = file.create_dataset(
            "features",
            shape=(num_cells, channels),
            dtype="float32",
            chunks=(rows, channels),
            shuffle=True,
            compression="gzip",
            compression_opts=1,
        )
        for start in range(0, num_cells, rows):
            features[start : start + rows] = features_NC[start : start + rows]
        coords = file.create_dataset("coords", data=np.rint(grid.corners()).astype(np.int64), chunks=(rows, 2))
        file.create_dataset("cells", data=grid.cells_N2, chunks=(rows, 2))
        file.attrs.update(_file_attributes(grid, encoder, inputs_hash, str(features_NC.dtype)))
        coords.attrs.update(_coords_attributes(folder, grid, encoder))
        features.attrs.update(
            {
                "name": _name(folder, grid),
                "savetodir": str(path.parent),
                "encoder": encoder.name,
                "encoder_digest": encoder.digest,
                "encoder_licence": encoder.licence,
            }
        )
    return path


def _name(folder: Path, grid: CellGrid) -> str:
    return folder.name if grid.slide is None else Path(grid.slide.path).stem


def _file_attributes(grid: CellGrid, encoder: EncoderSpec, inputs_hash: str, precision: str) -> dict[str, Any]:
    cell_px = (grid.frame.downsample_x * grid.frame.downsample_y) ** 0.5
    of_scan = compression_ratio(_PAPER_LEVELS, encoder.num_features, cell_px, cell_px / 2)
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "inputs_hash": inputs_hash,
        "cells_hash": grid.inputs_hash,
        "cell_um": grid.cell_um,
        "precision": precision,
        "encoder": json.dumps(asdict(encoder)),
        "compression": compression_ratio(_PAPER_LEVELS, encoder.num_features),
        "compression_of_scan": of_scan,
    }


def _coords_attributes(folder: Path, grid: CellGrid, encoder: EncoderSpec) -> dict[str, Any]:
    """TRIDENT's, and the resolution exactly; what nobody knows is left out."""
    frame = grid.frame
    cell_px = (frame.downsample_x * frame.downsample_y) ** 0.5
    shown_px = encoder.input_px or round(cell_px)
    mpp = Mpp(grid.cell_um / frame.downsample_x, grid.cell_um / frame.downsample_y)
    attributes: dict[str, Any] = {
        "patch_size": shown_px,
        "patch_size_level0": round(cell_px),
        "level0_magnification": _UM_PER_PX_AT_1X / mpp.mean,
        "target_magnification": _UM_PER_PX_AT_1X * shown_px / grid.cell_um,
        "overlap": 0,
        "name": _name(folder, grid),
        "savetodir": str(folder),
        "mpp": (mpp.x, mpp.y),
        "unit": "px of level 0",
    }
    if grid.slide is not None:
        size = grid.slide.size
        attributes |= {"level0_width": size.width, "level0_height": size.height, "mpp_source": grid.slide.mpp_source}
    return attributes


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is no HDF5 file, or is damaged: {error}. Encode the slide again.") from error
    with file:
        if file.attrs.get("format") != _FORMAT or file.attrs.get("version") != _VERSION:
            raise InputError(
                f"{path} holds no features of version {_VERSION}. Encode the slide again, or import the file."
            )
        yield file


def read_header(folder: Path, encoder_name: str) -> FeatureHeader:
    """What an encoder's file of features says of itself, without reading them.

    Raises:
        MissingFileError: When the encoder did not encode this slide; the message names those that did.
        InputError: When the file is not ours or damaged.
    """
    path = feature_path(folder, encoder_name)
    if not path.exists():
        there = ", ".join(sorted(one.stem for one in (folder / FEATURES).glob("[!.]*.h5"))) or "none"
        raise MissingFileError(
            f"{folder} holds no features of encoder {encoder_name!r}; it has those of: {there}. Encode the slide first."
        )
    with _opened(path) as file:
        return _header_of(path, file)


def _header_of(path: Path, file: Any) -> FeatureHeader:
    attributes = file.attrs
    return FeatureHeader(
        path=path,
        encoder=EncoderSpec(**json.loads(attributes["encoder"])),
        num_cells=int(file["features"].shape[0]),
        inputs_hash=str(attributes["inputs_hash"]),
        cells_hash=str(attributes["cells_hash"]),
        cell_um=float(attributes["cell_um"]),
        compression=float(attributes["compression"]),
        compression_of_scan=float(attributes["compression_of_scan"]),
    )


def encoders_in(folder: Path) -> tuple[EncoderSpec, ...]:
    """What has encoded a slide, by file name.

    Raises:
        InputError: When a file is not ours or damaged.
    """
    found = []
    for path in sorted((folder / FEATURES).glob("[!.]*.h5")):
        with _opened(path) as file:
            found.append(_header_of(path, file).encoder)
    return tuple(found)


def read_encoded(folder: Path, encoder_name: str) -> EncodedSlide:
    """An encoded slide.

    Args:
        folder: Of the slide.
        encoder_name: As its specification names it.

    Raises:
        MissingFileError: When the slide was not encoded, or not by this encoder.
        InputError: When a file is not ours or damaged.
        StaleResultError: When the features belong to other cells than lie beside them.
    """
    grid = read_cells(folder)
    header = read_header(folder, encoder_name)
    if header.cells_hash != grid.inputs_hash or header.encoder.name != encoder_name:
        raise StaleResultError(
            f"{header.path} was made of other cells, or by another encoder, than {folder / CELLS}. Encode the slide again."
        )
    with _opened(header.path) as file:
        cells_N2 = file["cells"][...].astype(np.int32)
        features_NC = file["features"].astype(str(file.attrs["precision"]))[...]
    return EncodedSlide(features_NC, cells_N2, grid.frame, grid.thumbnail_HWC)


def write_encoded(
    folder: Path,
    slide: EncodedSlide,
    encoder: EncoderSpec,
    cell_um: float,
    record: SlideRecord | None = None,
    *,
    overwrite: bool = False,
) -> FeatureHeader:
    """Writes an encoded slide that was not made here cell by cell: imported, or made up.

    Args:
        folder: Of the slide.
        slide: What to write.
        encoder: What made the features.
        cell_um: Width and height of a cell.
        record: The slide that it stands for; None where none is at hand.
        overwrite: Whether other cells, or other features of this encoder, are replaced instead of refused.

    Raises:
        StaleResultError: When the folder holds others and `overwrite` is not set.
    """
    grid = grid_of(slide, cell_um, record)
    inputs_hash = settings_hash(grid.inputs_hash, encoder.digest, array_hash(slide.features_NC))
    if not are_cells_kept(folder, grid.inputs_hash, overwrite=overwrite):
        write_cells(folder, grid)
    if not are_features_kept(folder, encoder.name, inputs_hash, overwrite=overwrite):
        write_features(folder, slide.features_NC, grid, encoder, inputs_hash)
    return read_header(folder, encoder.name)


def are_features_kept(folder: Path, encoder_name: str, inputs_hash: str, *, overwrite: bool = False) -> bool:
    """Whether the features that lie in a folder are those of some inputs; likewise.

    Raises:
        StaleResultError: When they are of others, or nobody can tell.
    """
    path = feature_path(folder, encoder_name)
    if not path.exists():
        return False
    try:
        before = read_header(folder, encoder_name).inputs_hash
    except InputError:  # no file of ours, or a damaged one
        before = None
    if before == inputs_hash or overwrite:
        return before == inputs_hash
    raise StaleResultError(
        f"{path} was made of another slide, other cells, other weights of the encoder or in another precision than given "
        "now. Give another output folder, or pass --overwrite to replace it."
    )
