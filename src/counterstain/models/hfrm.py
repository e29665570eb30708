"""The hierarchical feature rectification module (HFRM) of SSHR (arXiv 2606.20250).

It adds two terms to a shallow feature map: the map weighted per channel by what the deep features say the image is about,
and the map smoothed over its surroundings. Both start at a weight of zero, so that at first nothing is changed.

Shapes: B images, C shallow and D deep channels, H x W shallow and h x w deep cells.
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
            hidden_BK = torch.relu(self.squeeze(deep_BDhw.mean((2, 3))))
            weights_BC11 = torch.sigmoid(self.excite(hidden_BK))[:, :, None, None]
            rectified_BCHW = rectified_BCHW + self.semantic_scale * (low_BCHW * weights_BC11)
        if self.context:
            rectified_BCHW = rectified_BCHW + self.context_scale * self.smooth(low_BCHW)
        return rectified_BCHW
