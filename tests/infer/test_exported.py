"""Steps in other runtimes: what torch gives, kept by what it follows from, and never a wrong value."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from torch import Tensor, nn

from counterstain.errors import DamagedSlideError, ExportError, InputError, MissingExtraError, StaleResultError
from counterstain.files import read_json
from counterstain.geometry import Box, Size
from counterstain.infer import exported
from counterstain.infer.encode import EncoderStep, EncodeSettings, encode_slide
from counterstain.infer.exported import TOLERANCE, Place, Step, compare, images, key_of
from counterstain.infer.predict import predict_slide
from counterstain.infer.runtime import Runner, choose_runtime, runtime_of_images
from counterstain.infer.settings import PredictSettings
from counterstain.methods import METHODS, SSHR, InputSpec, SSHRConfig
from counterstain.models.encoders import backbone_encoder
from counterstain.results import Classes
from counterstain.slides import open_slide
from counterstain.slides.base import frame_of
from counterstain.testing.encoding import CELLS, CPU, write_tissue
from counterstain.testing.planted import ArraySlide, PlantedModel, PlantedSettings, plant
from counterstain.tissue import Tissue

pytest.importorskip("onnxruntime")
ONNX = Place("onnx", 1)
SIZE = (16, 24)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, with nothing open."""
    monkeypatch.setenv("COUNTERSTAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(exported, "_open", {})
    return tmp_path / "cache" / "networks"


class Small(nn.Module):
    """A convolution, a norm that has seen something, and a square's mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.norm.running_mean = torch.tensor([0.1, -0.2, 0.3, 0.0])
        self.eval()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.norm(self.conv(images_BCHW)).relu().mean((2, 3))


def step_of(function: Callable[[Tensor], Tensor] | None = None, identity: str = "1") -> Step:
    network = Small()
    return Step(network, network if function is None else function, identity)


def test_a_step_gives_what_torch_gives_for_batches_of_any_size() -> None:
    step = step_of()
    run = exported.exported(step, SIZE, ONNX)
    for num in (1, 3, 8):
        shown = images(num, SIZE, seed=num)
        torch.testing.assert_close(run(shown), step(shown).detach(), rtol=1e-5, atol=1e-6)


def test_openvino_gives_what_torch_gives_for_batches_of_any_size() -> None:
    pytest.importorskip("openvino")
    step = step_of()
    run = exported.exported(step, SIZE, Place("openvino", 1))
    for num in (3, 1, 8, 2):
        shown = images(num, SIZE, seed=num)
        torch.testing.assert_close(run(shown), step(shown).detach(), rtol=1e-5, atol=1e-6)


def test_an_export_is_kept_and_a_damaged_one_made_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = images(2, SIZE)
    expected = exported.exported(step_of(), SIZE, ONNX)(shown)
    (path,) = cache.iterdir()
    content = path.read_bytes()
    for kept in (content, content[:200], b""):
        path.write_bytes(kept)
        monkeypatch.setattr(exported, "_open", {})
        assert torch.equal(exported.exported(step_of(), SIZE, ONNX)(shown), expected)
        assert [one.name for one in cache.iterdir()] == [path.name]
        assert len(path.read_bytes()) == len(content)


def test_a_kept_export_of_other_weights_is_not_believed(cache: Path) -> None:
    step = step_of()
    exported.exported(step, SIZE, ONNX)
    (path,) = cache.iterdir()
    stranger = step_of()
    with torch.no_grad():
        stranger.network.conv.bias.add_(1)
    path.rename(cache / f"{key_of(stranger, SIZE)}.onnx")  # as if two had met under one name
    shown = images(2, SIZE)
    found = exported.exported(stranger, SIZE, ONNX)(shown)
    torch.testing.assert_close(found, stranger(shown).detach(), rtol=1e-5, atol=1e-6)


def test_whatever_changes_the_values_changes_the_key() -> None:
    other_weights = step_of()
    with torch.no_grad():
        other_weights.network.norm.running_var.mul_(2)
    other_look = step_of()
    other_look.network.conv.dilation = (2, 2)
    keys = [
        key_of(step_of(), SIZE),
        key_of(step_of(), SIZE[::-1]),
        key_of(step_of(identity="2"), SIZE),
        key_of(other_weights, SIZE),
        key_of(other_look, SIZE),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(step_of(), SIZE) == keys[0]


def test_what_depends_on_the_values_of_its_first_images_is_not_exported(cache: Path) -> None:
    network = Small()

    def branching(images_BCHW: Tensor) -> Tensor:
        return network(images_BCHW) if images_BCHW.sum() > 0 else images_BCHW.mean((2, 3))

    with pytest.raises(ExportError, match="can't export"):
        exported.exported(Step(network, branching, "1"), SIZE, ONNX)
    assert not list(cache.iterdir())


def test_what_gives_other_values_is_refused_and_not_kept(cache: Path) -> None:
    network, calls = Small(), []

    def shifting(images_BCHW: Tensor) -> Tensor:
        calls.append(1)
        return network(images_BCHW) + len(calls)

    with pytest.raises(ExportError, match="differ from torch's"):
        exported.exported(Step(network, shifting, "1"), SIZE, ONNX)
    assert not list(cache.iterdir())


def test_without_a_folder_that_can_be_written_torch_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COUNTERSTAIN_CACHE", str(tmp_path / "file"))
    monkeypatch.delenv("COUNTERSTAIN_RUNTIME")
    assert Runner(tiny_sshr(), settings("auto"), 4, tile_px=32).runtime.name == "torch"
    assert "COUNTERSTAIN_CACHE" in capsys.readouterr().err
    with pytest.raises(InputError, match="COUNTERSTAIN_CACHE"):
        Runner(tiny_sshr(), settings("onnx"), 4, tile_px=32)


def test_a_comparison_forgives_one_image_a_little_and_all_nothing() -> None:
    step, shown = step_of(), images(5, SIZE)
    right = step(shown).detach()

    def with_factors(*factors: float) -> Tensor:
        return right * torch.tensor(factors)[:, None]

    compare(step, lambda _: with_factors(1, 1 + TOLERANCE / 2, 1, 1.04, 1), shown)
    for wrong in (with_factors(1, 1, 1, 1.06, 1), with_factors(1.01, 1, 1.01, 1, 1.01), right * torch.nan, right[:4]):
        with pytest.raises(ExportError):
            compare(step, lambda _, found=wrong: found, shown)


CLASSES = Classes(("a", "b", "c"), ((0, 0, 0),) * 3)


def tiny_sshr() -> SSHR:
    torch.manual_seed(0)
    config = SSHRConfig(backbone="tiny", kernels=(5, 5, 5), presence_thresholds=0.5)
    return SSHR(config, CLASSES, InputSpec(32, 0, 1.0))


def settings(runtime: str, **others: object) -> PredictSettings:
    return PredictSettings(device="cpu", num_threads=1, runtime=runtime, **others)


def test_maps_are_those_of_torch_and_images_alone_stay_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COUNTERSTAIN_RUNTIME")
    method, tiles = tiny_sshr(), np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    chosen = Runner(method, settings("auto", tta="hv3"), 4, tile_px=32)
    assert (chosen.runtime.name, chosen.runtime.label) == ("onnx", "32 onnx")
    torchs = Runner(method, settings("torch", tta="hv3"), 4, tile_px=32)
    assert torchs.runtime.label == "32"
    np.testing.assert_allclose(chosen.run(tiles), torchs.run(tiles), atol=1e-5)
    assert Runner(method, settings("auto"), 1).runtime == runtime_of_images(settings("auto"))
    assert runtime_of_images(settings("auto")).name == "torch"


def test_what_no_other_runtime_runs_is_run_by_torch_unless_one_was_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COUNTERSTAIN_RUNTIME")
    assert Runner(PlantedModel(), settings("auto"), 4, tile_px=64).runtime.name == "torch"
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "Torch runs the network" in line
    with pytest.raises(InputError, match="Pass --runtime torch"):
        Runner(PlantedModel(), settings("onnx"), 4, tile_px=64)


def test_a_map_that_one_runtime_began_is_not_finished_by_another(tmp_path: Path) -> None:
    slide, method = open_slide(write_tissue(tmp_path / "a.tiff")), tiny_sshr()
    done = predict_slide(slide, method, tmp_path / "out", settings("torch"), "1")
    with pytest.raises(StaleResultError):
        predict_slide(slide, method, tmp_path / "out", settings("onnx"), "1")
    again = predict_slide(slide, method, tmp_path / "other", settings("onnx"), "1")
    assert '"runtime": "onnx"' in (tmp_path / "other" / "slide.json").read_text()
    assert again.inputs_hash != done.inputs_hash


def test_embeddings_are_those_of_torch_and_known_by_the_runtime(tmp_path: Path) -> None:
    from counterstain.data.encoded_files import read_encoded

    path, encoder = write_tissue(tmp_path / "a.tiff"), backbone_encoder("tiny", None, 16, untrained=True)
    for runtime in ("torch", "onnx"):
        chosen = EncodeSettings(batch_size=8, num_workers=0, num_threads=1, device="cpu", runtime=runtime)
        encode_slide(open_slide(path), encoder, tmp_path / runtime, CELLS, chosen)
    one, other = (read_encoded(tmp_path / runtime, "tiny").features_NC for runtime in ("torch", "onnx"))
    np.testing.assert_allclose(one.astype(np.float32), other.astype(np.float32), rtol=2e-3, atol=1e-3)
    with pytest.raises(StaleResultError):
        encode_slide(open_slide(path), encoder, tmp_path / "onnx", CELLS, CPU)


def test_runtimes_that_are_none_or_not_installed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"'abacus' was given.*expected one of auto, torch, onnx, openvino"):
        choose_runtime("cpu", "auto", "abacus")
    monkeypatch.setattr("counterstain.infer.runtime.find_spec", lambda name: None)
    monkeypatch.delenv("COUNTERSTAIN_RUNTIME")
    assert choose_runtime("cpu", "auto", "auto").name == "torch"
    with pytest.raises(MissingExtraError, match=r"counterstain\[onnx\]"):
        choose_runtime("cpu", "auto", "onnx")


class CutOff(ArraySlide):
    """Can't be decoded below a row, as long as its class says so."""

    first_bad_row = 10**9

    def _decode(self, handle: Any, level: int, box: Box) -> Any:
        if box.bottom > self.first_bad_row:
            raise DamagedSlideError("cut off")
        return super()._decode(handle, level, box)


@pytest.mark.slow
def test_a_map_that_was_interrupted_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    regions = [("stroma", shapely.box(20, 20, 290, 390))]
    path, method = plant(tmp_path / "a.planted", PlantedSettings(Size(300, 400), 1.0), regions).path, tiny_sshr()
    chosen, frame = settings("onnx", chunk_px=16, batch_size=3), frame_of(ArraySlide(path), 16.0)
    tissue = Tissue(np.ones(frame.size.shape, np.bool_), frame)
    predict_slide(CutOff(path), method, tmp_path / "whole", chosen, "1", tissue)
    monkeypatch.setattr(CutOff, "first_bad_row", 300)
    with pytest.raises(DamagedSlideError):
        predict_slide(CutOff(path), method, tmp_path / "out", chosen, "1", tissue)
    assert read_json(tmp_path / "out" / "map.zarr" / "zarr.json")["attributes"]["bands_done"] > 0
    monkeypatch.setattr(CutOff, "first_bad_row", 10**9)
    predict_slide(CutOff(path), method, tmp_path / "out", chosen, "1", tissue)
    whole, resumed = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path / "whole" / "map.zarr", tmp_path / "out" / "map.zarr")
    )
    assert whole == resumed


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_two_threads_share_a_network_that_was_kept(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(runtime.replace("onnx", "onnxruntime"))
    encoder = backbone_encoder("tiny", None, 32, untrained=True)
    sizes = (4, 4, 1, 4, 4, 3)
    random = np.random.default_rng(0)
    batches = [random.integers(0, 256, (num, 32, 32, 3), np.uint8) for num in sizes]

    def embedded(name: str) -> list[np.ndarray]:
        chosen = EncodeSettings(batch_size=4, device="cpu", runtime=name, num_threads=1)
        return list(EncoderStep(encoder, chosen).stream(batches))

    embedded(runtime)
    monkeypatch.setattr(exported, "_open", {})  # as in another process: the file is there, and opened with one image
    for found, expected in zip(embedded(runtime), embedded("torch"), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("name", METHODS)
def test_every_dense_method_gives_the_same_in_every_runtime(name: str, runtime: str) -> None:
    pytest.importorskip(runtime.replace("onnx", "onnxruntime"))
    method_type = METHODS[name]
    config = next(value for key, value in method_type.presets.items() if "small" in key or "tiny" in key)
    torch.manual_seed(0)
    classes = Classes(("a", "b"), ((0, 0, 0),) * 2, background="a")
    method = method_type(config, classes, InputSpec(64, 0, 1.0))  # type: ignore[call-arg]
    tiles = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = Runner(method, settings(runtime), 4, tile_px=64).run(tiles)
    np.testing.assert_allclose(found, Runner(method, settings("torch"), 4, tile_px=64).run(tiles), atol=1e-4)
