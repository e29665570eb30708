"""What verbs that write encoded slides answer: a table or JSON, and which slides failed.

Does not know: how slides are encoded.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from counterstain import log
from counterstain.cli import OK, SOME_FAILED
from counterstain.data.cohorts import Dropped
from counterstain.data.encoded_files import FeatureHeader
from counterstain.jobs import Outcomes


def answer(outcomes: Outcomes[FeatureHeader], dropped: Sequence[Dropped], out: Path, *, as_json: bool) -> int:
    """Tells what became of a batch.

    Args:
        outcomes: Of the slides that were worked on.
        dropped: What of the input could not be used.
        out: Where the slides' folders are.
        as_json: Whether to answer as JSON.

    Returns:
        The exit code.
    """
    failed = [
        {"slide": failure.slide_id, "kind": failure.kind, "reason": failure.reason} for failure in outcomes.failures
    ]
    failed += [{"slide": entry.place, "kind": "Dropped", "reason": entry.reason} for entry in dropped]
    if as_json:
        done = {slide_id: _tree(header, out / slide_id) for slide_id, header in outcomes.done.items()}
        log.emit_json({"done": done, "failed": failed})
    else:
        _show(outcomes.done, failed, out)
    return SOME_FAILED if failed else OK


def _tree(header: FeatureHeader, folder: Path) -> dict[str, Any]:
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


def _show(done: Mapping[str, FeatureHeader], failed: list[dict[str, Any]], out: Path) -> None:
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
