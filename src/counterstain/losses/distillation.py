"""Losses of a student that learns tumour maps from a teacher's, and from the image labels where they say all.

    fusion_distillation         every output of the student against the teacher's fused map
    block_distillation          every output against the teacher's output of the same depth
    agreement_cross_entropy     the fused map against hard pseudo labels, pixels weighed by how far the student agrees
    legacy_cross_entropy        what the released code computes in its place

A negative image has no tumour anywhere: its true mask is known, and its teacher is never looked at. All take probabilities,
0 to 1, and give float32 losses for each image; no gradient reaches the teacher.

Does not know: networks, datasets, when roles are switched, how losses weigh.

Shapes: B images, S outputs of a network (its sides, then the fused map), H W rows and columns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from counterstain.errors import InputError
from counterstain.losses.classes import labels_per_image, oeem_weights, pixel_cross_entropy
from counterstain.losses.mil import scored_pair, soft_dice
from counterstain.losses.shapes import check_maps, check_outputs, check_positive, check_scored
from counterstain.results import UNCOVERED

_EPSILON = 1e-7
_SUREST = 1e-4  # probabilities this near to 0 or 1 are taken as it: their logits stay within 9.2


def dice_semimetric(probabilities_BSHW: Tensor, targets_BSHW: Tensor, is_scored_B1HW: Tensor | None = None) -> Tensor:
    """Dice loss that soft targets can be learned by: sum |x - t| / (sum x + sum t + 1e-7).

    The soft Dice loss where targets are 0 or 1, and 0 at x = t, there alone, where they are not.

    Args:
        probabilities_BSHW: x, float, 0 to 1.
        targets_BSHW: t, float, 0 to 1; of S outputs, or of one that all outputs are compared with.
        is_scored_B1HW: bool; the other pixels take no part. None scores all.

    Returns:
        (B, S) float32, 0 to 1; 0 where no pixel is scored.

    Raises:
        InputError: When the shapes don't go together.

    Source: arXiv 2303.16296, the L1 form.
    """
    x_BSHW, t_BSHW = scored_pair(probabilities_BSHW, targets_BSHW, is_scored_B1HW)
    return (x_BSHW - t_BSHW).abs().sum((2, 3)) / (x_BSHW.sum((2, 3)) + t_BSHW.sum((2, 3)) + _EPSILON)


def squared_dice(probabilities_BSHW: Tensor, targets_BSHW: Tensor, is_scored_B1HW: Tensor | None = None) -> Tensor:
    """Dice loss with squares below, 0 at x = t: 1 - 2 sum xt / (sum x^2 + sum t^2).

    Computed as sum (x - t)^2 / (sum x^2 + sum t^2 + 1e-7): the same, exactly 0 at x = t, and 0 rather than 1 where both
    are empty.

    Args:
        probabilities_BSHW: x, float, 0 to 1.
        targets_BSHW: t, float, 0 to 1; of S outputs, or of one that all outputs are compared with.
        is_scored_B1HW: bool; the other pixels take no part. None scores all.

    Returns:
        (B, S) float32, 0 to 1; 0 where no pixel is scored.

    Raises:
        InputError: When the shapes don't go together.

    Source: V-Net, arXiv 1606.04797, section 3.
    """
    x_BSHW, t_BSHW = scored_pair(probabilities_BSHW, targets_BSHW, is_scored_B1HW)
    squares_BS = x_BSHW.square().sum((2, 3)) + t_BSHW.square().sum((2, 3))
    return (x_BSHW - t_BSHW).square().sum((2, 3)) / (squares_BS + _EPSILON)


Dice = Callable[[Tensor, Tensor, Tensor | None], Tensor]
DICES: dict[str, Dice] = {"soft": soft_dice, "dml": dice_semimetric, "squared": squared_dice}


def fusion_distillation(
    outputs_BSHW: Tensor,
    teacher_B1HW: Tensor,
    is_positive_B: Tensor,
    dice: Dice,
    is_scored_B1HW: Tensor | None = None,
) -> Tensor:
    """Each output of the student against the teacher's fused map; of negatives against the true mask of zeros.

    Args:
        outputs_BSHW: p, the student's sides and fused map, float, 0 to 1.
        teacher_B1HW: The teacher's fused map, float, 0 to 1; a negative image's may hold anything.
        is_positive_B: bool, whether the image shows tumour.
        dice: One of `DICES`; of a negative it compares 1 - p with ones.
        is_scored_B1HW: bool; the other pixels, such as glass, take no part. None scores all.

    Returns:
        (B, S) float32.

    Raises:
        InputError: When the shapes don't go together.

    Source: the fusion-KD paper, section 3.2; released with the soft Dice.
    """
    check_outputs(outputs_BSHW)
    num_images, _, height, width = outputs_BSHW.shape
    check_maps("A teacher's fused map", teacher_B1HW, (num_images, 1, height, width))
    return _distillation(outputs_BSHW, teacher_B1HW, is_positive_B, dice, is_scored_B1HW)


def block_distillation(
    outputs_BSHW: Tensor,
    teacher_BSHW: Tensor,
    is_positive_B: Tensor,
    dice: Dice,
    is_scored_B1HW: Tensor | None = None,
) -> Tensor:
    """Each output of the student against the teacher's of the same depth; of negatives against the true mask of zeros.

    Args:
        outputs_BSHW: p, the student's sides and fused map, float, 0 to 1.
        teacher_BSHW: The teacher's, in the same order, float, 0 to 1; a negative image's may hold anything.
        is_positive_B: bool, whether the image shows tumour.
        dice: As `fusion_distillation` has it.
        is_scored_B1HW: As `fusion_distillation` has it.

    Returns:
        (B, S) float32.

    Raises:
        InputError: When the shapes don't go together.

    Source: what the fusion-KD paper, section 3.2, sets its own against; the true mask of negatives is ours, so that the
    teacher's maps alone differ.
    """
    check_outputs(outputs_BSHW)
    check_maps("A teacher", teacher_BSHW, tuple(outputs_BSHW.shape))
    return _distillation(outputs_BSHW, teacher_BSHW, is_positive_B, dice, is_scored_B1HW)


def _distillation(
    outputs_BSHW: Tensor, teacher_BSHW: Tensor, is_positive_B: Tensor, dice: Dice, is_scored_B1HW: Tensor | None
) -> Tensor:
    check_positive(is_positive_B, len(outputs_BSHW))
    is_positive_B111 = is_positive_B[:, None, None, None]
    agreeing_BSHW = torch.where(is_positive_B111, outputs_BSHW, 1 - outputs_BSHW)
    return dice(agreeing_BSHW, torch.where(is_positive_B111, teacher_BSHW.detach(), 1.0), is_scored_B1HW)


def legacy_cross_entropy(fused_BHW: Tensor, teacher_BHW: Tensor) -> Tensor:
    """The released code's weighted cross-entropy, mistakes included; for reproducing it, not for use.

    Its target is the teacher's map cut off to integers: 0 unless the teacher is at exactly 1, so nearly everywhere. Its
    logits are the probabilities 1 - p and p, so the loss of a pixel is log(1 + exp(2 p - 1)), between 0.31 and 1.31. And
    as a target all 0 has a single class, no pixel weighs more than another: what is left is a pull towards background, of
    negatives and positives alike.

    Args:
        fused_BHW: p, the student's fused map, float, 0 to 1.
        teacher_BHW: The teacher's fused map, float, 0 to 1.

    Returns:
        (B,) float32.

    Raises:
        InputError: When the shapes differ, or the map cut off holds other integers than 0 and 1.

    Source: the fusion-KD paper's released code, which adds twice this to the Dice losses of an image.
    """
    _check_fused(fused_BHW, teacher_BHW)
    p_BHW, targets_BHW = fused_BHW.float(), teacher_BHW.detach().long()
    losses_BHW, is_scored_BHW = pixel_cross_entropy(torch.stack([1 - p_BHW, p_BHW], dim=1), targets_BHW)
    weights_BHW = oeem_weights(losses_BHW, is_scored_BHW, labels_per_image(targets_BHW, 2))
    return (weights_BHW * losses_BHW).mean((1, 2))


@dataclass(frozen=True)
class AgreementSettings:
    """How a teacher's map becomes pseudo labels, and how pixels weigh.

    Args:
        threshold: Where the teacher is at or above it, the pseudo label is tumour.
        ignore_band: Pixels of positives whose teacher is nearer than this to the threshold are not scored; 0 scores all.
        per_class: Whether weights have mean 1 within each pseudo class rather than over the image, so that the larger
            class, easy background, does not take them all.

    Raises:
        InputError: When the threshold is no share, or the band would leave a class without a pixel.
    """

    threshold: float = 0.5
    ignore_band: float = 0.1
    per_class: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(f"Setting 'threshold' was given as {self.threshold}; between 0 and 1 was expected.")
        if not 0 <= self.ignore_band < min(self.threshold, 1 - self.threshold):
            raise InputError(
                f"Setting 'ignore_band' was given as {self.ignore_band}; 0 or more was expected, and less than what is "
                f"on either side of the threshold {self.threshold}."
            )


def agreement_cross_entropy(
    fused_BHW: Tensor,
    teacher_BHW: Tensor,
    is_positive_B: Tensor,
    settings: AgreementSettings,
    is_scored_BHW: Tensor | None = None,
) -> Tensor:
    """The cross-entropy of the fused map and hard pseudo labels, pixels weighed by how far the student agrees.

    A pixel's weight is the probability that the student gives its pseudo label, divided by the mean of those over the
    image's scored pixels, or over those of its pseudo class. No gradient flows through it; images of a single pseudo class
    weigh all pixels the same. Negatives are background everywhere. Probabilities nearer than 1e-4 to 0 or 1 have no
    gradient here.

    Args:
        fused_BHW: The student's fused map, float, 0 to 1.
        teacher_BHW: The teacher's fused map, float, 0 to 1; a negative image's may hold anything.
        is_positive_B: bool, whether the image shows tumour.
        settings: Threshold, ignore band and weights.
        is_scored_BHW: bool; the other pixels, such as glass, take no part. None scores all but the ignore band.

    Returns:
        (B,) float32: the weighted mean over each image's scored pixels; 0 where there are none.

    Raises:
        InputError: When the shapes don't go together.

    Source: the fusion-KD paper's agreement weighting, which is OEEM, arXiv 2206.06665; the threshold mended after the
    released code's mistakes (`legacy_cross_entropy`); ignore band and weights per class are ours, against frozen errors
    and vanishing small tumours.
    """
    _check_fused(fused_BHW, teacher_BHW)
    check_positive(is_positive_B, len(fused_BHW))
    check_scored(is_scored_BHW, tuple(fused_BHW.shape))
    targets_BHW = _pseudo_labels(teacher_BHW.detach(), is_positive_B, settings)
    if is_scored_BHW is not None:
        targets_BHW = targets_BHW.masked_fill(~is_scored_BHW, UNCOVERED)
    labelled_BHW = targets_BHW != UNCOVERED
    logits_BHW = torch.logit(fused_BHW.float().clamp(_SUREST, 1 - _SUREST))
    losses_BHW = F.binary_cross_entropy_with_logits(logits_BHW, (targets_BHW == 1).float(), reduction="none")
    weights_BHW = _agreement_weights(losses_BHW, targets_BHW, settings.per_class)
    return (weights_BHW * losses_BHW).sum((1, 2)) / labelled_BHW.sum((1, 2)).clamp(min=1)


def _pseudo_labels(teacher_BHW: Tensor, is_positive_B: Tensor, settings: AgreementSettings) -> Tensor:
    """0 background, 1 tumour, `UNCOVERED` in the ignore band; (B, H, W) int64."""
    is_unsure_BHW = (teacher_BHW - settings.threshold).abs() < settings.ignore_band
    labels_BHW = (teacher_BHW >= settings.threshold).long().masked_fill(is_unsure_BHW, UNCOVERED)
    return labels_BHW.masked_fill(~is_positive_B[:, None, None], 0)


def _agreement_weights(losses_BHW: Tensor, targets_BHW: Tensor, per_class: bool) -> Tensor:
    """OEEM's weights; exp(-loss) is the pseudo label's probability, so its softmax is that probability's share."""
    num_labels_B = labels_per_image(targets_BHW, 2)
    if not per_class:
        return oeem_weights(losses_BHW, targets_BHW != UNCOVERED, num_labels_B)
    background_BHW, tumour_BHW = (oeem_weights(losses_BHW, targets_BHW == label, num_labels_B) for label in (0, 1))
    return background_BHW + tumour_BHW


def _check_fused(fused_BHW: Tensor, teacher_BHW: Tensor) -> None:
    if fused_BHW.ndim != 3:
        raise InputError(
            f"A fused map of shape {tuple(fused_BHW.shape)} was given; (images, rows, columns) was expected."
        )
    check_maps("A teacher's fused map", teacher_BHW, tuple(fused_BHW.shape))
