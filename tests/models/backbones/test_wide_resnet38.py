"""Wide-ResNet38 against its published numbers and an obvious twin."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.models import build_backbone, count
from counterstain.models.backbones.base import norms_of
from counterstain.models.backbones.wide_resnet38 import WideResNet38
from counterstain.testing.backbones import images


@pytest.fixture(scope="module")
def full() -> WideResNet38:
    with torch.device("meta"):
        return WideResNet38()


def test_it_has_the_published_parameters(full: WideResNet38) -> None:
    convs = [module for module in full.modules() if isinstance(module, nn.Conv2d)]
    norms = norms_of(full)
    assert (len(convs), len(norms), len(full.state_dict())) == (43, 37, 228)
    assert sum(conv.weight.numel() for conv in convs) == 105_023_168
    assert count(full).parameters == 105_070_912


def test_the_stem_and_every_norm_are_frozen(full: WideResNet38) -> None:
    stem = [full.get_submodule(name) for name in ("conv1a", "b2", "b2_1", "b2_2")]
    assert sum(parameter.numel() for module in stem for parameter in module.parameters()) == 822_336
    frozen = {name for name, parameter in full.named_parameters() if not parameter.requires_grad}
    expected = {
        name
        for name, _ in full.named_parameters()
        if name.startswith(("conv1a.", "b2.", "b2_1.", "b2_2.")) or "bn" in name
    }
    assert frozen == expected


@pytest.mark.parametrize(
    ("size", "gigamacs"), [(112, 24.94), (224, 99.76), (256, 130.3), (448, 399), (512, 521), (1024, 2085)]
)
def test_it_costs_the_published_multiplications(full: WideResNet38, size: int, gigamacs: float) -> None:
    assert count(full, size, size).macs / 1e9 == pytest.approx(gigamacs, rel=1.5e-3)


def test_its_names_are_those_of_the_usual_files(full: WideResNet38) -> None:
    names = set(full.state_dict())
    for name in (
        "conv1a.weight",
        "b2.conv_branch1.weight",
        "b2.bn_branch2a.running_mean",
        "b4_5.conv_branch2b1.weight",
        "b4_5.bn_branch2b1.running_var",
        "b4.conv_branch1.weight",
        "b5_2.conv_branch2a.weight",
        "b6.bn_branch2b2.bias",
        "b7.conv_branch2b2.weight",
        "bn7.weight",
    ):
        assert name in names
    assert "b4_1.conv_branch1.weight" not in names


def test_every_stage_has_the_published_channels(full: WideResNet38) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in full.state_dict().items()}
    assert shapes["b5.conv_branch2a.weight"] == (512, 512, 3, 3)
    assert shapes["b5.conv_branch2b1.weight"] == (1024, 512, 3, 3)
    assert shapes["b6.conv_branch2a.weight"] == (512, 1024, 1, 1)
    assert shapes["b6.conv_branch2b1.weight"] == (1024, 512, 3, 3)
    assert shapes["b7.conv_branch2b2.weight"] == (4096, 2048, 1, 1)
    assert full.channels == (256, 512, 1024, 4096)
    assert full.strides == (4, 8, 8, 8)


def norm_relu(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    statistics = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.relu(F.batch_norm(x, *statistics, eps=1e-5))


def basic(state: Mapping[str, Tensor], name: str, x: Tensor, stride: int, dilations: tuple[int, int]) -> Tensor:
    h = norm_relu(state, f"{name}.bn_branch2a", x)
    y = F.conv2d(h, state[f"{name}.conv_branch2a.weight"], None, stride, dilations[0], dilations[0])
    y = norm_relu(state, f"{name}.bn_branch2b1", y)
    y = F.conv2d(y, state[f"{name}.conv_branch2b1.weight"], None, 1, dilations[1], dilations[1])
    projection = state.get(f"{name}.conv_branch1.weight")
    return y + (x if projection is None else F.conv2d(h, projection, None, stride))


def bottleneck(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    h = norm_relu(state, f"{name}.bn_branch2a", x)
    y = norm_relu(state, f"{name}.bn_branch2b1", F.conv2d(h, state[f"{name}.conv_branch2a.weight"]))
    y = F.conv2d(y, state[f"{name}.conv_branch2b1.weight"], None, 1, 4, 4)
    y = F.conv2d(norm_relu(state, f"{name}.bn_branch2b2", y), state[f"{name}.conv_branch2b2.weight"])
    return y + F.conv2d(h, state[f"{name}.conv_branch1.weight"])


def twin(state: Mapping[str, Tensor], x: Tensor) -> list[Tensor]:
    """The published table, a line for each block."""
    x = F.conv2d(x, state["conv1a.weight"], None, 1, 1)
    for name in ("b2", "b2_1", "b2_2"):
        x = basic(state, name, x, 2 if name == "b2" else 1, (1, 1))
    for name in ("b3", "b3_1", "b3_2"):
        x = basic(state, name, x, 2 if name == "b3" else 1, (1, 1))
    taps = [x]
    for name in ("b4", "b4_1", "b4_2", "b4_3", "b4_4", "b4_5"):
        x = basic(state, name, x, 2 if name == "b4" else 1, (1, 1))
    taps.append(F.relu(x))
    for name, dilations in (("b5", (1, 2)), ("b5_1", (2, 2)), ("b5_2", (2, 2))):
        x = basic(state, name, x, 1, dilations)
    taps.append(F.relu(x))
    x = bottleneck(state, "b7", bottleneck(state, "b6", x))
    return [*taps, norm_relu(state, "bn7", x)]


@pytest.fixture(scope="module")
def small() -> WideResNet38:
    """All 17 blocks, narrow, with norms that do something."""
    torch.manual_seed(0)
    backbone = WideResNet38(width=1 / 16)
    for norm in norms_of(backbone):
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        for tensor, low, high in ((norm.running_mean, -0.3, 0.3), (norm.running_var, 0.2, 0.5)):
            tensor.uniform_(low, high)
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
    return backbone.eval()


@torch.no_grad()
def test_it_computes_what_the_published_table_says(small: WideResNet38) -> None:
    batch = images(45, 38)
    for tap, expected in zip(small(batch), twin(small.state_dict(), small.normalise(batch)), strict=True):
        torch.testing.assert_close(tap, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_the_shallowest_tap_is_signed_and_the_others_are_rectified(small: WideResNet38) -> None:
    first, *rest = small(images())
    assert first.min() < 0 < first.max()
    assert all(tap.min() == 0 and tap.max() > 0 for tap in rest)


@torch.no_grad()
@pytest.mark.parametrize(("name", "share"), [("b6", 0.3), ("b7", 0.5)])
def test_channels_are_dropped_before_both_last_convolutions_in_training_alone(
    small: WideResNet38, name: str, share: float
) -> None:
    calls: list[tuple[int, float]] = []

    def look(_: nn.Module, given: tuple[Tensor], kept: Tensor) -> None:
        before, after = given[0].amax((2, 3)) > 0, kept.amax((2, 3)) > 0
        calls.append((kept.shape[1], 1 - float(after.sum() / before.sum())))

    hook = small.get_submodule(f"{name}.dropout").register_forward_hook(look)
    batch = images(32, 32, num_images=16)
    torch.manual_seed(0)
    small.train()(batch)
    small.eval()(batch)
    hook.remove()
    convs = [small.get_parameter(f"{name}.{conv}.weight") for conv in ("conv_branch2b1", "conv_branch2b2")]
    assert [channels for channels, _ in calls] == [conv.shape[1] for conv in convs] * 2
    assert [dropped for _, dropped in calls] == pytest.approx([share, share, 0, 0], abs=0.08)


@torch.no_grad()
def test_norms_keep_their_statistics_in_training() -> None:
    backbone = build_backbone("wide_resnet38", width=1 / 16).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone(images())
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
