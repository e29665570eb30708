"""What guards a run: a training that stopped between its files goes on, what can't end well is refused before it begins."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from counterstain.data import PatchDataset
from counterstain.errors import InputError, MissingFileError
from counterstain.files import read_json
from counterstain.methods import FusionKD, FusionKDConfig, model_digest
from counterstain.methods.fusion_kd import learn
from counterstain.methods.fusion_kd.finish import WithoutGlass
from counterstain.methods.fusion_kd.judging import Judge
from counterstain.methods.fusion_kd.seen import HeldOut
from counterstain.models.mil import build_mil
from counterstain.training.fit import read_losses

Distilled = Callable[..., FusionKD]

SCHEDULE: dict[str, Any] = {"selector": "schedule", "max_rounds": 2, "round_epochs": 2}


class Killed(BaseException):
    """Ends a training as a signal would."""


def test_killed_between_the_last_candidate_and_its_checkpoint_the_epoch_is_trained_again(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    distilled(blobs, tmp_path / "whole", **SCHEDULE)
    written = learn.write_state

    def dies(path: Path, state: Any) -> None:
        written(path, state)
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(learn, "write_state", dies)
        distilled(blobs, tmp_path / "run", **SCHEDULE)
    assert (tmp_path / "run" / "rounds" / "1" / "candidates" / "epoch_2.safetensors").exists()
    distilled(blobs, tmp_path / "run", **SCHEDULE)
    assert (tmp_path / "run" / "ledger.json").read_bytes() == (tmp_path / "whole" / "ledger.json").read_bytes()
    assert read_losses(tmp_path / "run" / "losses.csv") == read_losses(tmp_path / "whole" / "losses.csv")
    assert model_digest(tmp_path / "run") == model_digest(tmp_path / "whole")


def test_a_student_does_not_start_afresh_where_it_was_to_go_on_with_moments(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, calls = learn.write_state, [0]

    def dies(path: Path, state: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise Killed
        written(path, state)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(learn, "write_state", dies)
        distilled(blobs, tmp_path, **SCHEDULE, reset_optimizer=False)
    (tmp_path / "rounds" / "1" / "train" / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(MissingFileError, match="Train afresh"):
        distilled(blobs, tmp_path, **SCHEDULE, reset_optimizer=False)


@pytest.mark.parametrize("selector", ["proxy", "pixel_val"])
def test_patients_that_taught_a_student_do_not_judge_it(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled, selector: str
) -> None:
    val = (replace(blobs.val[0], patient=blobs.train[0].patient), *blobs.val[1:])
    with pytest.raises(InputError, match="1 patients have images in the train and in the val split"):
        distilled(replace(blobs, val=val), tmp_path, selector=selector, max_rounds=1)
    assert not (tmp_path / "teacher").exists()


def test_what_would_fail_after_the_teacher_is_refused_before_it(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    bare = replace(blobs, val=tuple(replace(record, mask=None) for record in blobs.val))
    positives = replace(blobs, val=tuple(record for record in blobs.val if record.label == (0, 1)))
    halves = replace(blobs, train=tuple(replace(record, patient=f"{record.label}") for record in blobs.train))
    refused: list[tuple[PatchDataset, dict[str, Any], str]] = [
        (bare, {"selector": "pixel_val"}, "no mask"),
        (positives, {"selector": "schedule"}, "0 negative held-out images"),
        (halves, {"selector": "schedule", "cross_fit": True}, "images of one kind alone"),
        (blobs, {"selector": "schedule", "cache_mb": 1e-6}, "cache-mb"),
    ]
    for number, (data, settings, words) in enumerate(refused):
        run = tmp_path / str(number)
        with pytest.raises(InputError, match=words):
            distilled(data, run, max_rounds=1, **settings)
        assert not (run / "teacher").exists()


def test_a_round_that_fails_leaves_no_maps(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(path: Path, state: Any) -> None:
        raise Killed

    monkeypatch.setattr(learn, "write_state", dies)
    with pytest.raises(Killed):
        distilled(blobs, tmp_path, **SCHEDULE)
    assert (tmp_path / "rounds" / "1" / "train").exists()
    assert not (tmp_path / "rounds" / "1" / "maps").exists()


def test_ledger_and_model_hold_what_the_run_may_claim(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    settings = {**SCHEDULE, "max_rounds": 1, "candidates": 2}
    distilled(blobs, tmp_path / "last", **settings)
    distilled(blobs, tmp_path / "best", **settings, schedule_keeps="best_f1", teacher_run=tmp_path / "last")
    ledgers = {name: read_json(tmp_path / name / "ledger.json") for name in ("last", "best")}
    assert [ledger["reads_masks"] for ledger in ledgers.values()] == [False, True]
    assert [ledger["rows"][0]["candidates"] for ledger in ledgers.values()] == [1, 2]
    assert "masks" not in ledgers["last"]["claim"]
    assert "validation masks chose which network is kept" in ledgers["best"]["claim"]
    for name, ledger in ledgers.items():
        assert len(ledger["rows"][0]["reasons"]) == 1
        known = read_json(tmp_path / name / "model.json")["provenance"]
        assert {key: known[key] for key in ("selector", "claim", "reads_masks")} == {
            key: ledger[key] for key in ("selector", "claim", "reads_masks")
        }


def test_a_judge_knows_only_whom_it_is_asked_for_again(blobs: PatchDataset) -> None:
    judge = Judge(FusionKDConfig(selector="schedule"), HeldOut.of(blobs.val, 1, 32))
    network = build_mil("tiny_mil", {"width": 2})
    for name in ("teacher", "round_1", "round_2"):
        judge.know(name, judge.evidence(network))
    judge.forget_but("teacher", "round_2")
    assert set(judge._known) == {"teacher", "round_2"}


def test_glass_that_losses_left_out_is_no_tumour(blobs: PatchDataset) -> None:
    images_BCHW = torch.full((1, 3, 32, 32), 0.95)
    images_BCHW[..., 16:] = torch.tensor([0.9, 0.67, 0.78]).view(3, 1, 1)
    tiny: dict[str, Any] = {"teacher": "tiny_mil", "student": "tiny_mil", "teacher_options": {"width": 2}}
    for ignores in (False, True):
        method = FusionKD.create(FusionKDConfig(**tiny, ignore_glass=ignores), blobs, tile_px=32, seed=0)
        maps_BCHW = method.predict_maps(images_BCHW)
        assert bool((maps_BCHW[:, method.index, :, :16] == 0).all()) is ignores
        assert bool((maps_BCHW[:, method.index, :, 16:] > 0).all())
        assert torch.allclose(maps_BCHW.sum(1), torch.ones(1, 32, 32))
    with torch.no_grad():
        plain, judged = method.network.eval()(images_BCHW), WithoutGlass(method.network)(images_BCHW)
    assert torch.equal(judged[..., 16:], plain[..., 16:])
    assert float(judged[..., :16].max()) == 0
