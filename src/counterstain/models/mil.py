"""MIL segmentation networks: tumour probabilities at three depths of a backbone, and their fixed average.

    image -> three feature maps -> 1x1 convolution, enlargement, sigmoid: three side maps -> weighted mean: the fused map

An image is a bag of pixels; the fused map is what is shown, and what a student learns from. MIL_NETWORKS names the pairs of
backbone and weights that papers use.

Shapes: B images, S outputs (three sides, shallow to deep, then the fused map), H rows, W columns.
Does not know: losses, teachers, students.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError, UnknownNameError
from counterstain.models.backbones import Backbone, build_backbone
from counterstain.models.groups import ParameterGroups, groups_around

NUM_SIDES = 3
Fusion = tuple[float, float, float]


class MilNetwork(nn.Module):
    """Tumour probabilities of every pixel, from three depths and fused.

    Args:
        backbone: Kept, not copied, without its deepest stage.
        fusion: The weight of each side's probability in the fused map, shallow to deep; they sum to 1 and are not learned.
        scale: Images are enlarged by this before the backbone, for those too small for its strides; maps keep their size.

    Raises:
        InputError: When the weights are negative or don't sum to 1, or the backbone can't be shortened.

    Source: the released code of fusion knowledge distillation; f = sum_i w_i f_i of probabilities, not of logits.
    """

    _weights_1S11: Tensor

    def __init__(self, backbone: Backbone, fusion: Fusion, scale: float = 1.0) -> None:
        super().__init__()
        if len(fusion) != NUM_SIDES or min(fusion) < 0 or abs(sum(fusion) - 1) > 1e-6:
            raise InputError(
                f"Fusion weights {fusion} were given; three that are 0 or more and sum to 1 were expected."
            )
        backbone.drop_deepest()
        self.backbone, self.fusion, self.scale = backbone, fusion, scale
        heads = [nn.Conv2d(channels, 1, 1) for channels in backbone.channels[:NUM_SIDES]]
        for head in heads:
            nn.init.xavier_uniform_(head.weight)
            nn.init.constant_(head.bias, 0.0)  # type: ignore[arg-type]
        self.sides = nn.ModuleList(heads)
        self.register_buffer("_weights_1S11", torch.tensor(fusion).view(1, NUM_SIDES, 1, 1), persistent=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Probabilities of tumour.

        Args:
            images_BCHW: (B, 3, H, W) float, RGB in [0, 1], of any height and width.

        Returns:
            (B, 4, H, W) float32 in [0, 1]: sides shallow to deep, then the fused map.
        """
        taps = self.backbone(self._enlarged(images_BCHW))[:NUM_SIDES]
        # corners are aligned as the published networks have it
        sides_BSHW = torch.cat(
            [
                F.interpolate(side(tap).float(), size=images_BCHW.shape[2:], mode="bilinear", align_corners=True)
                for side, tap in zip(self.sides, taps, strict=True)
            ],
            dim=1,
        ).sigmoid()
        fused_B1HW = (self._weights_1S11 * sides_BSHW).sum(1, keepdim=True)
        return torch.cat([sides_BSHW, fused_B1HW], dim=1)

    def _enlarged(self, images_BCHW: Tensor) -> Tensor:
        if self.scale == 1:
            return images_BCHW
        size = [max(1, round(length * self.scale)) for length in images_BCHW.shape[2:]]
        return F.interpolate(images_BCHW, size=size, mode="bilinear", align_corners=False, antialias=self.scale < 1)

    def parameter_groups(self) -> ParameterGroups:
        """All parameters by how they are to be trained."""
        return groups_around(self, self.backbone)


@dataclass(frozen=True)
class MilSpec:
    """A MIL network as a paper has it.

    Args:
        backbone: A name in BACKBONES.
        fusion: Of `MilNetwork`.
        options: Of the backbone.
    """

    backbone: str
    fusion: Fusion
    options: Mapping[str, Any] = field(default_factory=dict)


_PLAIN = (0.3, 0.3, 0.4)
_SWIN = (0.3, 0.4, 0.3)

_DWS = (0.2, 0.35, 0.45)

MIL_NETWORKS: dict[str, MilSpec] = {
    "vgg_mil": MilSpec("vgg16", _PLAIN),
    "dws_mil": MilSpec("vgg16", _DWS),
    "sa_mil": MilSpec("vgg16", _DWS, {"attention": True}),
    "swin_mil": MilSpec("swin_tiny", _SWIN),
    "resnet18_mil": MilSpec("resnet18", _SWIN),
    "resnet50_mil": MilSpec("resnet50", _SWIN),
    "mobilenet_v2_mil": MilSpec("mobilenet_v2", _PLAIN),
    "tiny_mil": MilSpec("tiny", _PLAIN),
}


def build_mil(name: str, options: Mapping[str, Any] | None = None, scale: float = 1.0) -> MilNetwork:
    """A MIL network with random weights.

    Args:
        name: A name in MIL_NETWORKS.
        options: Arguments of its backbone, over the network's own.
        scale: Of `MilNetwork`.

    Raises:
        UnknownNameError: When there is no such network, or its backbone has no such option.
        InputError: When an option's value can't be used.
    """
    if name not in MIL_NETWORKS:
        raise UnknownNameError("MIL network", name, MIL_NETWORKS)
    spec = MIL_NETWORKS[name]
    return MilNetwork(build_backbone(spec.backbone, **{**spec.options, **(options or {})}), spec.fusion, scale)
