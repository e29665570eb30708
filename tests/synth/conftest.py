"""What the tests of synthetic histology share: a small bank of painted patches."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

PATCH_PX = 48


@pytest.fixture(scope="session")
def bank_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of twelve patches of six patients and two labels: `table.csv`, `images/`, `masks/`."""
    folder = tmp_path_factory.mktemp("bank")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    random = np.random.default_rng(5)
    rows = []
    for number in range(12):
        label = "gland" if number % 2 else "stroma"
        pixels = random.integers(90, 200, (PATCH_PX, PATCH_PX, 3)).astype(np.uint8)
        pixels[:8, :8] = 244
        mask = np.zeros((PATCH_PX, PATCH_PX), np.uint8)
        mask[10:40, 10:40] = 255 * (number % 2)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
        rows.append(
            {
                "image": f"images/{number}.png",
                "mask": f"masks/{number}.png",
                "label": label,
                "patient": f"p{number // 2}",
            }
        )
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder
