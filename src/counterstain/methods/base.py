"""What every method is: a config, classes and a network, that learns from weak labels and is kept in a run folder.

A method has a network, it is none; its Lightning module is private to its file. `DenseMethod` learns from patches and gives
maps, `SlideMethod` in slide_method.py learns from whole slides and gives scores. A finished run holds `model.safetensors`
and `model.json`, which are enough to load the method anywhere.

Does not know: slides, tiles, exports.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor, nn

from counterstain.files import settings_hash
from counterstain.results import Classes

if TYPE_CHECKING:
    from counterstain.data import PatchDataset
    from counterstain.training import TrainSettings


@dataclass(frozen=True)
class InputSpec:
    """The images a method was trained on.

    Args:
        tile_px: Width and height.
        halo_px: Margin of a tile whose predictions are less sure, since they see less around them.
        mpp: um/px; None when the training images had no known resolution.
        white_is_background: Whether white areas are no tissue in the training data's classes.
    """

    tile_px: int
    halo_px: int
    mpp: float | None
    white_is_background: bool = False


class Method(ABC):
    """A published system: config and classes in, a network inside."""

    name: ClassVar[str]
    """Its name in METHODS."""

    config_type: ClassVar[type[Any]]
    """The frozen dataclass of its settings."""

    presets: ClassVar[Mapping[str, Any]]
    """Configs by name; the first is the published one, after the released code where the paper is silent."""

    config: Any
    classes: Classes
    network: nn.Module

    pretrained: dict[str, Any]
    """What is known of its pretrained weights; plain values for its provenance."""

    @abstractmethod
    def save(self, run: Path, provenance: dict[str, Any] | None = None) -> None:
        """Writes `model.safetensors` and `model.json` into a run folder.

        Args:
            run: The run folder.
            provenance: Plain values: what it was trained on and how.
        """

    @classmethod
    @abstractmethod
    def load(cls, description: dict[str, Any], state: dict[str, Tensor]) -> Self:
        """The method that `save` wrote.

        Args:
            description: The content of its `model.json`.
            state: The tensors of its `model.safetensors`.

        Raises:
            WeightsError: When a tensor is missing, left over or of another shape.
        """


class DenseMethod(Method):
    """A method that learns from labelled patches and gives maps."""

    num_classes: ClassVar[int | None] = None
    """How many classes its data must have; None takes any number."""

    input: InputSpec

    thresholds: tuple[float, ...]
    """One for each class, above which it is judged present."""

    @classmethod
    @abstractmethod
    def create(cls, config: Any, data: "PatchDataset", tile_px: int, seed: int) -> Self:
        """A method that has learned nothing yet, but for pretrained backbone weights.

        Args:
            config: Of its `config_type`.
            data: What it will learn from; only its classes and resolution are looked at.
            tile_px: Width and height of its images.
            seed: Of the new layers' first weights.

        Raises:
            InputError: When config and data do not go together.
            WeightsError: When the pretrained weights do not fit.
        """

    @abstractmethod
    def fit(self, data: "PatchDataset", run: Path, settings: "TrainSettings") -> None:
        """Learns from the training split's weak labels and keeps the result in a run folder.

        Killed and called again with the same arguments, it resumes where its last checkpoint stands and ends with the
        same weights as without the kill.

        Raises:
            StaleResultError: When the run folder holds a run of other settings.
        """

    def identity(self) -> str:
        """A hash of all that its maps follow from, the network's tensors and the code excepted."""
        return settings_hash(self.name, self.config, self.thresholds, self.classes.to_json())

    @abstractmethod
    def predict_maps(self, images_BCHW: Tensor, present_BC: Tensor | None = None) -> Tensor:
        """Class probabilities for every pixel.

        Args:
            images_BCHW: float32 RGB in [0, 1], of any height and width.
            present_BC: bool, (B or 1, classes) with a True in every row: the classes that may be shown. None lets the
                method judge, as it does wherever nothing is known of an image.

        Returns:
            (B, classes, H, W) float32 in [0, 1], summing to 1 over classes; classes judged absent are exactly 0.
        """
