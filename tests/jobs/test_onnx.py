"""A run's network as ONNX, and in 8-bit integers: what it gives, what it was calibrated on, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterstain.cli import OK, SOME_FAILED, WRONG_USE, run
from counterstain.data import PatchDataset
from counterstain.data.cohorts import CohortSlide
from counterstain.data.encoded_files import read_encoded, read_header
from counterstain.data.encoder_patches import DrawSettings
from counterstain.errors import ExistingOutputError, ExportError, InputError, MissingFileError, StaleResultError
from counterstain.files import read_json
from counterstain.infer.int8 import Int8Model, write_int8
from counterstain.infer.onnx_runtime import open_onnx
from counterstain.infer.runtime import Runner
from counterstain.infer.settings import PredictSettings
from counterstain.jobs.onnx import export_onnx, find_int8, training_cells, training_tiles
from counterstain.jobs.train_encoder import EncoderTraining, train_encoder
from counterstain.methods import SSHR, InputSpec, SSHRConfig
from counterstain.methods.scae import SCAEConfig
from counterstain.testing.encoding import write_tissue
from counterstain.training import TrainSettings

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


def test_what_an_encoder_is_calibrated_on_are_cells_of_its_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no cells"):
        training_cells(tmp_path, 16)
    drawn = np.random.default_rng(0).integers(0, 256, (3, 50, 16, 16, 3), np.uint8)
    for number, pixels in enumerate(drawn):
        np.savez(tmp_path / f"{number}.npz", pixels=pixels, corners=np.zeros((50, 2)))
    np.testing.assert_array_equal(training_cells(tmp_path, 16), drawn[:, ::3].reshape(-1, 16, 16, 3))
    with pytest.raises(InputError, match="of other sizes than the encoder's 32 px"):
        training_cells(tmp_path, 32)


@pytest.mark.slow
def test_an_encoder_in_integers_gives_nearly_its_embeddings_and_they_are_known_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slides = [CohortSlide(f"s{seed}", write_tissue(tmp_path / f"s{seed}.tiff", seed)) for seed in range(2)]
    draw = DrawSettings(cell_um=16.0, input_px=32)
    how = EncoderTraining(SCAEConfig(decoder="tiny", rho=90.0), TrainSettings(epochs=1, batch_size=4), 16, draw)
    encoder = str(tmp_path / "encoder")
    train_encoder(slides, Path(encoder), how)
    command = ["encode", str(slides[0].path), "--encoder", encoder, "--cell-um", "16", "--cells", "runs"]
    assert run([*command, "--out", str(tmp_path / "rough"), "--int8"]) == WRONG_USE
    assert f"counterstain export {encoder} --format onnx --calibrate {encoder}/cells" in capsys.readouterr().err
    assert run(["export", encoder, "--format", "onnx", "--calibrate", f"{encoder}/cells"]) == OK
    assert read_json(Path(encoder) / "int8.json")["calibrated_on"] == {"cells": 16}
    assert run([*command, "--out", str(tmp_path / "rough"), "--int8"]) == OK
    assert run([*command, "--out", str(tmp_path / "exact"), "--runtime", "torch"]) == OK
    assert run([*command, "--out", str(tmp_path / "exact"), "--int8"]) == SOME_FAILED, "features of both would mix"
    rough, exact = (read_encoded(tmp_path / name / "s0.tiff", "scae") for name in ("rough", "exact"))
    specs = [read_header(tmp_path / name / "s0.tiff", "scae").encoder for name in ("rough", "exact")]
    assert specs[0] == specs[1], "a method that learned from the one may be shown the other"
    off = np.linalg.norm(rough.features_NC.astype(np.float32) - exact.features_NC, axis=1)
    size = np.linalg.norm(exact.features_NC.astype(np.float32), axis=1)
    assert 0 < np.median(off / size) < 0.2


def test_few_tiles_are_no_calibration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="16 or more"):
        write_int8(None, np.zeros((3, 8, 8, 3), np.uint8), tmp_path / "a.onnx")  # type: ignore[arg-type]
