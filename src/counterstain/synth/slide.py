"""Whole synthetic slides with their truth.

A plane is rendered strip by strip into a pyramid; its labels are outlined. For very large slides a block can be rendered
once and repeated, which is as good for measuring memory and speed.

Does not know: cohorts, patch datasets.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from counterstain.errors import InputError
from counterstain.files import refuse_overwrite
from counterstain.geometry import Box, Size
from counterstain.layouts import find_layout
from counterstain.log import progress
from counterstain.results import Classes
from counterstain.synth.anatomy import Composition, Labels
from counterstain.synth.bank import BankPlane, BankSettings, open_bank
from counterstain.synth.look import Pixels
from counterstain.synth.pyramid import Container, Pyramid, write_pyramid
from counterstain.synth.scene import Plane, Scene, SceneSettings, blocks, sampled
from counterstain.synth.truth import (
    SlideTruth,
    Wording,
    outline,
    sample_labels,
    wording_of,
    write_geojson,
    write_mask,
)

_TRUTH_PX = 4000  # the truth's longer side has at most so many pixels, unless its mpp is given
_SMALL_PX = 768  # levels are added until the last is no longer than this on its longer side
_REPEAT_BLOCK_PX = 2048
_WHITE = (255, 255, 255)
_CONTAINERS: dict[str, Container] = {".svs": "aperio", ".scn": "leica"}


@dataclass(frozen=True)
class SlideSettings:
    """What a synthetic slide is.

    Args:
        size: Level 0.
        mpp: um/px.
        seed: Of the slide.
        difficulty: 0 to 1, as in `SceneSettings`.
        composition: How much of what.
        region_um: Size of a tumour bed; a fifth of the slide's shorter side, within reason, when None.
        patient_seed: Of the patient's stain and nuclei; the slide's when None.
        scanner_seed: Of the scanner; the slide's when None.
        variation: How far stains and scanners differ.
        covered: The part of the scanned area that tissue covers.
        margin_px: Of blank glass around it; where the container is "leica", not scanned at all, and a twentieth of the
            shorter side when None, else 0.
        layout: The dataset in whose classes the truth is told; a scene's own when None.
        container: "aperio", "generic" or "leica"; by the file's name, .svs, .scn or another, when None.
        has_mpp: Whether the file tells its resolution.
        downsamples: Of the smaller levels; fours until the last is small when None.
        tile_px: Width and height of tiles, a multiple of 16.
        jpeg_quality: 1 to 100.
        truth_mpp: um/px of the truth; 2, or what makes 4,000 px of the longer side, when None.
        is_truth_raster: Whether the truth is also written as an image.
        repeat_px: Width and height of a block that is rendered once and repeated; None renders all.
        bank: Real patches that the slide is composed from, instead of synthetic tissue.
    """

    size: Size = field(default_factory=lambda: Size(10_000, 10_000))
    mpp: float = 0.5
    seed: int = 0
    difficulty: float = 0.5
    composition: Composition = field(default_factory=Composition)
    region_um: float | None = None
    patient_seed: int | None = None
    scanner_seed: int | None = None
    variation: float = 0.7
    covered: float = 0.42
    margin_px: int | None = None
    layout: str | None = None
    container: Container | None = None
    has_mpp: bool = True
    downsamples: tuple[float, ...] | None = None
    tile_px: int = 256
    jpeg_quality: int = 85
    truth_mpp: float | None = None
    is_truth_raster: bool = False
    repeat_px: int | None = None
    bank: BankSettings | None = None

    @property
    def glass(self) -> Box:
        """The part inside the margin.

        Raises:
            InputError: When the margin leaves nothing.
        """
        margin = self.margin_px
        if margin is None:
            margin = max(1, min(self.size.width, self.size.height) // 20) if self.container == "leica" else 0
        inner = Box.whole(self.size).grown(-margin)
        if inner.is_empty or margin < 0:
            raise InputError(f"A margin of {margin} px was given on a slide of {self.size}; it leaves nothing.")
        return inner

    @property
    def scanned(self) -> Box:
        """The part that holds pixels."""
        return self.glass if self.container == "leica" else Box.whole(self.size)

    def scene(self, area: Box) -> SceneSettings:
        """The scene behind the slide, its tissue in an area."""
        shorter_um = min(area.width, area.height) * self.mpp
        return SceneSettings(
            seed=self.seed,
            mpp=self.mpp,
            difficulty=self.difficulty,
            composition=self.composition,
            region_um=self.region_um or min(max(shorter_um / 5, 500.0), 3000.0),
            patient_seed=self.patient_seed,
            scanner_seed=self.scanner_seed,
            variation=self.variation,
            tissue=area,
            covered=self.covered,
        )

    def pyramid(self) -> Pyramid:
        """The file."""
        downs = self.downsamples
        if downs is None:
            longer = max(self.scanned.width, self.scanned.height)
            downs = tuple(4.0**power for power in range(1, 8) if longer / 4.0 ** (power - 1) > _SMALL_PX)
        mpp = self.mpp if self.has_mpp else None
        return Pyramid(
            self.size, self.scanned, mpp, downs, self.tile_px, self.jpeg_quality, self.container or "generic"
        )


def write_slide(
    path: Path, settings: SlideSettings, truth: Path | None = None, plane: Plane | None = None
) -> SlideTruth:
    """Writes a slide and its truth.

    Args:
        path: The slide.
        settings: What it is.
        truth: The GeoJSON file; beside the slide, ending in `.truth.geojson`, when None.
        plane: What the slide shows, in its own classes; what the settings say when None.

    Raises:
        ExistingOutputError: When one of the files is there.
        InputError: When the settings can't be a slide.
        UnknownNameError: When the layout is none.
    """
    path = Path(path)
    truth = path.with_suffix(".truth.geojson") if truth is None else Path(truth)
    raster = truth.with_suffix(".png") if settings.is_truth_raster else None
    outputs = [output for output in (path, truth, raster) if output is not None]
    for output in outputs:
        refuse_overwrite(output)
    settings = replace(settings, container=settings.container or _CONTAINERS.get(path.suffix.lower(), "generic"))
    pyramid = settings.pyramid()
    is_own = settings.layout is None or settings.bank is not None or plane is not None
    layout = None if is_own else find_layout(str(settings.layout))
    for output in outputs:
        output.parent.mkdir(parents=True, exist_ok=True)
    with _plane(settings, path.parent) if plane is None else nullcontext(plane) as shown:
        wording = Wording.own(shown.classes) if layout is None else wording_of(layout)
        write_pyramid(path, pyramid, shown.render)
        return _write_truth(shown, settings, wording, truth, raster)


@contextmanager
def _plane(settings: SlideSettings, scratch: Path) -> Iterator[Plane]:
    area = settings.glass
    if settings.repeat_px is None:
        yield _single(settings, area)
        return
    block = Box(area.x, area.y, settings.repeat_px, settings.repeat_px)
    if not area.contains(block):
        raise InputError(f"Blocks of {settings.repeat_px} px do not fit into a slide of {settings.size}.")
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".block-") as folder:
        yield RepeatedPlane(_single(settings, block), block, Path(folder) / "pixels")


def _single(settings: SlideSettings, area: Box) -> Plane:
    scene = settings.scene(area)
    if settings.bank is None:
        return Scene(scene)
    return BankPlane(open_bank(settings.bank), scene)


class RepeatedPlane:
    """A block of another plane, repeated without end to the right and downwards.

    Args:
        plane: The other plane.
        block: What is repeated; tissue should not reach its rim.
        path: A file for the block's pixels.
    """

    def __init__(self, plane: Plane, block: Box, path: Path) -> None:
        self._plane, self.block = plane, block
        shape = (*block.size.shape, 3)
        self._pixels = np.memmap(path, np.uint8, "w+", shape=shape)
        parts = list(blocks(block.size, _REPEAT_BLOCK_PX))
        with progress("rendering block", len(parts), "parts") as counter:
            for part in parts:
                self._pixels[part.slices()] = plane.render(part.shifted(block.x, block.y))
                counter.advance()

    @property
    def mpp(self) -> float:
        """um/px of its pixels."""
        return self._plane.mpp

    @property
    def classes(self) -> Classes:
        """What its labels mean."""
        return self._plane.classes

    def render(self, box: Box) -> Pixels:
        """(H, W, 3) uint8 RGB of a box of whole pixels."""
        rows, columns = sampled(box, self.mpp, None)
        size = self.block.size
        within = (rows - round(self.block.y)) % size.height
        band = np.asarray(self._pixels[within])
        return band.take((columns - round(self.block.x)) % size.width, axis=1)

    def labels(self, box: Box, mpp: float | None = None) -> Labels:
        """(H, W) uint8 class at the centre of each pixel."""
        rows, columns = sampled(box, self.mpp, mpp)
        size = self.block.size
        whole = self._plane.labels(self.block)
        within = (rows - round(self.block.y)) % size.height
        return whole.take(within, axis=0).take((columns - round(self.block.x)) % size.width, axis=1)


def _write_truth(
    plane: Plane, settings: SlideSettings, wording: Wording, path: Path, raster: Path | None
) -> SlideTruth:
    area = settings.scanned
    longer_um = max(area.width, area.height) * settings.mpp
    mpp = settings.truth_mpp or max(2.0, longer_um / _TRUTH_PX)
    labels, frame = sample_labels(plane, area, mpp, wording)
    regions = outline(labels, frame, wording, settings.mpp)
    write_geojson(path, regions, wording.classes)
    if raster is not None:
        write_mask(raster, labels, wording.classes, wording.ignore, _WHITE)
    areas = {name: float((labels == number).sum()) * mpp**2 / 1e6 for number, name in enumerate(wording.classes.names)}
    return SlideTruth(path, raster, frame, mpp, wording.classes, tuple(regions), areas)
