"""DeepLabV3+ (Chen et al., arXiv 1802.02611) on any backbone: the second stage of multi-stage baselines.

The deepest tap is looked at with several dilations and as a whole (ASPP), enlarged to the shallowest tap, joined with it,
refined by two convolutions, classified, and enlarged to the image. Resizing is bilinear with aligned corners throughout.

Shapes: B images, K classes, C channels, H x W pixels or cells (h x w where two sizes meet).
Does not know: losses, masks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError
from counterstain.models.backbones import Backbone
from counterstain.models.groups import ParameterGroups, groups_around

_RATES_STRIDE = 16  # the output stride that the paper gives its rates for


@dataclass(frozen=True)
class DeepLabSettings:
    """What DeepLabV3+ has on top of its backbone; the defaults are the published network's.

    Args:
        channels: Of each ASPP branch and of the decoder.
        low_channels: Of the projected shallowest tap.
        rates: Dilations of the three 3x3 branches at output stride 16, beside a 1x1 branch. They are kept in pixels:
            doubled at output stride 8, halved at 32, rounded, never below 1.
        dropouts: Shares dropped, in training, after the ASPP and after the first and the second decoder convolution.

    Raises:
        InputError: When a number of channels or a rate is below 1, or there are not three rates and three dropouts.
    """

    channels: int = 256
    low_channels: int = 48
    rates: tuple[int, int, int] = (6, 12, 18)
    dropouts: tuple[float, float, float] = (0.5, 0.5, 0.1)

    def __post_init__(self) -> None:
        counts = (self.channels, self.low_channels, *self.rates)
        if min(counts) < 1 or len(self.rates) != 3 or len(self.dropouts) != 3:
            raise InputError(
                f"{self} was given; channels and rates of 1 or more, three rates and three dropouts were expected."
            )


def _conv(given: int, out: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps size, norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(given, out, kernel, padding=kernel // 2 * dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


def _resize(maps_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps_BCHW, size=size, mode="bilinear", align_corners=True)


class _ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 and three dilated 3x3 branches and the mean over all cells, projected."""

    def __init__(self, given: int, channels: int, rates: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_conv(given, channels), *(_conv(given, channels, 3, rate) for rate in rates)])
        self.whole = _conv(given, channels)
        self.project = nn.Sequential(_conv((len(rates) + 2) * channels, channels), nn.Dropout(dropout))

    def forward(self, deep_BCHW: Tensor) -> Tensor:
        whole_BC11 = self.whole(deep_BCHW.mean((2, 3), keepdim=True))
        found = [branch(deep_BCHW) for branch in self.branches]
        joined_BCHW = torch.cat([*found, whole_BC11.expand_as(found[0])], dim=1)
        out_BCHW: Tensor = self.project(joined_BCHW)
        return out_BCHW


class DeepLabV3Plus(nn.Module):
    """Logits of pixels.

    Args:
        backbone: Its first tap is the low-level feature, its fourth the deep one; kept, not copied.
        num_classes: K.
        settings: See there.

    Raises:
        InputError: When there is no class.

    Source: arXiv 1802.02611; sizes, dropouts and aligned corners as in the implementation that the multi-stage baselines
        use. With ResNet-101 at output stride 16 and multi-grid (1, 2, 4) it is theirs.
    """

    def __init__(self, backbone: Backbone, num_classes: int, settings: DeepLabSettings | None = None) -> None:
        super().__init__()
        settings = DeepLabSettings() if settings is None else settings
        if num_classes < 1:
            raise InputError(f"{num_classes} classes were given; one or more were expected.")
        self.backbone, self.num_classes, self.settings = backbone, num_classes, settings
        channels, (after_aspp, after_first, after_second) = settings.channels, settings.dropouts
        factor = _RATES_STRIDE / backbone.strides[3]
        self.rates = tuple(max(1, round(rate * factor)) for rate in settings.rates)
        self.aspp = _ASPP(backbone.channels[3], channels, self.rates, after_aspp)
        self.low = _conv(backbone.channels[0], settings.low_channels)
        self.decoder = nn.Sequential(
            _conv(channels + settings.low_channels, channels, 3),
            nn.Dropout(after_first),
            _conv(channels, channels, 3),
            nn.Dropout(after_second),
        )
        self.head = nn.Conv2d(channels, num_classes, 1)
        for part in (self.aspp, self.low, self.decoder, self.head):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of pixels.

        Args:
            images_BCHW: (B, 3, H, W) float, RGB in [0, 1], of any height and width; in training two or more.

        Returns:
            (B, K, H, W) float.

        Raises:
            InputError: When one image alone is given in training: the norm after the mean over all cells would have a
                single value to take statistics from.
        """
        if self.training and len(images_BCHW) < 2:
            raise InputError(
                "One image was given to DeepLabV3+ in training; its norms need two or more. Raise the batch size, and "
                "leave a last batch of one out."
            )
        first_BCHW, _, _, deep_BChw = self.backbone(images_BCHW)
        low_BCHW = self.low(first_BCHW)
        deep_BCHW = _resize(self.aspp(deep_BChw), _size(low_BCHW))
        logits_BKhw = self.head(self.decoder(torch.cat([deep_BCHW, low_BCHW], dim=1)))
        return _resize(logits_BKhw, _size(images_BCHW))

    def parameter_groups(self) -> ParameterGroups:
        """All parameters by how they are to be trained."""
        return groups_around(self, self.backbone)


def _size(maps_BCHW: Tensor) -> tuple[int, int]:
    return maps_BCHW.shape[2], maps_BCHW.shape[3]
