"""Files of chunks and shards as zarr-python reads them."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from counterstain.infer.chunks import crc32c, write_chunk, write_shard


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
