"""Backbones by name: what is known, what is refused, what they weigh."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from counterstain.errors import InputError, UnknownNameError
from counterstain.models import build_backbone, count, load_backbone_weights


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet50'"):
        build_backbone("resnet5")


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"option of backbone resnet18 'output_strides'.*'output_stride'"):
        build_backbone("resnet18", output_strides=8)


def test_the_depth_in_a_name_is_no_option() -> None:
    with pytest.raises(UnknownNameError, match="option of backbone resnet18 'depth'"):
        build_backbone("resnet18", depth=50)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"output_stride": 4}),
        ("resnet18", {"num_frozen": 6}),
        ("mobilenet_v2", {"output_stride": 7}),
        ("mobilenet_v2", {"taps": (3, 6, 13)}),
        ("mobilenet_v2", {"taps": (3, 6, 6, 18)}),
        ("mobilenet_v2", {"taps": (3, 6, 13, 19)}),
        ("mobilenet_v2", {"rectified": (True,)}),
        ("mobilenet_v2", {"num_frozen": -1}),
        ("wide_resnet38", {"width": 0}),
        ("wide_resnet38", {"depths": (1, 1, 0, 1)}),
        ("tiny", {"width": 0}),
    ],
)
def test_values_that_cannot_be_used_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"expected|must be|each of|are 18"):
        build_backbone(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "parameters", "gigamacs"),
    [
        # torchvision's published counts less the classifier's 513,000 / 2,049,000 / 1,281,000
        ("resnet18", {}, 11_689_512 - 513_000, 1.81),
        ("resnet50", {}, 25_557_032 - 2_049_000, 4.09),
        ("resnet101", {}, 44_549_160 - 2_049_000, 7.80),
        ("mobilenet_v2", {"batch_norm": True}, 3_504_872 - 1_281_000, 0.30),
    ],
)
def test_sizes_are_the_published_ones(name: str, options: dict[str, bool], parameters: int, gigamacs: float) -> None:
    with torch.device("meta"):
        counted = count(build_backbone(name, **options))
    assert counted.parameters == parameters
    assert counted.macs / 1e9 == pytest.approx(gigamacs, abs=0.02)


def test_tiny_stays_tiny() -> None:
    assert count(build_backbone("tiny")).parameters < 500_000


def test_wide_resnet38_builds_on_meta_within_no_memory() -> None:
    with torch.device("meta"):
        backbone = build_backbone("wide_resnet38")
    assert all(tensor.is_meta for tensor in backbone.state_dict().values())


def test_a_file_with_a_classifier_fills_a_backbone(tmp_path: Path) -> None:
    published = build_backbone("resnet18")
    state = {**published.state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "resnet18.pth")
    backbone = build_backbone("resnet18")
    audit = load_backbone_weights(backbone, tmp_path / "resnet18.pth")
    assert audit.left_over == ("fc.weight", "fc.bias")
    assert audit.missing == ()
    assert torch.equal(backbone.state_dict()["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


def test_freezing_ends_training_of_norms_and_leaves_the_rest() -> None:
    backbone = build_backbone("resnet18", num_frozen=1).train()
    norm = backbone.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert not norm.training
    assert backbone.get_submodule("layer1.0.bn1").training
    assert not backbone.eval().get_submodule("layer1.0.bn1").training


def test_a_copy_keeps_its_own_parts_frozen() -> None:
    backbone = build_backbone("resnet18", num_frozen=1)
    copied = deepcopy(backbone)
    backbone.get_submodule("bn1").train()
    assert not copied.train().get_submodule("bn1").training
    assert backbone.get_submodule("bn1").training


def test_models_and_losses_load_where_only_torch_is_installed() -> None:
    absent = (
        "pydantic zarr shapely pandas imagecodecs openslide tifffile rich lightning timm torchvision PIL scipy sklearn"
    )
    script = (
        f"import sys\nfor name in {absent.split()!r}: sys.modules[name] = None\n"
        "import counterstain.models, counterstain.losses, torch\n"
        "net = counterstain.models.SSHRNetwork(counterstain.models.build_backbone('tiny', width=4), 2)\n"
        "print(len(net(torch.rand(1, 3, 32, 32))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "4", done.stderr
