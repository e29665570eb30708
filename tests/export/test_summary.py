import json
from pathlib import Path

import numpy as np
import pytest

from counterstain.export import summarise, write_summary
from counterstain.results import UNCOVERED, Classes
from counterstain.testing.writers import THREE, Place, patchwork, plant_map


def test_a_hand_worked_map(tmp_path: Path) -> None:
    label = np.array([[0, 0, 1], [UNCOVERED, 0, 1]], np.uint8)
    probability = np.zeros((2, 2, 3), np.float16)
    probability[0] = [[1.0, 0.5, 0.25], [np.nan, 0.75, 0.0]]
    probability[1] = 1 - probability[0]
    classes = Classes(("tumour", "stroma"), ((200, 0, 0), (0, 0, 200)))
    place = Place(downsample=(8, 4), mpp=(0.5, 0.25))
    found = summarise(plant_map(tmp_path, label, place, classes=classes, probability=probability))
    pixel_mm2 = 8 * 0.5 * 4 * 0.25 / 1e6
    tumour, stroma = found.classes
    assert (tumour.num_pixels, stroma.num_pixels) == (3, 2)
    assert tumour.area_mm2 == pytest.approx(3 * pixel_mm2)
    assert (tumour.fraction, stroma.fraction) == (pytest.approx(0.6), pytest.approx(0.4))
    assert tumour.mean_probability == pytest.approx((1 + 0.5 + 0.75) / 3)
    assert stroma.mean_probability == pytest.approx((0.75 + 1) / 2)
    bits = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert tumour.mean_entropy == pytest.approx((0 + 1 + bits) / 3, rel=1e-5)
    assert stroma.mean_entropy == pytest.approx((bits + 0) / 2, rel=1e-5)
    assert found.covered_mm2 == pytest.approx(5 * pixel_mm2)
    assert found.uncovered_mm2 == pytest.approx(pixel_mm2)


def test_a_map_of_many_blocks_counts_every_pixel_once(tmp_path: Path) -> None:
    label = patchwork(1030, 1100)
    slide_map = plant_map(tmp_path, label)
    found = summarise(slide_map)
    assert [entry.num_pixels for entry in found.classes] == [int((label == number).sum()) for number in range(3)]
    assert sum(entry.fraction or 0 for entry in found.classes) == pytest.approx(1)
    assert found.covered_mm2 + found.uncovered_mm2 == pytest.approx(label.size * slide_map.pixel_area_mm2)
    assert all(entry.mean_probability == pytest.approx(0.75) for entry in found.classes)


def test_a_class_that_is_not_there_has_no_probability(tmp_path: Path) -> None:
    found = summarise(plant_map(tmp_path, np.zeros((4, 4), np.uint8)))
    assert found.classes[1].area_mm2 == 0
    assert found.classes[1].fraction == 0
    assert found.classes[1].mean_probability is None
    assert found.classes[1].mean_entropy is None


def test_a_map_without_a_covered_pixel_has_no_shares(tmp_path: Path) -> None:
    found = summarise(plant_map(tmp_path, np.full((4, 4), UNCOVERED, np.uint8)))
    assert found.covered_mm2 == 0
    assert [entry.fraction for entry in found.classes] == [None, None, None]


def test_one_class_leaves_no_doubt(tmp_path: Path) -> None:
    classes = Classes(("tumour",), ((200, 0, 0),))
    found = summarise(plant_map(tmp_path, np.zeros((4, 4), np.uint8), classes=classes))
    assert found.classes[0].mean_entropy == 0


def test_the_file_holds_slide_classes_and_versions(tmp_path: Path) -> None:
    slide_map = plant_map(tmp_path, patchwork(20, 30), Place(downsample=(8, 4), mpp=(0.5, 0.25)))
    write_summary(slide_map, tmp_path / "summary.json")
    tree = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert tree["slide"] == slide_map.slide.to_json()
    assert tree["inputs_hash"] == slide_map.inputs_hash
    assert tree["map"]["mpp"] == {"x": 4, "y": 1}
    assert [entry["name"] for entry in tree["classes"]] == list(THREE.names)
    assert [entry["background"] for entry in tree["classes"]] == [False, False, True]
    assert tree["covered_mm2"] == pytest.approx(sum(entry["area_mm2"] for entry in tree["classes"]))
    assert {"counterstain", "python", "numpy"} <= set(tree["versions"])
