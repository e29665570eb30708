"""Truth in, truth out: polygons drawn on a slide come back from its exports, after tissue, tiles and stitching."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from shapely import Polygon

from counterstain.export import polygons_by_class, read_class_map, read_geojson, write
from counterstain.geometry import Box, Size
from counterstain.infer import PredictSettings, predict_slide
from counterstain.results import SlideMap
from counterstain.testing.planted import PlantedInput, PlantedModel, PlantedSettings, agreement, plant
from counterstain.tissue import TissueSettings

ANYWHERE = TissueSettings(min_area_um2=0, max_hole_um2=0, mpp=4.0, margin_um=40)
"""Finds the coloured part of small slides, with a rim around it so that the class map decides, not the tissue mask."""

PLACES = {
    "one level": PlantedSettings(Size(900, 700), 0.5),
    "odd sizes": PlantedSettings(Size(907, 701), 0.5, downsamples=(2.0, 4.0)),
    "non-integer levels": PlantedSettings(Size(907, 701), 0.5, downsamples=(1.7, 3.3)),
    "bounds": PlantedSettings(Size(1100, 900), 0.5, bounds=Box(131, 77, 907, 701)),
    "bounds and non-integer levels": PlantedSettings(
        Size(1100, 900), 0.5, bounds=Box(131, 77, 907, 701), downsamples=(2.3,)
    ),
}


def drawn(offset_x: float, offset_y: float) -> list[tuple[str, Polygon]]:
    """A blob of tumour with a hole in a larger blob of stroma."""
    stroma = shapely.Point(430, 340).buffer(300)
    tumour = shapely.Point(400, 320).buffer(170).difference(shapely.box(360, 280, 440, 350))
    return [
        (name, shapely.affinity.translate(shape, offset_x, offset_y))
        for name, shape in (("stroma", stroma), ("tumour", tumour))
    ]


@pytest.mark.parametrize(
    ("place", "mpp"),
    [
        pytest.param(place, mpp, marks=[] if mpp == 0.8 or place == "one level" else pytest.mark.slow)
        for place in PLACES
        for mpp in (0.5, 0.8, 1.3)
    ],
)
def test_drawn_truth_comes_back_from_geojson_and_ome_tiff(place: str, mpp: float, tmp_path: Path) -> None:
    settings = PLACES[place]
    bounds = settings.bounds or Box.whole(settings.size)
    regions = drawn(bounds.x, bounds.y)
    slide = plant(tmp_path / "slide.planted", settings, regions)
    tile = PlantedInput(tile_px=64, halo_px=8, mpp=mpp)
    predict = PredictSettings(map_stride=1, tissue=ANYWHERE, num_workers=0)
    result = predict_slide(slide, PlantedModel(tile), tmp_path / "out", predict, "truth")

    tumour = dict(regions)["tumour"]
    stroma = dict(regions)["stroma"].difference(tumour)
    pixel = mpp / settings.mpp
    # The file counts from the scanned part's corner, as QuPath does; reading it with the bounds gives level 0 again.
    found = polygons_by_class(read_geojson(write("geojson", result), bounds))
    picture = read_class_map(write("ome_tiff", result))
    for name, truth in (("tumour", tumour), ("stroma", stroma)):
        assert tolerant_iou(found[name], truth, pixel) >= 0.99
        is_class = picture.label == result.classes.index(name)
        assert agreement(is_class, truth, *centres(result), pixel) >= 0.99
        moved = shapely.affinity.translate(truth, 4 * pixel, 0)
        assert tolerant_iou(found[name], moved, pixel) < 0.99, "a shift of four pixels would be noticed"


def tolerant_iou(found: shapely.Geometry, truth: shapely.Geometry, tolerance: float) -> float:
    """Intersection over union, what lies within the tolerance of the truth's rim counted as right."""
    rim = truth.boundary.buffer(tolerance)
    right = truth.difference(rim).union(found.intersection(rim).intersection(truth.buffer(tolerance)))
    return float(found.intersection(right).area / found.union(right).area)


def centres(result: SlideMap) -> tuple[np.ndarray, np.ndarray]:
    """Level-0 x of the map's columns and y of its rows."""
    frame = result.frame
    x = frame.origin.x + (np.arange(frame.size.width) + 0.5) * frame.downsample_x
    y = frame.origin.y + (np.arange(frame.size.height) + 0.5) * frame.downsample_y
    return x, y
