import json
from pathlib import Path

import pytest

from counterstain.cli import OK, WRONG_USE, run

STUDY = """
title = "Two textures"
reference = "plain CAM"
[training]
epochs = 1
batch_size = 8
[methods.sshr]
preset = "small"
[[variants]]
name = "plain CAM"
settings = { semantic = false, context = false }
[[variants]]
name = "SSHR"
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "textures.toml"
    path.write_text(STUDY, encoding="utf-8")
    return path


def test_one_command_trains_scores_and_shows_a_table(
    study: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", str(tmp_path / "out"), "--data", str(patches), "--study", str(study), "--seeds", "0", "1"]
    assert run(command) == OK
    shown = capsys.readouterr()
    assert "plain CAM" in shown.out
    assert "Run 4 of 4: SSHR, seed 1" in shown.err
    assert (tmp_path / "out" / "textures_val.png").stat().st_size > 5000
    assert run([*command, "--json"]) == OK
    tree = json.loads(capsys.readouterr().out)
    assert [row["seeds"] for row in tree["rows"]] == [[0, 1], [0, 1]]


def test_what_can_t_be_compared_gets_one_line(
    study: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for more, told in (
        (["--study", "ablation_lua"], "Did you mean 'ablation_luad'"),
        (["--study", str(study), "--only", "SSRH"], "Did you mean 'SSHR'"),
        (["--study", str(study), "--second-weights", "w.npz"], "no variant"),
        (["--study", str(study), "--seeds", "1", "1"], "each once"),
        (["--study", str(study), "--weights", "gone.npz"], "gone.npz"),
    ):
        assert run(["compare", str(out), "--data", str(patches), *more]) == WRONG_USE
        assert told in capsys.readouterr().err
    assert not list(out.rglob("model.json"))


def test_a_study_of_patches_refuses_flags_of_slides_by_name(
    study: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["compare", str(tmp_path / "out"), "--data", str(patches), "--study", str(study)]
    for more in (["--labels", "tcga"], ["--patient-is-slide"], ["--encoded", str(patches)], ["--encoder", "scae"]):
        assert run([*given, *more]) == WRONG_USE
        said = capsys.readouterr().err
        assert f"{more[0]} was given, and study {str(study)!r} is of patches. Leave it out." in said
    assert not (tmp_path / "out").exists()


def test_help_says_what_flags_of_slides_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--help"]) == OK
    shown = capsys.readouterr().out
    assert "Studies of slides" in shown
    assert "studies of patches have --data instead" in " ".join(shown.replace("│", " ").split())
