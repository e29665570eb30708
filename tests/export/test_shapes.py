"""GeoJSON as QuPath of several ages, and others, write it."""

import gzip
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import pytest
import shapely

from counterstain.errors import InputError, MissingFileError
from counterstain.export import polygons_by_class, read_geojson
from counterstain.geometry import Box

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]}


def a_feature(**properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": "PathAnnotationObject", "geometry": SQUARE, "properties": properties}


def saved(tmp_path: Path, tree: Any, name: str = "a.geojson") -> Path:
    path = tmp_path / name
    text = json.dumps(tree)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("first.geojson", text)
            archive.writestr("readme.txt", "nothing")
            archive.writestr("second.json", text)
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize(
    "tree",
    [{"type": "FeatureCollection", "features": [a_feature()]}, [a_feature()], a_feature(), SQUARE, [SQUARE]],
    ids=["collection", "array", "feature", "geometry", "array of geometries"],
)
@pytest.mark.parametrize(("name", "count"), [("a.geojson", 1), ("a.json", 1), ("a.geojson.gz", 1), ("a.zip", 2)])
def test_every_form_is_read(tmp_path: Path, tree: Any, name: str, count: int) -> None:
    found = read_geojson(saved(tmp_path, tree, name))
    assert len(found) == count
    assert found[0].geometry.equals(shapely.box(0, 0, 4, 4))
    assert found[0].object_type == "annotation"
    assert found[0].class_name is None


@pytest.mark.parametrize(
    ("classification", "name", "color"),
    [
        ({"name": "Tumor", "color": [200, 0, 0]}, "Tumor", (200, 0, 0)),
        ({"name": "Tumor"}, "Tumor", None),
        ({"name": "Tumor", "colorRGB": -3670016}, "Tumor", (200, 0, 0)),
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive", (1, 2, 3)),
        ("Tumor", "Tumor", None),
    ],
    ids=["0.4", "bare", "0.3", "names", "string"],
)
def test_classifications_of_every_age_are_read(
    tmp_path: Path, classification: Any, name: str, color: tuple[int, int, int] | None
) -> None:
    (found,) = read_geojson(saved(tmp_path, a_feature(classification=classification)))
    assert (found.class_name, found.color) == (name, color)


def test_measurements_of_every_age_are_read(tmp_path: Path) -> None:
    (new,) = read_geojson(saved(tmp_path, a_feature(measurements={"Area": 2, "Odds": "NaN"})))
    (old,) = read_geojson(saved(tmp_path, a_feature(measurements=[{"name": "Area", "value": 2}])))
    assert new.measurements["Area"] == old.measurements["Area"] == 2
    assert math.isnan(new.measurements["Odds"])


def test_bounds_are_added_to_a_file_that_does_not_say_what_it_counts_from(tmp_path: Path) -> None:
    path = saved(tmp_path, a_feature(objectType="detection"))
    (found,) = read_geojson(path, bounds=Box(100, 20, 500, 500))
    assert found.geometry.bounds == (100, 20, 104, 24)
    assert found.object_type == "detection"


def test_an_outline_that_crosses_itself_is_mended(tmp_path: Path) -> None:
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]]}
    (found,) = read_geojson(saved(tmp_path, bow_tie))
    assert found.geometry.is_valid
    assert found.geometry.area == pytest.approx(8)


def test_the_area_of_a_class_counts_overlaps_once(tmp_path: Path) -> None:
    point = {"type": "Point", "coordinates": [1, 1]}
    other = {"type": "Polygon", "coordinates": [[[2, 0], [6, 0], [6, 4], [2, 4], [2, 0]]]}
    tree = [
        a_feature(classification="Tumor"),
        {"type": "Feature", "geometry": other, "properties": {"classification": "Tumor"}},
        {"type": "Feature", "geometry": point, "properties": {"classification": "Tumor"}},
        {"type": "Feature", "geometry": other, "properties": None},
    ]
    found = read_geojson(saved(tmp_path, tree))
    assert len(found) == 4
    areas = polygons_by_class(found)
    assert set(areas) == {"Tumor"}
    assert areas["Tumor"].area == pytest.approx(24)
    assert areas["Tumor"].geom_type == "MultiPolygon"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"type": "Topology"}, "'Topology', which is no GeoJSON type"),
        (17, "no GeoJSON type"),
        ({"type": "Feature", "geometry": None}, "Object 0 of .* can't be read"),
        ([a_feature(), {"type": "Feature", "properties": {}}], "can't be read: 'geometry'"),
        (a_feature(classification={"colour": [1, 2, 3]}), "can't be read"),
        (a_feature(measurements={"Area": "large"}), "can't be read"),
    ],
)
def test_what_is_no_geojson_is_refused(tmp_path: Path, tree: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_geojson(saved(tmp_path, tree))


@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz", "a.zip"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK not really")
    with pytest.raises(InputError, match="is no GeoJSON"):
        read_geojson(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no\.geojson"):
        read_geojson(tmp_path / "no.geojson")
