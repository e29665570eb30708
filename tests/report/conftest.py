"""Images whose colours are their classes, some pixels of the wrong colour, and a method that reads colours."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from counterstain.data import PatchDataset, PatchRecord
from counterstain.methods import DenseMethod, InputSpec
from counterstain.results import Classes
from counterstain.testing.planted import PLANTED_CLASSES

CLASSES = Classes(PLANTED_CLASSES.names, PLANTED_CLASSES.colors)
IGNORE = 3


class PlantedMethod(DenseMethod):
    """The nearest colour of the classes that may be shown; by itself, of those that a fifth of the image is nearest to."""

    name: ClassVar[str] = "planted"
    config_type: ClassVar[type[Any]] = object
    presets: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self.config, self.classes, self.network = None, CLASSES, nn.Identity()
        self.input = InputSpec(tile_px=32, halo_px=0, mpp=1.0)
        self.thresholds = (0.2, 0.2, 0.2)

    def predict_maps(self, images_BCHW: Tensor, present_BC: Tensor | None = None) -> Tensor:
        colors_K311 = torch.tensor(self.classes.colors)[:, :, None, None] / 255
        distances_BKHW = (images_BCHW[:, None] - colors_K311).abs().sum(2)
        if present_BC is None:
            nearest_BKHW = nn.functional.one_hot(distances_BKHW.argmin(1), 3).movedim(3, 1)
            present_BC = nearest_BKHW.float().mean((2, 3)) > torch.tensor(self.thresholds)
        distances_BKHW = distances_BKHW.masked_fill(~present_BC[:, :, None, None], torch.inf)
        return nn.functional.one_hot(distances_BKHW.argmin(1), 3).movedim(3, 1).float()

    @classmethod
    def create(cls, config: Any, data: PatchDataset, tile_px: int, seed: int) -> Any:
        raise NotImplementedError

    def fit(self, data: PatchDataset, run: Path, settings: Any) -> None:
        raise NotImplementedError

    def save(self, run: Path, provenance: dict[str, Any] | None = None) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, description: dict[str, Any], state: dict[str, Tensor]) -> Any:
        raise NotImplementedError


@pytest.fixture
def method() -> PlantedMethod:
    return PlantedMethod()


@pytest.fixture
def noisy(tmp_path: Path) -> PatchDataset:
    """Eight images of four patients: tumour beside stroma, and a third of the pixels in the colour of a random class."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "noisy"
    folder.mkdir()
    records = []
    for number in range(8):
        truth = np.full((48, 48), 1, np.uint8)
        truth[:, 16 + 2 * number :] = 2
        shown = np.where(rng.random(truth.shape) < 1 / 3, rng.integers(0, 3, truth.shape), truth)
        Image.fromarray(np.array(CLASSES.colors, np.uint8)[shown]).save(folder / f"{number}.png")
        Image.fromarray(truth).save(folder / f"{number}_mask.png")
        records.append(PatchRecord(folder / f"{number}.png", None, f"p{number // 2}", folder / f"{number}_mask.png"))
    train = (PatchRecord(records[0].image, (0, 1, 0), "p9"),)
    return PatchDataset("noisy", CLASSES, IGNORE, 1.0, white_is_background=False, train=train, val=tuple(records))
