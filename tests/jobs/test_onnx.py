"""A run's network as ONNX, and in 8-bit integers: what it gives, what it was calibrated on, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterstain.data import PatchDataset
from counterstain.errors import ExistingOutputError, ExportError, InputError, MissingFileError, StaleResultError
from counterstain.files import read_json
from counterstain.infer.int8 import Int8Model, write_int8
from counterstain.infer.onnx_runtime import open_onnx
from counterstain.infer.runtime import Runner
from counterstain.infer.settings import PredictSettings
from counterstain.jobs.onnx import export_onnx, find_int8, training_tiles
from counterstain.methods import SSHR, InputSpec, SSHRConfig

pytest.importorskip("onnxruntime")
SIDE = 32


def method_of(data: PatchDataset) -> SSHR:
    torch.manual_seed(0)
    config = SSHRConfig(backbone="tiny", kernels=(3, 3, 3), presence_thresholds=0.0)
    return SSHR(config, data.classes, InputSpec(SIDE, 0, 1.0))


def test_a_run_is_exported_once_and_in_integers_by_its_training_patches(textures: PatchDataset, tmp_path: Path) -> None:
    method, run = method_of(textures), tmp_path / "run"
    method.save(run)
    tiles = training_tiles(textures, SIDE)
    assert tiles.shape == (24, SIDE, SIDE, 3)
    path = export_onnx(method, run)
    shown = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
    expected = method.predict_maps(shown)
    torch.testing.assert_close(open_onnx(path, 1)(shown), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ExistingOutputError):
        export_onnx(method, run)
    with pytest.raises(MissingFileError, match="--calibrate"):
        find_int8(run)
    rough = export_onnx(method, run, data=textures)
    assert rough == find_int8(run)
    assert read_json(run / "int8.json")["calibrated_on"] == {"data": textures.name, "split": "train", "tiles": 24}
    runner = Runner(Int8Model(method, rough, 1), PredictSettings(device="cpu"), 1)
    assert runner.described == {"device": "cpu", "precision": "int8", "runtime": "onnx"}
    maps = runner.run(tiles)
    off = np.abs(maps - expected.numpy())
    assert 0 < off.mean() < 0.03
    with pytest.raises(InputError, match="takes 32 x 32"):
        Int8Model(method, rough, 1).predict_maps(shown[:, :, :16])


@pytest.mark.slow
def test_integers_of_an_earlier_training_are_refused(textures: PatchDataset, tmp_path: Path) -> None:
    method, run = method_of(textures), tmp_path / "run"
    method.save(run)
    export_onnx(method, run, data=textures)
    with torch.no_grad():
        next(method.network.parameters()).mul_(2)
    method.save(run)
    with pytest.raises(StaleResultError, match="--overwrite"):
        find_int8(run)
    export_onnx(method, run, data=textures, overwrite=True)
    assert find_int8(run) == run / "int8.onnx"


@pytest.mark.slow
def test_no_file_is_left_of_a_network_that_gives_other_values_nor_lost_to_a_note(
    textures: PatchDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, run = method_of(textures), tmp_path / "run"
    method.save(run)
    (run / "mine.json").write_text("mine")
    with pytest.raises(ExistingOutputError):
        export_onnx(method, run, run / "mine.onnx")
    monkeypatch.setattr("counterstain.infer.exported.TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="differ from torch's"):
        export_onnx(method, run)
    assert not (run / "network.onnx").exists()


def test_few_tiles_are_no_calibration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="16 or more"):
        write_int8(None, np.zeros((3, 8, 8, 3), np.uint8), tmp_path / "a.onnx")  # type: ignore[arg-type]
