"""Between a slide's pixels and a network, and back: images as floats, and means over squares of maps and gray values.

All of it is bound by memory. So images are turned one at a time, each within the processor's cache; means are taken across
first, by a product with ones, so that rows are added when a quarter (at a stride of 4) is left. On a CPU, torch's own
conversion and pooling take more than twice as long.

    B  images    C  channels    H  height    W  width    h w  of the pooled

Does not know: what channels mean, slides.
"""

import numpy as np
import torch
from torch import Tensor

from counterstain.filled import filled

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what "gray" means in the published white-background masks
_MOST_IN_16_BITS = 128  # pixels of 255 whose sum an int16 holds


def float_images(pixels_BHWC: Tensor) -> Tensor:
    """(B, 3, H, W) float32 in [0, 1], of uint8 RGB on any device."""
    if pixels_BHWC.device.type != "cpu":
        return pixels_BHWC.permute(0, 3, 1, 2) / 255  # channels stay last, as a GPU's convolutions want them
    pixels = pixels_BHWC.numpy()
    num, height, width, channels = pixels.shape
    images_BCHW = np.empty((num, channels, height, width), np.float32)  # memory of torch's own is fresh each time
    for one_HWC, one_CHW in zip(pixels, images_BCHW, strict=True):
        turned_CHW = np.ascontiguousarray(one_HWC.transpose(2, 0, 1))
        np.divide(turned_CHW, np.float32(255), out=one_CHW, dtype=np.float32)
    return torch.from_numpy(images_BCHW)


def pooled_maps(maps_BCHW: Tensor, stride: int) -> Tensor:
    """(B, C, h, w) float32 means over squares of `stride` pixels.

    Args:
        maps_BCHW: float32; height and width are multiples of `stride`.
        stride: Pixels for one of the result, along each axis.
    """
    num, channels, height, width = maps_BCHW.shape
    ones = torch.ones(stride, device=maps_BCHW.device)
    across = (maps_BCHW.reshape(-1, stride) @ ones).view(num, channels, height // stride, stride, width // stride)
    return _sum_of_rows(across, 3, torch.float32).div_(stride * stride)


def pooled_gray(pixels_BHWC: Tensor, stride: int) -> Tensor:
    """(B, 1, h, w) float32 in [0, 1]: gray values of images averaged over squares of `stride` pixels.

    Args:
        pixels_BHWC: uint8 RGB; height and width are multiples of `stride`.
        stride: Pixels for one of the result, along each axis.
    """
    num, height, width, channels = pixels_BHWC.shape
    rows_BhsWC = pixels_BHWC.view(num, height // stride, stride, width, channels)
    whole = torch.int16 if stride <= _MOST_IN_16_BITS else torch.int32
    sums_BhWC = _sum_of_rows(rows_BhsWC, 2, whole).float()
    luma = filled(_LUMA, sums_BhWC).repeat(stride)
    sums = sums_BhWC.view(-1, 3 * stride) @ luma
    return sums.div_(255 * stride * stride).view(num, 1, height // stride, width // stride)


def _sum_of_rows(values: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """The sum over one short dimension, a slice at a time."""
    first, *others = values.unbind(dim)
    total = first.to(dtype, memory_format=torch.contiguous_format, copy=True)
    for one in others:
        total += one
    return total
