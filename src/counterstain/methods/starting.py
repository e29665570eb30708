"""What is said, or refused, before a method learns: missing pretrained weights, images too small to find anything in.

Does not know: how a method learns.
"""

import math
from collections.abc import Iterator
from typing import Any

from counterstain.errors import InputError
from counterstain.methods.base import DenseMethod
from counterstain.models.backbones import Backbone
from counterstain.models.mil import MIL_NETWORKS

FITTING = {
    "wide_resnet38": "ilsvrc-cls_rna-a1_cls1000_ep-0001.params or res38_cls.pth",
    "mobilenet_v2": "a folded .npz, or mobilenet_v2-*.pth with batch norm",
    "resnet18": "resnet18-*.pth",
    "resnet50": "resnet50-*.pth",
    "resnet101": "resnet101-*.pth",
    "vgg16": "vgg16-*.pth or vgg16_bn-*.pth",
    "swin_tiny": "swin_tiny_patch4_window7_224.pth or swin_t-*.pth",
}
"""Published files of pretrained weights by backbone; docs/models.md says more."""


def weights_notes(config: Any) -> tuple[str, ...]:
    """A sentence for each backbone of a method's settings that has published weights and was given none."""
    notes = []
    for name, weights, flag in _given(config):
        if weights is not None:
            continue
        if name.startswith("timm:"):
            notes.append(f"{name} was given no pretrained weights and starts at random: pass {flag} FILE.")
        if name in FITTING:
            notes.append(
                f"{name} was given no pretrained weights and starts at random. Published figures need ImageNet's: pass "
                f"{flag} FILE ({FITTING[name]}; docs/models.md)."
            )
    return tuple(notes)


def _given(config: Any) -> Iterator[tuple[str, Any, str]]:
    """Backbones of a method's settings, each with its weights and the flag that names them."""
    for stage in ("", "second_"):
        name = getattr(config, f"{stage}backbone", None)
        if name is not None:
            yield name, getattr(config, f"{stage}weights", None), f"--{stage}weights".replace("_", "-")
    if hasattr(config, "weights_of_student"):
        yield MIL_NETWORKS[config.teacher].backbone, config.weights, "--weights"
        # of one network with other options the teacher's weights are not the student's
        if config.student != config.teacher or config.weights not in (None, config.weights_of_student):
            yield MIL_NETWORKS[config.student].backbone, config.weights_of_student, "--student-weights"


def refuse_small_images(method: DenseMethod) -> None:
    """Refuses images of which the deepest features see one place alone: a map of one cell says nothing of where.

    Raises:
        InputError: When they are too small.
    """
    backbone = getattr(method.network, "backbone", None)
    if not isinstance(backbone, Backbone):
        return
    stride, scale, tile_px = backbone.strides[-1], getattr(method.config, "scale", 1.0), method.input.tile_px
    if math.ceil(tile_px * scale / stride) < 2:
        raise InputError(
            f"Training images of {tile_px} px were given, and the network's deepest features have one cell for {stride} "
            f"px: nothing could be found in them. Give images of more than {stride / scale:g} px."
        )
