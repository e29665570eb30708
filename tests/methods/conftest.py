"""A small dataset of two textures: dots and stripes, alone or side by side."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from counterstain.data import PatchDataset, open_patches

SIDE = 32


def texture(kind: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    rows, columns = np.mgrid[:SIDE, :SIDE] + rng.integers(0, 8, 2)[:, None, None]
    wave = (rows % 4 < 2) if kind else ((rows % 8 < 3) & (columns % 8 < 3))
    color = np.array([[200, 90, 140], [120, 160, 210]][kind])
    image = 235 - wave[..., None] * (235 - color) + rng.normal(0, 6, (SIDE, SIDE, 3))
    return image.clip(0, 255).astype(np.uint8)


def write_textures(folder: Path, num_train: int = 24, num_val: int = 6) -> Path:
    rng = np.random.default_rng(0)
    lines = ["image,split,patient,mask,dots,stripes"]
    for number in range(num_train + num_val):
        split = "train" if number < num_train else "val"
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if number % 3 == 1:
            mask[:] = 1
        elif number % 3 == 2:
            mask[:, int(rng.integers(10, 22)) :] = 1
        image = np.where(mask[..., None] == 1, texture(1, rng), texture(0, rng))
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        label = [int((mask == value).any()) for value in (0, 1)]
        mask_name = ""
        if split == "val":
            mask_name = f"images/{number}_mask.png"
            Image.fromarray(mask).save(folder / mask_name)
        lines.append(f"images/{number}.png,{split},p{number},{mask_name},{label[0]},{label[1]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> PatchDataset:
    return open_patches(write_textures(tmp_path_factory.mktemp("textures")), "table")
