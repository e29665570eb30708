"""`counterstain models import`: a published checkpoint becomes a run that the other verbs take."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from counterstain.cli import OK, WRONG_USE, run
from counterstain.layouts import BCSS_WSSS, LUAD_HISTOSEG
from counterstain.testing.datasets import FakeContent, FakeNames, write_layout

_spec = importlib.util.spec_from_file_location(
    "published_checkpoints", Path(__file__).parents[1] / "methods" / "test_published.py"
)
assert _spec is not None
assert _spec.loader is not None
checkpoints = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(checkpoints)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("checkpoint") / "sshr.pth"
    torch.save(checkpoints.published_state(checkpoints.SMALL), path)
    return path


@pytest.fixture(scope="module")
def imported(checkpoint: Path) -> Path:
    folder = checkpoint.parent / "run"
    assert run(["models", "import", str(checkpoint), str(folder), "--layout", "luad_histoseg"]) == OK
    return folder


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    code = run([str(argument) for argument in (*arguments, "--json")])
    return code, json.loads(capsys.readouterr().out)


def test_the_answer_tells_what_was_made_of_the_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = answer(capsys, "models", "import", checkpoint, tmp_path / "run", "--layout", "bcss_wsss")
    assert code == OK
    assert found["thresholds"] == [0.8] * 4
    assert found["classes"] == list(BCSS_WSSS.classes.names)
    assert found["mpp"] is None
    assert found["settings"]["kernels"] == [15, 15, 15]
    assert found["provenance"]["trained_here"] is False
    assert len(found["provenance"]["tensors"]) == 260


def test_people_are_told_tensors_thresholds_and_what_comes_next(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "import", str(checkpoint), str(tmp_path / "run"), "--layout", "bcss_wsss"]) == OK
    shown = capsys.readouterr()
    assert "hfrm.1.context_scale" in shown.out
    assert "239 more were told by their names" in shown.err
    assert "Presence thresholds, of the released code, June 2026: tumour 0.8" in shown.err
    assert "pass --model-mpp to predict" in shown.err
    assert "not trained here" in shown.err


def test_an_imported_run_is_shown_maps_slides_and_is_scored(
    imported: Path, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = answer(capsys, "models", "show", imported)
    assert (code, shown["method"], shown["provenance"]["trained_here"]) == (OK, "sshr", False)
    code, found = answer(capsys, "predict", imported, slides / "a.tiff", "--out", tmp_path / "maps")
    assert (code, found["failed"]) == (OK, [])
    assert set(found["done"]["a.tiff"]["areas_mm2"]) == set(LUAD_HISTOSEG.classes.names)
    data = tmp_path / "luad"
    names = FakeNames("{patient}-{number}-27920", "{patient}-{number}-46781", ("1031280", "385277", "416392"))
    write_layout(data, LUAD_HISTOSEG, names, content=FakeContent(width_px=32, height_px=32))
    code, scores = answer(capsys, "evaluate", imported, "--data", data, "--layout", "luad_histoseg")
    assert code == OK
    assert scores["split"] == "val"


def test_flags_win_over_what_the_dataset_says(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--layout", "bcss_wsss", "--thresholds", "0.1", "0.2", "0.3", "0.4", "--mpp", "0.5"]
    _, found = answer(capsys, "models", "import", checkpoint, tmp_path / "run", *flags)
    assert found["thresholds"] == [0.1, 0.2, 0.3, 0.4]
    assert found["mpp"] == 0.5


def test_scales_without_a_telling_name_are_named_by_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = tmp_path / "untold.pth", tmp_path / "run"
    torch.save(checkpoints.published_state(checkpoints.SMALL, checkpoints.UNTOLD), path)
    command = ["models", "import", str(path), str(folder), "--layout", "luad_histoseg"]
    assert run(command) == WRONG_USE
    assert "--rename hfrm56.alpha=hfrm.0.semantic_scale" in capsys.readouterr().err
    assert not folder.exists()
    renames = [
        f"hfrm{tap}.{name}=hfrm.{index}.{part}_scale"
        for index, tap in enumerate(checkpoints.TAPS)
        for name, part in (("alpha", "semantic"), ("beta", "context"))
    ]
    assert run([*command, "--rename", *renames[:3], *(word for one in renames[3:] for word in ("--rename", one))]) == OK


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout", "luad"], "Unknown dataset layout 'luad'"),
        (["--layout", "wsss4luad"], "has 4 classes, and wsss4luad has 3"),
        (["--layout", "luad_histoseg", "--thresholds", "2"], "from 0 to 1"),
        (["--layout", "luad_histoseg", "--rename", "ic56.weight"], "GIVEN=OURS was expected"),
        (["--layout", "luad_histoseg", "--mpp", "0"], "--mpp was given as 0"),
        ([], "--layout"),
    ],
)
def test_wrong_use_leaves_no_run(
    checkpoint: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "import", str(checkpoint), str(tmp_path / "run"), *arguments]) == WRONG_USE
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_replaced(imported: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (imported / "model.json").read_bytes()
    assert run(["models", "import", str(checkpoint), str(imported), "--layout", "bcss_wsss"]) == WRONG_USE
    assert "no run is replaced" in capsys.readouterr().err
    assert (imported / "model.json").read_bytes() == before


@pytest.mark.parametrize("command", ["import", "tune"])
def test_help_offers_no_flag_that_empties_a_list(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", command, "--help"]) == OK
    assert "--empty" not in capsys.readouterr().out
