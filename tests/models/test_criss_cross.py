"""Criss-cross attention against loops over cells, and what its chunks and softmaxes change."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from counterstain.errors import InputError
from counterstain.models.criss_cross import CrissCrossAttention


def stirred(channels: int = 6, reduction: int = 3, **options: bool) -> CrissCrossAttention:
    """With a gamma that shows what is gathered."""
    torch.manual_seed(0)
    attention = CrissCrossAttention(channels, reduction, **options)
    torch.nn.init.constant_(attention.gamma, 0.7)
    return attention


def maps(rows: int = 5, columns: int = 4, num_images: int = 2) -> Tensor:
    return torch.randn(num_images, 6, rows, columns, generator=torch.Generator().manual_seed(1))


def slow(attention: CrissCrossAttention, x: Tensor) -> Tensor:
    """Cell by cell: its h + w - 1 neighbours, itself among them once."""
    queries, keys, values = attention.query(x), attention.key(x), attention.value(x)
    out = torch.empty_like(x)
    for image in range(len(x)):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                places = {(row, j) for row in range(x.shape[2])} | {(i, column) for column in range(x.shape[3])}
                energies = torch.stack(
                    [queries[image, :, i, j] @ keys[image, :, row, column] for row, column in places]
                )
                seen = torch.stack([values[image, :, row, column] for row, column in places])
                out[image, :, i, j] = attention.gamma * (energies.softmax(0) @ seen) + x[image, :, i, j]
    return out


def slow_legacy(attention: CrissCrossAttention, x: Tensor) -> Tensor:
    """As released: column and row energies of every cell, its own twice, softmax over the second axis, the rows."""
    queries, keys, values = attention.query(x), attention.key(x), attention.value(x)
    num_images, _, rows, columns = x.shape
    energies = torch.empty(num_images, rows, columns, rows + columns)
    for i in range(rows):
        for j in range(columns):
            for k in range(rows):
                energies[:, i, j, k] = (queries[:, :, i, j] * keys[:, :, k, j]).sum(1)
            for k in range(columns):
                energies[:, i, j, rows + k] = (queries[:, :, i, j] * keys[:, :, i, k]).sum(1)
    weights, context = energies.softmax(1), torch.zeros_like(x)
    for i in range(rows):
        for j in range(columns):
            for k in range(rows):
                context[:, :, i, j] += weights[:, i, j, k, None] * values[:, :, k, j]
            for k in range(columns):
                context[:, :, i, j] += weights[:, i, j, rows + k, None] * values[:, :, i, k]
    return attention.gamma * context + x


@pytest.mark.parametrize(("rows", "columns"), [(5, 4), (3, 7), (1, 6), (6, 1), (1, 1)])
@torch.no_grad()
def test_a_cell_gathers_from_its_row_and_column(rows: int, columns: int) -> None:
    attention, x = stirred(), maps(rows, columns)
    torch.testing.assert_close(attention(x), slow(attention, x))


@pytest.mark.parametrize(("rows", "columns"), [(5, 4), (3, 7)])
@torch.no_grad()
def test_the_legacy_softmax_is_the_released_ones(rows: int, columns: int) -> None:
    attention, x = stirred(legacy_softmax=True), maps(rows, columns)
    torch.testing.assert_close(attention(x), slow_legacy(attention, x))


@torch.no_grad()
def test_what_a_cell_gathers_is_a_mean_of_what_it_sees_and_in_the_legacy_form_is_not() -> None:
    """Where all values are one, a mean is one; weights that sum to 1 along the map's rows give no mean."""
    x = maps()
    for legacy, is_mean in ((False, True), (True, False)):
        attention = stirred(legacy_softmax=legacy)
        torch.nn.init.zeros_(attention.value.weight)
        torch.nn.init.ones_(attention.value.bias)
        gathered = (attention(x) - x) / attention.gamma
        assert torch.allclose(gathered, torch.ones_like(x), atol=1e-5) == is_mean


def test_at_first_nothing_is_changed_and_gamma_can_learn() -> None:
    attention, x = CrissCrossAttention(6, 3), maps()
    out = attention(x)
    assert torch.equal(out, x)
    (out * torch.randn_like(out)).sum().backward()
    assert attention.gamma.grad is not None
    assert float(attention.gamma.grad.abs()) > 0


def test_the_reach_is_a_cross_and_after_two_rounds_everything() -> None:
    attention, x = stirred(), maps(5, 4, 1).requires_grad_()
    (once,) = torch.autograd.grad(attention(x)[0, :, 1, 2].sum(), x)
    (twice,) = torch.autograd.grad(attention(attention(x))[0, :, 1, 2].sum(), x)
    cross = torch.zeros(5, 4, dtype=torch.bool)
    cross[1], cross[:, 2] = True, True
    assert torch.equal(once[0].abs().sum(0) > 0, cross)
    assert bool((twice[0].abs().sum(0) > 0).all())


@pytest.mark.parametrize("legacy_softmax", [False, True])
@pytest.mark.parametrize("chunk", [1, 2 * 5 * 9 * 2, 2 * 5 * 9 * 3])
def test_chunks_change_neither_values_nor_gradients(chunk: int, legacy_softmax: bool) -> None:
    whole, x = stirred(legacy_softmax=legacy_softmax), maps()
    parted = CrissCrossAttention(6, 3, legacy_softmax, chunk)
    parted.load_state_dict(whole.state_dict())
    weight, found = torch.randn_like(x), []
    for attention in (whole, parted):
        given = x.clone().requires_grad_()
        out = attention(given)
        gradients = torch.autograd.grad((out * weight).sum(), [given, *attention.parameters()])
        found.append([out.detach(), *gradients])
    for value, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(parted(x), found[0][0])


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.size = max(self.size, made.numel())
        return made


@pytest.mark.parametrize("is_training", [True, False])
def test_no_more_energies_are_held_than_the_chunk(is_training: bool) -> None:
    whole, x = CrissCrossAttention(6, 3), maps(16, 16, 1)
    parted = CrissCrossAttention(6, 3, chunk=2048)
    sizes = []
    for attention in (whole, parted):
        with torch.set_grad_enabled(is_training), Largest() as largest:
            attention(x)
        sizes.append(largest.size)
    assert sizes == [16 * 16 * 32, 2048]


def kept_by(attention: CrissCrossAttention, x: Tensor) -> int:
    """Numbers that wait for the gradient, each counted once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = attention(x)
    assert out.requires_grad
    return sum(kept.values())


def test_in_training_energies_are_made_again_for_the_gradient_and_not_kept() -> None:
    x, energies = maps(16, 16, 1), 16 * 16 * 32
    assert kept_by(CrissCrossAttention(6, 3, chunk=2048), x) < energies < kept_by(CrissCrossAttention(6, 3), x)


def test_gradients_are_those_of_the_differences() -> None:
    attention = stirred().double()
    x = maps(3, 4, 1).double().requires_grad_()
    assert torch.autograd.gradcheck(attention, (x,))


@pytest.mark.parametrize(("channels", "reduction", "chunk"), [(4, 8, 1), (4, 0, 1), (4, 2, 0)])
def test_numbers_that_cannot_be_used_are_refused(channels: int, reduction: int, chunk: int) -> None:
    with pytest.raises(InputError, match="expected"):
        CrissCrossAttention(channels, reduction, chunk=chunk)
