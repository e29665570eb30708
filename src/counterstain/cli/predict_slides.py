"""What `counterstain predict` does with the run of a slide method: slides in, diagnoses and their evidence out.

Does not know: how a slide is encoded, scored or drawn.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from counterstain import log
from counterstain.cli import OK, SOME_FAILED
from counterstain.errors import InputError, in_short
from counterstain.files import read_json
from counterstain.infer import PredictSettings

if TYPE_CHECKING:
    from counterstain.cli.inputs import Batch
    from counterstain.data.cohorts import CohortSlide
    from counterstain.infer.cells import CellSettings
    from counterstain.jobs.diagnose import DiagnoseJob
    from counterstain.methods import SlideMethod
    from counterstain.models.encoders import PatchEncoder
    from counterstain.results import EncoderSpec

_SHARED = frozenset(
    {"tissue", "batch_size", "num_workers", "num_threads", "device", "precision", "runtime", "overwrite"}
)
"""Settings that mean the same for slides' diagnoses as for maps."""


@dataclass(frozen=True)
class SlideFlags:
    """Of runs that diagnose slides.

    Args:
        encoder: What made the embeddings that the run learned from: the run of an S-CAE, or the file of a backbone's
            weights. By default the one that the run was trained with, where it still is.
        encoded: A folder of slides that are encoded already, or are to be; OUT by default.
        cells: Which cells are looked at, for runs that don't say it; by default as those that the run learned from.
    """

    encoder: Path | None = None
    encoded: Path | None = None
    cells: Literal["runs", "otsu", "runs_and_tissue"] | None = None


@dataclass(frozen=True)
class Given:
    """What was asked for.

    Args:
        run: The folder of the run.
        out: Where results go.
        flags: Encoder and cells.
        settings: Tissue, device, whether to overwrite.
        mpp: Overrides what files and tables say.
        assume_mpp: For slides that have no resolution.
        outline: Of the tissue of one slide.
    """

    run: Path
    out: Path
    flags: SlideFlags
    settings: PredictSettings
    mpp: float | None
    assume_mpp: float | None
    outline: Path | None


def predict_slides(method: "SlideMethod", batch: "Batch", given: Given, *, json: bool) -> int:
    """Diagnoses a batch.

    Args:
        method: Of the run.
        batch: The slides.
        given: What was asked for.
        json: Answer as JSON.

    Returns:
        The exit code.

    Raises:
        InputError: When settings of maps were given, encoder or cells are not those that the run learned from, or cells are
            to be chosen of slides that are encoded already.
    """
    from counterstain.jobs.diagnose import TABLE, diagnose_all

    job = replace(_job(method, given), known=known_slides(given.run, batch.slides))
    outcomes = diagnose_all(batch.slides, job, batch.dropped)
    failed = [{"slide": one.slide_id, "kind": one.kind, "reason": one.reason} for one in outcomes.failures]
    failed += [{"slide": one.place, "kind": "Dropped", "reason": one.reason} for one in batch.dropped]
    if json:
        log.emit_json({"done": outcomes.done, "failed": failed, "table": str(given.out / TABLE)})
    else:
        _show(outcomes.done, failed, given.out / TABLE)
    return SOME_FAILED if failed else OK


def known_slides(run: Path, slides: "Sequence[CohortSlide]") -> dict[str, str]:
    """What to say of slides that are no new ones to a run, by all that is recorded of them: their names and patients.

    Args:
        run: A finished one.
        slides: To be diagnosed; of those that no table names, the patients are not known.
    """
    known = read_json(run / "model.json")["provenance"].get("data", {}).get("patients", {})
    note = run / "slides.json"
    patient_of = {name: told[1] for name, told in read_json(note)["slides"].items()} if note.is_file() else {}
    notes = {}
    for side, what in (("val", "was calibrated on"), ("train", "learned from")):
        patients = set(known.get(side, ()))
        for slide in slides:
            if patient_of.get(slide.slide_id) in patients:
                notes[slide.slide_id] = f"Named as one that the run {what}: no new slide to it."
            elif slide.patient_id in patients:
                notes[slide.slide_id] = f"Of a patient named as one that the run {what}: no new one to it."
    return notes


def _job(method: "SlideMethod", given: Given) -> "DiagnoseJob":
    from counterstain.infer.encode import EncodeSettings
    from counterstain.jobs.diagnose import DiagnoseJob
    from counterstain.methods import model_digest

    settings, default = asdict(given.settings), asdict(PredictSettings())
    strange = sorted(name for name in settings.keys() - _SHARED if settings[name] != default[name])
    if strange:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in strange)
        raise InputError(f"{flags} was given; {given.run} diagnoses slides, and only maps have that. Leave it out.")
    chosen = {name: settings[name] for name in _SHARED - {"tissue", "overwrite"}}
    return DiagnoseJob(
        method=method,
        model_digest=model_digest(given.run),
        out=given.out,
        encoder=encoder_of(method.encoder, given.run, given.flags.encoder, given.flags.encoded),
        encoded=given.flags.encoded,
        cells=_cells(method, given),
        encode=EncodeSettings(**chosen, overwrite=given.settings.overwrite),
        slide_mpp=given.mpp,
        assume_mpp=given.assume_mpp,
        outline=given.outline,
    )


def _cells(method: "SlideMethod", given: Given) -> "CellSettings | None":
    """How cells are chosen, where that was given: what was not given stays as the run learned."""
    from counterstain.infer.cells import CellSettings, settings_of

    flags, tissue = given.flags, given.settings.tissue
    if flags.cells is None and tissue == PredictSettings().tissue:
        return None
    seen = method.seen
    cells = settings_of(seen.chosen, seen.cell_um) or CellSettings(cell_um=seen.cell_um)
    cells = replace(cells, filter=flags.cells or cells.filter)
    return cells if tissue == PredictSettings().tissue else replace(cells, tissue=tissue)


def encoder_of(
    spec: "EncoderSpec", run: Path, given: Path | None = None, encoded: Path | None = None
) -> "PatchEncoder | None":
    """The encoder that a run learned from; whether it is the very one, its digest says.

    Args:
        spec: Of the encoder, as the run knows it.
        run: The run, which may hold an encoder or remember where it was.
        given: The run of an S-CAE, or the file of a backbone's weights.
        encoded: A folder of encoded slides, with which no encoder is needed.

    Returns:
        The encoder; None where there is none, but encoded slides.

    Raises:
        InputError: When there is neither.
        MissingFileError: When what was given is not there.
    """
    from counterstain.methods.scae import NAME, scae_encoder
    from counterstain.models.backbones import BACKBONES
    from counterstain.models.encoders import TIMM, backbone_encoder

    weights = given or _remembered(run)
    is_untrained = weights is None and spec.licence == "none needed"
    if spec.name.startswith(NAME) and weights is not None:
        part: Any = spec.name.removeprefix(NAME).removeprefix("_")
        return scae_encoder(weights, part or None)
    if spec.name.startswith(TIMM) or (spec.name in BACKBONES and (weights is not None or is_untrained)):
        return backbone_encoder(spec.name, weights, spec.input_px or 1, untrained=is_untrained, licence=spec.licence)
    if encoded is not None:
        return None
    raise InputError(
        f"{run} learned from embeddings of {spec.name!r}, which was not given. Pass its run or weights as --encoder, "
        "or the folder of slides that it has encoded as --encoded."
    )


def _remembered(run: Path) -> Path | None:
    """Where a run's encoder is: trained with it, or named when it was; None where that is gone."""
    places = [run / "encoder"]
    if (run / "cohort.json").exists():
        flags = read_json(run / "cohort.json")
        places += [Path(flags[name]) for name in ("encoder_weights", "encoder") if flags.get(name)]
    return next((place for place in places if place.is_file() or (place / "model.json").is_file()), None)


def _show(done: dict[str, dict[str, Any]], failed: list[dict[str, Any]], table: Path) -> None:
    if done:
        positive = next(iter(done.values()))["positive"]
        rows = [
            [slide_id, f"{answer['probability']:.3f}", answer["decision"] or "no decision", _set_text(answer)]
            for slide_id, answer in done.items()
        ]
        log.emit_table("Diagnoses", ["slide", f"probability of {positive}", "decision", "can't be ruled out"], rows)
        for warning, slides in _by_warning(done).items():
            is_all = len(slides) == len(done) > 1
            log.say(f"{f'All {len(done)} slides' if is_all else in_short(slides)}: {warning}")
    log.say(f"Written to {table}")
    if failed:
        log.say(f"{len(failed)} of {len(failed) + len(done)} slides were not done:")
        for entry in failed:
            log.say(f"  {entry['slide']}: {entry['reason']}")


def _by_warning(done: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """The slides that each warning is of: what is of the run is said once."""
    slides: dict[str, list[str]] = {}
    for slide_id, answer in done.items():
        for warning in answer["warnings"]:
            slides.setdefault(warning, []).append(slide_id)
    return slides


def _set_text(answer: dict[str, Any]) -> str:
    return ", ".join(answer["prediction_set"]) or "-"
