"""Planted truth: slides whose pixels' colours say their class, and a model that reads them.

Whatever stands between a slide and an output (tiling, stitching, export) can be checked with them against the polygons that
were drawn, to a fraction of a pixel. The slides are arrays in a file, with levels at any ratio and bounds anywhere.

Does not know: what is being checked.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import shapely
import torch
from PIL import Image
from shapely import Polygon
from torch import Tensor, nn

from counterstain.geometry import Box, Mpp, Size
from counterstain.results import Classes
from counterstain.slides.base import Slide
from counterstain.slides.header import Header, Level, Resolution

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

PLANTED_CLASSES = Classes(
    ("glass", "tumour", "stroma"), ((255, 255, 255), (60, 60, 170), (240, 50, 130)), background="glass"
)
"""White, a violet and a pink: found as tissue, taken for no ink, and no blend of two is nearer to the third."""


@dataclass(frozen=True)
class PlantedInput:
    """The input of a planted model, as a method's."""

    tile_px: int = 64
    halo_px: int = 8
    mpp: float | None = 1.0
    white_is_background: bool = False


class PlantedModel:
    """A model that gives each pixel the class whose colour is nearest, with probability 1.

    Args:
        input: Tile and resolution.
        classes: Their colours are the slide's.
    """

    def __init__(self, input: PlantedInput | None = None, classes: Classes = PLANTED_CLASSES) -> None:
        self.input = input or PlantedInput()
        self.classes = classes
        self.network = nn.Identity()

    def predict_maps(self, images_BCHW: Tensor) -> Tensor:
        """(B, classes, H, W) float32: 1 for the nearest colour, 0 for the others."""
        colors_KC = torch.tensor(self.classes.colors, device=images_BCHW.device) / 255
        distances = torch.stack([(images_BCHW - color.view(1, 3, 1, 1)).abs().sum(1) for color in colors_KC], dim=1)
        return nn.functional.one_hot(distances.argmin(1), len(self.classes)).permute(0, 3, 1, 2).float()


@dataclass(frozen=True)
class PlantedSettings:
    """A slide to plant.

    Args:
        size: Level 0.
        mpp: Level 0.
        bounds: The scanned part; None for all of it.
        downsamples: Of the levels below level 0; fractions allowed.
    """

    size: Size
    mpp: float = 0.5
    bounds: Box | None = None
    downsamples: tuple[float, ...] = ()


class ArraySlide(Slide):
    """A slide kept as plain arrays, one for each level. Made by `plant`."""

    reader: ClassVar[str] = "array"

    @classmethod
    def detects(cls, path: Path) -> bool:
        return path.suffix == ".planted"

    def _read_header(self) -> Header:
        with zipfile.ZipFile(self.path) as file:
            tree = json.loads(file.read("header.json"))
        sizes = [Size(**size) for size in tree["sizes"]]
        return Header(
            levels=tuple(Level(size, sizes[0].width / size.width, sizes[0].height / size.height) for size in sizes),
            resolution=Resolution(Mpp.square(tree["mpp"]), "reader"),
            bounds=Box(**tree["bounds"]) if tree["bounds"] else None,
            properties={},
        )

    def _open(self) -> Any:
        with zipfile.ZipFile(self.path) as file:
            return [np.load(io.BytesIO(file.read(f"{number}.npy"))) for number in range(len(self.levels))]

    def _decode(self, handle: Any, level: int, box: Box) -> Pixels:
        pixels: Pixels = handle[level][box.slices()]
        return pixels


def plant(
    path: Path,
    settings: PlantedSettings,
    regions: Sequence[tuple[str, Polygon]],
    classes: Classes = PLANTED_CLASSES,
) -> ArraySlide:
    """Draws polygons as a slide.

    Args:
        path: The file to write.
        settings: The slide.
        regions: Class and polygon, level-0 pixels; later ones lie over earlier ones, and the class that is the
            background everywhere else. A pixel belongs to a polygon when its centre does.
        classes: Their colours are painted.
    """
    assert classes.background is not None, "something must lie around the regions"
    labels = np.full(settings.size.shape, classes.index(classes.background), np.uint8)
    for name, polygon in regions:
        _draw(labels, polygon, classes.index(name))
    levels = [np.array(classes.colors, np.uint8)[labels]]
    for downsample in settings.downsamples:
        size = (round(settings.size.width / downsample), round(settings.size.height / downsample))
        levels.append(np.asarray(Image.fromarray(levels[0]).resize(size, Image.Resampling.BOX)))
    header = {
        "sizes": [asdict(Size.of(level)) for level in levels],
        "mpp": settings.mpp,
        "bounds": asdict(settings.bounds) if settings.bounds else None,
    }
    with zipfile.ZipFile(path, "w") as file:
        # A fixed time keeps the content, and so its hash, the same from one call to the next.
        file.writestr(zipfile.ZipInfo("header.json"), json.dumps(header))
        for number, level in enumerate(levels):
            stream = io.BytesIO()
            np.save(stream, level)
            file.writestr(zipfile.ZipInfo(f"{number}.npy"), stream.getvalue())
    return ArraySlide(path)


def _draw(labels_HW: npt.NDArray[np.uint8], polygon: Polygon, label: int) -> None:
    left, top, right, bottom = polygon.bounds
    box = Box.from_corners(left, top, right, bottom).intersection(Box.whole(Size.of(labels_HW))).rounded_out()
    rows, columns = box.slices()
    y, x = np.mgrid[rows, columns] + 0.5
    labels_HW[rows, columns][shapely.contains_xy(polygon, x, y)] = label


def agreement(is_class: Mask, truth: Polygon, x: Floats, y: Floats, tolerance: float) -> float:
    """Intersection over union of a mask and a polygon, pixels near the polygon's rim counted as right.

    Args:
        is_class: (H, W) bool.
        truth: The polygon, level-0 pixels.
        x: (W,) the level-0 x of the centres of the mask's columns.
        y: (H,) likewise of its rows.
        tolerance: Level-0 pixels to either side of the rim.
    """
    grid_x, grid_y = np.meshgrid(x, y)
    inner = shapely.contains_xy(truth.buffer(-tolerance), grid_x, grid_y)
    outer = shapely.contains_xy(truth.buffer(tolerance), grid_x, grid_y)
    right = np.where(outer & ~inner, is_class, inner)
    both, either = (is_class & right).sum(), (is_class | right).sum()
    return float(both / either)
