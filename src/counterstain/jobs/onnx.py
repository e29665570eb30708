"""A run's network as an ONNX file, in float32 or in 8-bit integers, with a note of what it is.

    RUN/network.onnx, RUN/network.json     images (B, 3, tile_px, tile_px) float32 RGB in [0, 1] to maps of the same size
    RUN/int8.onnx, RUN/int8.json           likewise; its ranges come from patches of the training split

Does not know: how a network is exported.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from counterstain.data.weak import WeakPatches, WeakSettings
from counterstain.errors import MissingFileError, StaleResultError
from counterstain.files import atomic, read_json, refuse_overwrite, write_json
from counterstain.infer.exported import Step, compare, images
from counterstain.infer.int8 import Tiles, write_int8
from counterstain.infer.onnx_runtime import open_onnx, write_onnx
from counterstain.methods import DenseMethod, model_digest

if TYPE_CHECKING:
    from counterstain.data import PatchDataset

MOST_TILES = 64
"""Of the training split, evenly spread: more hardly change the ranges."""

_INT8 = "int8.onnx"


def export_onnx(
    method: DenseMethod,
    run: Path,
    out: Path | None = None,
    data: "PatchDataset | None" = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Writes a run's network and a note beside it.

    Args:
        method: The run's.
        run: Its folder, where the file goes if nothing else is said.
        out: The file.
        data: Patches of which the training split calibrates 8-bit integers; None stays in float32.
        overwrite: Replace files that are there.

    Returns:
        The file.

    Raises:
        ExistingOutputError: When it or its note is there and may not be replaced.
        ExportError: When the network can't be exported.
        InputError: When there are too few patches to calibrate on.
        MissingExtraError: When a library is not installed.
    """
    path = out if out is not None else run / ("network.onnx" if data is None else _INT8)
    note = path.with_suffix(".json")
    if not overwrite:
        refuse_overwrite(path)
        refuse_overwrite(note)
    side = method.input.tile_px
    step = Step(method.network.cpu(), method.predict_maps, method.identity()).eval()
    about: dict[str, Any] = {
        "model_digest": model_digest(run),
        "classes": method.classes.to_json(),
        "tile_px": side,
        "mpp": method.input.mpp,
        "calibrated_on": None,
    }
    if data is None:
        with atomic(path) as temporary:
            write_onnx(step, (side, side), temporary)
            compare(step, open_onnx(temporary, 1), images(2, (side, side)))
    else:
        tiles_BHWC = training_tiles(data, side)
        write_int8(step, tiles_BHWC, path)
        about["calibrated_on"] = {"data": data.name, "split": "train", "tiles": len(tiles_BHWC)}
    write_json(note, about)
    return path


def training_tiles(data: "PatchDataset", tile_px: int) -> Tiles:
    """Patches of the training split, evenly spread over it: (N, tile_px, tile_px, 3) uint8, at most `MOST_TILES`."""
    records = data.split("train")
    patches = WeakPatches(records[:: -(-len(records) // MOST_TILES)], WeakSettings(patch_px=tile_px, cache="off"))
    return np.stack([patches[number][0].permute(1, 2, 0).numpy() for number in range(len(patches))])


def find_int8(run: Path) -> Path:
    """A run's network in 8-bit integers.

    Raises:
        MissingFileError: When none was exported.
        StaleResultError: When the run was trained again since.
    """
    path = run / _INT8
    note, remedy = path.with_suffix(".json"), f"counterstain export {run} --format onnx --calibrate PATCHES"
    if not (path.exists() and note.exists()):
        raise MissingFileError(f"{run} has no network in int8. Write it: {remedy}.")
    if read_json(note)["model_digest"] != model_digest(run):
        raise StaleResultError(
            f"{path} was made of another model than {run} holds now. Write it again: {remedy} --overwrite."
        )
    return path
