import numpy as np
import pytest
import torch
from torch import Tensor

from counterstain.errors import InputError
from counterstain.infer.runtime import (
    Runner,
    available_cores,
    choose_runtime,
    network_threads,
    reader_threads,
    threads,
)
from counterstain.infer.settings import PredictSettings
from counterstain.testing.planted import PLANTED_CLASSES, PlantedModel


def test_a_cpu_computes_in_fp32() -> None:
    runtime = choose_runtime("cpu", "auto")
    assert (runtime.device.type, runtime.autocast, runtime.precision) == ("cpu", None, "32")
    with runtime.context():
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("precision", ["16", "bf16"])
def test_half_precision_on_a_cpu_is_refused(precision: str) -> None:
    with pytest.raises(InputError, match="many times slower"):
        choose_runtime("cpu", precision)


def test_the_gpu_is_taken_where_there_is_one() -> None:
    assert choose_runtime().device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.gpu
def test_a_gpu_computes_in_half_precision() -> None:
    runtime = choose_runtime()
    assert runtime.autocast in (torch.bfloat16, torch.float16)
    with runtime.context():
        ones = torch.ones(2, 2, device=runtime.device)
        assert torch.mm(ones, ones).dtype == runtime.autocast


def test_devices_and_precisions_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="Pass --device cpu"):
        choose_runtime("abacus")
    with pytest.raises(InputError, match="expected auto, 32, 16 or bf16"):
        choose_runtime("cpu", "8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="'cuda:3' can't be used here"):
        choose_runtime("cuda:3")


def test_threads_leave_a_core_to_the_readers_unless_they_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert network_threads(None) == available_cores()
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert network_threads(None) == max(1, available_cores() - 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert network_threads(None) == torch.get_num_threads()
    assert network_threads(7) == 7


def test_readers_are_as_many_as_asked() -> None:
    assert reader_threads(0) == 0
    assert reader_threads(3) == 3
    assert 1 <= reader_threads(None) <= 4


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def images_of(labels: np.ndarray) -> np.ndarray:
    return np.array(PLANTED_CLASSES.colors, np.uint8)[labels][None]


def test_maps_are_averaged_over_squares() -> None:
    labels = np.zeros((4, 8), np.int64)
    labels[:2, :3] = 1
    maps = Runner(PlantedModel(), PredictSettings(device="cpu"), map_stride=2).run(images_of(labels))
    assert maps.shape == (1, 3, 2, 4)
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(maps[0, 1], [[1, 0.5, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(maps.sum(1), 1)


def test_the_halo_is_left_out() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (12, 16))
    runner = Runner(PlantedModel(), PredictSettings(device="cpu"), map_stride=2)
    whole = runner.run(images_of(labels))
    np.testing.assert_array_equal(runner.run(images_of(labels), halo_px=4), whole[:, :, 2:-2, 2:-2])


def test_a_gray_value_follows_the_classes_when_white_becomes_background() -> None:
    labels = np.array([[0, 2]])
    runner = Runner(PlantedModel(), PredictSettings(device="cpu", white_background=True), map_stride=1)
    assert runner.num_channels == 4
    gray = runner.run(images_of(labels))[0, 3]
    luma = (0.299 * 240 + 0.587 * 50 + 0.114 * 130) / 255
    np.testing.assert_allclose(gray, [[1, luma]], rtol=1e-5)


class OfWrongShape(PlantedModel):
    def predict_maps(self, images_BCHW: Tensor) -> Tensor:
        return super().predict_maps(images_BCHW)[..., :-1]


class NotANumber(PlantedModel):
    def predict_maps(self, images_BCHW: Tensor) -> Tensor:
        return super().predict_maps(images_BCHW) * float("nan")


@pytest.mark.parametrize(("model", "message"), [(OfWrongShape(), "expected"), (NotANumber(), "no numbers")])
def test_what_is_no_map_is_refused(model: PlantedModel, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Runner(model, PredictSettings(device="cpu"), map_stride=1).run(images_of(np.zeros((4, 4), np.int64)))
