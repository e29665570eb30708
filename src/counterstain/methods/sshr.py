r"""SSHR: tissue maps from patch labels in one training stage (Nguyen et al., arXiv 2606.20250).

Reads as the paper does: the network (2.1) learns from a multilabel loss on each of its four CAMs (Eq. 5); at inference the
CAMs are fused and gated into a map (Eq. 6). What the paper leaves open follows the released code; `docs/methods/sshr.md`
has a table of every such choice. Without both branches of the rectification it is the paper's baseline, plain CAMs.

    images_BCHW in [0, 1] -> network -> four CAMs -> loss            (training)
                                              \\-> fused, gated map   (inference)

Does not know: slides, tiles, where masks are: it is given images with presence labels.

B batch, C classes, H W rows and columns.
"""

from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from counterstain.data.augment import Augment, AugmentSettings
from counterstain.data.weak import WeakPatches, WeakSettings
from counterstain.errors import InputError
from counterstain.losses import image_logits, multilabel_soft_margin, weighted_scales
from counterstain.methods import artefacts
from counterstain.methods.base import DenseMethod, InputSpec
from counterstain.methods.cams import present_classes, share, sum_min_max
from counterstain.methods.device import on_device
from counterstain.methods.gate import check_validation, choose_on_validation, first_thresholds, label_loader
from counterstain.methods.optimise import Learn, OptimiserSettings, Validate, enlarged, four_groups, training_module
from counterstain.models.backbones import build_backbone
from counterstain.models.sshr import Cams, SSHRNetwork, SSHRNetworkSettings
from counterstain.models.weights import load_state
from counterstain.results import Classes
from counterstain.training import TrainSettings, fit, train_loader

if TYPE_CHECKING:
    from counterstain.data import PatchDataset

Four = tuple[float, float, float, float]

_RECTIFIER = {"smooth": "smooth.weight", "semantic_scale": "semantic_scale", "context_scale": "context_scale"}


@dataclass(frozen=True)
class SSHRConfig:
    """What SSHR is built from and learns with; the defaults are the paper's, after the released code where it is silent.

    Args:
        backbone: Its name in BACKBONES.
        backbone_options: As its builder takes them: taps, output stride.
        weights: A file of pretrained backbone weights; None starts at random.
        scale: Images are enlarged by this before the network, and maps reduced again.
        semantic: Whether shallow features are weighted by what the deep ones say (Eq. 1, 2).
        context: Whether shallow features are smoothed over a large kernel (Eq. 3).
        kernels: Width of that kernel at each shallow tap, odd.
        reduction: Channels of the deep feature for each one of the hidden layer that weighs.
        padding: What the large kernel sees beyond the image: "zeros" as released, "replicate" ours.
        loss_weights: Of the four scales, shallow to deep (released code; the paper's text says averaged: all 0.25).
        optimizer: "sgd" as published, or "adamw".
        learning_rate: Of backbone weights; it falls to 0 as (1 - step / steps) ** poly_power.
        scratch_factor: New layers learn this much faster.
        smooth_factor: Likewise for the smoothing kernels; None is scratch_factor, as released.
        semantic_scale_factor: Likewise for the scales g_s of the semantic branch.
        context_scale_factor: Likewise for the scales g_c of the context branch.
        momentum: Of SGD. The released optimiser passes the weight decay by mistake: 5e-4, practically none.
        weight_decay: Not on biases.
        poly_power: See learning_rate.
        warmup_steps: Over which the learning rate rises, ours; 0 is none.
        gradient_clip: The largest norm of a step's gradient, ours; 0 is none.
        fusion: Weights of the four scales' CAMs, shallow to deep (released code; the paper has no numbers).
        presence_thresholds: Above which a class is judged present, one for all or one for each; "val" chooses them on the
            validation split and stores them with the model: by mean IoU where it has masks, else by the F1 of labels.
        flip: Random flips in training, as published.
        turn: Random right-angle turns in training, ours.
        stain_sigma: Strength of random stain changes in training, ours; 0 is none.
        head_gain: Factor on the heads' first weights; the paper's heads start at 1.

    Raises:
        InputError: When a scale or factor is not above 0, or no scale's CAM is used.
    """

    backbone: str = "wide_resnet38"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    scale: float = 1.0
    semantic: bool = True
    context: bool = True
    kernels: tuple[int, int, int] = (15, 15, 15)
    reduction: int = 8
    padding: Literal["zeros", "replicate"] = "zeros"
    loss_weights: Four = (0.10, 0.15, 0.25, 0.50)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    scratch_factor: float = 10.0
    smooth_factor: float | None = None
    semantic_scale_factor: float | None = None
    context_scale_factor: float | None = None
    momentum: float = 5e-4
    weight_decay: float = 5e-4
    poly_power: float = 0.9
    warmup_steps: int = 0
    gradient_clip: float = 0.0
    fusion: Four = (0.0, 0.6, 0.2, 0.2)
    presence_thresholds: float | tuple[float, ...] | Literal["val"] = "val"
    flip: bool = True
    turn: bool = False
    stain_sigma: float = 0.0
    head_gain: float = 1.0

    def __post_init__(self) -> None:
        for name in ("scale", "learning_rate", "scratch_factor", *(f"{part}_factor" for part in _RECTIFIER)):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"Setting {name!r} was given as {value}; it must be above 0.")
        if not any(self.fusion) or min(self.fusion) < 0:
            raise InputError(f"Setting 'fusion' was given as {self.fusion}; four weights, one above 0, were expected.")

    @property
    def optimiser(self) -> OptimiserSettings:
        """How the network's parameters are moved."""
        return OptimiserSettings(
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            scratch_factor=self.scratch_factor,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            poly_power=self.poly_power,
            warmup_steps=self.warmup_steps,
            gradient_clip=self.gradient_clip,
        )


PRESETS = {
    "paper": SSHRConfig(),
    # The momentum that the released optimiser meant, with the learning rate that such momentum wants, and a large kernel
    # that does not see an invented black rim.
    "corrected": SSHRConfig(momentum=0.9, learning_rate=1e-3, padding="replicate"),
    # Learns from scratch within minutes on two cores: the demo's, and a first try on one's own patches.
    "small": SSHRConfig(
        backbone="tiny",
        kernels=(7, 7, 7),
        padding="replicate",
        loss_weights=(0.25, 0.25, 0.25, 0.25),
        optimizer="adamw",
        learning_rate=1e-3,
        scratch_factor=1.0,
        smooth_factor=0.05,
        semantic_scale_factor=1.0,
        context_scale_factor=50.0,
        weight_decay=1e-2,
        warmup_steps=30,
        gradient_clip=5.0,
        fusion=(0.2, 0.0, 0.4, 0.4),
        turn=True,
        stain_sigma=0.05,
        head_gain=0.1,
    ),
}


class SSHR(DenseMethod):
    """Single-stage maps from patch labels.

    Args:
        config: See there.
        classes: In the order of label digits.
        input: The training images.
        thresholds: One for each class, above which it is judged present.

    Raises:
        UnknownNameError: When there is no such backbone.
        InputError: When the backbone can't be built with these options.
    """

    name: ClassVar[str] = "sshr"
    config_type: ClassVar[type[SSHRConfig]] = SSHRConfig
    presets: ClassVar[dict[str, SSHRConfig]] = PRESETS

    def __init__(
        self, config: SSHRConfig, classes: Classes, input: InputSpec, thresholds: tuple[float, ...] | None = None
    ) -> None:
        self.config, self.classes, self.input = config, classes, input
        self.thresholds = thresholds or first_thresholds(config.presence_thresholds, len(classes))
        backbone = build_backbone(config.backbone, **config.backbone_options)
        settings = SSHRNetworkSettings(
            semantic=config.semantic,
            context=config.context,
            kernels=config.kernels,
            reduction=config.reduction,
            padding=config.padding,
            head_gain=config.head_gain,
        )
        self.network: SSHRNetwork = SSHRNetwork(backbone, len(classes), settings)
        self.pretrained = {"weights_digest": None}

    @classmethod
    def create(cls, config: Any, data: "PatchDataset", tile_px: int, seed: int) -> Self:
        tile = InputSpec(tile_px, halo_px(config, tile_px), data.mpp, data.white_is_background)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            method = cls(config, data.classes, tile)
        if config.weights is not None:
            method.pretrained = artefacts.load_pretrained(method.network.backbone, config.weights, "weights")
        return method

    def fit(self, data: "PatchDataset", run: Path, settings: TrainSettings) -> None:
        records = data.split("train")
        check_validation(data, settings, self.config.presence_thresholds)
        recipe = artefacts.Recipe(self.name, self.config, settings, data, self.input)
        if artefacts.begin(run, recipe):
            artefacts.take_over(self, run)
            return
        patches = WeakPatches(records, WeakSettings(patch_px=self.input.tile_px))
        loader = train_loader(
            patches, batch_size=settings.batch_size, seed=settings.seed, num_workers=settings.num_workers
        )
        val_loader = label_loader(data, self.input.tile_px, settings.batch_size) if settings.patience else None
        module = training_module(
            self.network,
            parameter_groups(self.network, self.config),
            self.config.optimiser,
            settings.seed,
            learn_cams(self.network, self.config),
            cam_loss(self.network, self.config),
        )
        self.network.train()
        fit(module, loader, run, settings, val_loader)
        if self.config.presence_thresholds == "val":
            with on_device(self.network) as device:
                self.thresholds = choose_on_validation(data, self.input.tile_px, self.judge, self.presence, device)
        self.save(run, recipe.provenance())

    @torch.inference_mode()
    def presence(self, images_BCHW: Tensor) -> Tensor:
        """How likely each class is there, judged by the deep head.

        Args:
            images_BCHW: float32 RGB in [0, 1].

        Returns:
            (B, classes) float32 in [0, 1].
        """
        return self.cams(images_BCHW)[1]

    @torch.inference_mode()
    def predict_maps(self, images_BCHW: Tensor, present_BC: Tensor | None = None) -> Tensor:
        scores_BCHW, presence_BC = self.judge(images_BCHW)
        if present_BC is None:
            present_BC = present_classes(presence_BC, self.thresholds)
        return share(scores_BCHW, present_BC.to(scores_BCHW.device).expand(scores_BCHW.shape[0], -1))

    @torch.inference_mode()
    def judge(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Fused CAMs (B, C, H, W) and presence (B, C) of images, before the gate."""
        self.network.eval()
        used = [weight > 0 for weight in self.config.fusion[:3]]
        cams = self.network.some(enlarged(images_BCHW, self.config.scale), used)
        presence_BC = _presence(cams[-1])
        height, width = images_BCHW.shape[2:]
        return sum_min_max(cams, self.config.fusion, (height, width)), presence_BC

    @torch.inference_mode()
    def cams(self, images_BCHW: Tensor) -> tuple[Cams, Tensor]:
        """The four CAMs of images, shallow to deep, as the network gives them, and presence (B, C)."""
        self.network.eval()
        cams: Cams = self.network(enlarged(images_BCHW, self.config.scale))
        return cams, _presence(cams[-1])

    def finished_with(self, fusion: Four, thresholds: tuple[float, ...]) -> "SSHR":
        """A method with the same network, whose CAMs are fused and gated otherwise.

        Args:
            fusion: Weights of the four scales' CAMs, shallow to deep.
            thresholds: As chosen on a validation split, one for each class.
        """
        other = copy(self)
        other.config = replace(self.config, fusion=fusion, presence_thresholds="val")
        # which taps are used says how far the edge of a tile reaches
        other.input = replace(self.input, halo_px=halo_px(other.config, self.input.tile_px))
        other.thresholds = thresholds
        return other

    def save(self, run: Path, provenance: dict[str, Any] | None = None) -> None:
        artefacts.save_model(run, self.network, artefacts.describe(self, provenance))

    @classmethod
    def load(cls, description: dict[str, Any], state: dict[str, Tensor]) -> Self:
        from counterstain.settings import build

        method = cls(
            build(SSHRConfig, description["config"]),
            Classes.from_json(description["classes"]),
            artefacts.input_of(description),
            tuple(description["thresholds"]),
        )
        load_state(method.network, state, source="The run's model.safetensors")
        method.pretrained = artefacts.pretrained_of(description, ["weights"])
        return method


def _presence(deep_BCHW: Tensor) -> Tensor:
    return image_logits(deep_BCHW.float()).sigmoid()


def halo_px(config: SSHRConfig, tile_px: int) -> int:
    """How far the edge of a tile spoils its map: half of the context convolution at the taps that are used.

    At most a quarter of the tile, so that half of it remains; a multiple of 4, which maps of slides are reduced by.

    Source: ours; for the published kernel of 15 at stride 8 it is 7 cells of 8 px, 56 px.
    """
    if not config.context:
        return tile_px // 8 // 4 * 4
    with torch.device("meta"):
        strides = build_backbone(config.backbone, **config.backbone_options).strides
    used = zip(config.kernels, strides[:3], config.fusion[:3], strict=True)
    reach = max((kernel // 2 * stride for kernel, stride, weight in used if weight), default=0) / config.scale
    return min(round(reach), tile_px // 4) // 4 * 4


def parameter_groups(network: SSHRNetwork, config: SSHRConfig) -> list[dict[str, Any]]:
    """The optimiser's groups: backbone and new, weights and biases; then parts of the rectifier with a rate of their own.

    Source: the released optimiser (see `four_groups`). A rate of its own for parts of the rectifier is ours; such parts do
    not decay, since decay pulls scales that learn fast back to 0.
    """
    groups, rate = network.parameter_groups(), config.learning_rate
    factors = {part: getattr(config, f"{part}_factor") for part in _RECTIFIER}
    apart: dict[str, list[torch.nn.Parameter]] = {
        part: [value for name, value in network.named_parameters() if name.endswith(_RECTIFIER[part])]
        for part, factor in factors.items()
        if factor is not None
    }
    taken = {id(parameter) for parameters in apart.values() for parameter in parameters}
    kept = tuple(parameter for parameter in groups.new_weights if id(parameter) not in taken)
    own = [
        {"params": parameters, "lr": factors[part] * rate, "weight_decay": 0.0}
        for part, parameters in apart.items()
        if parameters
    ]
    return [*four_groups(replace(groups, new_weights=kept), config.optimiser), *own]


def learned_loss(cams: Cams, labels_BC: Tensor, config: SSHRConfig) -> Tensor:
    """The weighted sum of the four CAMs' multilabel losses (Eq. 5)."""
    losses = [multilabel_soft_margin(image_logits(cam.float()), labels_BC) for cam in cams]
    return weighted_scales(losses, config.loss_weights)


def learn_cams(network: SSHRNetwork, config: SSHRConfig) -> Learn:
    """How a batch of patches and labels becomes a loss: augment, four CAMs, four losses."""
    augment = Augment(AugmentSettings(flip=config.flip, turn=config.turn, stain_sigma=config.stain_sigma))

    def learn(batch: tuple[Tensor, Tensor], generator: torch.Generator, _: int) -> Tensor:
        images_BCHW, labels_BC = batch
        images_BCHW = augment(images_BCHW.float() / 255, generator)
        cams = network(enlarged(images_BCHW, config.scale))
        return learned_loss(cams, labels_BC, config)

    return learn


def cam_loss(network: SSHRNetwork, config: SSHRConfig) -> Validate:
    """How a batch of validation patches and labels becomes a loss."""

    def validate(batch: tuple[Tensor, Tensor]) -> Tensor:
        images_BCHW, labels_BC = batch
        return learned_loss(network(enlarged(images_BCHW.float() / 255, config.scale)), labels_BC, config)

    return validate
