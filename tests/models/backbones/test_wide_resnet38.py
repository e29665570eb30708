"""Wide-ResNet38 against its published numbers and an obvious twin."""

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import WeightsError
from counterstain.models import build_backbone, count, load_backbone_weights, write_state
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


def original_names() -> dict[str, str]:
    """Ours for each name of the original MXNet file, from its table of stages."""
    stages = {"2a": "b2", "2b1": "b2_1", "2b2": "b2_2", "3a": "b3", "3b1": "b3_1", "3b2": "b3_2", "4a": "b4"}
    stages |= {f"4b{index}": f"b4_{index}" for index in range(1, 6)}
    stages |= {"5a": "b5", "5b1": "b5_1", "5b2": "b5_2", "6a": "b6", "7a": "b7"}
    norm = {"arg:gamma": "weight", "arg:beta": "bias", "aux:moving_mean": "running_mean"}
    norm |= {"aux:moving_var": "running_var"}
    names = {"arg:conv1a_weight": "conv1a.weight"}
    for stage, block in stages.items():
        branches = ["branch2a", "branch2b1"] + (["branch2b2"] if block in ("b6", "b7") else [])
        shortcut = ["branch1"] if block in ("b2", "b3", "b4", "b5", "b6", "b7") else []
        for branch in [*branches, *shortcut]:
            names[f"arg:res{stage}_{branch}_weight"] = f"{block}.conv_{branch}.weight"
        for branch in branches:
            for part, own in norm.items():
                kind, part_name = part.split(":")
                names[f"{kind}:bn{stage}_{branch}_{part_name}"] = f"{block}.bn_{branch}.{own}"
    for part, own in norm.items():
        kind, part_name = part.split(":")
        names[f"{kind}:bn7_{part_name}"] = f"bn7.{own}"
    return names


def write_params(path: Path, state: Mapping[str, Tensor]) -> None:
    """A `.params` file as MXNet of 2017 wrote it: sides as 32-bit numbers, no word about storage."""
    content = struct.pack("<QQQ", 0x112, 0, len(state))
    for tensor in state.values():
        content += struct.pack(f"<I{tensor.ndim}I", tensor.ndim, *tensor.shape) + struct.pack("<iii", 1, 0, 0)
        content += tensor.numpy().tobytes()
    content += struct.pack("<Q", len(state))
    path.write_bytes(content + b"".join(struct.pack("<Q", len(name)) + name.encode() for name in state))


def original(backbone: WideResNet38) -> dict[str, Tensor]:
    """What the original file would hold for a backbone: its tensors and a classifier, 193 of them."""
    own = backbone.state_dict()
    renamed = {given: own[name] for given, name in original_names().items()}
    channels = backbone.channels[3]
    return {**renamed, "arg:linear1000_weight": torch.ones(10, channels), "arg:linear1000_bias": torch.ones(10)}


def assert_same_tensors(backbone: WideResNet38, other: WideResNet38) -> None:
    state, expected = backbone.state_dict(), other.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_the_original_file_fills_it_tensor_by_tensor(small: WideResNet38, tmp_path: Path) -> None:
    given = original(small)
    assert len(given) == 193
    write_params(tmp_path / "w.params", given)
    backbone = WideResNet38(width=1 / 16)
    audit = load_backbone_weights(backbone, tmp_path / "w.params")
    assert len(audit.loaded) == 191
    assert audit.missing == ()
    assert audit.left_over == ("arg:linear1000_weight", "arg:linear1000_bias")
    assert_same_tensors(backbone, small)


def test_the_original_names_are_all_of_the_published_network(full: WideResNet38) -> None:
    own = {name for name in full.state_dict() if not name.endswith("num_batches_tracked")}
    assert set(original_names().values()) == own
    assert len(own) == 191


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_converted_files_fill_it_too(small: WideResNet38, tmp_path: Path, suffix: str) -> None:
    given = {name: tensor for name, tensor in small.state_dict().items() if not name.endswith("num_batches_tracked")}
    given["fc8.weight"] = torch.ones(20, small.channels[3], 1, 1)
    path = tmp_path / f"res38_cls{suffix}"
    torch.save(given, path) if suffix == ".pth" else write_state(path, given)
    backbone = WideResNet38(width=1 / 16)
    audit = load_backbone_weights(backbone, path)
    assert (len(audit.loaded), audit.left_over) == (191, ("fc8.weight",))
    assert_same_tensors(backbone, small)


def test_what_the_original_file_lacks_or_has_too_many_of_is_named(small: WideResNet38, tmp_path: Path) -> None:
    given = original(small)
    del given["aux:bn4b5_branch2b1_moving_var"], given["arg:res6a_branch1_weight"]
    given |= {"arg:res4b6_branch2a_weight": torch.ones(1), "aux:conv1a_weight": torch.ones(1)}
    write_params(tmp_path / "w.params", given)
    with pytest.raises(WeightsError) as caught:
        load_backbone_weights(WideResNet38(width=1 / 16), tmp_path / "w.params")
    message = str(caught.value)
    assert "2 missing: b4_5.bn_branch2b1.running_var, b6.conv_branch1.weight" in message
    assert "2 left over: arg:res4b6_branch2a_weight, aux:conv1a_weight" in message


def test_the_epsilon_of_the_original_norms_makes_no_difference(small: WideResNet38) -> None:
    """They were trained with 1.001e-5; torch's is 1e-5."""
    batch = images()
    with torch.no_grad():
        deep = small(batch)[3]
        for norm in norms_of(small):
            assert isinstance(norm, nn.BatchNorm2d)
            norm.eps = 1.001e-5
        other = small(batch)[3]
        for norm in norms_of(small):
            assert isinstance(norm, nn.BatchNorm2d)
            norm.eps = 1e-5
    assert float((deep - other).abs().max() / deep.abs().max()) < 1e-5
