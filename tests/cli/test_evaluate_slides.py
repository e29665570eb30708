"""`counterstain evaluate` for runs that diagnose slides: kept-back slides are scored, once, and nobody that was seen."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterstain.cli import OK, SOME_FAILED, WRONG_USE, run
from counterstain.data.encoded import SlideSet
from counterstain.files import write_json
from counterstain.methods import MeanPool, load_slide_method
from counterstain.methods.slide_baselines import MeanPoolConfig
from counterstain.metrics.ranking import auroc
from counterstain.report.diagnosis import read_scores
from counterstain.testing.diagnosing import linear_method
from counterstain.testing.encoded_slides import EncodedSlides, write_encoded_slides, write_table
from counterstain.testing.encoding import MeanEncoder, damage, write_tissue
from counterstain.training import TrainSettings

CONFIG = MeanPoolConfig(pool="max", learning_rate=0.05, warmup_epochs=0, select="last", crop_cells=0, turn=False)
SPLITS = {"0": "train", "1": "train", "2": "val", "3": "test"}


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> SlideSet:
    return write_encoded_slides(tmp_path_factory.mktemp("encoded"), EncodedSlides(in_features=5.0))


def side(slides: SlideSet, name: str) -> SlideSet:
    return slides.of(slide.slide_id for slide in slides.slides if SPLITS[slide.patient_id[8]] == name)


@pytest.fixture(scope="module")
def trained(slides: SlideSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train, val = side(slides, "train"), side(slides, "val")
    MeanPool.create(CONFIG, train, 0).fit(train, val, folder, TrainSettings(epochs=4, batch_size=8, seed=0))
    return folder


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """The run as nobody has looked at its test split."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("model.json", "model.safetensors"):
        (folder / name).write_bytes((trained / name).read_bytes())
    return folder


def table_of(slides: SlideSet, folder: Path, **changed: str) -> Path:
    patients = {slide.patient_id: SPLITS[slide.patient_id[8]] for slide in slides.slides}
    return write_table(folder, slides, split={**patients, **changed})


def evaluate(
    capsys: pytest.CaptureFixture[str], model: Path, slides: SlideSet, table: Path, *more: str
) -> tuple[int, Any]:
    capsys.readouterr()
    encoded = [] if "--encoded" in more else ["--encoded", str(slides.slides[0].folder.parent)]
    code = run(["evaluate", str(model), "--cohort", str(table), *encoded, "--json", *more])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else said.err


def test_the_slides_that_were_kept_back_are_scored(
    slides: SlideSet, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, tree = evaluate(capsys, model, slides, table_of(slides, tmp_path))
    assert code == OK
    kept = side(slides, "test")
    margins = load_slide_method(model).margins(kept)
    labels = np.array([slide.label for slide in kept.slides])
    rows = read_scores(model / "scores_test.csv")
    assert [row.slide_id for row in rows] == [slide.slide_id for slide in kept.slides]
    assert [row.logit for row in rows] == pytest.approx(margins.tolist())
    assert tree["ranking"]["pooled"]["auroc"]["estimate"] == pytest.approx(auroc(margins, labels))
    assert (tree["split"], tree["slides"]["num"], len(tree["test_openings"])) == ("test", 4, 1)
    assert json.loads((model / "metrics_test.json").read_text()) == tree
    assert (model / "figures_test" / "roc.png").exists()


def test_the_test_split_is_opened_once(
    slides: SlideSet, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(slides, tmp_path)
    assert evaluate(capsys, model, slides, table)[0] == OK
    code, said = evaluate(capsys, model, slides, table)
    assert code == WRONG_USE
    assert "Give a table with test slides that it was not scored on, or pass --again" in said
    code, tree = evaluate(capsys, model, slides, table, "--again")
    assert (code, len(tree["test_openings"])) == (OK, 2)
    encoded = str(slides.slides[0].folder.parent)
    assert run(["evaluate", str(model), "--cohort", str(table), "--encoded", encoded, "--again"]) == OK
    said = capsys.readouterr()
    assert "AUROC within folds" in said.out
    assert "opened 3 times" in said.err


@pytest.mark.parametrize("patient", ["patient_0_1", "patient_2_0"])
def test_patients_that_the_run_learned_from_or_was_calibrated_on_are_refused(
    patient: str, slides: SlideSet, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = evaluate(capsys, model, slides, table_of(slides, tmp_path, **{patient: "test"}))
    assert code == WRONG_USE
    assert f"1 patients of the split were seen by {model} ({patient})" in said
    code, said = evaluate(capsys, model, slides, table_of(slides, tmp_path), "--split", "val")
    assert code == WRONG_USE
    assert "would measure memory" in said
    assert not (model / "test_opened.json").exists()


def test_what_can_t_be_scored_is_refused_before_the_split_is_opened(
    slides: SlideSet, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(slides, tmp_path)
    text = table.read_text()
    table.write_text(text.replace("tumour", "dysplasia"))
    code, said = evaluate(capsys, model, slides, table, "--positive", "dysplasia")
    assert code == WRONG_USE
    assert "the run tells normal, tumour apart" in said
    table.write_text(text.replace(",test", ",train"))
    code, said = evaluate(capsys, model, slides, table)
    assert code == WRONG_USE
    assert "no slide the split 'test'" in said
    table.write_text(text)
    code, said = evaluate(capsys, model, slides, table, "--encoded", str(tmp_path / "nowhere"))
    assert code == WRONG_USE
    assert "No slide could be encoded" in said
    assert "nowhere" in said
    other = write_encoded_slides(tmp_path / "other", EncodedSlides(seed=1))
    code, said = evaluate(capsys, model, other, table)
    assert code == WRONG_USE
    assert "encoded by another planted" in said
    assert not (model / "test_opened.json").exists()


def test_flags_that_only_maps_have_are_refused_by_name_where_slides_are_scored(
    slides: SlideSet, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(slides, tmp_path)
    for more in (
        ["--data", str(tmp_path)],
        ["--gate", "none"],
        ["--tta", "d4"],
        ["--out", str(tmp_path / "scores.json")],
    ):
        code, said = evaluate(capsys, model, slides, table, *more)
        assert code == WRONG_USE
        assert f"{more[0]} was given, and slides are scored, which --cohort names. Leave it out." in said
    assert not (model / "test_opened.json").exists()


def test_rows_that_no_slide_comes_of_are_said(
    slides: SlideSet, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(slides, tmp_path)
    table.write_text(table.read_text() + "gone,P99,gone.svs,tumour,test\n")
    encoded = str(slides.slides[0].folder.parent)
    assert run(["evaluate", str(model), "--cohort", str(table), "--encoded", encoded]) == OK
    assert "gone.svs" in capsys.readouterr().err


def test_the_words_that_a_run_was_trained_with_need_not_be_said_again(
    slides: SlideSet, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(slides, tmp_path)
    table.write_text(table.read_text().replace("tumour", "a").replace("normal", "b"))
    description = json.loads((model / "model.json").read_text())
    description["classes"] = json.loads(
        json.dumps(description["classes"]).replace("tumour", "a").replace("normal", "b")
    )
    write_json(model / "model.json", description)
    code, _ = evaluate(capsys, model, slides, table)
    assert code == WRONG_USE, "nobody knows which of a and b is positive"
    write_json(model / "cohort.json", {"cohort": str(table.resolve()), "positive": ["a"], "negative": ["b"]})
    code, tree = evaluate(capsys, model, slides, table)
    assert code == OK, tree
    assert tree["classes"] == ["b", "a"]


def test_another_cohort_s_labels_come_from_where_the_flags_say(
    slides: SlideSet, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, encoded, reference = tmp_path / "cohort", tmp_path / "encoded", []
    cohort.mkdir()
    encoded.mkdir()
    for number, slide in enumerate(side(slides, "test").slides, start=1):
        (cohort / f"test_{number:03}.tif").touch()
        (encoded / f"test_{number:03}.tif").symlink_to(slide.folder)
        reference.append(f"test_{number:03},{'Tumor' if slide.label else 'Normal'}")
    (cohort / "reference.csv").write_text("\n".join(reference) + "\n")
    code, said = evaluate(capsys, model, slides, cohort, "--encoded", str(encoded))
    assert code == WRONG_USE
    assert "--labels camelyon16" in said
    code, tree = evaluate(capsys, model, slides, cohort, "--encoded", str(encoded), "--labels", "camelyon16")
    assert code == OK, tree
    assert (tree["slides"]["num"], tree["split"]) == (4, "test")


def test_slides_that_are_not_encoded_are_listed_and_the_others_scored(
    slides: SlideSet, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(slides, tmp_path)
    (tmp_path / "late.svs").touch()
    table.write_text(table.read_text() + "late,P99,late.svs,tumour,test\n")
    code, tree = evaluate(capsys, model, slides, table)
    assert code == SOME_FAILED
    assert [one["slide"] for one in tree["failed"]] == ["late"]
    assert tree["slides"]["num"] == 4


def test_a_split_of_which_no_slide_can_be_encoded_is_refused_unopened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = MeanEncoder()
    method = linear_method(replace(encoder.spec, name="tiny", licence="none needed"))
    method.save(tmp_path / "run", {"data": {"patients": {"train": ["P9"], "val": ["P8"]}}})
    damage(write_tissue(tmp_path / "a.tiff"))
    damage(write_tissue(tmp_path / "b.tiff"))
    table = tmp_path / "cohort.csv"
    table.write_text("path,patient_id,label,split\na.tiff,P1,tumour,test\nb.tiff,P2,normal,test\n")
    code = run(["evaluate", str(tmp_path / "run"), "--cohort", str(table)])
    said = capsys.readouterr().err
    assert code == WRONG_USE
    assert "No slide could be encoded" in said
    assert "a.tiff" in said
    assert not (tmp_path / "run" / "test_opened.json").exists()
