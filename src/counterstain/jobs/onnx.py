"""A run's network as an ONNX file, in float32 or in 8-bit integers, with a note of what it is.

    RUN/network.onnx, RUN/network.json     images (B, 3, tile_px, tile_px) float32 RGB in [0, 1] to maps of the same size
    RUN/int8.onnx, RUN/int8.json           likewise; its ranges come from patches of the training split

An encoder's run has the same files: images of cells to embeddings, with ranges of the cells that it learned from.

Does not know: how a network is exported.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from counterstain.data.encoder_patches import drawn_pixels
from counterstain.data.weak import WeakPatches, WeakSettings
from counterstain.errors import InputError, MissingFileError, StaleResultError
from counterstain.files import atomic, existing, read_json, refuse_overwrite, write_json
from counterstain.infer.exported import Step, compare, images
from counterstain.infer.int8 import Tiles, write_int8
from counterstain.infer.onnx_runtime import open_onnx, write_onnx
from counterstain.methods import DenseMethod, model_digest
from counterstain.models.encoders import PatchEncoder

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
    path = _free(run, out, is_int8=data is not None, overwrite=overwrite)
    side = method.input.tile_px
    step = Step(method.network.cpu(), method.predict_maps, method.identity()).eval()
    about = {"classes": method.classes.to_json(), "tile_px": side, "mpp": method.input.mpp}
    if data is None:
        return _written(step, side, path, _note(run, about))
    tiles_BHWC = training_tiles(data, side)
    calibrated_on = {"data": data.name, "split": "train", "tiles": len(tiles_BHWC)}
    return _written(step, side, path, _note(run, about, calibrated_on), tiles_BHWC)


def export_encoder(
    encoder: PatchEncoder, run: Path, out: Path | None = None, cells: Path | None = None, *, overwrite: bool = False
) -> Path:
    """Writes the network of an encoder's run, images of cells in and embeddings out, and a note beside it.

    Args:
        encoder: The run's.
        run: Its folder, where the file goes if nothing else is said.
        out: The file.
        cells: The folder of cells that were drawn of training slides, RUN/cells, to calibrate 8-bit integers on; None
            stays in float32.
        overwrite: As for `export_onnx`.

    Returns:
        The file.

    Raises:
        InputError: When there are too few cells to calibrate on, or of another size than the encoder's.
        CounterstainError: As `export_onnx` does.
    """
    path = _free(run, out, is_int8=cells is not None, overwrite=overwrite)
    side = encoder.input_px
    step = Step(encoder.cpu(), encoder, encoder.identity()).eval()
    about = {"encoder": encoder.spec.name, "input_px": side}
    if cells is None:
        return _written(step, side, path, _note(run, about))
    tiles_BHWC = training_cells(cells, side)
    return _written(step, side, path, _note(run, about, {"cells": len(tiles_BHWC)}), tiles_BHWC)


def _free(run: Path, out: Path | None, *, is_int8: bool, overwrite: bool) -> Path:
    """Where a network goes to."""
    path = out if out is not None else run / (_INT8 if is_int8 else "network.onnx")
    if not overwrite:
        refuse_overwrite(path)
        refuse_overwrite(path.with_suffix(".json"))
    return path


def _note(run: Path, about: dict[str, Any], calibrated_on: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"model_digest": model_digest(run), **about, "calibrated_on": calibrated_on}


def _written(step: Step, side: int, path: Path, note: dict[str, Any], tiles_BHWC: Tiles | None = None) -> Path:
    """Writes a step and its note, in 8-bit integers where there are tiles to calibrate on."""
    if tiles_BHWC is not None:
        write_int8(step, tiles_BHWC, path)
    else:
        with atomic(path) as temporary:
            write_onnx(step, (side, side), temporary)
            compare(step, open_onnx(temporary, 1), images(2, (side, side)))
    write_json(path.with_suffix(".json"), note)
    return path


def training_tiles(data: "PatchDataset", tile_px: int) -> Tiles:
    """Patches of the training split, evenly spread over it: (N, tile_px, tile_px, 3) uint8, at most `MOST_TILES`."""
    records = data.split("train")
    patches = WeakPatches(records[:: -(-len(records) // MOST_TILES)], WeakSettings(patch_px=tile_px, cache="off"))
    return np.stack([patches[number][0].permute(1, 2, 0).numpy() for number in range(len(patches))])


def training_cells(folder: Path, input_px: int) -> Tiles:
    """Cells that an encoder learned from, evenly spread over all of them.

    Args:
        folder: Of the files that `draw_slide_cells` keeps.
        input_px: Width and height of a cell.

    Returns:
        (N, input_px, input_px, 3) uint8, at most `MOST_TILES`.

    Raises:
        InputError: When there are none, or they are of another size.
        StaleResultError: When a file can't be read.
    """
    files = sorted(existing(folder, "the folder of an encoder's training cells").glob("*.npz"))
    if not files:
        raise InputError(
            f"{folder} holds no cells; give the folder 'cells' of the run that the encoder was trained in."
        )
    chosen = _spread(files, MOST_TILES)
    drawn = []
    for file in chosen:
        pixels = drawn_pixels(file)
        if pixels.shape[1:3] != (input_px, input_px):
            raise InputError(
                f"{folder} holds cells of other sizes than the encoder's {input_px} px; give those that it saw."
            )
        drawn.append(_spread(pixels, -(-MOST_TILES // len(chosen))).copy())  # a view would keep the whole file
    return np.ascontiguousarray(_spread(np.concatenate(drawn), MOST_TILES))


def _spread(items: Any, most: int) -> Any:
    """At most so many of some items, evenly spread."""
    return items[:: max(1, -(-len(items) // most))]


def find_int8(run: Path, calibrate: str = "PATCHES") -> Path:
    """A run's network in 8-bit integers.

    Args:
        run: Its folder.
        calibrate: What the remedy names to calibrate on.

    Raises:
        MissingFileError: When none was exported.
        StaleResultError: When the run was trained again since.
    """
    path = run / _INT8
    note, remedy = path.with_suffix(".json"), f"counterstain export {run} --format onnx --calibrate {calibrate}"
    if not (path.exists() and note.exists()):
        raise MissingFileError(f"{run} has no network in int8. Write it: {remedy}.")
    if read_json(note)["model_digest"] != model_digest(run):
        raise StaleResultError(
            f"{path} was made of another model than {run} holds now. Write it again: {remedy} --overwrite."
        )
    return path
