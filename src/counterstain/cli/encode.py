"""`counterstain encode`: slides and an encoder in, encoded slides out.

Does not know: how cells are chosen or encoded.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from counterstain.errors import InputError
from counterstain.infer import choose_runtime
from counterstain.infer.encode import EncodeSettings
from counterstain.models.encoders import INPUT_PX, PatchEncoder


def encode(
    slides: list[Path],
    /,
    *,
    out: Path,
    encoder: str,
    weights: Path | None = None,
    input_px: int = INPUT_PX,
    untrained: bool = False,
    cell_um: float = 64.0,
    cells: Literal["runs", "otsu", "runs_and_tissue"] = "runs_and_tissue",
    min_tissue: float = 0.25,
    int8: Annotated[bool, Parameter(negative="")] = False,
    outline: Path | None = None,
    mpp: float | None = None,
    assume_mpp: float | None = None,
    zarr: bool = False,
    settings: Annotated[EncodeSettings | None, Parameter(name="*", group="How")] = None,
    json: bool = False,
) -> int:
    """Turn slides into grids of embeddings and thumbnails, for methods that learn from slides.

    Every slide gets a folder under OUT with its cells (cells.zarr), the tissue's outline, and the embeddings of each
    encoder (features/ENCODER.h5, which other tools read as TRIDENT's). A second encoder reuses the cells. A slide that
    can't be read is listed with its reason and the others go on (exit code 3). Interrupted and called again, finished
    slides are kept and the unfinished one goes on where it stopped.

    Args:
        slides: Slide files, folders of them, or cohort tables (.csv).
        out: Where results go.
        encoder: A trained S-CAE's run folder, a backbone (see `counterstain models`), or timm:NAME.
        weights: A backbone's published weights.
        input_px: Width and height at which a backbone is shown a cell.
        untrained: Take a backbone's random weights, always the same, as a baseline.
        cell_um: Width and height of a cell, microns.
        cells: Which cells are encoded: runs (rich in detail), otsu (tissue), or both. Coarse slides need otsu.
        min_tissue: The share of a cell that must be tissue.
        int8: Compute in 8-bit integers, faster on a CPU, once `counterstain export ENCODER --format onnx --calibrate
            ENCODER/cells` has written such a network. Measure what is lost before you rely on it.
        outline: The outline of the tissue (GeoJSON), as found before or corrected by hand; for one slide.
        mpp: Microns per pixel of the slides' level 0, where files say it wrongly or not at all.
        assume_mpp: Likewise, only for slides that say nothing; recorded as assumed in everything made from them.
        zarr: Write the embeddings as a dense grid (features/ENCODER.zarr) as well.
        settings: Batches and device.
        json: Answer as JSON.
    """
    from counterstain.cli.encoded import answer
    from counterstain.cli.inputs import check_resolution, slides_of
    from counterstain.infer.cells import CellSettings
    from counterstain.jobs.encode import EncodeJob, encode_cohort, open_encoder

    check_resolution("--mpp", mpp)
    check_resolution("--assume-mpp", assume_mpp)
    settings = settings or EncodeSettings()
    # refused before the first slide, not with every one
    choose_runtime(settings.device, settings.precision, settings.runtime)
    network = open_encoder(encoder, weights, input_px, untrained=untrained)
    if int8:
        network, settings = _in_int8(network, Path(encoder), settings)
    job = EncodeJob(
        out,
        network,
        CellSettings(cell_um, cells, min_tissue),
        settings,
        slide_mpp=mpp,
        assume_mpp=assume_mpp,
        outline=outline,
        with_dense=zarr,
    )
    batch = slides_of(slides)
    outcomes = encode_cohort(batch.slides, job)
    return answer(outcomes, batch.dropped, out, as_json=json)


def _in_int8(network: PatchEncoder, run: Path, settings: EncodeSettings) -> tuple[PatchEncoder, EncodeSettings]:
    """The encoder in 8-bit integers, and settings for it."""
    from counterstain.cli.inputs import refuse_int8_elsewhere
    from counterstain.infer.int8 import Int8Encoder
    from counterstain.jobs.onnx import find_int8

    refuse_int8_elsewhere(settings.device, settings.runtime)
    if not run.is_dir():
        raise InputError(f"--int8 was given with encoder {run}, which is no run. Leave it out, or train an encoder.")
    path = find_int8(run, calibrate=f"{run}/cells")
    # it is its own runtime, on a CPU
    return Int8Encoder(network, path, settings.num_threads), replace(settings, device="cpu", runtime="torch")
