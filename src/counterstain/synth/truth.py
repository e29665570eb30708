"""The truth of a slide as polygons and as a raster, from any plane's labels.

Labels are sampled at the centres of a frame's pixels and outlined half-way between them; outlines are in level-0 pixels.
A GeoJSON file of them opens in QuPath.

Does not know: how tissue is drawn.
"""

import itertools
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image

from counterstain.errors import UnknownNameError
from counterstain.files import atomic
from counterstain.geometry import Box, Frame, Mpp
from counterstain.layouts import PatchLayout
from counterstain.results import UNCOVERED, Classes, Region
from counterstain.synth.anatomy import SCENE_CLASSES, Labels
from counterstain.synth.scene import Plane

LAYOUT_NAMES: dict[str, dict[str, str]] = {
    "luad_histoseg": {
        "tumour epithelium": "tumour epithelium",
        "necrosis": "necrosis",
        "lymphocytes": "lymphocytes",
        "stroma": "tumour-associated stroma",
        "normal tissue": "tumour-associated stroma",
    },
    "bcss_wsss": {
        "tumour epithelium": "tumour",
        "stroma": "stroma",
        "lymphocytes": "lymphocytic infiltrate",
        "necrosis": "necrosis",
        "normal tissue": "stroma",
    },
    "wsss4luad": {
        "tumour epithelium": "tumour",
        "stroma": "stroma",
        "lymphocytes": "stroma",
        "necrosis": "stroma",
        "normal tissue": "normal",
    },
}
"""A scene's classes in each dataset's words; what is not named is white background, which scoring leaves out."""


@dataclass(frozen=True)
class Wording:
    """Labels of a plane in other words.

    Args:
        classes: The words.
        lookup: For each label of the plane, the label in these words, or `ignore`; (256,) uint8.
        ignore: What stands for nothing.
    """

    classes: Classes
    lookup: npt.NDArray[np.uint8]
    ignore: int

    @classmethod
    def own(cls, classes: Classes) -> "Wording":
        """A plane's own classes, its background left out."""
        lookup = np.arange(256, dtype=np.uint8)
        if classes.background is not None:
            lookup[classes.index(classes.background)] = UNCOVERED
        return cls(classes, lookup, UNCOVERED)

    @classmethod
    def of(cls, layout: PatchLayout, names: Mapping[str, str], plane: Classes = SCENE_CLASSES) -> "Wording":
        """A dataset's classes.

        Args:
            layout: The dataset.
            names: The plane's class names to the dataset's; others become what the dataset leaves out of scoring.
            plane: The plane's classes.

        Raises:
            UnknownNameError: When a name is no class.
        """
        lookup = np.full(256, layout.mask_ignore, np.uint8)
        for own, theirs in names.items():
            lookup[plane.index(own)] = layout.classes.index(theirs)
        return cls(layout.classes, lookup, layout.mask_ignore)


def wording_of(layout: PatchLayout) -> Wording:
    """How a scene's labels are called in a dataset.

    Raises:
        UnknownNameError: When it is not known for this dataset.
    """
    if layout.name not in LAYOUT_NAMES:
        raise UnknownNameError("dataset layout of synthetic tissue", layout.name, LAYOUT_NAMES)
    return Wording.of(layout, LAYOUT_NAMES[layout.name])


@dataclass(frozen=True)
class SlideTruth:
    """What is on a slide.

    Args:
        path: The GeoJSON file.
        raster: The label image, a palette PNG in pixels of `frame`; None when none was asked for.
        frame: Where the raster's pixels lie on the slide.
        mpp: um/px of the frame.
        classes: What its labels mean.
        regions: The polygons, level-0 pixels.
        areas_mm2: Of each class.
    """

    path: Path
    raster: Path | None
    frame: Frame
    mpp: float
    classes: Classes
    regions: tuple[Region, ...]
    areas_mm2: dict[str, float]


def sample_labels(plane: Plane, box: Box, mpp: float, wording: Wording) -> tuple[Labels, Frame]:
    """A plane's labels over a box, at a resolution, in given words.

    Returns:
        (H, W) uint8 and the frame that says where its pixels lie.
    """
    frame = Frame.covering(box, Mpp.square(plane.mpp), mpp)
    return wording.lookup[plane.labels(frame.box, mpp)], frame


def outline(labels: Labels, frame: Frame, wording: Wording, pixel_um: float) -> list[Region]:
    """The polygons of a label image, class by class.

    Args:
        labels: (H, W) uint8.
        frame: Where its pixels lie.
        wording: What its values mean.
        pixel_um: Width of a level-0 pixel.
    """
    regions = []
    for number, name in enumerate(wording.classes.names):
        polygons = _polygons(labels == number, frame)
        regions += [Region(polygon, name, polygon.area * pixel_um**2 / 1e6) for polygon in polygons]
    return regions


def _polygons(mask: npt.NDArray[np.bool_], frame: Frame) -> list[shapely.Polygon]:
    if not mask.any():
        return []
    # A margin of nothing closes what touches the rim.
    padded = np.pad(mask, 1).astype(np.float32)
    generator = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset)
    points, offsets = generator.filled(0.5, 2.0)
    step = np.array([frame.downsample_x, frame.downsample_y])
    origin = np.array([frame.origin.x, frame.origin.y])
    polygons = []
    for ring_points, ring_offsets in zip(points, offsets, strict=True):
        # Contour coordinates are pixel centres of the padded image; beyond the frame nothing was sampled.
        inside = np.clip(ring_points - 0.5, 0, (frame.size.width, frame.size.height))
        places = inside * step + origin
        rings = [places[start:end] for start, end in itertools.pairwise(ring_offsets)]
        polygons.append(shapely.Polygon(rings[0], rings[1:]))
    simple: list[shapely.Polygon] = shapely.simplify(polygons, 0.0, preserve_topology=False).tolist()
    return simple


def write_geojson(path: Path, regions: Sequence[Region], classes: Classes) -> None:
    """Writes regions as QuPath reads them, one feature a line.

    Args:
        path: The file; written atomically.
        regions: Polygons in level-0 pixels.
        classes: For their colours.
    """
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [\n')
        for number, region in enumerate(regions):
            file.write(("" if number == 0 else ",\n") + json.dumps(_feature(region, number, path.name, classes)))
        file.write("\n]}\n")


def _feature(region: Region, number: int, name: str, classes: Classes) -> dict[str, Any]:
    color = list(classes.colors[classes.index(region.class_name)])
    rings = [region.polygon.exterior, *region.polygon.interiors]
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"counterstain:truth:{name}:{number}")),
        "geometry": {
            "type": "Polygon",
            "coordinates": [np.round(np.asarray(ring.coords), 3).tolist() for ring in rings],
        },
        "properties": {
            "objectType": "annotation",
            "classification": {"name": region.class_name, "color": color},
            "isLocked": True,
            "measurements": {"area mm2": region.area_mm2},
        },
    }


def write_mask(path: Path, labels: Labels, classes: Classes, ignore: int, ignore_color: tuple[int, int, int]) -> None:
    """Writes labels as a palette PNG.

    Args:
        path: The file.
        labels: (H, W) uint8.
        classes: Their colours.
        ignore: The value that is no class.
        ignore_color: Its colour.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = classes.colors
    palette[ignore] = ignore_color
    image = Image.fromarray(labels, mode="L")
    image.putpalette(palette.tobytes())
    image.save(path)
