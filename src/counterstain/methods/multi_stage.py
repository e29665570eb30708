r"""Multi-stage baselines: a classifier's activation maps become pseudo masks, from which a second network learns pixels.

Preset "mlps" is Han et al.'s pipeline (arXiv 2110.08048): progressive dropout attention, pseudo masks of three layers,
DeepLabV3+. "cam_retrain" is the simplest such pipeline, "oeem" adds a noise-robust loss (arXiv 2206.06665).

    patches and labels -> classifier -> Grad-CAM -> pseudo masks -> segmenter       (training, three stages)
    image -> segmenter's softmax over the classes that the classifier sees in it    (inference)

    run/stage1, run/stage2      checkpoints, losses and minutes of each training, and its weights once it has ended
    run/pseudo_masks            as `pseudo_masks` writes them

A killed run goes on in the stage that it was killed in. `docs/methods/multi_stage.md` compares it with what was published.

Does not know: slides, tiles, true masks of what it learns from.

B batch, K classes, H W rows and columns.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from counterstain import log
from counterstain.data.augment import AugmentSettings
from counterstain.data.weak import WeakPatches, WeakSettings
from counterstain.errors import InputError
from counterstain.methods import artefacts
from counterstain.methods.base import DenseMethod, InputSpec
from counterstain.methods.cams import present_classes, softmax
from counterstain.methods.device import on_device
from counterstain.methods.first_stage import FirstStageSettings, class_loss, learn_classes
from counterstain.methods.gate import check_validation, choose_on_validation, first_thresholds, label_loader
from counterstain.methods.multi_stage_config import PRESETS, MultiStageConfig
from counterstain.methods.optimise import enlarged, four_groups, training_module, two_groups
from counterstain.methods.pseudo_masks import (
    PseudoMasks,
    PseudoMaskSettings,
    begin_from,
    source_of,
    write_pseudo_masks,
)
from counterstain.methods.second_stage import PseudoLabelledPatches, SecondStageSettings, learn_pixels, pixel_logits
from counterstain.methods.stages import join_stages, learn_once
from counterstain.models.backbones import Backbone, build_backbone
from counterstain.models.classifier import CamClassifier
from counterstain.models.deeplab import DeepLabSettings, DeepLabV3Plus
from counterstain.models.weights import load_state
from counterstain.results import Classes
from counterstain.training import TrainSettings, fit, train_loader

if TYPE_CHECKING:
    from torch.utils.data import DataLoader, Dataset

    from counterstain.data import PatchDataset


_WEIGHTS = ("weights", "second_weights")
"""The settings that name pretrained weights, by stage."""


class TwoStages(nn.Module):
    """A classifier and a segmenter, side by side.

    Args:
        classifier: Judges presence.
        segmenter: Gives logits of pixels.
    """

    def __init__(self, classifier: CamClassifier, segmenter: DeepLabV3Plus) -> None:
        super().__init__()
        self.classifier, self.segmenter = classifier, segmenter

    @property
    def backbone(self) -> Backbone:
        """The classifier's."""
        return self.classifier.backbone

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of pixels (B, K, H, W) and of the image (B, K), both seeing the image as it is: for counting operations.

        Maps don't come from here: `MultiStage.predict_maps` shows each of the two the image at its own scale.
        """
        return self.segmenter(images_BCHW), self.classifier(images_BCHW)


class MultiStage(DenseMethod):
    """Maps from patch labels by way of pseudo masks and a second network.

    Args:
        config: See there.
        classes: In the order of label digits.
        input: The training images.
        thresholds: One for each class, above which it is judged present.

    Raises:
        UnknownNameError: When there is no such backbone.
        InputError: When a backbone can't be built with these options.
    """

    name: ClassVar[str] = "multi_stage"
    config_type: ClassVar[type[MultiStageConfig]] = MultiStageConfig
    presets: ClassVar[dict[str, MultiStageConfig]] = PRESETS

    def __init__(
        self, config: MultiStageConfig, classes: Classes, input: InputSpec, thresholds: tuple[float, ...] | None = None
    ) -> None:
        self.config, self.classes, self.input = config, classes, input
        self.thresholds = thresholds or first_thresholds(config.presence_thresholds, len(classes))
        first = build_backbone(config.backbone, **config.backbone_options)
        second = build_backbone(config.second_backbone, **config.second_backbone_options)
        deeplab = DeepLabSettings(
            channels=config.second_channels,
            low_channels=config.second_low_channels,
            rates=config.second_rates,
            dropouts=config.second_dropouts,
        )
        self.network: TwoStages = TwoStages(
            CamClassifier(first, len(classes), config.dropout, config.head_gain),
            DeepLabV3Plus(second, len(classes), deeplab),
        )
        self.pretrained = {f"{name}_digest": None for name in _WEIGHTS}

    @classmethod
    def create(cls, config: Any, data: "PatchDataset", tile_px: int, seed: int) -> Self:
        tile = InputSpec(tile_px, halo_px(tile_px), data.mpp, data.white_is_background)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            method = cls(config, data.classes, tile)
        backbones = (method.network.classifier.backbone, method.network.segmenter.backbone)
        for name, backbone in zip(_WEIGHTS, backbones, strict=True):
            path = getattr(config, name)
            if path is not None:
                method.pretrained |= artefacts.load_pretrained(backbone, path, name)
        return method

    def fit(self, data: "PatchDataset", run: Path, settings: TrainSettings) -> None:
        records = data.split("train")
        _check_training(settings)
        check_validation(data, settings, self.config.presence_thresholds)
        recipe = artefacts.Recipe(self.name, self.config, settings, data, self.input)
        if artefacts.begin(run, recipe):
            artefacts.take_over(self, run)
            return
        epochs = {
            "classification": self.config.stage_one_epochs or settings.epochs,
            "segmentation": self.config.second_epochs or settings.epochs,
        }
        log.say(f"Epochs: {epochs['classification']} of the classifier, {epochs['segmentation']} of the segmenter.")
        patches = WeakPatches(records, WeakSettings(patch_px=self.input.tile_px))
        self._learn_classes(data, patches, run / "stage1", replace(settings, epochs=epochs["classification"]))
        masks = PseudoMasks(run / "pseudo_masks", [record.image for record in records], self.config.taps)
        source = self._write_masks(recipe.data_digest, patches, masks, settings)
        begin_from(run / "stage2", source)
        # nothing to stop early by: the validation split's masks choose thresholds alone
        stage = replace(settings, epochs=epochs["segmentation"], patience=None)
        self._learn_pixels(patches, masks, run / "stage2", stage)
        if self.config.presence_thresholds == "val":
            with on_device(self.network) as device:
                self.thresholds = choose_on_validation(data, self.input.tile_px, self._judge, self.presence, device)
        join_stages(run, masks.minutes)
        self.save(run, {**recipe.provenance(), "stage_epochs": epochs})

    def _learn_classes(self, data: "PatchDataset", patches: WeakPatches, run: Path, settings: TrainSettings) -> None:
        config, classifier = self.config, self.network.classifier
        first = FirstStageSettings(
            attention=config.attention,
            attention_start_epoch=config.attention_start_epoch,
            attention_decay=config.attention_decay,
            attention_floor=config.attention_floor,
            scale=config.scale,
            augment=AugmentSettings(flip=config.flip, turn=config.turn, stain_sigma=config.stain_sigma),
        )

        def train() -> None:
            groups = four_groups(classifier.parameter_groups(), config.first_optimiser)
            module = training_module(
                classifier,
                groups,
                config.first_optimiser,
                settings.seed,
                learn_classes(classifier, first),
                class_loss(classifier, config.scale),
            )
            val_loader = label_loader(data, self.input.tile_px, settings.batch_size) if settings.patience else None
            fit(module, self._loader(patches, settings), run, settings, val_loader)

        learn_once(classifier, run, train)

    def _write_masks(self, data_digest: str, patches: WeakPatches, masks: PseudoMasks, settings: TrainSettings) -> str:
        """Writes the masks that are missing; gives back the hash of all that they follow from."""
        config, classifier = self.config, self.network.classifier
        is_white_out = self.input.white_is_background if config.white_background is None else config.white_background
        chosen = PseudoMaskSettings(config.taps, is_white_out, config.scale)
        source = source_of(classifier, data_digest, self.input.tile_px, chosen)
        begin_from(masks.folder, source)
        with on_device(classifier):
            write_pseudo_masks(masks, classifier, patches, chosen, self.classes.colors, settings.num_workers)
        return source

    def _learn_pixels(self, patches: WeakPatches, masks: PseudoMasks, run: Path, settings: TrainSettings) -> None:
        config, segmenter = self.config, self.network.segmenter
        second = SecondStageSettings(
            layer_weights=config.layer_weights,
            pixel_weighting=config.pixel_weighting,
            batch_average=config.batch_average,
            scale=config.second_scale,
            augment=AugmentSettings(flip=config.flip, turn=config.turn, stain_sigma=config.stain_sigma),
            blur=config.blur,
        )

        def train() -> None:
            groups = two_groups(segmenter.parameter_groups(), config.second_optimiser)
            learn = learn_pixels(segmenter, second)
            module = training_module(segmenter, groups, config.second_optimiser, settings.seed, learn)
            labelled = PseudoLabelledPatches(patches, [masks.paths(index) for index in range(len(patches))])
            fit(module, self._loader(labelled, settings), run, settings)

        learn_once(segmenter, run, train)

    def _loader(self, patches: "Dataset[Any]", settings: TrainSettings) -> "DataLoader[Any]":
        return train_loader(
            patches, batch_size=settings.batch_size, seed=settings.seed, num_workers=settings.num_workers
        )

    @torch.inference_mode()
    def presence(self, images_BCHW: Tensor) -> Tensor:
        """How likely each class is there, judged by the classifier.

        Args:
            images_BCHW: float32 RGB in [0, 1].

        Returns:
            (B, classes) float32 in [0, 1].
        """
        self.network.eval()
        logits_BK: Tensor = self.network.classifier(enlarged(images_BCHW, self.config.scale))
        return logits_BK.float().sigmoid()

    @torch.inference_mode()
    def predict_maps(self, images_BCHW: Tensor, present_BC: Tensor | None = None) -> Tensor:
        logits_BKHW = self._pixel_logits(images_BCHW)
        if present_BC is None:
            present_BC = present_classes(self.presence(images_BCHW), self.thresholds)
        return softmax(logits_BKHW, present_BC.to(logits_BKHW.device).expand(logits_BKHW.shape[0], -1))

    def _pixel_logits(self, images_BCHW: Tensor) -> Tensor:
        self.network.eval()
        return pixel_logits(self.network.segmenter, images_BCHW, self.config.second_scale)

    def _judge(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return self._pixel_logits(images_BCHW), self.presence(images_BCHW)

    def save(self, run: Path, provenance: dict[str, Any] | None = None) -> None:
        artefacts.save_model(run, self.network, artefacts.describe(self, provenance))

    @classmethod
    def load(cls, description: dict[str, Any], state: dict[str, Tensor]) -> Self:
        from counterstain.settings import build

        method = cls(
            build(MultiStageConfig, description["config"]),
            Classes.from_json(description["classes"]),
            artefacts.input_of(description),
            tuple(description["thresholds"]),
        )
        load_state(method.network, state, source="The run's model.safetensors")
        method.pretrained = artefacts.pretrained_of(description, _WEIGHTS)
        return method


def halo_px(tile_px: int) -> int:
    """How far the edge of a tile spoils its map: an eighth of it; a multiple of 4, which maps of slides are reduced by.

    Source: ours. The pyramid looks at the whole tile, so no margin leaves the rest untouched.
    """
    return tile_px // 8 // 4 * 4


def _check_training(settings: TrainSettings) -> None:
    if settings.devices > 1:
        raise InputError(
            f"{settings.devices} devices were given; stages that follow each other train on one. Leave --devices out."
        )
    if settings.batch_size < 2:
        raise InputError("Batches of one image were given; the segmenter's norms need two. Raise --batch-size.")
