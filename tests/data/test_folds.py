from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from counterstain.data.folds import Fold, inner_split, most_folds, patient_folds, patients_needed
from counterstain.errors import InputError, SplitError


@dataclass(frozen=True)
class One:
    slide_id: str
    patient_id: str
    label: int | None


def cohort(*patients: tuple[int, ...]) -> list[One]:
    """Slides of patients, by the labels of each patient's slides."""
    return [
        One(f"P{number}/{index}", f"P{number}", label)
        for number, labels in enumerate(patients)
        for index, label in enumerate(labels)
    ]


KINDS = st.one_of(
    st.lists(st.just(0), min_size=1, max_size=4),
    st.lists(st.just(1), min_size=1, max_size=4),
    st.lists(st.sampled_from((0, 1)), min_size=2, max_size=4),
).map(tuple)
NORMAL, TUMOUR = ((0,),) * 5, ((1,),) * 5
COHORTS = st.lists(KINDS, max_size=25).map(lambda more: cohort(*NORMAL, *TUMOUR, *more))
SEEDS = st.integers(0, 2**32 - 1)


def patients_of(slides: list[One], ids: tuple[str, ...]) -> set[str]:
    return {slide.patient_id for slide in slides if slide.slide_id in ids}


def patients_with(slides: list[One], ids: tuple[str, ...], label: int) -> int:
    return len({slide.patient_id for slide in slides if slide.slide_id in ids and slide.label == label})


@given(COHORTS, st.integers(2, 5), SEEDS)
def test_no_patient_is_on_two_sides(slides: list[One], k: int, seed: int) -> None:
    for fold in patient_folds(slides, k, seed, repeats=2):
        assert not patients_of(slides, fold.train) & patients_of(slides, fold.test)


@given(COHORTS, st.integers(2, 5), SEEDS)
def test_every_slide_is_tested_exactly_once_a_repeat(slides: list[One], k: int, seed: int) -> None:
    folds = patient_folds(slides, k, seed, repeats=3)
    assert [(fold.repeat, fold.number) for fold in folds] == [
        (repeat, number) for repeat in range(3) for number in range(k)
    ]
    for repeat in range(3):
        tested = Counter(one for fold in folds if fold.repeat == repeat for one in fold.test)
        assert tested == Counter(slide.slide_id for slide in slides)
    for fold in folds:
        assert sorted((*fold.train, *fold.test)) == sorted(slide.slide_id for slide in slides)


@given(COHORTS, st.integers(2, 5), SEEDS)
def test_patients_of_each_class_differ_by_one_between_folds(slides: list[One], k: int, seed: int) -> None:
    folds = patient_folds(slides, k, seed)
    for label in (0, 1):
        counts = [patients_with(slides, fold.test, label) for fold in folds]
        assert max(counts) - min(counts) <= 1
        assert min(counts) >= 1


@given(COHORTS, st.floats(0.05, 0.5), SEEDS)
def test_an_inner_split_keeps_patients_whole_and_both_classes_on_both_sides(
    slides: list[One], fraction: float, seed: int
) -> None:
    train, val = inner_split(slides, fraction, seed)
    assert sorted((*train, *val)) == sorted(slide.slide_id for slide in slides)
    assert not patients_of(slides, train) & patients_of(slides, val)
    for label in (0, 1):
        assert patients_with(slides, train, label) >= 1
        assert patients_with(slides, val, label) >= 1


def test_the_inner_split_has_the_size_that_was_asked_for() -> None:
    slides = cohort(*((0,),) * 40, *((1,),) * 20)
    for fraction, normal, tumour in ((0.1, 4, 2), (0.2, 8, 4), (0.25, 10, 5), (0.5, 20, 10)):
        _, val = inner_split(slides, fraction, 0)
        assert [patients_with(slides, val, label) for label in (0, 1)] == [normal, tumour]


def test_draws_depend_on_seed_and_repeat_and_on_no_order_of_rows() -> None:
    slides = cohort(*((0,),) * 12, *((1,),) * 12)
    folds = patient_folds(slides, 4, 7, repeats=2)
    assert folds == patient_folds(slides, 4, 7, repeats=2)
    assert [fold.test for fold in folds[:4]] != [fold.test for fold in folds[4:]]
    assert folds[:4] != patient_folds(slides, 4, 8)
    turned = patient_folds(slides[::-1], 4, 7)
    assert [set(fold.test) for fold in turned] == [set(fold.test) for fold in folds[:4]]
    assert inner_split(slides, 0.25, 1) != inner_split(slides, 0.25, 2)


def test_four_patients_of_two_classes_make_two_folds_by_hand() -> None:
    fold, other = patient_folds(cohort((0,), (0,), (1,), (1,)), 2, 0)
    assert isinstance(fold, Fold)
    assert set(fold.test) == set(other.train)
    assert len(fold.test) == len(other.test) == 2


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=30), st.integers(0, 50))
def test_patients_are_spread_no_worse_than_scikit_learn_spreads_them(more: list[tuple[bool, int]], seed: int) -> None:
    slides = cohort(*NORMAL, *TUMOUR, *((int(is_positive),) * count for is_positive, count in more))
    labels, groups = [slide.label for slide in slides], [slide.patient_id for slide in slides]
    twin = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(labels, labels, groups)
    theirs = [tuple(slides[index].slide_id for index in test) for _, test in twin]
    ours = [fold.test for fold in patient_folds(slides, 5, seed)]
    for label in (0, 1):
        spreads = [
            max(counts) - min(counts)
            for counts in ([patients_with(slides, test, label) for test in tests] for tests in (ours, theirs))
        ]
        assert spreads[0] <= max(1, spreads[1])


def test_too_few_patients_of_a_class_are_refused_with_their_number() -> None:
    slides = cohort(*((0,),) * 9, (1, 1, 1), (1,), (0, 1))
    assert len(patient_folds(slides, 3, 0)) == 3
    with pytest.raises(SplitError, match=r"4 folds need 4 patients .* only 3 have a positive one\. Take fewer folds"):
        patient_folds(slides, 4, 0)
    with pytest.raises(SplitError, match="only 1 has a negative one"):
        inner_split(cohort((0, 0), (1,), (1,)), 0.2, 0)


@given(st.integers(2, 5), st.integers(1, 8), SEEDS)
def test_the_patients_that_folds_need_are_those_with_which_every_fold_has_a_validation_part(
    k: int, num: int, seed: int
) -> None:
    slides = cohort(*((0,),) * 12, *((1,),) * num)
    try:
        for fold in patient_folds(slides, k, seed):
            inner_split([slide for slide in slides if slide.slide_id in fold.train], 0.25, seed)
    except SplitError:
        assert num < patients_needed(k)
    else:
        assert num >= patients_needed(k)


@pytest.mark.parametrize(("num", "most"), [(1, 0), (2, 0), (3, 3), (4, 4), (5, 5), (9, 5)])
def test_the_most_folds_are_told_from_the_rarer_class(num: int, most: int) -> None:
    assert most_folds(cohort(*((0,),) * 12, *((1, 1),) * num)) == most


def test_what_can_t_be_dealt_is_refused() -> None:
    slides = cohort((0,), (1,), (0,), (1,))
    with pytest.raises(InputError, match="at least 2 folds"):
        patient_folds(slides, 1, 0)
    with pytest.raises(InputError, match=r"at most 0\.5"):
        inner_split(slides, 0.6, 0)
    with pytest.raises(InputError, match="'x' has no label"):
        patient_folds([*slides, One("x", "Q", None)], 2, 0)
