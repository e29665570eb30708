from dataclasses import replace
from pathlib import Path

import pytest

from counterstain.data.camelyon16 import PARTLY_DRAWN
from counterstain.data.cohorts import CohortSlide
from counterstain.data.cutting import PRESETS
from counterstain.data.tumour_slides import PlanSettings, plan_slides
from counterstain.errors import InputError, MissingFileError, SplitError, UnknownNameError

CAMELYON = PlanSettings("camelyon16", fractions=(0.5, 0.5, 0.0))


def entries(*names: str, **said: str) -> list[CohortSlide]:
    return [CohortSlide(f"slides/{name}.tif", Path(f"slides/{name}.tif"), **said) for name in names]


def drawn(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / f"{name}.xml").write_text("<A/>")
    return folder


COHORT = ("tumor_001", "tumor_002", "normal_001", "normal_002", "test_001", "test_002")


def referred(folder: Path) -> Path:
    rows = ("test_001,Normal,None,None", "test_002,Tumor,IDC,Macro", "test_114,Tumor,IDC,Micro")
    (folder / "reference.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_camelyon16_says_labels_and_the_test_split_by_its_names(tmp_path: Path) -> None:
    plan = plan_slides(entries(*COHORT), drawn(referred(tmp_path), "tumor_001", "tumor_002", "test_002"), CAMELYON)
    told = {one.name: (one.is_tumour, one.split == "test") for one in plan.slides}
    assert told["tumor_001"] == (True, False)
    assert told["normal_002"] == (False, False)
    assert (told["test_001"], told["test_002"]) == ((False, True), (True, True))
    for kind in ("tumor", "normal"):  # drawn apart, so that each split has both
        assert {one.split for one in plan.slides if one.name.startswith(kind)} == {"train", "val"}


def test_bad_slides_are_left_out_with_their_reason_unless_included(tmp_path: Path) -> None:
    folder = drawn(referred(tmp_path), "tumor_001", "tumor_002", "test_002", "test_114")
    slides = entries(*COHORT, "test_114", "test_049", "tumor_001_mask")
    plan = plan_slides(slides, folder, CAMELYON)
    reasons = {one.what: one.reason for one in plan.excluded}
    assert "exhaustively" in reasons["test_114"]
    assert "duplicate" in reasons["test_049"]
    assert "no slide of camelyon16" in reasons["tumor_001_mask"]
    wanted = PlanSettings("camelyon16", include=("Test_114",), fractions=(0.5, 0.5, 0.0))
    assert "test_114" in {one.name for one in plan_slides(slides, folder, wanted).slides}
    with pytest.raises(UnknownNameError, match="test_113"):
        PlanSettings("camelyon16", include=("test_113",))


def test_a_test_slide_without_an_annotation_file_is_no_normal_slide(tmp_path: Path) -> None:
    """Its file may be missing for other reasons than a lack of tumour, whatever files of other test slides are there."""
    folder = drawn(tmp_path, "tumor_001", "tumor_002", "test_002")
    plan = plan_slides(entries(*COHORT), folder, CAMELYON)
    assert {one.what for one in plan.refused} == {"test_001", "test_002"}
    assert all("reference.csv" in one.reason for one in plan.refused)
    labelled = [*entries(*COHORT[:-2]), *entries("test_001", label="normal")]
    assert "test_001" in {one.name for one in plan_slides(labelled, folder, CAMELYON).slides}


def test_a_slide_of_a_cohort_is_known_by_the_name_of_its_release(tmp_path: Path) -> None:
    """Two copies of a slide must be neither renamed past the cohort's exclusions nor made two patients."""
    drawn(tmp_path, "tumor_001", "tumor_002")
    copies = [CohortSlide(f"{place}/normal_086.tif", Path(f"{place}/normal_086.tif")) for place in "ab"]
    with pytest.raises(InputError, match=r"a/normal_086.tif.*b/normal_086.tif.*one slide of that name"):
        plan_slides([*entries(*COHORT[:4]), *copies], tmp_path, CAMELYON)
    plan = plan_slides([*entries("Tumor_001", "TUMOR_002", "normal_001", "normal_002"), copies[0]], tmp_path, CAMELYON)
    assert [one.what for one in plan.excluded] == ["normal_086"]
    assert {(one.name, one.patient) for one in plan.slides} == {(name, name) for name in COHORT[:4]}


def test_a_slide_drawn_in_part_is_never_scored(tmp_path: Path) -> None:
    names = [f"tumor_{number:03}" for number in range(1, 31)]
    everything = [*entries(*names), *entries(*(f"normal_{number:03}" for number in range(1, 11)))]
    settings = PlanSettings("camelyon16", (), (0.1, 0.9, 0.0), partly_drawn=PRESETS["camelyon16_p512"].partly_drawn)
    plan = plan_slides(everything, drawn(tmp_path, *names), settings)
    partly = [name for name in names if name in PARTLY_DRAWN]
    assert len(partly) == 4
    assert {one.split for one in plan.slides if one.name in partly} == {"train"}
    assert any(note.endswith(f"in train: {', '.join(partly)}.") for note in plan.notes)
    scored = [
        *entries("tumor_001", "tumor_002"),
        *entries("tumor_015", split="val"),
        *entries("normal_001", "normal_002"),
    ]
    (refused,) = plan_slides(scored, tmp_path, replace(settings, fractions=(0.5, 0.5, 0.0))).refused
    assert refused.what == "tumor_015"
    assert "in part" in refused.reason


def test_unknown_patients_are_told_except_where_a_slide_is_one(tmp_path: Path) -> None:
    own = [CohortSlide(name, Path(f"{name}.svs"), label="normal") for name in ("x", "y")]
    whole = PlanSettings(fractions=(1.0, 0.0, 0.0))
    (note,) = plan_slides(own, tmp_path, whole).notes
    assert note.startswith("The patients of 2 of 2 slides are not known")
    assert plan_slides([replace(one, patient_id="P") for one in own], tmp_path, whole).notes == ()
    drawn(tmp_path, "tumor_001", "tumor_002")
    assert plan_slides(entries(*COHORT[:4]), tmp_path, CAMELYON).notes == ()


def test_what_is_wrong_with_one_slide_is_told_of_it_alone(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    drawn(tmp_path, "x", "z", "foreign"), drawn(tmp_path / "copy", "z", "foreign")
    slides = [
        CohortSlide("x", Path("x.svs"), "P1", "tumour", "train"),
        CohortSlide("y", Path("y.svs"), "P2", "normal", "trains"),
        CohortSlide("z", Path("z.svs"), "P3", "tumour", "train"),
    ]
    plan = plan_slides(slides, tmp_path, PlanSettings())
    assert [one.name for one in plan.slides] == ["x"]
    reasons = {one.what: one.reason for one in plan.refused}
    assert "'trains'" in reasons["y"]
    assert "Several annotation files" in reasons["z"]
    assert "copy" in reasons["z"]


def test_two_references_are_refused(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    referred(tmp_path), referred(tmp_path / "old")
    with pytest.raises(InputError, match=r"Several files(.|\n)*old/reference.csv(.|\n)*reference.csv"):
        plan_slides(entries(*COHORT), drawn(tmp_path, "tumor_001", "tumor_002"), CAMELYON)


def test_no_label_is_guessed(tmp_path: Path) -> None:
    plan = plan_slides(entries(*COHORT), drawn(tmp_path, "tumor_001"), PlanSettings("camelyon16", (), (1.0, 0.0, 0.0)))
    reasons = {one.what: one.reason for one in plan.refused}
    assert "no tumor_002.xml" in reasons["tumor_002"]
    assert "reference.csv" in reasons["test_001"]
    with pytest.raises(InputError, match="--preset camelyon16_p512"):
        plan_slides(entries("a", "b"), tmp_path, PlanSettings())
    with pytest.raises(InputError, match="'maybe'"):
        plan_slides(entries("a", label="maybe"), tmp_path, PlanSettings())
    with pytest.raises(MissingFileError):
        plan_slides(entries("a"), tmp_path / "none", PlanSettings())


def test_the_reference_wins_over_missing_files(tmp_path: Path) -> None:
    drawn(tmp_path, "tumor_001", "tumor_002")
    (tmp_path / "reference.csv").write_text("test_001,Normal,None,None\ntest_002,Tumor,IDC,Macro\n")
    plan = plan_slides(entries(*COHORT), tmp_path, CAMELYON)
    assert [one.what for one in plan.refused] == ["test_002"]
    assert "test_001" in {one.name for one in plan.slides}


def test_a_table_gives_label_patient_and_split(tmp_path: Path) -> None:
    slides = [
        CohortSlide("x", Path("x.svs"), "P1", "Tumour", "validation"),
        CohortSlide("y", Path("y.svs"), "P1", "normal"),
        CohortSlide("z", Path("z.svs"), "P2", "0", "test"),
    ]
    plan = plan_slides(slides, drawn(tmp_path, "x"), PlanSettings())
    assert [(one.name, one.is_tumour, one.patient, one.split) for one in plan.slides] == [
        ("x", True, "P1", "val"),
        ("y", False, "P1", "val"),
        ("z", False, "P2", "test"),
    ]
    torn = [*slides, CohortSlide("w", Path("w.svs"), "P1", "normal", "train")]
    with pytest.raises(SplitError, match="P1: train, val"):
        plan_slides(torn, tmp_path, PlanSettings())


def test_no_patient_is_in_two_splits(tmp_path: Path) -> None:
    slides = [
        CohortSlide(f"{n}.tif", Path(f"s{n}.tif"), f"P{n // 3}", "normal" if n % 2 else "tumour") for n in range(30)
    ]
    plan = plan_slides(slides, drawn(tmp_path, *(f"s{n}" for n in range(30))), PlanSettings(fractions=(0.6, 0.2, 0.2)))
    splits: dict[str, set[str]] = {}
    for one in plan.slides:
        splits.setdefault(one.patient, set()).add(one.split)
    assert all(len(of) == 1 for of in splits.values())
    assert set.union(*splits.values()) == {"train", "val", "test"}


def test_names_must_be_told_apart(tmp_path: Path) -> None:
    slides = [CohortSlide(name, Path(name), label="normal") for name in ("a/s.tif", "b/s.tif", "a.b.tif")]
    plan = plan_slides(slides, tmp_path, PlanSettings(fractions=(1.0, 0.0, 0.0)))
    assert [one.name for one in plan.slides] == ["a_b", "a_s_tif", "b_s_tif"]
    with pytest.raises(InputError, match="both be called a_b"):
        plan_slides([*slides, CohortSlide("a_b.tif", Path("a_b.tif"), label="normal")], tmp_path, PlanSettings())
