"""MobileNetV2 (Sandler et al., arXiv 1801.04381) in the two forms that its weights come in.

`batch_norm=False` is TensorFlow's network with the norms folded into the convolutions: biases, "SAME" padding that puts
the odd pixel at the bottom and right, inputs from -1 to 1. `batch_norm=True` is torchvision's: norms, symmetric padding,
inputs with ImageNet's mean taken off. Both have torchvision's names: features.0 (the first convolution), features.1 to 17
(the blocks) and features.18 (the last convolution). Any four of these 19 are the taps; nothing past the deepest is built.

Shapes: B images, C channels, H rows, W columns.
Does not know: heads, classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError, WeightsError
from counterstain.models.backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone, Taps

# expansion, channels, blocks, stride of the first block: arXiv 1801.04381, table 2
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_LAST = 18


class _SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "SAME" padding: the odd pixel goes to the bottom and right."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.stride == (1, 1):
            return super().forward(x_BCHW)
        # built with half the reach on either side; an even number of pixels wants one less at the top and left
        reach = (self.kernel_size[0] - 1) * self.dilation[0]
        rows = _same_padding(x_BCHW.shape[2], reach, self.stride[0])
        columns = _same_padding(x_BCHW.shape[3], reach, self.stride[1])
        padded_BCHW = F.pad(x_BCHW, (*columns, *rows))
        return F.conv2d(padded_BCHW, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _same_padding(length: int, reach: int, stride: int) -> tuple[int, int]:
    total = max((-(-length // stride) - 1) * stride + reach + 1 - length, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class _Conv:
    """A convolution of the network, before it is built in either form."""

    given: int
    out: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    is_active: bool = True

    def build(self, batch_norm: bool) -> list[nn.Module]:
        """The convolution, and its norm where it is not folded."""
        padding = self.dilation * (self.kernel - 1) // 2
        kind = nn.Conv2d if batch_norm else _SameConv
        conv = kind(
            self.given, self.out, self.kernel, self.stride, padding, self.dilation, self.groups, bias=not batch_norm
        )
        # He's deviation by what comes in: by what goes out, a depthwise convolution's would vanish where no norm follows
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu" if self.is_active else "linear")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        return [conv, nn.BatchNorm2d(self.out)] if batch_norm else [conv]


class _Block(nn.Module):
    """Expansion, depthwise convolution and linear projection; the input is added where shapes allow."""

    def __init__(self, convs: Sequence[_Conv], batch_norm: bool) -> None:
        super().__init__()
        *active, projection = convs
        self.adds = convs[0].given == projection.out and all(conv.stride == 1 for conv in convs)
        parts = [nn.Sequential(*conv.build(batch_norm), nn.ReLU6()) for conv in active]
        self.conv = nn.Sequential(*parts, *projection.build(batch_norm))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.conv(x_BCHW)
        return x_BCHW + y_BCHW if self.adds else y_BCHW


@dataclass(frozen=True)
class _Stage:
    """One entry of `features` with the channels and the stride it ends at."""

    convs: tuple[_Conv, ...]
    channels: int
    stride: int


def _plan(output_stride: int) -> list[_Stage]:
    """The 19 stages; past the output stride, dilation stands for strides."""
    stages = [_Stage((_Conv(3, 32, 3, 2),), 32, 2)]
    given, reached, dilation = 32, 2, 1
    for expansion, out, num_blocks, first_stride in _STAGES:
        for index in range(num_blocks):
            stride, kept = first_stride if index == 0 else 1, dilation
            if reached * stride > output_stride:
                # the convolution that loses its stride still looks at its neighbours as before
                stride, dilation = 1, dilation * stride
            reached *= stride
            wide = given * expansion
            expand = (_Conv(given, wide),) if expansion > 1 else ()
            convs = (*expand, _Conv(wide, wide, 3, stride, kept, wide), _Conv(wide, out, is_active=False))
            stages.append(_Stage(convs, out, reached))
            given = out
    return [*stages, _Stage((_Conv(given, 1280),), 1280, reached)]


class MobileNetV2(Backbone):
    """MobileNetV2 1.0.

    Args:
        batch_norm: False: TensorFlow's folded form, for a `.npz` archive. True: torchvision's form.
        taps: Which entries of `features` give the four taps, 0 to 18, rising.
        rectified: Which taps pass through a ReLU; a block's output is a signed projection.
        output_stride: 8, 16 or 32; smaller than 32, dilation stands for the last strides.
        num_frozen: How many entries of `features`, from the first, are not trained.

    Raises:
        InputError: When taps don't rise from 0 to 18, or a number is outside what is said above.

    Source: arXiv 1801.04381, table 2. Which taps are rectified: as in SSHR, all but the shallowest.
    """

    def __init__(
        self,
        batch_norm: bool = False,
        taps: Sequence[int] = (3, 6, 13, 18),
        rectified: Sequence[bool] = (False, True, True, True),
        output_stride: int = 32,
        num_frozen: int = 0,
    ) -> None:
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if batch_norm else ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        super().__init__(mean, std)
        _check(taps, rectified, output_stride, num_frozen)
        stages = _plan(output_stride)[: taps[3] + 1]
        self.batch_norm = batch_norm
        self.spare_weights = ("classifier.", *(f"features.{index}." for index in range(len(stages), _LAST + 1)))
        self.features = nn.ModuleList(
            _Block(stage.convs, batch_norm)
            if 0 < index < _LAST
            else nn.Sequential(*stage.convs[0].build(batch_norm), nn.ReLU6())
            for index, stage in enumerate(stages)
        )
        self._rectified = dict(zip(taps, rectified, strict=True))
        first, second, third, deep = (stages[tap] for tap in taps)
        self.channels = (first.channels, second.channels, third.channels, deep.channels)
        self.strides = (first.stride, second.stride, third.stride, deep.stride)
        self.freeze(self.features[:num_frozen])

    def taps(self, inputs_BCHW: Tensor) -> Taps:
        first, second, third, deep = (
            F.relu(found) if is_rectified else found
            for found, is_rectified in zip(self.trunk(inputs_BCHW), self._rectified.values(), strict=True)
        )
        return first, second, third, deep

    def trunk(self, inputs_BCHW: Tensor) -> Taps:
        x_BCHW, found = inputs_BCHW, []
        for index, stage in enumerate(self.features):
            x_BCHW = stage(x_BCHW)
            if index in self._rectified:
                found.append(x_BCHW)
        first, second, third, deep = found if len(found) == len(self._rectified) else [*found, found[-1]]
        return first, second, third, F.relu(deep) if list(self._rectified.values())[3] else deep

    def drop_deepest(self) -> None:
        third = list(self._rectified)[2]
        dropped = [f"features.{index}." for index in range(third + 1, len(self.features))]
        self.features = self.features[: third + 1]
        self._without_deepest(*dropped)

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published file's tensors under torchvision's names.

        Raises:
            WeightsError: When they are of the other form.
        """
        has_norms = any(name.endswith("running_mean") for name in state)
        if has_norms != self.batch_norm:
            raise WeightsError(
                f"Weights {'with' if has_norms else 'without'} batch norms were given to a MobileNetV2 "
                f"{'with' if self.batch_norm else 'without'} them. Build it with batch_norm={has_norms}."
            )
        arrayed = sorted({name.split("/")[0] for name in state if "/" in name})
        if not arrayed:
            return dict(state)
        names = _conv_names()
        if len(arrayed) != len(names):
            raise WeightsError(
                f"{len(arrayed)} convolutions were given; MobileNetV2 has {len(names)} with its classifier."
            )
        # the archive numbers its convolutions in the order that images pass them
        renamed = dict(zip(arrayed, names, strict=True))
        kinds = {"w": "weight", "b": "bias"}
        parts = {name: name.split("/", 1) for name in state}
        return {f"{renamed[part[0]]}.{kinds.get(part[1], part[1])}": state[name] for name, part in parts.items()}


def _conv_names() -> list[str]:
    """Torchvision's names of all convolutions, in the order that images pass them, the classifier last."""
    names = []
    for index, stage in enumerate(_plan(32)):
        if index in (0, _LAST):
            names.append(f"features.{index}.0")
            continue
        last = len(stage.convs) - 1
        names += [f"features.{index}.conv.{part}" + (".0" if part < last else "") for part in range(last + 1)]
    return [*names, "classifier.1"]


def _check(taps: Sequence[int], rectified: Sequence[bool], output_stride: int, num_frozen: int) -> None:
    if len(taps) != 4 or any(a >= b for a, b in pairwise(taps)) or taps[0] < 0 or taps[3] > _LAST:
        raise InputError(f"Taps {tuple(taps)} were given; four that rise from 0 to {_LAST} were expected.")
    if len(rectified) != 4:
        raise InputError(f"{len(rectified)} values of `rectified` were given; each of the four taps needs one.")
    if output_stride not in (8, 16, 32):
        raise InputError(f"Output stride {output_stride} was given; 8, 16 or 32 was expected.")
    if not 0 <= num_frozen <= _LAST + 1:
        raise InputError(f"{num_frozen} frozen entries were asked for; 0 to {_LAST + 1} were expected.")
