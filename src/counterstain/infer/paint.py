"""From blended values to what a map stores: tissue and glass left out, labels, probabilities in half precision.

Does not know: slides, tiles, files.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from counterstain.results import UNCOVERED, Classes

_GLASS_GRAY = 200 / 255  # published white-background masks (Han et al. 2022): gray above 200 of 255 ...
_GLASS_MIN_PX = 50  # ... in 4-connected pieces of at least 50 image pixels
_AT_ONCE = 1 << 15  # values up to which torch stays in the thread it is called from


def glass(
    gray_HW: npt.NDArray[np.float32], is_covered: npt.NDArray[np.bool_], map_stride: int
) -> npt.NDArray[np.bool_]:
    """Where glass shows through: bright pieces that are not too small.

    Args:
        gray_HW: Gray value in [0, 1], averaged over squares of `map_stride` image pixels.
        is_covered: Where there is one.
        map_stride: Image pixels for one of these, along each axis. A piece is kept from 50 image pixels on; one that
            touches the rim may go on beyond it, and is kept.

    Returns:
        (H, W) bool.
    """
    bright = (gray_HW > _GLASS_GRAY) & is_covered
    if not bright.any():
        return bright
    pieces, num = ndimage.label(bright)
    places = np.flatnonzero(bright)
    owners = pieces.ravel()[places]
    areas = np.bincount(owners, minlength=num + 1) * map_stride**2
    is_kept = areas >= _GLASS_MIN_PX
    for rim in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        is_kept[rim] = True
    bright.ravel()[places] = is_kept[owners]
    return bright


def best_class(probability_CHW: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(H, W) uint8: the class with the largest value, the first of several.

    Class by class, since numpy's argmax along the first axis walks through memory crosswise.
    """
    best = np.zeros(probability_CHW.shape[1:], np.uint8)
    value = probability_CHW[0].copy()
    for index in range(1, len(probability_CHW)):
        best[probability_CHW[index] > value] = index
        np.maximum(value, probability_CHW[index], out=value)
    return best


@dataclass(frozen=True)
class Painter:
    """Turns blended values into stored ones.

    Args:
        classes: What the channels mean.
        map_stride: Image pixels for one of the map.
        with_gray: Whether a gray value follows the classes, by which glass becomes background.
    """

    classes: Classes
    map_stride: int
    with_gray: bool

    def paint(
        self,
        mean_CHW: npt.NDArray[np.float32],
        is_covered: npt.NDArray[np.bool_],
        is_glass: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Probabilities, NaN where uncovered, and labels, `UNCOVERED` there.

        Args:
            mean_CHW: float32 blended values.
            is_covered: (H, W) bool: where something was predicted and is wanted.
            is_glass: (H, W) bool, as `glass` gives it; None finds it here.

        Returns:
            (classes, H, W) float32 and (H, W) uint8.
        """
        probability = mean_CHW[: len(self.classes)].copy()
        if is_glass is None:
            is_glass = self.glass(mean_CHW, is_covered)
        if is_glass.any():
            if self.classes.background is None:
                is_covered = is_covered & ~is_glass
            else:
                probability[:, is_glass] = 0
                probability[self.classes.index(self.classes.background), is_glass] = 1
        label = best_class(probability)
        label[~is_covered] = UNCOVERED
        np.copyto(probability, np.float32(np.nan), where=~is_covered)
        return probability, label

    def glass(self, mean_CHW: npt.NDArray[np.float32], is_covered: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """(H, W) bool: what becomes background. What is painted in parts is looked at as a whole: glass comes in pieces."""
        if not self.with_gray:
            return np.zeros(is_covered.shape, bool)
        return glass(mean_CHW[-1], is_covered, self.map_stride)


def halves(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """The nearest float16 of each; by torch, since numpy's own takes ten times as long."""
    answer = np.empty(values.shape, np.float16)
    source, target = torch.from_numpy(values).view(-1), torch.from_numpy(answer).view(-1)
    for some, others in zip(torch.split(source, _AT_ONCE), torch.split(target, _AT_ONCE), strict=True):
        others.copy_(some)
    return answer
