import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterstain.cli import OK, SOME_FAILED, WRONG_USE, run
from counterstain.data.cohorts import CohortSlide
from counterstain.data.slide_facts import Look, look_at
from counterstain.testing.slide_cohorts import DRAWN, draw_slide, write_camelyon16
from counterstain.testing.slide_files import TiffDialect, write_tiff

HEADER = "slide_id,patient_id,path,label,split,site"


@dataclass
class Written:
    """A table and what may be added to it."""

    table: Path
    rows: list[str]

    def with_rows(self, *rows: str) -> Path:
        path = self.table.with_name("more.csv")
        path.write_text("\n".join((HEADER, *self.rows, *rows)) + "\n")
        return path


def slide(path: Path, seed: int, *, mpp: float | None = 5.0, is_inked: bool = False) -> Path:
    pixels = draw_slide(DRAWN if seed % 2 else (), seed)
    if is_inked:
        pixels[2:30, 2:100] = (30, 140, 90)
    return write_tiff(path, pixels, mpp, TiffDialect(factors=(4,)))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Twelve slides of twelve patients; both classes from both sites and on both sides."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number in range(12):
        slide(folder / f"s{number}.tif", number)
        label, split, site = (
            ("tumour" if number % 2 else "normal"),
            ("train" if number < 8 else "test"),
            "AB"[number // 2 % 2],
        )
        rows.append(f"s{number},P{number},s{number}.tif,{label},{split},{site}")
    table = folder / "cohort.csv"
    table.write_text("\n".join((HEADER, *rows)) + "\n")
    return Written(table, rows)


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = run(["check", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_sound_cohort_is_let_through_with_the_next_command(
    cohort: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["check", str(cohort.table)]) == OK
    shown = capsys.readouterr().out
    assert "Verdict: can be learned from; 1 warning." in shown
    assert "Warning (few patients): 2 normal and 2 tumour patients in the test split" in shown
    assert f"Next: counterstain train RUN --method dsnet --cohort {cohort.table}" in shown
    code, found = answer(capsys, cohort.table)
    assert code == OK
    assert found["splits"] == {
        "train": {"normal slides": 4, "tumour slides": 4, "patients": 8},
        "test": {"normal slides": 2, "tumour slides": 2, "patients": 4},
    }
    assert found["slides"][3]["file"]["reader"] == "tiff"
    assert found["slides"][3]["file"]["mpp_source"] == "tiff tags"
    assert found["refused"] == found["unusable"] == []


def test_one_file_on_two_sides_is_refused(cohort: Written, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(cohort.table.with_name("s1.tif"), cohort.table.with_name("copy.tif"))
    code, found = answer(capsys, cohort.with_rows("copy,P90,copy.tif,normal,test,A"))
    assert code == WRONG_USE
    (refusal,) = found["refused"]
    assert (
        "s1 and copy are one file under 2 names, with label normal and tumour; split test and train" in refusal["text"]
    )
    assert found["verdict"].startswith("Verdict: refused for 1 reason.")


def test_a_patient_on_two_sides_and_a_file_of_two_labels_are_refused_together(
    cohort: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    slide(cohort.table.with_name("again.tif"), 40)
    table = cohort.with_rows("again,P3,again.tif,normal,test,A", "s5b,P5,./s5.tif,normal,train,A")
    assert run(["check", str(table)]) == WRONG_USE
    shown = capsys.readouterr().out
    assert "Refused (patient): Patient P3 is on 2 sides: test (line 14: again), train (line 5: s3)" in shown
    assert "says another slide_id, label" in shown
    assert "Next:" not in shown


def test_slides_that_can_t_be_used_are_listed_and_the_others_checked(
    cohort: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = cohort.table.with_name
    slide(beside("bare.tif"), 51, mpp=None)
    write_tiff(beside("glass.tif"), np.full((256, 256, 3), 245, np.uint8), 5.0, TiffDialect(factors=(4,)))
    beside("text.svs").write_text("no slide")
    table = cohort.with_rows(
        "bare,P91,bare.tif,tumour,train,A",
        "glass,P92,glass.tif,normal,train,A",
        "text,P93,text.svs,normal,train,A",
        "gone,P94,gone.tif,normal,train,A",
    )
    code, found = answer(capsys, table)
    assert code == SOME_FAILED
    reasons = {one["what"]: one["reason"] for one in found["unusable"]}
    assert set(reasons) == {"gone.tif", "bare", "glass", "text"}
    assert sorted(one["line"] for one in found["unusable"]) == [14, 15, 16, 17]
    assert "--assume-mpp" in reasons["bare"]
    assert "no tissue" in reasons["glass"]
    assert "known to none of the readers" in reasons["text"]
    assert found["splits"]["train"]["patients"] == 8
    _, assumed = answer(capsys, table, "--assume-mpp", "5")
    assert "bare" not in {one["what"] for one in assumed["unusable"]}


def test_pen_marks_and_sites_that_go_with_the_class_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["path,patient_id,label,site"]
    for number in range(12):
        slide(tmp_path / f"s{number}.tif", number, is_inked=number % 2 == 1)
        rows.append(f"s{number}.tif,P{number},{number % 2},{'B' if number % 2 else 'A'}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    code, found = answer(capsys, tmp_path / "cohort.csv", "--deep")
    assert code == OK
    told = {one["about"]: one["text"] for one in found["warnings"]}
    assert told["site"].startswith(
        "Every positive slide is from site B (6 of 6; negative: 0 of 6): a classifier can learn the site"
    )
    assert told["pen marks"] == "It parts the slides exactly as the site does."
    assert [trait["trait"] for trait in found["traits"]] == ["site", "pen marks"]


def test_camelyon16_is_checked_without_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_camelyon16(tmp_path / "cohort", 3, 3, 2, mpp=5.0).folder
    code, found = answer(capsys, folder, "--labels", "camelyon16")
    assert code == OK
    assert {split: counts["tumour slides"] for split, counts in found["splits"].items()} == {"test": 1, "no split": 3}
    assert any("one slide of each patient" in note for note in found["notes"])


def test_tcgas_names_are_checked_without_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("TCGA-22-4591-01A-01-TS1", "TCGA-22-4591-11A-01-TS1", "TCGA-33-4532-01A-01-BS1", "TCGA-33-4532-01Z-00-DX1")
    for seed, name in enumerate((*names, "TCGA-44-2655-11A-01-TS1")):
        slide(tmp_path / f"{name}.tif", seed)
    code, found = answer(capsys, tmp_path, "--labels", "tcga")
    assert code == OK
    assert found["splits"] == {"no split": {"normal slides": 2, "tumour slides": 2, "patients": 3}}
    assert "DX" in found["dropped"][0]["reason"]


@pytest.mark.parametrize(
    ("header", "words", "message"),
    [
        ("path,patient_id,label", ("LUAD", "LUSC"), "--positive"),
        ("path,subject,label", ("normal", "tumour"), "--patient-is-slide"),
        ("path,patient_id,grade", ("normal", "tumour"), "Columns that are not used: grade"),
    ],
)
def test_doubts_are_refused_with_the_flag_that_settles_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: str, words: tuple[str, str], message: str
) -> None:
    for number in range(2):
        slide(tmp_path / f"s{number}.tif", number)
    rows = [f"s{number}.tif,P{number},{word}" for number, word in enumerate(words)]
    (tmp_path / "cohort.csv").write_text("\n".join((header, *rows)) + "\n")
    assert run(["check", str(tmp_path / "cohort.csv")]) == WRONG_USE
    assert message in capsys.readouterr().err


def test_flags_settle_doubts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        slide(tmp_path / f"s{number}.tif", number)
    rows = ("path,label", "s0.tif,LUAD", "s1.tif,LUSC", "s2.tif,other", "s3.tif,LUSC", "s4.tif,LUAD")
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    flags = ("--positive", "LUSC", "--negative", "LUAD", "--patient-is-slide")
    assert run(["check", str(tmp_path / "cohort.csv"), *flags]) == OK
    table = tmp_path / "cohort.csv"
    again = f"--cohort {table} --patient-is-slide --positive LUSC --negative LUAD --folds 0\n"
    shown = capsys.readouterr().out
    assert shown.endswith(f"Next: counterstain train RUN --method dsnet {again}")
    assert "warnings, 1 row left out.\n" in shown
    code, found = answer(capsys, table, *flags)
    assert code == OK
    assert [entry["name"] for entry in found["classes"]] == ["LUAD", "LUSC"]
    (dropped,) = found["dropped"]
    assert (dropped["what"], dropped["line"], dropped["reason"]) == (
        "s2.tif",
        4,
        "its label 'other' is of neither class",
    )


def test_rows_that_lose_no_slide_are_counted_apart_and_are_no_failure(
    cohort: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    slide(cohort.table.with_name("extra.tif"), 60)
    table = cohort.with_rows(cohort.rows[0], "extra,P96,extra.tif,,encoder,A")
    assert run(["check", str(table)]) == OK
    shown = capsys.readouterr().out
    assert "Named again: line 14: s0.tif: the same file as line 2\n" in shown
    assert "For an encoder alone: line 15: extra: its split is 'encoder'" in shown
    assert "; 1 warning, 1 row named again, 1 row for an encoder alone.\n" in shown


def test_the_next_command_deals_as_many_folds_as_there_are_usable_patients_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["path,patient_id,label"]
    for number in range(8):
        slide(tmp_path / f"s{number}.tif", number)
        rows.append(f"s{number}.tif,P{number},{'tumour' if number % 2 else 'normal'}")
    (tmp_path / "s7.tif").write_text("broken")
    table = tmp_path / "cohort.csv"
    table.write_text("\n".join(rows) + "\n")
    assert run(["check", "--cohort", str(table)]) == SOME_FAILED
    shown = capsys.readouterr().out
    assert "A class has 3 patients, and 5 folds, the default, take 5: pass --folds 3" in shown
    assert shown.endswith(f"Next: counterstain train RUN --method dsnet --cohort {table} --folds 3\n")


def test_what_training_would_refuse_for_want_of_patients_is_refused_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["path,patient_id,label"]
    for number in range(4):
        slide(tmp_path / f"s{number}.tif", number)
        rows.append(f"s{number}.tif,P{number},{'tumour' if number % 2 else 'normal'}")
    (tmp_path / "s3.tif").write_text("broken")
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    assert run(["check", str(tmp_path / "cohort.csv")]) == WRONG_USE
    shown = capsys.readouterr().out
    assert "there are: 2 normal, 1 tumour; 2 of each class are needed, one to learn from" in shown
    assert "Next:" not in shown


def test_what_is_no_cohort_is_refused(cohort: Written, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(cohort.table.with_name("s0.tif"))]) == WRONG_USE
    assert "a table (.csv) or a folder of slides was expected" in capsys.readouterr().err
    assert run(["check", "nowhere.csv"]) == WRONG_USE
    assert "nothing is there" in capsys.readouterr().err


def test_a_view_that_costs_much_is_looked_at_on_request_alone(tmp_path: Path) -> None:
    # a flat file: the coarse view is made of all its pixels, a third of which are tissue
    pixels = np.full((7800, 7800, 3), 243, np.uint8)
    pixels[1000:4000, 1000:7000] = (200, 120, 170)
    entry = CohortSlide("flat", write_tiff(tmp_path / "flat.tif", pixels, 0.5, TiffDialect(factors=(), tile_px=512)))
    quick, deep = look_at(entry, Look()), look_at(entry, Look(deep=True))
    assert (quick.has_tissue, quick.ink) == (None, None)
    assert (deep.has_tissue, deep.ink) == (True, 0.0)
    assert quick.content_hash == deep.content_hash
    assert quick.area_mm2 == pytest.approx(15.21)


def test_pen_marks_that_were_not_looked_for_are_not_ruled_out(
    cohort: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.full((7800, 7800, 3), 243, np.uint8)
    pixels[1000:4000, 1000:7000] = (200, 120, 170)
    write_tiff(cohort.table.with_name("flat.tif"), pixels, 0.5, TiffDialect(factors=(), tile_px=512))
    code, found = answer(capsys, cohort.with_rows("flat,P95,flat.tif,normal,train,A"))
    assert code == OK
    (told,) = (one["text"] for one in found["warnings"] if one["about"] == "pen marks")
    assert told.startswith("1 of 13 slides were not looked at for pen marks and tissue")
    assert "--deep" in told
