"""A patch set of two textures, dots and stripes, alone or side by side: what any method learns within seconds.

Does not know: methods.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE_PX = 32
"""Width and height of its patches."""


def write_textures(folder: Path, num_train: int = 24, num_val: int = 6) -> Path:
    """Writes the set as a folder with a table; its patches are dots, stripes and both in turn.

    Args:
        folder: Is made.
        num_train: Patches with labels.
        num_val: Patches with labels and masks, each of a patient of its own.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(0)
    lines = ["image,split,patient,mask,dots,stripes"]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(num_train + num_val):
        split = "train" if number < num_train else "val"
        mask = _mask(number, rng)
        image = np.where(mask[..., None] == 1, texture(1, rng), texture(0, rng))
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        label = [int((mask == value).any()) for value in (0, 1)]
        mask_name = f"images/{number}_mask.png" if split == "val" else ""
        if mask_name:
            Image.fromarray(mask).save(folder / mask_name)
        lines.append(f"images/{number}.png,{split},p{number},{mask_name},{label[0]},{label[1]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _mask(number: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    if number % 3 == 1:
        mask[:] = 1
    elif number % 3 == 2:
        mask[:, int(rng.integers(10, 22)) :] = 1
    return mask


def texture(kind: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """One patch of dots (0) or stripes (1), (SIDE_PX, SIDE_PX, 3)."""
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX] + rng.integers(0, 8, 2)[:, None, None]
    wave = (rows % 4 < 2) if kind else ((rows % 8 < 3) & (columns % 8 < 3))
    color = np.array([[200, 90, 140], [120, 160, 210]][kind])
    image = 235 - wave[..., None] * (235 - color) + rng.normal(0, 6, (SIDE_PX, SIDE_PX, 3))
    pixels: npt.NDArray[np.uint8] = image.clip(0, 255).astype(np.uint8)
    return pixels
