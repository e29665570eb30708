"""`counterstain predict`: a run and slides in; out come maps and their exports, or diagnoses and their evidence.

Does not know: how a slide is mapped, nor how a map is written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from counterstain import log
from counterstain.cli import OK, SOME_FAILED
from counterstain.cli.flags import refuse_idle
from counterstain.cli.predict_slides import Given, SlideFlags, predict_slides
from counterstain.errors import InputError
from counterstain.infer import PredictSettings, choose_runtime
from counterstain.infer.settings import tile_sizes

if TYPE_CHECKING:
    from counterstain.cli.inputs import Batch
    from counterstain.data.cohorts import CohortSlide
    from counterstain.infer import DenseModel
    from counterstain.methods import DenseMethod

DEFAULT_EXPORTS = ("geojson", "ome_tiff", "overlay", "summary")


@dataclass(frozen=True)
class SlideJob:
    """What is done with every slide of a batch.

    Args:
        method: Whose maps.
        model_digest: Of its run.
        out: Where each slide's folder goes.
        exports: Names of writers.
        settings: How to tile and predict.
        slide_mpp: Overrides what files and tables say.
        assume_mpp: For slides that have no resolution.
        outline: Of the tissue; found where None.
    """

    method: "DenseModel"
    model_digest: str
    out: Path
    exports: tuple[str, ...]
    settings: PredictSettings
    slide_mpp: float | None = None
    assume_mpp: float | None = None
    outline: Path | None = None


def predict(
    run: Path,
    slides: list[Path],
    /,
    *,
    out: Path,
    mpp: float | None = None,
    assume_mpp: float | None = None,
    exports: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = DEFAULT_EXPORTS,
    outline: Path | None = None,
    int8: Annotated[bool, Parameter(negative="")] = False,
    settings: Annotated[PredictSettings | None, Parameter(name="*", group="How")] = None,
    diagnosis: Annotated[SlideFlags | None, Parameter(name="*", group="Runs that diagnose slides")] = None,
    json: bool = False,
) -> int:
    """Map the tissue of slides, or diagnose them, with a trained run.

    Every slide gets a folder under OUT with its map, its tissue outline and its exports. The run of a slide method gives
    a diagnosis instead, with its probability, a heat map of the evidence and the cells with most of it; flags that only
    maps have, exports among them, are refused then. A slide that can't be read, or a row of a table that can't be used,
    is listed with its reason and the others go on (exit code 3). Interrupted and called again, finished slides and their
    exports are kept and the unfinished one goes on where it stopped.

    Args:
        run: The folder of a trained run.
        slides: Slide files, folders of them, or cohort tables (.csv).
        out: Where results go.
        mpp: Microns per pixel of the slides' level 0, where files say it wrongly or not at all.
        assume_mpp: Likewise, only for slides that say nothing; recorded as assumed in everything made from them.
        exports: What to write beside each map: see `counterstain export --help`.
        outline: The outline of the tissue (GeoJSON), as found before or corrected by hand; for one slide.
        int8: Compute in 8-bit integers, two to three times as fast on a CPU, once `counterstain export RUN --format onnx
            --calibrate PATCHES` has written how. Maps differ a little: measure it on a validation split.
        settings: How to tile and predict.
        diagnosis: Encoder and cells of a run that diagnoses slides.
        json: Answer as JSON.
    """
    from counterstain.cli.inputs import check_resolution, slides_of
    from counterstain.export import find_writer
    from counterstain.methods import DenseMethod, SlideMethod, load_method, model_digest

    for name in exports:
        find_writer(name)
    check_resolution("--mpp", mpp)
    check_resolution("--assume-mpp", assume_mpp)
    method, settings = load_method(run), settings or PredictSettings()
    if isinstance(method, DenseMethod):
        _check_settings(settings, method)
    batch = slides_of(slides)
    if outline is not None and len(batch.slides) != 1:
        raise InputError(
            f"--outline was given with {len(batch.slides)} slides; it belongs to one. Predict that one alone."
        )
    if isinstance(method, SlideMethod):
        _refuse_flags_of_maps(run, exports, is_int8=int8)
        given = Given(run, out, diagnosis or SlideFlags(), settings, mpp, assume_mpp, outline)
        return predict_slides(method, batch, given, json=json)
    assert isinstance(method, DenseMethod), "a run is of a method that gives maps or scores"
    as_trained = method, model_digest(run), settings
    model, digest, settings = _in_int8(run, method, settings) if int8 else as_trained
    _say_what_computes(model, settings)
    return _map_all(batch, SlideJob(model, digest, out, exports, settings, mpp, assume_mpp, outline), as_json=json)


def _refuse_flags_of_maps(run: Path, exports: tuple[str, ...], *, is_int8: bool) -> None:
    """Refuses what was asked for of a run that gives no maps."""
    refuse_idle({"int8": is_int8}, f"{run} diagnoses slides", {"int8": False})
    if exports != DEFAULT_EXPORTS:
        raise InputError(
            f"--exports was given; {run} diagnoses slides, and all of their files are written. Leave it out."
        )


def _map_all(batch: "Batch", job: SlideJob, *, as_json: bool) -> int:
    """Maps a batch and says what came of it; gives the exit code."""
    from counterstain.jobs import run_all

    outcomes = run_all({entry.slide_id: _work(entry, job) for entry in batch.slides}, job.out)
    failed = [
        {"slide": failure.slide_id, "kind": failure.kind, "reason": failure.reason} for failure in outcomes.failures
    ]
    failed += [{"slide": entry.place, "kind": "Dropped", "reason": entry.reason} for entry in batch.dropped]
    if as_json:
        log.emit_json({"done": outcomes.done, "failed": failed})
    else:
        _show(outcomes.done, failed, job)
    return SOME_FAILED if failed else OK


def _in_int8(run: Path, method: "DenseMethod", settings: PredictSettings) -> "tuple[DenseModel, str, PredictSettings]":
    """The run's network in 8-bit integers, what it is known by, and settings for it."""
    from counterstain.cli.inputs import refuse_int8_elsewhere
    from counterstain.files import whole_hash
    from counterstain.infer.int8 import Int8Model
    from counterstain.jobs.onnx import find_int8
    from counterstain.methods import model_digest

    refuse_int8_elsewhere(settings.device, settings.runtime)
    if settings.tile_px not in (None, method.input.tile_px):
        raise InputError(
            f"--int8 was given with tiles of {settings.tile_px} px; {run} was calibrated for {method.input.tile_px}. Leave "
            "--tile-px out."
        )
    path = find_int8(run)
    digest = f"{model_digest(run)} in int8 {whole_hash(path)}"
    # it is its own runtime, on a CPU
    chosen = replace(settings, device="cpu", runtime="torch")
    return Int8Model(method, path, settings.num_threads), digest, chosen


def _say_what_computes(model: "DenseModel", settings: PredictSettings) -> None:
    """Device, precision, runtime and threads, once for all slides."""
    from counterstain.infer.dense import RunsItself
    from counterstain.infer.runtime import network_threads

    runtime = choose_runtime(settings.device, settings.precision, settings.runtime)
    told = {"precision": runtime.precision, "runtime": runtime.name}
    told |= model.runs if isinstance(model, RunsItself) else {}
    num = network_threads(settings.num_threads)
    threads = f", {num} thread{'s' * (num > 1)}" if runtime.device.type == "cpu" else ""
    log.say(f"Maps will be made by {told['runtime']} on {runtime.device}, precision {told['precision']}{threads}")


def _check_settings(settings: PredictSettings, method: "DenseMethod") -> None:
    """Refuses before the first slide what would fail with every one of them."""
    settings.target_mpp(method.input)
    tile_sizes(method.input, settings, settings.map_stride)
    choose_runtime(settings.device, settings.precision, settings.runtime)


def _work(entry: "CohortSlide", job: SlideJob) -> Callable[[], dict[str, Any]]:
    return lambda: map_slide(entry, job)


def map_slide(entry: "CohortSlide", job: SlideJob) -> dict[str, Any]:
    """Maps one slide and writes its exports.

    Returns:
        Areas by class and its files, as plain values.

    Raises:
        ExistingOutputError: When a file that is not ours lies where an export goes, and `overwrite` is not set.
        CounterstainError: As `predict_slide` and the writers do.
    """
    from counterstain.cli.exported import export_all, refuse_foreign
    from counterstain.infer import areas_mm2, predict_slide
    from counterstain.slides import open_slide
    from counterstain.tissue import load_tissue

    folder = job.out / entry.slide_id
    mpp = job.slide_mpp if job.slide_mpp is not None else entry.mpp
    if not job.settings.overwrite:
        refuse_foreign(folder, job.exports)
    with open_slide(entry.path, mpp, assume_mpp=job.assume_mpp) as slide:
        tissue = load_tissue(job.outline, slide) if job.outline is not None else None
        result = predict_slide(slide, job.method, folder, job.settings, job.model_digest, tissue)
        files = {"map": result.path, **export_all(result, slide, folder, job.exports)}
        return {"areas_mm2": areas_mm2(result), "files": {name: str(path) for name, path in files.items()}}


def _show(done: Mapping[str, dict[str, Any]], failed: list[dict[str, Any]], job: SlideJob) -> None:
    names = job.method.classes.names
    rows = [[slide_id, *(f"{answer['areas_mm2'][name]:.3f}" for name in names)] for slide_id, answer in done.items()]
    if rows:
        log.emit_table("Areas, mm²", ["slide", *names], rows)
        for slide_id in done:
            log.say(f"Written to {job.out / slide_id}")
    if failed:
        log.say(f"{len(failed)} of {len(failed) + len(done)} slides were not done:")
        for entry in failed:
            log.say(f"  {entry['slide']}: {entry['reason']}")
