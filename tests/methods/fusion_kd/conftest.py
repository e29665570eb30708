"""A planted set: pink tissue with a strip of glass, in positives a dark, restless square of tumour; and tiny trainings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from counterstain.data.images import write_mask
from counterstain.data.records import PatchDataset, PatchRecord
from counterstain.methods import FusionKD, FusionKDConfig
from counterstain.results import Classes
from counterstain.training import TrainSettings

CLASSES = Classes(("normal", "tumour"), ((255, 255, 255), (200, 0, 0)), "normal")
SIDE = 64


def write_planted(folder: Path, prefix: str, rng: np.random.Generator, num_patients: int) -> tuple[PatchRecord, ...]:
    """One positive and one negative of each patient; the tumour fills rows and columns 16 to 48."""
    records = []
    for number in range(2 * num_patients):
        is_positive = number % 2 == 0
        image = np.array([230.0, 170.0, 200.0]) + rng.normal(0, 4, (SIDE, SIDE, 1))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if is_positive:
            image[16:48, 16:48] = np.array([120.0, 60.0, 150.0]) + rng.normal(0, 25, (32, 32, 1))
            mask[16:48, 16:48] = 1
        image[:, :8] = 245
        name = f"{prefix}{number}.png"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / name)
        write_mask(folder / f"mask_{name}", mask, CLASSES.colors)
        label = (int(not is_positive), int(is_positive))
        records.append(PatchRecord(folder / name, label, f"{prefix}{number // 2}", folder / f"mask_{name}"))
    return tuple(records)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> PatchDataset:
    """Twelve training and eight validation images of 64 px; labels are (normal, tumour)."""
    folder, rng = tmp_path_factory.mktemp("planted"), np.random.default_rng(0)
    train, val = write_planted(folder, "train", rng, 6), write_planted(folder, "val", rng, 4)
    return PatchDataset("planted", CLASSES, 255, None, False, train=train, val=val)


@pytest.fixture(scope="session")
def distilled() -> Callable[..., FusionKD]:
    """Trains a tiny pair on a set, in a folder, with the settings that are given by name."""

    def train(data: PatchDataset, run: Path, /, **settings: Any) -> FusionKD:
        tiny: dict[str, Any] = {"teacher": "tiny_mil", "student": "tiny_mil", "area_band": None, "learning_rate": 1e-3}
        widths = {f"{kind}_options": {"width": 8} for kind in ("teacher", "student")}
        config = FusionKDConfig(**{**tiny, **widths, **settings})
        method = FusionKD.create(config, data, tile_px=32, seed=1)
        method.fit(data, run, TrainSettings(epochs=1, batch_size=8, seed=1))
        return method

    return train
