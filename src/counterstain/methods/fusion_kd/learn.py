"""How a teacher learns from labels and a student from its teacher's maps: a batch becomes a loss.

No mask of truth comes near: a batch holds images, labels and, for students, the teacher's maps. Negatives need none: that
all of their pixels are background is the one thing that is known for sure.

Shapes: B images, S outputs (three sides, then the fused map), H W rows and columns.
Does not know: rounds, selectors, where maps are kept.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from counterstain.data.augment import AugmentSettings, augment_alike
from counterstain.errors import StaleResultError
from counterstain.losses import (
    DICES,
    agreement_cross_entropy,
    area_constraint,
    block_distillation,
    constant_mask_dice,
    fusion_distillation,
    generalised_mean_bce,
    legacy_cross_entropy,
)
from counterstain.methods.fusion_kd.cache import enlarged
from counterstain.methods.fusion_kd.config import FusionKDConfig
from counterstain.methods.fusion_kd.finish import is_tissue
from counterstain.methods.optimise import Learn, Validate
from counterstain.models.weights import write_state

if TYPE_CHECKING:
    from lightning.pytorch import Callback


def learn_labels(network: nn.Module, config: FusionKDConfig, index: int, ignores_glass: bool) -> Learn:
    """How a batch of images and labels becomes a teacher's loss.

    Args:
        network: What learns.
        config: Of the method.
        index: Of the tumour class in labels.
        ignores_glass: Whether glass is left out.
    """
    settings = config.augment if config.augment_teacher else AugmentSettings(False, False, 0.0)

    def learn(batch: tuple[Tensor, Tensor], generator: torch.Generator, _: int) -> Tensor:
        images_BCHW, labels_BC = batch
        images_BCHW = images_BCHW.float() / 255
        images_BCHW, scored_B1HW = augment_alike(images_BCHW, _scored(images_BCHW, ignores_glass), settings, generator)
        is_positive_B = labels_BC[:, index] > 0.5
        return _batch(_mil(network(images_BCHW), is_positive_B, scored_B1HW > 0.5, config), config)

    return learn


def label_loss(network: nn.Module, config: FusionKDConfig, index: int, ignores_glass: bool) -> Validate:
    """How a batch of held-out images and labels becomes a teacher's validation loss: a mean, of images as they are."""

    def validate(batch: tuple[Tensor, Tensor]) -> Tensor:
        images_BCHW, labels_BC = batch
        images_BCHW = images_BCHW.float() / 255
        is_scored_B1HW = _scored(images_BCHW, ignores_glass) > 0.5
        return _mil(network(images_BCHW), labels_BC[:, index] > 0.5, is_scored_B1HW, config).mean()

    return validate


def _mil(outputs_BSHW: Tensor, is_positive_B: Tensor, is_scored_B1HW: Tensor | None, config: FusionKDConfig) -> Tensor:
    """(B,)."""
    if config.mil_loss == "constant_dice":
        losses_BS = constant_mask_dice(outputs_BSHW, is_positive_B, is_scored_B1HW)
    else:
        losses_BS = generalised_mean_bce(outputs_BSHW, is_positive_B, config.gm_power, is_scored_B1HW)
    if config.area_weight and config.area_fraction is not None:
        areas_BS = area_constraint(outputs_BSHW, is_positive_B, config.area_fraction, is_scored_B1HW=is_scored_B1HW)
        losses_BS = losses_BS + config.area_weight * areas_BS
    return losses_BS.sum(1)


def learn_maps(network: nn.Module, config: FusionKDConfig, index: int, ignores_glass: bool) -> Learn:
    """How a batch of images, labels and teacher's maps becomes a student's loss.

    Args:
        network: What learns.
        config: Of the method.
        index: Of the tumour class in labels.
        ignores_glass: Whether glass is left out.

    Source: the released code: a Dice for each output, and a cross-entropy on the fused map alone.
    """
    distil = fusion_distillation if config.distill == "fusion" else block_distillation

    def learn(batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator, _: int) -> Tensor:
        images_BCHW, labels_BC, kept_BShw = batch
        images_BCHW = images_BCHW.float() / 255
        maps_BSHW = enlarged(kept_BShw.float() / 255, (images_BCHW.shape[2], images_BCHW.shape[3]))
        joined_BSHW = torch.cat([maps_BSHW, _scored(images_BCHW, ignores_glass)], dim=1)
        images_BCHW, joined_BSHW = augment_alike(images_BCHW, joined_BSHW, config.augment, generator)
        is_positive_B = labels_BC[:, index] > 0.5
        outputs_BSHW = network(images_BCHW)
        teacher_BSHW, is_scored_B1HW = joined_BSHW[:, :-1], joined_BSHW[:, -1:] > 0.5
        losses_BS = distil(outputs_BSHW, teacher_BSHW, is_positive_B, DICES[config.dice], is_scored_B1HW)
        loss_B = losses_BS.sum(1)
        if config.wce != "off":
            fused_BHW, target_BHW = outputs_BSHW[:, -1], teacher_BSHW[:, -1]
            loss_B = loss_B + _on_fused(fused_BHW, target_BHW, is_positive_B, is_scored_B1HW[:, 0], config)
        if config.anchor_weight:
            fused_B1HW = outputs_BSHW[:, -1:]
            anchor_BS = generalised_mean_bce(fused_B1HW, is_positive_B, config.gm_power, is_scored_B1HW)
            loss_B = loss_B + config.anchor_weight * anchor_BS.sum(1)
        return _batch(loss_B, config)

    return learn


def _on_fused(
    fused_BHW: Tensor, teacher_BHW: Tensor, is_positive_B: Tensor, is_scored_BHW: Tensor, config: FusionKDConfig
) -> Tensor:
    """The weighted cross-entropy, (B,)."""
    if config.wce == "agreement":
        losses_B = agreement_cross_entropy(fused_BHW, teacher_BHW, is_positive_B, config.agreement, is_scored_BHW)
    else:  # as released it knows no pixel that is not scored: background to both costs least
        losses_B = legacy_cross_entropy(fused_BHW * is_scored_BHW, teacher_BHW * is_scored_BHW)
    return config.wce_weight * losses_B


def _scored(images_BCHW: Tensor, ignores_glass: bool) -> Tensor:
    """(B, 1, H, W) float of 0 and 1, moved with its image."""
    return is_tissue(images_BCHW).float() if ignores_glass else torch.ones_like(images_BCHW[:, :1])


def _batch(loss_B: Tensor, config: FusionKDConfig) -> Tensor:
    return loss_B.sum() if config.batch_sum else loss_B.mean()


def candidate_epochs(epochs: int, number: int) -> tuple[int, ...]:
    """Evenly spaced epochs, from 1, the last among them."""
    return tuple(sorted({max(1, round(epochs * (index + 1) / number)) for index in range(number)}))


def keeper(network: nn.Module, files: Mapping[int, Path], ema: float, moments: Path | None) -> "Callback":
    """Keeps a student's candidates while it trains, and what belongs to that.

    Args:
        network: What trains.
        files: Where the weights go that stand after each of these epochs, from 1.
        ema: Of the weights; the average is what is kept. 0 keeps the weights themselves.
        moments: A checkpoint whose optimiser's moments the training begins with.
    """
    from lightning.pytorch import Callback, LightningModule, Trainer
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    class Keeper(Callback):
        """Weights after some epochs, averaged over steps if asked for."""

        def __init__(self) -> None:
            self._average = (
                AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True)  # type: ignore[no-untyped-call]
                if ema
                else None
            )

        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if self._average is not None:
                self._average.to(pl_module.device)
            if moments is not None and trainer.global_step == 0:
                trainer.optimizers[0].load_state_dict(_moments(moments, trainer))

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if self._average is not None:
                self._average.update_parameters(network)

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            path = files.get(trainer.current_epoch + 1)
            if path is not None and trainer.is_global_zero:
                write_state(path, (network if self._average is None else self._average.module).state_dict())

        def state_dict(self) -> dict[str, Any]:
            return {} if self._average is None else {"average": self._average.state_dict()}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            if self._average is not None:
                self._average.load_state_dict(state_dict["average"])

    return Keeper()


def _moments(path: Path, trainer: Any) -> dict[str, Any]:
    """An optimiser's state of another training, with this one's rates."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state: dict[str, Any] = checkpoint["optimizer_states"][0]
    own = trainer.optimizers[0].state_dict()["param_groups"]
    if len(own) != len(state["param_groups"]):
        raise StaleResultError(f"{path} holds moments of another network. Train afresh in another folder.")
    return {"state": state["state"], "param_groups": own}
