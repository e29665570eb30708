"""Thumbnails of several coarsenesses from the finest one, stacked as channels on one grid.

    T (2H x 2W pixels) -> averages over 1, 2, 3... pixels a side -> enlarged by repetition -> stacked

Only pixels of the slide are averaged, and windows start at the slide's corner: what a slide is padded with changes nothing.

B slides, L levels, H W rows and columns of cells (thumbnails have two pixels to a cell along each side).
Does not know: networks, files.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from counterstain.errors import InputError


def check_levels(levels: tuple[int, ...]) -> None:
    """Refuses levels that no thumbnail can be averaged to.

    Raises:
        InputError: When there are none, or they are not ascending whole numbers of at least 1.
    """
    if not levels or levels[0] < 1 or list(levels) != sorted(set(levels)):
        raise InputError(
            f"Thumbnail levels {levels} were given; ascending whole numbers from 1 on were expected, such as (1, 2, 3)."
        )


def stack_levels(thumbnails_B3HW: Tensor, extent_B1HW: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Thumbnails averaged over squares of pixels, enlarged back and stacked.

    Pixel (r, c) of level a is the mean over the slide's pixels in rows a * floor(r / a) to a * floor(r / a) + a - 1, and
    columns likewise.

    Args:
        thumbnails_B3HW: (B, 3, 2H, 2W) float.
        extent_B1HW: (B, 1, 2H, 2W), 1 for the slide's own pixels and 0 for padding, of the thumbnails' dtype.
        levels: How many pixels are averaged along each side, ascending.

    Returns:
        (B, 3L, 2H, 2W): the channels of the first level, then of the next; 0 beyond the slide.

    Raises:
        InputError: When the levels can't be used.

    Source: DSNet, arXiv 2109.05788, sections III-A and IV-D (nearest-neighbour enlargement). That the coarser ones are area
        averages of the finest is ours: the paper names only their downsample factors.
    """
    check_levels(levels)
    inside_B3HW = thumbnails_B3HW * extent_B1HW
    return torch.cat([_averaged(inside_B3HW, extent_B1HW, level) for level in levels], dim=1)


def _averaged(inside_B3HW: Tensor, extent_B1HW: Tensor, level: int) -> Tensor:
    if level == 1:
        return inside_B3HW
    height, width = inside_B3HW.shape[2:]
    sums_B3hw = F.avg_pool2d(inside_B3HW, level, ceil_mode=True, divisor_override=1)
    counts_B1hw = F.avg_pool2d(extent_B1HW, level, ceil_mode=True, divisor_override=1)
    means_B3hw = sums_B3hw / counts_B1hw.clamp(min=1)
    enlarged_B3HW = means_B3hw.repeat_interleave(level, dim=2).repeat_interleave(level, dim=3)
    return enlarged_B3HW[:, :, :height, :width] * extent_B1HW
