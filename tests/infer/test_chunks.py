"""Files of chunks and shards as zarr-python reads them."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from counterstain.infer.chunks import crc32c, opened, write_chunk, write_shard


def test_zarr_reads_a_shard_as_if_it_had_written_it(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((5, 32, 16)).astype(np.float16).round(1)
    array = zarr.create_array(
        tmp_path / "map.zarr",
        shape=values.shape,
        dtype="float16",
        chunks=(1, 16, 16),
        shards=(5, 16, 16),
        fill_value=np.nan,
        compressors=zarr.codecs.ZstdCodec(level=1),
    )
    array[:, :16] = values[:, :16]
    theirs, ours = (tmp_path / "map.zarr" / "c" / "0" / row / "0" for row in ("0", "1"))
    write_shard(ours, [one[None] for one in values[:, 16:]], level=1)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "map.zarr", mode="r")[:], values)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "map.zarr", mode="r")[3, 20:22], values[3, 20:22])
    assert len(ours.read_bytes()) == pytest.approx(len(theirs.read_bytes()), rel=0.2)


def test_zarr_reads_a_chunk_as_if_it_had_written_it(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 3, (32, 32)).astype(np.uint8)
    zarr.create_array(
        tmp_path / "map.zarr",
        shape=(64, 32),
        dtype="uint8",
        chunks=values.shape,
        fill_value=9,
        compressors=zarr.codecs.ZstdCodec(level=1),
    )
    folder = tmp_path / "map.zarr" / "c" / "1"
    write_chunk(folder / "0", values, level=1)
    array = zarr.open_array(tmp_path / "map.zarr", mode="r")
    np.testing.assert_array_equal(array[32:], values)
    assert (array[:32] == 9).all()
    assert [path.name for path in folder.iterdir()] == ["0"]


@pytest.mark.parametrize(("data", "expected"), [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"", 0)])
def test_a_checksum_has_the_published_values(data: bytes, expected: int) -> None:
    """Of RFC 3720, appendix B.4, and the polynomial's customary check value."""
    assert crc32c(data) == expected


@pytest.mark.parametrize("shards", [(3, 16, 24), None])
def test_boxes_are_read_as_zarr_reads_them(tmp_path: Path, shards: tuple[int, ...] | None) -> None:
    """An array as maps are stored, and one that is left to Zarr."""
    array = zarr.create_array(
        tmp_path / "map.zarr",
        shape=(3, 40, 50),
        dtype="float16",
        chunks=(1, 16, 24),
        shards=shards,
        fill_value=np.nan,
        compressors=zarr.codecs.ZstdCodec(level=1),
    )
    array[:, 16:, 24:] = np.random.default_rng(0).random((3, 24, 26)).astype(np.float16)
    array[1, :16, :20] = 0.5  # a shard that lacks chunks
    array = zarr.open_array(tmp_path / "map.zarr", mode="r")
    boxes = (
        (slice(0, 40), slice(0, 50)),
        (slice(15, 17), slice(23, 49)),
        (slice(33, 90), slice(3, 4)),
        (slice(5, 5),) * 2,
    )
    for box in boxes:
        for plane in (0, 1, slice(None), slice(1, 3)):
            np.testing.assert_array_equal(opened(array)[(plane, *box)], array[(plane, *box)])


def test_labels_are_read_as_zarr_reads_them(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "label",
        shape=(40, 50),
        dtype="uint8",
        chunks=(16, 16),
        fill_value=255,
        compressors=zarr.codecs.ZstdCodec(level=1),
    )
    array[16:, :30] = np.arange(24 * 30, dtype=np.uint8).reshape(24, 30)
    read = opened(zarr.open_array(tmp_path / "label", mode="r"))
    assert read is not array
    np.testing.assert_array_equal(read[:, 3:], array[:, 3:])
    np.testing.assert_array_equal(read[15:33, 14:50], array[15:33, 14:50])
