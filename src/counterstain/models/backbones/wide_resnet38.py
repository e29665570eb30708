"""Wide-ResNet38, the "A1" network of Wu, Shen and van den Hengel (arXiv 1611.10080), at output stride 8.

Residual blocks of norm, ReLU, convolution in that order; no pooling, no norm after the first convolution, no biases.
Dilation stands for the strides of the last three stages. Names in the state dict are those of the usual converted weight
files (conv1a, b2 to b7, bn7), 228 of them; the original MXNet file's are renamed. Batch norm is never trained: statistics
and factors stay those of ImageNet.

Shapes: B images, C channels, H rows, W columns.
Does not know: heads, classes.
"""

from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError
from counterstain.models.backbones.base import Backbone, Taps, norms_of

# of a norm, here and in MXNet, which keeps statistics apart from what is trained
_NORM_PARTS = {
    "weight": ("arg", "gamma"),
    "bias": ("arg", "beta"),
    "running_mean": ("aux", "moving_mean"),
    "running_var": ("aux", "moving_var"),
}


class _Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut: the input as it is, or, where shapes differ, the activated one projected."""

    def __init__(self, channels: tuple[int, int, int], stride: int = 1, dilations: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        given, middle, out = channels
        first, second = dilations
        self.bn_branch2a = nn.BatchNorm2d(given)
        self.conv_branch2a = nn.Conv2d(given, middle, 3, stride, first, first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = nn.Conv2d(middle, out, 3, 1, second, second, bias=False)
        self.projects = given != out or stride != 1
        if self.projects:
            self.conv_branch1 = nn.Conv2d(given, out, 1, stride, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        active_BCHW = F.relu(self.bn_branch2a(x_BCHW))
        short_BCHW = self.conv_branch1(active_BCHW) if self.projects else x_BCHW
        y_BCHW = F.relu(self.bn_branch2b1(self.conv_branch2a(active_BCHW)))
        out_BCHW: Tensor = short_BCHW + self.conv_branch2b1(y_BCHW)
        return out_BCHW


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with dropout before the last two, and a projected shortcut."""

    def __init__(self, channels: tuple[int, int, int, int], dilation: int, dropout: float) -> None:
        super().__init__()
        given, narrow, middle, out = channels
        self.bn_branch2a = nn.BatchNorm2d(given)
        self.conv_branch2a = nn.Conv2d(given, narrow, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(narrow)
        self.conv_branch2b1 = nn.Conv2d(narrow, middle, 3, 1, dilation, dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(middle)
        self.conv_branch2b2 = nn.Conv2d(middle, out, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(given, out, 1, bias=False)
        # the original drops before the last convolution only; the published weakly supervised line before both
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        active_BCHW = F.relu(self.bn_branch2a(x_BCHW))
        y_BCHW = F.relu(self.bn_branch2b1(self.conv_branch2a(active_BCHW)))
        y_BCHW = F.relu(self.bn_branch2b2(self.conv_branch2b1(self.dropout(y_BCHW))))
        out_BCHW: Tensor = self.conv_branch1(active_BCHW) + self.conv_branch2b2(self.dropout(y_BCHW))
        return out_BCHW


class WideResNet38(Backbone):
    """Wide-ResNet38 with taps after b3 (stride 4, as it is), b4, b5 and b7 (stride 8, rectified).

    The first convolution and b2 are frozen, and every norm is; all of it only makes sense with ImageNet's weights loaded.
    Weights start as torch's convolutions do: without norms that adapt, anything larger grows with depth.

    Args:
        width: Factor on every number of channels, for quick tests; published weights fit 1 alone.
        depths: Blocks in b2, b3, b4, b5; likewise.

    Raises:
        InputError: When the width is not above 0, or a stage has no block.

    Source: arXiv 1611.10080, network A1 at output stride 8; dropout and frozen parts as trained for arXiv 1803.10464.
    """

    spare_weights = ("fc8.", "linear1000.", "arg:linear1000_")

    def __init__(self, width: float = 1.0, depths: tuple[int, int, int, int] = (3, 3, 6, 3)) -> None:
        super().__init__()
        if width <= 0 or len(depths) != 4 or min(depths) < 1:
            raise InputError(
                f"Width {width} and depths {tuple(depths)} were given. The width must be above 0, and b2 to b5 need one "
                "block or more each."
            )

        def wide(channels: int) -> int:
            return max(1, round(channels * width))

        c64, c128, c256, c512, c1024, c2048, c4096 = (wide(64 * 2**power) for power in range(7))
        self.conv1a = nn.Conv2d(3, c64, 3, 1, 1, bias=False)
        stages = {
            "b2": [_Basic((c64, c128, c128), stride=2)] + [_Basic((c128, c128, c128)) for _ in range(depths[0] - 1)],
            "b3": [_Basic((c128, c256, c256), stride=2)] + [_Basic((c256, c256, c256)) for _ in range(depths[1] - 1)],
            "b4": [_Basic((c256, c512, c512), stride=2)] + [_Basic((c512, c512, c512)) for _ in range(depths[2] - 1)],
            "b5": [_Basic((c512, c512, c1024), dilations=(1, 2))]
            + [_Basic((c1024, c512, c1024), dilations=(2, 2)) for _ in range(depths[3] - 1)],
        }
        self._names: dict[str, list[str]] = {}
        for stage, blocks in stages.items():
            self._names[stage] = [stage if index == 0 else f"{stage}_{index}" for index in range(len(blocks))]
            for name, block in zip(self._names[stage], blocks, strict=True):
                self.add_module(name, block)
        self.b6 = _Bottleneck((c1024, c512, c1024, c2048), dilation=4, dropout=0.3)
        self.b7 = _Bottleneck((c2048, c1024, c2048, c4096), dilation=4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(c4096)
        self.channels = (c256, c512, c1024, c4096)
        self.strides = (4, 8, 8, 8)
        self.freeze([self.conv1a, *self._blocks("b2"), *norms_of(self)])

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published file's tensors under this network's names; those that it has no place for keep the file's.

        Source: names of the original file (ademxapp) and of the converted one (arXiv 1803.10464).
        """
        if not any(name.startswith(("arg:", "aux:")) for name in state):
            return dict(state)
        own = {_mxnet_name(name): name for name in self.state_dict() if not name.endswith("num_batches_tracked")}
        return {own.get(name, name): tensor for name, tensor in state.items()}

    def _blocks(self, stage: Literal["b2", "b3", "b4", "b5"]) -> list[nn.Module]:
        return [self.get_submodule(name) for name in self._names[stage]]

    def _run(self, stage: Literal["b2", "b3", "b4", "b5"], x_BCHW: Tensor) -> Tensor:
        for block in self._blocks(stage):
            x_BCHW = block(x_BCHW)
        return x_BCHW

    def taps(self, inputs_BCHW: Tensor) -> Taps:
        b3_BCHW, b4_BCHW, b5_BCHW, deep_BCHW = self.trunk(inputs_BCHW)
        return b3_BCHW, F.relu(b4_BCHW), F.relu(b5_BCHW), deep_BCHW

    def trunk(self, inputs_BCHW: Tensor) -> Taps:
        b3_BCHW = self._run("b3", self._run("b2", self.conv1a(inputs_BCHW)))
        b4_BCHW = self._run("b4", b3_BCHW)
        b5_BCHW = self._run("b5", b4_BCHW)
        deep_BCHW = F.relu(self.bn7(self.b7(self.b6(b5_BCHW))))
        return b3_BCHW, b4_BCHW, b5_BCHW, deep_BCHW


def _mxnet_name(name: str) -> str:
    """A tensor's name in the original file: "b4_5.bn_branch2b1.bias" is "arg:bn4b5_branch2b1_beta"."""
    layer, _, part = name.rpartition(".")
    kind, part = _NORM_PARTS[part] if layer.split(".")[-1].startswith("bn") else ("arg", part)
    if "." in layer:
        block, inner = layer.split(".")
        stage, _, index = block.removeprefix("b").partition("_")
        first, _, branch = inner.partition("_")
        layer = f"{'bn' if first == 'bn' else 'res'}{stage}{f'b{index}' if index else 'a'}_{branch}"
    return f"{kind}:{layer}_{part}"
