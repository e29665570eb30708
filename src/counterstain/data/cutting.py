"""The recipe that makes patches with tumour / no tumour labels out of annotated slides.

    slide + tissue + drawn tumour -> survey: every place with enough tissue, and its tumour pixels   (no patch is read)
    surveys of all slides         -> choice: tumour patches, and as many normal ones                 (seeded)
    slide + chosen places         -> pixels and masks, place by place

A patch with a little tumour is neither: its label would be wrong for a negative. Patches that are nearly all tumour are
thinned out, since nothing can be learned from them about where tumour ends.

Does not know: files, splits of patients, the ledger of what is done.

Source: the sampling of Camelyon16-P512 (Belharbi et al., "Deep Interpretable Classification and Weakly-Supervised
Segmentation of Histology Images via Max-Min Uncertainty", IEEE TMI 2022). Its upper threshold is not known to us.
"""

import hashlib
import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from counterstain.data import camelyon16
from counterstain.data.annotations import CAMELYON_GROUPS, GROUPS, Groups, TumourAreas
from counterstain.data.records import SPLITS
from counterstain.data.splits import Fractions
from counterstain.errors import InputError, UnsupportedSlideError
from counterstain.geometry import Box, Frame, Mpp, Point, Size
from counterstain.slides.base import Slide
from counterstain.slides.resample import Pixels
from counterstain.tiles import GridSettings, TileGrid, grid
from counterstain.tissue import Tissue, TissueSettings, find_tissue
from counterstain.tissue.polygons import Mask

MOST_ENLARGED = 1.1
"""A slide coarser than the patches by more than this is refused: enlarged pixels would pass for another scanner's."""

NUM_BINS = 10
"""Of the histogram of tumour fractions, over 0 to 1."""

_EDGE = 1e-6  # level-0 pixels


@dataclass(frozen=True)
class CutSettings:
    """The recipe; its defaults are Camelyon16-P512's where these are published.

    Args:
        patch_px: Width and height of a patch; also the step of the grid, so that patches do not overlap.
        patch_mpp: um/px of the patches; none cuts level 0 as it is.
        min_tissue: Share of a patch that must be tissue.
        min_fraction: Share of a tumour patch that must be tumour. Patches with less, but some, are left out.
        most_fraction: Tumour patches with a larger share are thinned out. Ours: the published threshold is not known.
        keep_above: Share of those that is kept, by a seeded draw.
        neg_pos_ratio: Normal patches for each tumour patch of a split, by a seeded draw.
        normal_from_tumour_slides: Whether places that no drawn area of tumour touches, not even by a hole in it, count as
            normal on tumour slides; annotations that miss some tumour would make them wrong.
        fractions: Of the patients in train, val and test, where neither the table nor the cohort says.
        seed: Of all draws.
        cohort: A published cohort whose names say labels and splits: camelyon16. None where a table says them.
        partly_drawn: Names of slides on which some tumour was not drawn: they go into train, and are never scored.
        tumour_groups: Annotation groups that stand for tumour.
        hole_groups: Annotation groups that are taken out of it.
        tissue: How tissue is found.

    Raises:
        InputError: When a number is out of its range.
    """

    patch_px: int = 512
    patch_mpp: float | None = None
    min_tissue: float = 0.1
    min_fraction: float = 0.2
    most_fraction: float = 0.9
    keep_above: float = 0.01
    neg_pos_ratio: float = 1.0
    normal_from_tumour_slides: bool = False
    fractions: Fractions = (0.8, 0.2, 0.0)
    seed: int = 0
    cohort: str | None = None
    partly_drawn: tuple[str, ...] = ()
    tumour_groups: tuple[str, ...] = GROUPS.tumour
    hole_groups: tuple[str, ...] = GROUPS.holes
    tissue: TissueSettings = field(default_factory=TissueSettings)

    def __post_init__(self) -> None:
        if self.patch_px < 1:
            raise InputError(f"Patches of {self.patch_px} px were asked for; give 1 or more, 512 for instance.")
        if self.patch_mpp is not None and not (math.isfinite(self.patch_mpp) and self.patch_mpp > 0):
            raise InputError(f"Patches of {self.patch_mpp} um/px were asked for; give a finite number above 0.")
        for name in ("min_tissue", "most_fraction", "keep_above"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} was given as {getattr(self, name)}; give a share from 0 to 1.")
        if not 0 < self.min_fraction <= self.most_fraction:
            raise InputError(
                f"min_fraction was given as {self.min_fraction}, most_fraction as {self.most_fraction}; the first must be "
                "above 0 and not above the second."
            )
        if not (math.isfinite(self.neg_pos_ratio) and self.neg_pos_ratio >= 0):
            raise InputError(f"neg_pos_ratio was given as {self.neg_pos_ratio}; give 0 or a finite number above it.")
        _ = self.groups  # refuses groups that contradict each other before the first slide

    @property
    def groups(self) -> Groups:
        """What annotation groups stand for."""
        return Groups(self.tumour_groups, self.hole_groups)

    def for_survey(self) -> tuple[object, ...]:
        """The fields that a survey depends on; the others only choose among its places."""
        return self.patch_px, self.patch_mpp, self.min_tissue, self.tumour_groups, self.hole_groups, self.tissue


PRESETS: dict[str, CutSettings] = {
    "camelyon16_p512": CutSettings(
        cohort="camelyon16", partly_drawn=camelyon16.PARTLY_DRAWN, hole_groups=CAMELYON_GROUPS.holes
    )
}
"""Recipes by name."""


@dataclass(frozen=True, eq=False)
class Survey:
    """The places of a slide that may become patches.

    Args:
        corners: (N, 2) float64, the left upper corners (x, y), level-0 pixels, in reading order.
        tumour_px: (N,) int64, pixels of the patch that are tumour.
        downsample: Level-0 pixels under a patch's pixel, along x and y.
        mpp: um/px of the slide's level 0, along x and y.
        is_touched: (N,) bool, whether a drawn area of tumour reaches into the place, be it by less than a pixel's centre
            or by a hole in it.
    """

    corners: npt.NDArray[np.float64]
    tumour_px: npt.NDArray[np.int64]
    downsample: tuple[float, float]
    mpp: tuple[float, float]
    is_touched: npt.NDArray[np.bool_]

    def frame(self, place: int, patch_px: int) -> Frame:
        """The patch at a place, as a plane of pixels."""
        x, y = self.corners[place].tolist()
        return Frame(Point(x, y), *self.downsample, Size(patch_px, patch_px))


def survey_slide(slide: Slide, areas: TumourAreas | None, settings: CutSettings) -> Survey:
    """Looks where patches could be cut, without reading any.

    Args:
        slide: Of known resolution.
        areas: Its tumour; None when it has none.
        settings: The recipe.

    Raises:
        NoTissueError: When the slide shows no tissue.
        MissingResolutionError: When its resolution is unknown.
        UnsupportedSlideError: When it is coarser than the patches.
        InputError: When its tumour lies wholly beside it: another slide's annotation.
        DamagedSlideError: When its overview can't be decoded.
    """
    if settings.patch_mpp is not None and slide.mpp.mean > MOST_ENLARGED * settings.patch_mpp:
        raise UnsupportedSlideError(
            f"Slide '{slide.path}' has {slide.mpp.mean:.4g} um/px; patches of {settings.patch_mpp:.4g} can't be cut from "
            "it. Ask for coarser patches, or leave it out."
        )
    if areas is not None and not areas.touches(Box.whole(slide.size)):
        raise InputError(
            f"All tumour drawn for '{slide.path}' lies beside its {slide.size.width} x {slide.size.height} px."
        )
    tissue = find_tissue(slide, settings.tissue)
    slide.close()  # lets go of the overview's tiles; it opens again by itself
    tiles = _grid(slide, tissue, settings)
    downsample = tiles.frame.downsample_x, tiles.frame.downsample_y
    boxes = [box for box in _whole_patches(slide, tiles) if tissue.coverage(box) >= settings.min_tissue]
    patch = Size(settings.patch_px, settings.patch_px)
    frames = [Frame(Point(box.x, box.y), *downsample, patch) for box in boxes]
    touched = [areas is not None and areas.touches(frame.box) for frame in frames]
    counts = [
        int(np.count_nonzero(areas.mask(frame))) if areas is not None and is_touched else 0
        for frame, is_touched in zip(frames, touched, strict=True)
    ]
    corners = np.array([(box.x, box.y) for box in boxes], np.float64).reshape(-1, 2)
    mpp = slide.mpp.x, slide.mpp.y
    return Survey(corners, np.array(counts, np.int64), downsample, mpp, np.array(touched, np.bool_))


def _grid(slide: Slide, tissue: Tissue, settings: CutSettings) -> TileGrid:
    steps = GridSettings(settings.patch_px)
    if settings.patch_mpp is None:
        # Of level 0 only the ratio counts, and a ratio of exactly 1 is read without resampling, whatever its um/px are.
        return grid(slide.bounds, Mpp.square(1.0), 1.0, steps, tissue)
    return grid(slide.bounds, slide.mpp, settings.patch_mpp, steps, tissue)


def _whole_patches(slide: Slide, tiles: TileGrid) -> Iterator[Box]:
    """Tiles that lie wholly on the scanned part: beyond it a reader would fill up with white."""
    scanned = slide.bounds.grown(_EDGE)
    return (box for row, x in tiles if scanned.contains(box := tiles.box(row, x)))


@dataclass(frozen=True, eq=False)
class Surveyed:
    """A slide's survey with what the choice depends on.

    Args:
        survey: Its places.
        is_tumour: Whether the slide holds tumour.
        split: train, val or test.
    """

    survey: Survey
    is_tumour: bool
    split: str


@dataclass(frozen=True, slots=True)
class Picks:
    """The places of a slide that become patches, in reading order.

    Args:
        tumour: Positions in its survey.
        normal: Likewise.
        num_slight: Places left out for having some tumour, but too little.
        num_thinned: Places left out for being nearly all tumour.
    """

    tumour: tuple[int, ...]
    normal: tuple[int, ...]
    num_slight: int
    num_thinned: int


def choose(slides: Mapping[str, Surveyed], settings: CutSettings) -> dict[str, Picks]:
    """Chooses among the places of all slides.

    Every place has a number in [0, 1) of its own, drawn from the seed and its slide's name. Tumour patches above
    `most_fraction` stay when theirs is below `keep_above`; normal patches are those of a split with the smallest numbers.

    Args:
        slides: Surveys by name.
        settings: The recipe.

    Returns:
        Picks by name, for every slide. A split whose normal slides have too few places gets fewer than asked.
    """
    draws = {name: _draws(name, len(one.survey.tumour_px), settings.seed) for name, one in slides.items()}
    tumour = {name: _tumour_places(one, draws[name], settings) for name, one in slides.items()}
    normal: dict[str, list[int]] = {name: [] for name in slides}
    for split in SPLITS:
        inside = {name: one for name, one in slides.items() if one.split == split}
        wanted = round(settings.neg_pos_ratio * sum(len(tumour[name]) for name in inside))
        for _, name, place in heapq.nsmallest(wanted, _normal_places(inside, draws, settings)):
            normal[name].append(place)
    return {
        name: Picks(tumour[name], tuple(sorted(normal[name])), *_left_out(one, tumour[name], settings))
        for name, one in slides.items()
    }


def _draws(name: str, number: int, seed: int) -> npt.NDArray[np.float64]:
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.default_rng([seed, key]).random(number)


def _fractions(one: Surveyed, settings: CutSettings) -> npt.NDArray[np.float64]:
    return one.survey.tumour_px / settings.patch_px**2


def _tumour_places(one: Surveyed, draws: npt.NDArray[np.float64], settings: CutSettings) -> tuple[int, ...]:
    fractions = _fractions(one, settings)
    is_kept = (fractions >= settings.min_fraction) & (
        (fractions <= settings.most_fraction) | (draws < settings.keep_above)
    )
    return tuple(np.flatnonzero(is_kept).tolist())


def _normal_places(
    slides: Mapping[str, Surveyed], draws: Mapping[str, npt.NDArray[np.float64]], settings: CutSettings
) -> Iterator[tuple[float, str, int]]:
    for name, one in slides.items():
        if one.is_tumour and not settings.normal_from_tumour_slides:
            continue
        for place in np.flatnonzero(~one.survey.is_touched).tolist():
            yield float(draws[name][place]), name, place


def _left_out(one: Surveyed, tumour: tuple[int, ...], settings: CutSettings) -> tuple[int, int]:
    fractions = _fractions(one, settings)
    num_slight = int(np.count_nonzero((fractions > 0) & (fractions < settings.min_fraction)))
    return num_slight, int(np.count_nonzero(fractions >= settings.min_fraction)) - len(tumour)


def histogram(
    slides: Mapping[str, Surveyed], picks: Mapping[str, Picks], settings: CutSettings
) -> dict[str, list[int]]:
    """How many of each split's tumour patches have which share of tumour, in NUM_BINS bins over 0 to 1."""
    shares: dict[str, list[float]] = {split: [] for split in SPLITS}
    for name, one in slides.items():
        shares[one.split] += _fractions(one, settings)[list(picks[name].tumour)].tolist()
    return {split: np.histogram(of, NUM_BINS, (0.0, 1.0))[0].tolist() for split, of in shares.items()}


def read_patch(slide: Slide, frame: Frame) -> Pixels:
    """The pixels of a patch.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DamagedSlideError: When they can't be decoded.
    """
    return slide.read_resized(frame.box, frame.size)


def patch_mask(areas: TumourAreas | None, frame: Frame) -> npt.NDArray[np.uint8]:
    """The truth of a patch.

    Returns:
        (H, W) uint8: 0 normal, 1 tumour.
    """
    mask: Mask = np.zeros(frame.size.shape, bool) if areas is None else areas.mask(frame)
    return mask.astype(np.uint8)
