from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from counterstain.data.cell_files import read_cells
from counterstain.data.encoded_files import feature_path, read_encoded
from counterstain.data.features import ImportSettings, import_features, read_features, to_encoded
from counterstain.data.thumbnail import read_thumbnail
from counterstain.errors import InputError, MissingFileError, MissingResolutionError, StaleResultError
from counterstain.geometry import Mpp, Point
from counterstain.infer.encode import encode_slide
from counterstain.slides import open_slide
from counterstain.testing.encoding import CELLS, CPU, MeanEncoder, write_tissue
from counterstain.testing.feature_files import write_clam, write_stamp, write_trident

CELLS_N2 = np.array([(row, column) for row in range(4) for column in range(5) if (row + column) % 3])
"""Row and column of the patches; the first row and column have some."""
ORIGIN = np.array((1024, 300))
SIDE_PX = 512


def features(num: int = len(CELLS_N2), channels: int = 7) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (num, channels)).astype(np.float16).astype(np.float32)


def corners(side: float = SIDE_PX) -> np.ndarray:
    return ORIGIN + side * CELLS_N2[:, ::-1]


def shuffled() -> np.ndarray:
    """Files list patches in any order: here by columns."""
    return np.lexsort((CELLS_N2[:, 0], CELLS_N2[:, 1]))


def write_shuffled(write: Callable[..., Path], path: Path, places: np.ndarray) -> Path:
    order = shuffled()
    return write(path, features()[order], places[order])


@pytest.mark.parametrize(
    ("write", "places", "encoder", "settings"),
    [
        (write_trident, corners(), "uni_v1", ImportSettings(mpp=0.25)),
        (write_clam, corners(), "resnet50_trunc", ImportSettings("resnet50_trunc", mpp=0.25)),
        (write_stamp, corners() * 0.5, "ctranspath", ImportSettings(mpp=0.5)),
    ],
    ids=["trident", "clam", "stamp"],
)
def test_files_of_other_tools_become_encoded_slides(
    tmp_path: Path, write: Callable[..., Path], places: np.ndarray, encoder: str, settings: ImportSettings
) -> None:
    header = import_features(write_shuffled(write, tmp_path / "a.h5", places), tmp_path / "out", settings=settings)
    encoded = read_encoded(tmp_path / "out", encoder)
    assert np.array_equal(encoded.cells_N2, CELLS_N2 - CELLS_N2.min(0))
    assert np.array_equal(encoded.features_NC, features())
    assert encoded.thumbnail_HWC is None
    assert (encoded.frame.downsample_x, encoded.frame.downsample_y) == (SIDE_PX, SIDE_PX)
    assert encoded.frame.origin == Point(*(corners().min(0).tolist()))
    assert header.cell_um == pytest.approx(SIDE_PX * (settings.mpp or 0))
    assert (header.encoder.name, header.encoder.num_features) == (encoder, 7)
    assert (header.encoder.input_px, header.encoder.licence) == (None, "unknown")


def test_dialects_are_told_by_what_files_hold(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{write.__name__}.h5", features(), corners()) for write in (write_trident, write_stamp)]
    paths.append(write_clam(tmp_path / "clam.h5", features(), corners()))
    paths.append(write_clam(tmp_path / "bare.h5", features(), corners(), with_attributes=False))
    assert [read_features(path).dialect for path in paths] == ["trident", "stamp", "clam", "clam"]
    assert [read_features(path).side for path in paths] == [(512, 512), (256, 256), (512, 512), None]


def test_encoders_are_told_apart_by_name_and_code(tmp_path: Path) -> None:
    digests = []
    for number, changes in enumerate(({}, {"code_hash": "other"}, {"code_hash": None}, {"extractor": "uni"})):
        path = write_stamp(tmp_path / "a.h5", features(), corners(), **changes)
        digests.append(import_features(path, tmp_path / str(number), settings=ImportSettings(mpp=0.5)).encoder.digest)
    assert digests[:2] == ["abcd1234", "other"]
    assert len(set(digests[:3])) == 3


def test_what_a_file_does_not_say_is_asked_for(tmp_path: Path) -> None:
    bare = write_clam(tmp_path / "bare.h5", features(), corners(), with_attributes=False)
    with pytest.raises(InputError, match="--mpp"):
        import_features(bare, tmp_path / "out")
    with pytest.raises(InputError, match="--encoder"):
        import_features(bare, tmp_path / "out", settings=ImportSettings(mpp=0.25))
    told = ImportSettings("resnet50", mpp=0.25)
    with pytest.raises(InputError, match="--patch-px"):
        import_features(bare, tmp_path / "out", settings=told)
    assert not (tmp_path / "out").exists()
    header = import_features(bare, tmp_path / "out", settings=replace(told, patch_px=512))
    assert header.cell_um == 128
    stamp = write_stamp(tmp_path / "stamp.h5", features(), corners())
    with pytest.raises(InputError, match="a magnification is none"):
        import_features(stamp, tmp_path / "stamp")


def test_a_given_width_is_in_pixels_whatever_unit_the_file_has(tmp_path: Path) -> None:
    stamp = write_stamp(tmp_path / "stamp.h5", features(), corners() * 0.25, tile_size_um=None)
    told = ImportSettings(mpp=0.25, patch_px=SIDE_PX)
    header = import_features(stamp, tmp_path / "out", settings=told)
    assert header.cell_um == 128
    frame = read_encoded(tmp_path / "out", "ctranspath").frame
    assert (frame.downsample_x, frame.downsample_y) == (SIDE_PX, SIDE_PX)
    assert frame.origin == Point(*(corners().min(0).tolist()))


def test_um_become_pixels_along_each_axis_by_itself(tmp_path: Path) -> None:
    found = read_features(write_stamp(tmp_path / "stamp.h5", features(), corners() * (0.5, 0.25)))
    encoded, cell_um = to_encoded(replace(found, side=(256.0, 128.0)), Mpp(0.5, 0.25))
    assert (encoded.frame.downsample_x, encoded.frame.downsample_y) == (SIDE_PX, SIDE_PX)
    assert np.array_equal(encoded.cells_N2, CELLS_N2)
    assert cell_um == pytest.approx((256 * 128) ** 0.5)


def test_overlapping_patches_are_refused(tmp_path: Path) -> None:
    half = corners(SIDE_PX / 2)
    said = write_trident(tmp_path / "said.h5", features(), corners(), overlap=64)
    silent = write_trident(tmp_path / "silent.h5", features(), half)
    twice = write_trident(tmp_path / "twice.h5", features(3), corners()[[0, 1, 0]])
    for path in (said, silent, twice):
        with pytest.raises(InputError, match=r"overlap.*--snap"):
            import_features(path, tmp_path / "out", settings=ImportSettings(mpp=0.25))


def ragged() -> np.ndarray:
    """Two pieces of tissue, each with a grid of its own, as CLAM lays them."""
    places = corners().astype(np.float64)
    places[CELLS_N2[:, 0] >= 2] += (100, 5 * SIDE_PX - 60)
    return places


def test_patches_off_the_grid_are_refused_or_moved_to_the_nearest_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_clam(tmp_path / "a.h5", features(), ragged())
    told = ImportSettings("resnet50", mpp=0.25)
    with pytest.raises(InputError, match=r"lie off the grid of 512 px.*--snap"):
        import_features(path, tmp_path / "out", settings=told)
    import_features(path, tmp_path / "out", settings=replace(told, snap=True))
    encoded = read_encoded(tmp_path / "out", "resnet50")
    moved = CELLS_N2 + np.where(CELLS_N2[:, :1] >= 2, (5, 0), (0, 0))
    assert np.array_equal(encoded.cells_N2, moved)
    assert np.array_equal(encoded.features_NC, features())
    told_of = capsys.readouterr().err
    assert f"{np.count_nonzero(CELLS_N2[:, 0] >= 2)} of {len(CELLS_N2)} patches were moved" in told_of
    assert "by 100 px" in told_of


def test_the_nearest_of_several_patches_is_kept(tmp_path: Path) -> None:
    places = np.array([(0, 0), (512, 0), (600, 0), (1500, 0)])
    path = write_trident(tmp_path / "a.h5", features(4), places)
    import_features(path, tmp_path / "out", settings=ImportSettings(mpp=0.25, snap=True))
    encoded = read_encoded(tmp_path / "out", "uni_v1")
    assert encoded.cells_N2.tolist() == [[0, 0], [0, 1], [0, 3]]
    assert np.array_equal(encoded.features_NC, features(4)[[0, 1, 3]])


def test_a_slide_gives_resolution_and_a_thumbnail_on_exactly_the_imported_grid(tmp_path: Path) -> None:
    slide = open_slide(write_tissue(tmp_path / "a.tiff"))
    places = np.array([(37, 21), (57, 41), (97, 21)])
    size = {"level0_width": 320, "level0_height": 240}
    path = write_trident(tmp_path / "a.h5", features(3), places, patch_size_level0=20, **size)
    header = import_features(path, tmp_path / "out", slide)
    encoded, grid = read_encoded(tmp_path / "out", "uni_v1"), read_cells(tmp_path / "out")
    assert header.cell_um == 20
    assert encoded.cells_N2.tolist() == [[0, 0], [0, 3], [1, 1]]
    assert encoded.thumbnail_HWC is not None
    assert encoded.thumbnail_HWC.shape == (4, 8, 3)
    assert np.array_equal(encoded.thumbnail_HWC, read_thumbnail(slide, encoded.frame))
    assert grid.slide == slide.record()
    assert grid.corners().tolist() == [[37, 21], [97, 21], [57, 41]]


def test_another_slide_is_refused(tmp_path: Path) -> None:
    slide = open_slide(write_tissue(tmp_path / "a.tiff"))
    with pytest.raises(InputError, match=r"6000 x 5000 px.*320 x 240"):
        import_features(write_trident(tmp_path / "a.h5", features(), corners()), tmp_path / "out", slide)
    stamp = write_stamp(tmp_path / "b.h5", features(), corners())
    with pytest.raises(InputError, match="beyond"):
        import_features(stamp, tmp_path / "out", slide)
    bare = open_slide(write_tissue(tmp_path / "bare.tiff", mpp=None))
    with pytest.raises(MissingResolutionError):
        import_features(stamp, tmp_path / "out", bare)


def test_a_slide_of_another_resolution_is_refused(tmp_path: Path) -> None:
    path = write_tissue(tmp_path / "a.tiff")
    encode_slide(open_slide(path), MeanEncoder(), tmp_path / "ours", CELLS, CPU)
    ours = feature_path(tmp_path / "ours", "mean")
    with pytest.raises(InputError, match=r"slide of 1 um/px.*has 0\.9"):
        import_features(ours, tmp_path / "other", open_slide(path, 0.9))


def test_a_second_encoder_shares_the_cells_and_other_content_is_refused(tmp_path: Path) -> None:
    path, told = write_trident(tmp_path / "a.h5", features(), corners()), ImportSettings(mpp=0.25)
    before = import_features(path, tmp_path / "out", settings=told)
    assert import_features(path, tmp_path / "out", settings=told) == before
    other = import_features(path, tmp_path / "out", settings=replace(told, encoder="virchow"))
    assert other.cells_hash == before.cells_hash
    changed = write_trident(tmp_path / "b.h5", features() + 1, corners())
    with pytest.raises(StaleResultError, match=r"uni_v1\.h5"):
        import_features(changed, tmp_path / "out", settings=told)
    import_features(changed, tmp_path / "out", settings=replace(told, overwrite=True))
    assert np.array_equal(read_encoded(tmp_path / "out", "uni_v1").features_NC, features() + 1)


def test_our_own_files_come_back_whole(tmp_path: Path) -> None:
    path = write_tissue(tmp_path / "a.tiff", mpp=0.97)
    slide = open_slide(path)
    own = encode_slide(slide, MeanEncoder(), tmp_path / "own", CELLS, CPU)
    header = import_features(feature_path(tmp_path / "own", "mean"), tmp_path / "again", slide)
    one, other = (read_encoded(tmp_path / name, "mean") for name in ("own", "again"))
    assert np.array_equal(one.cells_N2, other.cells_N2)
    assert np.array_equal(one.features_NC, other.features_NC)
    assert other.frame.downsample_x == pytest.approx(one.frame.downsample_x)
    assert other.frame.origin.x == pytest.approx(one.frame.origin.x, abs=0.5)
    assert (header.encoder.digest, header.encoder.licence) == (own.encoder.digest, "CC0-1.0")
    assert header.cell_um == pytest.approx(own.cell_um)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_features(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(InputError, match="no HDF5"):
        read_features(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["embeddings"] = features()
    with pytest.raises(InputError, match="holds embeddings; 'features' and 'coords'"):
        read_features(tmp_path / "other.h5")
    with pytest.raises(InputError, match="features of shape"):
        read_features(write_trident(tmp_path / "short.h5", features()[:-1], corners()))
    broken = features()
    broken[2, 3] = np.nan
    with pytest.raises(InputError, match="no numbers"):
        read_features(write_trident(tmp_path / "nan.h5", broken, corners()))


@pytest.mark.parametrize("changes", [{"unit": None}, {"unit": "px"}, {"feat_type": "slide"}])
def test_other_kinds_of_stamp_files_are_refused(tmp_path: Path, changes: dict[str, str | None]) -> None:
    with pytest.raises(InputError, match="STAMP 2"):
        read_features(write_stamp(tmp_path / "a.h5", features(), corners(), **changes))
