"""GeoJSON that QuPath opens, written feature by feature, and GeoJSON from QuPath or elsewhere read back.

Regions become annotations with class, colour and measurements. Coordinates are level-0 pixels; QuPath crops a slide to its
scanned part and starts counting there, so the corner of that part is subtracted unless asked otherwise. Which of the two
was done stands in the file, in a member `counterstain` that other readers pass over, and reading adds it back.

Does not know: how regions come about, other formats.
"""

import gzip
import hashlib
import io
import json
import math
import tempfile
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, get_args

import numpy as np
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from counterstain import __version__
from counterstain.errors import InputError, UnknownNameError
from counterstain.export.coordinates import polygon_texts, rounded
from counterstain.export.regions import RegionBatch, RegionSettings, mixed_batches, traced_classes
from counterstain.files import atomic, refuse_overwrite
from counterstain.geometry import Point
from counterstain.results import RGB, Classes, SlideMap, SlideRecord

CoordinateFrame = Literal["qupath", "openslide"]

_MEMBER = "counterstain"
_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".geojson.zip", ".json.zip")
_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "https://pypi.org/project/counterstain")
_VARIANTS = dict(zip("0123456789abcdef", 4 * "89ab", strict=True))  # of UUIDs: two bits of a digit are given
_AT_ONCE = 64  # features
_KEPT_BYTES = 4 << 20  # of a class's features, before they go to a file
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))  # made once: json.dumps would make one a feature


class Placed(Protocol):
    """What is said of a slide and knows which: a map, or evidence."""

    @property
    def slide(self) -> SlideRecord:
        """What it was made from."""

    @property
    def inputs_hash(self) -> str:
        """Of everything that went into it."""


@dataclass(frozen=True)
class GeoJSONSettings:
    """What is written, and where its coordinates start.

    Args:
        regions: Which regions.
        frame: "qupath" counts from the corner of the scanned part, "openslide" from the corner of level 0.

    Raises:
        UnknownNameError: When the frame is neither.
    """

    regions: RegionSettings = field(default_factory=RegionSettings)
    frame: CoordinateFrame = "qupath"

    def __post_init__(self) -> None:
        check_frame(self.frame)


def check_frame(frame: str) -> None:
    """Refuses a frame that is none.

    Raises:
        UnknownNameError: When it is not known.
    """
    if frame not in get_args(CoordinateFrame):
        raise UnknownNameError("coordinate frame", frame, get_args(CoordinateFrame))


def write_geojson(
    slide_map: SlideMap, path: Path, settings: GeoJSONSettings | None = None, *, overwrite: bool = False
) -> None:
    """Writes the regions of a map as annotations.

    Args:
        slide_map: A finished map.
        path: Ends in .geojson or .json; .gz or .zip behind it compresses.
        settings: What to write; None for all regions in QuPath's frame.
        overwrite: Replace a file that is there.

    Raises:
        ExistingOutputError: When the file is there and may not be replaced.
        InputError: When the file's name would keep QuPath from opening it.
        UnknownNameError: When a class in the settings is none of the map's.
    """
    settings = settings or GeoJSONSettings()
    traced_classes(slide_map, settings.regions)  # refuses unknown ones before a file is begun
    about = describe(slide_map, "counterstain.regions", settings.frame, asdict(settings.regions))
    write_texts(path, _annotations(slide_map, settings, Path(path).parent), about, overwrite=overwrite)


def frame_offset(placed: Placed, frame: CoordinateFrame) -> Point:
    """What is subtracted from level-0 coordinates in a frame."""
    bounds = placed.slide.bounds
    return Point(bounds.x, bounds.y) if frame == "qupath" else Point(0, 0)


def feature_id(inputs_hash: str, name: str) -> str:
    """A UUID that is the same whenever the same thing is written again: uuid5, without its objects."""
    return next(feature_ids(inputs_hash, [name]))


def feature_ids(inputs_hash: str, names: Iterable[str]) -> Iterator[str]:
    """The identities of many features."""
    stem = hashlib.sha1(_IDS.bytes + f"{inputs_hash} ".encode(), usedforsecurity=False)
    for name in names:
        digest = stem.copy()
        digest.update(name.encode())
        words = digest.hexdigest()
        yield f"{words[:8]}-{words[8:12]}-5{words[13:16]}-{_VARIANTS[words[16]]}{words[17:20]}-{words[20:32]}"


def describe(placed: Placed, kind: str, frame: CoordinateFrame, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The member that says where a file of features comes from and where its coordinates start."""
    offset = frame_offset(placed, frame)
    return {
        "format": kind,
        "version": 1,
        "made_by": f"counterstain {__version__}",
        "frame": frame,
        "offset": [offset.x, offset.y],
        "slide": placed.slide.to_json(),
        "inputs_hash": placed.inputs_hash,
        "settings": dict(settings),
    }


def feature(
    geometry: BaseGeometry,
    identity: str,
    object_type: str,
    classification: tuple[str, RGB] | None,
    measurements: Mapping[str, float],
) -> dict[str, Any]:
    """A feature as QuPath reads it.

    Args:
        geometry: In the coordinates of the file.
        identity: A UUID.
        object_type: "annotation", "detection" or "tile".
        classification: Name and colour: QuPath refuses a name without one. None leaves the object without a class.
        measurements: Numbers by name; NaN becomes the string "NaN", since JSON has no number for it.
    """
    classed = {} if classification is None else {"name": classification[0], "color": list(classification[1])}
    return {
        "type": "Feature",
        "id": identity,
        "geometry": mapping(rounded(geometry)),
        "properties": {
            "objectType": object_type,
            **({"classification": classed} if classed else {}),
            "measurements": {key: "NaN" if math.isnan(value) else value for key, value in measurements.items()},
        },
    }


def write_features(
    path: Path, features: Iterable[Mapping[str, Any]], about: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Writes a FeatureCollection one feature after the other, so that any number of them fits in memory.

    Raises:
        ExistingOutputError: When the file is there and may not be replaced.
        InputError: When the file's name would keep QuPath from opening it.
    """
    write_texts(path, map(_compact, features), about, overwrite=overwrite)


def write_texts(path: Path, features: Iterable[str], about: Mapping[str, Any], *, overwrite: bool) -> None:
    """As `write_features`, of features that are JSON already.

    Raises:
        ExistingOutputError: When the file is there and may not be replaced.
        InputError: When the file's name would keep QuPath from opening it.
    """
    path = Path(path)
    if not path.name.lower().endswith(_SUFFIXES):
        raise InputError(f"{path} was given for GeoJSON; its name must end in one of: {', '.join(_SUFFIXES)}.")
    if not overwrite:
        refuse_overwrite(path)
    with atomic(path) as temporary, _writing(temporary, path.name) as file:
        # The member comes first, so that a reader finds the frame without parsing all features.
        file.write(f'{{"type": "FeatureCollection",\n"{_MEMBER}": {json.dumps(about, allow_nan=False)},\n"features": [')
        before, rest = "\n", iter(features)
        while some := list(islice(rest, _AT_ONCE)):
            file.write(before + ",\n".join(some))
            before = ",\n"
        file.write("\n]}\n")


@contextmanager
def _writing(temporary: Path, name: str) -> Iterator[TextIO]:
    """A text file, compressed as its name says, whose bytes depend on nothing but what is written."""
    with ExitStack() as stack:
        file: Any = stack.enter_context(temporary.open("wb"))
        if name.lower().endswith(".gz"):
            file = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0))
        elif name.lower().endswith(".zip"):
            archive = stack.enter_context(zipfile.ZipFile(file, "w"))
            member = zipfile.ZipInfo(name[: -len(".zip")])
            member.compress_type = zipfile.ZIP_DEFLATED
            file = stack.enter_context(archive.open(member, "w", force_zip64=True))
        yield stack.enter_context(io.TextIOWrapper(file, encoding="utf-8", newline="\n"))


def _annotations(slide_map: SlideMap, settings: GeoJSONSettings, folder: Path) -> Iterator[str]:
    """Regions as `feature` would give them, as the text that JSON makes of it.

    The map is swept once for all classes, and what a class has is kept in a file until it is its turn.
    """
    offset, names = frame_offset(slide_map, settings.frame), traced_classes(slide_map, settings.regions)
    with ExitStack() as stack:
        kept = {name: stack.enter_context(_spool(folder)) for name in names}
        for batch in mixed_batches(slide_map, settings.regions):
            kept[batch.class_name].write("".join(_endings(batch, slide_map.classes, offset)).encode("ascii"))
        identities = feature_ids(slide_map.inputs_hash, (f"region {number}" for number in count()))
        for file in kept.values():
            file.seek(0)
            for ending in file:
                yield f'{{"type":"Feature","id":"{next(identities)}",{ending[:-1].decode("ascii")}'


def _spool(folder: Path) -> tempfile.SpooledTemporaryFile[bytes]:
    """Bytes that are kept in memory as long as they are few, else in a file beside what is written."""
    return tempfile.SpooledTemporaryFile(_KEPT_BYTES, dir=str(folder))


def _endings(batch: RegionBatch, classes: Classes, offset: Point) -> list[str]:
    """Of each region's text what follows its identity, a line for each."""
    assert np.isfinite(batch.means).all(), "a region has pixels"
    name = batch.class_name
    classification = _compact({"name": name, "color": list(classes.colors[classes.index(name)])})
    between = f'}},"properties":{{"objectType":"annotation","classification":{classification},"measurements":{{'
    coordinates = polygon_texts(batch.polygons, offset)
    # A float in JSON is what its repr says.
    return [
        f'"geometry":{{"type":"Polygon","coordinates":{one}{between}'
        f'"Area \\u00b5m^2":{area_mm2 * 1e6!r},"Area mm^2":{area_mm2!r},"Mean probability":{mean!r}}}}}}}\n'
        for one, area_mm2, mean in zip(coordinates, batch.areas_mm2.tolist(), batch.means.tolist(), strict=True)
    ]


def _compact(tree: Mapping[str, Any]) -> str:
    return _ENCODER.encode(tree)
