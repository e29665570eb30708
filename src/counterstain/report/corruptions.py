"""Corruptions: what laboratories and scanners do to images, in five strengths; an image in, a changed one out.

Every function is pure: the same image, strength and direction give the same pixels. Lengths are pixels of the image given,
so that a corruption of one strength is coarser where pixels are.

Does not know: models, scores, datasets.
"""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage

from counterstain.errors import InputError, UnknownNameError
from counterstain.stain import combine, separate

Pixels = npt.NDArray[np.uint8]

STRENGTHS = (1, 2, 3, 4, 5)
"""Beside 0, which is the image as it is."""

STAIN_FACTORS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""By how much of itself haematoxylin grows and eosin fades, or the other way round; 0.2 is strong as an augmentation."""

BLUR_SIGMAS_PX = (0.5, 1.0, 1.5, 2.5, 4.0)
"""Standard deviation of the Gaussian."""

JPEG_QUALITIES = (80, 60, 40, 25, 12)
"""Of libjpeg, with colour at half the resolution; slide scanners use 70 to 90."""


def stain_shift(image_HWC: Pixels, strength: int, direction: int = 1) -> Pixels:
    """One stain stronger and the other weaker, in optical densities; what has no density, as glass, stays as it is.

    Args:
        image_HWC: uint8 RGB.
        strength: 1 to 5, see STAIN_FACTORS.
        direction: 1 for more haematoxylin and less eosin, -1 for the opposite.

    Source: ours: the factors of HED jitter (Tellez et al. 2018), the same for every image and of a known size, since a
        random one would measure something else at every call.
    """
    factor = direction * STAIN_FACTORS[strength - 1]
    factors_3 = torch.tensor((1 + factor, 1 - factor, 1.0))
    image_1CHW = torch.from_numpy(np.ascontiguousarray(image_HWC)).permute(2, 0, 1)[None].float() / 255
    changed_1CHW = combine(separate(image_1CHW) * factors_3.view(1, 3, 1, 1))
    pixels: Pixels = (changed_1CHW[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return pixels


def blur(image_HWC: Pixels, strength: int, direction: int = 1) -> Pixels:
    """Out of focus, by a Gaussian; the rim is continued outwards.

    Args:
        image_HWC: uint8 RGB.
        strength: 1 to 5, see BLUR_SIGMAS_PX.
        direction: Not looked at.
    """
    sigma = BLUR_SIGMAS_PX[strength - 1]
    blurred = ndimage.gaussian_filter(image_HWC.astype(np.float32), (sigma, sigma, 0), mode="nearest")
    return blurred.round().clip(0, 255).astype(np.uint8)


def jpeg(image_HWC: Pixels, strength: int, direction: int = 1) -> Pixels:
    """Compressed and read again.

    Args:
        image_HWC: uint8 RGB.
        strength: 1 to 5, see JPEG_QUALITIES.
        direction: Not looked at.
    """
    file = io.BytesIO()
    Image.fromarray(image_HWC).save(file, "JPEG", quality=JPEG_QUALITIES[strength - 1], subsampling="4:2:0")
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


CORRUPTIONS: dict[str, Callable[[Pixels, int, int], Pixels]] = {"stain_shift": stain_shift, "blur": blur, "jpeg": jpeg}
"""By name; each takes an image, a strength from 1 to 5 and a direction, 1 or -1."""


def corrupt(image_HWC: Pixels, name: str, strength: int, number: int = 0) -> Pixels:
    """An image as a corruption leaves it.

    Args:
        image_HWC: uint8 RGB.
        name: A name in CORRUPTIONS.
        strength: 0, which changes nothing, to 5.
        number: Of the image: corruptions with two directions take one for even numbers and the other for odd ones.

    Returns:
        (H, W, 3) uint8, of its own memory.

    Raises:
        UnknownNameError: When there is no such corruption.
        InputError: When the strength is none from 0 to 5.
    """
    if name not in CORRUPTIONS:
        raise UnknownNameError("corruption", name, CORRUPTIONS)
    if strength not in (0, *STRENGTHS):
        raise InputError(
            f"A corruption of strength {strength} was given; 0, for none, to {STRENGTHS[-1]} were expected."
        )
    return CORRUPTIONS[name](image_HWC, strength, -1 if number % 2 else 1) if strength else image_HWC.copy()
