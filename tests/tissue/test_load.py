import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterstain.errors import InputError, MissingFileError, NoTissueError
from counterstain.geometry import Box, Point
from counterstain.slides import Slide
from counterstain.tissue import TissueSettings, find_tissue, load_tissue

SQUARE = [[0, 0], [40, 0], [40, 40], [0, 40], [0, 0]]


@pytest.fixture
def slide(draw: Callable) -> Slide:
    """100 x 80 pixels of 8 um, scanned from (20, 10) on."""
    return draw(np.full((80, 100, 3), 240, np.uint8), 8.0, Box(20, 10, 80, 70))


def feature(geometry: dict[str, Any], classification: Any = "Tissue") -> dict[str, Any]:
    properties = {"objectType": "annotation"} | ({} if classification is None else {"classification": classification})
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def moved(ring: list[list[float]], by: float) -> list[list[float]]:
    return [[x + by, y + by] for x, y in ring]


def written(folder: Path, tree: Any) -> Path:
    path = folder / "mended.geojson"
    path.write_text(json.dumps(tree))
    return path


def test_found_tissue_comes_back_from_its_file_as_it_was(
    tmp_path: Path, draw: Callable, scene: Callable, stains: dict
) -> None:
    drawing = scene()
    drawing.lay(drawing.disc(110, 100, 80) & ~drawing.disc(80, 100, 20), stains["pink"], 0.2)
    drawing.lay(drawing.box(130, 40, 160, 160), stains["green"])
    slide = draw(drawing.pixels, 5.0, Box(7, 3, 220, 190))
    found = find_tissue(slide)
    found.save(tmp_path / "tissue.geojson")
    loaded = load_tissue(tmp_path / "tissue.geojson", slide)
    assert loaded.frame == found.frame
    assert np.array_equal(loaded.mask, found.mask)
    assert found.ink is not None
    assert loaded.ink is not None
    assert np.array_equal(loaded.ink, found.ink)
    assert loaded.content_hash() == found.content_hash()


def test_what_qupath_gives_back_counts_from_the_scanned_part(tmp_path: Path, slide: Slide) -> None:
    """QuPath drops entries it does not know, the note of the frame among them."""
    found = load_tissue(written(tmp_path, [feature(polygon(SQUARE))]), slide)
    assert (found.frame.origin.x, found.frame.origin.y) == (20, 10)
    assert found.mask[:40, :40].all()
    assert found.mask.sum() == 1600


def test_a_file_that_counts_from_level_0_says_so(tmp_path: Path, slide: Slide) -> None:
    path = written(tmp_path, feature(polygon(moved(SQUARE, 30))))
    found = load_tissue(path, slide, origin=Point(0, 0))
    assert found.mask[20:60, 10:50].all()
    assert found.mask.sum() == 1600


def test_the_settings_give_the_resolution_of_the_mask(tmp_path: Path, slide: Slide) -> None:
    found = load_tissue(written(tmp_path, polygon(SQUARE)), slide, TissueSettings(mpp=16.0))
    assert found.mask.shape == (35, 40)
    assert found.mask.sum() == 400


@pytest.mark.parametrize(
    "classification",
    [None, "tissue", {"name": "Tissue", "color": [1, 2, 3]}, {"names": ["Tissue"], "color": [1, 2, 3]}],
)
def test_tissue_is_what_is_called_so_or_has_no_class(tmp_path: Path, slide: Slide, classification: Any) -> None:
    assert load_tissue(written(tmp_path, feature(polygon(SQUARE), classification)), slide).mask.sum() == 1600


def test_excluded_and_inked_areas_are_taken_out(tmp_path: Path, slide: Slide) -> None:
    tree = [
        feature(polygon([[0, 0], [10, 0], [10, 40], [0, 40]]), {"name": "Exclude", "color": [0, 0, 0]}),
        feature(polygon(SQUARE)),
        feature(polygon([[30, 0], [40, 0], [40, 40], [30, 40]]), "Ink"),
    ]
    found = load_tissue(written(tmp_path, {"type": "FeatureCollection", "features": tree}), slide)
    assert found.mask[:40, 10:30].all()
    assert found.mask.sum() == 800
    assert found.ink is not None
    assert found.ink.sum() == 400


def test_several_parts_and_collections_are_read(tmp_path: Path, slide: Slide) -> None:
    small = [[50, 50], [60, 50], [60, 60], [50, 60]]
    tree = {
        "type": "GeometryCollection",
        "geometries": [{"type": "MultiPolygon", "coordinates": [[SQUARE, moved(small, -40)], [small]]}],
    }
    assert load_tissue(written(tmp_path, tree), slide).mask.sum() == 1600 - 100 + 100


def test_other_classes_and_shapes_are_refused_all_at_once(tmp_path: Path, slide: Slide) -> None:
    tree = [
        feature(polygon(SQUARE), {"name": "Tumor", "color": [200, 0, 0]}),
        feature(polygon(SQUARE), {"names": ["Tissue", "Positive"], "color": [200, 0, 0]}),
        feature({"type": "Point", "coordinates": [3, 4]}),
        feature({"type": "LineString", "coordinates": [[3, 4], [5, 6]]}),
    ]
    with pytest.raises(
        InputError, match="class 'Tissue: Positive', class 'Tumor', geometry 'LineString', geometry 'Po"
    ):
        load_tissue(written(tmp_path, tree), slide)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{not json", "no JSON text"),
        ("42", "no GeoJSON"),
        ('{"type": "FeatureCollection"}', "no GeoJSON"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}', "at least three"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [NaN, 2]]]}', "at least three finite"),
        ('{"type": "Polygon", "coordinates": [["a", "b", "c"]]}', "no list of points"),
        ('{"type": "FeatureCollection", "counterstain": {"origin": 3}, "features": []}', "damaged 'counterstain'"),
    ],
)
def test_a_file_that_is_no_geojson_is_refused(tmp_path: Path, slide: Slide, text: str, message: str) -> None:
    path = tmp_path / "mended.geojson"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_tissue(path, slide)


def test_a_file_that_covers_nothing_or_is_not_there_is_refused(tmp_path: Path, slide: Slide) -> None:
    with pytest.raises(NoTissueError, match=r"mended\.geojson covers no tissue"):
        load_tissue(written(tmp_path, polygon(moved(SQUARE, 5000))), slide)
    with pytest.raises(MissingFileError, match="a GeoJSON file of tissue"):
        load_tissue(tmp_path / "absent.geojson", slide)
