"""ResNets: torchvision's names, an obvious twin, and the law of dilation."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.models.backbones.base import norms_of
from counterstain.models.backbones.resnet import ResNet
from counterstain.testing.backbones import images


def stirred(depth: int, output_stride: int = 32) -> ResNet:
    """Norms that do something."""
    torch.manual_seed(0)
    backbone = ResNet(depth, output_stride)
    for norm in norms_of(backbone):
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        norm.running_mean.uniform_(-0.2, 0.2)
        nn.init.uniform_(norm.weight, 0.2, 0.4)
    return backbone.eval()


def test_names_are_torchvisions() -> None:
    with torch.device("meta"):
        basic, bottleneck = ResNet(18).state_dict(), ResNet(50).state_dict()
    assert (len(basic), len(bottleneck)) == (120, 318)
    assert tuple(basic["layer2.0.downsample.0.weight"].shape) == (128, 64, 1, 1)
    assert tuple(bottleneck["layer1.0.downsample.0.weight"].shape) == (256, 64, 1, 1)
    assert tuple(bottleneck["layer4.2.conv3.weight"].shape) == (2048, 512, 1, 1)
    assert "layer1.0.downsample.0.weight" not in basic
    assert {"conv1.weight", "bn1.running_mean", "layer3.5.bn3.weight", "layer4.0.downsample.1.bias"} <= set(bottleneck)


def norm(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))


def block(state: Mapping[str, Tensor], name: str, x: Tensor, stride: int) -> Tensor:
    """A block of either kind, told apart by the names it has."""
    convs = [number for number in (1, 2, 3) if f"{name}.conv{number}.weight" in state]
    strided = 1 if len(convs) == 2 else 2
    y = x
    for number in convs:
        weight = state[f"{name}.conv{number}.weight"]
        y = F.conv2d(y, weight, None, stride if number == strided else 1, weight.shape[2] // 2)
        y = norm(state, f"{name}.bn{number}", y)
        y = F.relu(y) if number != convs[-1] else y
    short = state.get(f"{name}.downsample.0.weight")
    return F.relu(y + (x if short is None else norm(state, f"{name}.downsample.1", F.conv2d(x, short, None, stride))))


def twin(state: Mapping[str, Tensor], x: Tensor) -> list[Tensor]:
    x = F.relu(norm(state, "bn1", F.conv2d(x, state["conv1.weight"], None, 2, 3)))
    x, taps = F.max_pool2d(x, 3, 2, 1), []
    for layer in (1, 2, 3, 4):
        index = 0
        while f"layer{layer}.{index}.conv1.weight" in state:
            x = block(state, f"layer{layer}.{index}", x, 2 if index == 0 and layer > 1 else 1)
            index += 1
        taps.append(x)
    return taps


@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_it_computes_what_the_paper_says(depth: int) -> None:
    backbone, batch = stirred(depth), images(70, 45)
    for tap, expected in zip(backbone(batch), twin(backbone.state_dict(), backbone.normalise(batch)), strict=True):
        torch.testing.assert_close(tap, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("depth", "output_stride"), [(18, 8), (18, 16), (50, 8)])
@torch.no_grad()
def test_dilation_gives_the_same_values_at_more_places(depth: int, output_stride: int) -> None:
    strided, dilated = stirred(depth), ResNet(depth, output_stride).eval()
    dilated.load_state_dict(strided.state_dict())
    step, batch = 32 // output_stride, images(65, 70)
    torch.testing.assert_close(dilated(batch)[3][..., ::step, ::step], strided(batch)[3], rtol=1e-4, atol=1e-4)
