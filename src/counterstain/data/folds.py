"""Folds and inner splits of labelled slides: whole patients, both classes on every side.

Patients are dealt out one by one, each to the fold that has the fewest of its kind, so that the numbers of patients with
slides of a class differ by one between folds. Repeats deal again with another seed.

Does not know: slides' files, embeddings, methods.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from counterstain.errors import InputError, SplitError

Kind = frozenset[int]
"""The labels of a patient's slides: {0}, {1}, or both."""


class PatientSlide(Protocol):
    """What folds need to know of a slide."""

    @property
    def slide_id(self) -> str:
        """Unique among them."""

    @property
    def patient_id(self) -> str:
        """Whose tissue it is."""

    @property
    def label(self) -> int | None:
        """0 or 1; None is refused."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold of one repeat, by slide ids in the order given.

    Args:
        repeat: From 0.
        number: From 0, within its repeat.
        train: Slides to learn from; a validation part is taken of these.
        test: Slides to score once.
    """

    repeat: int
    number: int
    train: tuple[str, ...]
    test: tuple[str, ...]


def patient_folds(slides: Sequence[PatientSlide], k: int, seed: int, repeats: int = 1) -> tuple[Fold, ...]:
    """Cross-validation folds: within a repeat every slide is tested once.

    Args:
        slides: All of known label.
        k: How many folds, at least 2.
        seed: Of all draws; repeat r is drawn by (seed, r).
        repeats: How often all slides are dealt out anew.

    Returns:
        The folds of repeat 0, then those of repeat 1, ...

    Raises:
        InputError: When `k` or `repeats` is too small, or a slide has no label.
        SplitError: When a class has slides of fewer patients than there are folds.

    Source: ours. scikit-learn's StratifiedGroupKFold balances slides, and lets patients of a class differ by up to three
        between folds; estimates count patients, so here they differ by one at most.
    """
    if k < 2 or repeats < 1:
        raise InputError(f"{k} folds and {repeats} repeats were given; at least 2 folds and 1 repeat are needed.")
    kinds, _ = _kinds_and_counts(slides)
    _refuse_few(kinds, k, f"{k} folds", "Take fewer folds, or add patients.")
    folds = []
    for repeat in range(repeats):
        place = _dealt(slides, k, np.random.default_rng((seed, repeat)))
        for number in range(k):
            test = tuple(slide.slide_id for slide in slides if place[slide.patient_id] == number)
            train = tuple(slide.slide_id for slide in slides if place[slide.patient_id] != number)
            folds.append(Fold(repeat, number, train, test))
    return tuple(folds)


def inner_split(slides: Sequence[PatientSlide], fraction: float, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A validation part of training slides, to stop, choose and calibrate on: whole patients, both classes on both sides.

    Args:
        slides: The training slides of a fold or of a split.
        fraction: Of the patients that are to validate; rounded so that they are one of a whole number of parts, and raised
            until each class has a patient among them.
        seed: Of the draw.

    Returns:
        Slide ids to learn from and to validate on, in the order given.

    Raises:
        InputError: When the fraction is not within (0, 0.5], or a slide has no label.
        SplitError: When a class has slides of a single patient.
    """
    if not 0 < fraction <= 0.5:
        raise InputError(f"A fraction of {fraction} was given to validate on; it must be above 0 and at most 0.5.")
    kinds, _ = _kinds_and_counts(slides)
    _refuse_few(kinds, 2, "A part to learn from and one to validate on", "Add patients of that class.")
    fewest = min(patients_by_label(slides))
    place = _dealt(slides, min(round(1 / fraction), fewest), np.random.default_rng(seed))
    train = tuple(slide.slide_id for slide in slides if place[slide.patient_id] != 0)
    return train, tuple(slide.slide_id for slide in slides if place[slide.patient_id] == 0)


def patients_by_label(slides: Sequence[PatientSlide]) -> tuple[int, int]:
    """How many patients have a negative slide, and how many a positive one; a patient may count in both.

    Raises:
        InputError: When a slide has no label.
    """
    kinds, _ = _kinds_and_counts(slides)
    negative, positive = (sum(label in kind for kind in kinds.values()) for label in (0, 1))
    return negative, positive


def patients_needed(folds: int) -> int:
    """How many patients with slides of each class are enough for a number of folds, each with a validation part.

    Outside any fold two are left, one to learn from and one to validate on: of three patients two folds leave one. Without
    folds (0) the final model asks for the same two.
    """
    return {0: 2, 2: 4}.get(folds, folds)


def most_folds(slides: Sequence[PatientSlide], most: int = 5) -> int:
    """The largest number of folds, up to `most`, that slides have patients enough for; 0 where there is none.

    Raises:
        InputError: When a slide has no label.
    """
    fewest = min(patients_by_label(slides))
    return max((folds for folds in range(2, most + 1) if patients_needed(folds) <= fewest), default=0)


def _kinds_and_counts(slides: Sequence[PatientSlide]) -> tuple[dict[str, Kind], dict[str, int]]:
    """For each patient, the labels of the slides and how many there are.

    Raises:
        InputError: When a slide has no label.
    """
    labels: dict[str, set[int]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    for slide in slides:
        if slide.label is None:
            raise InputError(f"Slide '{slide.slide_id}' has no label; folds are drawn of labelled slides alone.")
        labels[slide.patient_id].add(slide.label)
        counts[slide.patient_id] += 1
    return {patient: frozenset(found) for patient, found in labels.items()}, dict(counts)


def _refuse_few(kinds: Mapping[str, Kind], least: int, what: str, remedy: str) -> None:
    for label, name in ((0, "negative"), (1, "positive")):
        num_patients = sum(label in kind for kind in kinds.values())
        if num_patients < least:
            raise SplitError(
                f"{what} need {least} patients with slides of each class, and only {num_patients} "
                f"{'has' if num_patients == 1 else 'have'} a {name} one. "
                f"{remedy}"
            )


def _dealt(slides: Sequence[PatientSlide], k: int, random: np.random.Generator) -> dict[str, int]:
    """The fold of each patient."""
    kinds, counts = _kinds_and_counts(slides)
    patients = sorted(kinds)
    random.shuffle(patients)
    # Patients of both classes first, since they count in both; of each kind those with most slides, since few can follow.
    patients.sort(key=lambda patient: (-len(kinds[patient]), sorted(kinds[patient]), -counts[patient]))
    with_label, num_slides = np.zeros((2, k), int), np.zeros(k, int)
    place = {}
    for patient in patients:
        kind = sorted(kinds[patient])
        fewest = with_label[kind].sum(axis=0)
        place[patient] = fold = int(np.lexsort((random.random(k), num_slides, fewest))[0])
        with_label[kind, fold] += 1
        num_slides[fold] += counts[patient]
    return place
