"""The MIL networks that papers name: their sizes, strides, reach and weights, at any image size."""

import pytest
import torch

from counterstain.models.backbones.vgg import VGG16
from counterstain.models.mil import MIL_NETWORKS, MilNetwork, build_mil
from counterstain.testing.backbones import images

SMALL = {"swin_mil": {"embed": 8, "depths": (2, 1, 2, 1), "heads": (1, 2, 4, 4), "window": 3}, "tiny_mil": {"width": 4}}


def small(name: str) -> MilNetwork:
    torch.manual_seed(0)
    return build_mil(name, SMALL.get(name))


def num_parameters(name: str) -> int:
    return sum(parameter.numel() for parameter in build_mil(name).parameters())


def test_vgg_mil_is_vgg16_to_conv3_3_with_norms_and_three_heads() -> None:
    convs, norms, heads = 1_735_488, 2 * 1152, 64 + 128 + 256 + 3
    assert num_parameters("vgg_mil") == num_parameters("dws_mil") == convs + norms + heads == 1_738_243


def test_sa_mil_adds_three_attention_blocks_each_used_twice() -> None:
    blocks = sum(2 * (width * width // 8 + width // 8) + width * width + width + 1 for width in (64, 128, 256))
    assert num_parameters("sa_mil") == num_parameters("vgg_mil") + blocks


def test_swin_mil_has_no_fourth_stage() -> None:
    whole, block, merging = 27_520_698, 12 * 768**2 + 13 * 768 + 13**2 * 24, 8 * 384**2 + 8 * 384
    assert num_parameters("swin_mil") == whole - 2 * block - merging - 2 * 768 + (96 + 192 + 384 + 3)


@pytest.mark.parametrize(
    ("name", "fusion", "channels", "strides"),
    [
        ("vgg_mil", (0.3, 0.3, 0.4), (64, 128, 256), (2, 4, 8)),
        ("dws_mil", (0.2, 0.35, 0.45), (64, 128, 256), (2, 4, 8)),
        ("sa_mil", (0.2, 0.35, 0.45), (64, 128, 256), (2, 4, 8)),
        ("swin_mil", (0.3, 0.4, 0.3), (96, 192, 384), (4, 8, 16)),
        ("resnet18_mil", (0.3, 0.4, 0.3), (64, 128, 256), (4, 8, 16)),
    ],
)
def test_networks_are_the_published_ones(
    name: str, fusion: tuple[float, ...], channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    network = build_mil(name)
    assert network.fusion == fusion
    assert (network.backbone.channels[:3], network.backbone.strides[:3]) == (channels, strides)


@pytest.mark.parametrize("name", MIL_NETWORKS)
@pytest.mark.parametrize("size", [(32, 32), (33, 46)])
@torch.no_grad()
def test_maps_are_as_large_as_the_image_and_the_last_is_the_weighted_mean(name: str, size: tuple[int, int]) -> None:
    network = small(name).eval()
    maps_BSHW = network(images(*size))
    assert tuple(maps_BSHW.shape) == (2, 4, *size)
    assert 0 <= float(maps_BSHW.min()) <= float(maps_BSHW.max()) <= 1
    sides = zip(network.fusion, maps_BSHW[:, :3].unbind(1), strict=True)
    torch.testing.assert_close(maps_BSHW[:, 3], sum(weight * side for weight, side in sides))


@torch.no_grad()
def test_a_cell_of_vggs_third_tap_looks_at_44_rows() -> None:
    backbone = VGG16(batch_norm=False)
    backbone.drop_deepest()
    for parameter in backbone.parameters():  # all positive: what brightens anywhere is passed on
        parameter.fill_(0.01)
    brightened_BCHW = torch.eye(56)[:, None, :, None].expand(56, 3, 56, 8)  # one row in each
    dark = backbone.taps(torch.zeros(1, 3, 56, 8))[2][0, 0, 3, 0]
    seen = (backbone.taps(brightened_BCHW)[2][:, 0, 3, 0] > dark).nonzero()
    assert len(seen) == int(seen.max() - seen.min()) + 1 == 44


@pytest.mark.parametrize("name", ["vgg_mil", "sa_mil", "swin_mil"])
def test_the_fused_map_teaches_all_that_is_built(name: str) -> None:
    network = small(name).train()
    network(images(32, 32))[:, 3].mean().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{parameter_name} was not reached"
