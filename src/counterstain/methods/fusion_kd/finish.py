"""What is done to a fused map before it is shown: smoothing, borders drawn to the tissue's, no tumour on glass.

Shapes: B images, H W rows and columns.
Does not know: networks, slides.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.filled import filled
from counterstain.stain import separate

_EPS = 1e-3  # of a guided filter, in squared units of optical density
_WHITE_GRAY = 200 / 255
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def is_tissue(images_BCHW: Tensor) -> Tensor:
    """Where an image is not white glass: gray of at most 200 of 255.

    Args:
        images_BCHW: float RGB in [0, 1].

    Returns:
        (B, 1, H, W) bool.
    """
    luma_1C11 = filled(_LUMA, images_BCHW).view(1, 3, 1, 1)
    return (images_BCHW * luma_1C11).sum(1, keepdim=True) <= _WHITE_GRAY


class WithoutGlass(nn.Module):
    """A network that says of glass that it holds no tumour: left out of its losses, nothing has taught it so.

    Args:
        network: (B, 3, H, W) float RGB in [0, 1] to (B, S, H, W) probabilities.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.train(network.training)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Its probabilities, 0 on glass."""
        outputs_BSHW: Tensor = self.network(images_BCHW)
        return outputs_BSHW * is_tissue(images_BCHW)


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
    padded_B1HW = F.pad(fused_B1HW.float(), (radius,) * 4, mode="reflect")
    with torch.autocast(fused_B1HW.device.type, enabled=False):  # a threshold follows
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
