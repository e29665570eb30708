"""Fusion knowledge distillation as a method: the exam of dense methods, and what is its own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from counterstain.data import PatchDataset
from counterstain.errors import InputError
from counterstain.files import read_json
from counterstain.methods import FusionKD, FusionKDConfig, load_dense_method
from counterstain.methods.base import InputSpec
from counterstain.models.weights import read_state, write_state
from counterstain.testing.methods import DenseMethodContract, random_images

Distilled = Callable[..., FusionKD]

TINY: dict[str, Any] = {
    "teacher": "tiny_mil",
    "student": "tiny_mil",
    "teacher_options": {"width": 8},
    "student_options": {"width": 8},
    "learning_rate": 1e-3,
}


class TestFusionKD(DenseMethodContract):
    name, config = "fusion_kd", FusionKDConfig(**TINY, positive="stripes", selector="schedule", max_rounds=2)


class TestFusionKDOfPixelVal(DenseMethodContract):
    name, config = "fusion_kd", FusionKDConfig(**TINY, positive="stripes", selector="pixel_val", max_rounds=1)


def test_a_mixed_pair_changes_networks_with_roles(blobs: PatchDataset, tmp_path: Path, distilled: Distilled) -> None:
    settings = {"selector": "schedule", "max_rounds": 2, "student_options": {"width": 4}}
    method = distilled(blobs, tmp_path, **settings)
    rows = read_json(tmp_path / "ledger.json")["rows"]
    assert [row["kind"] for row in rows] == ["student", "teacher"]
    assert [row["start"] for row in rows] == [None, "teacher"]
    widths = [
        read_state(tmp_path / name / "weights.safetensors")["sides.0.weight"].shape[1]
        for name in ("teacher", "rounds/1", "rounds/2")
    ]
    assert widths == [8, 4, 8]
    assert method.kind == "teacher"
    images = random_images(32, 32)
    assert torch.equal(load_dense_method(tmp_path).predict_maps(images), method.predict_maps(images))


def test_a_schedule_never_says_that_a_student_outperformed_its_teacher(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled, capsys: pytest.CaptureFixture[str]
) -> None:
    distilled(blobs, tmp_path, selector="schedule", max_rounds=1)
    printed = capsys.readouterr()
    everything = printed.out + printed.err + (tmp_path / "ledger.json").read_text(encoding="utf-8")
    assert "Round 1" in everything
    assert "outperform" not in everything
    assert "no claim" in everything


def test_the_proxy_runs_where_no_image_has_a_mask(blobs: PatchDataset, tmp_path: Path, distilled: Distilled) -> None:
    bare = replace(blobs, val=tuple(replace(record, mask=None) for record in blobs.val))
    distilled(bare, tmp_path, selector="proxy", max_rounds=1)
    row = read_json(tmp_path / "ledger.json")["rows"][0]
    assert row["decision"] in ("switch", "keep")
    assert {name[:2] for name in row["scores"]} - {"pr"} == {"b1", "b2", "b3", "b4", "b5"}


def test_pixel_val_without_masks_is_refused(blobs: PatchDataset, tmp_path: Path, distilled: Distilled) -> None:
    bare = replace(blobs, val=tuple(replace(record, mask=None) for record in blobs.val))
    with pytest.raises(InputError, match="mask"):
        distilled(bare, tmp_path, selector="pixel_val", max_rounds=1)


def test_a_teacher_of_another_run_is_taken_instead_of_trained(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    distilled(blobs, tmp_path / "alone", selector="proxy", max_rounds=0)
    distilled(blobs, tmp_path / "more", selector="proxy", max_rounds=1, teacher_run=tmp_path / "alone")
    for name in ("teacher", "witness"):
        assert not (tmp_path / "more" / name / "training.json").exists()
        states = [read_state(tmp_path / run / name / "weights.safetensors") for run in ("alone", "more")]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert set(read_json(tmp_path / "more" / "training.json")["stages"]) == {"round 1"}


def test_a_round_that_brings_nothing_keeps_the_teacher(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    method = distilled(blobs, tmp_path, selector="pixel_val", max_rounds=3, margin=1.0)
    ledger = read_json(tmp_path / "ledger.json")
    assert [row["decision"] for row in ledger["rows"]] == ["keep", "keep"]
    assert ledger["kept"] == "teacher"
    state = read_state(tmp_path / "teacher" / "weights.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in method.network.state_dict().items())


def test_a_student_whose_areas_run_away_is_rolled_back(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    distilled(blobs, tmp_path / "alone", selector="schedule", max_rounds=0)
    shrink_teacher(tmp_path / "alone")
    settings = {"selector": "schedule", "max_rounds": 1, "wce": "off", "anchor_weight": 50.0, "gm_power": 1.0}
    planted = {**settings, "area_band": (0.75, 1.3), "teacher_run": tmp_path / "alone", "learning_rate": 0.02}
    distilled(blobs, tmp_path / "run", **planted)
    ledger = read_json(tmp_path / "run" / "ledger.json")
    assert ledger["rows"][0]["areas"]["median_ratio"] > 1.3
    assert ledger["rows"][0]["decision"] == "rollback"
    assert ledger["kept"] == "teacher"


def shrink_teacher(run: Path) -> None:
    """Makes a teacher see nearly no tumour, so that what any student sees is a dilation."""
    path = run / "teacher" / "weights.safetensors"
    state = read_state(path)
    for name in list(state):
        if name.startswith("sides.") and name.endswith("bias"):
            state[name] = state[name] - 12
    write_state(path, state)


def test_disk_of_finished_rounds_is_freed(blobs: PatchDataset, tmp_path: Path, distilled: Distilled) -> None:
    distilled(blobs, tmp_path, selector="schedule", max_rounds=2, candidates=1)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert not [name for name in left if "maps" in name or "candidates" in name or name.endswith("last.ckpt")]
    assert {"teacher/weights.safetensors", "rounds/1/weights.safetensors", "rounds/2/weights.safetensors"} <= left


@pytest.mark.parametrize("index", [0, 1])
def test_smoothing_and_snapping_leave_probabilities(textures: PatchDataset, index: int) -> None:
    config = FusionKDConfig(**TINY, positive=textures.classes.names[index], smooth_px=2.0, snap_px=3)
    method = FusionKD.create(config, textures, tile_px=32, seed=0)
    maps_BCHW = method.predict_maps(random_images(32, 32))
    assert method.index == index
    assert torch.allclose(maps_BCHW.sum(1), torch.ones(2, 32, 32), atol=1e-6)
    fused_BHW = method.network(random_images(32, 32))[:, -1]
    assert not torch.allclose(maps_BCHW[:, index], fused_BHW)
    assert torch.allclose(maps_BCHW[:, index].mean(), fused_BHW.mean(), atol=0.05)


def test_classes_that_nobody_named_are_refused(textures: PatchDataset) -> None:
    with pytest.raises(InputError, match="--positive"):
        FusionKD(FusionKDConfig(**TINY), textures.classes, InputSpec(32, 4, None))
