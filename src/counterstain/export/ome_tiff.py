"""Pyramidal OME-TIFF of a map: its classes in their colours, or its probabilities.

A class map is written as RGB. A single channel of small integers would be exact too, but viewers show it black, and a
TIFF palette is lost on most readers of OME; colours show rightly everywhere, and since every class has its own, labels
come back from them exactly: `read_class_map` does so with the palette that stands in the OME-XML. Probabilities are
float32 channels in [0, 1], exactly the map's own, NaN where nothing was predicted.

A pixel is a pixel of the map. PhysicalSize gives its um; the planes' position says where the first pixel's outer corner
lies, from the corner of the slide's level 0. Smaller levels lie in SubIFDs, each half the one above, rounded up: classes
by the nearest pixel (pyramid.py), probabilities by the mean over covered ones. Everything is written tile by tile.

Does not know: polygons, pictures with legends.
"""

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile
import zarr

from counterstain import __version__
from counterstain.errors import InputError
from counterstain.export.blocks import blocks
from counterstain.export.geojson import Placed
from counterstain.export.pyramid import TILE_PX, ClassPyramid, level_sizes
from counterstain.files import atomic, existing, refuse_overwrite
from counterstain.geometry import Box, Frame, Point, Size
from counterstain.infer.chunks import opened
from counterstain.results import RGB, UNCOVERED, Classes, SlideMap, SlideRecord

_STRIP_PX = 8 * TILE_PX  # map pixels of a row of tiles read at a time
_BIG = 1 << 31  # bytes; past it a classic TIFF's offsets might not reach
_EFFORT = 2  # of deflate: 6 takes two to three times as long for 5 % on probabilities
_NAMESPACE = "counterstain.map"
_SUFFIXES = (".ome.tiff", ".ome.tif")
_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "https://pypi.org/project/counterstain")

Pixels = npt.NDArray[Any]
Palette = npt.NDArray[np.uint8]


class Gridded(Placed, Protocol):
    """What lies on a slide as a grid of pixels."""

    @property
    def frame(self) -> Frame:
        """Where its pixels lie."""


def write_class_map(slide_map: SlideMap, path: Path, *, overwrite: bool = False) -> None:
    """Writes the label map in the colours of its classes.

    Args:
        slide_map: A finished map.
        path: Ends in .ome.tiff or .ome.tif.
        overwrite: Replace a file that is there.

    Raises:
        ExistingOutputError: When the file is there and may not be replaced.
        InputError: When two classes share a colour, or the file's name would keep readers from knowing it.
    """
    palette = class_palette(slide_map.classes)
    picture = _Picture(
        shape=(), dtype=np.dtype(np.uint8), channels={"Name": ["class"]}, is_rgb=True, about=_about_classes(slide_map)
    )
    path = _target(path, overwrite)
    with atomic(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as spool:
        pyramid = ClassPyramid(opened(slide_map.label), palette, UNCOVERED, spool)
        levels = [(size, pyramid.tiles(number)) for number, size in enumerate(pyramid.sizes)]
        _write(temporary, picture, levels, slide_map)


def write_probability_map(slide_map: SlideMap, path: Path, *, overwrite: bool = False) -> None:
    """Writes the probabilities, a channel for each class.

    Args:
        slide_map: A finished map.
        path: Ends in .ome.tiff or .ome.tif.
        overwrite: Replace a file that is there.

    Raises:
        ExistingOutputError: When the file is there and may not be replaced.
        InputError: When the file's name would keep readers from knowing it.
    """
    classes = slide_map.classes
    picture = _Picture(
        shape=(len(classes),),
        dtype=np.dtype(np.float32),
        channels={"Name": list(classes.names), "Color": [_packed(color) for color in classes.colors]},
        is_rgb=False,
        about=_about_classes(slide_map),
    )
    path = _target(path, overwrite)
    with atomic(path) as temporary, tempfile.TemporaryDirectory(dir=path.parent, prefix=".levels-") as folder:
        levels = _probability_levels(slide_map.probability, slide_map.frame.size, Path(folder))
        _write(temporary, picture, [(one.size, _tiles(picture, one)) for one in levels], slide_map)


def write_values(
    placed: Gridded, path: Path, values: Mapping[str, Pixels], about: Mapping[str, str], *, overwrite: bool = False
) -> None:
    """Writes numbers on a slide's grid, a float32 channel for each name.

    Args:
        placed: Where they lie and what they were made from.
        path: Ends in .ome.tiff or .ome.tif.
        values: (H, W) float32 by the channels' names, NaN where there is none.
        about: What else is kept in the OME-XML, as text.
        overwrite: Replace a file that is there.

    Raises:
        ExistingOutputError: When the file is there and may not be replaced.
        InputError: When the file's name would keep readers from knowing it.
    """
    stacked = np.stack([np.asarray(channel, np.float32) for channel in values.values()])
    picture = _Picture(
        shape=(len(values),),
        dtype=np.dtype(np.float32),
        channels={"Name": list(values)},
        is_rgb=False,
        about=dict(about),
    )
    path = _target(path, overwrite)
    with atomic(path) as temporary, tempfile.TemporaryDirectory(dir=path.parent, prefix=".levels-") as folder:
        levels = _probability_levels(stacked, placed.frame.size, Path(folder))
        _write(temporary, picture, [(one.size, _tiles(picture, one)) for one in levels], placed)


def class_palette(classes: Classes) -> Palette:
    """(256, 3) uint8: the colour of each label; labels of no class have the colour of `UNCOVERED`.

    Uncovered pixels are white, or the lightest grey that is no class's own.

    Raises:
        InputError: When two classes share a colour.
    """
    for index, color in enumerate(classes.colors):
        if color in classes.colors[:index]:
            other = classes.names[classes.colors.index(color)]
            raise InputError(
                f"Classes {other!r} and {classes.names[index]!r} share the colour {color}, so that a picture could not "
                "tell them apart. Give each class a colour of its own."
            )
    paper = next((grey, grey, grey) for grey in range(255, -1, -1) if (grey, grey, grey) not in classes.colors)
    palette = np.full((256, 3), paper, np.uint8)
    palette[: len(classes)] = classes.colors
    return palette


@dataclass(frozen=True)
class ClassMap:
    """A class map read back from its OME-TIFF.

    Args:
        label: (H, W) uint8, as `SlideMap.label`.
        classes: What its values mean.
        frame: Where its pixels lie on the slide.
        slide: What it was made from.
        inputs_hash: Of everything that went into it.
    """

    label: npt.NDArray[np.uint8]
    classes: Classes
    frame: Frame
    slide: SlideRecord
    inputs_hash: str


def read_class_map(path: Path | str) -> ClassMap:
    """The labels in an OME-TIFF that `write_class_map` wrote, all of them in memory.

    Raises:
        MissingFileError: When it is not there.
        InputError: When it was not written by us, or its colours were changed since.
    """
    path = existing(path, "an OME-TIFF of a class map")
    try:
        with tifffile.TiffFile(path) as tif:
            about = _annotation(tif.ome_metadata)
            pixels = tif.series[0].levels[0].asarray()
    except tifffile.TiffFileError as error:
        raise InputError(
            f"{path} is no TIFF: {error}. Give a map.ome.tiff that was exported by this program."
        ) from error
    if about is None or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InputError(f"{path} is no class map of ours. Give a map.ome.tiff that was exported by this program.")
    classes = Classes.from_json(json.loads(about["classes"]))
    frame = json.loads(about["frame"])
    return ClassMap(
        label=_labels(pixels, class_palette(classes), len(classes), path),
        classes=classes,
        frame=Frame(Point(**frame["origin"]), frame["downsample_x"], frame["downsample_y"], Size(**frame["size"])),
        slide=SlideRecord.from_json(json.loads(about["slide"])),
        inputs_hash=about["inputs_hash"],
    )


def _labels(pixels: Pixels, palette: Palette, num_classes: int, path: Path) -> npt.NDArray[np.uint8]:
    """The label of each colour."""
    weights = np.array((1 << 16, 1 << 8, 1), np.uint32)
    numbers = np.append(np.arange(num_classes), UNCOVERED).astype(np.uint8)
    codes = palette[numbers] @ weights
    order = np.argsort(codes)
    label = np.empty(pixels.shape[:2], np.uint8)
    for row, line in enumerate(pixels):
        wanted = line @ weights
        places = np.minimum(np.searchsorted(codes[order], wanted), len(codes) - 1)
        if not np.array_equal(codes[order][places], wanted):
            raise InputError(
                f"{path} has colours in row {row} that are of no class. Export it again: it was changed since."
            )
        label[row] = numbers[order][places]
    return label


@dataclass(frozen=True)
class _Picture:
    """What kind of picture is written.

    Args:
        shape: Of what comes before (rows, columns): () or (channels,).
        dtype: Of a sample.
        channels: Names and colours as OME-XML has them.
        is_rgb: Whether a pixel has three samples.
        about: What is kept in the OME-XML beside frame, slide and inputs.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    channels: dict[str, Any]
    is_rgb: bool
    about: dict[str, str]

    @property
    def num_planes(self) -> int:
        return self.shape[0] if self.shape else 1


@dataclass(frozen=True)
class _Level:
    """One resolution: its size, and the values of a plane in a box."""

    size: Size
    read: Callable[[int, Box], Pixels]


def _probability_levels(probability: Any, size: Size, folder: Path) -> list[_Level]:
    """Levels that are means of the one above, kept on disk while they are written."""

    def level(array: Any, own: Size) -> _Level:
        return _Level(own, lambda plane, box: np.asarray(array[(plane, *box.slices())], np.float32))

    levels = [level(probability, size)]
    for own in level_sizes(size)[1:]:
        array = zarr.create_array(
            folder / f"{len(levels)}.zarr",
            shape=(probability.shape[0], *own.shape),
            chunks=(1, TILE_PX, TILE_PX),
            dtype=np.float32,
            fill_value=np.nan,
        )
        finer = levels[-1]
        for block in blocks(own, Size(TILE_PX, TILE_PX)):
            source = block.scaled(2).intersection(Box.whole(finer.size))
            for plane in range(probability.shape[0]):
                array[(plane, *block.slices())] = _halved_mean(finer.read(plane, source))
        levels.append(level(array, own))
    return levels


def _halved_mean(values: Pixels) -> Pixels:
    """(h, w) float32 to half of it, rounded up: means of 2 x 2 that leave NaN out; NaN where all four are."""
    height, width = values.shape
    even = np.pad(values, ((0, height % 2), (0, width % 2)), constant_values=np.nan)
    fours = even.reshape((height + 1) // 2, 2, (width + 1) // 2, 2)
    num_covered = np.isfinite(fours).sum(axis=(1, 3))
    sums = np.nansum(fours, axis=(1, 3), dtype=np.float32)
    means: Pixels = np.divide(sums, num_covered, out=np.full_like(sums, np.nan), where=num_covered > 0)
    return means


def _target(path: Path, overwrite: bool) -> Path:
    path = Path(path)
    if not path.name.lower().endswith(_SUFFIXES):
        raise InputError(f"{path} was given for an OME-TIFF; its name must end in one of: {', '.join(_SUFFIXES)}.")
    if not overwrite:
        refuse_overwrite(path)
    return path


def _write(path: Path, picture: _Picture, levels: list[tuple[Size, Iterator[Any]]], placed: Gridded) -> None:
    """Writes levels, each with its tiles in the order of the file, as pixels or coded already."""
    samples = (3,) if picture.is_rgb else ()
    num_bytes = picture.num_planes * levels[0][0].area * picture.dtype.itemsize * (3 if picture.is_rgb else 1)
    mpp_x, mpp_y = _pixel_um(placed)
    with tifffile.TiffWriter(path, bigtiff=num_bytes > _BIG, ome=True) as tif:
        for number, (size, tiles) in enumerate(levels):
            first = {"subifds": len(levels) - 1, "metadata": _metadata(picture, placed)}
            tif.write(
                tiles,
                shape=(*picture.shape, *size.shape, *samples),
                dtype=picture.dtype,
                tile=(TILE_PX, TILE_PX),
                # Without a predictor: Bio-Formats refuses the floating-point one.
                compression="zlib",
                compressionargs={"level": _EFFORT},
                photometric="rgb" if picture.is_rgb else "minisblack",
                resolution=(1e4 / (mpp_x * 2**number), 1e4 / (mpp_y * 2**number)),
                resolutionunit="CENTIMETER",
                software=f"counterstain {__version__}",
                **(first if number == 0 else {"subfiletype": 1, "metadata": None}),
            )


def _tiles(picture: _Picture, level: _Level) -> Iterator[Pixels]:
    """The tiles of all planes of a level, in the order of the file; NaN beyond the edge."""
    for plane in range(picture.num_planes):
        for strip in blocks(level.size, Size(_STRIP_PX, TILE_PX)):
            values = level.read(plane, strip)
            for box in blocks(strip.size, Size(TILE_PX, TILE_PX)):
                tile = np.full((TILE_PX, TILE_PX), np.nan, picture.dtype)
                tile[: box.size.height, : box.size.width] = values[box.slices()]
                yield tile


def _pixel_um(placed: Gridded) -> tuple[float, float]:
    frame, mpp = placed.frame, placed.slide.mpp
    return frame.downsample_x * mpp.x, frame.downsample_y * mpp.y


def _metadata(picture: _Picture, placed: Gridded) -> dict[str, Any]:
    """What tifffile puts into the OME-XML."""
    frame, mpp, planes = placed.frame, placed.slide.mpp, picture.num_planes
    mpp_x, mpp_y = _pixel_um(placed)
    return {
        "axes": "YXS" if picture.is_rgb else "CYX",
        "UUID": str(uuid.uuid5(_IDS, placed.inputs_hash)),
        "Creator": f"counterstain {__version__}",
        "Name": Path(placed.slide.path).name,
        "PhysicalSizeX": mpp_x,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp_y,
        "PhysicalSizeYUnit": "µm",
        "Channel": picture.channels,
        "Plane": {
            "PositionX": [frame.origin.x * mpp.x] * planes,
            "PositionXUnit": ["µm"] * planes,
            "PositionY": [frame.origin.y * mpp.y] * planes,
            "PositionYUnit": ["µm"] * planes,
        },
        "MapAnnotation": {
            "Namespace": _NAMESPACE,
            "Value": {
                "inputs_hash": placed.inputs_hash,
                "frame": json.dumps(asdict(frame)),
                "slide": json.dumps(placed.slide.to_json()),
                **picture.about,
            },
        },
    }


def _about_classes(slide_map: SlideMap) -> dict[str, str]:
    return {"classes": json.dumps(slide_map.classes.to_json())}


def _packed(color: RGB) -> int:
    """RGBA as OME-XML wants it: one signed 32-bit integer."""
    red, green, blue = color
    packed = red << 24 | green << 16 | blue << 8 | 255
    return packed - (1 << 32) if packed >= 1 << 31 else packed


def _annotation(ome_xml: str | None) -> dict[str, str] | None:
    """Our own annotation in an OME-XML; None where it has none."""
    if ome_xml is None:
        return None
    for found in ElementTree.fromstring(ome_xml).findall(".//{*}MapAnnotation"):
        if found.get("Namespace") == _NAMESPACE:
            return {entry.get("K", ""): entry.text or "" for entry in found.findall(".//{*}M")}
    return None
