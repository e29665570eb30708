from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from counterstain.data.cohorts import CohortSlide, Dropped
from counterstain.data.confounds import associations, cramers_v, size_warning
from counterstain.data.diagnosis import Diagnosis, DiagnosisSlide
from counterstain.data.leaks import auc_error, leaks, many_sites, weaknesses
from counterstain.data.slide_facts import SlideFacts
from counterstain.data.tumour import tumour_classes
from counterstain.errors import InputError
from counterstain.geometry import Size

Row = tuple[str, int, str | None]


def diagnosis(*rows: Row, sites: Sequence[str | None] = ()) -> Diagnosis:
    """Slides s0, s1, ... of (patient, label, split), and their sites."""
    slides = tuple(
        DiagnosisSlide(
            CohortSlide(f"s{number}", Path(f"s{number}.svs"), site=sites[number] if sites else None),
            label,
            patient,
            split,
        )
        for number, (patient, label, split) in enumerate(rows)
    )
    return Diagnosis(Path("cohort.csv"), tumour_classes(), slides, (), ())


def one_each(labels: Sequence[int], sites: Sequence[str | None] = ()) -> Diagnosis:
    """A slide a patient."""
    return diagnosis(*((f"P{number}", label, None) for number, label in enumerate(labels)), sites=sites)


def fact(
    number: int, mpp: float | None = 0.5, ink: float | None = 0.0, px: int = 1000, suffix: str = ".svs"
) -> SlideFacts:
    source = None if mpp is None else "reader"
    return SlideFacts("tiff", suffix, Size(px, px), mpp, source, f"hash{number}", True, ink)


def facts(of: Diagnosis) -> dict[str, SlideFacts]:
    return {row.slide_id: fact(number) for number, row in enumerate(of.rows)}


def test_cramers_v_is_scipys() -> None:
    random = np.random.default_rng(0)
    for kinds in (2, 3, 5):
        values, labels = random.integers(0, kinds, 60), random.integers(0, 2, 60)
        table = np.array([[np.sum((values == kind) & (labels == label)) for label in (0, 1)] for kind in range(kinds)])
        strength, p_value = cramers_v([str(value) for value in values], labels.tolist())
        assert strength == pytest.approx(stats.contingency.association(table, method="cramer"))
        if kinds == 2:
            assert p_value == pytest.approx(stats.fisher_exact(table).pvalue)


def test_the_permutation_p_is_that_of_all_labellings() -> None:
    values, labels = ["a", "a", "a", "b", "b", "c", "c", "c", "c"], [1, 1, 0, 1, 0, 0, 0, 0, 1]
    strength, p_value = cramers_v(values, labels)
    every = []
    for chosen in combinations(range(9), 4):
        table = [[sum(values[i] == v and (i in chosen) == of for i in range(9)) for of in (False, True)] for v in "abc"]
        every.append(stats.contingency.association(np.array(table), method="cramer"))
    assert p_value == pytest.approx(np.mean(np.array(every) >= strength - 1e-9), abs=0.025)
    assert cramers_v(values, labels) == (strength, p_value)


def test_an_association_needs_two_values_and_two_labels() -> None:
    for values, labels in ((["a", "a"], [0, 1]), (["a", "b"], [1, 1])):
        with pytest.raises(InputError, match="two of each"):
            cramers_v(values, labels)


def test_a_class_from_one_site_is_told_with_its_counts() -> None:
    told = one_each([1] * 10 + [0] * 12, ["B"] * 10 + ["A"] * 10 + ["B"] * 2)
    (found,) = associations(told, {})
    assert found.trait == "site"
    assert found.counts == {"B": (2, 10), "A": (10, 0)}
    assert found.warning is not None
    assert (
        "Every tumour slide is from site B (10 of 10; normal: 2 of 12): a classifier can learn the site"
        in found.warning
    )


def test_a_site_is_to_be_scored_by_itself_only_where_it_has_both_classes() -> None:
    mixed, pure = ["B"] * 10 + ["A"] * 10 + ["B"] * 2, ["B"] * 10 + ["A"] * 12
    for sites, is_possible in ((mixed, True), (pure, False)):
        (found,) = associations(one_each([1] * 10 + [0] * 12, sites), {})
        assert found.warning is not None
        assert ("give the slides of a site that has both classes the split test" in found.warning) == is_possible
        assert "Add slides of both classes from each site." in found.warning


def test_a_leaning_is_told_where_it_is_sure_and_not_where_it_is_chance() -> None:
    leaning = one_each([1] * 20 + [0] * 20, (["B"] * 17 + ["A"] * 3 + ["B"] * 4 + ["A"] * 16))
    warning = associations(leaning, {})[0].warning
    assert warning is not None
    assert "17 of 20 tumour slides are from site B, and 4 of 20 normal ones" in warning
    chance = one_each([1] * 20 + [0] * 20, (["B"] * 12 + ["A"] * 8 + ["B"] * 9 + ["A"] * 11))
    assert associations(chance, {})[0].warning is None


def test_few_slides_that_a_site_tells_apart_without_fault_are_told_as_well() -> None:
    (found,) = associations(one_each([1, 1, 0, 0], ["B", "B", "A", "A"]), {})
    assert found.p_value > 0.05
    assert found.warning is not None
    (every_slide_its_own,) = associations(one_each([1, 1, 0, 0], ["A", "B", "C", "D"]), {})
    assert every_slide_its_own.warning is None


def test_slides_of_one_patient_are_counted_once() -> None:
    rows: list[Row] = [("P1", 1, None)] * 30 + [("P2", 0, None)] * 30 + [("P3", 0, None), ("P4", 1, None)]
    (found,) = associations(diagnosis(*rows, sites=["B"] * 30 + ["A"] * 30 + ["B", "A"]), {})
    assert (found.num_units, found.p_value) == (4, 1.0)
    assert found.warning is None


def test_a_trait_that_parts_slides_as_another_does_is_told_in_short() -> None:
    told = one_each([1] * 8 + [0] * 8, ["B"] * 8 + ["A"] * 8)
    looked = {f"s{number}": fact(number, mpp=0.243 if number < 8 else 0.226) for number in range(16)}
    by_trait = {found.trait: found.warning for found in associations(told, looked)}
    assert by_trait["resolution"] == "It parts the slides exactly as the site does."


def test_resolutions_that_a_calibration_parts_are_one() -> None:
    told = one_each([1, 0] * 6)
    looked = {f"s{number}": fact(number, mpp=0.2500 + 0.0003 * number) for number in range(12)}
    assert associations(told, looked) == ()
    looked = {f"s{number}": fact(number, mpp=0.2431 if number % 2 else 0.2268) for number in range(12)}
    (found,) = associations(told, looked)
    assert found.counts == {"0.227 um/px": (0, 6), "0.243 um/px": (6, 0)}


def test_ink_format_and_size_are_looked_at() -> None:
    told = one_each([1] * 10 + [0] * 10)
    looked = {
        f"s{number}": fact(
            number,
            ink=0.03 if number < 8 else 0.0,
            suffix=".svs" if number < 10 else ".ndpi",
            px=2000 if number < 10 else 1000,
        )
        for number in range(20)
    }
    by_trait = {found.trait: found.warning or "" for found in associations(told, looked)}
    assert by_trait["pen marks"].startswith(
        "8 of 10 tumour slides have pen marks, and 0 of 10 normal ones: a classifier can learn the ink"
    )
    assert by_trait["file format"].startswith("Every tumour slide is stored as .svs (tiff) (10 of 10; normal: 0 of 10)")
    size = size_warning(told, looked)
    assert size is not None
    assert "The tumour slides are larger than the normal ones (median 1 against 0.25 mm2)" in size.text
    assert size_warning(told, facts(told)) is None


def test_what_is_unknown_or_alike_gives_nothing_away() -> None:
    told = one_each([1, 0] * 5, [None] * 10)
    assert associations(told, facts(told)) == ()
    blank = {row.slide_id: fact(number, mpp=None, ink=None) for number, row in enumerate(told.rows)}
    assert associations(told, blank) == ()
    assert size_warning(told, blank) is None


def test_a_patient_on_two_sides_and_rows_that_contradict_each_other_are_leaks() -> None:
    told = diagnosis(("P1", 1, "train"), ("P1", 1, "test"), ("P2", 0, "train"), ("P3", 0, None), ("P3", 0, "test"))
    told = replace(told, conflicts=(Dropped("line 9: a.svs", "the same file as line 3, and says another label"),))
    texts = [found.text for found in leaks(told, facts(told))]
    assert len(texts) == 3
    assert "line 9: a.svs: the same file as line 3" in texts[0]
    assert "Patient P1 is on 2 sides: test (s1), train (s0). Give all slides of this patient" in texts[1]
    assert "Patient P3 is on 2 sides: no split (s3), test (s4)" in texts[2]


def test_one_file_under_two_names_is_a_leak_and_says_in_what_they_differ() -> None:
    told = diagnosis(("P1", 1, "train"), ("P2", 0, "test"), ("P3", 0, "test"), ("P3", 0, "test"))
    known = facts(told)
    known["s1"], known["s3"] = known["s0"], known["s2"]
    texts = [found.text for found in leaks(told, known)]
    assert texts == [
        "s0 and s1 are one file under 2 names, with label normal and tumour; split test and train; patient P1 and P2. "
        "Keep one of them.",
        "s2 and s3 are one file under 2 names. Keep one of them.",
    ]


def test_no_leak_is_found_where_there_is_none() -> None:
    told = diagnosis(("P1", 1, "train"), ("P1", 0, "train"), ("P2", 0, "test"), ("P3", 1, None))
    assert leaks(told, facts(told)) == ()


def test_a_class_that_is_missing_is_refused_where_it_is_learned_and_told_elsewhere() -> None:
    refused, warned = weaknesses(diagnosis(("P1", 1, "train"), ("P2", 1, "test"), ("P3", 0, "test")))
    assert [found.text for found in refused] == [
        "There is no normal slide to learn from (train). Add some, or change the splits."
    ]
    rows = [(f"Q{number}", number % 2, "train") for number in range(4)]
    refused, warned = weaknesses(diagnosis(*rows, ("P3", 1, "test")))
    assert refused == ()
    assert "The split test has no normal slide: no AUC can be told of it." in [found.text for found in warned]
    refused, _ = weaknesses(diagnosis(("P1", 1, "test"), ("P2", 0, "test")))
    assert len(refused) == 2


def test_few_patients_are_told_and_many_are_not() -> None:
    _, warned = weaknesses(one_each([1] * 4 + [0] * 9))
    assert [found.about for found in warned] == ["few patients", "few patients"]
    assert "9 normal and 4 tumour patients in all" in warned[0].text
    assert "A class has 4 patients, and 5 folds, the default, take 5: pass --folds 4" in warned[1].text
    _, warned = weaknesses(one_each([1] * 2 + [0] * 9))
    assert "pass --folds 0, for a model without an estimate" in warned[1].text
    assert weaknesses(one_each([1, 0] * 60)) == ((), ())
    _, warned = weaknesses(diagnosis(*[("P1", 1, None)] * 60, *[("P2", 0, None)] * 60))
    assert warned, "slides of one patient do not make patients"


def test_a_single_patient_of_a_class_is_refused_unless_the_table_names_others_to_validate_on() -> None:
    rows: list[Row] = [("P1", 1, None), ("P1", 1, None), ("P2", 0, None), ("P3", 0, "train")]
    (found,), _ = weaknesses(diagnosis(*rows))
    assert "there are: 2 normal, 1 tumour; 2 of each class are needed" in found.text
    refused, warned = weaknesses(diagnosis(*rows, ("P4", 1, "val"), ("P5", 0, "val")))
    assert refused == ()
    texts = [found.text for found in warned]
    assert any("2 normal and 1 tumour patient in all" in text for text in texts)
    assert any("A class has 1 patient, and 5 folds" in text for text in texts)


def test_a_split_to_validate_on_without_one_of_the_classes_is_refused() -> None:
    rows: list[Row] = [(f"P{number}", number % 2, "train") for number in range(8)]
    (found,), _ = weaknesses(diagnosis(*rows, ("P8", 0, "val")))
    assert found.text == (
        "The split val has no tumour slide, and it chooses and calibrates the model. Give some tumour slides the split "
        "val, or leave val out."
    )


def test_the_error_of_an_auc_is_hanley_and_mcneils() -> None:
    # DSNet's AUC of .760 on 43 and 72 slides has a standard error of 0.048
    assert auc_error(0.760, 43, 72) == pytest.approx(0.048, abs=5e-4)
    # Hanley and McNeil 1982, table II: 58 normal and 51 abnormal images, area .893, standard error .032
    assert auc_error(0.893, 51, 58) == pytest.approx(0.032, abs=1e-3)


def test_a_patient_of_several_sites_is_told() -> None:
    found = many_sites(diagnosis(("7", 1, None), ("7", 0, None), ("8", 0, None), sites=["A", "B", "A"]))
    assert found is not None
    assert "1 of 2 patients have slides from several sites (7)" in found.text
    assert many_sites(diagnosis(("7", 1, None), ("8", 0, None), sites=["A", None])) is None
