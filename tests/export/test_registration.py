"""Truth drawn as polygons on a slide, put into a map, comes back from the exports in the same place."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import shapely
import tifffile

from counterstain.export import (
    GeoJSONSettings,
    TileSettings,
    polygons_by_class,
    read_class_map,
    read_geojson,
    write_class_map,
    write_geojson,
    write_tiles,
)
from counterstain.geometry import Frame
from counterstain.results import SlideMap
from counterstain.testing.writers import THREE, Place, plant_map

PLACES = {
    "level 0": Place(),
    "whole ratio": Place(downsample=(4, 4), mpp=(0.25, 0.25)),
    "fractional ratio": Place(downsample=(3.7, 3.7), mpp=(0.27, 0.27), overhang=0.6),
    "bounds": Place(corner=(1203, 417), downsample=(2.0, 2.0)),
    "bounds, fractional, oblong pixels": Place(
        corner=(733, 1291), downsample=(5.3, 4.1), mpp=(0.2, 0.26), overhang=0.9
    ),
    "finer than the slide": Place(corner=(31, 17), downsample=(0.7, 0.7), mpp=(2, 2)),
}
SIZES = [(151, 127), (64, 203)]


def truth_of(slide_map: SlideMap) -> dict[str, shapely.Geometry]:
    """A blob with a hole, another class in the hole and at the edge, and a slanted band; level-0 pixels."""
    bounds = slide_map.slide.bounds
    short = min(bounds.width, bounds.height)
    centre = shapely.Point(bounds.x + bounds.width * 0.4, bounds.y + bounds.height * 0.5)
    blob, hole = centre.buffer(0.38 * short), centre.buffer(0.18 * short)
    band = shapely.LineString(
        [(bounds.right - 0.5 * short, bounds.y), (bounds.right - 0.1 * short, bounds.bottom)]
    ).buffer(0.1 * short)
    scanned = shapely.box(bounds.x, bounds.y, bounds.right, bounds.bottom)
    stroma = shapely.intersection(shapely.union_all([hole, shapely.difference(band, blob)]), scanned)
    return {"tumour": shapely.difference(blob, hole), "stroma": stroma}


def planted(folder: Path, place: Place, shape: tuple[int, int]) -> tuple[SlideMap, dict[str, shapely.Geometry]]:
    """The truth as a map has it: each pixel the class under its centre."""
    empty = plant_map(folder / "empty", np.full(shape, 2, np.uint8), place)
    truth = truth_of(empty)
    x, y = centres(empty.frame)
    label = np.full(shape, 2, np.uint8)
    for name, geometry in truth.items():
        label[shapely.contains_xy(geometry, x, y)] = THREE.index(name)
    return plant_map(folder / "full", label, place), truth


def centres(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    x = frame.origin.x + (np.arange(frame.size.width) + 0.5) * frame.downsample_x
    y = frame.origin.y + (np.arange(frame.size.height) + 0.5) * frame.downsample_y
    columns, rows = np.meshgrid(x, y)
    return columns, rows


def iou(found: shapely.Geometry, truth: shapely.Geometry, tolerance: float) -> float:
    """Intersection over union, outside a band of `tolerance` on either side of the truth's border."""
    band = shapely.boundary(truth).buffer(tolerance)
    found, truth = shapely.difference(found, band), shapely.difference(truth, band)
    return float(shapely.intersection(found, truth).area / shapely.union(found, truth).area)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("frame", ["qupath", "openslide"])
def test_truth_comes_back_from_geojson(tmp_path: Path, place: Place, shape: tuple[int, int], frame: str) -> None:
    slide_map, truth = planted(tmp_path, place, shape)
    write_geojson(slide_map, tmp_path / "regions.geojson", GeoJSONSettings(frame=frame))  # type: ignore[arg-type]
    found = polygons_by_class(read_geojson(tmp_path / "regions.geojson"))
    pixel = max(place.downsample)
    assert set(found) == set(truth)
    for name, geometry in truth.items():
        assert iou(found[name], geometry, tolerance=pixel) >= 0.99
        assert iou(found[name], geometry, tolerance=0) >= 0.9
    shift = np.subtract(found["tumour"].centroid.coords[0], truth["tumour"].centroid.coords[0])
    assert np.abs(shift / place.downsample).max() < 0.15, "half a pixel off would show"


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_truth_comes_back_from_ome_tiff(tmp_path: Path, place: Place, shape: tuple[int, int]) -> None:
    slide_map, truth = planted(tmp_path, place, shape)
    write_class_map(slide_map, tmp_path / "map.ome.tiff")
    label = read_class_map(tmp_path / "map.ome.tiff").label
    x, y = places_in_ome_xml(tmp_path / "map.ome.tiff", slide_map)
    for name, geometry in truth.items():
        is_sure = shapely.distance(shapely.boundary(geometry), shapely.points(x, y)) > max(place.downsample)
        found = (label == THREE.index(name)) & is_sure
        wanted = shapely.contains_xy(geometry, x, y) & is_sure
        assert wanted.sum() > 100
        assert (found & wanted).sum() / (found | wanted).sum() >= 0.99


def places_in_ome_xml(path: Path, slide_map: SlideMap) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels' centres lie on level 0, from what any reader of OME-XML sees."""
    with tifffile.TiffFile(path) as tif:
        tree = ElementTree.fromstring(tif.ome_metadata or "")
    pixels, plane = tree.find(".//{*}Pixels"), tree.find(".//{*}Plane")
    assert pixels is not None
    assert plane is not None
    axes = []
    for axis, mpp in (("X", slide_map.slide.mpp.x), ("Y", slide_map.slide.mpp.y)):
        count, size_um = int(pixels.get(f"Size{axis}", 0)), float(pixels.get(f"PhysicalSize{axis}", 0))
        axes.append((float(plane.get(f"Position{axis}", 0)) + (np.arange(count) + 0.5) * size_um) / mpp)
    x, y = np.meshgrid(*axes)
    return x, y


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_tiles_of_a_pixel_lie_on_the_map_s_pixels(tmp_path: Path, place: Place) -> None:
    slide_map, truth = planted(tmp_path, place, (41, 37))
    size_um = place.downsample[0] * place.mpp[0]
    write_tiles(slide_map, tmp_path / "tiles.geojson", TileSettings(tile_um=size_um))
    found = polygons_by_class(read_geojson(tmp_path / "tiles.geojson"))
    for name, geometry in truth.items():
        assert iou(found[name], geometry, tolerance=max(place.downsample)) >= 0.99
