"""Losses: pure functions of logits and labels.

Shapes: B images, C classes, H x W cells of a map.
Does not know: networks, datasets, optimisers.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from counterstain.errors import InputError


def image_logits(maps_BCHW: Tensor) -> Tensor:
    """Logits of images: the mean of each class's map over its cells.

    Args:
        maps_BCHW: Raw class activation maps, float.

    Returns:
        (B, C) float.

    Source: arXiv 2606.20250, z = GAP(M).
    """
    return maps_BCHW.mean((2, 3))


def multilabel_soft_margin(logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
    """The mean over images and classes of -y log s(z) - (1 - y) log(1 - s(z)), s the logistic function.

    Args:
        logits_BC: z, float.
        labels_BC: y, 1 where the class is present in the image and 0 where it is not, float.

    Returns:
        A scalar, 0 or more.

    Raises:
        InputError: When the shapes differ: broadcasting would compare images with each other's labels.

    Source: arXiv 2606.20250, equation of the multi-label soft-margin loss; classes weigh the same.
    """
    if logits_BC.shape != labels_BC.shape:
        raise InputError(
            f"Logits {tuple(logits_BC.shape)} and labels {tuple(labels_BC.shape)} were given; both must be "
            "(images, classes)."
        )
    present_BC = labels_BC * F.logsigmoid(logits_BC)
    absent_BC = (1 - labels_BC) * F.logsigmoid(-logits_BC)
    return -(present_BC + absent_BC).mean()


def weighted_scales(losses: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of the losses at several depths, each times its weight.

    Args:
        losses: Scalars, one for each depth.
        weights: One for each depth; a sum of 1 makes it an average.

    Returns:
        A scalar.

    Raises:
        InputError: When there are not as many weights as losses, or none.

    Source: arXiv 2606.20250 writes a plain average; the released training weighs 0.10, 0.15, 0.25, 0.50.
    """
    if len(losses) != len(weights) or not losses:
        raise InputError(f"{len(losses)} losses and {len(weights)} weights were given; each loss needs one weight.")
    return torch.stack([weight * loss for loss, weight in zip(losses, weights, strict=True)]).sum()
