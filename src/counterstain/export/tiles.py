"""GeoJSON of a map as a grid of tiles with a probability for each class, for QuPath's measurement maps.

A tile is a square of whole map pixels; its measurements are the means over the covered ones. A tile without any is left
out. Annotations would be slow by the thousand, so tiles are written as QuPath's own kind of object for this.

Does not know: regions; how tiles are cut for inference.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from counterstain.errors import InputError
from counterstain.export.blocks import blocks
from counterstain.export.geojson import (
    CoordinateFrame,
    check_frame,
    describe,
    feature,
    feature_id,
    frame_offset,
    write_features,
)
from counterstain.geometry import Box, Size
from counterstain.results import UNCOVERED, SlideMap

_MOST = 100_000  # objects; QuPath gets slow past them
_STRIP_PX = 4096  # map pixels of a row of tiles read at a time

Means = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TileSettings:
    """How large tiles are, and where coordinates start.

    Args:
        tile_um: Width and height, rounded to whole map pixels.
        frame: As `GeoJSONSettings` has it.

    Raises:
        InputError: When the size is not above 0.
        UnknownNameError: When the frame is none.
    """

    tile_um: float = 100.0
    frame: CoordinateFrame = "qupath"

    def __post_init__(self) -> None:
        check_frame(self.frame)
        if not self.tile_um > 0:
            raise InputError(f"Tiles of {self.tile_um} um were asked for; give a size above 0.")


def write_tiles(
    slide_map: SlideMap, path: Path, settings: TileSettings | None = None, *, overwrite: bool = False
) -> None:
    """Writes a map as tile objects.

    Args:
        slide_map: A finished map.
        path: As `write_geojson` takes it.
        settings: What to write; None for tiles of 100 um in QuPath's frame.
        overwrite: Replace a file that is there.

    Raises:
        ExistingOutputError: When the file is there and may not be replaced.
        InputError: When the grid has more tiles than QuPath shows at ease, or the file's name is not GeoJSON's.
    """
    settings = settings or TileSettings()
    tile, size = _tile_size(slide_map, settings.tile_um), slide_map.frame.size
    count = -(-size.width // tile.width) * -(-size.height // tile.height)
    if count > _MOST:
        raise InputError(
            f"Tiles of {settings.tile_um:g} um on this slide are {count:,}, more than the {_MOST:,} that QuPath shows at "
            "ease. Give larger tiles, or write the probabilities as OME-TIFF."
        )
    about = describe(slide_map, "counterstain.tiles", settings.frame, asdict(settings))
    features = (_tile(slide_map, box, means, settings.frame) for box, means in tile_means(slide_map, tile))
    write_features(path, features, about, overwrite=overwrite)


def tile_means(slide_map: SlideMap, tile: Size) -> Iterator[tuple[Box, Means]]:
    """The covered tiles of a map, row by row.

    Args:
        slide_map: A finished map.
        tile: In map pixels.

    Yields:
        The tile's box in map pixels; (1 + C,) float64: the covered share of its pixels, and the mean probability of
        each class over these.
    """
    label, probability = slide_map.label, slide_map.probability
    strip_px = tile.width * max(1, _STRIP_PX // tile.width)
    for strip in blocks(slide_map.frame.size, Size(strip_px, tile.height)):
        is_covered = label[strip.slices()] != UNCOVERED
        if not is_covered.any():
            continue
        values = np.asarray(probability[(slice(None), *strip.slices())], np.float64)
        for box in blocks(strip.size, tile):
            covered = is_covered[box.slices()]
            if covered.any():
                means = values[(slice(None), *box.slices())].mean(axis=(1, 2), where=covered)
                yield box.shifted(strip.x, strip.y), np.append(covered.mean(), means)


def _tile_size(slide_map: SlideMap, tile_um: float) -> Size:
    frame, mpp = slide_map.frame, slide_map.slide.mpp
    width, height = tile_um / (frame.downsample_x * mpp.x), tile_um / (frame.downsample_y * mpp.y)
    return Size(max(1, round(width)), max(1, round(height)))


def _tile(slide_map: SlideMap, box: Box, means: Means, frame: CoordinateFrame) -> dict[str, Any]:
    classes, offset = slide_map.classes, frame_offset(slide_map, frame)
    place = slide_map.frame.to_level0(box).intersection(slide_map.slide.bounds).shifted(-offset.x, -offset.y)
    best = int(means[1:].argmax())
    names = ["Covered", *(f"Probability: {name}" for name in classes.names)]
    return feature(
        shapely.box(place.x, place.y, place.right, place.bottom),
        feature_id(slide_map.inputs_hash, f"tile {box.x:g} {box.y:g}"),
        "tile",
        (classes.names[best], classes.colors[best]),
        dict(zip(names, means.tolist(), strict=True)),
    )
