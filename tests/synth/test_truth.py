import json
import uuid
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from counterstain.errors import UnknownNameError
from counterstain.geometry import Box, Frame, Mpp, Point, Size
from counterstain.layouts import LAYOUTS, LUAD_HISTOSEG
from counterstain.results import UNCOVERED, Classes
from counterstain.synth.anatomy import SCENE_CLASSES
from counterstain.synth.scene import Scene, SceneSettings
from counterstain.synth.truth import (
    LAYOUT_NAMES,
    Wording,
    outline,
    sample_labels,
    wording_of,
    write_geojson,
    write_mask,
)

CLASSES = Classes(("one", "two"), ((255, 0, 0), (0, 0, 255)))
FRAME = Frame(Point(100, 50), 4.0, 5.0, Size(60, 40))
WORDING = Wording.own(CLASSES)


def ring() -> np.ndarray:
    """Class 1 with a hole, class 0 around it up to the rim on one side, nothing elsewhere."""
    labels = np.full((40, 60), UNCOVERED, np.uint8)
    labels[:, :30] = 0
    labels[10:30, 5:25] = 1
    labels[15:20, 10:15] = UNCOVERED
    return labels


def test_outlines_are_in_level_0_pixels_with_holes() -> None:
    regions = outline(ring(), FRAME, WORDING, 0.5)
    two = [region for region in regions if region.class_name == "two"]
    assert len(two) == 1
    assert len(two[0].polygon.interiors) == 1
    assert two[0].polygon.bounds == (100 + 5 * 4, 50 + 10 * 5, 100 + 25 * 4, 50 + 30 * 5)
    expected = (20 * 20 - 25) * 20 * 0.25 / 1e6
    assert two[0].area_mm2 == pytest.approx(expected, rel=0.02)


def test_outlines_reach_the_rim_of_the_frame() -> None:
    one = next(region for region in outline(ring(), FRAME, WORDING, 0.5) if region.class_name == "one")
    assert one.polygon.bounds[:2] == (100, 50)
    assert one.polygon.bounds[3] == 50 + 40 * 5


def test_outlines_are_valid_and_say_what_the_labels_say() -> None:
    scene = Scene(SceneSettings(seed=6, mpp=1.0, region_um=400))
    labels, frame = sample_labels(scene, Box(0, 0, 700, 500), 2.0, Wording.own(scene.classes))
    regions = outline(labels, frame, Wording.own(scene.classes), 1.0)
    assert all(region.polygon.is_valid and not region.polygon.is_empty for region in regions)
    y, x = np.mgrid[: frame.size.height, : frame.size.width]
    for number, name in enumerate(scene.classes.names):
        shapes = shapely.union_all([region.polygon for region in regions if region.class_name == name])
        inside = shapely.contains_xy(shapes, (x + 0.5) * 2.0, (y + 0.5) * 2.0)
        assert (inside == (labels == number)).all(), name


def test_every_layout_has_words_for_a_scene() -> None:
    for layout in LAYOUTS.values():
        wording = wording_of(layout)
        named = {wording.lookup[SCENE_CLASSES.index(name)] for name in LAYOUT_NAMES[layout.name]}
        assert named == set(range(len(layout.classes)))
        assert wording.lookup[SCENE_CLASSES.index("white")] == layout.mask_ignore
        assert wording.lookup[SCENE_CLASSES.index("glass")] == layout.mask_ignore


def test_unknown_words_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="'tumor'"):
        Wording.of(LUAD_HISTOSEG, {"tumor": "necrosis"})
    odd = type(LUAD_HISTOSEG)(**{**vars(LUAD_HISTOSEG), "name": "luad_histosegg"})
    with pytest.raises(UnknownNameError, match="luad_histoseg'"):
        wording_of(odd)


def test_geojson_is_what_qupath_reads(tmp_path: Path) -> None:
    regions = outline(ring(), FRAME, WORDING, 0.5)
    write_geojson(tmp_path / "t.geojson", regions, CLASSES)
    tree = json.loads((tmp_path / "t.geojson").read_text())
    assert tree["type"] == "FeatureCollection"
    assert len(tree["features"]) == len(regions)
    assert len({feature["id"] for feature in tree["features"]}) == len(regions)
    for feature, region in zip(tree["features"], regions, strict=True):
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        properties = feature["properties"]
        assert properties["objectType"] == "annotation"
        color = CLASSES.colors[CLASSES.index(region.class_name)]
        assert properties["classification"] == {"name": region.class_name, "color": list(color)}
        rings = feature["geometry"]["coordinates"]
        assert all(ring[0] == ring[-1] for ring in rings)
        back = shapely.Polygon(rings[0], rings[1:])
        assert back.symmetric_difference(region.polygon).area < 1


def test_nothing_gives_an_empty_collection(tmp_path: Path) -> None:
    labels = np.full((40, 60), UNCOVERED, np.uint8)
    write_geojson(tmp_path / "t.geojson", outline(labels, FRAME, WORDING, 0.5), CLASSES)
    assert json.loads((tmp_path / "t.geojson").read_text())["features"] == []


def test_masks_carry_their_palette(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [9, 0]], np.uint8)
    write_mask(tmp_path / "m.png", labels, CLASSES, 9, (1, 2, 3))
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "P"
        assert (np.asarray(image) == labels).all()
        assert np.asarray(image.convert("RGB"))[1, 0].tolist() == [1, 2, 3]
        assert np.asarray(image.convert("RGB"))[0, 1].tolist() == [0, 0, 255]


def test_sampled_labels_lie_where_their_frame_says() -> None:
    scene = Scene(SceneSettings(seed=6, mpp=1.0, region_um=400))
    labels, frame = sample_labels(scene, Box(40, 30, 301, 200), 3.0, Wording.own(scene.classes))
    assert frame == Frame.covering(Box(40, 30, 301, 200), Mpp.square(1.0), 3.0)
    assert labels.shape == frame.size.shape
    for row, column in ((0, 0), (20, 31), (66, 100)):
        pixel = Box(40 + 3 * column + 1, 30 + 3 * row + 1, 1, 1)
        assert labels[row, column] == scene.labels(pixel)[0, 0]
