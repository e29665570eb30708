import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from counterstain.cli import OK, WRONG_USE, run
from counterstain.jobs import bench
from counterstain.methods import load_dense_method

GIVEN_PLACES = ("cores", "network_threads", "reader_threads", "figures", "networks", "outlook")


def test_stitching_is_told_in_milliseconds_a_tile() -> None:
    figure = bench.stitch_ms(0.0)
    assert figure.unit == "ms a tile"
    assert 0 < figure.value < 100


def test_a_run_is_timed_with_its_own_multiply_adds(trained: Path) -> None:
    model = load_dense_method(trained)
    entry = bench.network_time("mine", model, "torch", 0.0)
    assert entry.ms_a_tile is not None
    assert entry.ms_a_tile > 0
    assert entry.gflop_a_tile > 0


def test_the_usual_slide_has_as_many_tiles_as_its_tissue_takes() -> None:
    # 1 um/px: 20480 px, tiles of 224 px with a quarter overlapping follow each other by 168
    assert bench.tiles_of_usual_slide(bench.small_model()) == round(0.4 * (20480 / 168) ** 2)


def test_without_a_figure_for_a_network_nothing_is_promised(trained: Path) -> None:
    entry = bench.NetworkTime("mine", "torch", None, 1.0, problem="it is not there")
    assert bench._beside_limit(entry, {}) is entry
    with pytest.raises(ValueError, match="No runtime here can run mine: it is not there"):
        bench._outlook("mine", load_dense_method(trained), [entry], {})


def test_what_is_no_run_and_no_number_of_seconds_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(tmp_path)]) == WRONG_USE
    assert "trained run" in capsys.readouterr().err
    assert run(["bench", "--seconds", "-1"]) == WRONG_USE
    assert "--seconds was given as -1" in capsys.readouterr().err


@pytest.mark.slow
def test_the_machine_is_measured_with_a_run_and_nothing_is_left_behind(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert run(["bench", str(trained), "--seconds", "0", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert tuple(found) == GIVEN_PLACES
    assert {entry["model"] for entry in found["networks"]} == {"SSHR, MobileNetV2, untrained", trained.name}
    assert all(entry["of_limit"] > 0 for entry in found["networks"] if not entry["problem"])
    assert len(found["outlook"]) == 2
    assert not list(tmp_path.iterdir())


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("policy", "is_warned"), [("PASSIVE", False), ("ACTIVE", True)])
def test_the_doctor_warns_of_threads_that_spin_and_says_why_it_takes_so_many(
    policy: str, is_warned: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    assert run(["doctor", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["network_threads"] == 2
    assert "OMP_NUM_THREADS is 2" in found["threads_because"]
    assert any("waiting threads spin" in warning for warning in found["warnings"]) == is_warned
    assert set(found["extras"]) >= {"onnxruntime", "openvino"}


def test_the_doctor_says_what_runs_networks_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    library, _, where = found["runtime"].partition(" on ")
    assert library in ("torch", "onnx", "openvino")
    assert where
    assert found["runtime_because"]
