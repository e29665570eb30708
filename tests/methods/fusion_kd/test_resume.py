"""Killed in any round, a run goes on and ends with the same ledger, the same model and nothing more on disk."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from counterstain.files import read_json
from counterstain.methods import model_digest
from counterstain.testing.blobs import write_blobs
from counterstain.testing.processes import exit_code
from counterstain.training.fit import read_losses

sys.path.insert(0, str(Path(__file__).parent))
from killed import train

Kill = Callable[[str, int], None]

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL to send")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen positives: a batch of maps and two more."""
    return write_blobs(tmp_path_factory.mktemp("data"), num_train=36, num_val=8)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody killed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(folder, run)
    assert len(read_json(run / "ledger.json")["rows"]) == 2
    return run


@pytest.fixture
def kill(folder: Path, tmp_path: Path) -> Kill:
    """Trains in a process that kills itself."""

    def killed(place: str, count: int) -> None:
        script = Path(__file__).with_name("killed.py")
        assert exit_code(script, folder, tmp_path, place, count) == -signal.SIGKILL, "it was not killed there"
        assert not (tmp_path / "model.json").exists()

    return killed


def tree(run: Path) -> set[str]:
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}


def differences(whole: Path, folder: Path, run: Path) -> list[str]:
    """Goes on with a killed run; what is then not as in one that was not killed."""
    train(folder, run)
    same = {
        "ledger": (run / "ledger.json").read_bytes() == (whole / "ledger.json").read_bytes(),
        "model": model_digest(run) == model_digest(whole),
        "losses": read_losses(run / "losses.csv") == read_losses(whole / "losses.csv"),
        "files": tree(run) == tree(whole),
    }
    return [name for name, is_same in same.items() if not is_same]


def test_killed_between_batches_of_maps(kill: Kill, folder: Path, whole: Path, tmp_path: Path) -> None:
    kill("maps", 4)
    second = tmp_path / "rounds" / "2"
    assert read_json(second / "maps" / "done.json") == {"done": 16}
    assert not (second / "train").exists()
    assert differences(whole, folder, tmp_path) == []


def test_killed_between_a_students_epochs(kill: Kill, folder: Path, whole: Path, tmp_path: Path) -> None:
    kill("training", 2)
    first = tmp_path / "rounds" / "1"
    assert (first / "train" / "checkpoints" / "last.ckpt").exists()
    assert [path.name for path in (first / "candidates").iterdir()] == ["epoch_1.safetensors"]
    assert differences(whole, folder, tmp_path) == []


def test_killed_while_judging(kill: Kill, folder: Path, whole: Path, tmp_path: Path) -> None:
    kill("judging", 4)
    assert len(list((tmp_path / "rounds" / "1" / "candidates").iterdir())) == 2
    assert not (tmp_path / "rounds" / "1" / "weights.safetensors").exists()
    assert not (tmp_path / "ledger.json").exists()
    assert differences(whole, folder, tmp_path) == []


def test_killed_between_ledger_and_tidying(kill: Kill, folder: Path, whole: Path, tmp_path: Path) -> None:
    kill("tidying", 2)
    assert len(read_json(tmp_path / "ledger.json")["rows"]) == 1
    assert (tmp_path / "rounds" / "1" / "maps").exists()
    assert (tmp_path / "rounds" / "1" / "candidates").exists()
    assert differences(whole, folder, tmp_path) == []


ELSEWHERE = {"maps": (1, 2), "training": (1, 4), "judging": (1, 6), "ledger": (1, 2, 3), "tidying": (1, 3)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "count"),
    [(place, count) for place, counts in ELSEWHERE.items() for count in counts],
)
def test_killed_anywhere_else(kill: Kill, folder: Path, whole: Path, tmp_path: Path, place: str, count: int) -> None:
    kill(place, count)
    assert differences(whole, folder, tmp_path) == []


@pytest.mark.slow
def test_killed_three_times(kill: Kill, folder: Path, whole: Path, tmp_path: Path) -> None:
    for place, count in (("maps", 2), ("training", 1), ("judging", 5)):
        kill(place, count)
    assert differences(whole, folder, tmp_path) == []
