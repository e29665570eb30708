"""From a cohort to a diagnosis that can be trusted as far as it says: encoder, embeddings, folds, final model, report.

    cohort -> labelled slides -> encoder -> encoded slides -> folds: an honest estimate -> the model of all training slides

    RUN/encoder/               an encoder that was trained here, or a copy of the trained one that was given
    RUN/encoded/<slide>/       cells and embeddings
    RUN/folds/                 as `cross_validate` makes it
    RUN/slides.json            labels, patients and splits, written when all is encoded: others are refused from then on
    RUN/scores.csv             every slide, scored by a model that never saw its patient
    RUN/diagnosis.json         what these scores amount to, with intervals; figures/ beside it
    RUN/model.json ...         the final model

Slides that can't be read or encoded are listed with their reasons; the others go on. All are opened before anything is
learned, so that sides are dealt of those that can be used, and too few of them are refused early. Test slides of the table
are left to `evaluate`, which opens them once. An encoder that is trained here learns from the slides that networks learn
from, and not from those that choose and calibrate; for folds it is trained anew in every fold. Where one is shared, or was
trained on these slides before, the report says that it saw the tissue of all of them, without a label.

Does not know: command lines, networks, file formats.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from counterstain import log
from counterstain.data.diagnosis import Diagnosis, DiagnosisSlide
from counterstain.data.encoded import SlideSet
from counterstain.data.encoded_files import read_header
from counterstain.data.folds import PatientSlide, inner_split, most_folds, patients_by_label, patients_needed
from counterstain.data.leaks import USUAL_FOLDS
from counterstain.data.slide_sets import labelled_slides, open_slide_set
from counterstain.errors import (
    CounterstainError,
    InputError,
    NoTissueError,
    SplitError,
    StaleResultError,
    counted,
    in_short,
    listed,
)
from counterstain.files import atomic, make_folder, read_json, write_json
from counterstain.infer.cells import CellSettings
from counterstain.infer.encode import EncodeSettings
from counterstain.jobs.encode import EncodeJob, encode_cohort, open_encoder, try_slides
from counterstain.jobs.run import Failure
from counterstain.jobs.train_encoder import EncoderTraining, slides_differ, train_encoder
from counterstain.methods import find_slide_method, model_digest
from counterstain.methods.scae import scae_encoder
from counterstain.models.encoders import PatchEncoder
from counterstain.report.crossval import FoldSettings, Learner, cross_validate, most_chosen
from counterstain.report.diagnosis import describe_scores, write_scores
from counterstain.report.diagnosis_figures import draw_diagnosis

TRAINED_HERE = "scae"
"""The encoder that is trained on the cohort's own slides."""

_NOTE = "slides.json"
_RUN_FILES = ("config.toml", "run.json", "model.safetensors", "model.json")  # the last is what makes a run whole


@dataclass(frozen=True)
class EncoderChoice:
    """What encodes cells.

    Args:
        name: "scae" to train one here, the folder of a trained one, or a backbone's name.
        weights: Of a backbone.
        is_untrained: Whether a backbone may have random weights.
        training: Of an S-CAE that is trained here.
        is_shared: Whether folds share the one that is trained on all of their slides.
        encoded: A folder of slides that were encoded before, by an encoder of that name; nothing is encoded then.
    """

    name: str = TRAINED_HERE
    weights: Path | None = None
    is_untrained: bool = False
    training: EncoderTraining = field(default_factory=EncoderTraining)
    is_shared: bool = False
    encoded: Path | None = None

    @property
    def is_trained_here(self) -> bool:
        """Whether it learns from the cohort."""
        return self.encoded is None and self.name == TRAINED_HERE

    @property
    def trained_run(self) -> Path | None:
        """The run of a trained S-CAE, where it is one."""
        is_run = self.encoded is None and not self.is_trained_here and Path(self.name).is_dir()
        return Path(self.name) if is_run else None


@dataclass(frozen=True)
class CohortJob:
    """What is learned from a cohort, and where it goes.

    Args:
        run: The run folder.
        learners: Of which every fold chooses one; the final model is made by the one that most folds took.
        encoder: What encodes cells.
        folds: How the estimate is made; None makes none.
        val: The part of the training patients that is set aside where the table names none.
        cells: Which cells are encoded.
        encode: How an encoder is run.
        slide_mpp: um/px of the slides' level 0, where files say it wrongly.
        assume_mpp: Likewise, for slides that say nothing.
    """

    run: Path
    learners: tuple[Learner, ...]
    encoder: EncoderChoice = field(default_factory=EncoderChoice)
    folds: FoldSettings | None = None
    val: float = 0.25
    cells: CellSettings = field(default_factory=CellSettings)
    encode: EncodeSettings = field(default_factory=EncodeSettings)
    slide_mpp: float | None = None
    assume_mpp: float | None = None

    def __post_init__(self) -> None:
        names = [learner.name for learner in self.learners]
        if len({learner.folder for learner in self.learners}) < len(names):
            raise InputError(f"Learners {', '.join(names)} were given; name each of them once.")
        if len(names) != 1 and self.folds is None:
            raise InputError(f"{len(names)} learners were given; folds choose between them: give --folds.")


@dataclass(frozen=True)
class CohortRun:
    """What came of it.

    Args:
        run: The run folder.
        slides: That were learned from or set aside.
        failures: Slides that could not be encoded.
        estimate: As in `RUN/diagnosis.json`; None where no folds were asked for.
        notes: What the report has to say.
    """

    run: Path
    slides: SlideSet
    failures: tuple[Failure, ...]
    estimate: dict[str, Any] | None
    notes: tuple[str, ...]


def learn_cohort(diagnosis: Diagnosis, job: CohortJob) -> CohortRun:
    """Learns from a cohort's labelled slides.

    Killed and called again, it goes on where it was.

    Args:
        diagnosis: The slides with labels, patients and splits.
        job: What and where.

    Raises:
        InputError: When no slide of a class can be encoded.
        SplitError: When a class has too few patients whose slides can be used.
        StaleResultError: When the run folder holds a run of other slides or settings.
    """
    rows = [row for row in diagnosis.rows if row.split in (None, "train", "val")]
    if not rows:
        raise InputError(f"'{diagnosis.source}' has test slides alone. Give some the split train, or leave splits out.")
    _refuse_few(diagnosis, rows, job, {})
    _refuse_other_slides(diagnosis, rows, job.run)
    encoder = _given_encoder(job, len(_learning(rows, _set_aside(rows, job), job)))
    failures = {one.slide_id: one for one in _unusable(rows, job)}
    _refuse_few(diagnosis, rows, job, failures)
    usable = [row for row in rows if row.slide_id not in failures]
    aside = _set_aside(usable, job)
    _refuse_one_class(diagnosis, usable, aside, failures)
    _say_sides(diagnosis, usable, aside, failures)
    if job.encoder.trained_run is not None:
        _copy_run(job.encoder.trained_run, job.run / "encoder")
    everything = _encoded(diagnosis, usable, _learning(usable, aside, job), job, job.run, failures, encoder)
    _refuse_few(diagnosis, rows, job, failures)
    _refuse_one_class(diagnosis, everything.slides, aside, failures)
    write_json(job.run / _NOTE, {"slides": _told(rows)})
    if failures:
        problem = f"{len(everything.slides)} of {len(rows)} slides can be used; not these:"
        log.say(listed(problem, _reasons(failures)))
    notes = [*diagnosis.notes, *_encoder_notes(rows, job.encoder)]
    estimate = None if job.folds is None else _estimate(diagnosis, everything, job, failures, notes)
    notes += _final(everything, aside, job)
    return CohortRun(job.run, everything, tuple(failures.values()), estimate, tuple(notes))


def _unusable(rows: Sequence[DiagnosisSlide], job: CohortJob) -> tuple[Failure, ...]:
    """Slides of which it is told without learning anything that they can't be used."""
    if job.encoder.encoded is not None:
        return not_encoded(rows, job.encoder.encoded, job.encoder.name)
    return try_slides([row.entry for row in rows], job.run / "encoded", job.slide_mpp, job.assume_mpp)


def _refuse_few(
    diagnosis: Diagnosis, rows: Sequence[DiagnosisSlide], job: CohortJob, failures: Mapping[str, Failure]
) -> None:
    """Refuses as soon as it is known what folds, or the sides of the final model, could not be dealt out of.

    Raises:
        SplitError: When a class has too few patients whose slides can be used.
    """
    folds = 0 if job.folds is None else job.folds.folds
    candidates = [row for row in rows if row.split != "val"]
    if not folds and len(candidates) < len(rows):
        return
    usable = [row for row in candidates if row.slide_id not in failures]
    found, needed = patients_by_label(usable), patients_needed(folds)
    if min(found) >= needed:
        return
    counted = zip(found, patients_by_label(candidates), diagnosis.classes.names, strict=True)
    counts = " and ".join(
        f"{number} of {all_of} {name} ones" if failures else f"{number} {name} ones" for number, all_of, name in counted
    )
    what = f"{folds} folds need" if folds else "A part to learn from and one to validate on need"
    most = most_folds(usable, max(folds, USUAL_FOLDS))
    remedies = ["add patients", *(["mend these slides"] if failures else [])]
    if folds and min(found) >= patients_needed(0):
        remedies = [f"pass --folds {most}" if most else "pass --folds 0 for a model without an estimate", *remedies]
    problem = (
        f"{what} {needed} patients with slides of each class; {counts} can be used. To go on, {' or '.join(remedies)}"
    )
    raise SplitError(listed(f"{problem}:", _reasons(failures)) if failures else f"{problem}.")


def _told(rows: Sequence[DiagnosisSlide]) -> dict[str, list[Any]]:
    return {row.slide_id: [row.label, row.patient_id, row.split] for row in rows}


def _refuse_other_slides(diagnosis: Diagnosis, rows: Sequence[DiagnosisSlide], run: Path) -> None:
    """Refuses a run folder of other slides before anything is done with them.

    Raises:
        StaleResultError: With the slides that differ.
    """
    if not (run / _NOTE).exists():
        return
    found = slides_differ(read_json(run / _NOTE)["slides"], _told(rows))
    if found:
        raise StaleResultError(
            f"{run} holds a run of other slides, labels, patients or splits than '{diagnosis.source}' has: "
            f"{'; '.join(found)}. Give another run folder, or remove {run} to start afresh."
        )


def _learning(rows: Sequence[DiagnosisSlide], aside: frozenset[str], job: CohortJob) -> list[DiagnosisSlide]:
    """The slides that an encoder learns from."""
    return [row for row in rows if row.split != "val" and (job.encoder.is_shared or row.slide_id not in aside)]


def _say_sides(
    diagnosis: Diagnosis, usable: Sequence[DiagnosisSlide], aside: frozenset[str], failures: Mapping[str, Failure]
) -> None:
    """Says of how many slides the final model learns, and how many are set aside."""

    def counted(is_aside: bool) -> str:
        labels = [row.label for row in usable if (row.slide_id in aside) is is_aside]
        counts = ", ".join(f"{labels.count(index)} {name}" for index, name in enumerate(diagnosis.classes.names))
        return f"{len(labels)} ({counts})"

    lost = f"; {len(failures)} can't be used" if failures else ""
    log.say(
        f"Of {len(usable) + len(failures)} slides the final model learns from {counted(False)}, and {counted(True)} are "
        f"set aside to choose and calibrate{lost}"
    )


def _set_aside(rows: Sequence[DiagnosisSlide], job: CohortJob) -> frozenset[str]:
    """The slides that choose and calibrate the final model: those that the table names, or of some of the patients."""
    named = frozenset(row.slide_id for row in rows if row.split == "val")
    return named or frozenset(inner_split(rows, job.val, job.learners[0].training.seed)[1])


def _refuse_one_class(
    diagnosis: Diagnosis, slides: Sequence[PatientSlide], aside: frozenset[str], failures: Mapping[str, Failure]
) -> None:
    """Refuses before hours are spent what the final model could not learn from."""
    for name, is_aside in (("to learn from", False), ("to choose and calibrate on", True)):
        found = {slide.label for slide in slides if (slide.slide_id in aside) is is_aside}
        for label, word in enumerate(diagnosis.classes.names):
            if label not in found and not failures:
                raise InputError(
                    f"No {word} slide is there {name}. Give some {word} slides the split {'val' if is_aside else 'train'}"
                    f"{', or leave val out' if is_aside else ''}."
                )
            if label not in found:
                problem = f"No {word} slide {name} can be used. Mend these slides, or take them out of the table:"
                raise InputError(listed(problem, _reasons(failures)))


def _reasons(failures: Mapping[str, Failure]) -> list[str]:
    return [f"{one.slide_id}: {one.reason}" for one in failures.values()]


def _estimate(
    diagnosis: Diagnosis, slides: SlideSet, job: CohortJob, failures: Mapping[str, Failure], notes: Sequence[str]
) -> dict[str, Any]:
    """What scores of folds amount to: of all slides but those that the table sets aside."""
    assert job.folds is not None, "the caller looked"
    candidates = slides.of(slide.slide_id for slide in slides.slides if slide.split != "val")
    is_by_fold = job.encoder.is_trained_here and not job.encoder.is_shared
    encode = _fold_encoder(diagnosis, job, failures) if is_by_fold else None
    scores = cross_validate(candidates, job.learners, job.run / "folds", job.folds, encode)
    write_scores(job.run / "scores.csv", scores)
    estimate = {**describe_scores(scores, slides.classes), "notes": list(notes)}
    write_json(job.run / "diagnosis.json", estimate)
    draw_diagnosis(scores, slides.classes, job.run / "figures")
    return estimate


def _encoded(
    diagnosis: Diagnosis,
    rows: Sequence[DiagnosisSlide],
    learning: Sequence[DiagnosisSlide],
    job: CohortJob,
    folder: Path,
    failures: dict[str, Failure],
    encoder: PatchEncoder | None = None,
) -> SlideSet:
    """The slides as an encoder sees them that learned, if it learns here, from some of them alone."""
    choice, out = job.encoder, job.encoder.encoded or folder / "encoded"
    name = choice.name
    if choice.encoded is None:
        encoder = encoder or _trained_encoder(learning, job, folder / "encoder", failures)
        encode = EncodeJob(
            out=out,
            encoder=encoder,
            cells=job.cells,
            settings=job.encode,
            slide_mpp=job.slide_mpp,
            assume_mpp=job.assume_mpp,
        )
        outcomes = encode_cohort([row.entry for row in rows if row.slide_id not in failures], encode)
        failures |= {one.slide_id: one for one in outcomes.failures}
        name = encoder.spec.name
    labelled = labelled_slides([row for row in rows if row.slide_id not in failures], out)
    for label, word in enumerate(diagnosis.classes.names):
        if not any(slide.label == label for slide in labelled):
            problem = f"No {word} slide could be encoded, so there is nothing to learn from:"
            raise InputError(listed(problem, _reasons(failures)))
    return open_slide_set(diagnosis.source.stem, diagnosis.classes, labelled, name)


def not_encoded(rows: Sequence[DiagnosisSlide], encoded: Path, encoder_name: str) -> tuple[Failure, ...]:
    """Slides of which a folder holds no embeddings of an encoder, with the reasons.

    Args:
        rows: The slides.
        encoded: With a folder for each slide.
        encoder_name: As its specification names it.
    """
    failures = []
    for row in rows:
        try:
            read_header(encoded / row.slide_id, encoder_name)
        except CounterstainError as error:
            failures.append(Failure(row.slide_id, type(error).__name__, str(error), is_defect=False))
    return tuple(failures)


def _given_encoder(job: CohortJob, num_learning: int) -> PatchEncoder | None:
    """The encoder that was given, opened before slides are; None where one is to be trained or slides are encoded.

    Raises:
        InputError: When it is none, or one is to be trained on fewer cells than slides.
        StaleResultError: When the run holds another one.
    """
    choice, folder = job.encoder, job.run / "encoder"
    if choice.trained_run is not None:
        encoder = scae_encoder(choice.trained_run)
        _refuse_another(choice.trained_run, folder)
        return encoder
    if choice.is_trained_here:
        choice.training.drawing(num_learning)  # refuses too few cells
    if choice.is_trained_here or choice.encoded is not None:
        return None
    return open_encoder(choice.name, choice.weights, untrained=choice.is_untrained)


def _trained_encoder(
    learning: Sequence[DiagnosisSlide], job: CohortJob, folder: Path, failures: dict[str, Failure]
) -> PatchEncoder:
    training = replace(job.encoder.training, slide_mpp=job.slide_mpp, assume_mpp=job.assume_mpp)
    failed = train_encoder([row.entry for row in learning], folder, training, job.run)
    failures |= {one.slide_id: one for one in that_leave(failed)}
    return scae_encoder(folder)


def that_leave(failures: Sequence[Failure]) -> tuple[Failure, ...]:
    """Of slides that gave an encoder no cells, those that leave the cohort: all but the pale ones.

    A slide without a cell that is dark enough to learn from can be diagnosed all the same; of it is said that it trains no
    encoder. Whatever else went wrong, a defect of ours included, is a failure of the slide.
    """
    pale = [one.slide_id for one in failures if one.kind == NoTissueError.__name__]
    if pale:
        log.say(
            f"Too pale to train the encoder, encoded all the same: {counted(len(pale), 'slide')} ({in_short(pale)})"
        )
    return tuple(one for one in failures if one.slide_id not in pale)


def _refuse_another(source: Path, folder: Path) -> None:
    if (folder / _RUN_FILES[-1]).exists() and model_digest(folder) != model_digest(source):
        raise StaleResultError(f"{folder} holds another encoder than {source}. Give another run folder.")


def _copy_run(source: Path, folder: Path) -> None:
    """Copies a finished run, so that a diagnosis's folder is enough to diagnose with."""
    if (folder / _RUN_FILES[-1]).exists():
        return
    make_folder(folder)
    for name in _RUN_FILES:
        if (source / name).exists():
            with atomic(folder / name) as temporary:
                shutil.copyfile(source / name, temporary)


def _encoder_notes(rows: Sequence[DiagnosisSlide], choice: EncoderChoice) -> list[str]:
    """Whether an encoder has seen the tissue that is scored."""
    if choice.is_trained_here and choice.is_shared:
        return ["The encoder was trained on the tissue of all folds, without labels: the estimate may be optimistic."]
    if choice.encoded is not None and choice.name.startswith(TRAINED_HERE):
        return [
            "Slides were encoded before; whether their encoder learned from the tissue of them, nobody can tell here."
        ]
    if choice.trained_run is None:
        return []
    names = read_json(choice.trained_run / "model.json")["provenance"]["data"]["names"]
    count = sum(row.entry.path.name in names for row in rows)
    if not count:
        return []
    return [
        f"The encoder was trained on slides that are named as {count} of these {len(rows)}: if they are the same, it has "
        "seen their tissue, without labels, and what is said of them may be optimistic."
    ]


def _fold_encoder(
    diagnosis: Diagnosis, job: CohortJob, failures: Mapping[str, Failure]
) -> Callable[[SlideSet, Path], SlideSet]:
    """Trains an encoder on a fold's training slides and encodes all slides with it."""
    by_id: Mapping[str, DiagnosisSlide] = {row.slide_id: row for row in diagnosis.rows}

    def encode(train: SlideSet, folder: Path) -> SlideSet:
        rows = [row for row in diagnosis.rows if row.split in (None, "train") and row.slide_id not in failures]
        learning = [by_id[slide.slide_id] for slide in train.slides]
        new: dict[str, Failure] = {}
        slides = _encoded(diagnosis, rows, learning, job, folder, new)
        if new:
            raise InputError(listed("Slides that were encoded before could not be for a fold:", _reasons(new)))
        return slides

    return encode


def _final(slides: SlideSet, aside: frozenset[str], job: CohortJob) -> tuple[str, ...]:
    """Makes the model of all training slides; gives what the slides set aside say against it."""
    val = slides.of(aside)
    train = slides.of(slide.slide_id for slide in slides.slides if slide.slide_id not in aside)
    learner = job.learners[0]
    if job.folds is not None:
        learner = most_chosen(job.learners, job.run / "folds", job.folds)
    log.say(f"The final model: {learner.name}, {len(train.slides)} slides, {len(val.slides)} set aside")
    method = find_slide_method(learner.method).create(learner.config, train, learner.training.seed)
    method.fit(train, val, job.run, learner.training)
    return method.decision.cautions(method.classes)
