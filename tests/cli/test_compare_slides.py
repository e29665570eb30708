"""`counterstain compare` with studies of slides: what is given, what is left out, what comes back."""

import json
from pathlib import Path
from typing import Any

import pytest

from counterstain.cli import OK, WRONG_USE, run
from counterstain.data.encoded import SlideSet
from counterstain.testing.encoded_slides import EncodedSlides, write_encoded_slides, write_table

STUDY = """
kind = "slides"
title = "Two ways to pool"
reference = "mean"
[folds]
folds = 2
val = 0.5
[training]
epochs = 1
batch_size = 8
[methods.mean_pool]
preset = "short"
[[variants]]
name = "mean"
[[variants]]
name = "most positive"
settings = { pool = "max" }
"""


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> SlideSet:
    return write_encoded_slides(tmp_path_factory.mktemp("encoded"), EncodedSlides(num_slides=20))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "pools.toml").write_text(STUDY)
    return tmp_path / "pools.toml"


@pytest.fixture
def table(slides: SlideSet, tmp_path: Path) -> Path:
    """The last two patients are kept for the end."""
    patients = {slide.patient_id: "test" if slide.patient_id[8] == "4" else "train" for slide in slides.slides}
    return write_table(tmp_path, slides, split=patients)


def compare(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    code = run(["compare", *(str(argument) for argument in arguments)])
    said = capsys.readouterr()
    return code, json.loads(said.out) if "--json" in arguments else said.out + said.err


def test_variants_are_compared_on_all_slides_but_those_of_the_test(
    slides: SlideSet, study: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--study", study, "--cohort", table, "--encoded", slides.slides[0].folder.parent, "--encoder", "planted"]
    code, tree = compare(capsys, tmp_path / "out", *given, "--json")
    assert code == OK
    assert (tree["slides"], tree["patients"], [row["name"] for row in tree["rows"]]) == (
        16,
        8,
        ["mean", "most positive"],
    )
    for suffix in (".json", ".csv", ".md", ".png"):
        assert (tmp_path / "out" / f"pools{suffix}").exists()
    scored = "".join(path.read_text() for path in (tmp_path / "out").rglob("scores.csv"))
    assert "patient_3" in scored
    assert "patient_4" not in scored
    code, said = compare(capsys, tmp_path / "out", *given, "--only", "mean")
    assert code == OK
    assert "Two ways to pool" in said
    assert "pools_part.json" in said


def test_labels_come_from_names_or_words_as_they_do_in_training(
    slides: SlideSet, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("cohort", "encoded"):
        (tmp_path / folder).mkdir()
    for number, slide in enumerate(slides.slides):
        name = f"{'tumor' if slide.label else 'normal'}_{number:03}"
        (tmp_path / "cohort" / f"{name}.tif").touch()
        (tmp_path / "encoded" / f"{name}.tif").symlink_to(slide.folder)
    given = ["--study", study, "--cohort", tmp_path / "cohort", "--encoded", tmp_path / "encoded"]
    given += ["--encoder", "planted", "--only", "mean"]
    code, said = compare(capsys, tmp_path / "out", *given)
    assert code == WRONG_USE
    assert "--labels camelyon16" in said
    code, tree = compare(capsys, tmp_path / "out", *given, "--labels", "camelyon16", "--json")
    assert (code, tree["slides"], tree["patients"]) == (OK, 20, 20)


def test_words_for_both_classes_and_slides_as_patients_can_be_given(
    slides: SlideSet, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "cohort.csv"
    rows = [f"{slide.folder.name},{slide.folder.name}.svs,{'a' if slide.label else 'b'}" for slide in slides.slides]
    rows[-1] = rows[-1][:-1] + "c"
    table.write_text("\n".join(["slide_id,path,label", *rows]) + "\n")
    (tmp_path / "files").mkdir()
    for slide in slides.slides:
        (tmp_path / "files" / f"{slide.folder.name}.svs").touch()
    given = ["--study", study, "--cohort", table, "--encoded", slides.slides[0].folder.parent, "--encoder", "planted"]
    given += ["--only", "mean", "--positive", "a", "--negative", "b", "--root", tmp_path / "files"]
    code, tree = compare(capsys, tmp_path / "out", *given, "--patient-is-slide", "--json")
    assert (code, tree["slides"], tree["patients"]) == (OK, 19, 19)


@pytest.mark.parametrize(
    ("left_out", "message"), [("--cohort", "--cohort TABLE.csv --encoded FOLDER"), ("--encoded", "counterstain encode")]
)
def test_a_study_of_slides_needs_a_table_and_what_was_encoded(
    left_out: str, message: str, slides: SlideSet, study: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--cohort": table, "--encoded": slides.slides[0].folder.parent}
    given.pop(left_out)
    code, said = compare(capsys, study.parent / "out", "--study", study, *next(iter(given.items())))
    assert code == WRONG_USE
    assert message in said
    assert not (study.parent / "out").exists()


def test_a_study_of_slides_refuses_flags_of_patches_by_name(
    slides: SlideSet, study: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--study", study, "--cohort", table, "--encoded", slides.slides[0].folder.parent, "--encoder", "planted"]
    for more in (["--data", study.parent], ["--seeds", "0"], ["--split", "test"], ["--again"], ["--weights", table]):
        code, said = compare(capsys, study.parent / "out", *given, *more)
        assert code == WRONG_USE
        assert f"{more[0]} was given, and study {str(study)!r} is of slides. Leave it out." in said
    assert not (study.parent / "out").exists()


def test_rows_that_no_slide_comes_of_are_said(
    slides: SlideSet, study: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.write_text(table.read_text() + "gone,P99,gone.svs,tumour,train\n")
    given = ["--study", study, "--cohort", table, "--encoded", slides.slides[0].folder.parent, "--encoder", "planted"]
    code, said = compare(capsys, study.parent / "out", *given, "--only", "mean")
    assert code == OK
    assert "gone.svs" in said


def test_slides_that_the_encoder_did_not_encode_are_named(
    slides: SlideSet, study: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--study", study, "--cohort", table, "--encoded", slides.slides[0].folder.parent]
    code, said = compare(capsys, study.parent / "out", *given)
    assert code == WRONG_USE
    assert "encoder 'scae'; it has those of: planted" in said
    code, said = compare(capsys, study.parent / "out", *given, "--encoder", "planted", "--only", "max")
    assert code == WRONG_USE
    assert "most positive" in said
