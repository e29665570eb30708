"""A depthwise convolution with a large kernel, quick to learn and to predict with on a CPU.

Each channel has a kernel of its own and keeps its size. To learn, a CPU goes by the frequency domain, where the kernel's
size does not matter: torch's gradients of the direct form take four to twelve times as long at 15 cells. To predict, the
direct form is the quicker one, if zeros are put around the map first: told to pad by 7 cells or more itself, torch takes
another way that is ten times slower. On a GPU the smoothed map is not made at all where a head follows: `projected` gives
the head's map by products of matrices. All forms give the same but for the last bits of a float.

    B  images    C  channels    H W  rows and columns    k  cells along a side of the kernel    u v  of a transform
    K  what channels are combined to    N  for all offsets of the kernel    L  cells

Does not know: what is smoothed, nor why.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOLERANCE = 1e-4
"""Largest difference between any two forms, relative to the largest value; 1e-6 is usual."""

_LEAST_KERNEL = 9  # measured on one core: at 7 cells with replicated padding the direct form learns as quickly


class Smoothing(nn.Conv2d):
    """A depthwise convolution: parameters and names are those of `nn.Conv2d`.

    Args:
        channels: Of the input, and of the output.
        kernel: Cells along a side, odd.
        padding: What lies beyond the map: "zeros", or "replicate" the nearest cell.
    """

    def __init__(self, channels: int, kernel: int, padding: Literal["zeros", "replicate"] = "zeros") -> None:
        super().__init__(
            channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False, padding_mode=padding
        )

    def forward(self, input: Tensor) -> Tensor:
        kernel = self.kernel_size[0]
        is_plain = input.device.type == "cpu" and input.dtype == torch.float32 and not torch.compiler.is_compiling()
        if not is_plain or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        learns = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        if learns and kernel >= _LEAST_KERNEL:
            return by_fft(input, self.weight, self.padding_mode)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.conv2d(F.pad(input, (kernel // 2,) * 4, mode=mode), self.weight, groups=self.groups)

    def projected(self, images_BCHW: Tensor, weights_KC: Tensor) -> Tensor:
        """A linear combination of the smoothed channels: what a 1x1 convolution after this one gives; (B, K, H, W).

        Each cell's channels are multiplied once by the kernel and the combination together, for all offsets of the kernel,
        and what belongs to a cell is then summed: products of matrices, K times as many as the convolution has, which a
        GPU does many times faster.

        Args:
            images_BCHW: float.
            weights_KC: Of the 1x1 convolution.
        """
        height, width = images_BCHW.shape[2:]
        kernel = self.kernel_size[0]
        reach = kernel // 2
        if self.padding_mode == "replicate":
            images_BCHW = F.pad(images_BCHW, (reach,) * 4, mode="replicate")
        # a cell gives to those around it what a convolution would have each of them take: the kernel turned around
        turned_Ckk = self.weight[:, 0].flip(1, 2)
        joint_NC = torch.einsum("kc,cij->kijc", weights_KC, turned_Ckk).flatten(0, 2)
        given_BNL = torch.bmm(joint_NC.expand(len(images_BCHW), -1, -1), images_BCHW.flatten(2))
        sums_BKHW = F.fold(given_BNL, (images_BCHW.shape[2], images_BCHW.shape[3]), kernel, padding=reach)
        if self.padding_mode == "replicate":
            return sums_BKHW[:, :, reach : reach + height, reach : reach + width]
        return sums_BKHW


def by_fft(images_BCHW: Tensor, weight_C1kk: Tensor, padding: str) -> Tensor:
    """The convolution in the frequency domain, with gradients; (B, C, H, W).

    Args:
        images_BCHW: float32.
        weight_C1kk: A kernel for each channel, odd.
        padding: "zeros" or "replicate".
    """
    reach = weight_C1kk.shape[2] // 2
    if padding == "zeros":
        smoothed: Tensor = _Convolved.apply(images_BCHW, weight_C1kk)  # type: ignore[no-untyped-call]
        return smoothed
    padded_BCHW = F.pad(images_BCHW, (reach,) * 4, mode="replicate")
    around: Tensor = _Convolved.apply(padded_BCHW, weight_C1kk)  # type: ignore[no-untyped-call]
    height, width = images_BCHW.shape[2:]
    return around[:, :, reach : reach + height, reach : reach + width]


class _Convolved(torch.autograd.Function):
    """Zeros beyond the map; what one gradient needs of the other's transforms is computed once."""

    @staticmethod
    def forward(ctx: Any, images_BCHW: Tensor, weight_C1kk: Tensor) -> Tensor:
        size = transform_size(images_BCHW, weight_C1kk.shape[2])
        spectrum_BCuv = torch.fft.rfft2(images_BCHW, s=size)
        kernel_Cuv = kernel_spectrum(weight_C1kk, size)
        ctx.save_for_backward(spectrum_BCuv, kernel_Cuv)
        ctx.size, ctx.shape, ctx.kernel = size, images_BCHW.shape[2:], weight_C1kk.shape[2]
        return _cut(torch.fft.irfft2(spectrum_BCuv * kernel_Cuv, s=size), ctx.shape, ctx.kernel // 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        spectrum_BCuv, kernel_Cuv = ctx.saved_tensors
        (height, width), kernel, size = ctx.shape, ctx.kernel, ctx.size
        reach = kernel // 2
        # where the result stood in the transform, its gradient stands as well
        grad_BCHW = F.pad(grads[0], (reach, size[1] - width - reach, reach, size[0] - height - reach))
        grad_BCuv = torch.fft.rfft2(grad_BCHW)
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_images = torch.fft.irfft2(grad_BCuv * kernel_Cuv.conj(), s=size)[..., :height, :width]
        if ctx.needs_input_grad[1]:
            product_Cuv = (grad_BCuv * spectrum_BCuv.conj()).sum(0)
            of_weight = torch.fft.irfft2(product_Cuv, s=size)[:, None, :kernel, :kernel].flip(2, 3)
        return of_images, of_weight


def transform_size(images_BCHW: Tensor, kernel: int) -> tuple[int, int]:
    """Rows and columns of the transform: so many that what wraps around falls beside what is kept."""
    height, width = images_BCHW.shape[2:]
    return quick_length(max(height + kernel // 2, kernel)), quick_length(max(width + kernel // 2, kernel))


def quick_length(least: int) -> int:
    """The smallest even length of no other prime factors than 2, 3 and 5 that is large enough."""
    length = least + least % 2
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 2


def kernel_spectrum(weight_C1kk: Tensor, size: tuple[int, int]) -> Tensor:
    """What a transform is multiplied by; (C, rows, columns / 2 + 1) complex."""
    spectrum: Tensor = torch.fft.rfft2(weight_C1kk[:, 0].flip(1, 2), s=size)
    return spectrum


def _cut(around_BCHW: Tensor, shape: tuple[int, int], reach: int) -> Tensor:
    return around_BCHW[..., reach : reach + shape[0], reach : reach + shape[1]]
