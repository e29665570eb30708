"""`counterstain predict` with the run of a slide method: exit codes, answers, what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from counterstain.cli import OK, SOME_FAILED, WRONG_USE, run
from counterstain.cli.predict_slides import encoder_of, known_slides
from counterstain.data.cohorts import CohortSlide
from counterstain.errors import InputError
from counterstain.infer.cells import find_cells
from counterstain.methods import MeanPool
from counterstain.models.backbones import build_backbone
from counterstain.models.encoders import backbone_encoder
from counterstain.settings import to_tree
from counterstain.slides import open_slide
from counterstain.testing.diagnosing import linear_method
from counterstain.testing.encoding import CELLS, damage, write_tissue

FLAGS = ("--tissue.mpp", "2", "--tissue.min-area-um2", "500", "--tissue.empty-inks", "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a method that learned from an untrained backbone's embeddings of cells of 16 um."""
    folder = tmp_path_factory.mktemp("run")
    encoder = backbone_encoder("tiny", None, 16, untrained=True)
    linear_method(encoder.spec).save(folder, {})
    return folder


def predict(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    code = run(["predict", *(str(argument) for argument in arguments), *FLAGS, "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else said.err


def test_slides_are_diagnosed_and_a_damaged_one_is_listed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = write_tissue(tmp_path / "good.tiff"), damage(write_tissue(tmp_path / "bad.tiff"))
    out = tmp_path / "out"
    code, answer = predict(capsys, model, good, bad, "--out", out)
    assert code == SOME_FAILED
    assert [one["slide"] for one in answer["failed"]] == ["bad.tiff"]
    done = answer["done"]["good.tiff"]
    assert 0 < done["probability"] < 1
    for path in done["files"].values():
        assert Path(path).exists()
    assert Path(answer["table"]).read_text().count("\n") == 3
    code, again = predict(capsys, model, good, "--out", out)
    assert code == OK
    assert again["done"]["good.tiff"] == done
    assert run(["predict", str(model), str(good), "--out", str(out), *FLAGS]) == OK
    said = capsys.readouterr()
    assert "probability of tumour" in said.out
    assert "diagnoses.csv" in said.err


def test_slides_that_the_run_knows_are_told_once(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = shutil.copytree(model, tmp_path / "run")
    tree = json.loads((trained / "model.json").read_text())
    tree["provenance"]["data"] = {"patients": {"train": ["A", "D"], "val": ["B"]}}
    (trained / "model.json").write_text(json.dumps(tree))
    told = {"learned.tiff": [1, "A", None], "set_aside.tiff": [0, "B", None], "damaged.tiff": [0, "C", None]}
    (trained / "slides.json").write_text(json.dumps({"slides": told}))
    slides = [CohortSlide(name, Path(name)) for name in (*told, "new.tiff")]
    found = known_slides(trained, [*slides, CohortSlide("other.tiff", Path("other.tiff"), patient_id="D")])
    assert {name: note.split(":")[0] for name, note in found.items()} == {
        "learned.tiff": "Named as one that the run learned from",
        "set_aside.tiff": "Named as one that the run was calibrated on",
        "other.tiff": "Of a patient named as one that the run learned from",
    }
    slide, out = write_tissue(tmp_path / "learned.tiff"), tmp_path / "out"
    assert run(["predict", str(trained), str(slide), "--out", str(out), *FLAGS]) == OK
    assert capsys.readouterr().err.count("learned.tiff: Named as one that the run learned from") == 1
    assert "Named as one that the run learned from" in (out / "diagnoses.csv").read_text()


def test_another_run_does_not_mix_into_the_same_folder(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, out = write_tissue(tmp_path / "good.tiff"), tmp_path / "out"
    assert predict(capsys, model, good, "--out", out)[0] == OK
    method = MeanPool.load(*_described(model))
    method.decision = replace(method.decision, temperature=3.0)
    method.save(tmp_path / "other", {})
    code, answer = predict(capsys, tmp_path / "other", good, "--out", out)
    assert code == SOME_FAILED
    assert answer["failed"][0]["kind"] == "StaleResultError"
    code, answer = predict(capsys, tmp_path / "other", good, "--out", out, "--overwrite")
    assert code == OK
    assert answer["done"]["good.tiff"]["temperature"] == 3


def test_cells_are_those_of_the_run_and_no_others(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = MeanPool.load(*_described(model))
    cells = replace(CELLS, filter="otsu")
    method.seen = replace(method.seen, chosen={name: of for name, of in to_tree(cells).items() if name != "cell_um"})
    method.save(tmp_path / "run", {})
    path = write_tissue(tmp_path / "a.tiff")
    words = ["predict", str(tmp_path / "run"), str(path), "--out", str(tmp_path / "out"), "--device", "cpu", "--json"]
    assert run(words) == OK
    with open_slide(path) as slide:
        num_cells = int(np.count_nonzero(find_cells(slide, cells).observed_HW))
    assert json.loads(capsys.readouterr().out)["done"]["a.tiff"]["num_cells"] == num_cells
    assert run([*words, "--cells", "runs_and_tissue"]) == WRONG_USE
    assert "learned from cells chosen by 'otsu'" in capsys.readouterr().err
    assert run([*words, "--tissue.mpp", "3"]) == WRONG_USE
    assert run([*words, "--cells", "otsu"]) == OK


def _described(folder: Path) -> Any:
    from counterstain.methods.artefacts import read_model

    return read_model(folder)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tile-px", "64"], "--tile-px was given"),
        (["--map-stride", "2", "--tta", "d4"], "--map-stride, --tta was given"),
        (["--exports", "geojson"], "--exports was given"),
        (["--encoder", "nowhere.pth"], "nowhere.pth"),
    ],
)
def test_what_a_diagnosis_has_no_use_for_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    slide = write_tissue(tmp_path / "a.tiff")
    code, said = predict(capsys, model, slide, "--out", tmp_path / "out", *flags)
    assert code == WRONG_USE
    assert message in said
    assert not (tmp_path / "out").exists()


def test_a_run_remembers_where_its_encoder_was(model: Path, tmp_path: Path) -> None:
    spec = MeanPool.load(*_described(model)).encoder
    weights = tmp_path / "tiny.safetensors"
    save_file(build_backbone("tiny").state_dict(), weights)
    trained = backbone_encoder("tiny", weights, 16).spec
    assert trained.digest != spec.digest
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="--encoder"):
        encoder_of(trained, tmp_path / "run")
    (tmp_path / "run" / "cohort.json").write_text(json.dumps({"encoder": "tiny", "encoder_weights": str(weights)}))
    found = encoder_of(trained, tmp_path / "run")
    assert found is not None
    assert found.spec == trained


def test_embeddings_nobody_can_make_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = replace(backbone_encoder("tiny", None, 16, untrained=True).spec, name="imported")
    linear_method(spec).save(tmp_path / "run", {})
    slide = write_tissue(tmp_path / "a.tiff")
    code, said = predict(capsys, tmp_path / "run", slide, "--out", tmp_path / "out")
    assert code == WRONG_USE
    assert "--encoded" in said
    words = ("predict", tmp_path / "run", slide, "--out", tmp_path / "out", "--encoded", tmp_path / "none", "--json")
    for flags in (["--tissue.mpp", "2"], ["--cells", "otsu"], ["--outline", tmp_path / "none.geojson"]):
        assert run([str(word) for word in (*words, *flags)]) == WRONG_USE
        assert "encoded already are fixed" in capsys.readouterr().err
    assert run([str(word) for word in words]) == SOME_FAILED
    answer = json.loads(capsys.readouterr().out)
    assert answer["failed"][0]["kind"] == "MissingFileError"
