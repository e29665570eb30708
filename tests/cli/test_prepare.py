import json
from pathlib import Path

import pytest

from counterstain.cli import OK, SOME_FAILED, WRONG_USE, run
from counterstain.data import open_patches
from counterstain.testing.slide_cohorts import PATCH_PX, write_camelyon16


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    given = ["prepare", str(out), "--slides", str(folder), "--annotations", str(folder)]
    return [*given, "--preset", "camelyon16_p512", "--patch-px", str(PATCH_PX), "--fractions", "0.5", "0.5", "0", *more]


def test_a_cohort_becomes_a_dataset_and_its_tumour_shares_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_camelyon16(tmp_path / "cohort").folder, tmp_path / "out"
    assert run(arguments(folder, out)) == OK
    shown = capsys.readouterr()
    assert "share of tumour" in " ".join(shown.out.split())
    assert "0.2 to 0.3" in shown.out
    assert str(out) in shown.err
    assert all(open_patches(out).splits.values())
    assert run(arguments(folder, out, "--seed", "1")) == WRONG_USE
    assert "--overwrite" in capsys.readouterr().err


def test_bad_slides_are_told_and_end_with_their_own_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort, out = write_camelyon16(tmp_path / "cohort"), tmp_path / "out"
    cohort.slides["test_001"].rename(cohort.slides["test_001"].with_name("test_114.tif"))
    cohort.slides["test_002"].write_bytes(b"no slide")
    assert run(arguments(cohort.folder, out, "--json")) == SOME_FAILED
    report = json.loads(capsys.readouterr().out)
    assert [one["slide"] for one in report["excluded"]] == ["test_114"]
    assert [one["slide"] for one in report["failed"]] == ["test_002"]
    assert run(arguments(cohort.folder, out)) == SOME_FAILED
    said = capsys.readouterr().err
    assert "Left out: test_114" in said
    assert "test_002: " in said
    assert run(arguments(cohort.folder, out, "--include", "test_999")) == WRONG_USE


def test_a_table_labels_slides_of_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = write_camelyon16(tmp_path / "cohort", 1, 1, 0)
    table = tmp_path / "slides.csv"
    rows = [
        f"{path},{'tumour' if name.startswith('tumor') else 'normal'},train" for name, path in cohort.slides.items()
    ]
    table.write_text("\n".join(["path,label,split", *rows]) + "\n")
    given = ["prepare", str(tmp_path / "out"), "--slides", str(table), "--annotations", str(cohort.folder)]
    assert run([*given, "--patch-px", str(PATCH_PX)]) == OK
    assert {record.patient for record in open_patches(tmp_path / "out").train} == {"tumor_001", "normal_001"}
    assert any("patients of 2 of 2 slides are not known" in note for note in open_patches(tmp_path / "out").notes)
    table.write_text(table.read_text() + "gone.tif,normal,train\n")
    assert run([*given, "--patch-px", str(PATCH_PX)]) == SOME_FAILED
    (failed,) = json.loads((tmp_path / "out" / "prepare.json").read_text())["failed"]
    assert failed["kind"] == "Dropped"
    assert run([*given, "--preset", "camelyon17"]) == WRONG_USE
    assert "camelyon16_p512" in capsys.readouterr().err


def test_the_verb_explains_itself_and_the_tree_knows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prepare", "--help"]) == OK
    shown = capsys.readouterr().out
    for flag in ("--annotations", "--min-fraction", "--neg-pos-ratio", "--json"):
        assert flag in shown
    assert run(["--help"]) == OK
    assert "prepare" in capsys.readouterr().out
