"""The first stage: a classifier learns which classes a patch holds, with progressive dropout attention if asked for.

Does not know: pseudo masks, second stages.

B batch, K classes, H W rows and columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from counterstain.data.augment import Augment, AugmentSettings
from counterstain.losses import multilabel_soft_margin
from counterstain.methods.optimise import Learn, Validate, enlarged
from counterstain.models.classifier import CamClassifier


@dataclass(frozen=True)
class FirstStageSettings:
    """What the first stage learns with.

    Args:
        attention: Whether there is progressive dropout attention.
        attention_start_epoch: The first epoch with it, from 0.
        attention_decay: To the power of the epoch, it is the share of a class's largest activation above which cells are
            hidden.
        attention_floor: Below which that share does not fall.
        scale: Patches are enlarged by this before the classifier.
        augment: Of patches.
    """

    attention: bool
    attention_start_epoch: int
    attention_decay: float
    attention_floor: float
    scale: float
    augment: AugmentSettings


def attention_gamma(epoch: int, settings: FirstStageSettings) -> float | None:
    """The share of a class's largest activation above which the attention hides cells; None where there is no attention.

    Args:
        epoch: From 0.
        settings: Its first epoch, decay and floor.

    Source: arXiv 2110.08048, released code: 1 at first, 0.98 times as much after each epoch down to 0.65, off for three
    epochs.
    """
    if not settings.attention or epoch < settings.attention_start_epoch:
        return None
    return max(settings.attention_floor, settings.attention_decay**epoch)


def learn_classes(classifier: CamClassifier, settings: FirstStageSettings) -> Learn:
    """How a batch of patches and labels becomes a loss.

    Args:
        classifier: What learns.
        settings: Attention, scale and augmentation.
    """
    augment = Augment(settings.augment)

    def learn(batch: tuple[Tensor, Tensor], generator: torch.Generator, epoch: int) -> Tensor:
        images_BCHW, labels_BK = batch
        images_BCHW = augment(images_BCHW.float() / 255, generator)
        logits_BK = classifier(enlarged(images_BCHW, settings.scale), attention_gamma(epoch, settings))
        return multilabel_soft_margin(logits_BK.float(), labels_BK)

    return learn


def class_loss(classifier: CamClassifier, scale: float) -> Validate:
    """How a batch of validation patches and labels becomes a loss: nothing varied, no attention.

    Args:
        classifier: What is judged.
        scale: As `FirstStageSettings` has it.
    """

    def validate(batch: tuple[Tensor, Tensor]) -> Tensor:
        images_BCHW, labels_BK = batch
        return multilabel_soft_margin(classifier(enlarged(images_BCHW.float() / 255, scale)).float(), labels_BK)

    return validate
