"""The hierarchical feature rectification module (HFRM) of SSHR (arXiv 2606.20250).

It adds two terms to a shallow feature map: the map weighted per channel by what the deep features say the image is about,
and the map smoothed over its surroundings. Both start at a weight of zero, so that at first nothing is changed.

Shapes: B images, C shallow and D deep channels, H x W shallow and h x w deep cells.
Does not know: backbones, heads.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError


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
        adaptive: Whether g_s and g_c differ from place to place: an offset for each, linear in the deep features there, is
            added to the learned number. It starts at 0.

    Raises:
        InputError: When the kernel is even or below 1, or the padding is another.

    Source: arXiv 2606.20250, method section; reduction, kernel's first values and the scalars' shape from the released
        code's behaviour. Replicated padding is ours: zeros shrink the window's sum to 0.28 in a corner. Scales that adapt
        to the place are ours; the paper names them as future work.
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
        adaptive: bool = False,
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0 or padding not in ("zeros", "replicate"):
            raise InputError(
                f"Kernel {kernel} and padding {padding!r} were given; an odd kernel and 'zeros' or 'replicate' were "
                "expected."
            )
        self.semantic, self.context, self.adaptive = semantic, context, adaptive
        if semantic:
            hidden = max(1, deep_channels // reduction)
            self.squeeze = nn.Linear(deep_channels, hidden, bias=False)
            self.excite = nn.Linear(hidden, low_channels, bias=False)
            self.semantic_scale = nn.Parameter(torch.zeros(1))
        if context:
            self.smooth = nn.Conv2d(
                low_channels,
                low_channels,
                kernel,
                padding=kernel // 2,
                groups=low_channels,
                bias=False,
                padding_mode=padding,
            )
            nn.init.constant_(self.smooth.weight, 1 / kernel**2)
            self.context_scale = nn.Parameter(torch.zeros(1))
        if adaptive:
            self.adapt = nn.Conv2d(deep_channels, 2, 1)
            for parameter in self.adapt.parameters():
                nn.init.zeros_(parameter)

    def forward(self, low_BCHW: Tensor, deep_BDhw: Tensor) -> Tensor:
        """The rectified shallow map, of the shallow map's shape."""
        rectified_BCHW = low_BCHW
        semantic_offset, context_offset = self._offsets(low_BCHW, deep_BDhw)
        if self.semantic:
            hidden_BK = torch.relu(self.squeeze(deep_BDhw.mean((2, 3))))
            weights_BC11 = torch.sigmoid(self.excite(hidden_BK))[:, :, None, None]
            scale = self.semantic_scale + semantic_offset
            rectified_BCHW = rectified_BCHW + scale * (low_BCHW * weights_BC11)
        if self.context:
            scale = self.context_scale + context_offset
            rectified_BCHW = rectified_BCHW + scale * self.smooth(low_BCHW)
        return rectified_BCHW

    def _offsets(self, low_BCHW: Tensor, deep_BDhw: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """What is added to g_s and g_c at each place: (B, 1, H, W) each, or 0."""
        if not self.adaptive:
            return 0.0, 0.0
        offsets_B2HW = F.interpolate(self.adapt(deep_BDhw), size=low_BCHW.shape[2:], mode="bilinear")
        return offsets_B2HW[:, :1], offsets_B2HW[:, 1:]
