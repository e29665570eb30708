"""Losses of tumour maps learned from image labels: an image is a bag of pixels, positive when some of them are tumour.

    constant_mask_dice      the image's label is copied to every pixel and each output is compared with that mask by Dice
    generalised_mean_bce    each output is pooled to one probability and compared with the label
    area_constraint         how far a positive image's mean probability is from an expected tumour share

All take probabilities, 0 to 1, and give float32 losses for each image and output; sums and weights are the caller's.

Does not know: networks, datasets, teachers, how outputs weigh.

Shapes: B images, S outputs of a network (its sides, then the fused map), H W rows and columns.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from counterstain.errors import InputError
from counterstain.losses.shapes import check_maps, check_outputs, check_positive, check_scored

# float32 tells 1 - 1e-7 from 1; a probability nearer to 0 or 1 than this gets no gradient from a logarithm or a root
_EPSILON = 1e-7


def soft_dice(probabilities_BSHW: Tensor, targets_BSHW: Tensor, is_scored_B1HW: Tensor | None = None) -> Tensor:
    """One minus the Dice overlap of probabilities x and targets t: 1 - (2 sum xt + 1) / (sum x + sum t + 1 + 1e-7).

    Meant for hard targets. Against a soft target its least value is not at x = t but at the hard mask of the pixels with
    t > D*/2, D* below 1 being the largest overlap that can be reached: a threshold below a half, so the mask dilates.

    Args:
        probabilities_BSHW: x, float, 0 to 1.
        targets_BSHW: t, float, 0 to 1; of S outputs, or of one that all outputs are compared with.
        is_scored_B1HW: bool; the other pixels, such as glass, take no part. None scores all.

    Returns:
        (B, S) float32, 0 to 1; near 0 where no pixel is scored.

    Raises:
        InputError: When the shapes don't go together.

    Source: the fusion-KD paper's Dice, smoothing 1 and eps 1e-7 as in the released code.
    """
    x_BSHW, t_BSHW = scored_pair(probabilities_BSHW, targets_BSHW, is_scored_B1HW)
    overlap_BS = (x_BSHW * t_BSHW).sum((2, 3))
    return 1 - (2 * overlap_BS + 1) / (x_BSHW.sum((2, 3)) + t_BSHW.sum((2, 3)) + 1 + _EPSILON)


def scored_pair(
    probabilities_BSHW: Tensor, targets_BSHW: Tensor, is_scored_B1HW: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Probabilities and targets as float32, 0 where not scored; arguments and errors as `soft_dice` has them."""
    check_outputs(probabilities_BSHW)
    num_images, num_outputs, height, width = probabilities_BSHW.shape
    is_shared = targets_BSHW.ndim == 4 and targets_BSHW.shape[1] == 1
    check_maps("A target", targets_BSHW, (num_images, 1 if is_shared else num_outputs, height, width))
    check_scored(is_scored_B1HW, (num_images, 1, height, width))
    x_BSHW, t_BSHW = probabilities_BSHW.float(), targets_BSHW.float()
    if is_scored_B1HW is None:
        return x_BSHW, t_BSHW
    return x_BSHW * is_scored_B1HW, t_BSHW * is_scored_B1HW


def constant_mask_dice(outputs_BSHW: Tensor, is_positive_B: Tensor, is_scored_B1HW: Tensor | None = None) -> Tensor:
    """The soft Dice loss of each output against the image's label on every pixel.

    A positive image's outputs p are compared with a mask of ones, a negative's 1 - p with a mask of ones. Normal tissue in
    positive images is thereby labelled tumour; only negative images pull it down, see `ratio_needed`.

    Args:
        outputs_BSHW: p, float, 0 to 1.
        is_positive_B: bool, whether the image shows tumour.
        is_scored_B1HW: As `soft_dice` has it.

    Returns:
        (B, S) float32, 0 to 1.

    Raises:
        InputError: When the shapes don't go together.

    Source: the fusion-KD paper's teacher, as released; other networks of its family pool instead (`generalised_mean`).
    """
    check_outputs(outputs_BSHW)
    check_positive(is_positive_B, len(outputs_BSHW))
    agreeing_BSHW = torch.where(is_positive_B[:, None, None, None], outputs_BSHW, 1 - outputs_BSHW)
    return soft_dice(agreeing_BSHW, torch.ones_like(agreeing_BSHW[:, :1]), is_scored_B1HW)


def generalised_mean(probabilities_BSHW: Tensor, power: float, is_scored_B1HW: Tensor | None = None) -> Tensor:
    """Each map's probability as an image: (mean p^r)^(1/r) over its pixels.

    The larger r, the nearer to the maximum: with r = 4 and sure pixels, a tumour on 1 % of an image gives 0.32, on 5 %
    0.47, on 10 % 0.56, on 40 % 0.80.

    Args:
        probabilities_BSHW: p, float, 0 to 1.
        power: r, at least 1.
        is_scored_B1HW: bool; the mean is over these pixels. None scores all.

    Returns:
        (B, S) float32, 0 to 1; about 0 where no pixel is scored.

    Raises:
        InputError: When the shapes don't go together, or the power is below 1.

    Source: the pooling of DWS-MIL, r = 4 there. A published re-implementation leaves the inner power out; this does not.
    """
    check_outputs(probabilities_BSHW)
    num_images, _, height, width = probabilities_BSHW.shape
    check_scored(is_scored_B1HW, (num_images, 1, height, width))
    if power < 1:
        raise InputError(f"A power of {power} was given; it must be at least 1, a plain mean.")
    if is_scored_B1HW is None:
        is_scored_B1HW = torch.ones_like(probabilities_BSHW[:, :1], dtype=torch.bool)
    p_BSHW = probabilities_BSHW.float().masked_fill(~is_scored_B1HW, 0).clamp(min=_EPSILON)
    # relative to the largest, no power underflows: the root of a mean that is 0 would have an infinite gradient
    largest_BS11 = p_BSHW.detach().amax((2, 3), keepdim=True)
    powers_BS = ((p_BSHW / largest_BS11) ** power * is_scored_B1HW).sum((2, 3))
    num_scored_B1 = is_scored_B1HW.sum((2, 3))
    means_BS = torch.where(num_scored_B1 > 0, powers_BS / num_scored_B1.clamp(min=1), 1.0)
    return largest_BS11[:, :, 0, 0] * means_BS ** (1 / power)


def generalised_mean_bce(
    outputs_BSHW: Tensor, is_positive_B: Tensor, power: float = 4.0, is_scored_B1HW: Tensor | None = None
) -> Tensor:
    """The binary cross-entropy of each output's generalised mean and the image's label.

    Args:
        outputs_BSHW: float, 0 to 1.
        is_positive_B: bool, whether the image shows tumour.
        power: As `generalised_mean` has it.
        is_scored_B1HW: As `generalised_mean` has it.

    Returns:
        (B, S) float32, 0 or more and at most 16.2; exactly 0 where no pixel is scored.

    Raises:
        InputError: As `generalised_mean`, or when the labels are not one bool for each image.

    Source: DWS-MIL, equal weights for sides and fused map; the fusion-KD paper's code has r = 4 and never uses it.
    """
    check_outputs(outputs_BSHW)
    check_positive(is_positive_B, len(outputs_BSHW))
    pooled_BS = generalised_mean(outputs_BSHW, power, is_scored_B1HW).clamp(_EPSILON, 1 - _EPSILON)
    # torch's own refuses to run under autocast on a GPU
    losses_BS = -torch.where(is_positive_B[:, None], pooled_BS.log(), torch.log1p(-pooled_BS))
    if is_scored_B1HW is None:
        return losses_BS
    return losses_BS.masked_fill(~is_scored_B1HW.any(3).any(2), 0)


def area_constraint(
    outputs_BSHW: Tensor,
    is_positive_B: Tensor,
    fraction: float,
    weights: Sequence[float] = (2.5, 5.0, 10.0, 10.0),
    is_scored_B1HW: Tensor | None = None,
) -> Tensor:
    """How far a positive image's tumour share is from the one expected: w (mean p - a)^2; 0 for negatives.

    Args:
        outputs_BSHW: p, float, 0 to 1.
        is_positive_B: bool, whether the image shows tumour.
        fraction: a, the share of a positive image's pixels that is tumour, 0 to 1.
        weights: w, one for each output.
        is_scored_B1HW: bool; the mean, and so the share, is of these pixels. None scores all.

    Returns:
        (B, S) float32, 0 or more; 0 where no pixel is scored.

    Raises:
        InputError: When the shapes don't go together, weights are not one for each output, or the fraction is no share.

    Source: CDWS-MIL and its weights, 2.5, 5 and 10 for the sides and 10 for the fused map; an annotated share there, one
    for all images here.
    """
    check_outputs(outputs_BSHW)
    check_positive(is_positive_B, len(outputs_BSHW))
    if len(weights) != outputs_BSHW.shape[1]:
        raise InputError(
            f"{len(weights)} weights and {outputs_BSHW.shape[1]} outputs were given; each output needs one."
        )
    if not 0 <= fraction <= 1:
        raise InputError(f"A tumour fraction of {fraction} was given; 0 to 1 was expected.")
    num_images, _, height, width = outputs_BSHW.shape
    check_scored(is_scored_B1HW, (num_images, 1, height, width))
    counts_B1 = is_positive_B[:, None]
    if is_scored_B1HW is None:
        means_BS = outputs_BSHW.float().mean((2, 3))
    else:
        num_scored_B1 = is_scored_B1HW.sum((2, 3))
        means_BS = (outputs_BSHW.float() * is_scored_B1HW).sum((2, 3)) / num_scored_B1.clamp(min=1)
        counts_B1 = counts_B1 & (num_scored_B1 > 0)
    off_BS = means_BS - fraction
    return counts_B1 * off_BS**2 * off_BS.new_tensor(list(weights))


def ratio_needed(tumour_fraction: float) -> float:
    """How many negatives for each positive make `constant_mask_dice` push normal tissue in positives to 0.

    Two kinds of pixels: tumour, on the share a of every positive image, and normal, alike in positives and negatives, so
    that they get the same probability q wherever they are. With tumour at 1, a positive image of mean m = a + (1 - a) q
    has a loss of (1 - m) / (1 + m), which pulls q up, a negative one of q / (2 - q), which pulls it down. Both are convex;
    with n negatives for each positive their slopes at q = 0 are -2 (1 - a) / (1 + a)^2 + n / 2, so q = 0 is best when n is
    at least 4 (1 - a) / (1 + a)^2: 2.98 for a = 0.1, 1.22 for 0.4. With fewer, normal tissue is called part tumour.

    Args:
        tumour_fraction: a, 0 to 1.

    Returns:
        n, 0 to 4: negatives for each positive.

    Raises:
        InputError: When the fraction is no share.

    Source: ours, from the Dice against constant masks of the fusion-KD paper; the smoothing is left out.
    """
    if not 0 <= tumour_fraction <= 1:
        raise InputError(f"A tumour fraction of {tumour_fraction} was given; 0 to 1 was expected.")
    return 4 * (1 - tumour_fraction) / (1 + tumour_fraction) ** 2


def fraction_needed(negatives_per_positive: float) -> float:
    """The smallest tumour share at which normal tissue in positives is pushed to 0: the inverse of `ratio_needed`.

    Of n a^2 + (2 n + 4) a + n - 4 = 0 the root that is a share: (4 - n) / (n + 2 + 2 sqrt(2 n + 1)). With four negatives
    for each positive, or more, every share will do.

    Args:
        negatives_per_positive: n, 0 or more.

    Returns:
        a, 0 to 1.

    Raises:
        InputError: When the ratio is below 0.

    Source: ours, as `ratio_needed`.
    """
    ratio = negatives_per_positive
    if not ratio >= 0:
        raise InputError(f"A ratio of {ratio} negatives for each positive was given; it must be 0 or more.")
    return max(0.0, (4 - ratio) / (ratio + 2 + 2 * math.sqrt(2 * ratio + 1))) if math.isfinite(ratio) else 0.0
