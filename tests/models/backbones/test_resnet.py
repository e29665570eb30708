"""ResNets: torchvision's names, an obvious twin, and the law of dilation."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError
from counterstain.models import load_backbone_weights
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


def dilations(backbone: ResNet, layer: str) -> list[tuple[int, ...]]:
    """Of the 3x3 convolutions, in order."""
    convs = [module for module in backbone.get_submodule(layer).modules() if isinstance(module, nn.Conv2d)]
    return [conv.dilation for conv in convs if conv.kernel_size == (3, 3)]


def test_a_multi_grid_spreads_the_dilations_of_the_last_stage() -> None:
    """DeepLab at output stride 16: rates 2 x (1, 2, 4), arXiv 1706.05587."""
    with torch.device("meta"):
        plain, spread = ResNet(101, 16), ResNet(101, 16, multi_grid=(1, 2, 4))
        dense, strided = ResNet(50, 8, multi_grid=(1, 2, 4)), ResNet(18, 32, multi_grid=(1, 3))
    assert dilations(spread, "layer4") == [(2, 2), (4, 4), (8, 8)]
    assert dilations(plain, "layer4") == [(1, 1), (2, 2), (2, 2)]
    assert dilations(dense, "layer4") == [(4, 4), (8, 8), (16, 16)]
    assert dilations(strided, "layer4") == [(1, 1), (1, 1), (3, 3), (3, 3)]
    for layer in ("layer1", "layer2", "layer3"):
        assert dilations(spread, layer) == dilations(plain, layer)
    assert {name: tensor.shape for name, tensor in spread.state_dict().items()} == {
        name: tensor.shape for name, tensor in plain.state_dict().items()
    }
    assert spread.strides == (4, 8, 16, 16)


@torch.no_grad()
def test_a_multi_grid_changes_the_deepest_tap_alone_and_no_shape() -> None:
    plain, batch = stirred(50, 16), images(70, 45)
    spread = ResNet(50, 16, multi_grid=(1, 2, 4)).eval()
    spread.load_state_dict(plain.state_dict())
    *shallow, deep = plain(batch)
    *others, other = spread(batch)
    assert all(torch.equal(tap, expected) for tap, expected in zip(others, shallow, strict=True))
    assert other.shape == deep.shape
    assert not torch.allclose(other, deep)


@pytest.mark.parametrize(("depth", "grid"), [(101, (1, 2)), (18, (1, 2, 4)), (50, (1, 0, 4))])
def test_a_multi_grid_needs_a_factor_for_each_block(depth: int, grid: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="one for each block of layer4"):
        ResNet(depth, multi_grid=grid)


def test_a_deeplabs_file_fills_its_resnet(tmp_path: Path) -> None:
    published = stirred(18)
    state = {f"backbone.{name}": tensor for name, tensor in published.state_dict().items()}
    rest = {"aspp.conv1.weight": torch.zeros(2), "decoder.bn1.bias": torch.zeros(2)}
    torch.save({"epoch": 3, "state_dict": {**state, **rest}}, tmp_path / "deeplab.pth")
    backbone = ResNet(18)
    audit = load_backbone_weights(backbone, tmp_path / "deeplab.pth")
    assert (audit.left_over, audit.missing) == (tuple(rest), ())
    assert all(torch.equal(tensor, published.state_dict()[name]) for name, tensor in backbone.state_dict().items())
