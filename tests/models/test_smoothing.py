"""The large depthwise convolution: every way of computing it, and its gradients, against torch's in double precision."""

import copy

import pytest
import torch
from torch import Tensor, nn

from counterstain.models.smoothing import TOLERANCE, Smoothing, quick_length


def twin(smoothing: Smoothing) -> nn.Conv2d:
    """torch's own, with the same weights, in float64."""
    channels, reach = smoothing.in_channels, smoothing.kernel_size[0] // 2
    plain = nn.Conv2d(
        channels,
        channels,
        2 * reach + 1,
        padding=reach,
        groups=channels,
        bias=False,
        padding_mode=smoothing.padding_mode,
    )
    plain.load_state_dict(smoothing.state_dict())
    return plain.double()


def passed(convolution: nn.Module, images_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and what a wavy loss says of images and weights."""
    given = images_BCHW.detach().clone().requires_grad_()
    found = convolution(given)
    (found * torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view_as(found).sin()).sum().backward()
    (weight,) = convolution.parameters()
    assert given.grad is not None
    assert weight.grad is not None
    return found.detach(), given.grad, weight.grad


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize(
    ("kernel", "height", "width"), [(15, 28, 31), (15, 5, 40), (9, 1, 1), (15, 14, 14), (7, 12, 9)]
)
def test_it_gives_and_learns_what_torchs_own_does(padding: str, kernel: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    smoothing = Smoothing(6, kernel, padding)  # type: ignore[arg-type]
    images = torch.randn(3, 6, height, width)
    for found, expected in zip(passed(smoothing, images), passed(twin(smoothing), images.double()), strict=True):
        off = (found.double() - expected).abs().max() / expected.abs().max()
        assert float(off) < TOLERANCE
    with torch.inference_mode():
        off = (smoothing(images).double() - twin(smoothing)(images.double())).abs().max()
    assert float(off) < TOLERANCE


def test_images_alone_or_weights_alone_can_learn() -> None:
    smoothing, images = Smoothing(4, 15), torch.randn(2, 4, 20, 20)
    smoothing(images).square().sum().backward()
    weight = smoothing.weight.grad
    assert weight is not None
    frozen = copy.deepcopy(smoothing).requires_grad_(False)
    given = images.clone().requires_grad_()
    frozen(given).square().sum().backward()
    assert frozen.weight.grad is None
    both = images.clone().requires_grad_()
    smoothing.zero_grad()
    smoothing(both).square().sum().backward()
    assert torch.equal(smoothing.weight.grad, weight)
    assert torch.equal(both.grad, given.grad)


def test_its_parameters_are_those_of_a_convolution() -> None:
    state = Smoothing(4, 15).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {"weight": (4, 1, 15, 15)}


def test_lengths_of_transforms_are_even_and_of_small_factors() -> None:
    assert [quick_length(least) for least in (1, 2, 7, 35, 63, 121, 143)] == [2, 2, 8, 36, 64, 128, 144]
