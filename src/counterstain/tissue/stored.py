"""Tissue from the sizes of a slide's stored tiles; pixels are read only where these leave doubt.

The tiles of one level are the cells of the mask. Three of them are decoded to see whether what weighs like glass looks
like it, and what weighs like tissue is stained. Where cells are in doubt, blocks around them are read at about the
resolution of the pixel method and searched as that method searches; a cell is tissue where enough of it is covered.

    H  rows of cells    W  columns of cells

Does not know: what else tissue can be told from.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from counterstain.geometry import Box, Frame, Mpp, Point, Size
from counterstain.slides.base import Slide
from counterstain.slides.header import TileBytes
from counterstain.tissue.bytes import COVERED, Split, split_tiles
from counterstain.tissue.glass import Floats, is_dark, saturation
from counterstain.tissue.mask import Tissue
from counterstain.tissue.search import Found, Mask, Pixels, mended, search
from counterstain.tissue.settings import TissueSettings

_CODECS = ("jpeg", "jpeg2000", "webp")
_CELL_UM = (32.0, 160.0)  # smaller tiles are mostly header, larger ones too coarse for a mask
_PROBE_PX = 32  # width of a decoded tile that is looked at: averaging takes the noise out
_PALEST, _MOST_TINT = 150, 22  # of glass: its darkest channel, and how much its channels differ
_BLOCK = 8  # cells along a side of what is searched at once
_MARGIN_UM = 400.0  # around it: a pen stroke is told by its surroundings
_MOST_BLOCKS = 0.25  # of all cells: beyond it, the pixel method as a whole costs no more
_FEW_BLOCKS = 4  # are looked at on small slides as well
_MOST_MISSED = 4  # cells a block that are tissue and were taken for glass without doubt
_LEAST_CELL_PX = 4


@dataclass(frozen=True, eq=False)
class Cells:
    """The stored tiles of a level as cells of a mask.

    Args:
        split: The tiles told apart.
        frame: A pixel is a tile.
        parts: (H, W) in (0, 1], how much of each lies on the slide.
        pixel: um under a cell.
    """

    split: Split
    frame: Frame
    parts: npt.NDArray[np.float64]
    pixel: Mpp

    @property
    def tissue(self) -> Mask:
        """(H, W) bool: tissue, as far as sizes tell."""
        return self.split.tissue

    @property
    def doubt(self) -> Mask:
        """(H, W) bool: where they tell it badly."""
        return self.split.doubt


def find_in_bytes(slide: Slide, view_mpp: float, settings: TissueSettings) -> Tissue | str:
    """Finds tissue from the sizes of stored tiles.

    Args:
        slide: Of known resolution.
        view_mpp: um/px at which pixels are searched where they must be.
        settings: How.

    Returns:
        The tissue, empty where there is none; or why the sizes don't tell it, in words that follow "since".

    Raises:
        DamagedSlideError: When pixels that are looked at can't be decoded.
    """
    cells = split_stored(slide, settings)
    if isinstance(cells, str):
        return cells
    glass = _glass_of(slide, cells, settings)
    if isinstance(glass, str):
        return glass
    corners = _blocks(cells.doubt)
    if len(corners) > max(_FEW_BLOCKS, _MOST_BLOCKS * cells.doubt.size / _BLOCK**2):
        return f"{np.mean(cells.doubt):.1%} of its tiles, all over it, leave doubt"
    found = Found(cells.tissue.copy(), np.zeros_like(cells.doubt))
    for corner in corners:
        _look(slide, cells, corner, found, (view_mpp, glass, settings))
    if found.ink.any():
        return "there are pen marks on it, and over tissue its tiles' sizes don't tell them"
    missed = found.tissue & ~cells.tissue & ~cells.doubt
    if np.count_nonzero(missed) > _MOST_MISSED * len(corners):
        return "stained tissue on it weighs no more than glass"
    return Tissue(mended(found, cells.pixel, settings), cells.frame, found.ink if settings.inks else None)


def split_stored(slide: Slide, settings: TissueSettings) -> Cells | str:
    """Tells a slide's tiles apart by their sizes alone: nothing is decoded.

    Returns:
        The cells, or why they can't be told apart.
    """
    stored = _chosen_level(slide)
    if isinstance(stored, str):
        return stored
    parts = _parts(slide.levels[stored.level].size, stored)
    frame = _frame(slide, stored)
    pixel = Mpp(slide.mpp.x * frame.downsample_x, slide.mpp.y * frame.downsample_y)
    split = split_tiles(stored.counts, parts, stored.tile.area, settings.min_area_um2 / (pixel.x * pixel.y))
    return split if isinstance(split, str) else Cells(split, frame, parts, pixel)


def _chosen_level(slide: Slide) -> TileBytes | str:
    """The level whose tiles are the cells: the finest that are large enough."""
    levels = slide.tile_bytes()
    if levels is None:
        return f"the reader {slide.reader!r} does not tell the sizes of tiles"
    sides = [stored.tile.width * slide.levels[stored.level].downsample_x * slide.mpp.x for stored in levels]
    low, high = _CELL_UM
    fitting = [stored for stored, side in zip(levels, sides, strict=True) if low <= side <= high]
    if not fitting:
        return f"its finest tiles are {sides[0]:.0f} um wide; expected {low:.0f} to {high:.0f} um"
    if fitting[0].codec not in _CODECS:
        return "its tiles are stored raw, or by a codec whose sizes tell of noise more than of tissue"
    return fitting[0]


def _frame(slide: Slide, stored: TileBytes) -> Frame:
    level = slide.levels[stored.level]
    down_x, down_y = level.downsample_x * stored.tile.width, level.downsample_y * stored.tile.height
    return Frame(Point(0, 0), down_x, down_y, Size.of(stored.counts))


def _parts(size: Size, stored: TileBytes) -> npt.NDArray[np.float64]:
    """(H, W) in (0, 1]: how much of each tile lies on the level."""
    rows, columns = stored.counts.shape
    parts = np.ones((rows, columns))
    parts[-1] *= size.height / stored.tile.height - (rows - 1)
    parts[:, -1] *= size.width / stored.tile.width - (columns - 1)
    return parts


def _glass_of(slide: Slide, cells: Cells, settings: TissueSettings) -> Floats | str:
    """The colour of glass, from three tiles that are decoded; or why they are not what they weigh like."""
    split, heaps, weights = cells.split, cells.split.heaps, cells.split.weights
    is_glass = (weights <= heaps.noise) & ~split.tissue & ~split.doubt
    places = (
        np.abs(weights - heaps.glass).argmin(),
        np.where(is_glass, weights, 0.0).argmax(),  # the least sure of what counts as glass
        np.abs(np.where(split.tissue, weights, 0.0) - heaps.tissue).argmin(),
    )
    plain, light, heavy = (_probe(slide, cells.frame, int(place)) for place in places)
    color: Floats = np.median(plain.reshape(-1, 3), axis=0).astype(np.float32)
    if is_dark(plain) or color.min() < _PALEST or np.ptp(color) > _MOST_TINT:
        return "what weighs least on it has not the colour of glass"
    if _stained(light, color, settings) >= COVERED:
        return "stained tissue on it weighs no more than glass"
    return color if _stained(heavy, color, settings) >= COVERED else "what weighs most on it is not stained"


def _stained(view: Pixels, glass: Floats, settings: TissueSettings) -> float:
    """The share of a view that is surely stained."""
    light: Floats = np.clip(view.astype(np.float32), 1, glass) / glass
    return float((saturation(light) > settings.saturation[1]).mean())


def _probe(slide: Slide, frame: Frame, place: int) -> Pixels:
    row, column = divmod(place, frame.size.width)
    return slide.read_resized(frame.to_level0(Box(column, row, 1, 1)), Size(_PROBE_PX, _PROBE_PX))


def _blocks(doubt: Mask) -> list[tuple[int, int]]:
    """(row, column) of the first cell of each block that holds one in doubt."""
    return sorted({(row // _BLOCK * _BLOCK, column // _BLOCK * _BLOCK) for row, column in np.argwhere(doubt).tolist()})


def _look(
    slide: Slide, cells: Cells, corner: tuple[int, int], found: Found, by: tuple[float, Floats, TissueSettings]
) -> None:
    """Tells the cells of a block by its pixels, and writes them into `found`: those that were not in doubt as well."""
    view_mpp, glass, settings = by
    part = np.s_[corner[0] : corner[0] + _BLOCK, corner[1] : corner[1] + _BLOCK]
    height, width = cells.doubt[part].shape
    px = max(_LEAST_CELL_PX, round(cells.pixel.mean / view_mpp))
    margin = int(np.ceil(_MARGIN_UM / cells.pixel.mean))
    box = Box(corner[1], corner[0], width, height).grown(margin)
    view = slide.read_resized(cells.frame.to_level0(box), Size(round(box.width) * px, round(box.height) * px))
    view_pixel = Mpp(cells.pixel.x / px, cells.pixel.y / px)
    seen = search(view, glass, view_pixel, settings)
    inner = np.s_[margin * px : -margin * px, margin * px : -margin * px]
    tissue, ink = (
        _shares(mask[inner], px) / cells.parts[part] for mask in (mended(seen, view_pixel, settings), seen.ink)
    )
    found.tissue[part], found.ink[part] = tissue >= COVERED, ink >= COVERED


def _shares(mask: Mask, px: int) -> npt.NDArray[np.float64]:
    """(H, W) in [0, 1]: how much of each square of a mask is true."""
    height, width = mask.shape
    shares: npt.NDArray[np.float64] = mask.reshape(height // px, px, width // px, px).mean(axis=(1, 3))
    return shares
