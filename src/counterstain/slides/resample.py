"""Resampling with exact half-pixel geometry: area integration when reducing, linear interpolation when enlarging.

Both are separable, so a resampling is two sparse matrices, one for each axis, whose rows hold the weights of the source
pixels under an output pixel. Where these are few, the matrices are cut into small dense blocks along their diagonal, which
takes half the time; their weights, and the pixels between the two, are rounded to whole numbers whose sums float32 holds
exactly, so that a pixel is the same in whatever block, on whatever machine, it is made; it is within one grey value of the
other way's.

Pillow's BOX filter takes or leaves whole pixels and so moves edges by up to half a source pixel at fractional factors; its
smoother filters don't, but reach into the neighbours and take longer.

Does not know: slides, levels' files, resolutions.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import sparse

Pixels = npt.NDArray[np.uint8]

_WHITE = 255.0
NOTHING = 1e-6
"""Of a source pixel: so little of it counts as the pixel beside it."""
_LEAST = 1.5 * NOTHING


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of a resampling.

    Args:
        first: The first source pixel that is needed.
        last: The one past the last; equal to `first` where no output pixel meets the slide.
        weights: (outputs, last - first) float32, sparse; a row sums to the pixel's coverage.
        coverage: (outputs,) float32 in [0, 1]: how much of an output pixel lies on the slide.
    """

    first: int
    last: int
    weights: "sparse.csr_array"
    coverage: npt.NDArray[np.float32]

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the slide is under it."""
        return self.last <= self.first


def axis_of(start: float, scale: float, num: int, size: int, extent: float, first: int = 0) -> Axis:
    """The weights along one axis.

    Args:
        start: The outer edge of output pixel 0, in source pixels.
        scale: Source pixels under an output pixel.
        num: Output pixels.
        size: Source pixels there are.
        extent: Where the slide ends, in source pixels: a fraction away from `size` where a level was rounded. The last
            source pixel is stretched or cut to it.
        first: The first output pixel that is wanted.
    """
    edges = start + np.arange(first, first + num + 1, dtype=np.float64) * scale
    low, high = np.clip(edges[:-1], 0, extent), np.clip(edges[1:], 0, extent)
    coverage = (high - low) / scale
    reach = _areas if scale >= 1 else _neighbours
    index, weight = reach(edges, low, high, size)
    weight *= coverage[:, None] / np.maximum(weight.sum(1, keepdims=True), 1e-12)
    used = index[weight > _LEAST]
    lowest, past = (int(used.min()), int(used.max()) + 1) if used.size else (0, 0)
    columns = np.clip(index - lowest, 0, max(past - lowest - 1, 0))
    starts = np.arange(0, index.size + 1, index.shape[1])
    shape = (num, max(past - lowest, 1))
    weights = sparse.csr_array((weight.astype(np.float32).ravel(), columns.ravel(), starts), shape=shape)
    return Axis(lowest, past, weights, coverage.astype(np.float32))


_Taps = tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]


def _areas(
    edges: npt.NDArray[np.float64], low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], size: int
) -> _Taps:
    """(outputs, taps): source pixels and how much of each lies under the output pixel."""
    taps = int(np.ceil(edges[1] - edges[0])) + 1
    index = np.minimum(np.floor(low).astype(np.intp), size - 1)[:, None] + np.arange(taps)
    right = np.where(index == size - 1, np.inf, index + 1.0)
    weight = np.clip(np.minimum(high[:, None], right) - np.maximum(low[:, None], index), 0, None)
    weight[index >= size] = 0
    return index, weight


def _neighbours(
    edges: npt.NDArray[np.float64], low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], size: int
) -> _Taps:
    """(outputs, 2): the source pixels with the nearest centres; at the slide's edge both are the last one."""
    centre = (edges[:-1] + edges[1:]) / 2 - 0.5
    left = np.floor(centre)
    index = np.clip(left[:, None].astype(np.intp) + np.arange(2), 0, size - 1)
    part = centre - left
    weight = np.stack([1 - part, part], axis=1) * (high > low)[:, None]
    return index, weight


def resample(pixels: Pixels, rows: Axis, columns: Axis) -> Pixels:
    """Resamples an image; what the slide does not cover is white.

    Args:
        pixels: (rows.last - rows.first, columns.last - columns.first, 3) uint8, the source pixels that both axes need.

    Returns:
        (rows' outputs, columns' outputs, 3) uint8, contiguous.
    """
    height, width = rows.coverage.size, columns.coverage.size
    if rows.is_empty or columns.is_empty:
        return np.full((height, width, 3), _WHITE, np.uint8)
    if max(_taps(rows), _taps(columns)) > _MOST_TAPS:
        return _by_sparse(pixels, rows, columns)
    return np.concatenate([_by_blocks(pixels, rows, columns, part) for part in _parts(width)], axis=1)


def _by_sparse(pixels: Pixels, rows: Axis, columns: Axis) -> Pixels:
    height, width = rows.coverage.size, columns.coverage.size
    down = rows.weights @ pixels.reshape(len(pixels), -1).astype(np.float32)
    turned = np.ascontiguousarray(down.reshape(height, -1, 3).transpose(1, 0, 2)).reshape(pixels.shape[1], -1)
    across = (columns.weights @ turned).reshape(width, height, 3).transpose(1, 0, 2)
    across += 0.5  # astype truncates
    if rows.coverage.min() < 1 or columns.coverage.min() < 1:
        across += _WHITE * (1 - np.outer(rows.coverage, columns.coverage))[:, :, None]
    return np.ascontiguousarray(across.astype(np.uint8))


# Weights are whole numbers of 1 / 4096, pixels between the two matrices of 1 / 16: 255 * 16 * 4096 is below 2 ** 24.
_WEIGHT, _BETWEEN = 4096, 16
_MOST_TAPS = 6
_PART = 192  # outputs made at once: what they are made of stays in the processor's cache
_ROWS = 128  # and products are too small for a matrix library to start threads of its own


@dataclass(frozen=True, slots=True)
class _Block:
    """Neighbouring outputs, and the source pixels that they are made of.

    Args:
        outputs: Which.
        sources: Of the axis' own, counted from its first.
        weights: (outputs, sources) float32, whole numbers by a power of two, as what they are applied to needs them.
    """

    outputs: slice
    sources: slice
    weights: npt.NDArray[np.float32]


def _taps(axis: Axis) -> int:
    return int(axis.weights.indices.size // axis.coverage.size)


def _parts(num: int) -> list[slice]:
    return [slice(start, min(start + _PART, num)) for start in range(0, num, _PART)]


@lru_cache(maxsize=64)
def _blocks(axis: Axis, length: int, first: int, past: int) -> tuple[_Block, ...]:
    """Blocks whose products are sixteenths of pixels."""
    shape = axis.coverage.size, _taps(axis)
    index, weight = axis.weights.indices.reshape(shape), axis.weights.data.reshape(shape)
    blocks = []
    for start in range(first, past, length):
        part = slice(start, min(start + length, past))
        whole = np.rint(weight[part] * _WEIGHT)
        missing = np.rint(axis.coverage[part] * _WEIGHT) - whole.sum(1)
        whole[np.arange(len(whole)), weight[part].argmax(1)] += missing
        used = index[part][whole > 0]
        low, high = (int(used.min()), int(used.max()) + 1) if used.size else (0, 1)
        dense = np.zeros((len(whole), high - low), np.float32)
        places = np.arange(len(whole))[:, None], np.clip(index[part] - low, 0, high - low - 1)
        np.add.at(dense, places, np.where(whole > 0, whole, 0))
        blocks.append(_Block(part, slice(low, high), dense * (_BETWEEN / _WEIGHT)))
    return tuple(blocks)


@lru_cache(maxsize=256)
def _colored(axis: Axis, length: int, first: int, past: int) -> tuple[_Block, ...]:
    """Blocks for interleaved colours, sources first, of sixteenths of pixels."""
    eye = np.eye(3, dtype=np.float32)
    return tuple(
        _Block(
            slice(3 * block.outputs.start, 3 * block.outputs.stop),
            slice(3 * block.sources.start, 3 * block.sources.stop),
            np.ascontiguousarray(np.kron(block.weights.T, eye) / np.float32(_BETWEEN**2), np.float32),
        )
        for block in _blocks(axis, length, first, past)
    )


def _by_blocks(pixels: Pixels, rows: Axis, columns: Axis, part: slice) -> Pixels:
    """Some of the columns of an answer."""
    height, width = rows.coverage.size, part.stop - part.start
    across = _colored(columns, min(12, 32 // _taps(columns)), part.start, part.stop)
    left, right = min(block.sources.start for block in across), max(block.sources.stop for block in across)
    source = pixels[:, left // 3 : right // 3].astype(np.float32).reshape(len(pixels), -1)
    between = np.empty((height, right - left), np.float32)
    for block in _blocks(rows, max(4, 32 // _taps(rows)), 0, height):
        np.matmul(block.weights, source[block.sources], out=between[block.outputs])
    between += 0.5
    np.floor(between, out=between)
    made = np.empty((height, 3 * width), np.float32)
    for top in range(0, height, _ROWS):
        for block in across:
            outputs = slice(block.outputs.start - 3 * part.start, block.outputs.stop - 3 * part.start)
            taken = between[top : top + _ROWS, block.sources.start - left : block.sources.stop - left]
            made[top : top + _ROWS, outputs] = taken @ block.weights
    made += 0.5  # astype truncates
    pixels = made.astype(np.uint8).reshape(height, width, 3)
    down, along = (np.rint(cover * _WEIGHT) / _WEIGHT for cover in (rows.coverage, columns.coverage[part]))
    if down.min() < 1 or along.min() < 1:
        white = _WHITE * (1 - np.outer(down, along).astype(np.float32))[:, :, None]
        pixels = (made.reshape(height, width, 3) + white).astype(np.uint8)
    return pixels


def reduce(pixels: Pixels, factors: tuple[int, int]) -> Pixels:
    """The means of blocks of whole pixels: `resample`'s commonest case, five times as fast.

    Args:
        pixels: (H, W, 3) uint8.
        factors: (width, height) of a block; they divide the image's.

    Returns:
        (H / factors[1], W / factors[0], 3) uint8, fresh.
    """
    return np.array(Image.fromarray(pixels).reduce(factors))
