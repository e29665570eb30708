"""Which stored tiles hold tissue, told from their sizes alone.

A codec spends few bytes on glass and many on nuclei, so the bytes a pixel of a slide's tiles form two heaps: a narrow one,
glass, and a wide one some times heavier, tissue. Between the two a tile's bytes tell how much of it is covered, since
what it holds of both adds up; what a covered tile weighs is taken from its neighbours. It is the idea of the run-length
filter (`runs.py`) carried to what the scanner has counted already.

Not everything heavy is tissue, nor everything light glass. What stands alone or is thin (pen strokes, the rims of bubbles,
dust), what is pale, and holes within what is heavy are in doubt: a person who has pixels may look there. Where the sizes do
not form two heaps, nothing is told.

    H  rows of tiles    W  columns of tiles

Does not know: slides, pixels, colours.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from counterstain.tissue.glass import otsu
from counterstain.tissue.ink import grown

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

COVERED = 0.2
"""The share of a tile that must be tissue. Pixel masks agree best with the bytes near it: at less, dust and noise count."""

_BYTES_COVERED = 0.14  # as bytes have it: the rim of tissue is paler than its inside
_FAINT = 0.05  # of the usual weight of tissue above glass: less is glass
_PALE = 0.5  # of that weight: neighbourhoods that nowhere reach it are no usual tissue
_MAY_BE_COVERED = 0.5  # of a tile that is paler than usual tissue: how much, its weight does not tell
_SAMPLE = 4096  # tiles that heaps are told from, unless too few of them are of one kind
_LEAST = 8  # tiles of a heap
_LEAST_TILES = 64
_LEAST_RATIO = np.log(3.0)  # between the heaps' weights
_GLASS_WIDTH, _GLASS_SHARE = 0.2, 0.6  # of the lighter heap, so much lies within so much of its middle, in logarithms
_VALLEY = 0.5  # of the smaller heap: more than that between the two is no valley
_FIXED_WIDTH, _FIXED_SHARE = 0.03, 0.5  # of the heavier heap, so much within so much of its top: sizes were prescribed
_LEAST_PART = 0.25  # of a tile at the slide's edge that is taken for granted
_LARGEST_HOLE, _LARGEST_SHARE = 32, 0.05  # tiles, and of all of them: a ring of ink has all of the tissue in it
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Heaps:
    """The two kinds of tiles, in bytes a pixel.

    Args:
        glass: The middle of the lighter heap.
        noise: The most that glass weighs.
        tissue: The middle of the heavier heap.
    """

    glass: float
    noise: float
    tissue: float


@dataclass(frozen=True, eq=False)
class Split:
    """Tiles told apart.

    Args:
        heaps: The two kinds.
        weights: (H, W) bytes a pixel.
        tissue: (H, W) bool: covered by tissue, as far as bytes tell.
        doubt: (H, W) bool: where they tell it badly.
    """

    heaps: Heaps
    weights: Floats
    tissue: Mask
    doubt: Mask


def split_tiles(counts: npt.NDArray[np.integer], parts: Floats, tile_px: int, speck: float = 0.0) -> Split | str:
    """Tells tissue from glass.

    Args:
        counts: (H, W) bytes of each tile; 0 where it was left out, which is glass.
        parts: (H, W) in (0, 1], how much of each tile lies on the slide.
        tile_px: Pixels of a whole tile.
        speck: Tiles' worth of tissue below which a patch is none, and leaves no doubt either.

    Returns:
        The tiles told apart, or why they can't be.
    """
    weights = counts / tile_px
    whole = weights[(counts > 0) & (parts == 1)]
    heaps = find_heaps(whole)
    if isinstance(heaps, str):
        return heaps
    # What overhangs the slide is filled with something flat, which weighs what glass does.
    weights = heaps.glass + (weights - heaps.glass) / np.maximum(parts, _LEAST_PART)
    above = np.maximum(weights - heaps.glass, 0.0)
    usual = heaps.tissue - heaps.glass
    around = _largest_around(_largest_around(above))  # at the rim, the next tile but one is the first whole one
    least = np.maximum(_BYTES_COVERED * np.maximum(around, _PALE * usual), heaps.noise - heaps.glass)
    tissue = above > least
    faint = ~tissue & (above > max(_FAINT * usual, heaps.noise - heaps.glass)) & ~grown(tissue)
    pale = tissue & (around < _PALE * usual)
    loose = faint | pale | _thin(tissue)
    if speck > 0 and loose.any():
        covered = np.where(faint | pale, _MAY_BE_COVERED, np.minimum(above / usual, 1.0))
        kept = ~_specks(tissue | faint, covered, speck)
        tissue, loose = tissue & kept, loose & kept
    return Split(heaps, weights, tissue, loose | _holes(tissue | loose))


def find_heaps(weights: Floats) -> Heaps | str:
    """The two kinds among the weights of whole tiles.

    Args:
        weights: Any shape, bytes a pixel, above 0.

    Returns:
        The heaps, or why there are no two.
    """
    if weights.size < _LEAST_TILES:
        return f"it has {weights.size} whole tiles; expected {_LEAST_TILES}"
    some = weights.ravel()[:: -(-weights.size // _SAMPLE)]
    low, high = _halves(some)
    if min(low.size, high.size) < _LEAST and some.size < weights.size:
        low, high = _halves(weights.ravel())
    if min(low.size, high.size) < _LEAST:
        return "its tiles are all of one kind"
    glass, tissue = float(low[low.size // 2]), float(high[high.size // 2])
    reason = _no_heaps(low, high, glass, tissue)
    if reason is not None:
        return reason
    spread = float(np.median(np.abs(low - glass)))
    # 3 deviations, told from the median of the distances: dust does not widen glass.
    return Heaps(np.exp(glass), np.exp(glass + 3 * 1.4826 * spread), np.exp(tissue))


def _halves(weights: Floats) -> tuple[Floats, Floats]:
    """Logarithms of weights below and above Otsu's threshold, sorted."""
    logs = np.sort(np.log(weights))
    place = int(np.searchsorted(logs, otsu(logs), "right"))
    return logs[:place], logs[place:]


def _no_heaps(low: Floats, high: Floats, glass: float, tissue: float) -> str | None:
    """Why two sorted halves of logarithms are no two heaps."""
    apart = tissue - glass
    if apart < _LEAST_RATIO:
        return f"its tiles are all of one kind: the heavier half weighs {np.exp(apart):.1f} times the lighter"
    if np.mean(high > high[-1] - _FIXED_WIDTH) > _FIXED_SHARE:
        return "its tiles were compressed to a prescribed size, whatever they show"
    if np.mean(np.abs(low - glass) < _GLASS_WIDTH) < _GLASS_SHARE:
        return "its light tiles differ too much from each other to be glass"
    cuts = (glass + apart / 3, glass + 2 * apart / 3)
    below, middle = (int(np.searchsorted(low, cut) + np.searchsorted(high, cut)) for cut in cuts)
    if middle - below > _VALLEY * min(below, low.size + high.size - middle):
        return "its tiles do not fall into two kinds"
    return None


def _largest_around(values: Floats) -> Floats:
    """(H, W): the largest of each tile and its eight neighbours."""
    down = values.copy()
    np.maximum(down[1:], values[:-1], out=down[1:])
    np.maximum(down[:-1], values[1:], out=down[:-1])
    across = down.copy()
    np.maximum(across[:, 1:], down[:, :-1], out=across[:, 1:])
    np.maximum(across[:, :-1], down[:, 1:], out=across[:, :-1])
    return across


def _thin(tissue: Mask) -> Mask:
    """What is nowhere three tiles wide, and what sticks out of what is; a slide's edge makes nothing thin."""
    core = ~grown(~tissue)
    return tissue & ~grown(grown(grown(core)))


def _specks(heavy: Mask, covered: Floats, least: float) -> Mask:
    """Patches of heavy tiles that hold less tissue than so many tiles do."""
    labels, num_patches = ndimage.label(heavy, _EIGHT)
    held = np.bincount(labels.ravel(), covered.ravel(), num_patches + 1)
    specks: Mask = (held < least)[labels] & heavy
    return specks


def _holes(heavy: Mask) -> Mask:
    """Patches of light tiles with heavier ones all around: what is smooth may lie there."""
    labels, num_patches = ndimage.label(~heavy)
    is_hole = np.bincount(labels.ravel(), minlength=num_patches + 1) <= max(_LARGEST_HOLE, _LARGEST_SHARE * heavy.size)
    is_hole[0] = False
    for rim in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        is_hole[rim] = False
    holes: Mask = is_hole[labels]
    return holes
