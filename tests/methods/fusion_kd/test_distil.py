"""A run: halves of patients, cross-fitted maps, candidates, what it says and refuses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from counterstain.data import PatchDataset
from counterstain.data.tumour import tumour_class
from counterstain.errors import InputError, StaleResultError
from counterstain.files import read_json
from counterstain.methods import FusionKD, FusionKDConfig
from counterstain.methods.fusion_kd.cache import TeacherMaps
from counterstain.methods.fusion_kd.distil import HALVES, Distillation, ratio_note
from counterstain.methods.fusion_kd.pixel_val import PixelTruth
from counterstain.methods.fusion_kd.rounds import Kind, State
from counterstain.models.mil import MilNetwork, build_mil
from counterstain.models.weights import load_state, read_state, write_state
from counterstain.training import TrainSettings
from counterstain.training.fit import read_losses

Distilled = Callable[..., FusionKD]


def built(kind: Kind, seed: int) -> MilNetwork:
    return build_mil("tiny_mil", {"width": 2})


def distillation(data: PatchDataset, run: Path, **settings: object) -> Distillation:
    config = FusionKDConfig(teacher="tiny_mil", student="tiny_mil", **settings)  # type: ignore[arg-type]
    training = TrainSettings(epochs=1, batch_size=8, seed=1)
    return Distillation(config, data, run, training, 32, tumour_class(data.classes), built)


def test_halves_share_no_patient_and_leave_no_image_out(blobs: PatchDataset, tmp_path: Path) -> None:
    first, second = (distillation(blobs, tmp_path)._half(number) for number in (0, 1))
    assert sorted([*first, *second]) == list(range(len(blobs.train)))
    patients = [{blobs.train[index].patient for index in half} for half in (first, second)]
    assert not patients[0] & patients[1]
    assert len(patients[0]) == len(patients[1]) == 6


def test_a_half_of_one_kind_teaches_nothing(blobs: PatchDataset, tmp_path: Path) -> None:
    apart = tuple(replace(record, patient=f"{record.label}") for record in blobs.train)
    with pytest.raises(InputError, match="Half of the 2 training patients have images of one kind alone"):
        distillation(replace(blobs, train=apart), tmp_path)._half(0)


def test_images_of_one_kind_teach_nothing(blobs: PatchDataset, tmp_path: Path) -> None:
    tumour = tuple(record for record in blobs.train if record.label == (0, 1))
    with pytest.raises(InputError, match="12 of 12 training images are positive"):
        distillation(replace(blobs, train=tumour), tmp_path).execute()


def test_cross_fitted_maps_are_of_the_teacher_that_has_not_learned_from_the_patient(
    blobs: PatchDataset, tmp_path: Path
) -> None:
    run = distillation(blobs, tmp_path, cross_fit=True)
    for half, bias in zip(HALVES, (-20.0, 20.0), strict=True):  # one says no tumour anywhere, the other all tumour
        heads = {"weight": 0.0, "bias": bias}
        state = {
            name: torch.full_like(tensor, heads[name.rsplit(".", 1)[1]]) if name.startswith("sides.") else tensor
            for name, tensor in built("teacher", 0).state_dict().items()
        }
        write_state(tmp_path / half / "weights.safetensors", state)
    maps = TeacherMaps.of(tmp_path / "maps", run.is_positive, 1, 32, 10.0)
    run._teach(State(), maps)
    learned_by_first = set(run._half(0).tolist())
    for index in np.flatnonzero(run.is_positive):
        expected = 255 if index in learned_by_first else 0
        assert set(maps.read(index).flatten().tolist()) == {expected}


def test_from_the_second_teacher_on_there_is_one_for_all(blobs: PatchDataset, tmp_path: Path) -> None:
    run = distillation(blobs, tmp_path, cross_fit=True)
    write_state(tmp_path / "rounds" / "1" / "weights.safetensors", built("student", 0).state_dict())
    maps = TeacherMaps.of(tmp_path / "maps", run.is_positive, 1, 32, 10.0)
    run._teach(State(number=2, teacher="round_1", teacher_kind="student"), maps)
    assert (tmp_path / "maps" / "maps.npy").exists()


def test_the_candidate_that_the_masks_rank_first_stands_for_its_round(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    settings = {"round_epochs": 3, "candidates": 3, "keep_candidates": True, "learning_rate": 1e-2}
    method = distilled(blobs, tmp_path, selector="pixel_val", max_rounds=1, **settings)
    truth, found = PixelTruth(blobs, blobs.val, method.index, 32), {}
    for path in (tmp_path / "rounds" / "1" / "candidates").iterdir():
        load_state(method.network, read_state(path))
        found[path.stem] = truth.count(method.network).scores["f1_pos"]
    (row,) = read_json(tmp_path / "ledger.json")["rows"]
    assert len(found) == 3
    assert found[f"epoch_{row['epoch']}"] == max(found.values()) == row["scores"]["f1_pos"]
    assert row["candidates"] == 3
    assert row["reasons"][0].endswith("; the best of 3 checkpoints on the same images")
    kept, chosen = (
        (tmp_path / "rounds" / "1" / name).read_bytes()
        for name in ("weights.safetensors", f"candidates/epoch_{row['epoch']}.safetensors")
    )
    assert kept == chosen


def test_blocks_are_distilled_from_four_maps(blobs: PatchDataset, tmp_path: Path, distilled: Distilled) -> None:
    distilled(blobs, tmp_path, selector="schedule", max_rounds=1, distill="block")
    (row,) = read_json(tmp_path / "ledger.json")["rows"]
    assert row["maps"] == {"stride": 1, "megabytes": pytest.approx(12 * 4 * 32 * 32 / 1e6)}


def test_a_runs_losses_and_minutes_are_those_of_its_trainings(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    settings = {"selector": "proxy", "max_rounds": 1, "teacher_epochs": 2, "neg_pos_ratio": 0.5}
    distilled(blobs, tmp_path, **settings)
    told = read_json(tmp_path / "training.json")
    assert list(told["stages"]) == ["teacher", "witness", "round 1"]
    assert told["epochs"] == len(told["minutes_by_epoch"]) == 2 + 2 + 1
    assert told["minutes"] == pytest.approx(sum(told["stages"].values()))
    # 12 positives and 6 negatives in batches of 8, 6 and 3 of the witness's half
    assert [step for step, _ in read_losses(tmp_path / "losses.csv")] == list(range(1, 2 * 2 + 2 * 1 + 2 + 1))
    before = (tmp_path / "model.safetensors").read_bytes()
    distilled(blobs, tmp_path, **settings)  # finished: nothing is trained again
    assert (tmp_path / "model.safetensors").read_bytes() == before
    with pytest.raises(StaleResultError, match="other settings"):
        distilled(blobs, tmp_path, **{**settings, "margin": 0.1})


@pytest.mark.parametrize(("ratio", "share"), [(0, "100%"), (1, "46%"), (2.98, "10%"), (4, "0%")])
def test_the_note_on_the_ratio_says_from_which_tumour_share_normal_tissue_is_safe(ratio: float, share: str) -> None:
    note = ratio_note(ratio, None)
    assert note.startswith(f"{ratio:.2g} negatives for each positive")
    assert note.endswith(f"where tumours cover {share} of them or more.")


def test_the_note_on_the_ratio_warns_where_tumours_are_smaller() -> None:
    assert ratio_note(1, 0.5) == ratio_note(1, None)
    warning = ratio_note(1, 0.1)
    assert warning.startswith("Warning: 1 negatives")
    assert "Yours cover 10%: raise --neg-pos-ratio" in warning


def test_a_run_says_what_its_ratio_does(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled, capsys: pytest.CaptureFixture[str]
) -> None:
    distilled(blobs, tmp_path, selector="schedule", max_rounds=0, neg_pos_ratio=0.5, area_fraction=0.1)
    assert ratio_note(0.5, 0.1) in capsys.readouterr().err
