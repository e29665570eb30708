"""Coordinates written many at a time against JSON of one after the other."""

import json
import uuid
from pathlib import Path

import numpy as np
import pytest
import shapely
from shapely.geometry import mapping

from counterstain.export import regions, write_geojson
from counterstain.export.coordinates import polygon_texts
from counterstain.export.geojson import feature, feature_id
from counterstain.testing.writers import Place, patchwork, plant_map


def slow(polygon: shapely.Polygon) -> str:
    """The twin: round, map, dump."""
    few = shapely.transform(polygon, lambda points: np.round(points, 3))
    return json.dumps(mapping(few)["coordinates"], separators=(",", ":"))


@pytest.mark.parametrize("scale", [1.0, 1.01234567, 1e7 / 3])
def test_coordinates_are_those_that_json_dumps_writes(tmp_path: Path, scale: float) -> None:
    found = [region.polygon for region in regions(plant_map(tmp_path, patchwork(60, 47)))]
    polygons = shapely.transform(np.array(found, object), lambda points: points * scale - 7.7)
    assert any(polygon.interiors for polygon in polygons)
    assert polygon_texts(polygons) == [slow(polygon) for polygon in polygons]
    assert polygon_texts(polygons[:0]) == []


def test_a_polygon_that_rounding_would_spoil_keeps_its_decimals_beside_others_that_lose_them() -> None:
    needle = shapely.Polygon([(0, 0), (10, 0), (10, 1), (5, 0.0002), (0, 1)])
    box = shapely.box(0.0004, 0, 1, 1)
    first, second = (json.loads(text) for text in polygon_texts(np.array([needle, box], object)))
    assert shapely.Polygon(first[0]).equals(needle)
    assert shapely.Polygon(second[0]).equals(shapely.box(0, 0, 1, 1))


def test_annotations_are_features_byte_for_byte(tmp_path: Path) -> None:
    slide_map = plant_map(tmp_path, patchwork(60, 47), Place(corner=(1200, 340), downsample=(3.7, 3.7)))
    write_geojson(slide_map, tmp_path / "regions.geojson")
    bounds, classes = slide_map.slide.bounds, slide_map.classes
    expected = [
        feature(
            shapely.transform(region.polygon, lambda points: points - np.array((bounds.x, bounds.y))),
            feature_id(slide_map.inputs_hash, f"region {number}"),
            "annotation",
            (region.class_name, classes.colors[classes.index(region.class_name)]),
            {
                "Area µm^2": region.area_mm2 * 1e6,
                "Area mm^2": region.area_mm2,
                "Mean probability": region.mean_probability,
            },
        )
        for number, region in enumerate(regions(slide_map))
    ]
    lines = (tmp_path / "regions.geojson").read_text(encoding="utf-8").splitlines()
    assert [line.rstrip(",") for line in lines[3:-1]] == [json.dumps(one, separators=(",", ":")) for one in expected]


def test_identities_are_uuids_of_version_5() -> None:
    names = uuid.uuid5(uuid.NAMESPACE_URL, "https://pypi.org/project/counterstain")
    assert feature_id("ab" * 32, "region 3") == str(uuid.uuid5(names, f"{'ab' * 32} region 3"))
