import importlib.util
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch

from counterstain.data.cell_files import read_cells
from counterstain.data.encoded_files import feature_path, read_encoded
from counterstain.errors import DamagedSlideError, ExistingOutputError, InputError, StaleResultError
from counterstain.geometry import Box, Size
from counterstain.infer import encode
from counterstain.infer.encode import EncodeSettings, encode_slide
from counterstain.infer.rows import PartialRows
from counterstain.models.encoders import backbone_encoder
from counterstain.slides import open_slide
from counterstain.testing.encoding import CELL_UM, CELLS, CPU, INPUT_PX, MeanEncoder, damage, write_tissue
from counterstain.testing.processes import exit_code


@pytest.fixture
def tissue(tmp_path: Path) -> Path:
    return write_tissue(tmp_path / "a.tiff")


@pytest.mark.parametrize("factors", [(), (2, 4)])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_embeddings_are_those_of_each_cell_read_by_hand(
    tmp_path: Path, num_workers: int, factors: tuple[float, ...]
) -> None:
    path = write_tissue(tmp_path / "a.tiff", factors=factors)
    encoder = MeanEncoder()
    header = encode_slide(open_slide(path), encoder, tmp_path / "out", CELLS, replace(CPU, num_workers=num_workers))
    encoded = read_encoded(tmp_path / "out", "mean")
    assert header.num_cells == len(encoded.cells_N2) > 20
    assert (header.encoder, header.cell_um) == (encoder.spec, CELL_UM)
    assert encoded.features_NC.dtype == np.float16
    slide = open_slide(path)
    for cell, given in zip(encoded.cells_N2, encoded.features_NC, strict=True):
        box = encoded.frame.to_level0(Box(int(cell[1]), int(cell[0]), 1, 1))
        image = torch.from_numpy(slide.read_resized(box, Size(INPUT_PX, INPUT_PX))).permute(2, 0, 1)[None].float() / 255
        assert np.array_equal(encoder(image)[0].numpy().astype(np.float16), given)


def test_embeddings_stand_in_the_order_of_the_cells_whatever_the_batches(tmp_path: Path, tissue: Path) -> None:
    whole = None
    for batch_size in (1, 7, 64, 1000):
        out = tmp_path / str(batch_size)
        encode_slide(open_slide(tissue), MeanEncoder(), out, CELLS, replace(CPU, batch_size=batch_size))
        encoded = read_encoded(out, "mean")
        whole = encoded if whole is None else whole
        assert np.array_equal(encoded.features_NC, whole.features_NC)
        assert np.array_equal(encoded.cells_N2, np.argwhere(read_cells(out).observed_HW))


def test_a_network_gives_the_same_through_the_slide_as_on_images(tmp_path: Path, tissue: Path) -> None:
    encoder = backbone_encoder("tiny", None, 16, untrained=True)
    encode_slide(open_slide(tissue), encoder, tmp_path / "out", CELLS, CPU)
    encoded = read_encoded(tmp_path / "out", "tiny")
    row, column = encoded.cells_N2[5].tolist()
    image = open_slide(tissue).read_resized(encoded.frame.to_level0(Box(column, row, 1, 1)), Size(16, 16))
    expected = encoder(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0].detach().numpy()
    assert np.allclose(encoded.features_NC[5], expected, rtol=2e-3, atol=2e-3)


def test_what_is_done_is_not_done_again(tmp_path: Path, tissue: Path) -> None:
    first, second = MeanEncoder(), MeanEncoder()
    before = encode_slide(open_slide(tissue), first, tmp_path / "out", CELLS, CPU)
    assert encode_slide(open_slide(tissue), second, tmp_path / "out", CELLS, replace(CPU, batch_size=3)) == before
    assert (first.num_batches > 0, second.num_batches) == (True, 0)
    assert [path.name for path in (tmp_path / "out" / "features").iterdir()] == ["mean.h5"]


def test_a_new_encoder_reuses_the_cells(tmp_path: Path, tissue: Path) -> None:
    encode_slide(open_slide(tissue), MeanEncoder(), tmp_path / "out", CELLS, CPU)
    stamp = (tmp_path / "out" / "cells.zarr" / "zarr.json").stat().st_mtime_ns
    encode_slide(open_slide(tissue), MeanEncoder("other"), tmp_path / "out", CELLS, CPU)
    assert (tmp_path / "out" / "cells.zarr" / "zarr.json").stat().st_mtime_ns == stamp
    one, other = (read_encoded(tmp_path / "out", name) for name in ("mean", "other"))
    assert np.array_equal(one.features_NC, other.features_NC)


def test_other_weights_are_refused_or_replace_their_own_features_alone(tmp_path: Path, tissue: Path) -> None:
    encode_slide(open_slide(tissue), MeanEncoder(), tmp_path / "out", CELLS, CPU)
    encode_slide(open_slide(tissue), MeanEncoder("other"), tmp_path / "out", CELLS, CPU)
    changed = MeanEncoder(digest="2")
    with pytest.raises(StaleResultError, match="--overwrite"):
        encode_slide(open_slide(tissue), changed, tmp_path / "out", CELLS, CPU)
    stamp = feature_path(tmp_path / "out", "other").stat().st_mtime_ns
    header = encode_slide(open_slide(tissue), changed, tmp_path / "out", CELLS, replace(CPU, overwrite=True))
    assert header.encoder.digest == "2"
    assert feature_path(tmp_path / "out", "other").stat().st_mtime_ns == stamp
    read_encoded(tmp_path / "out", "other")


def test_other_cells_make_features_of_every_encoder_stale(tmp_path: Path, tissue: Path) -> None:
    for name in ("mean", "other"):
        encode_slide(open_slide(tissue), MeanEncoder(name), tmp_path / "out", CELLS, CPU)
    larger = replace(CELLS, cell_um=32.0)
    with pytest.raises(StaleResultError, match=r"cells\.zarr"):
        encode_slide(open_slide(tissue), MeanEncoder(), tmp_path / "out", larger, CPU)
    encode_slide(open_slide(tissue), MeanEncoder(), tmp_path / "out", larger, replace(CPU, overwrite=True))
    read_encoded(tmp_path / "out", "mean")
    with pytest.raises(StaleResultError, match="Encode the slide again"):
        read_encoded(tmp_path / "out", "other")


def test_a_file_of_somebody_else_is_refused(tmp_path: Path, tissue: Path) -> None:
    path = feature_path(tmp_path / "out", "mean")
    path.parent.mkdir(parents=True)
    path.write_text("no HDF5")
    with pytest.raises(StaleResultError, match=r"mean\.h5"):
        encode_slide(open_slide(tissue), MeanEncoder(), tmp_path / "out", CELLS, CPU)
    assert path.read_text() == "no HDF5"


@pytest.fixture(scope="module")
def killed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("killed_encoding", Path(__file__).with_name("killed_encoding.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("batch", [1, 6])
def test_a_killed_encoding_goes_on_at_its_chunk_and_ends_the_same(
    tmp_path: Path, tissue: Path, killed: ModuleType, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "_CHUNK_CELLS", killed.CHUNK)
    num_batches = killed.run(tissue, tmp_path / "whole")
    assert exit_code(Path(str(killed.__file__)), tissue, tmp_path / "out", batch) == -signal.SIGKILL
    assert not feature_path(tmp_path / "out", "mean").exists()
    batches_to_a_chunk = killed.CHUNK // killed.SETTINGS.batch_size
    kept = batch // batches_to_a_chunk * batches_to_a_chunk
    assert killed.run(tissue, tmp_path / "out") == num_batches - kept
    one, other = read_encoded(tmp_path / "whole", "mean"), read_encoded(tmp_path / "out", "mean")
    assert np.array_equal(one.features_NC, other.features_NC)
    assert np.array_equal(one.thumbnail_HWC, other.thumbnail_HWC)
    assert [path.name for path in (tmp_path / "out" / "features").iterdir()] == ["mean.h5"]


def test_rows_of_other_inputs_are_no_beginning(tmp_path: Path) -> None:
    target, rows = tmp_path / "features" / "a.h5", np.ones((4, 3), np.float16)
    with PartialRows(target, "1" * 64, (10, 3), 4) as partial:
        partial.append(rows)
    with PartialRows(target, "1" * 64, (10, 3), 4) as partial:
        assert partial.num_done == 4
    with PartialRows(target, "2" * 64, (10, 3), 4) as partial:
        assert partial.num_done == 0
    with PartialRows(target, "1" * 64, (10, 3), 4) as partial:
        assert partial.num_done == 0


def test_an_unfinished_chunk_is_cut_off(tmp_path: Path) -> None:
    target, rows = tmp_path / "a.h5", np.arange(30, dtype=np.float16).reshape(10, 3)
    with PartialRows(target, "1" * 64, (10, 3), 4) as partial:
        partial.append(rows[:4])
    with partial.path.open("ab") as file:
        file.write(b"half a row")
    with PartialRows(target, "1" * 64, (10, 3), 4) as partial:
        assert partial.num_done == 4
        partial.append(rows[4:8])
        partial.append(rows[8:])
        assert np.array_equal(partial.rows(), rows)
        partial.remove()
    assert not partial.path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_two_processes_do_not_encode_one_slide(tmp_path: Path, tissue: Path) -> None:
    class Curious(MeanEncoder):
        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            with pytest.raises(ExistingOutputError, match="another process"):
                encode_slide(open_slide(tissue), MeanEncoder(), tmp_path / "out", CELLS, CPU)
            return super().forward(images_BCHW)

    encode_slide(open_slide(tissue), Curious(), tmp_path / "out", CELLS, CPU)
    assert len(read_encoded(tmp_path / "out", "mean").cells_N2) > 0


def test_values_that_are_no_numbers_are_refused(tmp_path: Path, tissue: Path) -> None:
    class Broken(MeanEncoder):
        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            return super().forward(images_BCHW) * 1e9

    with pytest.raises(InputError, match="larger than float16"):
        encode_slide(open_slide(tissue), Broken(), tmp_path / "out", CELLS, CPU)


def test_embeddings_of_another_shape_are_refused(tmp_path: Path, tissue: Path) -> None:
    class Broken(MeanEncoder):
        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            return super().forward(images_BCHW)[:, :5]

    with pytest.raises(InputError, match=r"\(8, 5\); \(8, 6\)"):
        encode_slide(open_slide(tissue), Broken(), tmp_path / "out", CELLS, CPU)


def test_a_damaged_slide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedSlideError, match="damaged"):
        encode_slide(open_slide(damage(write_tissue(tmp_path / "a.tiff"))), MeanEncoder(), tmp_path / "out", CELLS, CPU)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"num_threads": 0}, {"num_workers": -1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="given"):
        EncodeSettings(**wrong)  # type: ignore[arg-type]


def test_files_are_what_other_tools_read(tmp_path: Path, tissue: Path) -> None:
    encode_slide(open_slide(tissue), MeanEncoder(), tmp_path / "out", CELLS, CPU)
    grid = read_cells(tmp_path / "out")
    with h5py.File(feature_path(tmp_path / "out", "mean")) as file:
        features, coords = file["features"], file["coords"]
        assert features.shape == (len(grid.cells_N2), 6)
        assert (features.dtype, coords.dtype) == (np.float32, np.int64)
        assert np.array_equal(coords[...], grid.corners())
        assert features.chunks[0] == len(grid.cells_N2)
        said = dict(coords.attrs)
        assert (said["patch_size"], said["patch_size_level0"], said["overlap"]) == (INPUT_PX, 16, 0)
        assert (said["level0_magnification"], said["target_magnification"]) == (10, 5)
        assert (said["level0_width"], said["level0_height"], said["name"]) == (320, 240, "a")
        assert said["mpp"].tolist() == [1, 1]
        assert said["unit"] == "px of level 0"
        assert features.attrs["encoder"] == "mean"
        assert features.attrs["encoder_licence"] == "CC0-1.0"
        assert features.attrs["encoder_digest"] == "1"


def test_a_real_slide_is_encoded_with_published_weights(real_data: Path, tmp_path: Path) -> None:
    slide = open_slide(real_data / "wsi" / "svs" / "CMU-1-Small-Region.svs")
    weights = real_data / "weights" / "mobilenet_v2_1.0_224_imagenet_bnfolded.npz"
    encoder = backbone_encoder("mobilenet_v2", weights, 64)
    cells = replace(CELLS, cell_um=128.0, tissue=replace(CELLS.tissue, mpp=8.0))
    encode_slide(slide, encoder, tmp_path / "out", cells, replace(CPU, batch_size=32))
    encoded = read_encoded(tmp_path / "out", "mobilenet_v2")
    assert encoded.features_NC.shape == (len(encoded.cells_N2), encoder.spec.num_features)
    assert len(np.unique(encoded.features_NC, axis=0)) == len(encoded.cells_N2)
