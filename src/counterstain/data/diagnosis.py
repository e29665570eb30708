"""From a cohort to labelled slides for one binary diagnosis: label, patient and split of each, and what was left out.

What is told of each slide (`slide_labels.py`) becomes 0 or 1 (`label_words.py`). Patients are the table's: without them
nobody could tell whether two splits share one, so that they are never guessed. A slide's label is its own; a patient
counts as positive when any of the slides is.

`label_slides` labels; `diagnose` also refuses what would make a score a lie: a patient on two splits, a file of two labels.

Does not know: pixels, embeddings, folds.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from counterstain.data import camelyon16
from counterstain.data.cohorts import Cohort, CohortSlide, Dropped
from counterstain.data.label_words import Named, classes_of, meanings, plain
from counterstain.data.slide_labels import TELLERS, Told
from counterstain.data.tumour import tumour_classes
from counterstain.errors import InputError, SplitError, UnknownNameError, in_short, listed
from counterstain.results import Classes

_SHOWN = 3  # slides of a patient on a side, before the rest is counted

UNDRAWN = "no split"
"""The side of slides without a split, of which folds are drawn."""


@dataclass(frozen=True)
class DiagnosisSettings:
    """What the slides of a cohort are labelled for.

    Args:
        cohort: "table": the table's words are the labels; "camelyon16" and "tcga": the slides' names say them.
        positive: The labels of the positive class; None where they are in no doubt.
        negative: Likewise of the negative class. Where both are named, slides of other labels are left out aloud.
        patient_is_slide: Each slide is of a patient of its own: the user's word where a table has no patients.
        include: Slides that are taken although the cohort's exclusions name them.

    Raises:
        UnknownNameError: When the cohort is unknown, or a slide to include is excluded by nothing.
        InputError: When a word is named for both classes, or one is named and not looked at.
    """

    cohort: Literal["table", "camelyon16", "tcga"] = "table"
    positive: tuple[str, ...] | None = None
    negative: tuple[str, ...] | None = None
    patient_is_slide: bool = False
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.cohort not in TELLERS:
            raise UnknownNameError("cohort", self.cohort, TELLERS)
        for name in self.include:
            if name.lower() not in self._all_exclusions():
                raise UnknownNameError("excluded slide", name, self._all_exclusions())
        if self.cohort == "tcga" and (self.positive or self.negative):
            raise InputError(
                "--positive and --negative name labels of a table, and TCGA's barcodes say what is tumour. Leave them out, "
                "or read the cohort as a table."
            )
        _ = self.named

    @property
    def named(self) -> Named:
        """The words that the user named for each class."""
        return Named(self.positive, self.negative)

    @property
    def exclusions(self) -> dict[str, str]:
        """Slides that are left out, with their reasons."""
        wanted = {name.lower() for name in self.include}
        return {name: reason for name, reason in self._all_exclusions().items() if name not in wanted}

    def _all_exclusions(self) -> dict[str, str]:
        return camelyon16.exclusions("slide") if self.cohort == "camelyon16" else {}


@dataclass(frozen=True, slots=True)
class DiagnosisSlide:
    """A labelled slide.

    Args:
        entry: The slide.
        label: 0 for the negative class, 1 for the positive one.
        patient_id: Whose tissue it is.
        split: train, val or test; None where it is to be drawn.
    """

    entry: CohortSlide
    label: int
    patient_id: str
    split: str | None

    @property
    def slide_id(self) -> str:
        """Unique in the cohort."""
        return self.entry.slide_id


@dataclass(frozen=True)
class Diagnosis:
    """A cohort's slides, labelled for a binary diagnosis.

    Args:
        source: The table or folder.
        classes: Two: the negative one, which is the background, and the positive one.
        rows: In the cohort's order, at least one of each class.
        dropped: Rows and slides of the cohort that have no part in this diagnosis, with the reason.
        notes: What a report has to say.
        conflicts: Rows of the table that contradict another about the same file.
    """

    source: Path
    classes: Classes
    rows: tuple[DiagnosisSlide, ...]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]
    conflicts: tuple[Dropped, ...] = ()

    @property
    def patients(self) -> dict[str, int]:
        """The label of each patient: positive when any of the slides is."""
        labels: dict[str, int] = {}
        for row in self.rows:
            labels[row.patient_id] = max(row.label, labels.get(row.patient_id, 0))
        return labels

    def shared_patients(self) -> dict[str, tuple[str, ...]]:
        """Patients with slides on two sides of a score, and the sides with their slides, of which UNDRAWN is one."""
        sides: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for row in self.rows:
            sides[row.patient_id][row.split or UNDRAWN].append(row.entry.place)
        return {
            patient: tuple(f"{side} ({in_short(slides, _SHOWN)})" for side, slides in sorted(names.items()))
            for patient, names in sides.items()
            if len(names) > 1
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        slides = [
            {
                "slide_id": row.slide_id,
                "path": str(row.entry.path),
                "label": row.label,
                "patient_id": row.patient_id,
                "split": row.split,
                "site": row.entry.site,
                "scanner": row.entry.scanner,
            }
            for row in self.rows
        ]
        return {
            "source": str(self.source),
            "classes": self.classes.to_json(),
            "slides": slides,
            "dropped": [asdict(one) for one in self.dropped],
            "notes": list(self.notes),
        }


def diagnose(cohort: Cohort, settings: DiagnosisSettings | None = None) -> Diagnosis:
    """The labelled slides of a cohort, free of every leak that its table shows.

    Raises:
        InputError: As `label_slides`; and when rows contradict each other about a file.
        SplitError: When a patient's slides are in two splits.
    """
    diagnosis = label_slides(cohort, settings)
    if diagnosis.conflicts:
        rows = [f"{one.place}: {one.reason}" for one in diagnosis.conflicts]
        raise InputError(listed("Rows contradict each other about a slide. Keep one row for each file:", rows))
    shared = diagnosis.shared_patients()
    if shared:
        rows = [f"{patient}: {', '.join(names)}" for patient, names in shared.items()]
        raise SplitError(listed("Patients have slides in two splits. Give all of a patient's slides one split:", rows))
    return diagnosis


def label_slides(cohort: Cohort, settings: DiagnosisSettings | None = None) -> Diagnosis:
    """Labels a cohort's slides and says what was left out; patients on two splits stay as they are.

    Raises:
        InputError: When labels leave a doubt, patients are unknown, or a class has no slide.
        UnknownNameError: When a named label does not occur, or a split is none of the three.
    """
    settings = settings or DiagnosisSettings()
    told = TELLERS[settings.cohort](cohort, settings.exclusions)
    words = [one.word for one in told.slides]
    meaning = meanings(words, settings.named)
    rows, dropped = _rows(told, meaning, _is_slide_a_patient(cohort, told, settings))
    lost = (*_lost_rows(cohort), *told.dropped, *dropped)
    _refuse_one_class(rows, meaning, lost)
    is_plain = settings.cohort == "table" or settings.positive or settings.negative
    classes = classes_of(words, meaning) if is_plain else tumour_classes()
    notes = (*told.notes, *_word_notes(words, meaning), *_patient_notes(rows, settings))
    return Diagnosis(cohort.source, classes, tuple(rows), lost, notes, cohort.conflicts)


def _lost_rows(cohort: Cohort) -> list[Dropped]:
    """Rows of a table that are no slide; of a folder's other files nobody expects to hear."""
    return [] if cohort.source.is_dir() else [one for one in cohort.dropped if one not in cohort.conflicts]


def _rows(
    told: Told, meaning: Mapping[str, int], is_slide_a_patient: bool
) -> tuple[list[DiagnosisSlide], list[Dropped]]:
    """Slides of either class and of known patients, and the others with their reasons."""
    rows, dropped = [], []
    for one in told.slides:
        patient = one.entry.slide_id if is_slide_a_patient else one.entry.patient_id
        if plain(one.word) not in meaning:
            dropped.append(Dropped(one.entry.slide_id, f"its label {one.word!r} is of neither class", one.entry.line))
        elif patient is None:
            dropped.append(
                Dropped(one.entry.slide_id, "nobody says whose it is: its patient_id is empty", one.entry.line)
            )
        else:
            rows.append(DiagnosisSlide(one.entry, meaning[plain(one.word)], patient, one.split))
    return rows, dropped


def _is_slide_a_patient(cohort: Cohort, told: Told, settings: DiagnosisSettings) -> bool:
    """Whether each slide counts as a patient.

    Raises:
        InputError: When patients are unknown, or known and the user says otherwise.
    """
    has_patients = any(one.entry.patient_id is not None for one in told.slides)
    if settings.patient_is_slide and has_patients:
        raise InputError(
            "--patient-is-slide was given, and the cohort says whose slides they are. Leave the flag out, or remove the "
            "column of patients."
        )
    if not (has_patients or settings.patient_is_slide or told.is_one_each):
        column = cohort.columns.get("patient_id")
        remedy = "Add a column 'patient_id' to the table"
        if column is not None:
            remedy = f"The column {column!r} is empty in all {len(told.slides)} rows with a label: fill it in"
        raise InputError(
            "Nobody says which patient each slide is of: with a patient on two sides, a score measures memory. "
            f"{remedy}, or pass --patient-is-slide if each slide is of a patient of its own."
        )
    return not has_patients


def _refuse_one_class(rows: Sequence[DiagnosisSlide], meaning: Mapping[str, int], dropped: Sequence[Dropped]) -> None:
    found = {row.label for row in rows}
    if found == {0, 1}:
        return
    which = "the negative" if found == {1} else "the positive" if found else "either"
    reasons = [f"{one.place}: {one.reason}" for one in dropped]
    problem = f"No slide is of {which} class; labels are {', '.join(sorted(meaning))}. Add slides of that class."
    raise InputError(listed(f"{problem} Left out:", reasons) if reasons else problem)


def _word_notes(words: Sequence[str], meaning: Mapping[str, int]) -> list[str]:
    others = Counter(plain(word) for word in words if plain(word) not in meaning)
    counts = ", ".join(f"{word} ({count})" for word, count in others.most_common())
    return [f"Slides of labels that are of neither class are left out: {counts}."] if others else []


def _patient_notes(rows: Sequence[DiagnosisSlide], settings: DiagnosisSettings) -> list[str]:
    labels: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        labels[row.patient_id].add(row.label)
    num_mixed = sum(len(found) == 2 for found in labels.values())
    undrawn = sum(row.split is None for row in rows)
    notes = []
    if len(labels) < len(rows):
        notes.append(f"{len(rows)} slides are of {len(labels)} patients, whose slides always stay on one side.")
    if num_mixed:
        notes.append(
            f"{num_mixed} of {len(labels)} patients have slides of both classes: a slide's label is its own, and a "
            "patient counts as positive when any of the slides is."
        )
    if settings.patient_is_slide:
        notes.append("Each slide counts as a patient of its own, by the user's word (--patient-is-slide).")
    if settings.cohort == "table" and 0 < undrawn < len(rows):
        notes.append(f"{undrawn} of {len(rows)} slides have no split: they are learned from like those of train.")
    return notes
