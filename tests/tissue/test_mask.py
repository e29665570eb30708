import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from counterstain.geometry import Box, Frame, Mpp, Point, Size
from counterstain.tissue import Tissue

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 8)))
BOXES = st.builds(Box, st.floats(-30, 60), st.floats(-30, 60), st.floats(0.5, 70), st.floats(0.5, 70))


CORNER = Point(3.5, -2.0)


def tissue_of(mask: np.ndarray, origin: Point = CORNER) -> Tissue:
    return Tissue(mask, Frame(origin, 4.0, 2.5, Size(mask.shape[1], mask.shape[0])))


@given(MASKS, BOXES)
@settings(max_examples=80, deadline=None)
def test_coverage_is_the_sum_of_what_each_pixel_shares_with_the_box(mask: np.ndarray, box: Box) -> None:
    tissue = tissue_of(mask)
    shared = [tissue.frame.to_level0(Box(int(x), int(y), 1, 1)).intersection(box).area for y, x in np.argwhere(mask)]
    assert tissue.coverage(box) == pytest.approx(sum(shared) / box.area, abs=1e-9)
    assert tissue.touches(box) == (sum(shared) > 1e-4) or 0 < sum(shared) <= 1e-4


def test_boxes_beyond_the_frame_and_empty_ones_have_no_tissue() -> None:
    tissue = tissue_of(np.ones((3, 3), bool))
    assert not tissue.touches(Box(100, 100, 5, 5))
    assert tissue.coverage(Box(100, 100, 5, 5)) == 0
    assert tissue.coverage(Box(5, 5, 0, 5)) == 0
    assert tissue.coverage(tissue.frame.box) == 1
    assert not tissue.touches(Box(3.5 + 12, -2, 5, 5)), "boxes that share an edge do not touch"


def test_area_counts_pixels_in_um() -> None:
    tissue = tissue_of(np.eye(5, dtype=bool))
    assert tissue.area_mm2(Mpp(0.5, 0.25)) == pytest.approx(5 * (4.0 * 0.5) * (2.5 * 0.25) / 1e6)


def test_a_mask_that_does_not_fill_its_frame_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        Tissue(np.ones((2, 3), bool), Frame(Point(0, 0), 1, 1, Size(2, 3)))


def test_the_content_hash_tells_masks_and_frames_apart() -> None:
    one, other = np.ones((4, 4), bool), np.ones((4, 4), bool)
    other[0, 0] = False
    hashes = {tissue.content_hash() for tissue in (tissue_of(one), tissue_of(other), tissue_of(one, Point(0, 0)))}
    assert len(hashes) == 3
    assert tissue_of(one).content_hash() in hashes
    assert pickle.loads(pickle.dumps(tissue_of(one))).content_hash() in hashes


def test_ink_has_polygons_of_its_own() -> None:
    mask, ink = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    mask[:2], ink[3:] = True, True
    frame = Frame(Point(0, 0), 1, 1, Size(4, 4))
    assert Tissue(mask, frame).ink_polygons() == []
    assert Tissue(mask, frame, ink).ink_polygons()[0].bounds == (0, 3, 4, 4)


def test_geojson_follows_qupaths_rules_and_counts_from_the_scanned_part(tmp_path: Path) -> None:
    mask = np.ones((6, 6), bool)
    mask[2:4, 2:4] = False
    ink = np.zeros((6, 6), bool)
    ink[3, 3] = True
    tissue = Tissue(mask, Frame(Point(1000, 500), 4, 4, Size(6, 6)), ink)
    tissue.save(tmp_path / "deep" / "tissue.geojson")
    tree = json.loads((tmp_path / "deep" / "tissue.geojson").read_text())
    assert tree["type"] == "FeatureCollection"
    assert tree["counterstain"]["origin"] == [1000, 500]
    first, second = tree["features"]
    assert first["type"] == "Feature"
    assert first["properties"]["objectType"] == "annotation"
    assert first["properties"]["classification"] == {"name": "Tissue", "color": [0, 150, 90]}
    assert second["properties"]["classification"]["name"] == "Ink"
    assert len(first["id"].split("-")) == 5
    outline, hole = first["geometry"]["coordinates"]
    assert outline[0] == outline[-1]
    assert hole[0] == hole[-1]
    assert np.array(outline).min() == 0
    assert np.array(outline).max() == 24
    level0 = tissue.to_geojson(Point(0, 0))["features"][0]["geometry"]["coordinates"][0]
    assert np.array(level0)[:, 0].min() == 1000


def test_writing_the_same_tissue_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    tissue = tissue_of(np.eye(6, dtype=bool))
    for name in ("a", "b"):
        tissue.save(tmp_path / f"{name}.geojson")
    assert (tmp_path / "a.geojson").read_bytes() == (tmp_path / "b.geojson").read_bytes()
