"""Slides with what patches of them will need to know: is there tumour, where is it drawn, whose is it, which split.

Labels come from a cohort table, or from the names of a published cohort; a slide of unknown label is refused, since a
forgotten annotation file would make tumour normal. Splits come from table or cohort, else whole patients are drawn, tumour
and normal ones apart, so that every split gets both. A slide whose tumour is drawn in part is never scored.

Does not know: pixels, polygons, patches.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from counterstain.data import camelyon16
from counterstain.data.cohorts import CohortSlide, Dropped
from counterstain.data.records import SPLITS
from counterstain.data.splits import SPLIT_WORDS, Fractions, split_patients
from counterstain.errors import InputError, SplitError, UnknownNameError, listed
from counterstain.files import existing

COHORTS = ("camelyon16",)
"""Cohorts whose names say labels and splits."""

_WORDS = {
    **dict.fromkeys(("tumour", "tumor", "positive", "1"), True),
    **dict.fromkeys(("normal", "negative", "0"), False),
}


@dataclass(frozen=True, slots=True)
class TumourSlide:
    """A slide to cut patches from.

    Args:
        name: Unique among them; part of file names.
        entry: The slide.
        is_tumour: Whether it holds any.
        annotation: Where its tumour is drawn; None where there is no such file, which only normal slides may lack.
        patient: Whose tissue it is; the slide itself where nobody says.
        split: train, val or test.
    """

    name: str
    entry: CohortSlide
    is_tumour: bool
    annotation: Path | None
    patient: str
    split: str


@dataclass(frozen=True)
class SlidePlan:
    """What is cut, what is not, and why.

    Args:
        slides: In order of their names.
        excluded: Left out for a published reason, or as no slide of the cohort.
        refused: Asked for and not usable.
        notes: What a report on the patches has to say.
    """

    slides: tuple[TumourSlide, ...]
    excluded: tuple[Dropped, ...]
    refused: tuple[Dropped, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlanSettings:
    """How slides get labels and splits.

    Args:
        cohort: One of COHORTS, whose names are understood; None where a table says everything.
        include: Slides that are taken although the cohort's exclusions name them.
        fractions: Of the patients of unknown split in train, val and test.
        seed: Of that split.
        partly_drawn: Slides on which some tumour was not drawn: they go into train, where no drawing is looked at as truth.

    Raises:
        UnknownNameError: When the cohort is unknown, or a slide to include is excluded by nothing.
    """

    cohort: str | None = None
    include: tuple[str, ...] = ()
    fractions: Fractions = (0.8, 0.2, 0.0)
    seed: int = 0
    partly_drawn: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.cohort is not None and self.cohort not in COHORTS:
            raise UnknownNameError("cohort", self.cohort, COHORTS)
        for name in self.include:
            if name.lower() not in self.exclusions:
                raise UnknownNameError("excluded slide", name, self.exclusions)

    @property
    def exclusions(self) -> Mapping[str, str]:
        """The cohort's, with their reasons."""
        return {} if self.cohort is None else camelyon16.EXCLUSIONS


def plan_slides(entries: Sequence[CohortSlide], annotations: Path, settings: PlanSettings) -> SlidePlan:
    """Gives every slide its name, label, annotation, patient and split.

    Args:
        entries: The slides.
        annotations: The folder below which annotation files (.xml) lie, named as their slides.
        settings: Cohort and split.

    Raises:
        MissingFileError: When the folder is not there.
        InputError: When two slides have one name, there are several references, or no slide is left.
        SplitError: When a patient's slides are of two splits, or there are too few patients to split.
    """
    by_name = _named(entries, settings.cohort)
    drawn = _annotation_files(annotations)
    include = {name.lower() for name in settings.include}
    reasons = {name: why for name, why in settings.exclusions.items() if name not in include}
    excluded = [Dropped(name, reasons[name.lower()]) for name in by_name if name.lower() in reasons]
    strangers = [name for name, entry in by_name.items() if settings.cohort is not None and _is_stranger(entry)]
    excluded += [
        Dropped(name, f"by its name no slide of {settings.cohort}; a table may label it") for name in strangers
    ]
    labels = _Labels(drawn, _reference(annotations, settings), settings.cohort)
    kept: dict[str, bool] = {}
    told: dict[str, str | None] = {}
    refused: list[Dropped] = []
    for name, entry in by_name.items():
        if name.lower() in reasons or name in strangers:
            continue
        try:
            told[name] = _told_split(name, entry, settings)
            kept[name] = labels.of(name, entry)
        except InputError as error:
            refused.append(Dropped(name, str(error)))
    if not kept:
        why = [f"{one.what}: {one.reason}" for one in (*refused, *excluded)]
        raise InputError(listed("None of the slides can be cut:", why))
    patients = {name: by_name[name].patient_id or name for name in kept}
    splits = _splits(kept, patients, told, settings)
    slides = [
        TumourSlide(name, by_name[name], kept[name], _file(drawn, name), patients[name], splits[patients[name]])
        for name in sorted(kept)
    ]
    return SlidePlan(tuple(slides), tuple(excluded), tuple(refused), _notes(slides, settings))


def _notes(slides: Sequence[TumourSlide], settings: PlanSettings) -> tuple[str, ...]:
    unknown = [
        one.name
        for one in slides
        if one.entry.patient_id is None and (settings.cohort is None or camelyon16.parse_name(one.name) is None)
    ]
    partly = [one.name for one in slides if _is_partly_drawn(one.name, settings)]
    notes = []
    if unknown:
        notes.append(
            f"The patients of {len(unknown)} of {len(slides)} slides are not known: each of these slides counts as a "
            "patient of its own, so that intervals come out too narrow, and nobody can tell whether two splits share a "
            "patient."
        )
    if partly:
        notes.append(f"{len(partly)} slides said to be annotated in part are in train: {', '.join(partly)}.")
    return tuple(notes)


def _is_stranger(entry: CohortSlide) -> bool:
    """Whether a file is none of Camelyon16's slides and nobody labelled it: the release has masks among its slides."""
    return entry.label is None and camelyon16.parse_name(entry.path.stem) is None


def _named(entries: Sequence[CohortSlide], cohort: str | None) -> dict[str, CohortSlide]:
    """Slides by the name that a release gives them.

    Others by their file's stem, by their whole identifier where two share it; letters, digits, `_` and `-` alone.
    """
    stems = Counter(entry.path.stem.lower() for entry in entries)
    names: dict[str, CohortSlide] = {}
    for entry in entries:
        known = camelyon16.parse_name(entry.path.stem) if cohort is not None else None
        is_unique = stems[entry.path.stem.lower()] == 1
        called = known.name if known is not None else entry.path.stem if is_unique else entry.slide_id
        name = re.sub(r"[^A-Za-z0-9_-]", "_", called)
        if name in names:
            remedy = "Rename one of them" if known is None else f"{cohort} has one slide of that name: keep one of them"
            raise InputError(f"'{names[name].path}' and '{entry.path}' would both be called {name}. {remedy}.")
        names[name] = entry
    return dict(sorted(names.items()))


def _annotation_files(folder: Path) -> dict[str, list[Path]]:
    """Annotation files by the name of their slide, in lower case."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(existing(folder, "a folder of annotations").rglob("*")):
        if path.suffix.lower() == ".xml" and not path.name.startswith("."):
            found[re.sub(r"[^a-z0-9_-]", "_", path.stem.lower())].append(path)
    return dict(found)


def _file(drawn: Mapping[str, Sequence[Path]], name: str) -> Path | None:
    """The annotation file of a slide; None where it has none.

    Raises:
        InputError: When it has several.
    """
    paths = drawn.get(name.lower(), ())
    if len(paths) > 1:
        raise InputError(f"Several annotation files have its name. Keep one of {', '.join(map(str, paths))}.")
    return paths[0] if paths else None


def _reference(annotations: Path, settings: PlanSettings) -> dict[str, bool]:
    if settings.cohort is None:
        return {}
    files = sorted(annotations.rglob("reference.csv"))
    if len(files) > 1:
        raise InputError(
            listed("Several files say what the test slides hold. Keep one of them:", [str(path) for path in files])
        )
    return camelyon16.read_reference(files[0]) if files else {}


@dataclass(frozen=True)
class _Labels:
    """Where labels come from."""

    drawn: Mapping[str, Sequence[Path]]
    reference: Mapping[str, bool]
    cohort: str | None

    def of(self, name: str, entry: CohortSlide) -> bool:
        """Whether a slide holds tumour.

        Raises:
            InputError: When nobody says, it does and nobody drew where, or two files say where.
        """
        is_tumour = self._told(entry)
        if _file(self.drawn, name) is None and is_tumour:
            raise InputError(f"It holds tumour, but no {name}.xml says where. Add its annotation file.")
        return is_tumour

    def _told(self, entry: CohortSlide) -> bool:
        if entry.label is not None:
            if entry.label.lower() not in _WORDS:
                raise InputError(f"Its label is {entry.label!r}; one of {', '.join(_WORDS)} was expected.")
            return _WORDS[entry.label.lower()]
        if self.cohort is None:
            raise InputError(
                "Nobody says whether it holds tumour. Add a column 'label' (tumour, normal) to the cohort's table, or pass "
                "--preset camelyon16_p512 for the slides of that cohort."
            )
        known = camelyon16.parse_name(entry.path.stem)
        assert known is not None, "strangers to the cohort were left out"
        if known.is_tumour is not None:
            return known.is_tumour
        if not self.reference:  # a missing annotation file is no evidence: it may be missing for every reason
            raise InputError(
                "Its name does not say whether it holds tumour. Add the release's reference.csv to the annotations, or a "
                "column 'label' to the cohort's table."
            )
        return self._referred(known.name)

    def _referred(self, name: str) -> bool:
        if name not in self.reference:
            raise InputError("reference.csv does not name it. Complete that file, or leave the slide out.")
        return self.reference[name]


def _splits(
    kept: Mapping[str, bool],
    patients: Mapping[str, str],
    told_of: Mapping[str, str | None],
    settings: PlanSettings,
) -> dict[str, str]:
    """The split of each patient."""
    told: dict[str, set[str]] = defaultdict(set)
    for name in kept:
        split = told_of[name]
        if split is not None:
            told[patients[name]].add(split)
    both = [f"{patient}: {', '.join(sorted(splits))}" for patient, splits in told.items() if len(splits) > 1]
    if both:
        raise SplitError(listed("Patients have slides in two splits. Give all of a patient's slides one split:", both))
    splits = {patient: next(iter(names)) for patient, names in told.items()}
    with_tumour = {patients[name] for name, is_tumour in kept.items() if is_tumour}
    unknown = set(patients.values()) - splits.keys()
    for group in (unknown & with_tumour, unknown - with_tumour):
        splits |= _drawn(group, settings)
    return splits


def _drawn(patients: Iterable[str], settings: PlanSettings) -> dict[str, str]:
    patients = sorted(patients)
    return split_patients(patients, settings.fractions, settings.seed) if patients else {}


def _told_split(name: str, entry: CohortSlide, settings: PlanSettings) -> str | None:
    """The split that a slide has to be in; None where it may be drawn.

    Raises:
        UnknownNameError: When the table names another than the three.
        InputError: When it is to be scored, and its tumour is drawn in part.
    """
    split = None
    if entry.split is not None:
        split = SPLIT_WORDS.get(entry.split.lower())
        if split is None:
            raise UnknownNameError(f"split of slide {entry.slide_id!r}", entry.split, SPLITS)
    elif settings.cohort is not None:
        known = camelyon16.parse_name(entry.path.stem)
        split = None if known is None else known.split
    if not _is_partly_drawn(name, settings):
        return split
    if split not in (None, "train"):
        raise InputError(
            f"It is to be in {split}, and its tumour is drawn in part: it can't be scored. Give it the split train, or "
            "take it out of partly_drawn once all its tumour is drawn."
        )
    return "train"


def _is_partly_drawn(name: str, settings: PlanSettings) -> bool:
    return name.lower() in {one.lower() for one in settings.partly_drawn}
