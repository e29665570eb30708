"""Losses: pure functions of outputs and labels.

Of classes (`classes`: logits in), of tumour masks learned from image labels (`mil`) and of one network learned from
another (`distillation`; both take probabilities and give a loss for each image).

Does not know: networks, datasets, optimisers.
"""

from counterstain.losses.classes import (
    image_logits,
    labels_per_image,
    mean_over_scored,
    multilabel_soft_margin,
    oeem_weights,
    pixel_cross_entropy,
    weighted_scales,
)
from counterstain.losses.distillation import (
    DICES,
    AgreementSettings,
    Dice,
    agreement_cross_entropy,
    block_distillation,
    dice_semimetric,
    fusion_distillation,
    legacy_cross_entropy,
    squared_dice,
)
from counterstain.losses.mil import (
    area_constraint,
    constant_mask_dice,
    fraction_needed,
    generalised_mean,
    generalised_mean_bce,
    ratio_needed,
    soft_dice,
)

__all__ = [
    "DICES",
    "AgreementSettings",
    "Dice",
    "agreement_cross_entropy",
    "area_constraint",
    "block_distillation",
    "constant_mask_dice",
    "dice_semimetric",
    "fraction_needed",
    "fusion_distillation",
    "generalised_mean",
    "generalised_mean_bce",
    "image_logits",
    "labels_per_image",
    "legacy_cross_entropy",
    "mean_over_scored",
    "multilabel_soft_margin",
    "oeem_weights",
    "pixel_cross_entropy",
    "ratio_needed",
    "soft_dice",
    "squared_dice",
    "weighted_scales",
]
