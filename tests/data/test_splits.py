from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterstain.data import PatchRecord, refuse_shared_patients, split_by_patient, split_patients
from counterstain.data.records import SPLITS
from counterstain.errors import SplitError

Make = Callable[..., tuple[PatchRecord, ...]]


def test_the_split_is_the_one_that_is_written_down() -> None:
    patients = [f"P{number}" for number in range(183)]
    shuffled = sorted(patients)
    np.random.default_rng(7).shuffle(shuffled)
    places = split_patients(reversed(patients), seed=7)
    assert [places[p] for p in shuffled] == ["train"] * 110 + ["val"] * 37 + ["test"] * 36


@given(st.integers(5, 60), st.integers(0, 3), st.permutations(range(4)))
def test_no_patient_is_in_two_splits_and_no_record_is_lost(patients: int, seed: int, order: list[int]) -> None:
    records = [PatchRecord(Path(f"{p}-{n}.png"), None, f"P{p}") for n in order for p in range(patients)]
    splits = split_by_patient(records, (0.5, 0.25, 0.25), seed)
    refuse_shared_patients(splits)
    assert sorted(str(r.image) for part in splits.values() for r in part) == sorted(str(r.image) for r in records)
    assert all(splits.values())


def test_the_same_seed_gives_the_same_split_and_another_seed_another(records: Make) -> None:
    twenty = records(20)
    assert split_by_patient(twenty, seed=1) == split_by_patient(twenty, seed=1)
    assert split_by_patient(twenty, seed=1) != split_by_patient(twenty, seed=2)


def test_a_split_of_fraction_0_stays_empty(records: Make) -> None:
    splits = split_by_patient(records(4), (0.5, 0.0, 0.5))
    assert [len(part) for part in splits.values()] == [4, 0, 4]


@given(st.integers(4, 80), st.sampled_from([(0.5, 0.5, 0.0), (0.3, 0.7, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)]))
def test_what_rounding_leaves_over_goes_to_the_last_split_that_was_asked_for(
    patients: int, fractions: tuple[float, float, float]
) -> None:
    """5 patients in halves are 2 and 2 by rounding: the fifth was in a test split that nobody had asked for."""
    places = split_patients((f"P{number}" for number in range(patients)), fractions)
    assert len(places) == patients
    assert set(places.values()) == {name for name, share in zip(SPLITS, fractions, strict=True) if share > 0}


@pytest.mark.parametrize("fractions", [(0.6, 0.2, 0.3), (1.2, -0.1, -0.1), (0.0, 0.0, 0.0)])
def test_fractions_that_do_not_sum_to_1_are_refused(records: Make, fractions: tuple[float, float, float]) -> None:
    with pytest.raises(SplitError, match="sum to 1"):
        split_by_patient(records(10), fractions)


def test_too_few_patients_are_refused(records: Make) -> None:
    with pytest.raises(SplitError, match=r"2 patients can't be split .*: val would be empty. Add patients"):
        split_by_patient(records(2, 50))


def test_shared_patients_are_listed_with_their_splits(records: Make) -> None:
    some = records(3)
    with pytest.raises(SplitError, match=r"1 patients(.|\n)*P001: train, test"):
        refuse_shared_patients({"train": some[:3], "val": (), "test": some[3:]})
