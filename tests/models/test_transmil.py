"""TransMIL: its inverse, its attention, its square, and what its cells add, against slow twins and by hand."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from counterstain.errors import InputError
from counterstain.models.slide_network import SlideBatch
from counterstain.models.transmil import (
    NystromAttention,
    PyramidPositions,
    TransMIL,
    TransMILSettings,
    iterated_inverse,
)
from counterstain.testing.slide_networks import random_slide

SMALL = TransMILSettings(width=16, heads=2, landmarks=8, dropout=0.0, evidence="parts")


def small(settings: TransMILSettings = SMALL, seed: int = 0) -> TransMIL:
    torch.manual_seed(seed)
    return TransMIL(6, settings).eval()


def test_it_has_as_many_parameters_as_published() -> None:
    fc, layer = 1024 * 512 + 512, 2 * 512 + 512 * 3 * 512 + (512 * 512 + 512) + 8 * 33
    positions, norm, head = 512 * (49 + 25 + 9 + 3), 2 * 512, 512 * 2 + 2
    total = fc + 512 + 2 * layer + positions + norm + head
    assert sum(parameter.numel() for parameter in TransMIL(1024).parameters()) == total == 2_672_146


def test_the_iterated_inverse_is_an_inverse() -> None:
    matrices_ALL = (6 * torch.eye(5) + torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0))).softmax(-1)
    torch.testing.assert_close(iterated_inverse(matrices_ALL), torch.linalg.pinv(matrices_ALL), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_with_a_landmark_for_each_token_attention_is_the_exact_one() -> None:
    torch.manual_seed(0)
    attention = NystromAttention(12, heads=3, landmarks=8, dropout=0.0)
    attention.skip.weight.zero_()
    weight = attention.queries_keys_values.weight
    weight.copy_(torch.cat([5 * torch.eye(12), 5 * torch.eye(12), torch.randn(12, 12)]))
    tokens_SD = torch.randn(8, 12)
    queries_SD, keys_SD, values_SD = (tokens_SD @ weight.T).chunk(3, 1)
    heads = [part.reshape(1, 8, 3, 4).transpose(1, 2) for part in (queries_SD, keys_SD, values_SD)]
    exact_SD = F.scaled_dot_product_attention(*heads)[0].transpose(0, 1).reshape(8, 12)
    torch.testing.assert_close(attention(tokens_SD), attention.out(exact_SD), rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_the_skip_is_a_sum_over_33_tokens_of_values() -> None:
    torch.manual_seed(0)
    attention = NystromAttention(4, heads=2, landmarks=50, dropout=0.0)
    attention.out.weight.copy_(torch.eye(4))
    attention.out.bias.zero_()
    tokens_SD = torch.randn(50, 4)
    found_SD = attention(tokens_SD)
    kernel_Ak = attention.skip.weight[:, 0, :, 0].clone()
    attention.skip.weight.zero_()
    values_SD = attention.queries_keys_values(tokens_SD)[:, 8:]
    expected_SD = torch.zeros(50, 4)
    for token in range(50):
        for shift in range(-16, 17):
            if 0 <= token + shift < 50:
                expected_SD[token] += kernel_Ak[:, shift + 16].repeat_interleave(2) * values_SD[token + shift]
    torch.testing.assert_close(found_SD - attention(tokens_SD), expected_SD, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_positions_are_three_depthwise_convolutions_and_the_grid_itself() -> None:
    torch.manual_seed(0)
    positions = PyramidPositions(4)
    grid_DHW = torch.randn(4, 5, 6)
    expected_DHW = grid_DHW.clone()
    for kernel in positions.kernels:
        assert isinstance(kernel, torch.nn.Conv2d)
        expected_DHW += F.conv2d(
            grid_DHW[None], kernel.weight, kernel.bias, padding=kernel.kernel_size[0] // 2, groups=4
        )[0]
    torch.testing.assert_close(positions(grid_DHW), expected_DHW)


def last_tokens(network: TransMIL, slide: SlideBatch) -> tuple[Tensor, Tensor]:
    """What went into the last layer, (S, D), and the class token that came out of it, (D,)."""
    kept: list[Tensor] = []
    hook = network.last.register_forward_hook(lambda module, given, out: kept.extend([given[0], out[0]]))
    network(slide)
    hook.remove()
    return kept[0], kept[1]


@pytest.mark.parametrize("num_cells", [1, 2, 5, 9, 12])
@torch.no_grad()
def test_the_first_cells_fill_the_square(num_cells: int) -> None:
    network, slide = small(), random_slide(1, num_cells, 6, share=1.1)
    tokens_SD, _ = last_tokens(network, slide)
    side = math.ceil(math.sqrt(num_cells))
    assert len(tokens_SD) == 1 + side * side
    on_grid, _ = last_tokens(small(replace(SMALL, positions="grid")), slide)
    assert len(on_grid) == 1 + num_cells


@torch.no_grad()
def test_on_the_grid_a_neighbour_is_a_neighbour_on_the_slide() -> None:
    network = small(replace(SMALL, positions="grid"))
    for layer in (network.first, network.last):
        layer.attention.out.weight.zero_()
    slide = random_slide(20, 20, 6, share=1.1)
    changed = replace(slide, features_BCHW=slide.features_BCHW.clone())
    changed.features_BCHW[0, :, 10, 10] += 5.0
    tokens_SD, other_SD = last_tokens(network, slide)[0], last_tokens(network, changed)[0]
    is_changed_HW = (tokens_SD[1:] != other_SD[1:]).any(1).reshape(20, 20)
    expected_HW = torch.zeros(20, 20, dtype=torch.bool)
    expected_HW[7:14, 7:14] = True
    assert torch.equal(is_changed_HW, expected_HW)


@pytest.mark.parametrize("positions", ["squared", "grid"])
@torch.no_grad()
def test_a_cell_s_part_is_what_the_log_odds_lose_without_it(positions: str) -> None:
    network = small(replace(SMALL, positions=positions))
    slide = random_slide(3, 5, 6, share=1.1)
    tokens_SD, class_D = last_tokens(network, slide)
    deviation = (class_D.var(unbiased=False) + network.norm.eps).sqrt()

    def log_odds(token_D: Tensor) -> float:
        normed_D = network.norm.weight * (token_D - token_D.mean()) / deviation + network.norm.bias
        return float(network.head(normed_D).diff())

    assert log_odds(class_D) == pytest.approx(float(network(slide).diff()), abs=1e-5)
    shares_AS, values_ASE = network.last.attention.first_row(network.last.norm(tokens_SD))
    brought_SD = torch.zeros(len(tokens_SD), 16)
    for token in range(len(tokens_SD)):
        merged_D = torch.cat([shares_AS[head, token] * values_ASE[head, token] for head in range(2)])
        brought_SD[token] = network.last.attention.out.weight @ merged_D
    expected = [log_odds(class_D) - log_odds(class_D - brought_D) for brought_D in brought_SD]
    parts = expected[1:16]
    for copy, part in enumerate(expected[16:]):
        parts[copy] += part
    torch.testing.assert_close(network.evidence(slide).flatten(), torch.tensor(parts), rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_all_that_the_class_token_gets_is_its_row_of_attention() -> None:
    network = small()
    network.last.attention.skip.weight.zero_()
    tokens_SD, class_D = last_tokens(network, random_slide(4, 5, 6))
    attention = network.last.attention
    shares_AS, values_ASE = attention.first_row(network.last.norm(tokens_SD))
    mixed_D = (shares_AS[..., None] * values_ASE).sum(1).flatten()
    torch.testing.assert_close(tokens_SD[0] + attention.out(mixed_D), class_D, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_bare_attention_is_the_mean_over_heads() -> None:
    network, slide = small(replace(SMALL, evidence="attention")), random_slide(3, 3, 6, share=1.1)
    tokens_SD, _ = last_tokens(network, slide)
    shares_AS, _ = network.last.attention.first_row(network.last.norm(tokens_SD))
    torch.testing.assert_close(network.evidence(slide).flatten(), shares_AS.mean(0)[1:])


@pytest.mark.parametrize(
    "settings",
    [
        TransMILSettings(width=20, heads=8),
        TransMILSettings(landmarks=0),
        TransMILSettings(positions="square"),  # type: ignore[arg-type]
        TransMILSettings(evidence="part"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: TransMILSettings) -> None:
    with pytest.raises(InputError, match=r"multiple of the heads|Did you mean"):
        TransMIL(6, settings)
