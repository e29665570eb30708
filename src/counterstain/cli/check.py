"""`counterstain check`: whether a cohort can be learned from, before hours are spent on it.

Does not know: how labels are read, what gives a class away.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from counterstain import log
from counterstain.cli import OK, SOME_FAILED, WRONG_USE
from counterstain.errors import CounterstainError, InputError, counted

if TYPE_CHECKING:
    from counterstain.data.cohorts import Dropped
    from counterstain.data.confounds import Association
    from counterstain.data.diagnosis import Diagnosis, DiagnosisSettings
    from counterstain.data.leaks import Finding
    from counterstain.data.slide_facts import Look, SlideFacts

_SHOWN = 8  # values of a trait, or slides of a list, before the rest is counted
_PARTS = {
    "unusable": "can't be used",
    "left out": "left out",
    "repeat": "named again",
    "encoder": "for an encoder alone",
}
_NO_MPP = "its resolution is unknown: add a column 'mpp' to the table, or pass --mpp or --assume-mpp"
_NO_TISSUE = "no tissue was found on it: look at it, or leave it out"


def check(
    table: Annotated[Path, Parameter(name="--cohort")],
    *,
    labels: Annotated[Literal["table", "camelyon16", "tcga"], Parameter(name="--labels")] = "table",
    root: Path | None = None,
    positive: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, negative_iterable="")] = None,
    negative: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, negative_iterable="")] = None,
    patient_is_slide: Annotated[bool, Parameter(negative=())] = False,
    include: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable="")] = (),
    mpp: float | None = None,
    assume_mpp: float | None = None,
    deep: Annotated[bool, Parameter(negative=())] = False,
    json: bool = False,
) -> int:
    """Check a cohort before training: labels, patients, splits, files, and what gives the class away.

    Opens every slide. Refused (exit code 2) are labels in doubt, unknown patients, a patient or a file on two sides of a
    split, a file of two labels. Warnings tell where site, scanner, resolution, file format, size or pen marks go with the
    class, and where patients are too few. Slides that can't be used are listed (exit code 3).

    Args:
        table: The cohort: a table (.csv), or a folder of slides whose names say their labels.
        labels: Where labels come from: the table's column, or the names of Camelyon16's or TCGA's slides.
        root: The folder that paths in the table are relative to; the table's own by default.
        positive: The labels of the positive class, where words such as normal and 0 leave a doubt.
        negative: The labels of the negative class; with --positive, slides of other labels are left out.
        patient_is_slide: Each slide is of a patient of its own, where the table has no patients.
        include: Slides to take although the cohort's list of bad ones names them.
        mpp: Microns per pixel of the slides' level 0, where files say it wrongly or not at all.
        assume_mpp: Likewise, only for slides that say nothing.
        deep: Look for tissue and pen marks on every slide, also where that means decoding all of it.
        json: Answer as JSON.
    """
    from counterstain.cli.inputs import check_resolution
    from counterstain.data.cohorts import open_cohort
    from counterstain.data.diagnosis import DiagnosisSettings, label_slides
    from counterstain.data.slide_facts import Look

    check_resolution("--mpp", mpp)
    check_resolution("--assume-mpp", assume_mpp)
    if not table.is_dir() and table.suffix.lower() not in (".csv", ".tsv") and table.exists():
        raise InputError(f"'{table}' was given as a cohort; a table (.csv) or a folder of slides was expected.")
    settings = DiagnosisSettings(labels, positive, negative, patient_is_slide, include)
    diagnosis = label_slides(open_cohort(table, root), settings)
    look = Look(mpp, assume_mpp, deep)
    checked = _checked(diagnosis, look)
    if json:
        log.emit_json(_to_json(checked))
    else:
        _show(checked)
    if checked.refused:
        return WRONG_USE
    if not json:
        log.emit(f"Next: {_next(table, root, settings, look)}{_folds(checked.usable)}")
    return SOME_FAILED if checked.unusable else OK


def _next(table: Path, root: Path | None, settings: "DiagnosisSettings", look: "Look") -> str:
    """The command that learns from what was checked, with the same word on it."""
    words: list[object] = ["counterstain", "train", "RUN", "--method", "dsnet", "--cohort", table]
    words += ["--labels", settings.cohort] if settings.cohort != "table" else []
    words += ["--patient-is-slide"] if settings.patient_is_slide else []
    given = {"positive": settings.positive, "negative": settings.negative, "include": settings.include}
    for flag, values in given.items():
        words += [f"--{flag}", *values] if values else []
    for flag, value in {"root": root, "mpp": look.mpp, "assume-mpp": look.assume_mpp}.items():
        words += [f"--{flag}", value] if value is not None else []
    return shlex.join(map(str, words))


def _folds(usable: "Diagnosis") -> str:
    """The flag of folds, where patients are too few for the usual number."""
    from counterstain.data.leaks import USUAL_FOLDS, folds_for

    has_test = any(row.split == "test" for row in usable.rows)
    folds = folds_for(usable) or 0
    return "" if has_test or folds == USUAL_FOLDS else f" --folds {folds}"


@dataclass(frozen=True)
class _Checked:
    """What was found.

    Args:
        diagnosis: Of all labelled slides.
        facts: By slide id, of the slides that could be read.
        unusable: Rows and slides that can't be learned from, and somebody wanted to.
        others: That have no part for other reasons.
        usable: The diagnosis of the slides that can be learned from.
        refused: Why nothing should be learned.
        warnings: What a person has to know.
        traits: How traits go with the class.
    """

    diagnosis: "Diagnosis"
    facts: Mapping[str, "SlideFacts"]
    unusable: Sequence["Dropped"]
    others: Sequence["Dropped"]
    usable: "Diagnosis"
    refused: Sequence["Finding"]
    warnings: Sequence["Finding"]
    traits: Sequence["Association"]


def _checked(diagnosis: "Diagnosis", look: "Look") -> _Checked:
    from counterstain.data.confounds import associations, size_warning
    from counterstain.data.leaks import Finding, leaks, many_sites, weaknesses

    facts, unusable = _look_at_all(diagnosis, look)
    lost = {one.what for one in unusable}
    usable = replace(diagnosis, rows=tuple(row for row in diagnosis.rows if row.slide_id not in lost))
    refused, warned = weaknesses(usable)
    traits = associations(usable, facts)
    told = [Finding(trait.trait, trait.warning) for trait in traits if trait.warning is not None]
    found_or_none = (_unlooked(usable, facts), size_warning(usable, facts), many_sites(usable))
    others = [found for found in found_or_none if found is not None]
    return _Checked(
        diagnosis=diagnosis,
        facts=facts,
        unusable=(*(one for one in diagnosis.dropped if one.kind == "unusable"), *unusable),
        others=tuple(one for one in diagnosis.dropped if one.kind != "unusable"),
        usable=usable,
        refused=(*leaks(diagnosis, facts), *refused),
        warnings=(*told, *others, *warned),
        traits=traits,
    )


def _look_at_all(diagnosis: "Diagnosis", look: "Look") -> tuple[dict[str, "SlideFacts"], list["Dropped"]]:
    """What slides are like, and those that can't be used."""
    from counterstain.data.cohorts import Dropped
    from counterstain.data.slide_facts import look_at

    facts, unusable = {}, []
    with log.progress("looking at slides", len(diagnosis.rows), "slides") as counter:
        for row in diagnosis.rows:
            try:
                facts[row.slide_id] = fact = look_at(row.entry, look)
            except (CounterstainError, OSError) as error:
                reason = " ".join(str(error).split())
            else:
                reason = _NO_MPP if fact.mpp is None else _NO_TISSUE if fact.has_tissue is False else ""
            if reason:
                unusable.append(Dropped(row.slide_id, reason, row.entry.line, "unusable"))
            counter.advance(note=row.slide_id)
    return facts, unusable


def _unlooked(diagnosis: "Diagnosis", facts: Mapping[str, "SlideFacts"]) -> "Finding | None":
    """Tells when slides were not looked at for pen marks and tissue: what was not looked for was not ruled out."""
    from counterstain.data.leaks import Finding

    unlooked = sum(facts[row.slide_id].has_tissue is None for row in diagnosis.rows)
    if not unlooked:
        return None
    return Finding(
        "pen marks",
        f"{unlooked} of {counted(len(diagnosis.rows), 'slide')} were not looked at for pen marks and tissue, since that "
        "takes reading much of each: pass --deep to look at all of them.",
    )


def _by_split(diagnosis: "Diagnosis") -> dict[str, list[str]]:
    """For each split, slides of both classes, then patients, as text."""
    from counterstain.data.diagnosis import UNDRAWN

    counts = Counter((row.split or UNDRAWN, row.label) for row in diagnosis.rows)
    patients = {
        split: {row.patient_id for row in diagnosis.rows if (row.split or UNDRAWN) == split} for split, _ in counts
    }
    order = [split for split in ("train", "val", "test", UNDRAWN) if split in patients]
    return {split: [str(counts[split, 0]), str(counts[split, 1]), str(len(patients[split]))] for split in order}


def _show(checked: _Checked) -> None:
    from counterstain.data.cohorts import told_by_reason

    diagnosis, names = checked.usable, checked.usable.classes.names
    log.emit_table(
        f"{diagnosis.source}: slides that can be used",
        ["split", *names, "patients"],
        [[split, *counts] for split, counts in _by_split(diagnosis).items()],
    )
    if checked.traits:
        log.emit_table(
            "Slides by what could give their class away", ["", "", *names, "goes with the class"], _rows(checked)
        )
    _show_findings("Refused", checked.refused)
    _show_findings("Warning", checked.warnings)
    for note in diagnosis.notes:
        log.emit(f"Note: {note}")
    for line in told_by_reason((*checked.unusable, *checked.others), _SHOWN):
        log.emit(line)
    log.emit(_verdict(checked))


def _rows(checked: _Checked) -> list[list[str]]:
    rows = []
    for trait in checked.traits:
        values = list(trait.counts.items())
        strength = f"V {trait.strength:.2f}, p {trait.p_value:.2g}" + (": yes" if trait.warning else "")
        for number, (value, counts) in enumerate(values[:_SHOWN]):
            rows.append([trait.trait if number == 0 else "", value, *map(str, counts), strength if number == 0 else ""])
        if len(values) > _SHOWN:
            rest = [sum(counts[label] for _, counts in values[_SHOWN:]) for label in (0, 1)]
            rows.append(["", f"{len(values) - _SHOWN} more", *map(str, rest), ""])
    return rows


def _show_findings(title: str, findings: Sequence["Finding"]) -> None:
    seen: Counter[str] = Counter()
    for found in findings:
        seen[found.about] += 1
        if seen[found.about] <= _SHOWN:
            log.emit(f"{title} ({found.about}): {found.text}")
    for about, number in seen.items():
        if number > _SHOWN:
            log.emit(f"{title} ({about}): and {number - _SHOWN} more; --json lists all of them.")


def _verdict(checked: _Checked) -> str:
    if checked.refused:
        return f"Verdict: refused for {counted(len(checked.refused), 'reason')}. Mend them and check again."
    what = "slide" if checked.diagnosis.source.is_dir() else "row"
    kinds: Counter[str] = Counter(one.kind for one in (*checked.unusable, *checked.others))
    said = [counted(len(checked.warnings), "warning")] if checked.warnings else []
    said += [f"{counted(kinds[kind], what)} {words}" for kind, words in _PARTS.items() if kinds[kind]]
    return f"Verdict: can be learned from; {', '.join(said) or 'nothing speaks against it'}."


def _to_json(checked: _Checked) -> dict[str, Any]:
    tree = checked.diagnosis.to_json()
    for slide in tree["slides"]:
        fact = checked.facts.get(slide["slide_id"])
        slide["file"] = None if fact is None else asdict(fact)
    names = checked.diagnosis.classes.names
    columns = (*(f"{name} slides" for name in names), "patients")
    return {
        **tree,
        "splits": {
            split: dict(zip(columns, map(int, counts), strict=True))
            for split, counts in _by_split(checked.usable).items()
        },
        "traits": [asdict(trait) for trait in checked.traits],
        "refused": [asdict(found) for found in checked.refused],
        "warnings": [asdict(found) for found in checked.warnings],
        "unusable": [asdict(one) for one in checked.unusable],
        "dropped": [asdict(one) for one in checked.others],
        "verdict": _verdict(checked),
    }
