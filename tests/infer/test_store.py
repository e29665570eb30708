from pathlib import Path

import numpy as np
import pytest
import zarr

from counterstain.errors import InputError, StaleResultError
from counterstain.geometry import Box, Frame, Mpp, Point, Size
from counterstain.infer import areas_mm2
from counterstain.infer.store import MapStore, Standing, standing
from counterstain.results import UNCOVERED, Classes, SlideMap, SlideRecord

CLASSES = Classes(("a", "b"), ((1, 2, 3), (4, 5, 6)))
RECORD = SlideRecord("s.svs", "array", Size(180, 120), Mpp.square(0.5), "reader", Box(0, 0, 180, 120), "c0ffee")


@pytest.fixture
def result(tmp_path: Path) -> SlideMap:
    frame = Frame(Point(0, 0), 2.0, 2.0, Size(90, 60))
    return SlideMap(tmp_path / "out" / "map.zarr", frame, CLASSES, RECORD, "beef")


def block(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height * width)
    return rng.random((2, height, width)).astype(np.float16), rng.integers(0, 2, (height, width)).astype(np.uint8)


def test_what_is_written_is_read_and_the_rest_is_uncovered(result: SlideMap) -> None:
    store = MapStore.create(result, chunk_px=32)
    probability, label = block(28, 26)
    store.write(64, 32, probability, label)
    store.mark(5, is_complete=True)
    read = SlideMap.open(result.path)
    assert read == result
    np.testing.assert_array_equal(read.probability[:, 32:, 64:], probability)
    np.testing.assert_array_equal(read.label[32:, 64:], label)
    assert np.isnan(read.probability[:, :32]).all()
    assert np.isnan(read.probability[:, :, :64]).all()
    assert (read.label[:, :64] == UNCOVERED).all()
    assert read.probability.dtype == np.float16
    assert len([path for path in (result.path / "probability" / "c").rglob("*") if path.is_file()]) == 1


def test_an_unfinished_map_is_not_opened_as_a_finished_one(result: SlideMap) -> None:
    store = MapStore.create(result, chunk_px=32)
    store.mark(2, is_complete=False)
    with pytest.raises(InputError, match="interrupted"):
        SlideMap.open(result.path)
    assert standing(result.path, "beef") == Standing(2, is_complete=False)
    MapStore.reopen(result.path).mark(6, is_complete=True)
    assert standing(result.path, "beef") == Standing(6, is_complete=True)


def test_where_nothing_lies_nothing_stands(tmp_path: Path) -> None:
    assert standing(tmp_path / "map.zarr", "beef") == Standing(None, is_complete=False)


def test_maps_of_other_inputs_are_refused_unless_they_may_be_replaced(result: SlideMap) -> None:
    MapStore.create(result, chunk_px=32).mark(2, is_complete=False)
    with pytest.raises(StaleResultError, match="--overwrite"):
        standing(result.path, "f00d")
    assert standing(result.path, "f00d", overwrite=True) == Standing(None, is_complete=False)
    MapStore.create(result, chunk_px=32)
    assert standing(result.path, "beef") == Standing(0, is_complete=False)


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map.zarr").mkdir()
    with pytest.raises(StaleResultError, match="--overwrite"):
        standing(tmp_path / "map.zarr", "beef")
    (tmp_path / "file.zarr").write_text("no group")
    with pytest.raises(StaleResultError, match="--overwrite"):
        standing(tmp_path / "file.zarr", "beef")
    zarr.create_array(tmp_path / "array.zarr", shape=(3,), dtype="uint8")
    with pytest.raises(StaleResultError, match="--overwrite"):
        standing(tmp_path / "array.zarr", "beef")


def test_leftovers_of_a_kill_are_removed(result: SlideMap) -> None:
    half_made = result.path.with_name(".map.zarr")
    half_made.mkdir(parents=True)
    MapStore.create(result, chunk_px=32)
    assert not half_made.exists()
    partial = result.path / "label" / "c" / "0.1234.partial"
    partial.parent.mkdir()
    partial.write_bytes(b"half")
    MapStore.reopen(result.path)
    assert not partial.exists()


def test_a_file_in_the_place_of_a_map_is_replaced(result: SlideMap) -> None:
    result.path.parent.mkdir()
    result.path.write_text("no group")
    MapStore.create(result, chunk_px=32)
    assert standing(result.path, "beef").bands_done == 0


def test_areas_are_those_of_labelled_pixels(result: SlideMap) -> None:
    store = MapStore.create(result, chunk_px=32)
    label = np.full((28, 26), UNCOVERED, np.uint8)
    label[:10, :10], label[10:12, :5] = 0, 1
    store.write(64, 32, np.zeros((2, 28, 26), np.float16), label)
    store.mark(6, is_complete=True)
    areas = areas_mm2(SlideMap.open(result.path))
    assert areas == pytest.approx({"a": 100 * 1e-6, "b": 10 * 1e-6})
