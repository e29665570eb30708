"""Operations on grids of which only some cells say something.

Features are exactly 0 off their mask, and every operation here keeps it so; what was observed is told by the mask, never by
zeros. A `Support` carries the mask through a network beside the features, and the extent of the slide within its padding:

    (features, support) -> SparseConv -> MaskedNorm -> ... -> masked_mean, masked_max -> vectors

Cells beyond the slide's border count as unobserved, so that padding changes nothing but the order of sums.

B slides, C channels, H W rows and columns of cells (h w where they are fewer), k kernel, s stride.
Does not know: what the features are, networks.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError

Propagation = Literal["strided", "uhrig"]
NormKind = Literal["batch", "instance", "group"]

_MAX_GROUPS = 8


def _wide(x: Tensor) -> torch.dtype:
    """float32, or the tensor's own dtype where that holds more."""
    return torch.promote_types(x.dtype, torch.float32)


class Support:
    """Which cells of a grid say something, and which belong to the slide at all.

    What convolutions and pools need of a mask is worked out once and kept: the blocks of a network share it.

    Args:
        observed_B1HW: float32, 1 for cells that say something, else 0.
        extent_B1HW: float32, 1 for cells of the slide's own grid, 0 for padding; rectangles from the first cell on.
        propagation: Which cells say something after a convolution. "uhrig": all whose window holds one that did before,
            so that masks grow by half a window each time. "strided": the same cells; where the grid gets coarser, cells
            that hold one that did.
        is_counted: Whether convolutions make up for what their windows miss; False is an ordinary convolution.

    Source: "uhrig" is Uhrig et al., Sparsity Invariant CNNs (arXiv 1708.06500), as DSNet uses it (arXiv 2109.05788, section
        III-C), cut off at the slide's border: without that, what a slide is padded with would count. "strided" is ours: a
        mask of a third of a slide covers all of it after two blocks otherwise.
    """

    def __init__(
        self,
        observed_B1HW: Tensor,
        extent_B1HW: Tensor,
        propagation: Propagation = "strided",
        is_counted: bool = True,
    ) -> None:
        self.observed_B1HW, self.extent_B1HW = observed_B1HW, extent_B1HW
        self.propagation, self.is_counted = propagation, is_counted
        self._after: dict[tuple[int, int], Support] = {}
        self._gains: dict[tuple[int, int], Tensor] = {}
        self._pooled: Support | None = None

    def after(self, kernel: int, stride: int) -> "Support":
        """The support of what a convolution gives: a grid of ceil(H / stride) x ceil(W / stride) cells."""
        if stride == 1 and (kernel == 1 or self.propagation == "strided"):
            return self
        if (kernel, stride) not in self._after:
            observed_B1hw = propagated(self.observed_B1HW, kernel, stride, self.propagation)
            extent_B1hw = self.extent_B1HW[..., ::stride, ::stride]
            self._after[kernel, stride] = self._like(observed_B1hw * extent_B1hw, extent_B1hw)
        return self._after[kernel, stride]

    def pooled(self) -> "Support":
        """The support of what `masked_max_pool` gives."""
        if self._pooled is None:
            observed_B1hw = F.max_pool2d(self.observed_B1HW, 2, ceil_mode=True)
            self._pooled = self._like(observed_B1hw, self.extent_B1HW[..., ::2, ::2])
        return self._pooled

    def enlarged(self, finer: "Support") -> "Support":
        """The support of what `unpool` gives.

        Args:
            finer: The support before the grid was made coarser. With "strided" propagation it comes back; with "uhrig" all
                cells say something that lie on the slide and in a coarse cell that does.
        """
        if self.propagation == "strided":
            return finer
        height, width = finer.extent_B1HW.shape[2:]
        observed_B1HW = _repeated(self.observed_B1HW, height, width) * finer.extent_B1HW
        return self._like(observed_B1HW, finer.extent_B1HW)

    def gain(self, kernel: int, stride: int) -> Tensor:
        """(B, 1, h, w) float32: k * k over the number of observed cells in a window, 0 off the mask that comes after."""
        if (kernel, stride) not in self._gains:
            after_B1hw = self.after(kernel, stride).observed_B1HW
            if self.is_counted:
                share_B1hw = F.avg_pool2d(self.observed_B1HW, kernel, stride, kernel // 2)
                self._gains[kernel, stride] = after_B1hw / share_B1hw.clamp(min=0.5 / kernel**2)
            else:
                self._gains[kernel, stride] = after_B1hw
        return self._gains[kernel, stride]

    def _like(self, observed_B1HW: Tensor, extent_B1HW: Tensor) -> "Support":
        return Support(observed_B1HW, extent_B1HW, self.propagation, self.is_counted)


def propagated(mask_B1HW: Tensor, kernel: int, stride: int, propagation: Propagation) -> Tensor:
    """Which cells say something after a convolution, whatever the slide's border.

    Args:
        mask_B1HW: 1 for cells that do before, else 0.
        kernel: Odd; the window of cell (i, j) is centred on (stride * i, stride * j).
        stride: At least 1.
        propagation: Of `Support`.

    Returns:
        (B, 1, ceil(H / stride), ceil(W / stride)), of the mask's dtype.
    """
    if propagation == "uhrig":
        return F.max_pool2d(mask_B1HW, kernel, stride, kernel // 2)
    # as much of the block as the window reaches: a 1x1 convolution of stride 2 looks at one cell of four
    block = min(stride, kernel // 2 + 1)
    return F.max_pool2d(mask_B1HW, block, stride, ceil_mode=True)


class SparseConv(nn.Module):
    """A convolution that averages over the observed cells of its window alone.

    y = k * k / sum(o) * sum(w * x * o), where the window holds an observed cell and the support's propagation lets it
    speak, else 0. Cells are counted, not channels: the mask is one for all of them. There is no bias, since a norm follows.

    Args:
        in_channels: C before.
        out_channels: C after.
        kernel: Odd.
        stride: At least 1.
        is_depthwise: Whether each channel has its own kernel; then C stays as it is. Computed in float32 at any precision.

    Raises:
        InputError: When the kernel is even, or a depthwise convolution would change C.

    Source: Uhrig et al., arXiv 1708.06500, in DSNet, arXiv 2109.05788, section III-C and Fig. 4. The factor k * k is ours:
        what first weights meant for a sum give would be k * k times too small.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, is_depthwise: bool = False
    ) -> None:
        super().__init__()
        if kernel % 2 == 0 or (is_depthwise and in_channels != out_channels):
            raise InputError(
                f"A kernel of {kernel} for {in_channels} to {out_channels} channels was given; an odd one, and as many "
                "channels as before if it is depthwise, were expected."
            )
        self.kernel, self.stride, self.is_depthwise = kernel, stride, is_depthwise
        groups = in_channels if is_depthwise else 1
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, a=0.01, nonlinearity="leaky_relu")

    def forward(self, x_BCHW: Tensor, support: Support) -> tuple[Tensor, Support]:
        """Features (B, C, ceil(H / s), ceil(W / s)) and their support."""
        after = support.after(self.kernel, self.stride)
        if self.kernel == 1 and not self.is_depthwise:  # 0 stays 0 where nothing is added
            return F.conv2d(x_BCHW[..., :: self.stride, :: self.stride], self.weight), after
        return self._convolved(x_BCHW) * support.gain(self.kernel, self.stride), after

    def _convolved(self, x_BCHW: Tensor) -> Tensor:
        if not self.is_depthwise:
            return F.conv2d(x_BCHW, self.weight, stride=self.stride, padding=self.kernel // 2)
        with torch.autocast(x_BCHW.device.type, enabled=False):
            return F.conv2d(
                x_BCHW.to(self.weight.dtype), self.weight, None, self.stride, self.kernel // 2, groups=len(self.weight)
            )


def masked_max_pool(x_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """The largest of the observed values in squares of 2 x 2 cells, 0 where there are none.

    Args:
        x_BCHW: float, of any sign.
        mask_B1HW: 1 for observed cells, else 0.

    Returns:
        (B, C, ceil(H / 2), ceil(W / 2)).
    """
    filled_BCHW = x_BCHW.masked_fill(mask_B1HW == 0, -math.inf)
    largest_BChw = F.max_pool2d(filled_BCHW, 2, ceil_mode=True)
    return largest_BChw.masked_fill(largest_BChw == -math.inf, 0.0)


def unpool(x_BChw: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Every cell repeated in squares of 2 x 2, cut to the size of a mask, 0 off it.

    Args:
        x_BChw: float, with h = ceil(H / 2) and w = ceil(W / 2).
        mask_B1HW: 1 for cells that say something, else 0.
    """
    height, width = mask_B1HW.shape[2:]
    return _repeated(x_BChw, height, width) * mask_B1HW


def _repeated(x_BChw: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x_BChw, scale_factor=2, mode="nearest")[:, :, :height, :width]


def masked_mean(x_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """(B, C) float32: the mean over observed cells, 0 where there are none.

    Summed in float64: padding changes the order of a sum, and in float32 its last digits. Apple's MPS has no float64; there
    the sum is of float32.

    Args:
        x_BCHW: float.
        mask_B1HW: float, 1 for observed cells, else 0.
    """
    widest = torch.float32 if x_BCHW.device.type == "mps" else torch.float64
    mean_BC = (x_BCHW * mask_B1HW).sum((2, 3), dtype=widest) / mask_B1HW.sum((2, 3)).clamp(min=1)
    return mean_BC.to(_wide(x_BCHW))


def masked_max(x_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """(B, C) float32: the largest over observed cells, 0 where there are none.

    Args:
        x_BCHW: float, of any sign.
        mask_B1HW: 1 for observed cells, else 0.
    """
    largest_BC = x_BCHW.to(_wide(x_BCHW)).masked_fill(mask_B1HW == 0, -math.inf).amax((2, 3))
    return largest_BC.masked_fill(largest_BC == -math.inf, 0.0)


class _Centred(NamedTuple):
    """Observed values without their mean, 0 off the mask, and statistics of length 1 along the axes that were pooled."""

    values: Tensor
    mean: Tensor
    variance: Tensor
    num_values: Tensor


def _centred(x: Tensor, mask: Tensor, over: tuple[int, ...]) -> _Centred:
    """Values and statistics in two passes; the mask has as many axes as they have, of length 1 where all share it.

    Padding changes the order of these sums, and so the last digits of what is at float32.

    The variance is sum(o * (x - mean)^2) / sum(o), which is never negative and cancels nothing: at float32 the sum over all
    cells less what the unobserved ones add, as eq. 5 of DSNet has it, loses its digits on sparse grids.
    """
    repeats = math.prod(x.shape[axis] // mask.shape[axis] for axis in over)
    num_values = mask.sum(over, keepdim=True) * repeats
    mean = x.sum(over, keepdim=True, dtype=_wide(x)) / num_values.clamp(min=1)
    values = (x - mean) * mask
    return _Centred(values, mean, values.square().sum(over, keepdim=True) / num_values.clamp(min=1), num_values)


class MaskedBatchNorm(nn.Module):
    """Batch normalisation over the observed cells of a batch.

    Training takes mean and variance of the batch and moves the running ones towards them (the variance unbiased); a batch
    without any observed cell moves nothing. Evaluation takes the running ones.

    Args:
        channels: C.
        momentum: How far the running statistics move.
        epsilon: Added to the variance.

    Source: DSNet, arXiv 2109.05788, section III-C, eq. 4 and 5, written for one slide; pooled over the batch here. The
        variance's direct form is ours.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """(B, C, H, W) float32, 0 off the mask.

        Args:
            x_BCHW: float, 0 off the mask.
            mask_B1HW: float32, 1 for observed cells, else 0.
        """
        if self.training:
            centred = _centred(x_BCHW, mask_B1HW, over=(0, 2, 3))
            values_BCHW, variance_C11 = centred.values, centred.variance[0]
            self._follow(centred.mean.flatten(), centred.variance.flatten(), centred.num_values.squeeze())
        else:
            values_BCHW = (x_BCHW - self.running_mean[:, None, None]) * mask_B1HW
            variance_C11 = self.running_var[:, None, None]
        scale_C11 = self.weight[:, None, None] * torch.rsqrt(variance_C11 + self.epsilon)
        return torch.addcmul(self.bias[:, None, None] * mask_B1HW, values_BCHW, scale_C11)

    @torch.no_grad()
    def _follow(self, mean_C: Tensor, variance_C: Tensor, num_observed: Tensor) -> None:
        step = self.momentum * (num_observed > 0)
        unbiased_C = variance_C * num_observed / (num_observed - 1).clamp(min=1)
        self.running_mean += step * (mean_C - self.running_mean)
        self.running_var += step * (unbiased_C - self.running_var)


class MaskedGroupNorm(nn.Module):
    """Normalisation of every slide by itself, over its observed cells and groups of channels.

    Args:
        channels: C.
        groups: They divide the channels; as many as channels is instance normalisation.
        epsilon: Added to the variance.

    Source: ours, for batches of one slide: with them, batch normalisation learns from other statistics than it is judged
        with. As many groups as channels is eq. 4 and 5 of DSNet, arXiv 2109.05788, to the letter.
    """

    def __init__(self, channels: int, groups: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        assert channels % groups == 0
        self.groups, self.epsilon = groups, epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """(B, C, H, W) float32, 0 off the mask.

        Args:
            x_BCHW: float, 0 off the mask.
            mask_B1HW: float32, 1 for observed cells, else 0.
        """
        batch, _, height, width = x_BCHW.shape
        x_BGcHW = x_BCHW.reshape(batch, self.groups, -1, height, width)
        centred = _centred(x_BGcHW, mask_B1HW[:, None], over=(2, 3, 4))
        normed_BCHW = (centred.values * torch.rsqrt(centred.variance + self.epsilon)).flatten(1, 2)
        return torch.addcmul(self.bias[:, None, None] * mask_B1HW, normed_BCHW, self.weight[:, None, None])


def masked_norm(kind: NormKind, channels: int) -> MaskedBatchNorm | MaskedGroupNorm:
    """A norm with two parameters a channel.

    Args:
        kind: "batch"; "instance" and "group" take every slide by itself.
        channels: C; groups are as many as divide it, 8 at most.
    """
    if kind == "batch":
        return MaskedBatchNorm(channels)
    return MaskedGroupNorm(channels, channels if kind == "instance" else math.gcd(channels, _MAX_GROUPS))
