"""A small network for tests and the demo: 0.48 million parameters, learned from scratch within minutes on a CPU.

Laid out as Wide-ResNet38's taps are: stride 4, then three times stride 8 with growing dilation.

Shapes: B images, C channels, H rows, W columns.
Does not know: heads, classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError
from counterstain.models.backbones.base import Backbone, Taps


def _conv(given: int, out: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(given, out, 3, stride, dilation, dilation, bias=False), nn.BatchNorm2d(out))


class _Block(nn.Module):
    """A convolution that changes shape, and one that adds to it."""

    def __init__(self, given: int, out: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.enter = _conv(given, out, stride, dilation)
        self.refine = _conv(out, out, 1, dilation)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = F.relu(self.enter(x_BCHW))
        return F.relu(y_BCHW + self.refine(y_BCHW))


class Tiny(Backbone):
    """Four small blocks.

    Args:
        width: Channels of the shallowest tap; the others have two, three and four times as many.

    Raises:
        InputError: When the width is below 1.

    Source: ours; strides and dilations follow Wide-ResNet38's.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"A width of {width} channels was given; 1 or more was expected.")
        self.stem = _conv(3, width, stride=2)
        self.block1 = _Block(width, width, stride=2, dilation=1)
        self.block2 = _Block(width, 2 * width, stride=2, dilation=1)
        self.block3 = _Block(2 * width, 3 * width, stride=1, dilation=2)
        self.block4: nn.Module = _Block(3 * width, 4 * width, stride=1, dilation=4)
        self.channels = (width, 2 * width, 3 * width, 4 * width)
        self.strides = (4, 8, 8, 8)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def taps(self, inputs_BCHW: Tensor) -> Taps:
        first_BCHW = self.block1(F.relu(self.stem(inputs_BCHW)))
        second_BCHW = self.block2(first_BCHW)
        third_BCHW = self.block3(second_BCHW)
        return first_BCHW, second_BCHW, third_BCHW, self.block4(third_BCHW)

    def drop_deepest(self) -> None:
        self.block4 = nn.Identity()
        self._without_deepest("block4.")
