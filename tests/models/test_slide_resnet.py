"""Slides as images: what the networks see, how large they are, and where their evidence lies."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError
from counterstain.models.backbones import ResNet
from counterstain.models.slide_resnet import (
    CompressedResNet,
    CompressedResNetSettings,
    ThumbnailResNet,
    ThumbnailResNetSettings,
    enlarged,
    extent_of,
)
from counterstain.models.weights import write_state
from counterstain.testing.slide_networks import padded, random_slide, together

SMALL_THUMBNAIL = ThumbnailResNetSettings("resnet18", thumbnail_px=64)
SMALL_COMPRESSED = CompressedResNetSettings("resnet18", grid_cells=64)


def thumbnail_network() -> ThumbnailResNet:
    torch.manual_seed(0)
    return ThumbnailResNet(SMALL_THUMBNAIL).eval()


def compressed_network() -> CompressedResNet:
    torch.manual_seed(0)
    return CompressedResNet(6, SMALL_COMPRESSED).eval()


def given_to(module: nn.Module) -> list[Tensor]:
    """What a module will be called with, call by call."""
    calls: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, arguments: calls.append(arguments[0]))
    return calls


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_networks_are_as_large_as_a_resnet50_with_two_classes() -> None:
    # torchvision's published count less the classifier's
    trunk, head = 25_557_032 - 2_049_000, 2048 * 2 + 2
    assert num_parameters(ThumbnailResNet()) == trunk + head
    assert num_parameters(CompressedResNet(128)) == trunk + head + 64 * 49 * (128 - 3)


@torch.no_grad()
def test_a_thumbnail_is_shown_as_rgb_without_its_padding() -> None:
    network = thumbnail_network()
    seen, slide = given_to(network.backbone), random_slide(32, 32, 6)
    network(padded(slide, 40, 33))
    assert slide.thumbnails_B3HW is not None
    torch.testing.assert_close(seen[0], 1 - slide.thumbnails_B3HW)


@torch.no_grad()
def test_a_thumbnail_of_another_size_fills_the_square() -> None:
    network = thumbnail_network()
    seen, slide = given_to(network.backbone), random_slide(3, 8, 6)
    network(slide)
    assert slide.thumbnails_B3HW is not None
    assert seen[0].shape == (1, 3, 64, 64)
    assert float((seen[0].mean((2, 3)) - (1 - slide.thumbnails_B3HW).mean((2, 3))).abs().max()) < 0.05


@torch.no_grad()
def test_a_small_grid_lies_in_the_middle_of_zeros() -> None:
    network = compressed_network()
    seen, slide = given_to(network.backbone.conv1), random_slide(3, 8, 6)
    network(padded(slide, 9, 11))
    expected_BCPP = torch.zeros(1, 6, 64, 64)
    expected_BCPP[:, :, 30:33, 28:36] = slide.features_BCHW
    assert torch.equal(seen[0], expected_BCPP)


@torch.no_grad()
def test_a_large_grid_is_averaged_down_by_one_factor() -> None:
    network = compressed_network()
    seen, slide = given_to(network.backbone.conv1), random_slide(128, 32, 6)
    network(slide)
    expected_BCPP = torch.zeros(1, 6, 64, 64)
    expected_BCPP[:, :, :, 24:40] = F.avg_pool2d(slide.features_BCHW, 2)
    torch.testing.assert_close(seen[0], expected_BCPP)
    assert bool(torch.isfinite(network.evidence(slide)[0][slide.observed_B1HW[0, 0] > 0]).all())


def test_an_extent_is_where_the_slide_s_grid_lies() -> None:
    extent_HW = torch.zeros(7, 9)
    extent_HW[2:5, 1:8] = 1
    assert extent_of(extent_HW) == (slice(2, 5), slice(1, 8))


def test_places_are_enlarged_about_their_centres() -> None:
    map_yx = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    large_PP = enlarged(map_yx, 96)
    assert large_PP.shape == (96, 96)
    torch.testing.assert_close(large_PP[::32, ::32], map_yx)
    assert torch.equal(enlarged(map_yx, 70), large_PP[:70, :70])
    torch.testing.assert_close(large_PP[16, 32], (map_yx[0, 1] + map_yx[1, 1]) / 2)
    assert torch.equal(large_PP[65:, 0], large_PP[64, 0].expand(31))


def test_a_place_of_the_last_stage_sees_around_the_pixel_it_is_enlarged_about() -> None:
    backbone = ResNet(18).eval()
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    torch.manual_seed(0)
    image_13PP = torch.rand(1, 3, 512, 512).add(1).requires_grad_()
    (gradient_13PP,) = torch.autograd.grad(backbone.taps(image_13PP)[3][0, :, 8, 8].sum(), image_13PP)
    weights_PP = gradient_13PP[0].sum(0)
    centre = (weights_PP.sum(1) * torch.arange(512)).sum() / weights_PP.sum()
    assert float(centre) == pytest.approx(8 * 32, abs=3)


@pytest.mark.parametrize("which", ["thumbnail", "compressed"])
def test_evidence_is_grad_cam_of_the_log_odds(which: str) -> None:
    network = thumbnail_network() if which == "thumbnail" else compressed_network()
    stages: list[Tensor] = []
    network.backbone.layer4.register_forward_hook(lambda module, given, out: stages.append(out))
    # as many cells as the square has pixels: nothing is resized
    slide = random_slide(64, 64, 6, share=1.1)
    if which == "thumbnail":
        slide = replace(slide, thumbnails_B3HW=torch.rand(1, 3, 128, 128))
    (log_odds,) = network(slide).diff(dim=1)[:, 0]
    (gradient_BDyx,) = torch.autograd.grad(log_odds, stages[0])
    cam_yx = (gradient_BDyx.mean((2, 3), keepdim=True) * stages[0]).sum(1)[0] * stages[0][0, 0].numel()
    places_yx = cam_yx + network.head.bias.diff()
    torch.testing.assert_close(places_yx.mean(), log_odds)
    evidence_HW = network.evidence(slide)[0]
    torch.testing.assert_close(
        evidence_HW, enlarged(places_yx, 64), rtol=1e-4, atol=1e-4 * float(evidence_HW.detach().std())
    )


def test_a_batch_of_one_can_be_learned_from() -> None:
    for network in (thumbnail_network(), compressed_network()):
        logits_BK, _ = network.train().learn(random_slide(3, 4, 6), torch.tensor([1]))
        assert bool(torch.isfinite(logits_BK).all())


@torch.no_grad()
def test_published_weights_fill_the_backbone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    published = ResNet(18)
    write_state(tmp_path / "resnet18.safetensors", published.state_dict())
    network = thumbnail_network()
    audit = network.start_from(tmp_path / "resnet18.safetensors")
    assert not audit.missing
    assert torch.equal(network.backbone.conv1.weight, published.conv1.weight)


def test_slides_without_thumbnails_are_refused_by_who_sees_nothing_else() -> None:
    bare = replace(random_slide(3, 4, 6), thumbnails_B3HW=None)
    with pytest.raises(InputError, match="without thumbnails"):
        thumbnail_network()(bare)
    assert bool(torch.isfinite(compressed_network()(bare)).all())


def test_networks_say_what_they_look_at() -> None:
    thumbnail, compressed = thumbnail_network(), compressed_network()
    assert thumbnail.needs_thumbnails
    assert not compressed.needs_thumbnails
    assert thumbnail.local_shares(random_slide(3, 4, 6)) is None


@pytest.mark.parametrize("side", [0, 32])
def test_squares_that_cannot_be_used_are_refused(side: int) -> None:
    with pytest.raises(InputError, match="more than 32"):
        ThumbnailResNet(ThumbnailResNetSettings("resnet18", side))
    with pytest.raises(InputError, match="more than 32"):
        CompressedResNet(6, CompressedResNetSettings("resnet18", side))


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        ThumbnailResNet(ThumbnailResNetSettings("resnet1"))


@torch.no_grad()
def test_slides_of_any_size_share_a_batch() -> None:
    batch = together([random_slide(3, 4, 6), random_slide(70, 5, 6)])
    assert compressed_network()(batch).shape == (2, 2)
