"""ResNet-18, 50 and 101 (He et al., arXiv 1512.03385) with torchvision's names.

The stride of a bottleneck stands in its 3x3 convolution, as in torchvision ("v1.5"). The taps are the outputs of layer1 to
layer4, each after its ReLU, at strides 4, 8, 16 and 32; a smaller output stride puts dilation for the last strides. A
multi-grid spreads the dilations of layer4, as DeepLab does.

Shapes: B images, C channels, H rows, W columns.
Does not know: heads, classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError
from counterstain.models.backbones.base import Backbone, Taps, norms_of

_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # arXiv 1512.03385, table 1


@dataclass(frozen=True)
class _Shape:
    """What a block is built with.

    Args:
        given: Channels that come in.
        width: Channels of its 3x3 convolutions.
        stride: Of its first 3x3 convolution.
        dilations: Of its first 3x3 convolution, and of what follows.
    """

    given: int
    width: int
    stride: int
    dilations: tuple[int, int]


class _Residual(nn.Module):
    """The shortcut of a residual block, projected where shapes differ."""

    def __init__(self, shape: _Shape, out: int) -> None:
        super().__init__()
        self.downsample: nn.Sequential | None = None
        if shape.stride != 1 or shape.given != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(shape.given, out, 1, shape.stride, bias=False), nn.BatchNorm2d(out)
            )

    def shortcut(self, x_BCHW: Tensor) -> Tensor:
        """What the branch is added to."""
        return x_BCHW if self.downsample is None else self.downsample(x_BCHW)


def _conv3x3(given: int, out: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(given, out, 3, stride, dilation, dilation, bias=False)


class _Basic(_Residual):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, shape: _Shape) -> None:
        super().__init__(shape, shape.width)
        self.conv1 = _conv3x3(shape.given, shape.width, shape.stride, shape.dilations[0])
        self.bn1 = nn.BatchNorm2d(shape.width)
        self.conv2 = _conv3x3(shape.width, shape.width, 1, shape.dilations[1])
        self.bn2 = nn.BatchNorm2d(shape.width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_BCHW)))))
        return F.relu(self.shortcut(x_BCHW) + y_BCHW)


class _Bottleneck(_Residual):
    """1x1, 3x3 and 1x1 convolutions; the last widens four times."""

    expansion = 4

    def __init__(self, shape: _Shape) -> None:
        out = shape.width * self.expansion
        super().__init__(shape, out)
        self.conv1 = nn.Conv2d(shape.given, shape.width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(shape.width)
        self.conv2 = _conv3x3(shape.width, shape.width, shape.stride, shape.dilations[0])
        self.bn2 = nn.BatchNorm2d(shape.width)
        self.conv3 = nn.Conv2d(shape.width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        y_BCHW = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y_BCHW)))))
        return F.relu(self.shortcut(x_BCHW) + y_BCHW)


@dataclass(frozen=True)
class _Stage:
    """One of layer1 to layer4.

    Args:
        blocks: What each is built with.
        stride: Of its output.
    """

    blocks: tuple[_Shape, ...]
    stride: int


def _plan(depth: int, output_stride: int, expansion: int, multi_grid: Sequence[int] | None) -> list[_Stage]:
    """The four stages; past the output stride, dilation stands for strides."""
    given, dilation, reached, stages = 64, 1, 4, []
    for index, num_blocks in enumerate(_BLOCKS[depth]):
        stride, kept, width = (1 if index == 0 else 2), dilation, 64 * 2**index
        if reached * stride > output_stride:
            # the convolution that loses its stride still looks at its neighbours as before
            stride, dilation = 1, dilation * stride
        reached *= stride
        dilations = [(kept, dilation)] + [(dilation, dilation)] * (num_blocks - 1)
        if multi_grid is not None and index == 3:
            dilations = [(factor * dilation, factor * dilation) for factor in multi_grid]
        out = width * expansion
        blocks = [_Shape(given, width, stride, dilations[0]), *(_Shape(out, width, 1, both) for both in dilations[1:])]
        stages.append(_Stage(tuple(blocks), reached))
        given = out
    return stages


class ResNet(Backbone):
    """A ResNet of 18, 50 or 101 layers.

    Args:
        depth: 18, 50 or 101.
        output_stride: 8, 16 or 32.
        frozen_norms: Whether every norm keeps its statistics and factors: for small batches.
        num_frozen: How many stages are not trained; the first is conv1 with bn1, then layer1 to layer4.
        multi_grid: For each block of layer4, the factor on the dilation that stands for the lost strides: (1, 2, 4) in
            DeepLab, which at output stride 16 makes dilations of 2, 4 and 8. None keeps that dilation for all, but for
            layer4's first 3x3 convolution, which looks at its neighbours as it did before.

    Raises:
        InputError: When a number is outside what is said above.

    Source: arXiv 1512.03385, table 1; multi-grid arXiv 1706.05587, section 3.2.1.
    """

    spare_weights = ("fc.", "aspp.", "decoder.")

    def __init__(
        self,
        depth: int,
        output_stride: int = 32,
        frozen_norms: bool = False,
        num_frozen: int = 0,
        multi_grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if depth not in _BLOCKS or output_stride not in (8, 16, 32) or not 0 <= num_frozen <= 5:
            raise InputError(
                f"Depth {depth}, output stride {output_stride} and {num_frozen} frozen stages were given. Depths are "
                f"{', '.join(map(str, _BLOCKS))}, output strides 8, 16, 32, frozen stages 0 to 5."
            )
        last = _BLOCKS[depth][3]
        if multi_grid is not None and (len(multi_grid) != last or min(multi_grid) < 1):
            raise InputError(
                f"A multi-grid {tuple(multi_grid)} was given; {last} factors of 1 or more were expected, one for each "
                f"block of layer4 of a ResNet-{depth}."
            )
        kind = _Basic if depth < 50 else _Bottleneck
        stages = _plan(depth, output_stride, kind.expansion, multi_grid)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*(kind(shape) for shape in stage.blocks)) for stage in stages
        )
        deep = 512 * kind.expansion
        self.channels = (deep // 8, deep // 4, deep // 2, deep)
        self.strides = (stages[0].stride, stages[1].stride, stages[2].stride, stages[3].stride)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        parts = ((self.conv1, self.bn1), (self.layer1,), (self.layer2,), (self.layer3,), (self.layer4,))
        self.freeze([module for part in parts[:num_frozen] for module in part])
        self.freeze(norms_of(self) if frozen_norms else [])

    def taps(self, inputs_BCHW: Tensor) -> Taps:
        stem_BCHW = self.maxpool(F.relu(self.bn1(self.conv1(inputs_BCHW))))
        first_BCHW = self.layer1(stem_BCHW)
        second_BCHW = self.layer2(first_BCHW)
        third_BCHW = self.layer3(second_BCHW)
        return first_BCHW, second_BCHW, third_BCHW, self.layer4(third_BCHW)

    def drop_deepest(self) -> None:
        self.layer4 = nn.Sequential()
        self._without_deepest("layer4.")

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published file's tensors under torchvision's names: a DeepLab's file has them after `backbone.`."""
        return {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
