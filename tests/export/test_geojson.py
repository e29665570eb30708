"""What QuPath asks of GeoJSON, rule by rule, and that nothing is lost between writing and reading."""

import gzip
import json
import math
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import shape

from counterstain.errors import InputError, UnknownNameError
from counterstain.export import (
    GeoJSONSettings,
    RegionSettings,
    TileSettings,
    read_geojson,
    regions,
    write_geojson,
    write_tiles,
)
from counterstain.export.geojson import describe, feature, write_features
from counterstain.geometry import Box
from counterstain.results import UNCOVERED, SlideMap
from counterstain.testing.writers import THREE, Place, patchwork, plant_map

OFFSET = Place(corner=(1200, 340), downsample=(3.7, 3.7), mpp=(0.25, 0.25), overhang=0.4)


@pytest.fixture
def slide_map(tmp_path: Path) -> SlideMap:
    return plant_map(tmp_path / "slide", patchwork(60, 47), OFFSET)


def document(slide_map: SlideMap, path: Path, **options: Any) -> dict[str, Any]:
    write_geojson(slide_map, path, GeoJSONSettings(**options), overwrite=True)
    return json.loads(path.read_text(encoding="utf-8"))


def rings(tree: dict[str, Any]) -> Iterator[list[list[float]]]:
    for entry in tree["features"]:
        assert entry["geometry"]["type"] == "Polygon"
        yield from entry["geometry"]["coordinates"]


def test_rule_1_a_file_is_a_feature_collection(slide_map: SlideMap, tmp_path: Path) -> None:
    tree = document(slide_map, tmp_path / "regions.geojson")
    assert tree["type"] == "FeatureCollection"
    assert len(tree["features"]) == len(list(regions(slide_map))) > 10
    assert {entry["type"] for entry in tree["features"]} == {"Feature"}


@pytest.mark.parametrize("name", ["r.geojson", "r.json", "r.geojson.gz", "r.json.gz", "r.geojson.zip", "R.GeoJSON"])
def test_rule_1_names_that_qupath_opens_are_written(slide_map: SlideMap, tmp_path: Path, name: str) -> None:
    write_geojson(slide_map, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    if name.endswith(".gz"):
        content = gzip.decompress(content)
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert archive.namelist() == ["r.geojson"]
            content = archive.read("r.geojson")
    assert json.loads(content) == document(slide_map, tmp_path / "plain.geojson")


@pytest.mark.parametrize("name", ["regions.txt", "regions", "regions.geojson.bz2", "regions.gz"])
def test_rule_1_other_names_are_refused(slide_map: SlideMap, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"must end in one of: \.geojson"):
        write_geojson(slide_map, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_rule_2_the_object_type_stands_inside_the_properties(slide_map: SlideMap, tmp_path: Path) -> None:
    tree = document(slide_map, tmp_path / "regions.geojson")
    assert {entry["properties"]["objectType"] for entry in tree["features"]} == {"annotation"}
    assert not any("objectType" in entry for entry in tree["features"])


def test_rule_3_a_classification_has_a_name_and_a_color(slide_map: SlideMap, tmp_path: Path) -> None:
    tree = document(slide_map, tmp_path / "regions.geojson", regions=RegionSettings(classes=THREE.names))
    found = {entry["properties"]["classification"]["name"]: entry for entry in tree["features"]}
    assert set(found) == set(THREE.names)
    for name, color in zip(THREE.names, THREE.colors, strict=True):
        assert found[name]["properties"]["classification"] == {"name": name, "color": list(color)}


def test_rule_4_measurements_are_numbers_by_name(slide_map: SlideMap, tmp_path: Path) -> None:
    tree = document(slide_map, tmp_path / "regions.geojson")
    for entry, region in zip(tree["features"], regions(slide_map), strict=True):
        assert entry["properties"]["measurements"] == {
            "Area µm^2": pytest.approx(region.area_mm2 * 1e6),
            "Area mm^2": pytest.approx(region.area_mm2),
            "Mean probability": 0.75,
        }


def test_rule_4_nan_is_a_string(slide_map: SlideMap, tmp_path: Path) -> None:
    entry = feature(
        shapely.box(0, 0, 1, 1), str(uuid.uuid4()), "tile", ("tumour", (1, 2, 3)), {"x": math.nan, "y": 1.0}
    )
    path = tmp_path / "one.geojson"
    write_features(path, [entry], describe(slide_map, "test", "openslide", {}), overwrite=False)
    assert json.loads(path.read_text())["features"][0]["properties"]["measurements"] == {"x": "NaN", "y": 1.0}
    (found,) = read_geojson(path)
    assert math.isnan(found.measurements["x"])
    assert found.measurements["y"] == 1


def test_rule_5_ids_are_uuids_of_their_own_and_stay_the_same(slide_map: SlideMap, tmp_path: Path) -> None:
    first, second = (
        [entry["id"] for entry in document(slide_map, tmp_path / name)["features"]] for name in ("a.json", "b.json")
    )
    assert first == second
    assert len(set(first)) == len(first)
    assert all(str(uuid.UUID(identity)) == identity for identity in first)
    other = document(replace(slide_map, inputs_hash="0" * 64), tmp_path / "c.json")
    assert not set(first) & {entry["id"] for entry in other["features"]}


def test_rule_6_rings_are_closed_and_polygons_valid(slide_map: SlideMap, tmp_path: Path) -> None:
    tree = document(slide_map, tmp_path / "regions.geojson")
    assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in rings(tree))
    assert all(shape(entry["geometry"]).is_valid for entry in tree["features"])
    assert any(len(entry["geometry"]["coordinates"]) > 1 for entry in tree["features"]), "holes are inner rings"
    assert "crs" not in tree


def test_rule_6_a_multipolygon_of_one_part_is_a_polygon() -> None:
    one = shapely.MultiPolygon([shapely.box(0, 0, 2, 1)])
    two = shapely.MultiPolygon([shapely.box(0, 0, 2, 1), shapely.box(4, 4, 5, 5)])
    kinds = [feature(part, "", "annotation", ("a", (0, 0, 0)), {})["geometry"]["type"] for part in (one, two)]
    assert kinds == ["Polygon", "MultiPolygon"]


def test_rule_6_rounding_never_makes_a_polygon_invalid() -> None:
    needle = shapely.Polygon([(0, 0), (10, 0), (10, 1), (5, 0.0002), (0, 1)])
    assert needle.is_valid
    entry = feature(needle, "", "annotation", ("a", (0, 0, 0)), {})
    assert shape(entry["geometry"]).is_valid
    assert shape(entry["geometry"]).equals(needle)


def test_rule_7_bounds_are_subtracted_and_the_frame_is_recorded(slide_map: SlideMap, tmp_path: Path) -> None:
    in_qupath = document(slide_map, tmp_path / "q.geojson")
    in_openslide = document(slide_map, tmp_path / "o.geojson", frame="openslide")
    bounds = slide_map.slide.bounds
    for ring, other in zip(rings(in_qupath), rings(in_openslide), strict=True):
        assert np.allclose(np.add(ring, (bounds.x, bounds.y)), other, atol=2e-3)
    points = np.concatenate([np.array(ring) for ring in rings(in_qupath)])
    assert points.min() >= 0
    assert (points.max(0) <= np.array((bounds.width, bounds.height)) + 1e-3).all()
    assert (in_qupath["counterstain"]["frame"], in_qupath["counterstain"]["offset"]) == ("qupath", [1200, 340])
    assert (in_openslide["counterstain"]["frame"], in_openslide["counterstain"]["offset"]) == ("openslide", [0, 0])


def test_rule_7_an_unknown_frame_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="coordinate frame"):
        GeoJSONSettings(frame="imagej")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="coordinate frame"):
        TileSettings(frame="imagej")  # type: ignore[arg-type]


def test_rule_8_a_grid_is_written_as_tiles(slide_map: SlideMap, tmp_path: Path) -> None:
    write_tiles(slide_map, tmp_path / "tiles.geojson", TileSettings(tile_um=10))
    tree = json.loads((tmp_path / "tiles.geojson").read_text(encoding="utf-8"))
    assert {entry["properties"]["objectType"] for entry in tree["features"]} == {"tile"}
    names = {"Covered", "Probability: tumour", "Probability: stroma", "Probability: glass"}
    assert all(set(entry["properties"]["measurements"]) == names for entry in tree["features"])


def test_rule_8_features_are_streamed(slide_map: SlideMap, tmp_path: Path) -> None:
    """While features are still being made, those made before are on disk already."""
    sizes = []

    def features() -> Iterator[dict[str, Any]]:
        for number in range(2000):
            yield feature(shapely.box(0, 0, 1, 1), str(number), "tile", ("a", (0, 0, 0)), {})
            sizes.append(sum(file.stat().st_size for file in tmp_path.glob(".many-*")))

    write_features(tmp_path / "many.geojson", features(), describe(slide_map, "test", "qupath", {}), overwrite=False)
    assert sizes[-1] > 0.9 * (tmp_path / "many.geojson").stat().st_size
    assert not list(tmp_path.glob(".many-*"))


def test_the_file_says_where_it_comes_from(slide_map: SlideMap, tmp_path: Path) -> None:
    settings = RegionSettings(min_area_um2=30, classes=("tumour",))
    about = document(slide_map, tmp_path / "regions.geojson", regions=settings)["counterstain"]
    assert about["format"] == "counterstain.regions"
    assert about["slide"] == slide_map.slide.to_json()
    assert about["inputs_hash"] == slide_map.inputs_hash
    assert about["settings"] == {"min_area_um2": 30, "fill_holes_um2": 0, "simplify_um": 0, "classes": ["tumour"]}


def test_the_origin_is_written_before_the_objects(slide_map: SlideMap, tmp_path: Path) -> None:
    write_geojson(slide_map, tmp_path / "regions.geojson")
    head = (tmp_path / "regions.geojson").read_text(encoding="utf-8")[:2000]
    assert head.index('"counterstain"') < head.index('"features"')


def test_the_file_is_ascii_so_that_no_platform_misreads_it(slide_map: SlideMap, tmp_path: Path) -> None:
    write_geojson(slide_map, tmp_path / "regions.geojson")
    assert (tmp_path / "regions.geojson").read_bytes().isascii()


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    corner=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    downsample=st.tuples(st.floats(0.5, 9), st.floats(0.5, 9)),
    frame=st.sampled_from(["qupath", "openslide"]),
    suffix=st.sampled_from(["", ".gz", ".zip"]),
)
def test_export_then_import_gives_the_same_regions(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    corner: tuple[float, float],
    downsample: tuple[float, float],
    frame: str,
    suffix: str,
) -> None:
    folder = tmp_path_factory.mktemp("round")
    label = np.random.default_rng(seed).choice([0, 1, 2, UNCOVERED], (14, 11)).astype(np.uint8)
    slide_map = plant_map(folder, label, Place(corner=corner, downsample=downsample, overhang=0.3))
    path = folder / f"regions.geojson{suffix}"
    write_geojson(slide_map, path, GeoJSONSettings(frame=frame))  # type: ignore[arg-type]
    back = read_geojson(path, bounds=slide_map.slide.bounds)
    for found, region in zip(back, regions(slide_map), strict=True):
        assert found.class_name == region.class_name
        assert found.color == THREE.colors[THREE.index(region.class_name)]
        assert found.object_type == "annotation"
        assert found.geometry.is_valid
        assert shapely.equals_exact(found.geometry, region.polygon, tolerance=1.01e-3)
        assert found.measurements["Area mm^2"] == pytest.approx(region.area_mm2)


def test_a_file_of_another_slide_is_refused(slide_map: SlideMap, tmp_path: Path) -> None:
    write_geojson(slide_map, tmp_path / "regions.geojson")
    with pytest.raises(InputError, match="Check the slide"):
        read_geojson(tmp_path / "regions.geojson", bounds=Box(0, 0, 100, 100))
