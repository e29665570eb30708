"""The hierarchical feature rectification module (HFRM) of SSHR (arXiv 2606.20250).

It adds two terms to a shallow feature map: the map weighted per channel by what the deep features say the image is about,
and the map smoothed over its surroundings. Both start at a weight of zero, so that at first nothing is changed.

Shapes: B images, C shallow and D deep channels, H x W shallow and h x w deep cells, K classes of a head.
Does not know: backbones, heads.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from counterstain.errors import InputError
from counterstain.models.smoothing import Smoothing


class HFRM(nn.Module):
    """F + g_s * F * w(F_deep) + g_c * smooth(F), with g_s and g_c learned from zero.

    Args:
        low_channels: Of the shallow map.
        deep_channels: Of the deep map.
        reduction: Deep channels for each hidden unit of the perceptron that gives w.
        kernel: Cells along a side of the smoothing window; odd.
        padding: What the window sees beyond the map: "zeros" as published, or "replicate", the nearest cell, which
            leaves a constant map constant.
        semantic: Whether the term with w is there.
        context: Whether the smoothed term is.

    Raises:
        InputError: When the kernel is even or below 1, or the padding is another.

    Source: arXiv 2606.20250, method section; reduction, kernel's first values and the scalars' shape from the released
        code's behaviour. Replicated padding is ours: zeros shrink the window's sum to 0.28 in a corner.
    """

    def __init__(
        self,
        low_channels: int,
        deep_channels: int,
        reduction: int = 8,
        kernel: int = 15,
        padding: Literal["zeros", "replicate"] = "zeros",
        semantic: bool = True,
        context: bool = True,
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0 or padding not in ("zeros", "replicate"):
            raise InputError(
                f"Kernel {kernel} and padding {padding!r} were given; an odd kernel and 'zeros' or 'replicate' were "
                "expected."
            )
        self.semantic, self.context = semantic, context
        if semantic:
            hidden = max(1, deep_channels // reduction)
            self.squeeze = nn.Linear(deep_channels, hidden, bias=False)
            self.excite = nn.Linear(hidden, low_channels, bias=False)
            self.semantic_scale = nn.Parameter(torch.zeros(1))
        if context:
            self.smooth = Smoothing(low_channels, kernel, padding)
            nn.init.constant_(self.smooth.weight, 1 / kernel**2)
            self.context_scale = nn.Parameter(torch.zeros(1))

    def forward(self, low_BCHW: Tensor, deep_BDhw: Tensor) -> Tensor:
        """The rectified shallow map, of the shallow map's shape."""
        rectified_BCHW = low_BCHW
        if self.semantic:
            weights_BC11 = self._weights_BC(deep_BDhw)[:, :, None, None]
            rectified_BCHW = rectified_BCHW + self.semantic_scale * (low_BCHW * weights_BC11)
        if self.context:
            rectified_BCHW = rectified_BCHW + self.context_scale * self.smooth(low_BCHW)
        return rectified_BCHW

    def projected(self, low_BCHW: Tensor, deep_BDhw: Tensor, head: nn.Conv2d) -> Tensor:
        """What a linear head of 1x1 makes of the rectified map; (B, K, H, W).

        On a GPU the rectified map is never made: see `folded`.
        """
        if low_BCHW.is_cuda:
            return self.folded(low_BCHW, deep_BDhw, head)
        seen_BKHW: Tensor = head(self(low_BCHW, deep_BDhw))
        return seen_BKHW

    def folded(self, low_BCHW: Tensor, deep_BDhw: Tensor, head: nn.Conv2d) -> Tensor:
        """The same as `head(self(low_BCHW, deep_BDhw))` but for rounding, by products of matrices.

        Everything between the shallow map and the head's map is linear in the shallow map: the head's weights are weighed
        as the channels would be, and go into the smoothing kernel. Source: ours; a GPU's matrix units do not compute
        depthwise convolutions.
        """
        weights_KC = head.weight[:, :, 0, 0]
        num, (height, width) = len(low_BCHW), low_BCHW.shape[2:]
        weights_BKC = weights_KC.expand(num, -1, -1)
        if self.semantic:
            weights_BKC = weights_BKC * (1 + self.semantic_scale * self._weights_BC(deep_BDhw)[:, None])
        maps_BKHW = torch.bmm(weights_BKC, low_BCHW.flatten(2)).view(num, -1, height, width)
        if self.context:
            maps_BKHW = maps_BKHW + self.context_scale * self.smooth.projected(low_BCHW, weights_KC)
        return maps_BKHW if head.bias is None else maps_BKHW + head.bias[:, None, None]

    def _weights_BC(self, deep_BDhw: Tensor) -> Tensor:  # noqa: N802
        hidden_BK = torch.relu(self.squeeze(deep_BDhw.mean((2, 3))))
        weights_BC: Tensor = torch.sigmoid(self.excite(hidden_BK))
        return weights_BC
