"""Tumour masks of slides: what `predict` writes for a tumour method opens where it should and lies where the tumour is.

The network's weights are set by hand, so that dark is tumour: what a mask should be is known, and nothing is trained.
"""

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import shapely
import tifffile
import torch

from counterstain.cli import OK, SOME_FAILED, run
from counterstain.data.annotations import TumourAreas
from counterstain.export import polygons_by_class, read_class_map, read_geojson
from counterstain.geometry import Box, Size
from counterstain.methods import FusionKD, FusionKDConfig
from counterstain.methods.artefacts import write_untrained
from counterstain.methods.base import InputSpec
from counterstain.models.mil import MilNetwork
from counterstain.results import UNCOVERED, SlideMap
from counterstain.synth import TUMOUR_CLASSES, metastasis_slide, write_slide
from counterstain.synth.pyramid import Pyramid, write_pyramid
from counterstain.testing.planted import agreement

GLASS, PINK, DARK = (245, 245, 245), (225, 150, 190), (110, 80, 150)
CROWDED = ("tumour epithelium", "lymphocytes")
BRIGHTNESS = 0.65  # as the backbone standardises it: DARK is 0 or less, PINK 1.3, nuclei lie between


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dark_is_tumour(tmp_path_factory.mktemp("runs") / "run", BRIGHTNESS)


def dark_is_tumour(folder: Path, brightness: float) -> Path:
    """A finished run whose network calls tumour what is darker than that, at 1 um/px; nothing, where it is below 0."""
    config = FusionKDConfig(teacher="tiny_mil", student="tiny_mil", teacher_options={"width": 1})
    method = FusionKD(config, TUMOUR_CLASSES, InputSpec(tile_px=64, halo_px=8, mpp=1.0))
    set_by_hand(method.network, brightness)
    write_untrained(folder, method, {"data": {"name": "by hand"}}, "by hand")
    return folder


@torch.no_grad()
def set_by_hand(network: MilNetwork, brightness: float) -> None:
    """Makes every side the mean brightness of its squares; a square of 2 x 2 leaves a cell's centre where it belongs."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 4 or name.startswith("sides."):
            parameter.zero_()
    backbone: Any = network.backbone
    backbone.stem[0].weight[0, :, 1:, 1:] = 1 / 12
    for block in (backbone.block1, backbone.block2):
        block.enter[0].weight[0, 0, 1:, 1:] = 1 / 4
    backbone.block3.enter[0].weight[0, 0, 1, 1] = 1
    for side in network.sides:
        side.weight[0, 0] = -60
        side.bias[0] = 60 * brightness


def predicted(trained: Path, slide: Path, out: Path, *flags: str, capsys: pytest.CaptureFixture[str]) -> Path:
    """Runs `predict` on one slide, checks all it wrote, and gives the folder."""
    capsys.readouterr()
    assert run(["predict", str(trained), str(slide), "--out", str(out), "--device", "cpu", *flags, "--json"]) == OK
    answer = json.loads(capsys.readouterr().out)
    folder = out / slide.name
    result = SlideMap.open(folder / "map.zarr")
    check_regions(folder / "regions.geojson", result)
    check_picture(folder / "map.ome.tiff", result)
    check_numbers(folder, result, answer["done"][slide.name]["areas_mm2"])
    assert (folder / "overlay.png").stat().st_size > 10_000
    return folder


def check_regions(path: Path, result: SlideMap) -> None:
    """Annotations of tumour alone, as QuPath imports them, that cover the pixels that the map labels so."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    bounds, mpp = result.slide.bounds, result.slide.mpp
    assert tree["type"] == "FeatureCollection"
    assert (tree["counterstain"]["frame"], tree["counterstain"]["offset"]) == ("qupath", [bounds.x, bounds.y])
    for entry in tree["features"]:
        check_annotation(entry, bounds)
    assert len({entry["id"] for entry in tree["features"]}) == len(tree["features"])
    polygons = polygons_by_class(read_geojson(path, bounds)).get("tumour", shapely.MultiPolygon())
    covered = TumourAreas(tuple(polygons.geoms)).mask(result.frame)
    is_tumour = result.label[:] == TUMOUR_CLASSES.index("tumour")
    assert (covered & is_tumour).sum() >= 0.99 * (covered | is_tumour).sum()
    measured = sum(entry["properties"]["measurements"]["Area mm^2"] for entry in tree["features"])
    assert measured == pytest.approx(polygons.area * mpp.x * mpp.y / 1e6, rel=1e-3)


def check_annotation(entry: dict[str, Any], bounds: Box) -> None:
    assert entry["type"] == "Feature"
    assert str(uuid.UUID(entry["id"])) == entry["id"]
    properties, geometry = entry["properties"], entry["geometry"]
    assert properties["objectType"] == "annotation"
    assert properties["classification"] == {"name": "tumour", "color": [213, 94, 0]}
    assert set(properties["measurements"]) == {"Area µm^2", "Area mm^2", "Mean probability"}
    assert 0.5 <= properties["measurements"]["Mean probability"] <= 1
    assert geometry["type"] == "Polygon"
    rings = [np.array(ring) for ring in geometry["coordinates"]]
    assert all((ring[0] == ring[-1]).all() and len(ring) >= 4 for ring in rings)
    assert shapely.geometry.shape(geometry).is_valid
    points = np.concatenate(rings)
    assert points.min() >= 0, "QuPath counts from the corner of the scanned part"
    assert (points.max(0) <= np.array((bounds.width, bounds.height)) + 1e-3).all()


def check_picture(path: Path, result: SlideMap) -> None:
    """The map's labels, at the place and of the size that the OME-XML says."""
    back = read_class_map(path)
    assert (back.classes, back.frame) == (TUMOUR_CLASSES, result.frame)
    np.testing.assert_array_equal(back.label, result.label[:])
    with tifffile.TiffFile(path) as tif:
        pixels = tifffile.xml2dict(tif.ome_metadata or "")["OME"]["Image"]["Pixels"]
    frame, mpp = result.frame, result.slide.mpp
    assert (pixels["SizeX"], pixels["SizeY"]) == (frame.size.width, frame.size.height)
    assert pixels["PhysicalSizeX"] == pytest.approx(frame.downsample_x * mpp.x)
    assert pixels["Plane"]["PositionX"] == pytest.approx(frame.origin.x * mpp.x)
    assert pixels["Plane"]["PositionY"] == pytest.approx(frame.origin.y * mpp.y)
    with openslide.OpenSlide(path) as opened:
        assert opened.dimensions == (frame.size.width, frame.size.height)


def check_numbers(folder: Path, result: SlideMap, answered: dict[str, float]) -> None:
    """Areas in mm2 that are those of the labels, and where the map's first pixel lies."""
    summary, note = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("summary.json", "slide.json"))
    label = result.label[:]
    areas = {entry["name"]: entry["area_mm2"] for entry in summary["classes"]}
    assert areas == pytest.approx(answered)
    assert list(areas) == ["normal", "tumour"]
    for number, name in enumerate(areas):
        assert areas[name] == pytest.approx((label == number).sum() * result.pixel_area_mm2)
    assert [entry["name"] for entry in summary["classes"] if entry["background"]] == ["normal"]
    assert summary["covered_mm2"] == pytest.approx((label != UNCOVERED).sum() * result.pixel_area_mm2)
    frame, bounds = result.frame, result.slide.bounds
    assert note["map_frame"] == summary["map"]["frame"]
    assert note["map_frame"]["origin"] == {"x": bounds.x, "y": bounds.y}
    assert note["slide"]["bounds"] == {"x": bounds.x, "y": bounds.y, "width": bounds.width, "height": bounds.height}
    assert note["map_frame"]["downsample_x"] == pytest.approx(frame.downsample_x)
    assert note["inputs_hash"] == summary["inputs_hash"] == result.inputs_hash


@pytest.mark.parametrize("name", ["node.svs", "node.scn"])
def test_a_slide_with_metastases_gets_a_mask_that_qupath_opens(
    name: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    margin = 48 if name.endswith(".scn") else None
    settings = replace(metastasis_slide(seed=1), size=Size(700, 611), margin_px=margin, covered=0.6)
    truth = write_slide(tmp_path / name, settings)
    folder = predicted(trained, tmp_path / name, tmp_path / "out", capsys=capsys)
    result = SlideMap.open(folder / "map.zarr")
    found = result.label[:]
    assert min((found == 0).sum(), (found == 1).sum()) > 300
    assert result.slide.bounds == Box(0, 0, 700, 611).grown(-(margin or 0))
    # What the network calls tumour is crowded nuclei, of which the truth knows where they lie.
    drawn = polygons_by_class(read_geojson(truth.path))
    crowded = shapely.union_all([drawn[name] for name in CROWDED])
    mapped = polygons_by_class(read_geojson(folder / "regions.geojson"))["tumour"]
    assert mapped.intersection(crowded).area > 0.94 * mapped.area
    for by_x, by_y in ((30, 0), (-30, 0), (0, 30), (0, -30)):
        moved = shapely.affinity.translate(crowded, by_x, by_y)
        assert mapped.intersection(moved).area < 0.9 * mapped.area, "a shift of 30 um would be noticed"


def discs(corner: tuple[float, float]) -> shapely.MultiPolygon:
    """Five metastases of different sizes, one with a hole, level-0 pixels."""
    places = [(300, 260, 130), (640, 200, 60), (560, 500, 110), (170, 560, 75), (800, 400, 50)]
    parts = [shapely.Point(x, y).buffer(radius) for x, y, radius in places]
    parts[0] = parts[0].difference(shapely.Point(320, 250).buffer(50))
    return shapely.affinity.translate(shapely.MultiPolygon(parts), *corner)


def draw(path: Path, size: Size, scanned: Box, tumour: shapely.MultiPolygon) -> Path:
    """A slide of 0.5 um/px: glass, an island of pink, dark tumour in it; what is not scanned is no part of the file."""
    pixels = np.full((*size.shape, 3), GLASS, np.uint8)
    pixels[scanned.grown(-40).slices()] = PINK
    y, x = np.mgrid[: size.height, : size.width] + 0.5
    pixels[shapely.contains_xy(tumour, x, y)] = DARK
    container: Any = "leica" if path.suffix == ".scn" else "aperio"
    pyramid = Pyramid(size, scanned, 0.5, (2.7,), tile_px=256, jpeg_quality=92, container=container)
    write_pyramid(path, pyramid, lambda box: pixels[box.slices()])
    return path


@pytest.mark.parametrize(("name", "corner"), [("drawn.svs", (0, 0)), ("drawn.scn", (131, 77))])
def test_drawn_tumour_comes_back_where_it_was_drawn(
    name: str, corner: tuple[int, int], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scanned, tumour = Box(*corner, 907, 701), discs(corner)
    slide = draw(tmp_path / name, Size(907 + 2 * corner[0], 701 + 2 * corner[1]), scanned, tumour)
    folder = predicted(trained, slide, tmp_path / "out", "--map-stride", "1", capsys=capsys)
    result = SlideMap.open(folder / "map.zarr")
    assert result.slide.bounds == scanned
    frame = result.frame
    x = frame.origin.x + (np.arange(frame.size.width) + 0.5) * frame.downsample_x
    y = frame.origin.y + (np.arange(frame.size.height) + 0.5) * frame.downsample_y
    regions = polygons_by_class(read_geojson(folder / "regions.geojson"))["tumour"]
    for is_tumour in (result.label[:] == 1, shapely.contains_xy(regions, *np.meshgrid(x, y))):
        assert agreement(is_tumour, tumour, x, y, 4.0) >= 0.99
        for by_x, by_y in ((8, 0), (-8, 0), (0, 8), (0, -8)):
            assert agreement(is_tumour, tumour, x + by_x, y + by_y, 4.0) < 0.99, "a shift of 4 um would be noticed"
    areas = {entry["name"]: entry["area_mm2"] for entry in json.loads((folder / "summary.json").read_text())["classes"]}
    assert areas["tumour"] == pytest.approx(tumour.area * 0.25e-6, rel=0.03)


def test_a_slide_without_tumour_gets_a_mask_without_regions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blind = dark_is_tumour(tmp_path / "run", brightness=-1.0)
    slide = draw(tmp_path / "drawn.svs", Size(907, 701), Box(0, 0, 907, 701), discs((0, 0)))
    folder = predicted(blind, slide, tmp_path / "out", capsys=capsys)
    assert json.loads((folder / "regions.geojson").read_text())["features"] == []
    normal, tumour = json.loads((folder / "summary.json").read_text())["classes"]
    assert normal["area_mm2"] > 0.05
    assert (tumour["area_mm2"], tumour["fraction"], tumour["mean_probability"]) == (0, 0, None)


REAL = {
    "svs/CMU-1-Small-Region.svs": (),
    "svs/TCGA-CR-7395-01A-01-TS1.svs": ("--assume-mpp", "0.5"),
    "ome_tiff/OS-2-ndpi.ome.tif": (),
}


# one by default: what differs is the reader, which has tests of its own
@pytest.mark.parametrize(
    "name", [name if name.endswith("Region.svs") else pytest.param(name, marks=pytest.mark.slow) for name in REAL]
)
def test_a_real_slide_gets_a_mask_that_qupath_opens(
    name: str, real_data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = predicted(trained, real_data / "wsi" / name, tmp_path, *REAL[name], capsys=capsys)
    note = json.loads((folder / "slide.json").read_text(encoding="utf-8"))
    assert note["slide"]["mpp_source"] == ("assumed" if REAL[name] else "reader")
    found = SlideMap.open(folder / "map.zarr").label[:]
    assert min((found == 0).sum(), (found == 1).sum()) > 300


def test_a_real_slide_without_a_resolution_is_refused(
    real_data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = real_data / "wsi" / "svs" / "TCGA-CR-7395-01A-01-TS1.svs"
    assert run(["predict", str(trained), str(slide), "--out", str(tmp_path)]) == SOME_FAILED
    assert "Pass --mpp" in capsys.readouterr().err
    assert not (tmp_path / slide.name / "map.zarr").exists()
