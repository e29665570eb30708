"""Pixels whose place can be told from their colour, and the slow obvious way of resampling them.

Does not know: files, readers, the fast way.
"""

import numpy as np
import numpy.typing as npt

from counterstain.geometry import Box, Size

Pixels = npt.NDArray[np.uint8]


def scene(size: Size) -> Pixels:
    """A smooth picture: waves of three directions, steep enough that half a pixel's shift shows.

    Returns:
        (height, width, 3) uint8.
    """
    y, x = np.mgrid[: size.height, : size.width] + 0.5
    waves = (np.sin(x / 18), np.cos(y / 22), np.sin((x + y) / 26))
    return np.round(np.stack(waves, axis=2) * 90 + 140).astype(np.uint8)


def gradient(size: Size) -> Pixels:
    """Red tells the column, green the row; two steps a pixel, so that the mean of two neighbours is no half.

    Returns:
        (height, width, 3) uint8, at most 127 pixels each way: a point (x, y) has red 2 x - 1, green 2 y - 1.
    """
    assert max(size.shape) <= 127, "the steps would not fit a byte"
    rows, columns = np.mgrid[: size.height, : size.width]
    return np.stack([2 * columns, 2 * rows, columns + rows], axis=2).astype(np.uint8)


def area_twin(pixels: Pixels, box: Box, size: Size) -> Pixels:
    """Resamples a box of an image the slow obvious way: every output pixel weighs every source pixel.

    Reducing, the weight is the area that both share; enlarging, it falls off linearly with the distance of the centres.
    Beyond the image is white.

    Returns:
        (size.height, size.width, 3) uint8.
    """
    rows, on_rows = _weights(box.y, box.height / size.height, size.height, pixels.shape[0])
    columns, on_columns = _weights(box.x, box.width / size.width, size.width, pixels.shape[1])
    mean = np.einsum("ij,jkc,lk->ilc", rows, pixels.astype(np.float64), columns, optimize=True)
    white = 255 * (1 - np.outer(on_rows, on_columns))
    resampled: Pixels = np.floor(mean + white[:, :, None] + 0.5).astype(np.uint8)
    return resampled


def _weights(start: float, scale: float, num: int, length: int) -> tuple[npt.NDArray[np.float64], ...]:
    """((num, length) weights, (num,) how much of each output pixel the image covers)."""
    low = start + np.arange(num)[:, None] * scale
    high = low + scale
    covered = (np.clip(high, 0, length) - np.clip(low, 0, length))[:, 0] / scale
    source = np.arange(length)[None]
    if scale >= 1:
        return np.clip(np.minimum(high, source + 1) - np.maximum(low, source), 0, None) / scale, covered
    centre = np.clip((low + high) / 2, 0.5, length - 0.5)
    return np.clip(1 - np.abs(centre - source - 0.5), 0, None) * covered[:, None], covered
