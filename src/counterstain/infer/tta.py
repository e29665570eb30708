"""Test-time augmentation: the average of a model's maps over flipped and turned views of a tile.

Each view's probabilities are turned back before they are averaged. With "d4", all eight flips and right-angle turns, a
turned image gives the turned map.

    B  images    C  channels or classes    H  height    W  width

Does not know: how the model makes its maps.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from counterstain.infer.dense import DenseModel, TileInput
from counterstain.results import Classes

View = tuple[bool, int]
"""(flipped left to right first, quarter turns after that)."""

VIEWS: dict[str, tuple[View, ...]] = {
    "none": ((False, 0),),
    "hv3": ((False, 0), (True, 0), (True, 2)),  # a flip top to bottom is one left to right, turned half around
    "d4": tuple((flip, turns) for flip in (False, True) for turns in range(4)),
}


def apply_view(images_BCHW: Tensor, view: View) -> Tensor:
    """The images as one view shows them."""
    flip, turns = view
    flipped = images_BCHW.flip(3) if flip else images_BCHW
    return torch.rot90(flipped, turns, (2, 3)) if turns else flipped  # no turn would still copy


def undo_view(maps_BCHW: Tensor, view: View) -> Tensor:
    """The maps of a view, back in the place of the original."""
    flip, turns = view
    turned = torch.rot90(maps_BCHW, -turns, (2, 3)) if turns else maps_BCHW
    return turned.flip(3) if flip else turned


class AveragedViews:
    """A model that averages another's maps over views.

    Args:
        model: The other.
        tta: A name in `VIEWS`.
    """

    def __init__(self, model: DenseModel, tta: Literal["none", "hv3", "d4"]) -> None:
        self._model, self._views = model, VIEWS[tta]

    @property
    def classes(self) -> Classes:
        """What the channels mean."""
        return self._model.classes

    @property
    def input(self) -> TileInput:
        """The images the model was trained on."""
        return self._model.input

    @property
    def network(self) -> nn.Module:
        """The model's own."""
        return self._model.network

    def predict_maps(self, images_BCHW: Tensor) -> Tensor:
        """(B, classes, H, W) mean probabilities of float32 RGB images in [0, 1].

        Source: ours; the code released with SSHR (arXiv 2606.20250) averages class activation maps of three views before it
        normalises them, this averages probabilities, so that it serves every model.
        """
        total: Tensor | None = None
        for view in self._views:
            maps = undo_view(self._model.predict_maps(apply_view(images_BCHW, view)), view)
            total = maps if total is None else total + maps
        assert total is not None
        return total / len(self._views) if len(self._views) > 1 else total
