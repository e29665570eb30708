"""VGG16: torchvision's names in both forms, an obvious twin, and attention before the pooling."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError, WeightsError
from counterstain.models import load_backbone_weights
from counterstain.models.backbones.base import norms_of
from counterstain.models.backbones.vgg import VGG16
from counterstain.testing.backbones import images

# torchvision 0.29: where `features` of vgg16 and vgg16_bn has its convolutions, stage by stage
PLAIN = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
NORMED = ((0, 3), (7, 10), (14, 17, 20), (24, 27, 30), (34, 37, 40))
WIDTHS = (64, 128, 256, 512, 512)
PUBLISHED_PLAIN, PUBLISHED_CLASSIFIER = 138_357_544, 123_642_856  # parameters of torchvision's vgg16
PUBLISHED_NORMED = 138_365_992


def published(batch_norm: bool) -> dict[str, Tensor]:
    """What a torchvision file holds, of random values, its classifier made small."""
    torch.manual_seed(0)
    state, given = {}, 3
    for places, width in zip(NORMED if batch_norm else PLAIN, WIDTHS, strict=True):
        for place in places:
            state |= {f"features.{place}.weight": torch.randn(width, given, 3, 3) * (2 / given / 9) ** 0.5}
            state |= {f"features.{place}.bias": torch.randn(width) / 9}
            if batch_norm:
                values = {"weight": torch.rand(width) + 0.5, "bias": torch.randn(width) / 9}
                values |= {"running_mean": torch.randn(width) / 9, "running_var": torch.rand(width) + 0.5}
                state |= {f"features.{place + 1}.{name}": value for name, value in values.items()}
            given = width
    return {**state, "classifier.0.weight": torch.zeros(2, 2), "classifier.6.bias": torch.zeros(2)}


def twin(state: Mapping[str, Tensor], x: Tensor, batch_norm: bool) -> list[Tensor]:
    """The four taps, read off a file."""
    taps = []
    for places in (NORMED if batch_norm else PLAIN)[:4]:
        for place in places:
            x = F.conv2d(x, state[f"features.{place}.weight"], state[f"features.{place}.bias"], padding=1)
            if batch_norm:
                parts = ("running_mean", "running_var", "weight", "bias")
                x = F.batch_norm(x, *(state[f"features.{place + 1}.{part}"] for part in parts))
            x = F.relu(x)
        x = F.max_pool2d(x, 2, ceil_mode=True)
        taps.append(x)
    return taps


@pytest.mark.parametrize("batch_norm", [False, True])
@torch.no_grad()
def test_a_published_file_fills_the_form_it_was_made_of(batch_norm: bool, tmp_path: Path) -> None:
    state, batch = published(batch_norm), images(45, 34)
    torch.save(state, tmp_path / "vgg16.pth")
    backbone = VGG16(batch_norm).eval()
    audit = load_backbone_weights(backbone, tmp_path / "vgg16.pth")
    assert audit.missing == ()
    assert {name.split(".")[0] for name in audit.left_over} == {"classifier", "features"}
    assert all(int(name.split(".")[1]) >= (34 if batch_norm else 24) for name in audit.left_over if "features" in name)
    for tap, expected in zip(backbone(batch), twin(state, backbone.normalise(batch), batch_norm), strict=True):
        torch.testing.assert_close(tap, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_convolutions_without_norms_fill_the_form_with_norms_and_leave_these_fresh(tmp_path: Path) -> None:
    state = published(batch_norm=False)
    torch.save(state, tmp_path / "vgg16.pth")
    backbone = VGG16().eval()
    audit = load_backbone_weights(backbone, tmp_path / "vgg16.pth")
    norms = {f"features.{place + 1}.{name}" for stage in NORMED[:4] for place in stage for name in ("weight", "bias")}
    assert norms <= set(audit.missing)
    assert len(audit.missing) == 4 * 10
    own = backbone.state_dict()
    for old, new in zip(sum(PLAIN[:4], ()), sum(NORMED[:4], ()), strict=True):
        assert torch.equal(own[f"features.{new}.weight"], state[f"features.{old}.weight"])
        assert torch.equal(own[f"features.{new}.bias"], state[f"features.{old}.bias"])
    for norm in norms_of(backbone):
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert not norm.running_mean.any()
    # a fresh norm that has seen nothing passes what it is given on, but for its epsilon
    batch = images(32, 32)
    for tap, expected in zip(backbone(batch), twin(state, backbone.normalise(batch), False), strict=True):
        torch.testing.assert_close(tap, expected, rtol=1e-3, atol=1e-3)


def test_a_file_with_norms_that_lacks_one_is_refused(tmp_path: Path) -> None:
    state = published(batch_norm=True)
    del state["features.4.running_var"]
    torch.save(state, tmp_path / "vgg16_bn.pth")
    with pytest.raises(WeightsError, match=r"1 missing: features\.4\.running_var"):
        load_backbone_weights(VGG16(), tmp_path / "vgg16_bn.pth")


def test_a_file_without_norms_that_lacks_a_convolution_is_refused(tmp_path: Path) -> None:
    state = published(batch_norm=False)
    del state["features.12.bias"]
    torch.save(state, tmp_path / "vgg16.pth")
    with pytest.raises(WeightsError, match=r"1 missing: features\.17\.bias"):
        load_backbone_weights(VGG16(), tmp_path / "vgg16.pth")


def test_norms_are_not_dropped_for_a_form_without_them(tmp_path: Path) -> None:
    torch.save(published(batch_norm=True), tmp_path / "vgg16_bn.pth")
    with pytest.raises(WeightsError, match="Build it with batch_norm=True"):
        load_backbone_weights(VGG16(batch_norm=False), tmp_path / "vgg16_bn.pth")


def test_attention_stays_fresh_where_a_file_has_none_and_is_filled_where_it_has(tmp_path: Path) -> None:
    torch.save(published(batch_norm=True), tmp_path / "vgg16_bn.pth")
    backbone = VGG16(attention=True)
    audit = load_backbone_weights(backbone, tmp_path / "vgg16_bn.pth")
    assert {name.split(".")[0] for name in audit.missing} == {"attention"}
    own = backbone.state_dict()
    torch.save(own, tmp_path / "own.pth")
    assert load_backbone_weights(VGG16(attention=True), tmp_path / "own.pth").missing == ()
    del own["attention.1.gamma"]
    torch.save(own, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"1 missing: attention\.1\.gamma"):
        load_backbone_weights(VGG16(attention=True), tmp_path / "part.pth")


def test_sizes_are_the_published_ones_less_what_is_past_the_last_tap() -> None:
    deeper = 3 * (512 * 512 * 9 + 512)
    with torch.device("meta"):
        counts = [sum(parameter.numel() for parameter in VGG16(norm).parameters()) for norm in (False, True)]
    assert counts[0] == PUBLISHED_PLAIN - PUBLISHED_CLASSIFIER - deeper
    assert counts[1] == PUBLISHED_NORMED - PUBLISHED_CLASSIFIER - deeper - 3 * 2 * 512


@torch.no_grad()
def test_fresh_attention_changes_nothing() -> None:
    plain, batch = VGG16().eval(), images(33, 32)
    attended = VGG16(attention=True).eval()
    attended.load_state_dict({**attended.state_dict(), **plain.state_dict()})
    assert all(torch.equal(tap, other) for tap, other in zip(plain(batch), attended(batch), strict=True))


@pytest.mark.parametrize("legacy_softmax", [False, True])
@torch.no_grad()
def test_attention_stands_twice_before_each_of_three_poolings(legacy_softmax: bool) -> None:
    torch.manual_seed(0)
    backbone, batch = VGG16(attention=True, legacy_softmax=legacy_softmax).eval(), images(24, 20)
    for block in backbone.attention:
        nn.init.constant_(block.gamma, 0.5)
    layers, x = list(backbone.features), backbone.normalise(batch)
    taps = backbone(batch)
    for index, (start, end) in enumerate(((0, 6), (7, 13), (14, 23), (24, 33))):
        for layer in layers[start:end]:
            x = layer(x)
        if index < 3:
            x = backbone.attention[index](backbone.attention[index](x))
        x = F.max_pool2d(x, 2, ceil_mode=True)
        torch.testing.assert_close(taps[index], x)


@pytest.mark.parametrize("batch_norm", [False, True])
@torch.no_grad()
def test_without_its_deepest_stage_the_other_taps_are_the_same(batch_norm: bool, tmp_path: Path) -> None:
    state, batch = published(batch_norm), images(33, 32)
    torch.save(state, tmp_path / "vgg16.pth")
    whole, short = VGG16(batch_norm).eval(), VGG16(batch_norm).eval()
    short.drop_deepest()
    assert (short.channels, short.strides) == ((64, 128, 256, 256), (2, 4, 8, 8))
    load_backbone_weights(whole, tmp_path / "vgg16.pth")
    load_backbone_weights(short, tmp_path / "vgg16.pth")
    first, second, third, _ = whole(batch)
    assert all(
        torch.equal(tap, expected) for tap, expected in zip(short(batch), (first, second, third, third), strict=True)
    )
    assert not any("512" in str(tuple(tensor.shape)) for tensor in short.state_dict().values())


def test_a_softmax_for_attention_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="attention=True was expected"):
        VGG16(legacy_softmax=True)
