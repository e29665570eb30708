import json
from pathlib import Path

import numpy as np
import pytest

from counterstain.cli import OK, SOME_FAILED, WRONG_USE, run
from counterstain.data.encoded_files import read_encoded
from counterstain.testing.encoding import write_tissue
from counterstain.testing.feature_files import write_clam, write_stamp

PLACES = np.array([(0, 0), (64, 0), (64, 128)])


@pytest.fixture
def features(tmp_path: Path) -> Path:
    folder = tmp_path / "features"
    folder.mkdir()
    values = np.random.default_rng(0).random((3, 4))
    write_stamp(folder / "a.h5", values, PLACES, tile_size_um=64.0)
    return folder


def test_features_become_encoded_slides(tmp_path: Path, features: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tissue(tmp_path / "a.tiff")
    command = ["import", str(features), "--slides", str(tmp_path / "a.tiff"), "--out", str(tmp_path / "out"), "--json"]
    assert run(command) == OK
    answer = json.loads(capsys.readouterr().out)
    assert answer["failed"] == []
    assert answer["done"]["a.tiff"]["encoder"] == {"name": "ctranspath", "digest": "abcd1234", "licence": "unknown"}
    encoded = read_encoded(tmp_path / "out" / "a.tiff", "ctranspath")
    assert encoded.cells_N2.tolist() == [[0, 0], [0, 1], [2, 1]]
    assert encoded.thumbnail_HWC is not None


def test_a_file_that_fails_is_listed_and_files_without_a_slide_are_told(
    tmp_path: Path, features: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clam(features / "b.h5", np.ones((3, 4)), PLACES, with_attributes=False)
    write_clam(features / "c.h5", np.ones((3, 4)), PLACES, with_attributes=False)
    for name in ("a", "b"):
        write_tissue(tmp_path / f"{name}.tiff")
    slides = [str(tmp_path / "a.tiff"), str(tmp_path / "b.tiff")]
    assert run(["import", str(features), "--slides", *slides, "--out", str(tmp_path / "out")]) == SOME_FAILED
    told = capsys.readouterr()
    assert "1 files are of none of the slides" in told.err
    assert "b.tiff" in told.err
    assert "--encoder" in told.err
    assert "a.tiff" in told.out


def test_wrong_use_is_told(tmp_path: Path, features: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert run(["import", str(tmp_path / "none"), *out]) == WRONG_USE
    assert run(["import", str(features), *out, "--patch-px", "0"]) == WRONG_USE
    assert "--patch-px" in capsys.readouterr().err
