"""Counting against sums made by hand and by hooks."""

import torch
from torch import nn

from counterstain.models import build_backbone, count


def by_hooks(network: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulates of convolutions and linear layers, summed while the network runs."""
    total = 0

    def add(module: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += out.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += out.numel() * module.in_features

    for module in network.modules():
        module.register_forward_hook(add)
    with torch.no_grad():
        network.eval()(torch.rand(1, 3, height, width))
    return total


def test_a_convolution_counts_as_worked_by_hand() -> None:
    """8 x 6 outputs of 5 channels, each 3 x 3 x 3 products."""
    counted = count(nn.Conv2d(3, 5, 3, padding=1), 8, 6)
    assert counted.macs == 8 * 6 * 5 * 27
    assert counted.parameters == counted.trainable == 5 * 27 + 5
    assert (counted.height, counted.width) == (8, 6)


def test_counting_agrees_with_hooks_on_a_running_network() -> None:
    for name in ("tiny", "mobilenet_v2", "resnet18"):
        assert count(build_backbone(name), 65, 50).macs == by_hooks(build_backbone(name), 65, 50)


def test_counting_leaves_a_network_as_it_was() -> None:
    network = build_backbone("tiny", width=8).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    count(network)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network.get_parameter("stem.0.weight").is_meta


def test_frozen_parameters_are_not_trainable() -> None:
    frozen = count(build_backbone("resnet18", num_frozen=1))
    assert frozen.parameters - frozen.trainable == 64 * 3 * 49 + 128
