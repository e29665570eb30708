import json
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import shape

from counterstain.errors import InputError
from counterstain.export import TileSettings, read_geojson, write_tiles
from counterstain.export.tiles import tile_means
from counterstain.geometry import Box, Size
from counterstain.results import UNCOVERED
from counterstain.testing.writers import Place, patchwork, plant_map


def test_means_are_over_covered_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = patchwork(23, 31)
    probability = rng.random((3, 23, 31)).astype(np.float16)
    probability[:, label == UNCOVERED] = np.nan
    slide_map = plant_map(tmp_path, label, probability=probability)
    found = {(box.x, box.y): (box, means) for box, means in tile_means(slide_map, Size(4, 3))}
    for y in range(0, 23, 3):
        for x in range(0, 31, 4):
            part = label[y : y + 3, x : x + 4]
            if (part == UNCOVERED).all():
                assert (x, y) not in found
                continue
            box, means = found[x, y]
            assert box == Box(x, y, part.shape[1], part.shape[0])
            assert means[0] == pytest.approx((part != UNCOVERED).mean())
            expected = np.nanmean(probability[:, y : y + 3, x : x + 4].astype(float), axis=(1, 2))
            assert means[1:] == pytest.approx(expected)


def test_tiles_cover_the_scanned_part_and_no_more(tmp_path: Path) -> None:
    slide_map = plant_map(
        tmp_path, np.zeros((20, 30), np.uint8), Place(corner=(50, 60), downsample=(4, 4), overhang=0.5)
    )
    write_tiles(slide_map, tmp_path / "tiles.geojson", TileSettings(tile_um=16))
    tree = json.loads((tmp_path / "tiles.geojson").read_text())
    bounds = slide_map.slide.bounds
    areas = [shape(entry["geometry"]).area for entry in tree["features"]]
    assert sum(areas) == pytest.approx(bounds.area)
    assert max(areas) == 32 * 32
    back = read_geojson(tmp_path / "tiles.geojson")
    assert min(entry.geometry.bounds[0] for entry in back) == 50
    assert max(entry.geometry.bounds[3] for entry in back) == bounds.bottom


def test_a_tile_has_the_class_that_is_most_probable_in_it(tmp_path: Path) -> None:
    label = np.array([[1, 1, 0, 0], [1, 1, 0, 2]], np.uint8)
    write_tiles(plant_map(tmp_path, label), tmp_path / "tiles.geojson", TileSettings(tile_um=1))
    assert [entry.class_name for entry in read_geojson(tmp_path / "tiles.geojson")] == ["stroma", "tumour"]


def test_more_tiles_than_qupath_shows_at_ease_are_refused(tmp_path: Path) -> None:
    slide_map = plant_map(tmp_path, np.zeros((320, 320), np.uint8), Place(downsample=(1, 1)))
    with pytest.raises(InputError, match=r"are 102,400, more than the 100,000"):
        write_tiles(slide_map, tmp_path / "tiles.geojson", TileSettings(tile_um=0.5))


@pytest.mark.parametrize("tile_um", [0, -1, float("nan")])
def test_a_size_that_is_none_is_refused(tile_um: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        TileSettings(tile_um=tile_um)
