"""What guards a run: a training that stopped between its files goes on, what can't end well is refused before it begins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterstain.data import PatchDataset
from counterstain.errors import MissingFileError
from counterstain.methods import FusionKD, model_digest
from counterstain.methods.fusion_kd import learn
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
