"""Writes small files of features as TRIDENT, CLAM and STAMP do.

Does not know: readers.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating[Any]]
Corners = npt.NDArray[np.integer[Any] | np.floating[Any]]


def write_trident(path: Path, features_NC: Features, corners_N2: Corners, **changes: Any) -> Path:
    """As TRIDENT 0.3: patches of 256 px at 20x of a slide at 40x, unless `changes` of the attributes say otherwise."""
    said = {
        "patch_size": 256,
        "patch_size_level0": 512,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": path.stem,
        "savetodir": str(path.parent),
        "level0_width": 6000,
        "level0_height": 5000,
        **changes,
    }
    with h5py.File(path, "w") as file:
        file["features"] = features_NC.astype(np.float32)
        file["features"].attrs.update({"name": path.stem, "savetodir": str(path.parent), "encoder": "uni_v1"})
        file["coords"] = corners_N2.astype(np.int64)
        file["coords"].attrs.update(said)
    return path


def write_clam(path: Path, features_NC: Features, corners_N2: Corners, *, with_attributes: bool = True) -> Path:
    """As CLAM: patches of 256 px from a level of downsample 2; its later files have no attributes."""
    with h5py.File(path, "w") as file:
        file["features"] = features_NC.astype(np.float32)
        file["coords"] = corners_N2.astype(np.int32)
        if with_attributes:
            said = {
                "patch_size": 256,
                "patch_level": 1,
                "downsample": (2.0, 2.0),
                "downsampled_level_dim": (3000, 2500),
                "level_dim": (3000, 2500),
                "name": path.stem,
                "save_path": str(path.parent),
            }
            file["coords"].attrs.update(said)
    return path


def write_stamp(path: Path, features_NC: Features, corners_N2: Corners, **changes: Any) -> Path:
    """As STAMP 2: corners in um, tiles of 256 um, unless `changes` of the file's attributes say otherwise."""
    said = {
        "stamp_version": "2.5.0",
        "extractor": "ctranspath",
        "unit": "um",
        "tile_size_um": 256.0,
        "tile_size_px": 224,
        "code_hash": "abcd1234",
        "feat_type": "tile",
        **changes,
    }
    with h5py.File(path, "w") as file:
        file["feats"] = features_NC.astype(np.float16)
        file["coords"] = corners_N2.astype(np.float64)
        file.attrs.update({name: value for name, value in said.items() if value is not None})
    return path
