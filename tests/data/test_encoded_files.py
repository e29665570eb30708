from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from counterstain.data.cell_files import CELLS, CellGrid, read_cells, write_cells
from counterstain.data.encoded import EncodedSlide
from counterstain.data.encoded_files import (
    encoders_in,
    feature_path,
    read_encoded,
    read_header,
    write_encoded,
    write_features,
)
from counterstain.errors import InputError, MissingFileError, StaleResultError
from counterstain.geometry import Box, Frame, Mpp, Point, Size
from counterstain.results import EncoderSpec, SlideRecord

FRAME = Frame(Point(100.5, 40.0), 263.9, 263.9, Size(9, 7))
SPEC = EncoderSpec("hand", 5, "digest", 112, "CC-BY-4.0")


def made_up(seed: int = 0, dtype: str = "float16", with_thumbnail: bool = True) -> EncodedSlide:
    random = np.random.default_rng(seed)
    cells = np.argwhere(random.random((7, 9)) < 0.6).astype(np.int32)
    features = random.normal(0, 1, (len(cells), 5)).astype(dtype)
    thumbnail = random.integers(0, 256, (14, 18, 3)).astype(np.uint8) if with_thumbnail else None
    return EncodedSlide(features, cells, FRAME, thumbnail)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("with_thumbnail", [True, False])
def test_what_is_written_is_read_again_bit_by_bit(tmp_path: Path, dtype: str, with_thumbnail: bool) -> None:
    slide = made_up(dtype=dtype, with_thumbnail=with_thumbnail)
    header = write_encoded(tmp_path, slide, SPEC, 64.0)
    again = read_encoded(tmp_path, "hand")
    assert again.features_NC.dtype == dtype
    assert np.array_equal(again.features_NC, slide.features_NC)
    assert np.array_equal(again.cells_N2, slide.cells_N2)
    assert again.cells_N2.dtype == np.int32
    assert again.frame == slide.frame
    assert (again.thumbnail_HWC is None) == (slide.thumbnail_HWC is None)
    if slide.thumbnail_HWC is not None:
        assert np.array_equal(again.thumbnail_HWC, slide.thumbnail_HWC)
    assert header == read_header(tmp_path, "hand")
    assert (header.encoder, header.num_cells, header.cell_um) == (SPEC, len(slide.cells_N2), 64.0)
    assert encoders_in(tmp_path) == (SPEC,)


def test_cells_out_of_order_and_cells_given_twice_are_refused() -> None:
    slide = made_up()
    ups_and_downs = np.random.default_rng(1).permutation(len(slide.cells_N2))
    twice = np.repeat(np.arange(len(slide.cells_N2)), 2)
    by_columns = np.lexsort((slide.cells_N2[:, 0], slide.cells_N2[:, 1]))
    for order in (ups_and_downs, twice, by_columns):
        with pytest.raises(InputError, match="twice or out of order"):
            replace(slide, features_NC=slide.features_NC[order], cells_N2=slide.cells_N2[order])


def test_float16_rows_take_about_half_the_room_of_float32(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    cells = np.argwhere(np.ones((64, 64), bool)).astype(np.int32)
    frame = Frame(Point(0, 0), 256, 256, Size(64, 64))
    features = random.random((4096, 128)).astype(np.float16)
    spec = replace(SPEC, num_features=128)
    write_encoded(tmp_path, EncodedSlide(features, cells, frame, None), spec, 64.0)
    path = feature_path(tmp_path, "hand")
    assert path.stat().st_size < 0.6 * 4 * features.size
    with h5py.File(path) as file:
        assert 256 <= file["features"].chunks[0] <= 1024
        assert file["features"].chunks[1] == 128


def test_cells_know_the_slide_and_how_they_were_chosen(tmp_path: Path) -> None:
    record = SlideRecord("a.svs", "tiff", Size(4000, 3000), Mpp(0.24, 0.25), "reader", Box(0, 0, 4000, 3000), "1f")
    observed = np.eye(7, 9, dtype=bool)
    scores = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    grid = CellGrid(FRAME, observed, 64.0, "hash", None, scores, record, {"filter": "runs", "deeper": {"a": [1, 2.5]}})
    write_cells(tmp_path, grid)
    again = read_cells(tmp_path)
    assert (again.frame, again.cell_um, again.inputs_hash, again.slide) == (FRAME, 64.0, "hash", record)
    assert again.chosen == {"filter": "runs", "deeper": {"a": [1, 2.5]}}
    assert np.array_equal(again.run_scores_HW, scores)
    assert again.thumbnail_HWC is None
    assert again.cells_N2.tolist() == [[i, i] for i in range(7)]
    assert np.allclose(again.corners()[2], [100.5 + 2 * 263.9, 40 + 2 * 263.9])


def test_names_that_no_file_can_have_are_kept_inside(tmp_path: Path) -> None:
    spec = replace(SPEC, name="timm:hf-hub:some/one")
    write_encoded(tmp_path, made_up(), spec, 64.0)
    assert feature_path(tmp_path, spec.name).name == "timm-hf-hub-some-one.h5"
    assert read_header(tmp_path, spec.name).encoder.name == spec.name
    with pytest.raises(StaleResultError, match="another encoder"):
        read_encoded(tmp_path, "timm-hf-hub-some-one")


def test_other_content_is_refused_or_replaces(tmp_path: Path) -> None:
    before = write_encoded(tmp_path, made_up(), SPEC, 64.0)
    assert write_encoded(tmp_path, made_up(), SPEC, 64.0) == before
    with pytest.raises(StaleResultError, match=r"cells\.zarr"):
        write_encoded(tmp_path, made_up(1), SPEC, 64.0)
    slide = made_up()
    changed = replace(slide, features_NC=slide.features_NC + np.float16(1))
    with pytest.raises(StaleResultError, match=r"hand\.h5"):
        write_encoded(tmp_path, changed, SPEC, 64.0)
    after = write_encoded(tmp_path, changed, SPEC, 64.0, overwrite=True)
    assert after.cells_hash == before.cells_hash
    assert after.inputs_hash != before.inputs_hash
    write_encoded(tmp_path, slide, replace(SPEC, name="other"), 64.0)
    write_encoded(tmp_path, made_up(1), SPEC, 64.0, overwrite=True)
    with pytest.raises(StaleResultError, match="other cells"):
        read_encoded(tmp_path, "other")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="cells"):
        read_encoded(tmp_path, "hand")
    write_encoded(tmp_path, made_up(), SPEC, 64.0)
    with pytest.raises(MissingFileError, match=r"'foot'; it has those of: hand"):
        read_encoded(tmp_path, "foot")


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    write_encoded(tmp_path, made_up(), SPEC, 64.0)
    path = feature_path(tmp_path, "hand")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        read_encoded(tmp_path, "hand")
    with h5py.File(path, "w") as file:
        file["features"] = np.zeros((3, 5))
    with pytest.raises(InputError, match="no features of version"):
        read_header(tmp_path, "hand")
    zarr.open_group(tmp_path / CELLS, mode="r+").attrs["complete"] = False
    with pytest.raises(InputError, match="no cells of version"):
        read_cells(tmp_path)
    (tmp_path / CELLS / "zarr.json").unlink()
    with pytest.raises(InputError, match="no Zarr group"):
        read_cells(tmp_path)
    with pytest.raises(StaleResultError):
        write_encoded(tmp_path, made_up(), SPEC, 64.0)
    write_encoded(tmp_path, made_up(), SPEC, 64.0, overwrite=True)
    read_encoded(tmp_path, "hand")


def test_features_must_be_one_row_for_each_cell(tmp_path: Path) -> None:
    grid = CellGrid(FRAME, np.ones((7, 9), bool), 64.0, "hash")
    with pytest.raises(InputError, match="63 cells"):
        write_features(tmp_path, np.zeros((62, 5), np.float16), grid, SPEC, "inputs")
