"""Means over squares of pixels: from a network's maps, and from the image for its gray value.

Rows are added first, in memory's own order, and the quarter (at a stride of 4) that is left is summed across by a product
with ones. torch's pooling and its sum over channels take four times as long on a CPU.

    B  images    C  channels    H  height    W  width    h w  of the pooled

Does not know: what channels mean, slides.
"""

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what "gray" means in the published white-background masks


def pooled_maps(maps_BCHW: Tensor, stride: int) -> Tensor:
    """(B, C, h, w) float32 means over squares of `stride` pixels.

    Args:
        maps_BCHW: float32; height and width are multiples of `stride`.
        stride: Pixels for one of the result, along each axis.
    """
    num, channels, height, width = maps_BCHW.shape
    rows_BChsW = maps_BCHW.view(num, channels, height // stride, stride, width)
    sums_BChW = _sum_of_rows(rows_BChsW, 3)
    ones = torch.ones(stride, device=maps_BCHW.device)
    sums = sums_BChW.reshape(-1, stride) @ ones
    return sums.div_(stride * stride).view(*sums_BChW.shape[:3], width // stride)


def pooled_gray(images_BHWC: Tensor, stride: int) -> Tensor:
    """(B, 1, h, w) float32 in [0, 1]: gray values of images averaged over squares of `stride` pixels.

    Args:
        images_BHWC: uint8 RGB; height and width are multiples of `stride`.
        stride: Pixels for one of the result, along each axis.
    """
    num, height, width, channels = images_BHWC.shape
    rows_BhsWC = images_BHWC.view(num, height // stride, stride, width, channels)
    sums_BhWC = _sum_of_rows(rows_BhsWC, 2)
    luma = torch.tensor(_LUMA, device=images_BHWC.device).repeat(stride)
    sums = sums_BhWC.reshape(-1, 3 * stride) @ luma
    return sums.div_(255 * stride * stride).view(num, 1, height // stride, width // stride)


def _sum_of_rows(values: Tensor, dim: int) -> Tensor:
    """The sum over one short dimension, a slice at a time."""
    first, *others = values.unbind(dim)
    total = first.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    for one in others:
        total += one
    return total
