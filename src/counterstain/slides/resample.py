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
from fractions import Fraction
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


@lru_cache(maxsize=256)
def axis_of(start: float, scale: float, num: int, size: int, extent: float, first: int = 0) -> Axis:
    """The weights along one axis, which neighbouring pieces of an image share.

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


def resample(pixels: Pixels, rows: Axis, columns: Axis, into: Pixels | None = None) -> Pixels:
    """Resamples an image; what the slide does not cover is white.

    Args:
        pixels: (rows.last - rows.first, columns.last - columns.first, 3) uint8, the source pixels that both axes need.
        into: Memory to use, of the answer's shape; its rows may lie apart.

    Returns:
        (rows' outputs, columns' outputs, 3) uint8; `into`, or contiguous.
    """
    made = np.empty((rows.coverage.size, columns.coverage.size, 3), np.uint8) if into is None else into
    if rows.is_empty or columns.is_empty:
        made[...] = _WHITE
    elif max(_taps(rows), _taps(columns)) > _MOST_TAPS:
        made[...] = _by_sparse(pixels, rows, columns)
    else:
        for part in _parts(columns):
            _by_blocks(pixels, rows, columns, part, made[:, part])
    return made


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
_LARGEST_PRODUCT = 1 << 18  # multiplications: beyond it, OpenBLAS does
_LONGEST_CYCLE = 16  # longer ones multiply more zeros than blocks do


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


@dataclass(frozen=True, slots=True)
class _Cycle:
    """Weights that come again every few pixels, so that all outputs are made by one product.

    Args:
        outputs: After how many they come again.
        sources: How many these are made of, and no others.
        weights: (outputs, sources) float32, as a block's.
    """

    outputs: int
    sources: int
    weights: npt.NDArray[np.float32]


def _parts(columns: Axis) -> list[slice]:
    num, cycle = columns.coverage.size, _cycle(columns)
    step = _PART if cycle is None else _PART // cycle.outputs * cycle.outputs
    return [slice(start, min(start + step, num)) for start in range(0, num, step)]


def _whole_weights(axis: Axis, part: slice) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """(outputs, taps): source pixels, and weights in whole numbers whose sums are those of the coverage."""
    shape = axis.coverage.size, _taps(axis)
    index, weight = axis.weights.indices.reshape(shape)[part], axis.weights.data.reshape(shape)[part]
    whole = np.rint(weight * _WEIGHT)
    whole[np.arange(len(whole)), weight.argmax(1)] += _whole_coverage(axis)[part] - whole.sum(1)
    return index, np.maximum(whole, 0)


def _whole_coverage(axis: Axis) -> npt.NDArray[np.float32]:
    return np.rint(axis.coverage * _WEIGHT)


@lru_cache(maxsize=256)
def _is_covered(axis: Axis) -> bool:
    return bool((_whole_coverage(axis) == _WEIGHT).all())


@lru_cache(maxsize=64)
def _blocks(axis: Axis, length: int, first: int, past: int) -> tuple[_Block, ...]:
    """Blocks whose products are sixteenths of pixels."""
    blocks = []
    for start in range(first, past, length):
        part = slice(start, min(start + length, past))
        index, whole = _whole_weights(axis, part)
        used = index[whole > 0]
        low, high = (int(used.min()), int(used.max()) + 1) if used.size else (0, 1)
        blocks.append(_Block(part, slice(low, high), _dense(index - low, whole, high - low)))
    return tuple(blocks)


def _dense(index: npt.NDArray[np.int32], whole: npt.NDArray[np.float32], num: int) -> npt.NDArray[np.float32]:
    """(outputs, num) float32, weights of sixteenths."""
    dense = np.zeros((len(whole), num), np.float32)
    np.add.at(dense, (np.arange(len(whole))[:, None], np.clip(index, 0, num - 1)), whole)
    return dense * np.float32(_BETWEEN / _WEIGHT)


@lru_cache(maxsize=256)
def _cycle(axis: Axis) -> _Cycle | None:
    """The cycle of an axis; None where weights never come again, or rarely, or a pixel belongs to two turns."""
    ratio = Fraction(axis.last - axis.first, axis.coverage.size)
    outputs, sources = ratio.denominator, ratio.numerator
    if outputs > _LONGEST_CYCLE or not _is_covered(axis):
        return None
    index, whole = _whole_weights(axis, slice(None))
    turns = np.arange(len(whole) // outputs)[:, None, None]
    whole = whole.reshape(len(turns), outputs, -1)
    index = np.where(whole > 0, index.reshape(whole.shape) - turns * sources, 0)
    if (whole != whole[0]).any() or (index != index[0]).any() or index.min() < 0 or index.max() >= sources:
        return None
    return _Cycle(outputs, sources, _dense(index[0], whole[0], sources))


def _colored(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A block's weights for interleaved colours, sources first, of sixteenths of pixels."""
    eye = np.eye(3, dtype=np.float32)
    return np.ascontiguousarray(np.kron(weights.T, eye) / np.float32(_BETWEEN**2), np.float32)


@lru_cache(maxsize=256)
def _colored_cycle(axis: Axis) -> npt.NDArray[np.float32] | None:
    cycle = _cycle(axis)
    return None if cycle is None else _colored(cycle.weights)


@lru_cache(maxsize=64)
def _colored_blocks(axis: Axis, first: int, past: int) -> tuple[_Block, ...]:
    """Blocks for interleaved colours."""
    blocks = _blocks(axis, min(12, 32 // _taps(axis)), first, past)
    return tuple(_Block(_tripled(one.outputs), _tripled(one.sources), _colored(one.weights)) for one in blocks)


def _tripled(part: slice) -> slice:
    return slice(3 * part.start, 3 * part.stop)


def _by_blocks(pixels: Pixels, rows: Axis, columns: Axis, part: slice, into: Pixels) -> None:
    """Makes some of the columns of an answer."""
    sources = _sources(columns, part)
    between = _down(pixels[:, sources].astype(np.float32).reshape(len(pixels), -1), rows)
    made = _across(between, columns, part).reshape(into.shape)
    made += 0.5  # the cast truncates
    if not (_is_covered(rows) and _is_covered(columns)):
        down, along = (cover / _WEIGHT for cover in (_whole_coverage(rows), _whole_coverage(columns)[part]))
        made += _WHITE * (1 - np.outer(down, along).astype(np.float32))[:, :, None]
    np.copyto(into, made, casting="unsafe")


def _sources(columns: Axis, part: slice) -> slice:
    """The source columns that some of the outputs are made of."""
    cycle = _cycle(columns)
    if cycle is not None:
        return slice(part.start // cycle.outputs * cycle.sources, part.stop // cycle.outputs * cycle.sources)
    blocks = _colored_blocks(columns, part.start, part.stop)
    return slice(min(one.sources.start for one in blocks) // 3, max(one.sources.stop for one in blocks) // 3)


def _down(source: npt.NDArray[np.float32], rows: Axis) -> npt.NDArray[np.float32]:
    """(outputs, 3 * columns) sixteenths of pixels, whole numbers."""
    between, cycle = np.empty((rows.coverage.size, source.shape[1]), np.float32), _cycle(rows)
    if cycle is not None:
        turns = source.reshape(-1, cycle.sources, source.shape[1])
        np.matmul(cycle.weights, turns, out=between.reshape(len(turns), cycle.outputs, -1))
    else:
        for block in _blocks(rows, max(4, 32 // _taps(rows)), 0, len(between)):
            np.matmul(block.weights, source[block.sources], out=between[block.outputs])
    between += 0.5
    return np.floor(between, out=between)


def _across(between: npt.NDArray[np.float32], columns: Axis, part: slice) -> npt.NDArray[np.float32]:
    """(outputs, 3 * columns' outputs), of sixteenths."""
    height = len(between)
    made = np.empty((height, 3 * (part.stop - part.start)), np.float32)
    weights = _colored_cycle(columns)
    if weights is not None:
        step = max(1, _LARGEST_PRODUCT // (between.shape[1] * weights.shape[1]))
        for top in range(0, height, step):
            turns = between[top : top + step].reshape(-1, len(weights))
            np.matmul(turns, weights, out=made[top : top + step].reshape(len(turns), -1))
        return made
    blocks = _colored_blocks(columns, part.start, part.stop)
    left = min(block.sources.start for block in blocks)
    for top in range(0, height, _ROWS):
        for block in blocks:
            outputs = slice(block.outputs.start - 3 * part.start, block.outputs.stop - 3 * part.start)
            taken = between[top : top + _ROWS, block.sources.start - left : block.sources.stop - left]
            np.matmul(taken, block.weights, out=made[top : top + _ROWS, outputs])
    return made


def reduce(pixels: Pixels, factors: tuple[int, int]) -> Pixels:
    """The means of blocks of whole pixels: `resample`'s commonest case, five times as fast.

    Args:
        pixels: (H, W, 3) uint8.
        factors: (width, height) of a block; they divide the image's.

    Returns:
        (H / factors[1], W / factors[0], 3) uint8, fresh.
    """
    return np.array(Image.fromarray(pixels).reduce(factors))
