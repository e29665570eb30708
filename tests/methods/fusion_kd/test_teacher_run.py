"""What a run takes over of another one, and which ones it refuses before anything is trained."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterstain.data import PatchDataset
from counterstain.errors import InputError, MissingFileError
from counterstain.files import read_json, write_json
from counterstain.methods import FusionKD, FusionKDConfig, artefacts
from counterstain.training import TrainSettings

Distilled = Callable[..., FusionKD]

ALONE: dict[str, Any] = {"selector": "schedule", "max_rounds": 0}


@pytest.fixture(scope="module")
def alone(blobs: PatchDataset, tmp_path_factory: pytest.TempPathFactory, distilled: Distilled) -> Path:
    """A run of a teacher alone."""
    run = tmp_path_factory.mktemp("alone") / "run"
    distilled(blobs, run, **ALONE)
    return run


@pytest.fixture
def copied(alone: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    return Path(shutil.copytree(alone, tmp_path / "alone"))


def test_a_run_without_a_teacher_is_refused(
    copied: Path, blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    (copied / "teacher" / "weights.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"teacher/weights\.safetensors is not there"):
        distilled(blobs, tmp_path / "run", **ALONE, teacher_run=copied)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"teacher_options": {"width": 4}}, "teacher_options {'width': 8} for {'width': 4}"),
        ({"scale": 2.0}, "scale 1.0 for 2.0"),
        ({"mil_loss": "gm_bce"}, "mil_loss 'constant_dice' for 'gm_bce'"),
    ],
)
def test_another_teacher_is_refused(
    alone: Path, blobs: PatchDataset, tmp_path: Path, distilled: Distilled, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        distilled(blobs, tmp_path / "run", **{**ALONE, **settings}, teacher_run=alone)


def test_another_student_is_not(alone: Path, blobs: PatchDataset, tmp_path: Path, distilled: Distilled) -> None:
    distilled(blobs, tmp_path / "run", **ALONE, student_options={"width": 4}, learning_rate=1e-2, teacher_run=alone)
    assert (tmp_path / "run" / "model.json").exists()


def test_a_teacher_of_another_set_or_method_is_refused(
    alone: Path, copied: Path, blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    fewer = replace(blobs, train=blobs.train[:-2])
    with pytest.raises(InputError, match="other data"):
        distilled(fewer, tmp_path / "run", **ALONE, teacher_run=alone)
    write_json(copied / "model.json", {**read_json(copied / "model.json"), "method": "sshr"})
    with pytest.raises(InputError, match="it is of 'sshr'"):
        distilled(blobs, tmp_path / "run", **ALONE, teacher_run=copied)


def test_halves_of_another_seed_are_refused(
    copied: Path, blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    shutil.copytree(copied / "teacher", copied / "half_a")
    description = read_json(copied / "model.json")
    description["provenance"]["training"]["seed"] = 7
    write_json(copied / "model.json", description)
    with pytest.raises(InputError, match="Pass --seed 7"):
        distilled(blobs, tmp_path / "run", **ALONE, cross_fit=True, teacher_run=copied)
    distilled(blobs, tmp_path / "run", **ALONE, teacher_run=copied)


def test_that_the_teachers_weights_saw_pixel_truth_is_not_forgotten(
    copied: Path, blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    description = read_json(copied / "model.json")
    description["provenance"]["weights_saw_pixel_truth"] = True
    write_json(copied / "model.json", description)
    distilled(blobs, tmp_path / "run", **ALONE, teacher_run=copied)
    assert read_json(tmp_path / "run" / "model.json")["provenance"]["weights_saw_pixel_truth"] is True


def test_all_weights_that_are_taken_over_tell_a_run_from_another(
    copied: Path, blobs: PatchDataset, distilled: Distilled
) -> None:
    config = FusionKDConfig(teacher="tiny_mil", student="tiny_mil", teacher_run=copied)
    recipe = artefacts.Recipe(
        "fusion_kd", config, TrainSettings(), blobs, FusionKD.create(config, blobs, tile_px=32, seed=0).input
    )
    before = recipe.digest()
    (copied / "model.safetensors").write_bytes(b"what the other run kept is not taken over")
    assert recipe.digest() == before
    shutil.copytree(copied / "teacher", copied / "witness")
    assert recipe.digest() != before
