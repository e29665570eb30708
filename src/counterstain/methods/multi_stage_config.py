"""The settings of multi-stage baselines, and the published pipelines as presets.

Does not know: networks, data.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from counterstain.errors import InputError
from counterstain.methods.optimise import OptimiserSettings

_POSITIVE = (
    "scale",
    "learning_rate",
    "scratch_factor",
    "second_scale",
    "second_learning_rate",
    "second_scratch_factor",
)
_FROM_ZERO = ("attention_start_epoch", "momentum", "second_momentum")


@dataclass(frozen=True)
class MultiStageConfig:
    """What both stages are built from and learn with; the defaults are preset "mlps" but for its numbers of epochs.

    Args:
        backbone: Of the classifier, its name in BACKBONES.
        backbone_options: As its builder takes them.
        weights: A file of its pretrained weights; None starts at random.
        scale: Images are enlarged by this before the classifier.
        dropout: Share of deep channels dropped before its head, in training.
        head_gain: Factor on its head's first weights.
        attention: Whether progressive dropout attention hides, in training, where the classifier is surest.
        attention_start_epoch: The first epoch with attention, from 0.
        attention_decay: The share of a class's largest activation above which cells are hidden is this to the power of
            the epoch.
        attention_floor: Below which that share does not fall.
        stage_one_epochs: Of the classifier, published 20; None is the training settings' number.
        learning_rate: Of the classifier's backbone weights; it falls to 0 as (1 - step / steps) ** poly_power.
        scratch_factor: Its head learns this much faster.
        momentum: Of its SGD. The released optimiser passes the weight decay by mistake: 5e-4, practically none.
        taps: Of its backbone, 0 to 3, shallow to deep, rising: each gives a layer of pseudo masks. Tap 3 alone is the plain
            class activation map.
        white_background: Whether pseudo masks leave white glass unscored; None is as the dataset says.
        second_backbone: Of the segmenter, its name in BACKBONES.
        second_backbone_options: As its builder takes them.
        second_weights: A file of its pretrained weights; None starts at random.
        second_scale: Images are enlarged by this before the segmenter, and maps reduced again.
        second_channels: Of the segmenter's pyramid and decoder.
        second_low_channels: Of its projected shallow features.
        second_rates: Dilations of its pyramid at output stride 16.
        second_dropouts: Shares dropped after its pyramid and its two decoder convolutions, in training.
        second_epochs: Of the segmenter, published 30; None is the training settings' number.
        second_learning_rate: Of its backbone; poly_power as above.
        second_scratch_factor: Its other layers learn this much faster.
        second_momentum: Of its SGD.
        layer_weights: Of the layers' losses, in the order of taps.
        pixel_weighting: "none", or "oeem": pixels whose pseudo label is easily learned count more.
        batch_average: Whether the segmenter's mean loss is divided by the number of images once more, as released.
        blur: Whether half of its training images are blurred a little.
        optimizer: Of both stages: "sgd" as published, or "adamw".
        weight_decay: Of both stages; not on the classifier's biases.
        poly_power: Of both stages; see learning_rate.
        warmup_steps: Of both stages, over which the learning rate rises, ours; 0 is none.
        gradient_clip: Of both stages: the largest norm of a step's gradient, ours; 0 is none.
        presence_thresholds: Above which the classifier judges a class present, one for all or one for each; "val" chooses
            them on the validation split: by mean IoU where it has masks, else by the F1 of labels.
        flip: Random flips in training, both ways in both stages.
        turn: Random right-angle turns in training, ours.
        stain_sigma: Strength of random stain changes in training, ours; 0 is none.

    Raises:
        InputError: When a setting is outside its range, or taps and layer weights don't go together.
    """

    backbone: str = "wide_resnet38"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    scale: float = 1.0
    dropout: float = 0.5
    head_gain: float = 1.0
    attention: bool = True
    attention_start_epoch: int = 3
    attention_decay: float = 0.98
    attention_floor: float = 0.65
    stage_one_epochs: int | None = None
    learning_rate: float = 0.01
    scratch_factor: float = 10.0
    momentum: float = 5e-4
    taps: tuple[int, ...] = (1, 2, 3)
    white_background: bool | None = None
    second_backbone: str = "resnet101"
    second_backbone_options: dict[str, Any] = field(
        default_factory=lambda: {"output_stride": 16, "multi_grid": (1, 2, 4)}
    )
    second_weights: Path | None = None
    second_scale: float = 1.0
    second_channels: int = 256
    second_low_channels: int = 48
    second_rates: tuple[int, int, int] = (6, 12, 18)
    second_dropouts: tuple[float, float, float] = (0.5, 0.5, 0.1)
    second_epochs: int | None = None
    second_learning_rate: float = 0.01
    second_scratch_factor: float = 10.0
    second_momentum: float = 0.9
    layer_weights: tuple[float, ...] = (0.2, 0.2, 0.6)
    pixel_weighting: Literal["none", "oeem"] = "none"
    batch_average: bool = True
    blur: bool = True
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = 5e-4
    poly_power: float = 0.9
    warmup_steps: int = 0
    gradient_clip: float = 0.0
    presence_thresholds: float | tuple[float, ...] | Literal["val"] = 0.1
    flip: bool = True
    turn: bool = False
    stain_sigma: float = 0.0

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise InputError(f"Setting {name!r} was given as {getattr(self, name)}; it must be above 0.")
        for name in _FROM_ZERO:
            if getattr(self, name) < 0:
                raise InputError(f"Setting {name!r} was given as {getattr(self, name)}; it must be 0 or more.")
        for name in ("attention_decay", "attention_floor"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(
                    f"Setting {name!r} was given as {getattr(self, name)}; it must be above 0 and at most 1."
                )
        for name, shares in (("dropout", (self.dropout,)), ("second_dropouts", self.second_dropouts)):
            if not all(0 <= share < 1 for share in shares):
                raise InputError(
                    f"Setting {name!r} was given as {getattr(self, name)}; from 0 to below 1 was expected."
                )
        for name in ("stage_one_epochs", "second_epochs"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"Setting {name!r} was given as {getattr(self, name)}; it must be at least 1.")
        if not self.taps or sorted({*self.taps} & {0, 1, 2, 3}) != list(self.taps):
            raise InputError(f"Setting 'taps' was given as {self.taps}; numbers that rise from 0 to 3 were expected.")
        if len(self.layer_weights) != len(self.taps) or min(self.layer_weights) < 0 or not any(self.layer_weights):
            raise InputError(
                f"Setting 'layer_weights' was given as {self.layer_weights} for taps {self.taps}; one weight for each "
                "tap was expected, none below 0 and one above."
            )

    @property
    def first_optimiser(self) -> OptimiserSettings:
        """Of the classifier."""
        return self._optimiser(self.learning_rate, self.scratch_factor, self.momentum)

    @property
    def second_optimiser(self) -> OptimiserSettings:
        """Of the segmenter."""
        return self._optimiser(self.second_learning_rate, self.second_scratch_factor, self.second_momentum)

    def _optimiser(self, learning_rate: float, scratch_factor: float, momentum: float) -> OptimiserSettings:
        return OptimiserSettings(
            optimizer=self.optimizer,
            learning_rate=learning_rate,
            scratch_factor=scratch_factor,
            momentum=momentum,
            weight_decay=self.weight_decay,
            poly_power=self.poly_power,
            warmup_steps=self.warmup_steps,
            gradient_clip=self.gradient_clip,
        )


_PUBLISHED = MultiStageConfig(stage_one_epochs=20, second_epochs=30)
_DEEPEST_ALONE = replace(_PUBLISHED, attention=False, taps=(3,), layer_weights=(1.0,))
# Learns from scratch within minutes on two cores, as SSHR's "small" does; both stages as long as the training settings say.
_SMALL = MultiStageConfig(
    backbone="tiny",
    head_gain=0.1,
    learning_rate=1e-3,
    scratch_factor=1.0,
    second_backbone="tiny",
    second_backbone_options={},
    second_channels=64,
    second_low_channels=24,
    second_dropouts=(0.1, 0.1, 0.1),
    second_learning_rate=1e-3,
    second_scratch_factor=1.0,
    batch_average=False,
    optimizer="adamw",
    weight_decay=1e-2,
    warmup_steps=30,
    gradient_clip=5.0,
    presence_thresholds="val",
    turn=True,
    stain_sigma=0.05,
)

PRESETS = {
    "mlps": _PUBLISHED,
    "cam_retrain": _DEEPEST_ALONE,
    "oeem": replace(_DEEPEST_ALONE, pixel_weighting="oeem"),
    "mlps_small": _SMALL,
    "cam_retrain_small": replace(_SMALL, attention=False, taps=(3,), layer_weights=(1.0,)),
}
