import json
from pathlib import Path

import pytest

from counterstain.cli import OK, SOME_FAILED, WRONG_USE, run
from counterstain.data.cell_files import read_cells
from counterstain.data.encoded_files import read_encoded
from counterstain.testing.encoding import damage, write_tissue

CHEAP = ["--device", "cpu", "--num-workers", "0", "--num-threads", "1"]
TINY = ["--encoder", "tiny", "--untrained", "--input-px", "16", "--cell-um", "16", "--cells", "runs", *CHEAP]


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    write_tissue(folder / "a.tiff")
    damage(write_tissue(folder / "b.tiff"))
    return folder


def test_slides_become_encoded_slides_and_failures_are_listed(
    tmp_path: Path, slides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["encode", str(slides), "--out", str(tmp_path / "out"), *TINY, "--json", "--zarr"]) == SOME_FAILED
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["done"]) == ["a.tiff"]
    assert [(entry["slide"], entry["kind"]) for entry in answer["failed"]] == [("b.tiff", "DamagedSlideError")]
    told, encoded = answer["done"]["a.tiff"], read_encoded(tmp_path / "out" / "a.tiff", "tiny")
    assert (told["num_cells"], told["num_features"]) == encoded.features_NC.shape
    assert told["compression"] == pytest.approx(3 * 112**2 * 56**2 / (9 * 112**2 + 128 * 56**2))
    assert told["compression_of_scan"] == pytest.approx(3 * 16 * 16 / (128 + 36))
    assert Path(told["features"]).with_suffix(".zarr").is_dir()


def test_a_second_encoder_reuses_the_cells_and_the_table_tells_both_ratios(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["encode", str(write_tissue(tmp_path / "a.tiff")), "--out", str(tmp_path / "out"), *TINY]
    assert run(command) == OK
    answer = capsys.readouterr()
    assert "times smaller" in answer.out
    assert "229" in answer.out
    before = read_cells(tmp_path / "out" / "a.tiff").inputs_hash
    command[command.index("tiny")] = "mobilenet_v2"
    assert run(command) == OK
    assert read_cells(tmp_path / "out" / "a.tiff").inputs_hash == before
    assert run([*command, "--cell-um", "32"]) == WRONG_USE
    command[command.index("--cell-um") + 1] = "32"
    assert run(command) == SOME_FAILED
    assert "--overwrite" in capsys.readouterr().err
    assert run([*command, "--overwrite"]) == OK


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--encoder", "tiny"], "--weights"),
        (["--encoder", "tinny", "--untrained"], "tiny"),
        (["--encoder", "runs/none"], "nothing is there"),
        (["--encoder", "tiny", "--untrained", "--cell-um", "-1"], "above 0"),
        (["--encoder", "tiny", "--untrained", "--mpp", "0"], "--mpp"),
        (["--encoder", "tiny", "--untrained", "--device", "abacus"], "abacus"),
    ],
)
def test_wrong_use_is_told_before_the_first_slide(
    tmp_path: Path, slides: Path, flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["encode", str(slides), "--out", str(tmp_path / "out"), *flags]) == WRONG_USE
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_remedy_for_coarse_slides_is_a_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tissue(tmp_path / "a.tiff", mpp=4.0)
    command = ["encode", str(path), "--out", str(tmp_path / "out"), "--encoder", "tiny", "--untrained", *CHEAP]
    assert run(command) == SOME_FAILED
    assert "--cells otsu" in capsys.readouterr().err
    assert run([*command, "--cells", "otsu"]) == OK
