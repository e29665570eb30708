"""The gate: which classes an image's map may show. A model and an image with its truth in, a map's labels out.

`predicted` leaves the choice to the model, as it is in use. `truth` shows the classes that the image's mask holds: an
oracle, which no unseen image has. `none` shows all.

Does not know: how a model judges presence, how labels are scored.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from counterstain.errors import InputError, UnknownNameError
from counterstain.infer import DenseModel, PredictSettings, TileInput, predict_image
from counterstain.methods import DenseMethod
from counterstain.metrics import classes_in
from counterstain.results import UNCOVERED, Classes

Gate = Literal["predicted", "truth", "none"]
GATES: tuple[Gate, ...] = ("predicted", "truth", "none")


class GatedModel:
    """A method whose maps show the classes it is told, and no others.

    Args:
        method: Whose maps.
        present: Whether each class may be shown, one at least; the same for every image and window.
    """

    def __init__(self, method: DenseMethod, present: tuple[int, ...]) -> None:
        assert any(present), "a map shows at least one class"
        self._method, self._present_1C = method, torch.tensor([present], dtype=torch.bool)

    @property
    def classes(self) -> Classes:
        """What the channels mean."""
        return self._method.classes

    @property
    def input(self) -> TileInput:
        """The images the method was trained on."""
        return self._method.input

    @property
    def network(self) -> nn.Module:
        """The method's own."""
        return self._method.network

    def predict_maps(self, images_BCHW: Tensor) -> Tensor:
        """(B, classes, H, W) probabilities of float32 RGB images in [0, 1]; exactly 0 for classes that may not be shown."""
        return self._method.predict_maps(images_BCHW, self._present_1C.to(images_BCHW.device))


def refuse_other_gate(model: DenseModel, gate: str) -> None:
    """Refuses a gate that there is not, or that a model can't be given.

    Raises:
        UnknownNameError: When there is no such gate.
        InputError: When the model is not told which classes to show.
    """
    if gate not in GATES:
        raise UnknownNameError("gate", gate, GATES)
    if gate != "predicted" and not isinstance(model, DenseMethod):
        raise InputError(
            f"Gate {gate!r} was given for a {type(model).__name__}, which can't be told the classes to show: only a dense "
            "method can. Score it with gate 'predicted', which leaves the choice to the model."
        )


def predict_labels(
    image_HWC: npt.NDArray[np.uint8],
    truth_HW: npt.NDArray[np.uint8],
    model: DenseModel,
    gate: Gate,
    predict: PredictSettings,
) -> npt.NDArray[np.uint8]:
    """The class of every pixel of an image, among those that the gate lets through.

    Args:
        image_HWC: uint8 RGB.
        truth_HW: Its mask; values that are no class of the model's mean that there is none. Looked at by `truth` alone.
        model: Whose map.
        gate: Which classes may be shown. `truth` is of the whole image, whatever a window sees of it, and one pixel of a
            class is enough: the published oracles take every value that a mask holds.
        predict: How the image is tiled and mapped.

    Returns:
        (H, W) uint8; `UNCOVERED` where no class is shown, as on all of an image whose truth holds none to be shown.

    Raises:
        UnknownNameError: When there is no such gate.
        InputError: When the model can't be given the gate, or image, tiles or device don't fit.
    """
    refuse_other_gate(model, gate)
    if not isinstance(model, DenseMethod) or gate == "predicted":
        return predict_image(image_HWC, model, predict).labels()
    num = len(model.classes)
    present = classes_in(truth_HW, num) if gate == "truth" else (1,) * num
    if not any(present):
        return np.full(truth_HW.shape, UNCOVERED, np.uint8)
    return predict_image(image_HWC, GatedModel(model, present), predict).labels()
