"""What is done to a fused map before it is shown: smoothing, and borders drawn to the tissue's.

Shapes: B images, H W rows and columns.
Does not know: networks, slides.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from counterstain.stain import separate

_EPS = 1e-3  # of a guided filter, in squared units of optical density


def smoothed(fused_B1HW: Tensor, sigma_px: float) -> Tensor:
    """A map under a Gaussian, edges mirrored; as it is where sigma is 0.

    Args:
        fused_B1HW: float in [0, 1].
        sigma_px: In pixels of the image.

    Source: the released code evaluates with sigma 3 at 256 px.
    """
    if not sigma_px:
        return fused_B1HW
    radius = min(math.ceil(4 * sigma_px), *(side - 1 for side in fused_B1HW.shape[2:]))
    offsets_N = torch.arange(-radius, radius + 1, device=fused_B1HW.device, dtype=torch.float32)
    kernel_N = torch.exp(-0.5 * (offsets_N / sigma_px) ** 2)
    kernel_N = kernel_N / kernel_N.sum()
    padded_B1HW = F.pad(fused_B1HW, (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded_B1HW, kernel_N.view(1, 1, -1, 1)), kernel_N.view(1, 1, 1, -1))


def snapped(fused_B1HW: Tensor, images_BCHW: Tensor, radius_px: int) -> Tensor:
    """A map whose borders follow those of the haematoxylin channel: a guided filter.

    Args:
        fused_B1HW: float in [0, 1].
        images_BCHW: float RGB in [0, 1].
        radius_px: Of the window in which the map is a linear function of the guide; 0 leaves the map as it is.

    Returns:
        The same shape, in [0, 1].

    Source: He et al. 2013 (IEEE TPAMI 35:1397), Eq. 5, 6 and 8, with the haematoxylin stain for a guide.
    """
    if not radius_px:
        return fused_B1HW
    guide_B1HW = separate(images_BCHW)[:, :1]

    def mean(values_B1HW: Tensor) -> Tensor:
        return F.avg_pool2d(values_B1HW, 2 * radius_px + 1, 1, radius_px, count_include_pad=False)

    mean_guide, mean_map = mean(guide_B1HW), mean(fused_B1HW)
    slope = (mean(guide_B1HW * fused_B1HW) - mean_guide * mean_map) / (
        mean(guide_B1HW.square()) - mean_guide.square() + _EPS
    )
    snapped_B1HW = mean(slope) * guide_B1HW + mean(mean_map - slope * mean_guide)
    return snapped_B1HW.clamp(0, 1)
