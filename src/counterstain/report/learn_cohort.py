"""From a cohort to a diagnosis that can be trusted as far as it says: encoder, embeddings, folds, final model, report.

    cohort -> labelled slides -> encoder -> encoded slides -> folds: an honest estimate -> the model of all training slides

    RUN/encoder/               an encoder that was trained here, on training slides alone
    RUN/encoded/<slide>/       cells and embeddings
    RUN/folds/                 as `cross_validate` makes it
    RUN/scores.csv             every slide, scored by a model that never saw its patient
    RUN/diagnosis.json         what these scores amount to, with intervals; figures/ beside it
    RUN/model.json ...         the final model

Slides that can't be read or encoded are listed with their reasons; the others go on. Test slides of the table are left to
`evaluate`, which opens them once. An encoder that is trained here for folds is trained anew in every fold, unless it is
to be shared, and then the report says that it saw the tissue of all of them, without a label.

Does not know: command lines, networks, file formats.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from counterstain import log
from counterstain.data.diagnosis import Diagnosis, DiagnosisSlide
from counterstain.data.encoded import SlideSet
from counterstain.data.folds import inner_split
from counterstain.data.slide_sets import labelled_slides, open_slide_set
from counterstain.errors import InputError, listed
from counterstain.files import write_json
from counterstain.infer.cells import CellSettings
from counterstain.infer.encode import EncodeSettings
from counterstain.jobs.encode import EncodeJob, encode_cohort
from counterstain.jobs.run import Failure
from counterstain.jobs.train_encoder import EncoderTraining, train_encoder
from counterstain.methods import find_slide_method
from counterstain.methods.scae import scae_encoder
from counterstain.models.encoders import PatchEncoder, backbone_encoder
from counterstain.report.crossval import FoldSettings, Learner, cross_validate, most_chosen
from counterstain.report.diagnosis import describe_scores, write_scores
from counterstain.report.diagnosis_figures import draw_diagnosis

TRAINED_HERE = "scae"
"""The encoder that is trained on the cohort's own slides."""


@dataclass(frozen=True)
class EncoderChoice:
    """What encodes cells.

    Args:
        name: "scae" to train one here, the folder of a trained one, or a backbone's name.
        weights: Of a backbone.
        training: Of an S-CAE that is trained here.
        is_shared: Whether folds share the one that is trained on all of their slides.
        encoded: A folder of slides that were encoded before, by an encoder of that name; nothing is encoded then.
    """

    name: str = TRAINED_HERE
    weights: Path | None = None
    training: EncoderTraining = field(default_factory=EncoderTraining)
    is_shared: bool = False
    encoded: Path | None = None

    @property
    def is_trained_here(self) -> bool:
        """Whether it learns from the cohort."""
        return self.encoded is None and self.name == TRAINED_HERE


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
        if len(self.learners) != 1 and self.folds is None:
            raise InputError(f"{len(self.learners)} learners were given; folds choose between them: give --folds.")


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
        SplitError: When a class has too few patients.
        StaleResultError: When the run folder holds a run of other slides or settings.
    """
    rows = [row for row in diagnosis.rows if row.split in (None, "train", "val")]
    if not rows:
        raise InputError(f"'{diagnosis.source}' has test slides alone. Give some the split train, or leave splits out.")
    failures: dict[str, Failure] = {}
    notes = list(diagnosis.notes)
    learning = [row for row in rows if row.split != "val"]
    everything = _encoded(diagnosis, rows, learning, job, job.run, failures)
    estimate = None
    if job.folds is not None:
        candidates = everything.of(slide.slide_id for slide in everything.slides if slide.split != "val")
        encode = _fold_encoder(diagnosis, job, failures) if _is_by_fold(job) else None
        if job.encoder.is_trained_here and encode is None:
            notes.append(
                "The encoder was trained on the tissue of all folds, without labels: the estimate is optimistic."
            )
        scores = cross_validate(candidates, job.learners, job.run / "folds", job.folds, encode)
        write_scores(job.run / "scores.csv", scores)
        estimate = {**describe_scores(scores, everything.classes), "notes": notes}
        write_json(job.run / "diagnosis.json", estimate)
        draw_diagnosis(scores, everything.classes, job.run / "figures")
    _final(everything, job)
    return CohortRun(job.run, everything, tuple(failures.values()), estimate, tuple(notes))


def _is_by_fold(job: CohortJob) -> bool:
    return job.encoder.is_trained_here and not job.encoder.is_shared


def _encoded(
    diagnosis: Diagnosis,
    rows: Sequence[DiagnosisSlide],
    learning: Sequence[DiagnosisSlide],
    job: CohortJob,
    folder: Path,
    failures: dict[str, Failure],
) -> SlideSet:
    """The slides as an encoder sees them that learned, if it learns here, from some of them alone."""
    choice, out = job.encoder, job.encoder.encoded or folder / "encoded"
    name = choice.name
    if choice.encoded is None:
        encoder = _encoder(learning, job, folder / "encoder", failures)
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
            reasons = [f"{one.slide_id}: {one.reason}" for one in failures.values()]
            raise InputError(listed(f"No {word} slide could be encoded, so there is nothing to learn from:", reasons))
    return open_slide_set(diagnosis.source.stem, diagnosis.classes, labelled, name)


def _encoder(
    learning: Sequence[DiagnosisSlide], job: CohortJob, folder: Path, failures: dict[str, Failure]
) -> PatchEncoder:
    choice = job.encoder
    if not choice.is_trained_here:
        if (Path(choice.name) / "model.json").is_file():
            return scae_encoder(choice.name)
        return backbone_encoder(choice.name, choice.weights)
    log.say(f"Training an S-CAE on cells of {len(learning)} slides")
    readable = [row.entry for row in learning if row.slide_id not in failures]
    training = replace(choice.training, slide_mpp=job.slide_mpp, assume_mpp=job.assume_mpp)
    failures |= {one.slide_id: one for one in train_encoder(readable, folder, training)}
    return scae_encoder(folder)


def _fold_encoder(
    diagnosis: Diagnosis, job: CohortJob, failures: dict[str, Failure]
) -> Callable[[SlideSet, Path], SlideSet]:
    """Trains an encoder on a fold's training slides and encodes all slides with it."""
    by_id: Mapping[str, DiagnosisSlide] = {row.slide_id: row for row in diagnosis.rows}

    def encode(train: SlideSet, folder: Path) -> SlideSet:
        rows = [row for row in diagnosis.rows if row.split in (None, "train") and row.slide_id not in failures]
        learning = [by_id[slide.slide_id] for slide in train.slides]
        return _encoded(diagnosis, rows, learning, job, folder, dict(failures))

    return encode


def _final(slides: SlideSet, job: CohortJob) -> None:
    """The model of all training slides, with those set aside that the table names, or some of their patients."""
    val = slides.split("val")
    if val.slides:
        train = slides.of(slide.slide_id for slide in slides.slides if slide.split != "val")
    else:
        names = inner_split(slides.slides, job.val, job.learners[0].training.seed)
        train, val = (slides.of(part) for part in names)
    learner = job.learners[0] if len(job.learners) == 1 else most_chosen(job.learners, job.run / "folds")
    log.say(f"The final model: {learner.name}, {len(train.slides)} slides, {len(val.slides)} set aside")
    find_slide_method(learner.method).create(learner.config, train, learner.training.seed).fit(
        train, val, job.run, learner.training
    )
