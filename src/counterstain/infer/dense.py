"""What inference asks of a model: classes, the input it was trained on, a network, and maps for a batch of images.

Every `DenseMethod` fits; so does anything else with these four members.

Does not know: methods, slides, files.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from counterstain.results import Classes


class TileInput(Protocol):
    """The images a model was trained on."""

    @property
    def tile_px(self) -> int:
        """Width and height."""

    @property
    def halo_px(self) -> int:
        """Margin of a tile whose predictions are thrown away where a neighbour sees more."""

    @property
    def mpp(self) -> float | None:
        """um/px; None when the training images had no known resolution."""

    @property
    def white_is_background(self) -> bool:
        """Whether white areas are no tissue to it."""


class DenseModel(Protocol):
    """A model that gives maps."""

    @property
    def classes(self) -> Classes:
        """What the channels mean."""

    @property
    def input(self) -> TileInput:
        """The images it was trained on."""

    @property
    def network(self) -> nn.Module:
        """What is moved to the device; `nn.Identity()` for a model without weights."""

    def predict_maps(self, images_BCHW: Tensor) -> Tensor:
        """(B, classes, H, W) probabilities of float32 RGB images in [0, 1], of any height and width."""


@runtime_checkable
class RunsItself(Protocol):
    """A model whose maps another library makes, whatever the settings say: results tell of it as it tells of itself."""

    @property
    def runs(self) -> dict[str, str]:
        """Its "precision" and "runtime"."""
