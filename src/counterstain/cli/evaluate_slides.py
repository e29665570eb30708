"""`counterstain evaluate` for runs that diagnose slides: labelled slides that were kept back in, an honest score out.

Does not know: how slides are encoded or scored.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterstain import log
from counterstain.cli import OK, SOME_FAILED
from counterstain.cli.train_slides import CohortFlags, labelled, say_left_out
from counterstain.errors import InputError, SplitError, listed

if TYPE_CHECKING:
    from counterstain.data.diagnosis import Diagnosis
    from counterstain.jobs.run import Failure
    from counterstain.methods import SlideMethod


@dataclass(frozen=True)
class Asked:
    """What is to be scored.

    Args:
        run: The folder of a run that diagnoses slides.
        cohort: The cohort, as it was given over what the run remembers of it.
        split: "val" or "test".
        again: Open the test split once more.
        encoder: What made the embeddings, where the run has no encoder of its own.
        encoded: A folder of encoded slides; RUN/encoded by default.
        mpp: um/px of the slides' level 0, where files say it wrongly or not at all; by default what the run was trained
            with, if the table is the same.
    """

    run: Path
    cohort: CohortFlags
    split: str
    again: bool = False
    encoder: Path | None = None
    encoded: Path | None = None
    mpp: float | None = None


def evaluate_slides(method: "SlideMethod", asked: Asked, *, json: bool) -> int:
    """Scores slides of one split, of patients that the run never saw.

    Args:
        method: Of the run.
        asked: What is to be scored.
        json: Answer as JSON.

    Raises:
        SplitError: When a patient of the split was trained on.
        ExistingOutputError: When the test split was opened for this run before.
    """
    from counterstain.cli.predict_slides import encoder_of
    from counterstain.data.slide_sets import labelled_slides, open_slide_set, told_choice
    from counterstain.files import write_json
    from counterstain.infer.cells import CellSettings, settings_of
    from counterstain.jobs.encode import EncodeJob, encode_cohort
    from counterstain.methods import model_digest
    from counterstain.report import open_test_split
    from counterstain.report.crossval import score_slides
    from counterstain.report.diagnosis import describe_scores, write_scores
    from counterstain.report.diagnosis_figures import draw_diagnosis
    from counterstain.report.diagnosis_table import HEADS, summary_rows
    from counterstain.report.learn_cohort import not_encoded

    flags = asked.cohort
    diagnosis = labelled(flags)
    say_left_out(diagnosis)
    _refuse_other_classes(method, diagnosis)
    rows = [row for row in diagnosis.rows if row.split == asked.split]
    if not rows:
        raise InputError(f"'{flags.cohort}' gives no slide the split {asked.split!r}. Write it in its split column.")
    _refuse_seen(asked.run, {row.patient_id for row in rows})
    out = asked.encoded or asked.run / "encoded"
    encoder = encoder_of(method.encoder, asked.run, asked.encoder, asked.encoded)
    failures: tuple[Failure, ...]
    learned = method.seen.chosen
    if encoder is None:
        failures = not_encoded(rows, out, method.encoder.name)
    else:
        job = EncodeJob(
            out=out,
            encoder=encoder,
            cells=settings_of(learned, method.cell_um) or CellSettings(cell_um=method.cell_um),
            slide_mpp=asked.mpp or flags.mpp,
            assume_mpp=flags.assume_mpp,
        )
        failures = encode_cohort([row.entry for row in rows], job).failures
    failed = {one.slide_id for one in failures}
    if len(failed) == len(rows):
        raise InputError(listed("No slide could be encoded:", [f"{one.slide_id}: {one.reason}" for one in failures]))
    done = labelled_slides([row for row in rows if row.slide_id not in failed], out)
    slides = open_slide_set(diagnosis.source.stem, diagnosis.classes, done, method.encoder.name)
    if slides.encoder.digest != method.encoder.digest:
        raise InputError(f"'{out}' was encoded by another {method.encoder.name} than {asked.run} learned from.")
    if "min_tissue" in learned and slides.chosen != learned:  # how imported cells were chosen, nobody knows
        raise InputError(
            f"'{out}' holds cells {told_choice(slides.chosen)}; {asked.run} learned from those {told_choice(learned)}. "
            "Give slides that are encoded likewise."
        )
    # No other split will do: slides of val have chosen and calibrated the run.
    instead = "Give a table with test slides that it was not scored on"
    openings = open_test_split(asked.run, slides.digest(), asked.again, instead) if asked.split == "test" else []
    scores = score_slides(method, replace(slides, classes=method.classes), asked.split)
    found = describe_scores(scores, method.classes)
    told = [{"slide": one.slide_id, "kind": one.kind, "reason": one.reason} for one in failures]
    tree: dict[str, Any] = {
        "run": str(asked.run),
        "model_digest": model_digest(asked.run),
        "split": asked.split,
        "data_digest": slides.digest(),
        "test_openings": openings,
        "failed": told,
        **found,
    }
    write_scores(asked.run / f"scores_{asked.split}.csv", scores)
    write_json(asked.run / f"metrics_{asked.split}.json", tree)
    draw_diagnosis(scores, method.classes, asked.run / f"figures_{asked.split}")
    if json:
        log.emit_json(tree)
    else:
        log.emit_table(f"{asked.split} split: {len(scores)} slides", list(HEADS), summary_rows(found))
        for note in found["warnings"]:
            log.say(f"Note: {note}")
        if len(openings) > 1:
            log.say(f"The test split was opened {len(openings)} times for this run: this is no first look.")
        for one in told:
            log.say(f"  {one['slide']}: {one['reason']}")
    return SOME_FAILED if told else OK


def _refuse_other_classes(method: "SlideMethod", diagnosis: "Diagnosis") -> None:
    if diagnosis.classes.names != method.classes.names:
        raise InputError(
            f"The table has {', '.join(diagnosis.classes.names)}; the run tells {', '.join(method.classes.names)} "
            "apart. Name the positive one with the words the run was trained with: --positive."
        )


def _refuse_seen(run: Path, patients: set[str]) -> None:
    """Refuses patients that the run learned from, or that chose its settings."""
    from counterstain.methods.slide_method import patients_of

    seen = sorted(patients & set().union(*patients_of(run).values()))
    if seen:
        raise SplitError(
            f"{len(seen)} patients of the split were seen by {run} ({seen[0]}): a score on them would measure memory. "
            "Leave them out, or train anew without them."
        )
