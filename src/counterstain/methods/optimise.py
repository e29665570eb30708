"""What methods of the published line learn with: groups of parameters, a rate that falls as a power, a Lightning module.

A method says how a batch becomes a loss; the rest of a training step is the same for all of them and stands here.

Does not know: networks, losses, data, methods.

B batch, C channels, H W rows and columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from counterstain.models.groups import ParameterGroups

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

Learn = Callable[[Any, torch.Generator, int], Tensor]
"""A loss from a batch, a generator for what is random in it, and the epoch, from 0."""

Validate = Callable[[Any], Tensor]
"""A loss from a batch, nothing random in it."""


@dataclass(frozen=True)
class OptimiserSettings:
    """How a network's parameters are moved.

    Args:
        optimizer: "sgd", "adam" (weight decay through the gradient) or "adamw".
        learning_rate: Of backbone weights; it falls to 0 as (1 - step / steps) ** poly_power.
        scratch_factor: New layers learn this much faster.
        momentum: Of SGD.
        weight_decay: Not on biases.
        poly_power: See learning_rate.
        warmup_steps: Over which the learning rate rises; 0 is none.
        gradient_clip: The largest norm of a step's gradient; 0 is none.
        nesterov: Whether SGD looks ahead along its momentum.
    """

    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: float
    scratch_factor: float
    momentum: float
    weight_decay: float
    poly_power: float
    warmup_steps: int
    gradient_clip: float
    nesterov: bool = False


def rate_share(step: int, steps: int, settings: OptimiserSettings) -> float:
    """The share of the learning rate at a step: (1 - step / steps) ** power, less while it warms up."""
    share: float = max(0.0, 1 - step / steps) ** settings.poly_power
    return share * min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else share


def four_groups(groups: ParameterGroups, settings: OptimiserSettings) -> list[dict[str, Any]]:
    """The optimiser's groups: backbone and new, weights and biases; empty ones left out.

    Source: the released classifiers' optimiser: learning rates 1, 2, 10, 20 times, no decay on biases.
    """
    rate, new_rate, decay = (
        settings.learning_rate,
        settings.scratch_factor * settings.learning_rate,
        settings.weight_decay,
    )
    wanted: list[dict[str, Any]] = [
        {"params": list(groups.weights), "lr": rate, "weight_decay": decay},
        {"params": list(groups.biases), "lr": 2 * rate, "weight_decay": 0.0},
        {"params": list(groups.new_weights), "lr": new_rate, "weight_decay": decay},
        {"params": list(groups.new_biases), "lr": 2 * new_rate, "weight_decay": 0.0},
    ]
    return [group for group in wanted if group["params"]]


def two_groups(groups: ParameterGroups, settings: OptimiserSettings) -> list[dict[str, Any]]:
    """The optimiser's groups: backbone and new, biases like weights.

    Source: the released second stage's optimiser: learning rates 1 and 10 times, decay on everything.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    return [
        {"params": [*groups.weights, *groups.biases], "lr": rate, "weight_decay": decay},
        {
            "params": [*groups.new_weights, *groups.new_biases],
            "lr": settings.scratch_factor * rate,
            "weight_decay": decay,
        },
    ]


def enlarged(images_BCHW: Tensor, scale: float) -> Tensor:
    """Images of `scale` times the height and width, bilinear with half-pixel geometry."""
    if scale == 1:
        return images_BCHW
    height, width = (max(1, round(length * scale)) for length in images_BCHW.shape[2:])
    return F.interpolate(images_BCHW, size=(height, width), mode="bilinear", align_corners=False, antialias=scale < 1)


def training_module(
    network: nn.Module,
    groups: list[dict[str, Any]],
    optimiser: OptimiserSettings,
    seed: int,
    learn: Learn,
    validate: Validate | None = None,
) -> "LightningModule":
    """A network's training as Lightning wants it.

    Args:
        network: What learns; `learn` and `validate` call it.
        groups: Its parameters as the optimiser takes them.
        optimiser: How they are moved.
        seed: Of the run; each step draws from (seed, process, step).
        learn: A batch's loss.
        validate: Needed where a validation loss is asked for.
    """
    from lightning.pytorch import LightningModule

    class Training(LightningModule):
        """One step: a loss, from what is drawn for this step alone."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, _: int) -> Tensor:
            drawn = (seed + self.global_rank) * 1_000_003 + self.global_step
            return learn(batch, torch.Generator(device="cpu").manual_seed(drawn), self.current_epoch)

        def validation_step(self, batch: Any, _: int) -> None:
            assert validate is not None
            self.log("val_loss", validate(batch), batch_size=len(batch[0]))

        def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
            if optimiser.gradient_clip:
                self.clip_gradients(optimizer, optimiser.gradient_clip, "norm")

        def configure_optimizers(self) -> Any:
            rate = optimiser.learning_rate
            optimizer: torch.optim.Optimizer
            if optimiser.optimizer == "sgd":
                optimizer = torch.optim.SGD(groups, lr=rate, momentum=optimiser.momentum, nesterov=optimiser.nesterov)
            else:
                optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimiser.optimizer](groups, lr=rate)
            steps = int(self.trainer.estimated_stepping_batches)  # of one process, where several train
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, steps, optimiser))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Training()
