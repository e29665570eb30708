"""Regions against an exact twin (the union of boxes) and against what a square of four pixels must give."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from counterstain.errors import InputError, UnknownNameError
from counterstain.export import RegionSettings, regions
from counterstain.geometry import Box
from counterstain.results import UNCOVERED, Region
from counterstain.testing.writers import THREE, Labels, Place, patchwork, plant_map

LABELS = arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 2, UNCOVERED])
)


def boxes(mask: np.ndarray) -> shapely.Geometry:
    """The slow twin: the union of the pixels' own squares, run by run."""
    runs = []
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.pad(line.astype(int), 1)))
        runs += [shapely.box(start, row, end, row + 1) for start, end in edges.reshape(-1, 2)]
    return shapely.union_all(runs)


def area_by_corners(mask: np.ndarray) -> float:
    """The area that a contour at half-way through pixel centres must have, from each 2 x 2 of pixels on its own."""
    padded = np.pad(mask.astype(int), 1)
    fours = [padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]]
    count = sum(fours)
    is_diagonal = (count == 2) & (fours[0] == fours[3])
    eighths = np.array([0, 1, 4, 7, 8])[count]
    return float(np.where(is_diagonal, 2, eighths).sum() / 8)


def of_class(found: list[Region], name: str) -> shapely.Geometry:
    return shapely.union_all([region.polygon for region in found if region.class_name == name])


@settings(max_examples=25, deadline=None)
@given(LABELS)
def test_regions_differ_from_the_union_of_boxes_by_cut_corners_alone(
    tmp_path_factory: pytest.TempPathFactory, label: Labels
) -> None:
    found = list(regions(plant_map(tmp_path_factory.mktemp("map"), label), RegionSettings(classes=THREE.names)))
    for number, name in enumerate(THREE.names):
        mask = label == number
        own = [region.polygon for region in found if region.class_name == name]
        assert len(own) == ndimage.label(mask)[1], "a region for each set of pixels that touch along an edge"
        assert all(polygon.is_valid and polygon.area > 0 for polygon in own)
        assert sum(polygon.area for polygon in own) == pytest.approx(area_by_corners(mask), abs=1e-9)
        truth = boxes(mask)
        apart = shapely.symmetric_difference(shapely.union_all(own), truth)
        assert apart.area <= len(shapely.get_coordinates(truth)) / 8 + 1e-9


@settings(max_examples=15, deadline=None)
@given(LABELS, st.integers(2, 9))
def test_regions_do_not_depend_on_the_size_of_blocks(
    tmp_path_factory: pytest.TempPathFactory, label: Labels, block_px: int
) -> None:
    slide_map = plant_map(tmp_path_factory.mktemp("map"), label)
    whole = {(region.class_name, region.polygon.normalize()): region for region in regions(slide_map)}
    cut = {(region.class_name, region.polygon.normalize()): region for region in regions(slide_map, block_px=block_px)}
    assert whole.keys() == cut.keys()
    for key, region in whole.items():
        assert cut[key].mean_probability == pytest.approx(region.mean_probability)


def test_a_large_patchwork_joins_across_many_seams(tmp_path: Path) -> None:
    slide_map = plant_map(tmp_path, patchwork(211, 173))
    whole = {region.polygon.normalize() for region in regions(slide_map)}
    assert {region.polygon.normalize() for region in regions(slide_map, block_px=16)} == whole
    assert any(len(polygon.interiors) > 3 for polygon in whole)


def test_a_rectangle_has_its_pixels_outer_edges(tmp_path: Path) -> None:
    label = np.full((9, 11), 2, np.uint8)
    label[2:5, 3:7] = 0
    (region,) = regions(plant_map(tmp_path, label, Place(corner=(100, 40), downsample=(4.5, 3.0), mpp=(0.5, 0.25))))
    assert region.polygon.bounds == (100 + 3 * 4.5, 40 + 2 * 3.0, 100 + 7 * 4.5, 40 + 5 * 3.0)
    assert region.polygon.area == pytest.approx((12 - 0.5) * 4.5 * 3.0)
    assert region.area_mm2 == pytest.approx((12 - 0.5) * 4.5 * 0.5 * 3.0 * 0.25 / 1e6)


def test_straight_lines_keep_their_ends_alone(tmp_path: Path) -> None:
    slide_map = plant_map(tmp_path, np.zeros((40, 40), np.uint8))
    for block_px in (7, 64):
        (region,) = regions(slide_map, block_px=block_px)
        assert len(region.polygon.exterior.coords) == 9, "four sides, four cut corners, closed"


def test_a_hole_is_nested_and_what_lies_in_it_is_a_region_of_its_own(tmp_path: Path) -> None:
    label = np.full((30, 30), 2, np.uint8)
    label[2:28, 2:28] = 0
    label[6:24, 6:24] = 1
    label[10:20, 10:20] = 0
    found = list(regions(plant_map(tmp_path, label), block_px=8))
    tumour = [region.polygon for region in found if region.class_name == "tumour"]
    (stroma,) = [region.polygon for region in found if region.class_name == "stroma"]
    assert sorted(len(polygon.interiors) for polygon in tumour) == [0, 1]
    assert len(stroma.interiors) == 1
    assert shapely.intersection(stroma, shapely.union_all(tumour)).area == pytest.approx(0, abs=1e-9)


def test_touching_classes_share_the_line_between_them(tmp_path: Path) -> None:
    label = np.zeros((10, 10), np.uint8)
    label[:, 6:] = 1
    left, right = regions(plant_map(tmp_path, label))
    shared = shapely.intersection(left.polygon.exterior, right.polygon.exterior)
    assert shared.length == pytest.approx(9)
    assert shared.bounds == (6, 0.5, 6, 9.5)


def test_a_region_ends_where_the_scanned_part_ends(tmp_path: Path) -> None:
    slide_map = plant_map(
        tmp_path, np.zeros((8, 8), np.uint8), Place(corner=(5, 6), downsample=(10, 10), overhang=0.75)
    )
    bounds = slide_map.slide.bounds
    (region,) = regions(slide_map)
    assert region.polygon.bounds == (bounds.x, bounds.y, bounds.right, bounds.bottom)
    assert region.polygon.is_valid


def test_a_region_that_only_overhangs_is_none(tmp_path: Path) -> None:
    label = np.full((8, 8), 2, np.uint8)
    label[:, 7] = 0
    label[3:5, 2:4] = 0
    slide_map = plant_map(tmp_path, label, Place(downsample=(10, 10), overhang=0.999999))
    assert len(list(regions(slide_map))) == 1


def test_a_cut_that_parts_a_region_gives_two(tmp_path: Path) -> None:
    label = np.full((8, 8), 2, np.uint8)
    label[1, 4:], label[5, 4:], label[1:6, 7] = 0, 0, 0
    slide_map = plant_map(tmp_path, label, Place(downsample=(10, 10)))
    narrower = replace(slide_map, slide=replace(slide_map.slide, bounds=Box(0, 0, 65, 80)))
    assert len(list(regions(slide_map))) == 1
    found = list(regions(narrower))
    assert len(found) == 2
    assert max(region.polygon.bounds[2] for region in found) == 65
    assert {region.mean_probability for region in found} == {0.75}


def test_background_is_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    slide_map = plant_map(tmp_path, patchwork(30, 30))
    assert {region.class_name for region in regions(slide_map)} == {"tumour", "stroma"}
    assert {region.class_name for region in regions(slide_map, RegionSettings(classes=("glass",)))} == {"glass"}
    with pytest.raises(UnknownNameError, match="tumour"):
        regions(slide_map, RegionSettings(classes=("tumor",)))


def test_uncovered_pixels_belong_to_no_region(tmp_path: Path) -> None:
    assert list(regions(plant_map(tmp_path, np.full((20, 20), UNCOVERED, np.uint8)))) == []


def test_small_regions_and_small_holes_go_by_their_um2(tmp_path: Path) -> None:
    label = np.full((40, 40), 2, np.uint8)
    label[2:30, 2:30] = 0
    label[5:8, 5:8] = 2
    label[15:25, 15:25] = 2
    label[35:37, 35:37] = 0
    slide_map = plant_map(tmp_path, label, Place(downsample=(4, 4), mpp=(0.5, 0.5)))
    pixel_um2 = 4.0
    assert sorted(len(region.polygon.interiors) for region in regions(slide_map)) == [0, 2]
    (kept,) = regions(slide_map, RegionSettings(min_area_um2=5 * pixel_um2, fill_holes_um2=20 * pixel_um2))
    assert len(kept.polygon.interiors) == 1
    assert kept.area_mm2 == pytest.approx((28 * 28 - 0.5 - (100 - 0.5)) * pixel_um2 / 1e6)
    filled = list(regions(slide_map, RegionSettings(fill_holes_um2=1000 * pixel_um2)))
    assert [len(region.polygon.interiors) for region in filled] == [0, 0]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 3.0, 9.0]))
def test_simplified_regions_stay_valid_and_near(
    tmp_path_factory: pytest.TempPathFactory, seed: int, simplify_um: float
) -> None:
    rng = np.random.default_rng(seed)
    label = (ndimage.gaussian_filter(rng.random((60, 60)), 1.5) > 0.5).astype(np.uint8)
    slide_map = plant_map(tmp_path_factory.mktemp("map"), label, Place(downsample=(2, 2), mpp=(0.5, 0.5)))
    exact = [region.polygon for region in regions(slide_map)]
    simple = [region.polygon for region in regions(slide_map, RegionSettings(simplify_um=simplify_um))]
    assert len(exact) == len(simple)
    assert sum(map(shapely.get_num_coordinates, simple)) < sum(map(shapely.get_num_coordinates, exact))
    for before, after in zip(exact, simple, strict=True):
        assert after.is_valid
        assert shapely.hausdorff_distance(shapely.boundary(after), shapely.boundary(before)) <= simplify_um / 0.5 * 3


def test_mean_probability_is_over_the_region_s_own_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    label = patchwork(50, 60, seed=3)
    probability = rng.random((3, 50, 60)).astype(np.float16)
    probability[:, label == UNCOVERED] = np.nan
    slide_map = plant_map(tmp_path, label, probability=probability)
    components, count = ndimage.label(label == 0)
    expected = ndimage.mean(probability[0].astype(float), components, range(1, count + 1))
    found = [region.mean_probability for region in regions(slide_map, RegionSettings(classes=("tumour",)), block_px=13)]
    assert sorted(found) == pytest.approx(sorted(expected))


@pytest.mark.parametrize("name", ["min_area_um2", "fill_holes_um2", "simplify_um"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_settings_that_mean_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        RegionSettings(**{name: value})


def test_finished_regions_are_given_out_before_the_sweep_ends(tmp_path: Path) -> None:
    """The first rows' regions come although the last rows can't be read."""
    label = patchwork(512, 64)
    slide_map = plant_map(tmp_path, label)
    (slide_map.path / "label" / "c" / "3" / "0").write_bytes(b"damaged")
    found: list[Region] = []
    source = regions(slide_map, block_px=32)
    with pytest.raises((RuntimeError, ValueError)):
        while True:
            found.append(next(source))
    assert len(found) > 10
