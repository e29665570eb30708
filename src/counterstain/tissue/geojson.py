"""Tissue as GeoJSON that QuPath opens, shows and gives back mended.

QuPath counts pixels from the corner of the scanned part of a slide (`openslide.bounds-x/-y`) where a file names one, and
so do these files; the corner is noted in them. Areas classified "Tissue" and unclassified ones are tissue, "Exclude" and
"Ink" are taken out of it.

Does not know: how tissue is found, slides.
"""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from shapely import Polygon, affinity

from counterstain.errors import InputError
from counterstain.geometry import Frame, Point, Size

Ring = npt.NDArray[np.float64]

TISSUE, EXCLUDE, INK = "Tissue", "Exclude", "Ink"
COLORS = {TISSUE: (0, 150, 90), EXCLUDE: (200, 40, 40), INK: (230, 190, 0)}

_NAMESPACE = uuid.UUID("6f1a7b0e-6c0b-5d0a-9a50-7c1f3f0c2d11")  # any fixed one: the same polygon gets the same id


@dataclass(frozen=True)
class Areas:
    """What a file of tissue holds.

    Args:
        polygons: For each class, its polygons as their rings, (N, 2) points counted from the origin.
        origin: The level-0 point that they count from; None where the file does not say.
        frame: The frame they were traced in; None where the file does not say.
    """

    polygons: dict[str, list[list[Ring]]]
    origin: Point | None
    frame: Frame | None


def write_areas(polygons: dict[str, list[Polygon]], frame: Frame, origin: Point) -> dict[str, Any]:
    """A FeatureCollection of annotations.

    Args:
        polygons: For each class, its polygons, level-0.
        frame: The frame they were traced in, noted in the file.
        origin: The level-0 point that coordinates will count from.
    """
    note = {
        "format": "counterstain.tissue",
        "version": 1,
        "origin": [origin.x, origin.y],
        "frame": {
            "origin": [frame.origin.x, frame.origin.y],
            "downsample": [frame.downsample_x, frame.downsample_y],
            "size": [frame.size.width, frame.size.height],
        },
    }
    features = [_feature(polygon, name, origin) for name, of_class in polygons.items() for polygon in of_class]
    return {"type": "FeatureCollection", "counterstain": note, "features": features}


def _feature(polygon: Polygon, name: str, origin: Point) -> dict[str, Any]:
    moved = affinity.translate(polygon, -origin.x, -origin.y)
    coordinates = [np.asarray(ring.coords).tolist() for ring in (moved.exterior, *moved.interiors)]
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, name + json.dumps(coordinates))),
        "geometry": {"type": "Polygon", "coordinates": coordinates},
        # QuPath reads objectType inside properties only, and refuses a class without a colour.
        "properties": {
            "objectType": "annotation",
            "classification": {"name": name, "color": list(COLORS[name])},
            "isLocked": False,
        },
    }


def read_areas(path: Path) -> Areas:
    """The areas in a file as `write_areas` or QuPath makes it: a FeatureCollection, a list of features, one, or a geometry.

    Raises:
        InputError: When it is no GeoJSON, or holds other objects than areas of tissue; all kinds are listed at once.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no JSON text: {error}. Export the annotations from QuPath as GeoJSON.") from error
    polygons: dict[str, list[list[Ring]]] = {name: [] for name in COLORS}
    wrong = set()
    for feature in _features(tree, path):
        geometry = feature.get("geometry") or {}
        name = _class_name(feature)
        parts = list(_polygons(geometry))
        if name is None:
            wrong.add(f"class {_given_name(feature)!r}")
        elif not parts:
            wrong.add(f"geometry {geometry.get('type')!r}")
        else:
            polygons[name] += [[_points(ring, path) for ring in rings] for rings in parts]
    if wrong:
        raise InputError(
            f"{path} holds objects that are no areas of tissue ({', '.join(sorted(wrong))}); expected polygons classified "
            f"{TISSUE!r}, {EXCLUDE!r}, {INK!r} or not at all. Export only those."
        )
    origin, frame = _note(tree, path)
    return Areas(polygons, origin, frame)


def _features(tree: Any, path: Path) -> list[dict[str, Any]]:
    if isinstance(tree, dict):
        tree = tree.get("features") if tree.get("type") == "FeatureCollection" else [tree]
    if not (isinstance(tree, list) and all(isinstance(entry, dict) and "type" in entry for entry in tree)):
        raise InputError(f"{path} is no GeoJSON; expected a FeatureCollection. Export the annotations from QuPath.")
    return [entry if entry["type"] == "Feature" else {"geometry": entry} for entry in tree]


def _note(tree: Any, path: Path) -> tuple[Point | None, Frame | None]:
    note = tree.get("counterstain") if isinstance(tree, dict) else None
    if note is None:
        return None, None
    try:
        frame, (down_x, down_y) = note["frame"], note["frame"]["downsample"]
        return Point(*note["origin"]), Frame(Point(*frame["origin"]), down_x, down_y, Size(*frame["size"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} has a damaged 'counterstain' entry. Remove the entry, or write the file anew."
        ) from error


def _given_name(feature: dict[str, Any]) -> str | None:
    given = (feature.get("properties") or {}).get("classification")
    if isinstance(given, dict):
        names = given.get("names") or [given.get("name")]
        return ": ".join(map(str, names))
    return None if given is None else str(given)


def _class_name(feature: dict[str, Any]) -> str | None:
    """The class an object counts for; None when it is of another."""
    given = _given_name(feature)
    return TISSUE if given is None else {name.lower(): name for name in COLORS}.get(given.lower())


def _polygons(geometry: dict[str, Any]) -> Iterator[list[Any]]:
    """The rings of each polygon in a geometry; none for points and lines."""
    kind = geometry.get("type")
    if kind == "Polygon":
        yield geometry["coordinates"]
    elif kind == "MultiPolygon":
        yield from geometry["coordinates"]
    elif kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _polygons(part)


def _points(ring: Any, path: Path) -> Ring:
    """(N, 2) points of a ring; a third coordinate is dropped."""
    try:
        points = np.asarray(ring, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} holds a ring that is no list of points; expected [[x, y], ...].") from error
    if points.ndim != 2 or points.shape[1] < 2 or len(points) < 3 or not np.isfinite(points).all():
        raise InputError(f"{path} holds a ring of shape {points.shape}; expected at least three finite points [x, y].")
    return points[:, :2]
