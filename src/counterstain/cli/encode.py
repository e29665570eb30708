"""`counterstain encode`: slides and an encoder in, encoded slides out.

Does not know: how cells are chosen or encoded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from counterstain import log
from counterstain.cli import OK, SOME_FAILED
from counterstain.infer import choose_runtime
from counterstain.infer.encode import EncodeSettings
from counterstain.models.encoders import INPUT_PX

if TYPE_CHECKING:
    from counterstain.data.encoded_files import FeatureHeader


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
        outline: The outline of the tissue (GeoJSON), as found before or corrected by hand; for one slide.
        mpp: Microns per pixel of the slides' level 0, where files say it wrongly or not at all.
        assume_mpp: Likewise, only for slides that say nothing; recorded as assumed in everything made from them.
        zarr: Write the embeddings as a dense grid (features/ENCODER.zarr) as well.
        settings: Batches and device.
        json: Answer as JSON.
    """
    from counterstain.cli.inputs import check_resolution, slides_of
    from counterstain.infer.cells import CellSettings
    from counterstain.jobs.encode import EncodeJob, encode_cohort, open_encoder

    check_resolution("--mpp", mpp)
    check_resolution("--assume-mpp", assume_mpp)
    settings = settings or EncodeSettings()
    choose_runtime(settings.device, settings.precision)  # refused before the first slide, not with every one
    job = EncodeJob(
        out,
        open_encoder(encoder, weights, input_px, untrained=untrained),
        CellSettings(cell_um, cells, min_tissue),
        settings,
        slide_mpp=mpp,
        assume_mpp=assume_mpp,
        outline=outline,
        with_dense=zarr,
    )
    batch = slides_of(slides)
    outcomes = encode_cohort(batch.slides, job)
    failed = [
        {"slide": failure.slide_id, "kind": failure.kind, "reason": failure.reason} for failure in outcomes.failures
    ]
    failed += [{"slide": entry.what, "kind": "Dropped", "reason": entry.reason} for entry in batch.dropped]
    if json:
        done = {slide_id: _tree(header, out / slide_id) for slide_id, header in outcomes.done.items()}
        log.emit_json({"done": done, "failed": failed})
    else:
        _show(outcomes.done, failed, out)
    return SOME_FAILED if failed else OK


def _tree(header: "FeatureHeader", folder: Path) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "features": str(header.path),
        "num_cells": header.num_cells,
        "num_features": header.encoder.num_features,
        "cell_um": header.cell_um,
        "encoder": {"name": header.encoder.name, "digest": header.encoder.digest, "licence": header.encoder.licence},
        "compression": header.compression,
        "compression_of_scan": header.compression_of_scan,
        "inputs_hash": header.inputs_hash,
    }


def _show(done: "Mapping[str, FeatureHeader]", failed: list[dict[str, Any]], out: Path) -> None:
    rows = [
        [
            slide_id,
            str(header.num_cells),
            str(header.encoder.num_features),
            f"{header.compression:.0f}",
            f"{header.compression_of_scan:.0f}",
        ]
        for slide_id, header in done.items()
    ]
    if rows:
        columns = ["slide", "cells", "features", "times smaller", "than the scan"]
        log.emit_table("Encoded slides", columns, rows)
        log.say(f"Written to {out}")
    if failed:
        log.say(f"{len(failed)} of {len(failed) + len(done)} slides were not done:")
        for entry in failed:
            log.say(f"  {entry['slide']}: {entry['reason']}")
