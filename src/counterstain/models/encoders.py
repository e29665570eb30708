"""Patch encoders: images of cells in, one embedding each out.

Any backbone of this package with published weights is one: the mean of its deepest features over the image. `timm:NAME` is
timm's own, pooled and normalised as timm has it. A trained S-CAE keeps the same contract.

Shapes: B images, C channels of an embedding, H W rows and columns of pixels.
Does not know: slides, cells, files of features.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from counterstain.errors import InputError, MissingExtraError
from counterstain.files import settings_hash
from counterstain.models.backbones import Backbone, build_backbone, load_backbone_weights
from counterstain.models.weights import digest, load_state, read_state
from counterstain.results import EncoderSpec

TIMM = "timm:"
INPUT_PX = 112
"""What a cell is shown at: 256 pixels of level 0 become 112 (DSNet, arXiv 2109.05788, section IV-D)."""

_DEEPEST = 3
_UNTRAINED_SEED = 0


class PatchEncoder(nn.Module, ABC):
    """A network that gives each image one embedding."""

    spec: EncoderSpec
    """Its name, what it gives and what its weights are known by."""

    @property
    def input_px(self) -> int:
        """Width and height of the images that it wants."""
        assert self.spec.input_px is not None, "an encoder that runs has an input size"
        return self.spec.input_px

    def identity(self) -> str:
        """A hash of all that its embeddings follow from, code excepted."""
        return settings_hash(self.spec.name, self.spec.digest)

    @abstractmethod
    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Embeddings of images.

        Args:
            images_BCHW: (B, 3, input_px, input_px) float32, RGB in [0, 1]; the encoder normalises them itself.

        Returns:
            (B, C) float32.
        """


class BackboneEncoder(PatchEncoder):
    """The mean of a backbone's deepest features over the image.

    Args:
        backbone: Kept, not copied; put into evaluation mode and frozen.
        spec: What it is called and known by.
    """

    def __init__(self, backbone: Backbone, spec: EncoderSpec) -> None:
        super().__init__()
        self.backbone, self.spec = backbone, spec
        self.requires_grad_(False).eval()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        deepest_BChw: Tensor = self.backbone(images_BCHW)[_DEEPEST]
        return deepest_BChw.float().mean((2, 3))

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: an embedding must not hang on the other images of its batch."""
        return super().train(False)


class TimmEncoder(PatchEncoder):
    """A network of timm without its classifier, pooled and normalised as timm has it.

    Args:
        network: As `timm.create_model(..., num_classes=0)` gives it.
        mean: Of each of R, G, B in [0, 1], taken off.
        std: Of each, divided by.
        spec: What it is called and known by.
    """

    _mean_1C11: Tensor
    _std_1C11: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float], spec: EncoderSpec) -> None:
        super().__init__()
        self.network, self.spec = network, spec
        self.register_buffer("_mean_1C11", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std_1C11", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        embeddings_BC: Tensor = self.network((images_BCHW - self._mean_1C11) / self._std_1C11)
        return embeddings_BC.float()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode."""
        return super().train(False)


def backbone_encoder(
    name: str, weights: Path | None, input_px: int = INPUT_PX, *, untrained: bool = False, licence: str = "unknown"
) -> PatchEncoder:
    """An encoder from a backbone's name and a file of its published weights.

    Args:
        name: A name in BACKBONES, or "timm:" and a name of timm's, for which see `timm_encoder`.
        weights: The file.
        input_px: Width and height at which it is shown a cell.
        untrained: Whether random weights, always the same, will do: a baseline that shows what a grid of noise is worth.
        licence: Of the weights, as far as somebody knows.

    Raises:
        InputError: When there are no weights and `untrained` was not asked for, or both were, or the size is below 1.
        UnknownNameError: When there is no such backbone.
        MissingFileError: When the file of weights is not there.
        WeightsError: When it does not fit.
        MissingExtraError: When it is one of timm's and timm can't be imported.
    """
    if input_px < 1:
        raise InputError(
            f"Cells of {input_px} px were to be shown to an encoder; give 1 or more, {INPUT_PX} for instance."
        )
    if name.startswith(TIMM):
        return timm_encoder(name.removeprefix(TIMM), weights, untrained=untrained)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_UNTRAINED_SEED)
        backbone = build_backbone(name)
    if weights is not None and untrained:
        raise InputError("Weights were given for an encoder that is to stay untrained. Leave out one of the two.")
    if weights is None and not untrained:
        raise InputError(
            f"Encoder {name!r} was given without weights; random ones would give embeddings that say next to nothing. "
            "Pass the file of its published weights as --weights."
        )
    known_by = digest(backbone.state_dict()) if weights is None else load_backbone_weights(backbone, weights).digest
    spec = EncoderSpec(
        name=name,
        num_features=backbone.channels[_DEEPEST],
        digest=settings_hash("backbone", name, known_by, input_px),
        input_px=input_px,
        licence="none needed" if weights is None else licence,
    )
    return BackboneEncoder(backbone, spec)


def timm_encoder(model: str, weights: Path | None = None, *, untrained: bool = False) -> PatchEncoder:
    """An encoder of timm's.

    Args:
        model: timm's name: "resnet50.a1_in1k", or "hf-hub:OWNER/NAME", for which the owner's terms hold.
        weights: A file of its weights; None has timm fetch its own, or find them where it fetched them before.
        untrained: Whether random weights, always the same, will do.

    Raises:
        MissingExtraError: When timm can't be imported.
        InputError: When timm can't build it or fetch its weights.
        MissingFileError: When the file of weights is not there.
        WeightsError: When it does not fit; a classifier may be left over.
    """
    timm = _timm()
    state = None if weights is None else read_state(weights)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_UNTRAINED_SEED)
            network = timm.create_model(model, num_classes=0, pretrained=weights is None and not untrained)
    except (RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"timm can't give {model!r}: {error}. timm.list_models() has the names; where weights can't be fetched, pass "
            "their file as --weights."
        ) from error
    looks: Mapping[str, Any] = timm.data.resolve_model_data_config(network)
    known: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    if state is not None:
        heads = known.get("classifier") or ()
        spare = [f"{head}." for head in ([heads] if isinstance(heads, str) else heads)]
        load_state(network, state, allow_extra=spare, source=str(weights))
    mean, std, input_px = list(looks["mean"]), list(looks["std"]), int(looks["input_size"][-1])
    spec = EncoderSpec(
        name=f"{TIMM}{model}",
        num_features=int(network.num_features),
        digest=settings_hash("timm", model, digest(network.state_dict()), input_px, mean, std),
        input_px=input_px,
        licence="none needed" if untrained else str(known.get("license") or "unknown"),
    )
    return TimmEncoder(network, mean, std, spec)


def _timm() -> Any:
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise MissingExtraError("timm", "timm", "An encoder 'timm:NAME'") from error
    except RuntimeError as error:
        # torchvision built for another torch fails on import with "operator torchvision::nms does not exist"
        raise MissingExtraError("a torchvision that matches this torch", "timm", "An encoder 'timm:NAME'") from error
    return timm
