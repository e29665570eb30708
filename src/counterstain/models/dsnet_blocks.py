"""What DSNet (arXiv 2109.05788) is built of: units and blocks on sparse grids, excitations, and the head.

Units and blocks take features and their support and give both, on a coarser grid where they stride.

B slides, C channels, H W rows and columns of cells (h w where they are fewer).
Does not know: how the blocks make up the network.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.models.sparse import (
    NormKind,
    SparseConv,
    Support,
    masked_max,
    masked_max_pool,
    masked_mean,
    masked_norm,
    unpool,
)

_SLOPE = 0.01
_ATTENTION_RATIO = 16


class SparseUnit(nn.Module):
    """A sparse convolution, its norm and, where wanted, a leaky rectifier.

    Args:
        conv: Its channels are the norm's.
        norm: Which one.
        is_rectified: Whether the rectifier follows.
    """

    def __init__(self, conv: SparseConv, norm: NormKind, is_rectified: bool = True) -> None:
        super().__init__()
        self.conv, self.norm = conv, masked_norm(norm, len(conv.weight))
        self.is_rectified = is_rectified

    def forward(self, x_BCHW: Tensor, support: Support) -> tuple[Tensor, Support]:
        """Features and their support."""
        x_BChw, support = self.conv(x_BCHW, support)
        y_BChw = self.norm(x_BChw, support.observed_B1HW)
        return (F.leaky_relu(y_BChw, _SLOPE) if self.is_rectified else y_BChw), support


class SeparableUnit(nn.Module):
    """A depthwise sparse convolution, then a 1x1 one with norm and rectifier, of as many channels.

    Args:
        channels: Before and after.
        kernel: Odd.
        stride: At least 1.
        norm: Which one.
    """

    def __init__(self, channels: int, kernel: int, stride: int, norm: NormKind) -> None:
        super().__init__()
        self.depthwise = SparseConv(channels, channels, kernel, stride, is_depthwise=True)
        self.pointwise = SparseUnit(SparseConv(channels, channels), norm)

    def forward(self, x_BCHW: Tensor, support: Support) -> tuple[Tensor, Support]:
        """Features and their support."""
        return self.pointwise(*self.depthwise(x_BCHW, support))  # type: ignore[no-any-return]


class MultiScale(nn.Module):
    """1x1, then depthwise 3x3, 5x5 and 7x7 side by side with a 1x1 each, then a 1x1 over all three.

    Args:
        in_channels: C before.
        out_channels: C after.
        stride: Of the depthwise convolutions.
        ratio: Channels of the output for each inside.
        norm: Which one.
        has_shortcut: Whether a 1x1 shortcut is added.

    Source: DSNet, arXiv 2109.05788, section III-D and Fig. 3.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, ratio: int, norm: NormKind, has_shortcut: bool
    ) -> None:
        super().__init__()
        narrow = out_channels // ratio
        self.enter = SparseUnit(SparseConv(in_channels, narrow), norm)
        self.scales = nn.ModuleList(SeparableUnit(narrow, kernel, stride, norm) for kernel in (3, 5, 7))
        self.leave = SparseUnit(SparseConv(3 * narrow, out_channels), norm, is_rectified=not has_shortcut)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm) if has_shortcut else None

    def forward(self, x_BCHW: Tensor, support: Support) -> tuple[Tensor, Support]:
        """Features and their support."""
        inner_BCHW, _ = self.enter(x_BCHW, support)
        found = [scale(inner_BCHW, support) for scale in self.scales]
        after = found[-1][1]
        y_BChw, _ = self.leave(torch.cat([scale_BChw for scale_BChw, _ in found], dim=1), after)
        if self.shortcut is not None:
            y_BChw = F.leaky_relu(y_BChw + self.shortcut(x_BCHW, support)[0], _SLOPE)
        return y_BChw, after


class ConcurrentBottleneck(nn.Module):
    """Fewer channels and, within, fewer cells: 1x1, 2x2 max pool, 5x5, enlargement, 5x5, 1x1; and a 1x1 shortcut.

    Args:
        in_channels: C before.
        out_channels: C after.
        stride: Of the second 5x5 convolution, and of the shortcut.
        ratio: Channels of the output for each inside.
        norm: Which one.
        is_separable: Whether the 5x5 convolutions are depthwise, then 1x1.
        is_spatial: Whether the grid is halved within.

    Source: DSNet, arXiv 2109.05788, section III-C and Fig. 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        ratio: int,
        norm: NormKind,
        is_separable: bool,
        is_spatial: bool,
    ) -> None:
        super().__init__()
        narrow = out_channels // ratio

        def wide_window(stride: int) -> nn.Module:
            if is_separable:
                return SeparableUnit(narrow, 5, stride, norm)
            return SparseUnit(SparseConv(narrow, narrow, 5, stride), norm)

        self.enter = SparseUnit(SparseConv(in_channels, narrow), norm)
        self.between, self.afterwards = wide_window(1), wide_window(stride)
        self.leave = SparseUnit(SparseConv(narrow, out_channels), norm, is_rectified=False)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.is_spatial = is_spatial

    def forward(self, x_BCHW: Tensor, support: Support) -> tuple[Tensor, Support]:
        """Features and their support."""
        inner_BCHW, inner = self.enter(x_BCHW, support)
        if self.is_spatial:
            pooled_BChw = masked_max_pool(inner_BCHW, inner.observed_B1HW)
            coarse_BChw, coarse = self.between(pooled_BChw, inner.pooled())
            inner = coarse.enlarged(inner)
            inner_BCHW = unpool(coarse_BChw, inner.observed_B1HW)
        else:
            inner_BCHW, inner = self.between(inner_BCHW, inner)
        y_BChw, after = self.leave(*self.afterwards(inner_BCHW, inner))
        return F.leaky_relu(y_BChw + self.shortcut(x_BCHW, support)[0], _SLOPE), after


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: NormKind) -> SparseUnit:
    return SparseUnit(SparseConv(in_channels, out_channels, stride=stride), norm, is_rectified=False)


class Projection(nn.Module):
    """Embeddings of any width, normalised cell by cell and projected to the width that the bottlenecks take.

    Args:
        num_features: C before.
        channels: C after.

    Source: ours, for other encoders than the paper's; all after it stays as it is.
    """

    def __init__(self, num_features: int, channels: int) -> None:
        super().__init__()
        # never called: its first weights and its name, which is in the files of trained runs, stay as they were
        self.conv = SparseConv(num_features, channels)

    def forward(self, x_BCHW: Tensor, observed_B1HW: Tensor) -> Tensor:
        """(B, `channels`, H, W), 0 where nothing was observed.

        Args:
            x_BCHW: (B, `num_features`, H, W) float; what stands in unobserved cells is not looked at and may be NaN.
            observed_B1HW: 1 for observed cells, else 0.
        """
        is_observed_BHW = observed_B1HW[:, 0] > 0
        # of the observed cells alone, N in all: grids are mostly empty, and embeddings wide
        cells_NC = x_BCHW.movedim(1, -1)[is_observed_BHW]
        # neither factors nor shifts: the projection would undo them
        projected_NC = F.linear(F.layer_norm(cells_NC, cells_NC.shape[1:]), self.conv.weight[:, :, 0, 0])
        projected_BHWC = projected_NC.new_zeros(*is_observed_BHW.shape, projected_NC.shape[1])
        projected_BHWC[is_observed_BHW] = projected_NC
        return projected_BHWC.movedim(-1, 1)


class Excitation(nn.Module):
    """Numbers in [0, 1] from the means of channels.

    Args:
        channels: Means that go in.
        outputs: Numbers that come out.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // _ATTENTION_RATIO)
        self.excite = nn.Linear(channels // _ATTENTION_RATIO, outputs)

    def forward(self, means_BC: Tensor) -> Tensor:
        """(B, outputs)."""
        return torch.sigmoid(self.excite(F.leaky_relu(self.squeeze(means_BC), _SLOPE)))


class SlideHead(nn.Module):
    """Two logits from the mean and the maximum over cells.

    Args:
        channels: Of the cells.
        width: Between its two layers.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.hidden, self.logits = nn.Linear(2 * channels, width), nn.Linear(width, 2)

    def forward(self, x_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Logits (B, 2) float32."""
        descriptor_BC = torch.cat([masked_mean(x_BCHW, mask_B1HW), masked_max(x_BCHW, mask_B1HW)], dim=1)
        with torch.autocast(x_BCHW.device.type, enabled=False):  # logits are float32 whatever the cells are computed at
            logits_B2: Tensor = self.logits(F.leaky_relu(self.hidden(descriptor_BC), _SLOPE))
        return logits_B2
