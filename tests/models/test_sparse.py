"""Operations on sparse grids: against loops over cells, torch's own on what was gathered, and hand-worked values."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError
from counterstain.models.sparse import (
    MaskedBatchNorm,
    MaskedGroupNorm,
    Propagation,
    SparseConv,
    Support,
    masked_max,
    masked_max_pool,
    masked_mean,
    masked_norm,
    propagated,
    unpool,
)


def masks(*size: int, share: float = 0.4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(2, 1, *size, generator=generator, dtype=torch.float64) < share).double()


def grids(mask_B1HW: Tensor, channels: int = 3, seed: int = 1) -> Tensor:
    """Values of both signs, 0 off the mask."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(mask_B1HW), channels, *mask_B1HW.shape[2:])
    return torch.randn(shape, generator=generator, dtype=torch.float64) * mask_B1HW


def support_of(mask_B1HW: Tensor, propagation: Propagation = "strided") -> Support:
    return Support(mask_B1HW, torch.ones_like(mask_B1HW), propagation)


def convolved_slowly(x_BCHW: Tensor, mask_B1HW: Tensor, conv: SparseConv, after_B1hw: Tensor) -> Tensor:
    """Window by window: k * k times the mean of w * x over the observed cells."""
    reach, out = conv.kernel // 2, torch.zeros(len(x_BCHW), len(conv.weight), *after_B1hw.shape[2:], dtype=x_BCHW.dtype)
    for slide, _, i, j in after_B1hw.nonzero().tolist():
        total, count = torch.zeros(len(conv.weight), dtype=x_BCHW.dtype), 0
        for di in range(-reach, reach + 1):
            for dj in range(-reach, reach + 1):
                row, column = conv.stride * i + di, conv.stride * j + dj
                if not (0 <= row < x_BCHW.shape[2] and 0 <= column < x_BCHW.shape[3]):
                    continue
                if mask_B1HW[slide, 0, row, column]:
                    count += 1
                    weight = conv.weight[:, :, di + reach, dj + reach]
                    value_C = x_BCHW[slide, :, row, column]
                    total += weight[:, 0] * value_C if conv.is_depthwise else weight @ value_C
        assert count, "a cell speaks whose window holds nothing"
        out[slide, :, i, j] = total * conv.kernel**2 / count
    return out


@pytest.mark.parametrize("propagation", ["strided", "uhrig"])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1), (5, 2), (7, 2), (3, 3)])
@pytest.mark.parametrize("is_depthwise", [False, True])
@torch.no_grad()
def test_a_sparse_convolution_is_a_loop_over_windows(
    propagation: Propagation, kernel: int, stride: int, is_depthwise: bool
) -> None:
    mask_B1HW = masks(7, 6, share=0.3)
    conv = SparseConv(3, 3 if is_depthwise else 4, kernel, stride, is_depthwise).double()
    found, support = conv(grids(mask_B1HW), support_of(mask_B1HW, propagation))
    assert found.shape[2:] == (math.ceil(7 / stride), math.ceil(6 / stride)) == support.observed_B1HW.shape[2:]
    expected = convolved_slowly(grids(mask_B1HW), mask_B1HW, conv, support.observed_B1HW)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_with_all_cells_observed_it_is_an_ordinary_convolution_but_for_the_border() -> None:
    ones_B1HW = torch.ones(2, 1, 9, 8, dtype=torch.float64)
    x_BCHW, conv = grids(ones_B1HW), SparseConv(3, 4, 5).double()
    found, _ = conv(x_BCHW, support_of(ones_B1HW))
    dense = F.conv2d(x_BCHW, conv.weight, padding=2)
    torch.testing.assert_close(found[..., 2:-2, 2:-2], dense[..., 2:-2, 2:-2], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[..., 0, 0], dense[..., 0, 0] * 25 / 9, rtol=0, atol=1e-12)
    uncounted, _ = conv(x_BCHW, Support(ones_B1HW, ones_B1HW, is_counted=False))
    assert torch.equal(uncounted, dense)


@torch.no_grad()
def test_a_constant_stays_one_however_sparse() -> None:
    mask_B1HW = masks(12, 12, share=0.2)
    conv = SparseConv(1, 1, 5).double()
    nn.init.constant_(conv.weight, 0.5)
    found, support = conv(3 * mask_B1HW, support_of(mask_B1HW, "uhrig"))
    expected = 3 * conv.weight.sum() * support.observed_B1HW
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_first_weights_keep_the_size_of_values() -> None:
    torch.manual_seed(0)
    ones_B1HW = torch.ones(2, 1, 32, 32)
    for kernel in (1, 5):
        found, _ = SparseConv(64, 64, kernel)(torch.randn(2, 64, 32, 32), support_of(ones_B1HW))
        assert 1 < float(found.std()) < 2


def test_convolutions_without_a_centre_are_refused() -> None:
    with pytest.raises(InputError, match="an odd one"):
        SparseConv(3, 3, 4)
    with pytest.raises(InputError, match="as many"):
        SparseConv(3, 4, 3, is_depthwise=True)


def test_masks_grow_by_windows_or_stay() -> None:
    mask_B1HW = torch.zeros(1, 1, 7, 7)
    mask_B1HW[..., 3, 3] = 1
    assert propagated(mask_B1HW, 5, 1, "uhrig").sum() == 25
    assert propagated(mask_B1HW, 5, 2, "uhrig")[0, 0].tolist() == [
        [0, 0, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 0],
    ]
    assert propagated(mask_B1HW, 5, 2, "strided").nonzero().tolist() == [[0, 0, 1, 1]]
    assert propagated(mask_B1HW, 1, 2, "strided").sum() == 0


@pytest.mark.parametrize("propagation", ["strided", "uhrig"])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (5, 1), (5, 2), (7, 2)])
def test_grids_shrink_alike_for_masks_and_extents(propagation: Propagation, kernel: int, stride: int) -> None:
    for height in range(1, 41):
        mask_B1HW = torch.zeros(1, 1, height, 41 - height)
        mask_B1HW[..., -1, -1] = 1
        after = support_of(mask_B1HW, propagation).after(kernel, stride)
        size = (math.ceil(height / stride), math.ceil((41 - height) / stride))
        assert after.observed_B1HW.shape[2:] == after.extent_B1HW.shape[2:] == size


def test_a_mask_never_grows_into_padding() -> None:
    extent_B1HW = torch.zeros(1, 1, 9, 9)
    extent_B1HW[..., :5, :3] = 1
    support = Support(extent_B1HW, extent_B1HW, "uhrig").after(5, 2).after(5, 1)
    assert support.observed_B1HW.nonzero()[:, 2:].tolist() == [[i, j] for i in range(3) for j in range(2)]
    assert torch.equal(support.pooled().enlarged(support).observed_B1HW, support.observed_B1HW)


def test_a_support_works_a_mask_out_once() -> None:
    support = support_of(masks(6, 6), "uhrig")
    assert support.after(5, 2) is support.after(5, 2)
    assert support.gain(5, 1) is support.gain(5, 1)
    assert support.pooled() is support.pooled()


def test_a_pool_takes_the_largest_of_what_was_observed_even_below_zero() -> None:
    x_BCHW = torch.tensor([[[[-3.0, 0.0, 2.0], [0.0, -1.0, 0.0], [0.0, -5.0, 0.0]]]])
    mask_B1HW = torch.tensor([[[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]]])
    assert masked_max_pool(x_BCHW, mask_B1HW).tolist() == [[[[-1, 2], [-5, 0]]]]


def test_gradients_of_a_pool_reach_observed_cells_alone() -> None:
    mask_B1HW = masks(7, 5)
    x_BCHW = grids(mask_B1HW).requires_grad_()
    masked_max_pool(x_BCHW, mask_B1HW).sum().backward()
    assert x_BCHW.grad is not None
    assert torch.isfinite(x_BCHW.grad).all()
    assert (x_BCHW.grad * (1 - mask_B1HW)).abs().sum() == 0
    assert x_BCHW.grad.sum() == 3 * support_of(mask_B1HW).pooled().observed_B1HW.sum()


def test_unpooling_cuts_to_the_grid_and_never_speaks_off_the_mask() -> None:
    mask_B1HW = masks(5, 3)
    coarse_BChw = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(2, 1, 3, 2)
    found = unpool(coarse_BChw, mask_B1HW)
    for slide, _, i, j in torch.ones(2, 1, 5, 3).nonzero().tolist():
        assert found[slide, 0, i, j] == coarse_BChw[slide, 0, i // 2, j // 2] * mask_B1HW[slide, 0, i, j]


def test_vectors_are_means_and_maxima_of_what_was_gathered() -> None:
    mask_B1HW = masks(6, 7)
    x_BCHW = grids(mask_B1HW) - 5 * mask_B1HW
    for slide in range(2):
        rows_NC = x_BCHW[slide].movedim(0, -1)[mask_B1HW[slide, 0] > 0]
        torch.testing.assert_close(masked_mean(x_BCHW, mask_B1HW)[slide], rows_NC.mean(0))
        assert torch.equal(masked_max(x_BCHW, mask_B1HW)[slide], rows_NC.amax(0))


def test_padding_changes_not_a_bit_of_a_mean() -> None:
    mask_B1HW = masks(40, 33).float()
    x_BCHW = (1000 + torch.randn(2, 3, 40, 33, generator=torch.Generator().manual_seed(0))) * mask_B1HW
    wider_B1HW, wider_BCHW = (F.pad(grid, (0, 15, 0, 24)) for grid in (mask_B1HW, x_BCHW))
    assert torch.equal(masked_mean(wider_BCHW, wider_B1HW), masked_mean(x_BCHW, mask_B1HW))


class OnMPS(Tensor):
    """A tensor that says it lies on Apple's MPS and, like those that do, can't be of float64."""

    @property
    def device(self) -> torch.device:
        return torch.device("mps")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(given is torch.float64 for given in (*args, *(kwargs or {}).values())):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return super().__torch_function__(func, types, args, kwargs)


def test_a_mean_is_worked_out_where_there_is_no_float64() -> None:
    mask_B1HW = masks(6, 7).float()
    x_BCHW = grids(mask_B1HW).float()
    found = masked_mean(x_BCHW.as_subclass(OnMPS), mask_B1HW.as_subclass(OnMPS))
    torch.testing.assert_close(found.as_subclass(Tensor), masked_mean(x_BCHW, mask_B1HW))


def test_nothing_observed_gives_zeros_and_no_gradient() -> None:
    empty_B1HW = torch.zeros(2, 1, 4, 4)
    x_BCHW = torch.zeros(2, 3, 4, 4, requires_grad=True)
    total = masked_mean(x_BCHW, empty_B1HW).sum() + masked_max(x_BCHW, empty_B1HW).sum()
    (total + MaskedBatchNorm(3)(x_BCHW, empty_B1HW).sum() + masked_max_pool(x_BCHW, empty_B1HW).sum()).backward()
    assert total == 0
    assert x_BCHW.grad is not None
    assert torch.equal(x_BCHW.grad, torch.zeros_like(x_BCHW))


@torch.no_grad()
def statistics(x_BCHW: Tensor, mask_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, as a norm takes them on from one batch."""
    norm, num_observed = MaskedBatchNorm(x_BCHW.shape[1], momentum=1.0).to(mask_B1HW.dtype), mask_B1HW.sum()
    norm(x_BCHW, mask_B1HW)
    return norm.running_mean, norm.running_var * (num_observed - 1) / num_observed


def test_statistics_are_those_of_gathered_cells() -> None:
    mask_B1HW = masks(6, 7)
    x_BCHW = grids(mask_B1HW)
    rows_NC = x_BCHW.movedim(1, -1)[mask_B1HW[:, 0] > 0]
    mean_C, variance_C = statistics(x_BCHW, mask_B1HW)
    torch.testing.assert_close(mean_C, rows_NC.mean(0), rtol=0, atol=1e-14)
    torch.testing.assert_close(variance_C, rows_NC.var(0, unbiased=False), rtol=0, atol=1e-14)


def variance_by_equation_5(x_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """The paper's: squares over all cells, less what the unobserved ones add, over the number of observed ones."""
    num_observed = mask_B1HW.sum()
    mean_C11 = x_BCHW.sum((0, 2, 3))[:, None, None] / num_observed
    surplus_C = ((1 - mask_B1HW) * mean_C11.square()).sum((0, 2, 3))
    return ((x_BCHW - mean_C11).square().sum((0, 2, 3)) - surplus_C) / num_observed


def test_the_papers_variance_agrees_where_features_are_zero_off_the_mask_and_only_there() -> None:
    mask_B1HW = masks(20, 20)
    x_BCHW = grids(mask_B1HW)
    _, variance_C = statistics(x_BCHW, mask_B1HW)
    torch.testing.assert_close(variance_by_equation_5(x_BCHW, mask_B1HW), variance_C, rtol=0, atol=1e-12)
    leaking_BCHW = x_BCHW + 0.5 * (1 - mask_B1HW)
    assert (variance_by_equation_5(leaking_BCHW, mask_B1HW) - variance_C).abs().min() > 0.1


def test_the_direct_variance_keeps_its_digits_on_sparse_grids_far_from_zero() -> None:
    mask_B1HW = masks(256, 256, share=0.001)
    x_BCHW = grids(mask_B1HW) + 30 * mask_B1HW
    exact_C = statistics(x_BCHW, mask_B1HW)[1]
    direct_C = statistics(x_BCHW.float(), mask_B1HW.float())[1]
    by_paper_C = variance_by_equation_5(x_BCHW.float(), mask_B1HW.float())
    assert (direct_C - exact_C).abs().max() < 1e-4
    assert (by_paper_C - exact_C).abs().max() > 1e-2


def test_batch_norm_keeps_its_digits_on_sparse_grids_far_from_zero() -> None:
    mask_B1HW = masks(256, 256, share=0.001)
    x_BCHW, exact, ours = grids(mask_B1HW) + 30 * mask_B1HW, MaskedBatchNorm(3).double(), MaskedBatchNorm(3)
    torch.testing.assert_close(
        ours(x_BCHW.float(), mask_B1HW.float()).double(), exact(x_BCHW, mask_B1HW), rtol=0, atol=2e-5
    )
    torch.testing.assert_close(ours.running_var.double(), exact.running_var, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.running_mean.double(), exact.running_mean, rtol=1e-6, atol=0)


def test_batch_norm_is_torchs_on_gathered_cells() -> None:
    mask_B1HW = masks(6, 7)
    ours, torchs = MaskedBatchNorm(3).double(), nn.BatchNorm1d(3).double()
    with torch.no_grad():
        for norm in (ours, torchs):
            norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
            norm.bias.copy_(torch.tensor([1.0, -1.0, 0.0]))
    for seed in (1, 2):
        x_BCHW = 3 * grids(mask_B1HW, seed=seed) + mask_B1HW
        x_BCHW.requires_grad_()
        rows_NC = x_BCHW.movedim(1, -1)[mask_B1HW[:, 0] > 0]
        found, expected = ours(x_BCHW, mask_B1HW), torchs(rows_NC)
        torch.testing.assert_close(found.movedim(1, -1)[mask_B1HW[:, 0] > 0], expected)
        assert (found * (1 - mask_B1HW)).abs().sum() == 0
        slopes = [torch.autograd.grad(y.pow(3).sum(), x_BCHW, retain_graph=True)[0] for y in (found, expected)]
        torch.testing.assert_close(*(slope * mask_B1HW for slope in slopes), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.running_mean, torchs.running_mean)
    torch.testing.assert_close(ours.running_var, torchs.running_var)
    ours.eval(), torchs.eval()
    found = ours(x_BCHW, mask_B1HW).movedim(1, -1)[mask_B1HW[:, 0] > 0]
    torch.testing.assert_close(found, torchs(rows_NC))


def test_running_statistics_learn_nothing_from_nothing_and_stay_finite_with_one_cell() -> None:
    norm, before = MaskedBatchNorm(3), torch.zeros(1, 1, 4, 4)
    norm(torch.zeros(1, 3, 4, 4), before)
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert torch.equal(norm.running_var, torch.ones(3))
    before[..., 2, 1] = 1
    norm(7 * before.expand(1, 3, 4, 4), before)
    assert norm.running_mean.tolist() == pytest.approx([0.7] * 3)
    assert norm.running_var.tolist() == pytest.approx([0.9] * 3)


@pytest.mark.parametrize("groups", [2, 6])
def test_group_norm_is_a_loop_over_slides_and_groups(groups: int) -> None:
    mask_B1HW = masks(6, 7)
    x_BCHW = grids(mask_B1HW, channels=6)
    norm = MaskedGroupNorm(6, groups).double()
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    found = norm(x_BCHW, mask_B1HW)
    assert (found * (1 - mask_B1HW)).abs().sum() == 0
    for slide in range(2):
        rows_NC = x_BCHW[slide].movedim(0, -1)[mask_B1HW[slide, 0] > 0]
        got_NC = found[slide].movedim(0, -1)[mask_B1HW[slide, 0] > 0]
        for channels in torch.arange(6).chunk(groups):
            part = rows_NC[:, channels]
            normed = (part - part.mean()) / (part.var(unbiased=False) + 1e-5).sqrt()
            torch.testing.assert_close(got_NC[:, channels], normed * norm.weight[channels] + norm.bias[channels])


def test_norms_have_two_parameters_a_channel() -> None:
    for kind in ("batch", "instance", "group"):
        assert sum(parameter.numel() for parameter in masked_norm(kind, 18).parameters()) == 36  # type: ignore[arg-type]
    assert isinstance(group := masked_norm("group", 18), MaskedGroupNorm)
    assert group.groups == 2


def test_statistics_are_float32_where_features_are_half() -> None:
    mask_B1HW = torch.ones(1, 1, 300, 300)
    x_BCHW = (40 + torch.randn(1, 2, 300, 300, generator=torch.Generator().manual_seed(0))).half()
    mean_C, variance_C = statistics(x_BCHW, mask_B1HW)
    assert mean_C.dtype == variance_C.dtype == torch.float32
    torch.testing.assert_close(mean_C, x_BCHW.double().mean((0, 2, 3)).float())
    torch.testing.assert_close(variance_C, x_BCHW.double().var((0, 2, 3), unbiased=False).float(), rtol=1e-4, atol=0)
