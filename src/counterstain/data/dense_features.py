"""V as a dense array on disk, for tools that want the grid: `features/ENCODER.zarr`.

It is written on demand from the HDF5 file, a band of rows at a time, and is never read here: what HDF5 holds counts.

Shapes: C channels of an embedding, H W rows and columns of cells.
Does not know: what encoded the cells.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from counterstain.data.cell_files import read_cells
from counterstain.data.encoded_files import read_encoded, read_header

_CHUNK_CELLS = 64


def write_dense(folder: Path, encoder_name: str) -> Path:
    """Writes V as `features` (H, W, C) and `observed` (H, W) bool into a Zarr group beside the HDF5 file.

    V is float16 or float32, as the embeddings were given.

    Unobserved cells are exactly 0; chunks without any observed cell take no room. What lies there of other features is
    replaced.

    Args:
        folder: Of the slide.
        encoder_name: As its specification names it.

    Returns:
        The group.

    Raises:
        MissingFileError, InputError, StaleResultError: As `read_encoded`.
    """
    import zarr

    header, grid = read_header(folder, encoder_name), read_cells(folder)
    path = header.path.with_suffix(".zarr")
    if path.exists() and zarr.open_group(path, mode="r").attrs.get("inputs_hash") == header.inputs_hash:
        return path
    encoded = read_encoded(folder, encoder_name)
    attributes: dict[str, Any] = {
        "format": "counterstain.dense_features",
        "version": 1,
        "inputs_hash": header.inputs_hash,
        "encoder": asdict(header.encoder),
        "frame": asdict(grid.frame),
        "cell_um": grid.cell_um,
        "slide": None if grid.slide is None else grid.slide.to_json(),
    }
    temporary = path.with_name(f".{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    group = zarr.create_group(temporary, attributes=attributes, zarr_format=3)
    (height, width), channels = encoded.frame.size.shape, header.encoder.num_features
    features = group.create_array(
        "features",
        shape=(height, width, channels),
        dtype=encoded.features_NC.dtype,
        chunks=(min(_CHUNK_CELLS, height), min(_CHUNK_CELLS, width), channels),
        fill_value=0.0,
        dimension_names=("y", "x", "channel"),
    )
    group.create_array("observed", data=encoded.observed)
    rows = encoded.cells_N2[:, 0]
    for top in range(0, height, _CHUNK_CELLS):
        first, last = np.searchsorted(rows, (top, top + _CHUNK_CELLS))
        band = np.zeros((min(_CHUNK_CELLS, height - top), width, channels), encoded.features_NC.dtype)
        cells = encoded.cells_N2[first:last]
        band[cells[:, 0] - top, cells[:, 1]] = encoded.features_NC[first:last]
        features[top : top + len(band)] = band
    if path.exists():
        shutil.rmtree(path)
    temporary.replace(path)
    return path
