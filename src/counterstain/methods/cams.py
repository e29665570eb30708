"""From class activation maps of several scales to class probabilities of pixels.

CAMs are brought to the image's size, made comparable by per-class min-max as SSHR's released inference does, summed over
scales with fixed weights, and restricted to the classes that the image is judged to hold.

Does not know: networks, training, tiles.

B batch, C classes, h w a CAM's rows and columns, H W the image's.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from counterstain.filled import filled

_MIN_MAX_EPSILON = 1e-8  # as released
_PRESENT = 1e-4  # what a present class keeps where every CAM is 0, so that an absent class never wins there


def upsample(cam_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    """A CAM at (H, W), bilinear with half-pixel geometry; (B, C, H, W)."""
    return F.interpolate(cam_BChw.float(), size=size, mode="bilinear", align_corners=False)


def min_max(cam_BCHW: Tensor) -> Tensor:
    """Every class of every image stretched to [0, 1]: (c - min) / (max - min + 1e-8).

    Source: SSHR, released inference (the paper leaves the normalisation open).
    """
    low = cam_BCHW.amin(dim=(2, 3), keepdim=True)
    high = cam_BCHW.amax(dim=(2, 3), keepdim=True)
    return (cam_BCHW - low) / (high - low + _MIN_MAX_EPSILON)


def present_classes(presence_BC: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Which classes an image holds: presence above the class's threshold; where none is, the likeliest class alone.

    Args:
        presence_BC: float32 in [0, 1].
        thresholds: One in [0, 1] for each class.

    Returns:
        (B, C) bool with at least one True in every row.

    Source: SSHR, released inference; the fallback was added there in June 2026.
    """
    present_BC = presence_BC > filled(thresholds, presence_BC)
    likeliest_BC = F.one_hot(presence_BC.argmax(dim=1), presence_BC.shape[1]).bool()
    return present_BC | (likeliest_BC & ~present_BC.any(dim=1, keepdim=True))


def sum_min_max(cams: Sequence[Tensor | None], weights: Sequence[float], size: tuple[int, int]) -> Tensor:
    """Rectified, min-max-normalised CAMs summed over scales.

    Args:
        cams: One (B, C, h, w) for each scale, unrectified; None where the weight is 0.
        weights: One for each scale; 0 leaves a scale out.
        size: (H, W) of the answer.

    Returns:
        (B, C, H, W) float32 in [0, sum of weights].

    Source: SSHR, Eq. 6 with the released code's ReLU, upsampling and per-class min-max.
    """
    used = [
        weight * min_max(upsample(F.relu(cam), size))
        for cam, weight in zip(cams, weights, strict=True)
        if weight and cam is not None
    ]
    assert len(used) == sum(weight > 0 for weight in weights), "a scale with a weight has a CAM"
    return reduce(torch.add, used)  # without a stack, which would copy all of them


def share(scores_BCHW: Tensor, present_BC: Tensor) -> Tensor:
    """Each present class's share of the scores of a pixel.

    Args:
        scores_BCHW: float, 0 or more.
        present_BC: bool, at least one True in every row.

    Returns:
        (B, C, H, W) float32 summing to 1 over classes. The largest is the published argmax; absent classes are exactly 0
        (published: multiplied by 0, so that class 0 won where all present ones were 0 too).

    Source: ours, so that the maps of overlapping tiles can be averaged.
    """
    kept_BCHW = (scores_BCHW + _PRESENT) * present_BC[:, :, None, None]
    return kept_BCHW / kept_BCHW.sum(dim=1, keepdim=True)


def softmax(scores_BCHW: Tensor, present_BC: Tensor) -> Tensor:
    """A softmax over the present classes.

    Args:
        scores_BCHW: float logits.
        present_BC: bool, at least one True in every row.

    Returns:
        (B, C, H, W) float32 summing to 1 over classes; absent classes are exactly 0.
    """
    return scores_BCHW.masked_fill(~present_BC[:, :, None, None], -torch.inf).softmax(dim=1)
