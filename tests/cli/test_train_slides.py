"""`counterstain train` with slide methods: flags, files, exit codes, what is written down for other verbs."""

import json
from pathlib import Path
from typing import Any

import pytest

from counterstain.cli import OK, SOME_FAILED, WRONG_USE, run
from counterstain.cli.train_slides import CohortFlags, labelled, recorded
from counterstain.data.encoded import SlideSet
from counterstain.methods import MeanPool, load_slide_method
from counterstain.settings import build, read_toml
from counterstain.testing.encoded_slides import EncodedSlides, write_encoded_slides, write_table

QUICK = ("--folds", "2", "--val", "0.5", "--epochs", "3", "--pool", "max", "--no-turn", "--warmup-epochs", "0")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> SlideSet:
    return write_encoded_slides(tmp_path_factory.mktemp("encoded"), EncodedSlides(in_features=5.0))


@pytest.fixture
def table(slides: SlideSet, tmp_path: Path) -> Path:
    return write_table(tmp_path, slides)


@pytest.fixture
def given(slides: SlideSet, table: Path) -> list[str]:
    """The flags of slides that were encoded before."""
    encoded = str(slides.slides[0].folder.parent)
    return ["--cohort", str(table), "--encoded", encoded, "--encoder", "planted"]


def train(capsys: pytest.CaptureFixture[str], *arguments: object, method: str = "mean_pool") -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["train", *(str(argument) for argument in arguments), "--method", method])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_cohort_becomes_a_run_with_its_estimate(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    code, out, err = train(capsys, folder, *given, *QUICK)
    assert code == OK
    assert "AUROC within folds" in out
    assert "8 normal, 8 tumour, of 8 patients" in err
    assert "Only 8 positive slides" in err, "what a reader must know stands below the table"
    assert f"counterstain predict {folder}" in err
    assert isinstance(load_slide_method(folder), MeanPool)
    code, out, err = train(capsys, folder, *given, *QUICK, "--json")
    answer: dict[str, Any] = json.loads(out)
    assert (code, answer["run"], answer["failed"]) == (OK, str(folder), [])
    assert answer["estimate"] == json.loads((folder / "diagnosis.json").read_text())
    assert read_toml(folder / "config.toml")["settings"]["pool"] == "max"
    code, _, err = train(capsys, folder, *given, *QUICK, "--learning-rate", "0.01")
    assert code == WRONG_USE
    assert "other settings or data" in err


def test_a_slide_that_is_not_encoded_is_listed_and_the_run_is_made(
    given: list[str], table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "late.svs").touch()
    table.write_text(table.read_text() + "late,P99,late.svs,tumour\n")
    code, out, _ = train(capsys, tmp_path / "run", *given, *QUICK[2:], "--folds", "0", "--json")
    answer = json.loads(out)
    assert code == SOME_FAILED
    assert [(one["slide"], one["kind"]) for one in answer["failed"]] == [("late", "MissingFileError")]
    assert answer["estimate"] is None


def test_with_test_slides_no_folds_are_dealt_unless_asked_for(
    slides: SlideSet, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patients = sorted({slide.patient_id for slide in slides.slides})
    write_table(tmp_path, slides, split={name: "test" if name[8] == "3" else "train" for name in patients})
    code, _, err = train(capsys, tmp_path / "run", *given, *QUICK[2:])
    assert code == OK
    assert not (tmp_path / "run" / "folds").exists()
    assert f"Next: counterstain evaluate {tmp_path / 'run'} --cohort" in err


def test_a_file_says_what_flags_may_overrule(
    slides: SlideSet, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "recipe.toml"
    encoded = slides.slides[0].folder.parent
    config.write_text(
        'method = "mean_pool"\npreset = "paper"\n[settings]\npool = "max"\nlearning_rate = 0.5\n[training]\nepochs = 1\n'
        f'[cohort]\ncohort = "{table}"\nencoded = "{encoded}"\nencoder = "planted"\nfolds = 0\n'
    )
    arguments = ["train", str(tmp_path / "run"), "--config", str(config), "--learning-rate", "0.01"]
    assert run(arguments) == OK
    method = load_slide_method(tmp_path / "run")
    assert (method.config.learning_rate, method.config.drop_every) == (0.01, MeanPool.presets["paper"].drop_every)
    config.write_text(config.read_text().replace("[cohort]", "[cohorts]"))
    assert run(arguments) == WRONG_USE
    assert "Did you mean 'cohort'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "No cohort was given"),
        (["--cohort", "TABLE", "--preset", "shorts"], "Did you mean 'short'"),
        (["--cohort", "TABLE", "--preset", "paper", "--candidates", "short"], "Leave out one of them"),
        (["--cohort", "TABLE", "--candidates", "short", "paper", "--folds", "0"], "give --folds"),
        (["--cohort", "TABLE", "--candidates", "short", "short"], "each of them once"),
        (["--cohort", "TABLE", "--encoder", "mobilenet_v2"], "--encoder-weights"),
        (["--cohort", "TABLE", "--encoder", "runs/gone", "--folds", "0"], "runs/gone"),
        (
            ["--cohort", "TABLE", "--encoder", "mobilenet_v2", "--encoder-untrained", "--share-encoder"],
            "--share-encoder",
        ),
        (["--cohort", "TABLE", "--encoder-untrained"], "the encoder is 'scae'"),
        (["--cohort", "TABLE", "--encoded", ".", "--encoder-cells", "5"], "encoded already"),
        (["--cohort", "TABLE", "--encoder-cells", "5", "--folds", "0"], "5 cells were to be drawn"),
        (["--cohort", "TABLE", "--folds", "1"], "two folds or more"),
        (["--cohort", "TABLE", "--folds", "9"], "pass --folds 4"),
        (["--cohort", "TABLE", "--mpp", "0"], "--mpp"),
        (["--cohort", "TABLE", "--positive", "carcinoma"], "carcinoma"),
    ],
)
def test_what_can_t_be_meant_is_refused_before_anything_is_written(
    flags: list[str], message: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [str(table) if flag == "TABLE" else flag for flag in flags]
    code, _, err = train(capsys, tmp_path / "run", *told)
    assert code == WRONG_USE
    assert message in err
    assert not (tmp_path / "run").exists()


def test_several_words_of_a_class_follow_one_flag(
    slides: SlideSet, table: Path, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = table.read_text()
    table.write_text(text.replace("tumour", "micro", 4).replace("tumour", "macro"))
    words = ["--positive", "micro", "macro", "--negative", "normal"]
    code, _, err = train(capsys, tmp_path / "run", *given, *QUICK[2:], "--folds", "0", *words)
    assert code == OK, err
    flags = recorded(tmp_path / "run", None)
    assert (flags.positive, flags.negative) == (("micro", "macro"), ("normal",))


def test_a_run_remembers_its_cohort_by_whole_paths_and_of_another_one_the_words_alone(
    slides: SlideSet, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoded = str(slides.slides[0].folder.parent)
    arguments = ["--cohort", "cohort.csv", "--encoded", encoded, "--encoder", "planted", "--assume-mpp", "0.5"]
    more = ["--folds", "0", "--epochs", "1", "--positive", "tumour", "--negative", "normal"]
    assert run(["train", "run", "--method", "mean_pool", *arguments, *more]) == OK
    monkeypatch.chdir(tmp_path.parent)
    flags = recorded(tmp_path / "run", None)
    assert (flags.cohort, flags.encoded, flags.assume_mpp) == (table.resolve(), Path(encoded), 0.5)
    assert flags == recorded(tmp_path / "run", Path(tmp_path.name) / "cohort.csv")
    assert len(labelled(flags).rows) == 16
    other = recorded(tmp_path / "run", tmp_path / "other.csv")
    assert other == CohortFlags(cohort=tmp_path / "other.csv", positive=("tumour",), negative=("normal",))
    assert recorded(tmp_path, tmp_path / "other.csv") == CohortFlags(cohort=tmp_path / "other.csv")


def test_what_is_said_of_a_cohort_fits_into_a_file() -> None:
    flags = CohortFlags(cohort=Path("a.csv"), positive=("a", "b"), folds=3)
    tree = {"cohort": "a.csv", "positive": ["a", "b"], "folds": 3}
    assert build(CohortFlags, tree) == flags


@pytest.mark.slow
def test_check_train_and_predict_need_no_more_than_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Synthetic slides, an encoder that is trained anew in every fold, a diagnosis of a new slide, then its pixels."""
    cohort, folder = tmp_path / "cohort", tmp_path / "run"
    flags = ["--num-slides", "11", "--num-patients", "11", "--width", "1024"]
    assert run(["synth", "cohort", str(cohort), *flags, "--split", "0.8", "0", "0.2"]) == OK
    table = str(cohort / "cohort.csv")
    assert run(["check", table]) == OK
    learn = ["--encoder-cells", "32", "--folds", "2", "--val", "0.5", "--epochs", "2"]
    assert run(["train", str(folder), "--method", "dsnet", "--cohort", table, *learn]) == OK
    slides = [str(path) for path in sorted((cohort / "slides").iterdir())]
    assert run(["predict", str(folder), slides[0], "--out", str(tmp_path / "out")]) == OK
    assert run(["evaluate", str(folder), "--cohort", table]) == OK
    tissue = ["--slide-run", str(folder), "--preset", "small", "--sure", "0.8", "--epochs", "1", "--batch-size", "4"]
    assert run(["train", str(tmp_path / "tissue"), "--method", "cascade", *tissue]) == OK
    assert run(["predict", str(tmp_path / "tissue"), slides[0], "--out", str(tmp_path / "maps")]) == OK
    study = ["compare", str(tmp_path / "study"), "--study", "dsnet_levels", "--only", "Level 1", "--cohort", table]
    capsys.readouterr()
    assert run([*study, "--encoded", str(folder / "encoded")]) == WRONG_USE
    assert "Take fewer folds" in capsys.readouterr().err


def test_rows_of_the_table_that_no_slide_comes_of_are_named_with_their_reasons(
    given: list[str], table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = table.read_text().splitlines()[1]
    table.write_text(table.read_text() + f"gone,P98,gone.svs,tumour\n{first}\n")
    code, _, err = train(capsys, tmp_path / "run", *given, *QUICK[2:], "--folds", "0")
    assert code == SOME_FAILED
    assert "cohort.csv: 2 rows not taken:\n" in err
    assert "  Can't be used: line 18: gone.svs: its file is not there\n" in err
    assert f"  Named again: line 19: {first.split(',')[2]}: the same file as line 2\n" in err
    code, out, _ = train(capsys, tmp_path / "run", *given, *QUICK[2:], "--folds", "0", "--json")
    gone, repeat = json.loads(out)["left_out"]
    assert (gone["what"], gone["line"], gone["kind"], repeat["kind"]) == ("gone.svs", 18, "unusable", "repeat")
    assert code == SOME_FAILED
