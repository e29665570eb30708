"""The second stage: a segmentation network learns pixels from pseudo masks as if they were truth.

Each patch comes with a mask for each layer of the first stage. Image and masks are flipped and turned alike; the loss is
the weighted sum over layers of the cross-entropy of the scored pixels, which OEEM can weigh by how easily they are learned.

Does not know: classifiers, how pseudo masks are made, true masks.

B batch, K classes, L layers, H W rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from counterstain.data.augment import Augment, AugmentSettings
from counterstain.data.images import read_mask
from counterstain.data.weak import WeakPatches
from counterstain.losses import labels_per_image, mean_over_scored, oeem_weights, pixel_cross_entropy, weighted_scales
from counterstain.methods.optimise import Learn, enlarged

_BLUR_RADIUS_PX = 3  # three times the largest sigma
_NO_BLUR_SIGMA = 1e-3  # a Gaussian that is exactly one pixel wide in float32

Weighting = Literal["none", "oeem"]


@dataclass(frozen=True)
class SecondStageSettings:
    """What the second stage learns with.

    Args:
        layer_weights: Of each layer's loss.
        pixel_weighting: "none", or "oeem" (arXiv 2206.06665).
        batch_average: Whether the loss is divided by the number of images once more.
        scale: Patches are enlarged by this before the network.
        augment: Of images and masks; stain changes of images alone.
        blur: Whether half of the images are blurred a little.
    """

    layer_weights: tuple[float, ...]
    pixel_weighting: Weighting
    batch_average: bool
    scale: float
    augment: AugmentSettings
    blur: bool


class PseudoLabelledPatches(Dataset[tuple[Tensor, Tensor]]):
    """Patches with pseudo masks: item i is (image_CHW uint8 RGB, masks_LHW uint8).

    Args:
        patches: Their labels are left aside.
        masks: The files of each patch's masks, one for each layer.
    """

    def __init__(self, patches: WeakPatches, masks: Sequence[tuple[Path, ...]]) -> None:
        assert len(patches) == len(masks)
        self._patches, self._masks = patches, masks

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image_CHW, _ = self._patches[index]
        masks_LHW = np.stack([read_mask(path) for path in self._masks[index]])
        return image_CHW, torch.from_numpy(masks_LHW)


def pixel_logits(segmenter: nn.Module, images_BCHW: Tensor, scale: float) -> Tensor:
    """A segmenter's logits at the images' size, whatever the scale it sees them at; (B, K, H, W) float32."""
    logits_BKHW: Tensor = segmenter(enlarged(images_BCHW, scale)).float()
    if scale == 1:
        return logits_BKHW
    return F.interpolate(logits_BKHW, size=images_BCHW.shape[2:], mode="bilinear", align_corners=False)


def layer_loss(logits_BKHW: Tensor, masks_BHW: Tensor, weighting: Weighting) -> Tensor:
    """The mean loss of a layer's scored pixels; a scalar, 0 where there are none.

    Args:
        logits_BKHW: float.
        masks_BHW: uint8 class indices, `UNCOVERED` where not scored.
        weighting: As `SecondStageSettings` has it.
    """
    losses_BHW, is_scored_BHW = pixel_cross_entropy(logits_BKHW, masks_BHW)
    if weighting == "none":
        return mean_over_scored(losses_BHW, is_scored_BHW)
    num_labels_B = labels_per_image(masks_BHW, logits_BKHW.shape[1])
    return mean_over_scored(losses_BHW, is_scored_BHW, oeem_weights(losses_BHW, is_scored_BHW, num_labels_B))


def blurred(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images, each blurred by a Gaussian with a sigma drawn from 0 to 1 pixel; the others as they are.

    Args:
        images_BCHW: float.
        generator: Where chance comes from, on the CPU.

    Source: the released code of arXiv 2110.08048 (Pillow's Gaussian blur there).
    """
    batch, channels = images_BCHW.shape[:2]
    sigma_B, draw_B = torch.rand(2, batch, generator=generator)
    sigma_B1 = torch.where(draw_B < 0.5, sigma_B, 0.0).clamp(min=_NO_BLUR_SIGMA)[:, None]
    offsets_N = torch.arange(-_BLUR_RADIUS_PX, _BLUR_RADIUS_PX + 1)
    kernels_BN = torch.exp(-0.5 * (offsets_N / sigma_B1) ** 2)
    kernels_BN = kernels_BN / kernels_BN.sum(dim=1, keepdim=True)
    kernels_GN = kernels_BN.repeat_interleave(channels, dim=0).to(images_BCHW)
    with torch.autocast(images_BCHW.device.type, enabled=False):  # half precision would round every image
        # every channel of every image is a group with a kernel of its own
        joined_1GHW = F.pad(images_BCHW, (_BLUR_RADIUS_PX,) * 4, mode="replicate").flatten(0, 1)[None]
        joined_1GHW = F.conv2d(joined_1GHW, kernels_GN[:, None, :, None], groups=batch * channels)
        joined_1GHW = F.conv2d(joined_1GHW, kernels_GN[:, None, None, :], groups=batch * channels)
    return joined_1GHW.view_as(images_BCHW)


def varied(
    images_BCHW: Tensor, masks_BLHW: Tensor, settings: SecondStageSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Patches and their masks, seen otherwise: moved alike, then the images' stain and sharpness changed.

    Args:
        images_BCHW: uint8 RGB.
        masks_BLHW: uint8.
        settings: Augmentation and blur.
        generator: Where chance comes from, on the CPU.

    Returns:
        Images in [0, 1] and masks.
    """
    move = Augment(AugmentSettings(settings.augment.flip, settings.augment.turn))
    moved = move(torch.cat([images_BCHW, masks_BLHW], dim=1), generator)
    num_channels = images_BCHW.shape[1]
    images_BCHW, masks_BLHW = moved[:, :num_channels].float() / 255, moved[:, num_channels:]
    if settings.augment.stain_sigma:
        stain = Augment(AugmentSettings(False, False, settings.augment.stain_sigma))
        images_BCHW = stain(images_BCHW, generator)
    return blurred(images_BCHW, generator) if settings.blur else images_BCHW, masks_BLHW


def learn_pixels(segmenter: nn.Module, settings: SecondStageSettings) -> Learn:
    """How a batch of patches and pseudo masks becomes a loss.

    Args:
        segmenter: What learns: logits (B, K, H, W) from images.
        settings: Of patches, their scale and their loss.
    """

    def learn(batch: tuple[Tensor, Tensor], generator: torch.Generator, _: int) -> Tensor:
        images_BCHW, masks_BLHW = varied(*batch, settings, generator)
        logits_BKHW = pixel_logits(segmenter, images_BCHW, settings.scale)
        losses = [layer_loss(logits_BKHW, masks_BHW, settings.pixel_weighting) for masks_BHW in masks_BLHW.unbind(1)]
        loss = weighted_scales(losses, settings.layer_weights)
        return loss / len(images_BCHW) if settings.batch_average else loss

    return learn
