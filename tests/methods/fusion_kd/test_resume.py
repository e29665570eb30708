"""Killed in any round, a run goes on and ends with the same ledger and the same model."""

import subprocess
import sys
from pathlib import Path

import pytest

from counterstain.data import PatchDataset
from counterstain.methods import model_digest
from counterstain.training.fit import read_losses

sys.path.insert(0, str(Path(__file__).parent))
from killed import train

KILLED = 137 - 128


def execute(data: Path, run: Path, place: str, count: int) -> int:
    script = Path(__file__).with_name("killed.py")
    return subprocess.run(
        [sys.executable, script, data, run, place, str(count)], check=False, capture_output=True
    ).returncode


@pytest.fixture(scope="module")
def folder(blobs: PatchDataset) -> Path:
    assert blobs.source is not None
    return Path(blobs.source[0])


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody killed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(folder, run)
    return run


@pytest.mark.parametrize(
    ("place", "count"),
    [("maps", 2), ("candidates", 1), ("training", 1), ("ledger", 1), ("tidying", 2), ("maps", 20), ("candidates", 2)],
)
def test_a_killed_run_ends_with_the_same_ledger_and_model(
    folder: Path, whole: Path, tmp_path: Path, place: str, count: int
) -> None:
    run = tmp_path / "run"
    assert execute(folder, run, place, count) == -KILLED, "it was not killed there"
    assert not (run / "model.json").exists()
    train(folder, run)
    assert (run / "ledger.json").read_bytes() == (whole / "ledger.json").read_bytes()
    assert model_digest(run) == model_digest(whole)
    assert read_losses(run / "losses.csv") == read_losses(whole / "losses.csv")
