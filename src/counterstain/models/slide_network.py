"""What every network of slides is: a batch of encoded slides in, two logits a slide out, and a score for each cell.

Slides of a batch differ in size: they are padded to the largest, and a network must give the same answer however much
padding there is, and whatever stands in cells that were not observed.

B slides, C channels, H W rows and columns of cells, N classes (2: the background, then the positive one).
Does not know: files, training, any method.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NUM_CLASSES = 2
"""The background, then the positive one."""


@dataclass
class SlideBatch:
    """Encoded slides, padded to one size at the right and at the bottom.

    Not frozen: a training loop moves it to its device through `to`.

    Args:
        features_BCHW: float32; 0 where nothing was observed.
        observed_B1HW: float32, 1 for cells that have an embedding, else 0.
        extent_B1HW: float32, 1 for cells of the slide's own grid, 0 for padding.
        thumbnails_B3HW: (B, 3, 2H, 2W) float32 in [0, 1], 1 - RGB / 255: glass is about 0 and padding exactly 0. None where
            no slide was at hand.
    """

    features_BCHW: Tensor
    observed_B1HW: Tensor
    extent_B1HW: Tensor
    thumbnails_B3HW: Tensor | None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "SlideBatch":
        """The same batch on a device."""
        thumbnails = self.thumbnails_B3HW
        return SlideBatch(
            self.features_BCHW.to(device, non_blocking=non_blocking),
            self.observed_B1HW.to(device, non_blocking=non_blocking),
            self.extent_B1HW.to(device, non_blocking=non_blocking),
            None if thumbnails is None else thumbnails.to(device, non_blocking=non_blocking),
        )

    def __len__(self) -> int:
        return len(self.features_BCHW)

    @property
    def thumbnail_extent(self) -> Tensor:
        """(B, 1, 2H, 2W) float32: 1 for thumbnail pixels of the slide's own grid."""
        return self.extent_B1HW.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)


class SlideNetwork(nn.Module, ABC):
    """A network that diagnoses slides."""

    needs_thumbnails: bool = False
    """Whether it looks at thumbnails; an attribute of the object where its settings decide."""

    @abstractmethod
    def forward(self, batch: SlideBatch) -> Tensor:
        """Logits (B, 2) float32."""

    def learn(self, batch: SlideBatch, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 2), and what the network adds to the cross entropy of its logits; nothing, unless it says so.

        Args:
            batch: Of training slides.
            labels_B: int64, 0 or 1.
        """
        return self(batch), labels_B.new_zeros((), dtype=torch.float32)

    @abstractmethod
    def evidence(self, batch: SlideBatch) -> Tensor:
        """(B, H, W) float32: how much each cell speaks for the positive class, NaN where nothing was observed.

        Larger is more; the unit is the network's own, comparable over the cells of a slide and, where the network can,
        over slides.
        """

    def local_shares(self, batch: SlideBatch) -> Tensor | None:
        """(B,) float32 in [0, 1]: the embeddings' part in each answer, the thumbnails having the rest.

        None where a network does not weigh the two, as most do not.
        """
        return None
