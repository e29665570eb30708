"""The network of SSHR against its published numbers."""

import math

import pytest
import torch
from torch import nn

from counterstain.errors import InputError
from counterstain.models import HFRM, SSHRNetwork, SSHRNetworkSettings, build_backbone, count
from counterstain.testing.backbones import images

PLAIN = SSHRNetworkSettings(semantic=False, context=False)


def small(settings: SSHRNetworkSettings | None = None, num_classes: int = 3, seed: int = 0) -> SSHRNetwork:
    torch.manual_seed(seed)
    return SSHRNetwork(build_backbone("tiny", width=8), num_classes, settings)


@pytest.fixture(scope="module")
def published() -> SSHRNetwork:
    with torch.device("meta"):
        return SSHRNetwork(build_backbone("wide_resnet38"), 4)


def test_it_has_the_published_size_and_cost(published: SSHRNetwork) -> None:
    counted = count(published)
    assert counted.parameters == 112_709_714
    assert counted.trainable == 111_837_970
    assert counted.macs / 1e9 == pytest.approx(100.24, rel=1e-3)
    assert count(published.backbone).parameters == 105_070_912
    assert len(published.state_dict()) == 260


def test_its_parts_have_the_published_sizes(published: SSHRNetwork) -> None:
    heads = [*published.heads, published.deep_head]
    assert sum(parameter.numel() for head in heads for parameter in head.parameters()) == 23_564
    heads_and_hfrm = count(published).macs - count(published.backbone).macs
    weighing, mapping = 3 * 4096 * 512 + 512 * (256 + 512 + 1024), 4 * (256 * 4 + 512 + 1024 + 4096) * 784
    assert heads_and_hfrm - weighing - mapping == pytest.approx(451.6e6, rel=1e-4)


def test_its_groups_have_the_published_numbers_of_tensors(published: SSHRNetwork) -> None:
    groups = published.parameter_groups()
    sizes = [len(group) for group in (groups.weights, groups.biases, groups.new_weights, groups.new_biases)]
    assert sizes == [82, 39, 19, 3]


def test_every_parameter_stands_in_one_group() -> None:
    network = small()
    groups = network.parameter_groups()
    together = [*groups.weights, *groups.biases, *groups.new_weights, *groups.new_biases]
    assert sorted(map(id, together)) == sorted(map(id, network.parameters()))
    new = {id(parameter) for parameter in (*groups.new_weights, *groups.new_biases)}
    assert not new & {id(parameter) for parameter in network.backbone.parameters()}
    assert all(any(scale is parameter for parameter in groups.new_weights) for scale in scales(network))


def scales(network: SSHRNetwork) -> list[nn.Parameter]:
    rectifiers = [module for module in network.hfrm if isinstance(module, HFRM)]
    return [scale for hfrm in rectifiers for scale in (hfrm.semantic_scale, hfrm.context_scale)]


def test_maps_are_as_large_as_the_strides_say() -> None:
    cams = small().eval()(images(65, 42))
    assert [tuple(cam.shape) for cam in cams] == [(2, 3, 17, 11)] + [(2, 3, 9, 6)] * 3


@torch.no_grad()
def test_rectification_changes_nothing_at_the_start() -> None:
    rectified, plain, batch = small().eval(), small(PLAIN).eval(), images()
    for cam, other in zip(rectified(batch), plain(batch), strict=True):
        assert torch.equal(cam, other)


@torch.no_grad()
def test_maps_are_linear_in_the_two_branches() -> None:
    """M = head(F) + g_s head(F w) + g_c head(smooth F), since heads are linear."""
    network, batch = small(SSHRNetworkSettings(kernels=(5, 3, 3), tap_norms=False)).eval(), images()
    base = network(batch)[0]
    low, *_, deep = network.backbone(batch)
    hfrm, head = network.hfrm[0], network.heads[0]
    assert isinstance(hfrm, HFRM)
    hfrm.semantic_scale.fill_(0.5)
    hfrm.context_scale.fill_(2.0)
    weights = torch.sigmoid(hfrm.excite(torch.relu(hfrm.squeeze(deep.mean((2, 3))))))[:, :, None, None]
    bias = head.bias.view(1, -1, 1, 1)
    expected = base + 0.5 * (head(low * weights) - bias) + 2 * (head(hfrm.smooth(low)) - bias)
    torch.testing.assert_close(network(batch)[0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_norms_of_the_published_network_do_nothing() -> None:
    batch = images()
    with_norms, without = small(), small(SSHRNetworkSettings(tap_norms=False))
    for cam, other in zip(with_norms.train()(batch)[:3], without.train()(batch)[:3], strict=True):
        torch.testing.assert_close(cam, other, rtol=1e-4, atol=1e-4)
    assert float(with_norms.state_dict()["bn45.num_batches_tracked"]) == 0
    assert not with_norms.bn45.training


@torch.no_grad()
def test_only_the_deep_map_is_dropped_from_in_training() -> None:
    network = small()
    network.backbone.eval()
    batch = images()
    first, second = network(batch), network(batch)
    assert all(torch.equal(cam, other) for cam, other in zip(first[:3], second[:3], strict=True))
    assert not torch.equal(first[3], second[3])
    network.eval()
    assert torch.equal(network(batch)[3], network(batch)[3])


def test_heads_start_as_published() -> None:
    network = small(num_classes=4)
    for head in (*network.heads, network.deep_head):
        bound = math.sqrt(6 / (head.weight.shape[0] + head.weight.shape[1]))
        assert 0.5 * bound < float(head.weight.detach().abs().max()) <= bound
    assert network.deep_head.bias is None
    assert all(head.bias is not None for head in network.heads)
    faint = small(SSHRNetworkSettings(head_gain=0.1), num_classes=4)
    torch.testing.assert_close(faint.deep_head.weight, 0.1 * network.deep_head.weight)


def test_the_deep_trunk_learns_from_the_shallow_maps() -> None:
    network = small()
    with torch.no_grad():
        for scale in scales(network):
            scale.fill_(0.5)
    network(images())[0].mean().backward()
    gradient = network.get_submodule("backbone.block4.refine.0").weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize(("num_classes", "kernels"), [(0, (15, 15, 15)), (4, (15, 15))])
def test_numbers_that_make_no_network_are_refused(num_classes: int, kernels: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="a kernel for each of three shallow taps"):
        small(SSHRNetworkSettings(kernels=kernels), num_classes)
