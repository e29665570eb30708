"""Stains apart and together again, and random changes of their strength.

Images become optical densities, densities become amounts of haematoxylin, eosin and DAB by Ruifrok's matrix, and back.
Shapes: B images, C channels, H rows, W columns; images are RGB in [0, 1].

Does not know: slides, datasets, how often an image is changed.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from counterstain.errors import InputError
from counterstain.filled import filled

STAINS = ("haematoxylin", "eosin", "dab")
"""The order of the channels of separated stains."""

HED_TO_RGB = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""The optical density of each stain in red, green and blue.

Source: Ruifrok and Johnston 2001, as the scientific Python packages publish it; rows are of about unit length.
"""

DARKEST = 1e-3
"""Light below this counts as this much, so that black has a finite density."""

_Matrix = Sequence[Sequence[float]]
_RGB_TO_HED: _Matrix = torch.linalg.inv(torch.tensor(HED_TO_RGB, dtype=torch.float64)).tolist()

_STEEPNESS = 5.0  # of a shift's rise from glass to stain: 0.05 of it at a density of 0.05, 0.84 at 0.5


def rgb_to_od(images_BCHW: Tensor) -> Tensor:
    """Optical densities of images.

    Args:
        images_BCHW: float RGB in [0, 1]; what lies outside is clamped.

    Returns:
        (B, 3, H, W) float, natural logarithm, 0 for white, at most -log(DARKEST).
    """
    return -images_BCHW.clamp(DARKEST, 1.0).log()


def od_to_rgb(densities_BCHW: Tensor) -> Tensor:
    """Images of optical densities, the inverse of `rgb_to_od`; (B, 3, H, W) float in [0, 1]."""
    return (-densities_BCHW).exp().clamp(0.0, 1.0)


def separate(images_BCHW: Tensor) -> Tensor:
    """The amounts of stain in images.

    Args:
        images_BCHW: float RGB in [0, 1].

    Returns:
        (B, 3, H, W) float: haematoxylin, eosin, DAB. Negative where an image has a colour that no mixture of them gives.

    Source: Ruifrok and Johnston 2001.
    """
    return _mixed(rgb_to_od(images_BCHW), _RGB_TO_HED)


def combine(stains_BCHW: Tensor) -> Tensor:
    """Images of amounts of stain, the inverse of `separate`; (B, 3, H, W) float in [0, 1]."""
    return od_to_rgb(_mixed(stains_BCHW, HED_TO_RGB))


def jitter_hed(
    images_BCHW: Tensor, generator: torch.Generator | None, sigma: float = 0.05, sigma_shift: float | None = None
) -> Tensor:
    """Images with their stains made stronger or weaker at random, each image in its own way.

    Every stain of every image is multiplied by a random factor, and a random amount is added to it. What is added is
    weighted by how much stain of any kind is there, so that empty glass stays as it is.

    Args:
        images_BCHW: float RGB in [0, 1].
        generator: Where the random numbers come from, on the CPU; None for torch's own.
        sigma: Half the width of the factor's range: it is uniform in [1 - sigma, 1 + sigma].
        sigma_shift: Half the width of the range of what is added, in optical density; None for the same as `sigma`.

    Returns:
        (B, 3, H, W) float in [0, 1], of the same dtype and device.

    Raises:
        InputError: When a sigma is negative, or a factor could be.

    Source: Tellez et al. 2018 (IEEE TMI 37:2126), uniform, both sigmas 0.05; 2019 (Medical Image Analysis 58:101544) calls
        0.05 light and 0.2 strong. The weighting is ours: theirs tints the background, which tells a scanner and no tissue.
    """
    sigma_shift = sigma if sigma_shift is None else sigma_shift
    if not (0 <= sigma < 1 and 0 <= sigma_shift < math.inf):
        raise InputError(
            f"Stain jitter of sigma {sigma} and shift {sigma_shift} was given; expected a sigma in [0, 1) and a shift of 0 "
            "or more. 0.05 is light, 0.2 strong."
        )
    # Drawn on the CPU, so that a seed means the same on every device.
    uniform = torch.rand((2, images_BCHW.shape[0], 3, 1, 1), generator=generator, dtype=torch.float64) * 2 - 1
    factors = (1 + sigma * uniform[0]).to(images_BCHW, non_blocking=True)
    shifts = (sigma_shift * uniform[1]).to(images_BCHW, non_blocking=True)
    densities_BCHW = rgb_to_od(images_BCHW)
    weight_B1HW = torch.expm1(-_STEEPNESS * densities_BCHW.mean(1, keepdim=True)).square()
    stains_BCHW = _mixed(densities_BCHW, _RGB_TO_HED)
    return combine(stains_BCHW * factors + shifts * weight_B1HW)


def _mixed(channels_BCHW: Tensor, matrix: _Matrix) -> Tensor:
    """Each pixel's channels, as a row, times a matrix."""
    weights = torch.stack([filled(row, channels_BCHW) for row in matrix])
    with torch.autocast(channels_BCHW.device.type, enabled=False):  # 8 bits of a density are steps of a grey value
        return torch.einsum("bchw,cd->bdhw", channels_BCHW, weights)
