"""A tumour set of dark blobs on pink: what a tumour / no tumour method learns within seconds.

Does not know: methods.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE_PX = 32
"""Width and height of its patches."""

_PINK, _DARK = (205, 150, 190), (120, 90, 160)
_HEADER = "image,split,patient,mask,normal,tumour"


def write_blobs(folder: Path, num_train: int = 24, num_val: int = 12) -> Path:
    """Writes the set as a folder with a table; every second patch is a negative, two patches are of one patient.

    Args:
        folder: Is made.
        num_train: Patches with labels.
        num_val: Patches with labels and masks.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(0)
    lines = [_HEADER]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(num_train + num_val):
        is_train, is_positive = number < num_train, number % 2
        mask = _blob(rng) if is_positive else np.zeros((SIDE_PX, SIDE_PX), np.uint8)
        image = np.where(mask[..., None] == 1, _DARK, _PINK) + rng.normal(0, 10, (SIDE_PX, SIDE_PX, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{number}.png")
        mask_name = "" if is_train else f"images/{number}_mask.png"
        if mask_name:
            Image.fromarray(mask).save(folder / mask_name)
        split = "train" if is_train else "val"
        lines.append(f"images/{number}.png,{split},p{number // 2},{mask_name},{1 - is_positive},{is_positive}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "classes.toml").write_text('background = "normal"\nmpp = 1.0\n', encoding="utf-8")
    return folder


def _blob(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A disc that covers a fourteenth to a third of a patch."""
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    row, column = rng.integers(8, SIDE_PX - 8, 2)
    inside: npt.NDArray[np.bool_] = (rows - row) ** 2 + (columns - column) ** 2 < rng.integers(5, 11) ** 2
    return inside.astype(np.uint8)
