"""What labels, patients and splits alone say against training: leaks, missing classes, too few patients.

A leak is certain and refused: a patient or a file on two sides of a score, or a file of two labels.

Does not know: what slides show, what is learned.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from counterstain.data.diagnosis import UNDRAWN, Diagnosis, DiagnosisSlide
from counterstain.data.folds import most_folds, patients_by_label, patients_needed
from counterstain.data.slide_facts import SlideFacts
from counterstain.errors import counted

_WIDE = 0.15  # half of an interval around an AUC from which on more patients are asked for

USUAL_FOLDS = 5
"""How many folds a training deals where nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person has to know before training.

    Args:
        about: In a word or two.
        text: One sentence or two, with counts and what to do.
    """

    about: str
    text: str


def leaks(diagnosis: Diagnosis, facts: Mapping[str, SlideFacts]) -> tuple[Finding, ...]:
    """What must not be learned from: each of these is refused.

    Args:
        diagnosis: As `label_slides` gives it.
        facts: By slide id, of the slides that could be read.
    """
    found = [Finding("rows", f"{one.place}: {one.reason}. Keep one row for each file.") for one in diagnosis.conflicts]
    found += [
        Finding(
            "patient",
            f"Patient {patient} is on {len(sides)} sides: {', '.join(sides)}. Give all slides of this patient one split.",
        )
        for patient, sides in diagnosis.shared_patients().items()
    ]
    by_hash: dict[str, list[DiagnosisSlide]] = defaultdict(list)
    for row in diagnosis.rows:
        if row.slide_id in facts:
            by_hash[facts[row.slide_id].content_hash].append(row)
    return (*found, *(_same_file(rows, diagnosis) for rows in by_hash.values() if len(rows) > 1))


def _same_file(rows: Sequence[DiagnosisSlide], diagnosis: Diagnosis) -> Finding:
    said = {
        "label": {diagnosis.classes.names[row.label] for row in rows},
        "split": {row.split or UNDRAWN for row in rows},
        "patient": {row.patient_id for row in rows},
    }
    differing = [f"{what} {' and '.join(sorted(values))}" for what, values in said.items() if len(values) > 1]
    what = f", with {'; '.join(differing)}" if differing else ""
    names = " and ".join(row.slide_id for row in rows)
    return Finding("file", f"{names} are one file under {len(rows)} names{what}. Keep one of them.")


def weaknesses(diagnosis: Diagnosis) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """What numbers of patients alone say.

    Args:
        diagnosis: Of the slides that can be used.

    Returns:
        What is to be refused, and what is to be warned of.
    """
    names = diagnosis.classes.names
    patients: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    learned = "train" if any(row.split == "train" for row in diagnosis.rows) else UNDRAWN
    for row in diagnosis.rows:
        patients[row.split or learned][row.label].add(row.patient_id)
    refused, warned = [], []
    for split, label in [(split, label) for split in {learned: 0, **patients} for label in (0, 1)]:
        if split == learned and not patients[split][label]:
            text = f"There is no {names[label]} slide to learn from ({split}). Add some, or change the splits."
            refused.append(Finding("classes", text))
        elif split == "val" and not patients[split][label]:
            text = (
                f"The split val has no {names[label]} slide, and it chooses and calibrates the model. Give some "
                f"{names[label]} slides the split val, or leave val out."
            )
            refused.append(Finding("classes", text))
        elif not patients[split][label]:
            text = f"The split {split} has no {names[label]} slide: no AUC can be told of it."
            warned.append(Finding("classes", text))
    if not refused and "val" not in patients and folds_for(diagnosis) is None:
        refused.append(Finding("few patients", _too_few(diagnosis)))
    warned += (
        _wide("the test split", patients["test"], names)
        if "test" in patients
        else _wide("all", patients[learned], names)
    )
    if not refused and "test" not in patients:
        warned += _few_for_folds(diagnosis)
    return tuple(refused), tuple(warned)


def folds_for(diagnosis: Diagnosis) -> int | None:
    """How many folds the patients that are learned from are enough for, up to five; 0 for a model without an estimate, None
    where they are not even enough for that.
    """
    candidates = _candidates(diagnosis)
    is_enough = min(patients_by_label(candidates)) >= patients_needed(0)
    return most_folds(candidates, USUAL_FOLDS) if is_enough else None


def _candidates(diagnosis: Diagnosis) -> list[DiagnosisSlide]:
    return [row for row in diagnosis.rows if row.split in (None, "train")]


def _too_few(diagnosis: Diagnosis) -> str:
    counts = zip(patients_by_label(_candidates(diagnosis)), diagnosis.classes.names, strict=True)
    found = ", ".join(f"{number} {name}" for number, name in counts)
    return (
        f"Of patients to learn from there are: {found}; 2 of each class are needed, one to learn from and one to validate "
        "on. Add patients."
    )


def _few_for_folds(diagnosis: Diagnosis) -> list[Finding]:
    folds = folds_for(diagnosis) or 0
    if folds == USUAL_FOLDS:
        return []
    fewest = min(patients_by_label(_candidates(diagnosis)))
    remedy = f"pass --folds {folds}" if folds else "pass --folds 0, for a model without an estimate"
    text = (
        f"A class has {counted(fewest, 'patient')}, and {USUAL_FOLDS} folds, the default, take {USUAL_FOLDS}: {remedy}."
    )
    return [Finding("few patients", text)]


def _wide(where: str, scored: tuple[set[str], set[str]], names: tuple[str, ...]) -> list[Finding]:
    """A warning of how little the patients of a split, or of all folds, can tell."""
    num_negative, num_positive = map(len, scored)
    if not num_negative or not num_positive:
        return []
    positive = counted(num_positive, f"{names[1]} patient")
    half = 1.96 * auc_error(0.8, num_positive, num_negative)
    if half > _WIDE:
        text = (
            f"{num_negative} {names[0]} and {positive} in {where}: an AUC of 0.80 would "
            f"be known to +-{half:.2f} at 95 % confidence. More patients make it narrower, more slides of the same do not."
        )
        return [Finding("few patients", text)]
    return []


def auc_error(auc: float, num_positive: int, num_negative: int) -> float:
    """The standard error of an AUC.

    Source: Hanley and McNeil 1982, The meaning and use of the area under a ROC curve, Radiology 143:29-36.
    """
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (num_positive - 1) * (one - auc**2) + (num_negative - 1) * (two - auc**2)
    return float(np.sqrt(spread / (num_positive * num_negative)))


def many_sites(diagnosis: Diagnosis) -> Finding | None:
    """Tells of patients with slides of several sites, who may be different people under one number."""
    sites: dict[str, set[str]] = defaultdict(set)
    for row in diagnosis.rows:
        sites[row.patient_id] |= {row.entry.site} if row.entry.site is not None else set()
    several = [patient for patient, of in sites.items() if len(of) > 1]
    if not several:
        return None
    return Finding(
        "patient",
        f"{len(several)} of {len(sites)} patients have slides from several sites ({', '.join(several[:3])}): if these are "
        "different people with one number, put the site into patient_id.",
    )
