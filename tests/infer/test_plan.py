import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterstain.errors import InputError
from counterstain.geometry import Box, Frame, Mpp, Size
from counterstain.infer.plan import Plan
from counterstain.infer.settings import TileSizes
from counterstain.tiles import GridSettings, grid
from counterstain.tissue import Tissue


def plan_of(width: int, height: int, sizes: TileSizes, map_stride: int, chunk_px: int) -> Plan:
    tiles = grid(
        Box(0, 0, width, height), Mpp.square(1.0), 1.0, GridSettings(sizes.tile_px, sizes.stride_px, sizes.halo_px)
    )
    return Plan(tiles, map_stride, chunk_px)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    map_stride = draw(st.sampled_from([1, 2, 4]))
    core, halo = draw(st.integers(1, 8)), draw(st.integers(0, 3))
    sizes = TileSizes((core + 2 * halo) * map_stride, halo * map_stride, draw(st.integers(1, core)) * map_stride)
    return plan_of(draw(st.integers(1, 400)), draw(st.integers(1, 100)), sizes, map_stride, draw(st.integers(3, 9)))


@given(plans())
@settings(max_examples=60, deadline=None)
def test_strips_tile_the_map_and_hold_every_tile_that_touches_them(plan: Plan) -> None:
    strips = [strip for strip, _ in plan.strips()]
    assert len(strips) == plan.num_strips
    assert [strip.left for strip in strips] == [number * plan.strip_px for number in range(len(strips))]
    assert sum(strip.size.width for strip in strips) == plan.frame.size.width
    for strip in strips:
        expected = [
            (row.y, x)
            for row in plan.grid.rows
            for x in row.xs
            if plan.core_of(x) < strip.left + strip.size.width and plan.core_of(x) + plan.core_px > strip.left
        ]
        assert [(row.y, x) for row in strip.rows for x in row.xs] == expected


@given(plans(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_resumed_plan_holds_all_rows_that_touch_what_is_left(plan: Plan, data: st.DataObject) -> None:
    done = data.draw(st.integers(0, plan.num_strips * plan.bands_per_strip))
    left = list(plan.strips(done))
    whole = {strip.number: strip for strip, _ in plan.strips()}
    num_left = sum(plan.bands_per_strip - top // plan.chunk_px for _, top in left)
    assert num_left == plan.num_strips * plan.bands_per_strip - done
    for strip, top in left:
        kept = [row for row in whole[strip.number].rows if plan.core_of(row.y) + plan.core_px > top]
        assert list(strip.rows) == kept
    if left:
        assert plan.number_of(*left[0]) == done
    assert plan.num_tiles(done) == sum(len(row.xs) for strip, _ in left for row in strip.rows)


def test_strips_are_as_wide_as_the_chunks_that_their_tiles_touch_and_left_out_without_any() -> None:
    mask = np.zeros((10, 50), np.bool_)
    mask[4, 23:25] = True
    tissue = Tissue(mask, Frame.covering(Box(0, 0, 2000, 400), Mpp.square(1.0), 40.0))
    plan = Plan(grid(Box(0, 0, 2000, 400), Mpp.square(1.0), 1.0, GridSettings(40), tissue), 1, 40)
    ((strip, _),) = plan.strips()
    assert (strip.number, strip.left, strip.size) == (1, 880, Size(160, 400))  # tiles from 920 to 1000
    assert [row.xs for row in strip.rows] == [(920, 960)]


def test_a_strip_has_the_same_width_at_every_map_stride() -> None:
    for map_stride in (1, 2, 4, 8, 16):
        sizes = TileSizes(64, 16, 16)
        assert plan_of(1000, 100, sizes, map_stride, 512).strip_px * map_stride == 16 * 512


def test_tiles_between_map_pixels_are_refused() -> None:
    with pytest.raises(InputError, match="Pass --map-stride 1"):
        plan_of(100, 100, TileSizes(64, 8, 20), 8, 512)
