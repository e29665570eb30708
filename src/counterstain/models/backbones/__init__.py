"""Backbones: networks that turn images into four feature maps, shallow to deep.

A name in BACKBONES and its options build one, with random weights; `load_backbone_weights` fills it from a file. What
each has at its taps and which files fit it stands in docs/models.md. A name `timm:NAME` asks timm for a network.

Does not know: heads, classes, training.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from counterstain.errors import UnknownNameError
from counterstain.models.backbones.base import Backbone
from counterstain.models.backbones.mobilenet_v2 import MobileNetV2
from counterstain.models.backbones.resnet import ResNet
from counterstain.models.backbones.swin import SwinT
from counterstain.models.backbones.timm import Timm
from counterstain.models.backbones.tiny import Tiny
from counterstain.models.backbones.vgg import VGG16
from counterstain.models.backbones.wide_resnet38 import WideResNet38
from counterstain.models.weights import Audit, digest, load_state, read_state

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "wide_resnet38": WideResNet38,
    "mobilenet_v2": MobileNetV2,
    "resnet18": partial(ResNet, 18),
    "resnet50": partial(ResNet, 50),
    "resnet101": partial(ResNet, 101),
    "vgg16": VGG16,
    "swin_tiny": SwinT,
    "tiny": Tiny,
}

_TIMM = "timm:"


def build_backbone(name: str, **options: Any) -> Backbone:
    """A backbone with random weights.

    Args:
        name: A name in BACKBONES, or "timm:" and a name of timm's.
        **options: Arguments of its class.

    Raises:
        UnknownNameError: When there is no such backbone, or it has no such option.
        InputError: When an option's value can't be used.
        MissingExtraError: When it is one of timm's and timm can't be imported.
    """
    if name.startswith(_TIMM):
        build: Callable[..., Backbone] = partial(Timm, name.removeprefix(_TIMM))
    elif name in BACKBONES:
        build = BACKBONES[name]
    else:
        raise UnknownNameError("backbone", name, [*BACKBONES, f"{_TIMM}NAME"])
    known = inspect.signature(build).parameters
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of backbone {name}", option, known)
    return build(**options)


def load_backbone_weights(backbone: Backbone, path: Path | str) -> Audit:
    """Fills a backbone from a published weight file; tensors of its classifier are left over, parts of ours stay fresh.

    The audit's digest is of the file's tensors under the file's names, whichever taps the backbone was built with.

    Args:
        backbone: What to fill.
        path: See `counterstain.models.weights.read_state`.

    Raises:
        MissingFileError: When the file is not there.
        UnknownNameError: When no reader knows its suffix.
        WeightsError: When a tensor is missing beside the backbone's `fresh_weights`, left over beside the classifier's, or
            of another shape.
    """
    state = read_state(path)
    audit = load_state(
        backbone,
        backbone.adopt(state),
        allow_missing=backbone.fresh_weights(state),
        allow_extra=backbone.spare_weights,
        source=str(path),
    )
    return replace(audit, digest=digest(state))


__all__ = [
    "BACKBONES",
    "Backbone",
    "MobileNetV2",
    "ResNet",
    "SwinT",
    "Timm",
    "Tiny",
    "VGG16",
    "WideResNet38",
    "build_backbone",
    "load_backbone_weights",
]
