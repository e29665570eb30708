"""What is told of each slide of a cohort: its label's word, its patient, its split; by the table or by published names.

Each reader takes a cohort and gives the slides that something is told of, and the others with their reasons.

Does not know: what a word means for a diagnosis.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from counterstain.data import camelyon16, tcga
from counterstain.data.cohorts import Cohort, CohortSlide, Dropped
from counterstain.data.label_words import NEGATIVE_WORDS, is_label, plain
from counterstain.data.records import SPLITS
from counterstain.data.splits import SPLIT_WORDS
from counterstain.errors import InputError, UnknownNameError, listed


@dataclass(frozen=True, slots=True)
class ToldSlide:
    """A slide and what is told of it.

    Args:
        entry: The slide; `patient_id` and `site` as far as anybody knows them.
        word: Its label, as it is written.
        split: train, val or test; None where none is told.
    """

    entry: CohortSlide
    word: str
    split: str | None


@dataclass(frozen=True)
class Told:
    """What a cohort tells.

    Args:
        slides: Those with a label.
        dropped: The others.
        notes: What a report has to say.
        is_one_each: Whether the cohort is known to have one slide of each patient.
    """

    slides: tuple[ToldSlide, ...]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...] = ()
    is_one_each: bool = False


ENCODER_SPLIT = "encoder"
"""What a table calls slides that only an encoder learns from; they are no part of a diagnosis."""


def tell_table(cohort: Cohort, _: Mapping[str, str]) -> Told:
    """What the columns of a table say.

    Raises:
        InputError: When no slide has a label.
        UnknownNameError: When a split is none of the three.
    """
    slides, dropped = [], []
    for entry in cohort.slides:
        if entry.split is not None and entry.split.lower() == ENCODER_SPLIT:
            reason = f"its split is {entry.split!r}: it trains an encoder and is not scored"
            dropped.append(Dropped(entry.slide_id, reason, entry.line, "encoder"))
        elif entry.label is not None and is_label(entry.label):
            slides.append(ToldSlide(entry, entry.label, _split(entry)))
        else:
            said = "it has no label" if entry.label is None else f"its label is {entry.label!r}, which says none"
            dropped.append(Dropped(entry.slide_id, said, entry.line))
    if not slides:
        unused = f" Columns that are not used: {', '.join(cohort.ignored_columns)}." if cohort.ignored_columns else ""
        raise InputError(
            f"No slide of '{cohort.source}' has a label. Give a table with a column 'label', or --labels camelyon16 or "
            f"tcga where the slides' names say it.{unused}"
        )
    return Told(tuple(slides), tuple(dropped))


def tell_camelyon16(cohort: Cohort, excluded: Mapping[str, str]) -> Told:
    """What the names of Camelyon16's slides say, and the release's `reference.csv`; a table's own labels win.

    Raises:
        InputError: When no slide is one of the release's and labelled, or there are several references.
        UnknownNameError: When a table's split is none of the three.
    """
    reference = _reference(cohort.source)
    slides, dropped, relabelled = [], [], []
    for entry in cohort.slides:
        known = camelyon16.parse_name(entry.path.stem)
        if known is None:
            dropped.append(Dropped(entry.slide_id, "by its name no slide of camelyon16", entry.line))
            continue
        is_tumour = known.is_tumour if known.is_tumour is not None else reference.get(known.name)
        word = entry.label if is_label(entry.label) else None
        if known.name in excluded:
            dropped.append(Dropped(entry.slide_id, excluded[known.name], entry.line))
        elif word is not None:
            slides.append(ToldSlide(entry, word, _split(entry) or known.split))
            relabelled += [known.name] if is_tumour is (plain(word) in NEGATIVE_WORDS) else []
        elif is_tumour is not None:
            slides.append(ToldSlide(entry, "tumour" if is_tumour else "normal", _split(entry) or known.split))
        else:
            why = "reference.csv does not name it" if reference else "no reference.csv says what test slides hold"
            dropped.append(Dropped(entry.slide_id, f"{why}; put the release's own beside the slides", entry.line))
    if not slides:
        reasons = [f"{one.place}: {one.reason}" for one in dropped]
        raise InputError(listed(f"'{cohort.source}' holds no labelled slide of Camelyon16:", reasons))
    is_one_each = all(one.entry.patient_id is None for one in slides)
    notes = ["Labels come from the names of Camelyon16's slides, and from reference.csv for its test set."]
    notes += ["The release has one slide of each patient, so each slide counts as a patient."] if is_one_each else []
    if relabelled:
        notes.append(f"The table labels {len(relabelled)} slides otherwise and is followed: {', '.join(relabelled)}.")
    return Told(tuple(slides), tuple(dropped), tuple(notes), is_one_each)


def tell_tcga(cohort: Cohort, _: Mapping[str, str]) -> Told:
    """What the barcodes in file names say; a table's own labels, patients and sites are not looked at.

    Raises:
        InputError: When no slide is a frozen section of tumour or normal tissue.
        UnknownNameError: When a table's split is none of the three.
    """
    slides, dropped = [], []
    for entry in cohort.slides:
        barcode = tcga.parse_barcode(entry.path.name) or tcga.parse_barcode(entry.slide_id)
        reason = "its name holds no slide's barcode (TCGA-XX-XXXX-01A-01-TS1)"
        if barcode is not None:
            reason = tcga.refusal(barcode) or ""
        if barcode is None or reason:
            dropped.append(Dropped(entry.slide_id, reason, entry.line))
            continue
        known = replace(entry, patient_id=barcode.patient, site=barcode.site)
        slides.append(ToldSlide(known, "tumour" if tcga.is_tumour(barcode) else "normal", _split(entry)))
    if not slides:
        reasons = [f"{one.place}: {one.reason}" for one in dropped]
        raise InputError(listed(f"'{cohort.source}' holds no frozen section of TCGA:", reasons))
    notes = ["Labels, patients and sites come from TCGA's barcodes; of both classes only frozen sections are taken."]
    if any(entry.label is not None for entry in cohort.slides):
        notes.append("The table's own labels are not looked at.")
    return Told(tuple(slides), tuple(dropped), tuple(notes))


TELLERS: dict[str, Callable[[Cohort, Mapping[str, str]], Told]] = {
    "table": tell_table,
    "camelyon16": tell_camelyon16,
    "tcga": tell_tcga,
}
"""Who says what slides are: takes the cohort, and excluded slides with their reasons."""


def _reference(source: Path) -> dict[str, bool]:
    """What `reference.csv` says, anywhere below a folder or beside a table."""
    beside = (source.parent / "reference.csv", source.parent / "testing" / "reference.csv")
    files = sorted(source.rglob("reference.csv")) if source.is_dir() else [path for path in beside if path.is_file()]
    if len(files) > 1:
        raise InputError(
            listed("Several files say what the test slides hold. Keep one of them:", [str(path) for path in files])
        )
    return camelyon16.read_reference(files[0]) if files else {}


def _split(entry: CohortSlide) -> str | None:
    if entry.split is None:
        return None
    split = SPLIT_WORDS.get(entry.split.lower())
    if split is None:
        raise UnknownNameError(f"split of slide {entry.slide_id!r}", entry.split, SPLITS)
    return split
