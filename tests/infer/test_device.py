"""Batches through a device: order, failures in their place, what a CUDA graph may hold; on a GPU, the same values."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from counterstain.errors import ExportError, InputError
from counterstain.infer.device import Pipeline, aloof, filled_size, looked_ahead
from counterstain.infer.encode import EncoderStep, EncodeSettings
from counterstain.infer.pool import float_images, pooled_gray, pooled_maps
from counterstain.infer.runtime import Runner
from counterstain.infer.settings import PredictSettings
from counterstain.methods import SSHR, DenseMethod, InputSpec, SSHRConfig
from counterstain.methods.fusion_kd import FusionKD
from counterstain.methods.fusion_kd.config import FusionKDConfig
from counterstain.methods.fusion_kd.finish import is_tissue, smoothed, snapped
from counterstain.methods.multi_stage import MultiStage
from counterstain.methods.multi_stage_config import MultiStageConfig
from counterstain.models import HFRM
from counterstain.models.scae import SCAE, SCAESettings
from counterstain.results import Classes
from counterstain.testing.encoding import MeanEncoder
from counterstain.testing.planted import PlantedModel

CLASSES = Classes(("a", "tumour"), ((0, 0, 0), (9, 9, 9)), background="a")
PX = 64


def images(*sizes: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (size, PX, PX, 3), np.uint8) for size in sizes]


def sshr(**others: object) -> SSHR:
    torch.manual_seed(0)
    config = replace(SSHRConfig(backbone="tiny", kernels=(5, 5, 5), presence_thresholds=0.5), **others)
    method = SSHR(config, CLASSES, InputSpec(PX, 0, 1.0))
    for name, parameter in method.network.named_parameters():
        if name.endswith("_scale"):  # starts at nothing
            nn.init.constant_(parameter, 0.5)
    return method


def test_what_comes_is_asked_for_ahead_and_given_in_order() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(5):
            asked.append(number)
            yield number

    given = looked_ahead(items(), 2)
    assert next(given) == 0
    assert asked == [0, 1, 2]
    assert list(given) == [1, 2, 3, 4]
    assert list(looked_ahead([7], 2)) == [7]


def test_a_failure_comes_after_what_was_asked_for_before_it() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise InputError("the third")

    given = looked_ahead(items(), 2)
    assert (next(given), next(given)) == (1, 2)
    with pytest.raises(InputError, match="the third"):
        next(given)


def test_whoever_stops_early_is_given_nothing_more() -> None:
    given = looked_ahead(iter(range(9)), 2)
    next(given)
    given.close()
    assert list(given) == []


def test_a_batch_is_filled_up_to_the_next_quarter() -> None:
    assert [filled_size(num, 16) for num in (1, 4, 5, 12, 13, 16)] == [4, 4, 8, 12, 16, 16]
    assert [filled_size(num, 6) for num in range(1, 7)] == [2, 2, 4, 4, 6, 6]
    assert [filled_size(num, 1) for num in (1,)] == [1]


def test_on_a_cpu_a_batch_is_computed_when_it_is_asked_for() -> None:
    asked: list[int] = []

    def batches() -> Iterator[np.ndarray]:
        for number, batch in enumerate(images(2, 1)):
            asked.append(number)
            yield batch

    pipeline = Pipeline(lambda pixels: pixels.float().mean((1, 2)), torch.device("cpu"), 2)
    given = pipeline.map(batches(), lambda batch: batch)
    batch, values = next(given)
    assert asked == [0]
    np.testing.assert_allclose(values, batch.mean((1, 2)), rtol=1e-5)


def test_an_interrupt_does_not_wait_for_what_was_asked_for_before_it() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise KeyboardInterrupt

    given = looked_ahead(items(), 2)
    with pytest.raises(KeyboardInterrupt):
        next(given)


def compute_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("compute")]


def test_two_batches_are_under_way_where_threads_share_a_network() -> None:
    both = threading.Barrier(2, timeout=30)

    def compute(pixels: Tensor) -> Tensor:
        both.wait()  # one alone would wait for ever
        return pixels.float().mean((1, 2))

    pipeline = Pipeline(compute, torch.device("cpu"), 2, is_shared=True)
    given = list(pipeline.map(images(2, 2, 2, 2, 2, 1), lambda batch: batch))
    assert [len(values) for _, values in given] == [2, 2, 2, 2, 2, 1]
    for batch, values in given:
        np.testing.assert_allclose(values, batch.mean((1, 2)), rtol=1e-5)
    assert not compute_threads()


def test_where_threads_share_a_network_a_failure_comes_at_its_batch_and_leaves_no_thread() -> None:
    def compute(pixels: Tensor) -> Tensor:
        if int(pixels.max()) == 3:
            raise InputError("the fourth")
        return pixels.float().mean((1, 2))

    pipeline = Pipeline(compute, torch.device("cpu"), 1, is_shared=True)
    given = pipeline.map((np.full((1, 4, 4, 3), number, np.uint8) for number in range(9)), lambda batch: batch)
    assert [int(next(given)[1].max()) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="the fourth"):
        next(given)
    assert not compute_threads()

    early = pipeline.map((np.zeros((1, 4, 4, 3), np.uint8) for _ in range(9)), lambda batch: batch)
    next(early)
    early.close()
    assert not compute_threads()


@pytest.mark.parametrize(
    "touching",
    [
        lambda values: values.sum().item(),
        lambda values: bool(values.max() > 0),
        lambda values: torch.tensor([1.0, 2.0], device=values.device),
        lambda values: torch.ones(3).to("meta"),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_what_touches_the_host_is_seen(touching: Callable[[Tensor], object], inference: bool) -> None:
    with torch.inference_mode(inference), pytest.raises(ExportError), aloof():
        touching(torch.ones(3))


def dense_methods() -> list[DenseMethod]:
    tile = InputSpec(PX, 0, 1.0)
    stages = MultiStageConfig(backbone="tiny", second_backbone="tiny", backbone_options={}, second_backbone_options={})
    attentive = FusionKDConfig(teacher="sa_mil", smooth_px=0.0, snap_px=0, ignore_glass=True)
    shifted = FusionKDConfig(teacher="swin_mil", smooth_px=0.0, snap_px=0)
    return [
        sshr(),
        sshr(backbone="mobilenet_v2", scale=2.0, fusion=(0.2, 0.2, 0.3, 0.3)),
        MultiStage(stages, CLASSES, tile),
        FusionKD(attentive, CLASSES, tile),
        FusionKD(shifted, CLASSES, tile),
    ]


@torch.inference_mode()
def test_methods_never_touch_the_host_between_images_and_maps() -> None:
    """Tensors of the meta device meet what a GPU's would: whatever lies on the CPU is seen as a copy."""
    for method in dense_methods():
        method.network.to("meta").eval()
        pixels_BHWC = torch.empty(2, PX, PX, 3, dtype=torch.uint8, device="meta")
        with aloof():
            maps_BCHW = method.predict_maps(float_images(pixels_BHWC)).float()
            found = torch.cat([pooled_maps(maps_BCHW, 4), pooled_gray(pixels_BHWC, 4)], dim=1)
        assert found.shape == (2, 3, PX // 4, PX // 4)


@torch.inference_mode()
def test_neither_does_what_finishes_a_map_nor_a_folded_head_nor_an_s_cae() -> None:
    map_B1HW, images_BCHW = torch.rand(2, 1, PX, PX), torch.rand(2, 3, PX, PX)
    encoder = SCAE(SCAESettings(decoder="tiny")).encoder.eval()
    encoder.tau.fill_(0.0)
    hfrm, head = HFRM(6, 4, kernel=5, padding="replicate"), nn.Conv2d(6, 2, 1)
    low_BCHW, deep_BDhw = torch.rand(2, 6, 8, 8), torch.rand(2, 4, 4, 4)
    with aloof():
        assert hfrm.folded(low_BCHW, deep_BDhw, head).shape == (2, 2, 8, 8)
        assert snapped(smoothed(map_B1HW, 2.0), images_BCHW, 3).shape == map_B1HW.shape
        assert is_tissue(images_BCHW).shape == map_B1HW.shape
        assert encoder(images_BCHW).shape == (2, 128)


def gpu(**others: object) -> PredictSettings:
    return PredictSettings(device="cuda", precision="32", batch_size=8, white_background=True, **others)


@pytest.mark.gpu
def test_a_gpu_gives_every_batch_its_maps_in_order() -> None:
    method, batches = sshr(), images(8, 3, 8, 1, 5, 8, 2)
    plain = Runner(method, replace(gpu(), device="cpu"), 4, PX)
    expected = [plain.run(batch, 8) for batch in batches]
    runner = Runner(method, gpu(), 4, PX)
    found = list(runner.maps(enumerate(batches), lambda pair: pair[1], 8))
    assert [number for (number, _), _ in found] == list(range(len(batches)))
    for (_, maps), values in zip(found, expected, strict=True):
        assert maps.shape == values.shape
        assert np.median(np.abs(maps - values)) < 1e-3  # where two classes are level, a last bit decides


@pytest.mark.gpu
def test_a_captured_batch_is_the_same_whatever_came_before_it() -> None:
    batches = images(8, 3, 8)
    fresh = [Runner(sshr(), gpu(), 4, PX).run(batch) for batch in batches]
    runner = Runner(sshr(), gpu(), 4, PX)
    for _ in range(2):
        for (_, maps), values in zip(runner.maps(batches, lambda batch: batch), fresh, strict=True):
            np.testing.assert_array_equal(maps, values)


@pytest.mark.gpu
def test_what_cannot_be_captured_runs_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    batch = images(3)[0]
    found = Runner(PlantedModel(), gpu(), 4, PX).run(batch)
    np.testing.assert_allclose(found, Runner(PlantedModel(), replace(gpu(), device="cpu"), 4, PX).run(batch), atol=1e-6)
    assert "without a CUDA graph" in capsys.readouterr().err


@pytest.mark.gpu
def test_a_failed_reading_comes_after_the_batches_before_it() -> None:
    def batches() -> Iterator[np.ndarray]:
        yield from images(8, 8)
        raise InputError("a tile")

    given = Runner(sshr(), gpu(), 4, PX).maps(batches(), lambda batch: batch)
    next(given)
    next(given)
    with pytest.raises(InputError, match="a tile"):
        next(given)


@pytest.mark.gpu
def test_an_encoder_gives_on_a_gpu_what_it_gives_on_a_cpu() -> None:
    batches = images(8, 8, 5)
    found = [
        list(EncoderStep(MeanEncoder(input_px=PX), EncodeSettings(8, device=device, precision="32")).stream(batches))
        for device in ("cpu", "cuda")
    ]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3)


@pytest.mark.gpu
def test_a_gpu_keeps_channels_last() -> None:
    method = sshr()
    Runner(method, gpu(), 4, PX)
    weights = [part for part in method.network.parameters() if part.ndim == 4 and part.shape[1] > 1]
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part in weights)
