"""How `train` takes its config and where its run goes."""

from pathlib import Path

import pytest

from counterstain.cli import OK, WRONG_USE, run
from counterstain.methods import load_method
from counterstain.methods.starting import FITTING
from counterstain.models.backbones import BACKBONES

TINY = ["--epochs", "1", "--batch-size", "8"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_run_without_a_folder_goes_where_its_config_says_and_goes_on_there(
    elsewhere: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(elsewhere, 'method = "sshr"\npreset = "small"\n[settings]\nkernels = [3, 3, 3]\n')
    arguments = ["train", "--config", str(config), "--data", str(patches), *TINY]
    assert run(arguments) == OK
    assert "the run goes to runs/mine." in capsys.readouterr().err
    written = (elsewhere / "runs" / "mine" / "model.safetensors").stat().st_mtime_ns
    assert run(arguments) == OK
    assert (elsewhere / "runs" / "mine" / "model.safetensors").stat().st_mtime_ns == written
    assert run(["train", "named", "--config", str(config), "--data", str(patches), *TINY]) == OK
    assert load_method(elsewhere / "named").config == load_method(elsewhere / "runs" / "mine").config


def test_without_a_config_the_run_must_be_named(patches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--data", str(patches)]) == WRONG_USE
    assert "No run folder was given" in capsys.readouterr().err


def test_a_cohort_without_a_method_of_slides_is_told_which_to_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "run", "--cohort", "slides.csv"]) == WRONG_USE
    said = capsys.readouterr().err
    assert "--cohort belongs to methods that learn from slides" in said
    assert "Pass --method dsnet" in said


def test_patches_that_are_resized_to_learn_from_alone_are_told(
    patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # so small that nothing is trained
    assert run(["train", "out", "--data", str(patches), "--preset", "small", "--tile-px", "4", *TINY]) == WRONG_USE
    assert "are resized to 4 px to learn from, but maps are made at their own resolution" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("settings = 3", "settings = 3; a table was expected"),
        ("preset = 3", "preset = 3; a text was expected"),
        ("method = 3", "method = 3; a text was expected"),
        ("[data]\nfolder = 3", "folder = 3; a text was expected"),
        ("[data]\ntile_px = 1.5", "tile_px = 1.5; a whole number was expected"),
        ("[data]\nmpp = '1'", "mpp = '1'; a number was expected"),
        ("[setting]", "Did you mean 'settings'"),
        ("[data]\nfolders = 'x'", "Did you mean 'folder'"),
        ("preset = 'papr'", "Did you mean 'paper'"),
        ("[settings]\nkernel = 3", "Did you mean 'kernels'"),
        ("[training]\nepoch = 3", "Did you mean 'epochs'"),
        ("method = 'shhr'", "Did you mean 'sshr'"),
        ("preset = ", "is no valid TOML"),
        ("# \udcff", "is no valid TOML"),
    ],
)
def test_a_config_that_can_t_be_used_gets_one_line_and_writes_nothing(
    text: str, message: str, elsewhere: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = elsewhere / "mine.toml"
    config.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert run(["train", "--config", str(config), "--data", str(patches)]) == WRONG_USE
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (elsewhere / "runs").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("luad_shr", "Unknown config file or recipe 'luad_shr'. Did you mean 'luad_sshr'?"),
        ("recipes/lua_mlps.toml", "Did you mean 'luad_mlps'?"),
        ("mine/luad_sshr.toml", "no file is there"),
    ],
)
def test_a_config_that_is_not_there_gets_one_line(
    given: str, message: str, elsewhere: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "--config", given, "--data", str(patches)]) == WRONG_USE
    assert message in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_a_recipe_s_method_lends_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--config", "luad_mlps", "--help"]) == OK
    shown = capsys.readouterr().out
    assert "--second-backbone" in shown
    assert "--fusion" not in shown
    assert "docs/recipes.md" in shown


@pytest.mark.parametrize(
    ("flags", "is_noted"),
    [
        (["--backbone", "tiny", "--kernels", "3", "3", "3"], False),
        (["--backbone", "wide_resnet38", "--backbone-options", '{"width": 0.02, "depths": [1, 1, 1, 1]}'], True),
    ],
)
def test_a_backbone_that_wants_published_weights_and_has_none_is_noted(
    flags: list[str], is_noted: bool, elsewhere: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "run", "--data", str(patches), *TINY, *flags, "--reduction", "1"]) == OK
    notes = [line for line in capsys.readouterr().err.splitlines() if "pretrained weights" in line]
    assert len(notes) == is_noted
    if is_noted:
        assert "pass --weights FILE (ilsvrc-cls_rna-a1_cls1000_ep-0001.params or res38_cls.pth" in notes[0]


def test_every_backbone_with_published_weights_has_its_files_named() -> None:
    assert set(FITTING) == set(BACKBONES) - {"tiny"}
