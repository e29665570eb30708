"""`counterstain predict`: a run and slides in, maps and their exports out.

Does not know: how a slide is mapped, nor how a map is written.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from counterstain import log
from counterstain.cli import OK, SOME_FAILED
from counterstain.cli.inputs import SlideInput, name_slides
from counterstain.infer import PredictSettings

DEFAULT_EXPORTS = ("geojson", "ome_tiff", "overlay", "summary")


def predict(
    run: Path,
    slides: list[Path],
    /,
    *,
    out: Path,
    mpp: float | None = None,
    assume_mpp: float | None = None,
    exports: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = DEFAULT_EXPORTS,
    settings: Annotated[PredictSettings | None, Parameter(name="*")] = None,
    tissue: Path | None = None,
    json: bool = False,
) -> int:
    """Map the tissue of slides with a trained run.

    Every slide gets a folder under OUT with its map, its tissue outline and its exports. A slide that can't be read is
    listed with its reason and the others go on (exit code 3). Interrupted and called again, finished slides are kept and
    the unfinished one goes on where it stopped.

    Args:
        run: The folder of a trained run.
        slides: Slide files, folders of them, or cohort tables (.csv).
        out: Where results go.
        mpp: Microns per pixel of level 0, for slides whose files say it wrongly or not at all.
        assume_mpp: Likewise, only for slides that have none; recorded as assumed in everything made from them.
        exports: What to write beside each map: see `counterstain export --help`.
        settings: How to tile and predict.
        tissue: A tissue outline (GeoJSON), found or corrected by hand; one slide only.
        json: Answer as JSON.
    """
    from counterstain.export import find_writer
    from counterstain.jobs import run_all
    from counterstain.methods import load_dense_method

    for name in exports:
        find_writer(name)
    method, digest = load_dense_method(run)
    inputs = _inputs(slides, mpp)
    _check_tissue(tissue, inputs)
    settings = settings or PredictSettings()

    def work(entry: SlideInput) -> Callable[[], dict[str, Any]]:
        return lambda: _map_slide(entry, method, digest, _Job(out, assume_mpp, exports, settings, tissue))

    outcomes = run_all({entry.slide_id: work(entry) for entry in inputs}, out)
    report = {
        "done": outcomes.done,
        "failed": [{"slide": failure.slide_id, "kind": failure.kind, "reason": failure.reason} for failure in outcomes.failures],
    }
    if json:
        log.emit_json(report)
    else:
        _show(report, out)
    return SOME_FAILED if outcomes.failures else OK
