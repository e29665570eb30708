"""Windows of validation images with their truth, for choosing what a model is finished with.

Does not know: methods, networks. It is handed the validation split and never another.

B batch, H W rows and columns of a window.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from counterstain.data.images import read_image
from counterstain.results import UNCOVERED

if TYPE_CHECKING:
    from counterstain.data import PatchDataset

_AT_ONCE = 16  # windows in a batch
_MOST_WINDOWS = 2000  # enough to choose a threshold for each class by; drawn with a fixed seed where there are more


def truth_windows(data: "PatchDataset", tile_px: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows of the validation images, side by side without overlap, the last ones moved back inside the image.

    Args:
        data: Its validation split is read.
        tile_px: Width and height of a window; a smaller image is one window as it is.

    Yields:
        Of a part of an image, (B, 3, H, W) float32 in [0, 1] and (B, H, W) uint8 class indices, `UNCOVERED` where not
            scored.

    Raises:
        InputError: When there is no validation split.
    """
    records = list(data.split("val"))
    number = 0
    order = np.random.default_rng(0).permutation(len(records))
    for index in order:
        image, truth = read_image(records[index].image), data.read_mask(records[index])
        truth = np.where(truth < len(data.classes), truth, np.uint8(UNCOVERED))
        places = [(y, x) for y in _starts(image.shape[0], tile_px) for x in _starts(image.shape[1], tile_px)]
        images = np.stack([image[y : y + tile_px, x : x + tile_px] for y, x in places])
        truths = np.stack([truth[y : y + tile_px, x : x + tile_px] for y, x in places])
        for start in range(0, len(places), _AT_ONCE):
            batch = slice(start, start + _AT_ONCE)
            yield torch.from_numpy(images[batch]).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(truths[batch])
        number += len(places)
        if number >= _MOST_WINDOWS:
            return


def _starts(length: int, tile_px: int) -> list[int]:
    if length <= tile_px:
        return [0]
    return sorted({*range(0, length - tile_px, tile_px), length - tile_px})
