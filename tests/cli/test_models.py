import json
from pathlib import Path
from typing import Any

import pytest
import torch

from counterstain.cli import OK, WRONG_USE, run
from counterstain.methods import METHODS, SLIDE_METHODS
from counterstain.methods.artefacts import save_model
from counterstain.methods.scae import PRESETS
from counterstain.models.scae import SCAE
from counterstain.results import EncoderSpec
from counterstain.settings import to_tree
from counterstain.testing.diagnosing import linear_method


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert run([*map(str, arguments), "--json"]) == OK
    return json.loads(capsys.readouterr().out)


def test_every_method_and_the_encoder_are_listed_with_what_they_look_at(capsys: pytest.CaptureFixture[str]) -> None:
    listed = answer(capsys, "models", "list")
    assert set(listed["methods"]) == set(METHODS)
    assert set(listed["slide_methods"]) == set(SLIDE_METHODS)
    looks_at = {name: one["looks_at"] for name, one in listed["slide_methods"].items()}
    assert looks_at.pop("dsnet") == "embeddings, thumbnails"
    assert looks_at.pop("thumbnail") == "thumbnails"
    assert set(looks_at.values()) == {"embeddings"}
    assert listed["slide_methods"]["mean_pool"]["parameters"] == 2 * (128 + 1)
    assert listed["slide_methods"]["dsnet"]["presets"] == list(SLIDE_METHODS["dsnet"].presets)
    encoder = listed["encoders"]["scae"]
    assert (encoder["parameters"], encoder["encoder_parameters"]) == (2_414_278, 381_536)
    assert (encoder["num_features"], encoder["image_px"]) == (128, 112)


def test_a_slide_method_has_one_line_of_the_list_at_eighty_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["models", "list"]) == OK
    lines = capsys.readouterr().out.splitlines()
    for name in [*SLIDE_METHODS, "scae"]:
        (line,) = [line for line in lines if line.startswith(f"│ {name} ")]
        assert "paper, " in line
        assert line.rstrip("│ ")[-1].isdigit()
        assert len(line) <= 80


@pytest.mark.parametrize("preset", ["paper", "small"])
def test_a_slide_method_is_shown_with_its_preset(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "models", "show", "thumbnail", "--preset", preset)
    assert found["settings"] == to_tree(SLIDE_METHODS["thumbnail"].presets[preset])
    assert found["training"]["epochs"] == SLIDE_METHODS["thumbnail"].training[preset].epochs
    assert "'weights' names a file" in found["weights"]
    assert "num_features" not in found, "it looks at no embeddings"


def test_the_encoder_s_operations_grow_with_the_picture(capsys: pytest.CaptureFixture[str]) -> None:
    small, large = (answer(capsys, "models", "show", "scae", "--size-px", side) for side in (112, 224))
    assert large["encoder_gmac"] == pytest.approx(4 * small["encoder_gmac"], rel=0.01)
    assert small["settings"] == to_tree(PRESETS["paper"])
    assert answer(capsys, "models", "show", "scae", "--preset", "small")["parameters"] < small["parameters"]


def test_a_run_of_slides_says_what_it_learned_from_without_naming_patients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = linear_method(EncoderSpec("mean", 6, "1", 8, "CC0-1.0"))
    patients = {"train": ["P01", "P02", "P03"], "val": ["P04"]}
    method.save(tmp_path / "run", {"data": {"name": "cohort", "patients": patients}})
    found = answer(capsys, "models", "show", tmp_path / "run")
    assert (found["method"], found["parameters"]) == ("mean_pool", 2 * (6 + 1))
    assert (found["encoder"]["name"], found["cell_um"]) == ("mean", method.cell_um)
    assert found["decision"]["temperature"] == method.decision.temperature
    assert found["provenance"]["data"] == {"name": "cohort", "patients": {"train": 3, "val": 1}}
    assert run(["models", "show", str(tmp_path / "run")]) == OK
    assert "P01" not in capsys.readouterr().out


def test_a_run_of_the_encoder_can_be_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = SCAE(PRESETS["small"].network(90.0))
    provenance = {"data": {"slides": 2, "names": ["a", "b"]}}
    config = to_tree(PRESETS["small"])
    description = {"method": "scae", "config": config, "rho": 90.0, "input_px": 112, "provenance": provenance}
    save_model(tmp_path / "run", network, description)
    found = answer(capsys, "models", "show", tmp_path / "run")
    assert (found["method"], found["rho"], found["input_px"]) == ("scae", 90.0, 112)
    assert found["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert found["provenance"]["data"] == {"slides": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dsnett"], "Did you mean 'dsnet'"),
        (["scaee"], "Did you mean 'scae'"),
        (["abmil", "--preset", "shrt"], "Did you mean 'short'"),
        (["scae", "--preset", "short"], "Known: paper, small"),
        (["dsnet", "--size-px", "224"], "operations are not counted"),
        (["dsnet", "--num-classes", "3"], "none to choose"),
        (["scae", "--size-px", "100"], "multiple of 16"),
        (["sshr", "--size-px", "0"], "give 1 or more"),
    ],
)
def test_what_can_t_be_shown_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "show", *arguments]) == WRONG_USE
    assert message in capsys.readouterr().err
