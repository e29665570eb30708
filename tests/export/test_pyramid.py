"""Tiles of a class map's levels against levels picked from the whole map."""

import io
import zlib

import numpy as np
import pytest

from counterstain.export.pyramid import TILE_PX, ClassPyramid, level_sizes
from counterstain.geometry import Size


@pytest.mark.parametrize(("height", "width"), [(601, 8300), (2049, 513), (1, 1), (1536, 1024)])
def test_levels_show_the_nearest_pixels_and_white_beyond(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    label = np.where(np.arange(width) < width // 3, 255, rng.integers(0, 3, (height, width))).astype(np.uint8)
    palette = rng.integers(0, 256, (256, 3), np.uint8)
    pyramid = ClassPyramid(label, palette, 255, io.BytesIO())
    assert pyramid.sizes == level_sizes(Size(width, height))
    for number, size in enumerate(pyramid.sizes):
        step = 1 << number
        rows, columns = (
            np.minimum(np.arange(length) * step + step // 2, full - 1)
            for length, full in zip(size.shape, label.shape, strict=True)
        )
        down, across = (-(-length // TILE_PX) for length in size.shape)
        tiles = pyramid.tiles(number)
        # As a writer does it: no tile is asked for that is not there.
        decoded = [np.frombuffer(zlib.decompress(next(tiles)), np.uint8) for _ in range(down * across)]
        whole = np.stack(decoded).reshape(down, across, TILE_PX, TILE_PX, 3).swapaxes(1, 2)
        whole = whole.reshape(down * TILE_PX, across * TILE_PX, 3)
        np.testing.assert_array_equal(whole[: size.height, : size.width], palette[label[np.ix_(rows, columns)]])
        assert (whole[size.height :] == palette[255]).all()
        assert (whole[:, size.width :] == palette[255]).all()
