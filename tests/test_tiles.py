import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from counterstain.errors import InputError
from counterstain.geometry import Box, Frame, Mpp, Point, Size
from counterstain.tiles import GridSettings, TileGrid, TileRow, grid
from counterstain.tissue import Tissue

HALF = Mpp.square(0.5)


@dataclass(frozen=True)
class Case:
    """A slide, its tissue in a frame of its own resolution, and a grid over it."""

    bounds: Box
    mpp: Mpp
    target_mpp: float
    settings: GridSettings
    tissue: Tissue

    def grid(self) -> TileGrid:
        return grid(self.bounds, self.mpp, self.target_mpp, self.settings, self.tissue)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    bounds = Box(
        draw(st.integers(-40, 5000)), draw(st.integers(0, 5000)), draw(st.integers(1, 900)), draw(st.integers(1, 900))
    )
    mpp = Mpp(draw(st.floats(0.2, 1.2)), draw(st.floats(0.2, 1.2)))
    halo_px = draw(st.integers(0, 12))
    core_px = draw(st.integers(20, 60))
    stride_px = draw(st.none() | st.integers(max(1, core_px // 2), core_px))
    frame = Frame.covering(bounds, mpp, draw(st.floats(6, 60)))
    mask = draw(hnp.arrays(bool, frame.size.shape, elements=st.booleans(), fill=st.just(False)))
    return Case(
        bounds,
        mpp,
        draw(st.floats(0.4, 6)),
        GridSettings(core_px + 2 * halo_px, stride_px, halo_px),
        Tissue(mask, frame),
    )


def cores_of(tiles: TileGrid) -> list[Box]:
    """Level-0 boxes of all cores, cut at the frame."""
    return [tiles.frame.to_level0(tiles.core(row, x)) for row, x in tiles]


def covered(box: Box, cores: list[Box]) -> float:
    """The share of a box that lies in cores: on the grid of all their edges, exactly."""
    xs = np.unique(
        np.clip([box.x, box.right, *(edge for core in cores for edge in (core.x, core.right))], box.x, box.right)
    )
    ys = np.unique(
        np.clip([box.y, box.bottom, *(edge for core in cores for edge in (core.y, core.bottom))], box.y, box.bottom)
    )
    middle_x, middle_y = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2
    is_covered = np.zeros((len(middle_y), len(middle_x)), bool)
    for core in cores:
        in_x = (core.x <= middle_x) & (middle_x < core.right)
        in_y = (core.y <= middle_y) & (middle_y < core.bottom)
        is_covered |= in_y[:, None] & in_x
    return float((is_covered * np.diff(ys)[:, None] * np.diff(xs)).sum() / box.area)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_every_tissue_pixel_lies_in_cores(case: Case) -> None:
    tiles = case.grid()
    cores = cores_of(tiles)
    for row, column in np.argwhere(case.tissue.mask)[:40]:
        pixel = case.tissue.frame.to_level0(Box(int(column), int(row), 1, 1)).intersection(case.bounds)
        if pixel.area > 1e-3 * case.tissue.frame.downsample_x * case.tissue.frame.downsample_y:
            near = [core for core in cores if not core.intersection(pixel).is_empty]
            assert covered(pixel, near) == pytest.approx(1.0, abs=1e-4)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_no_tile_is_kept_without_tissue_in_its_core_and_none_with_tissue_is_left_out(case: Case) -> None:
    kept = {(row.y, x) for row, x in case.grid()}
    everything = grid(case.bounds, case.mpp, case.target_mpp, case.settings)
    for row, x in everything:
        core = everything.frame.to_level0(everything.core(row, x))
        # A sliver of a core in a tissue pixel may be rounding: neither kept nor left out by law.
        if 0 < case.tissue.coverage(core) * core.area < 1e-3:
            continue
        assert ((row.y, x) in kept) == case.tissue.touches(core)
    assert kept <= {(row.y, x) for row, x in everything}


@given(cases())
@settings(max_examples=60, deadline=None)
def test_rows_run_down_tiles_run_right_and_a_grid_is_always_the_same(case: Case) -> None:
    tiles = case.grid()
    assert [row.y for row in tiles.rows] == sorted({row.y for row in tiles.rows})
    assert all(list(row.xs) == sorted(set(row.xs)) and row.xs for row in tiles.rows)
    assert tiles == case.grid()
    assert len(tiles) == sum(1 for _ in tiles)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_a_tiles_box_goes_to_level_0_and_back(case: Case) -> None:
    everything = grid(case.bounds, case.mpp, case.target_mpp, case.settings)
    for row, x in list(everything)[:10]:
        back = everything.frame.from_level0(everything.box(row, x))
        size = case.settings.tile_px
        assert (back.x, back.y, back.width, back.height) == pytest.approx((x, row.y, size, size), abs=1e-6)


@given(st.integers(1, 2000), st.integers(1, 90), st.integers(0, 20), st.data())
def test_cores_cover_a_line_from_end_to_end_without_a_tile_too_many(
    extent: int, core: int, halo: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, core))
    tiles = grid(Box(0, 0, extent, 1), Mpp.square(1.0), 1.0, GridSettings(core + 2 * halo, stride, halo))
    (row,) = tiles.rows
    starts = [x + halo for x in row.xs]
    assert row.y == -halo
    assert starts[0] == 0
    assert set(np.diff(starts)) <= {stride}
    assert starts[-1] + core >= extent
    assert len(starts) == 1 or starts[-2] + core < extent


def test_a_grid_worked_by_hand() -> None:
    """200 x 100 px of 0.5 um from (1000, 400) on, tiles of 32 px at 1 um/px with a halo of 4: cores of 24 px."""
    tiles = grid(Box(1000, 400, 200, 100), HALF, 1.0, GridSettings(32, None, 4))
    assert tiles.frame.size == Size(100, 50)
    assert tiles.rows == tuple(TileRow(y, (-4, 20, 44, 68, 92)) for y in (-4, 20, 44))
    assert tiles.box(tiles.rows[0], -4) == Box(992, 392, 64, 64)
    assert tiles.core(tiles.rows[2], 92) == Box(96, 48, 4, 2)
    assert (tiles.stride_px, tiles.halo_px, tiles.tile_px) == (24, 4, 32)
    assert len(tiles) == 15


def test_tissue_that_ends_on_a_cores_edge_does_not_keep_the_next_tile() -> None:
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    tissue = Tissue(mask, Frame(Point(10, 20), 16.0, 16.0, Size(4, 4)))
    tiles = grid(Box(10, 20, 64, 64), Mpp.square(0.25), 0.5, GridSettings(8), tissue)
    assert list(tiles) == [(TileRow(0, (0,)), 0)]


def test_tissue_in_a_frame_of_another_corner_is_met_where_it_lies() -> None:
    mask = np.zeros((10, 10), bool)
    mask[7, 2] = True
    tissue = Tissue(mask, Frame(Point(0, 0), 100.0, 50.0, Size(10, 10)))
    tiles = grid(Box(150, 100, 800, 380), HALF, 1.0, GridSettings(20), tissue)
    places = {
        (tiles.frame.to_level0(tiles.core(row, x)).x, tiles.frame.to_level0(tiles.core(row, x)).y) for row, x in tiles
    }
    assert places == {(x, y) for x in (190, 230, 270) for y in (340, 380)}


def test_no_tissue_gives_no_tile() -> None:
    tissue = Tissue(np.zeros((5, 5), bool), Frame(Point(0, 0), 10, 10, Size(5, 5)))
    tiles = grid(Box(0, 0, 50, 50), HALF, 1.0, GridSettings(8), tissue)
    assert len(tiles) == 0
    assert tiles.rows == ()
    far = Tissue(np.ones((5, 5), bool), Frame(Point(900, 900), 10, 10, Size(5, 5)))
    assert len(grid(Box(0, 0, 50, 50), HALF, 1.0, GridSettings(8), far)) == 0


def test_a_grid_over_60000_pixels_squared_fits_in_little_memory() -> None:
    size = Size(3750, 3750)
    along = (np.arange(3750) - 1800) ** 2
    tissue = Tissue(along[:, None] + along < 1500**2, Frame(Point(0, 0), 16.0, 16.0, size))
    tracemalloc.start()
    tiles = grid(Box(0, 0, 60_000, 60_000), HALF, 0.5, GridSettings(224), tissue)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.5 < len(tiles) * 224**2 / 60_000**2 < 0.52
    assert held < 4e6
    assert peak < 8e6


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ((64, 65, 0), "stride of 65 px.*expected 1 to 64"),
        ((64, 49, 8), "expected 1 to 48"),
        ((64, 0, 0), "stride of 0 px"),
        ((64, None, 32), "less than half a tile"),
        ((64, None, -1), "halo of -1 px"),
        ((0, None, 0), "Tiles of 0 px"),
    ],
)
def test_grids_that_would_miss_tissue_are_refused(given_settings: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        GridSettings(*given_settings)


@pytest.mark.parametrize("target_mpp", [0.0, -1.0, float("nan"), float("inf")])
def test_a_resolution_that_is_none_is_refused(target_mpp: float) -> None:
    with pytest.raises(InputError, match="give a finite number above 0"):
        grid(Box(0, 0, 10, 10), HALF, target_mpp, GridSettings(8))
