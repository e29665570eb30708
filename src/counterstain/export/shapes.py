"""GeoJSON read: what QuPath and others export, and our own.

Accepts a FeatureCollection, an array of features, one feature or a bare geometry, plain, in .gz or in .zip. Coordinates
come back as level-0 pixels counted from the corner of level 0, whatever the file counted from.

Does not know: maps, how any of it was made.
"""

import gzip
import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import shape as to_geometry
from shapely.geometry.base import BaseGeometry

from counterstain.errors import InputError
from counterstain.files import existing
from counterstain.geometry import Box
from counterstain.results import RGB

_SUFFIXES = (".json", ".geojson")
_GEOMETRIES = (
    "Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """One object of a GeoJSON file.

    Args:
        geometry: Valid, level-0 pixels from the corner of level 0.
        object_type: "annotation", "detection", "tile", "cell" or "tmaCore".
        class_name: None where it has no class.
        color: Of the class; None where the file gives none.
        measurements: Numbers by name.
        identity: Its UUID; None where the file gives none.
    """

    geometry: BaseGeometry
    object_type: str
    class_name: str | None
    color: RGB | None
    measurements: Mapping[str, float]
    identity: str | None


def read_geojson(path: Path | str, bounds: Box | None = None) -> list[Shape]:
    """The objects of a GeoJSON file.

    Args:
        path: The file; .gz and .zip are unpacked, a .zip may hold several.
        bounds: The scanned part of the slide, whose corner QuPath counts from. It is added where the file does not say
            what it counts from; give None for a file that counts from the corner of level 0.

    Raises:
        MissingFileError: When it is not there.
        InputError: When it is no GeoJSON, or was written for a slide with other bounds.
    """
    path = existing(path, "a GeoJSON file")
    shapes: list[Shape] = []
    for name, document in _documents(path):
        x, y = _offset(document, bounds, name)
        for number, entry in enumerate(_features(document, name)):
            try:
                shapes.append(_shape(entry, x, y))
            except (KeyError, TypeError, ValueError, AttributeError, shapely.errors.GEOSException) as error:
                raise InputError(
                    f"Object {number} of {name} can't be read: {error}. Expected a GeoJSON feature with a geometry."
                ) from error
    return shapes


def polygons_by_class(shapes: Iterable[Shape]) -> dict[str, shapely.MultiPolygon]:
    """The area of each class, overlapping objects united; objects without a class or without an area are left out."""
    found: dict[str, list[BaseGeometry]] = {}
    for entry in shapes:
        if entry.class_name is not None and entry.geometry.area > 0:
            found.setdefault(entry.class_name, []).append(entry.geometry)
    return {name: _areal(shapely.union_all(geometries)) for name, geometries in found.items()}


def _areal(geometry: BaseGeometry) -> shapely.MultiPolygon:
    """The polygons in a geometry."""
    parts = shapely.get_parts(shapely.get_parts([geometry]))
    return shapely.MultiPolygon([part for part in parts if isinstance(part, shapely.Polygon) and not part.is_empty])


def _documents(path: Path) -> Iterator[tuple[str, Any]]:
    """Each JSON document in a file, with a name for messages."""
    try:
        if path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.lower().endswith(_SUFFIXES):
                        yield f"{path}:{name}", json.loads(archive.read(name))
        elif path.name.lower().endswith(".gz"):
            with gzip.open(path) as file:
                yield str(path), json.load(file)
        else:
            yield str(path), json.loads(path.read_bytes())
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no GeoJSON: {error}. Give a file as QuPath exports it.") from error


def _offset(document: Any, bounds: Box | None, name: str) -> tuple[float, float]:
    """What to add to the coordinates of a document."""
    about = document.get("counterstain") if isinstance(document, dict) else None
    if about is None:
        return (bounds.x, bounds.y) if bounds else (0.0, 0.0)
    own = Box(**about["slide"]["bounds"])
    if bounds is not None and bounds != own:
        raise InputError(
            f"{name} was written for a slide with scanned part {own}, but {bounds} was given. Check the slide."
        )
    x, y = about["offset"]
    return float(x), float(y)


def _features(document: Any, name: str) -> Iterator[Any]:
    if isinstance(document, list):
        for entry in document:
            yield from _features(entry, name)
        return
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection":
        yield from document["features"]
    elif kind == "Feature":
        yield document
    elif kind in _GEOMETRIES:
        yield {"geometry": document}
    else:
        raise InputError(f"{name} holds {kind!r}, which is no GeoJSON type. Give a file as QuPath exports it.")


def _shape(entry: Mapping[str, Any], x: float, y: float) -> Shape:
    properties = entry.get("properties") or {}
    class_name, color = _classification(properties.get("classification"))
    geometry = to_geometry(entry["geometry"])
    if not geometry.is_valid:
        # Hand-drawn outlines cross themselves.
        geometry = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
    return Shape(
        geometry=shapely.transform(geometry, lambda points: points + np.array((x, y))),
        object_type=properties.get("objectType", "annotation"),
        class_name=class_name,
        color=color,
        measurements=_measurements(properties.get("measurements")),
        identity=entry.get("id"),
    )


def _classification(given: Any) -> tuple[str | None, RGB | None]:
    if given is None or isinstance(given, str):
        return given, None
    name = given["name"] if "name" in given else ": ".join(given["names"])
    if "colorRGB" in given:
        # Packed with its sign by QuPath before 0.4.
        packed = int(given["colorRGB"]) & 0xFFFFFF
        return name, (packed >> 16, packed >> 8 & 255, packed & 255)
    if "color" not in given:
        return name, None
    red, green, blue = given["color"]
    return name, (int(red), int(green), int(blue))


def _measurements(given: Any) -> dict[str, float]:
    if isinstance(given, list):
        # So written by QuPath before 0.4.
        given = {entry["name"]: entry["value"] for entry in given}
    return {str(name): math.nan if value == "NaN" else float(value) for name, value in (given or {}).items()}
