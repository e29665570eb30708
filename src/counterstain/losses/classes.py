"""Losses of classes: of images by their labels, of pixels by masks, and how pixels weigh.

Shapes: B images, C classes of images, K classes of pixels, H x W cells of a map or pixels, N of them in a row.
Does not know: networks, datasets, optimisers.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from counterstain.errors import InputError
from counterstain.results import UNCOVERED


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


def pixel_cross_entropy(logits_BKHW: Tensor, labels_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """The cross-entropy of every pixel that has a label.

    Args:
        logits_BKHW: float.
        labels_BHW: Integers, 0 to K - 1, or `UNCOVERED` where there is no label.

    Returns:
        (B, H, W) float, 0 or more, exactly 0 where there is no label; and (B, H, W) bool, whether there is one.

    Raises:
        InputError: When the shapes don't match, or a label is no class.
    """
    batch, num_classes, height, width = logits_BKHW.shape
    is_scored_BHW = labels_BHW != UNCOVERED
    if labels_BHW.shape != (batch, height, width):
        raise InputError(
            f"Logits {tuple(logits_BKHW.shape)} and labels {tuple(labels_BHW.shape)} were given; (images, classes, rows, "
            "columns) and (images, rows, columns) were expected."
        )
    # on a GPU a label that is no class would take the whole process down
    if bool((is_scored_BHW & ((labels_BHW < 0) | (labels_BHW >= num_classes))).any()):
        given = sorted(set(labels_BHW.flatten().tolist()))
        raise InputError(f"Labels {given} were given; 0 to {num_classes - 1}, or {UNCOVERED} for none, were expected.")
    return F.cross_entropy(logits_BKHW, labels_BHW.long(), ignore_index=UNCOVERED, reduction="none"), is_scored_BHW


def labels_per_image(labels_BHW: Tensor, num_classes: int) -> Tensor:
    """How many classes a mask shows: (B,) integers; pixels without a label are not counted.

    Args:
        labels_BHW: Integers, 0 to num_classes - 1, or `UNCOVERED`.
        num_classes: K.
    """
    shown_BK = torch.stack([(labels_BHW == label).flatten(1).any(1) for label in range(num_classes)], dim=1)
    return shown_BK.sum(1)


def oeem_weights(losses_BHW: Tensor, is_scored_BHW: Tensor, num_labels_B: Tensor) -> Tensor:
    """Weights of pixels that trust those whose labels are easily learned: online easy example mining.

    A softmax of minus the loss over an image's scored pixels, divided by its mean; an image of a single label, where
    there is nothing to mix up, weighs all pixels the same. No gradient flows through the weights.

    Args:
        losses_BHW: float.
        is_scored_BHW: bool.
        num_labels_B: How many labels each image's mask has.

    Returns:
        (B, H, W) float32: of mean 1 over the scored pixels of every image, 0 on the others.

    Source: arXiv 2206.06665, with the released code's exception for single labels.
    """
    is_scored_BN = is_scored_BHW.flatten(1)
    # a softmax over none would be NaN: an image without a scored pixel keeps all, and loses all after it
    is_kept_BN = is_scored_BN | ~is_scored_BN.any(1, keepdim=True)
    minus_BN = (-losses_BHW.detach().float()).flatten(1).masked_fill(~is_kept_BN, -torch.inf)
    weights_BN = minus_BN.softmax(1) * is_scored_BN.sum(1, keepdim=True)
    weights_BN = torch.where(num_labels_B[:, None] > 1, weights_BN, 1.0) * is_scored_BN
    return weights_BN.view_as(is_scored_BHW)


def mean_over_scored(losses_BHW: Tensor, is_scored_BHW: Tensor, weights_BHW: Tensor | None = None) -> Tensor:
    """The mean loss of all scored pixels of a batch, each times its weight.

    Args:
        losses_BHW: float.
        is_scored_BHW: bool.
        weights_BHW: float; None weighs all the same.

    Returns:
        A scalar; 0 when no pixel is scored.
    """
    weighed_BHW = losses_BHW if weights_BHW is None else losses_BHW * weights_BHW
    return weighed_BHW.masked_fill(~is_scored_BHW, 0.0).sum() / is_scored_BHW.sum().clamp(min=1)
