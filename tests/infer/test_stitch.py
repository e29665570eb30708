import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterstain.geometry import Size
from counterstain.infer.stitch import Floats, Stitcher, window

Places = list[tuple[int, int]]


def stitched(cores: dict[tuple[int, int], Floats], weights: Floats, size: Size, band_px: int, top: int = 0) -> Floats:
    """(C, H, W): what the stitcher hands out, NaN where uncovered; rows above `top` are left out."""
    num_channels = next(iter(cores.values())).shape[0]
    core_px = weights.shape[0]
    stitcher = Stitcher(num_channels, size, band_px, core_px, top)
    answer = np.full((num_channels, *size.shape), -7, np.float32)
    bands = []

    def keep(y: int | None) -> None:
        for band in stitcher.rest() if y is None else stitcher.bands_above(y):
            rows = slice(band.top, band.top + len(band.is_covered))
            answer[:, rows] = np.where(band.is_covered, band.mean_CHW, np.nan)
            bands.append(band.top)

    for (y, x), core in sorted(cores.items()):
        if y + core_px > top:
            keep(y)
            stitcher.add(core, weights, x, y)
    keep(None)
    assert bands == list(range(top, size.height, band_px))
    return answer[:, top:]


def stitched_in_memory(cores: dict[tuple[int, int], Floats], weights: Floats, size: Size) -> Floats:
    """The slow obvious twin: one sum of weighted values and one of weights, over everything, in float64."""
    num_channels, (height, width) = next(iter(cores.values())).shape[0], weights.shape
    value = np.zeros((num_channels, size.height + 2 * height, size.width + 2 * width))
    weight = np.zeros(value.shape[1:])
    for (y, x), core in cores.items():
        value[:, y + height : y + 2 * height, x + width : x + 2 * width] += core * weights.astype(np.float64)
        weight[y + height : y + 2 * height, x + width : x + 2 * width] += weights
    with np.errstate(invalid="ignore"):
        mean = value / weight
    return mean[:, height : height + size.height, width : width + size.width].astype(np.float32)


def cut(image: Floats, places: Places, core: Size) -> dict[tuple[int, int], Floats]:
    """Cores of an image, zeros beyond it."""
    padded = np.pad(image, ((0, 0), (core.height,) * 2, (core.width,) * 2))
    return {
        (y, x): padded[:, y + core.height : y + 2 * core.height, x + core.width : x + 2 * core.width] for y, x in places
    }


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Size, Size, Places, int, int]:
    """Any area, core, overlap and band; cores at regular steps that may overhang, some of them missing."""
    size = Size(draw(st.integers(1, 40)), draw(st.integers(1, 60)))
    side = draw(st.integers(1, 24))
    stride = draw(st.integers(1, side))
    first = draw(st.integers(1 - side, 0))
    places = [
        (y, x)
        for y in range(first, size.height, stride)
        for x in range(first, size.width, stride)
        if draw(st.booleans()) or draw(st.booleans())
    ]
    return size, Size(side, side), places or [(0, 0)], side - stride, draw(st.integers(1, 30))


@given(cuts(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_stitching_what_was_cut_gives_it_back_bit_by_bit(plan: tuple[Size, Size, Places, int, int], seed: int) -> None:
    size, core, places, overlap, band_px = plan
    image = np.random.default_rng(seed).random((2, *size.shape), np.float32)
    answer = stitched(cut(image, places, core), window(core, overlap, overlap), size, band_px)
    is_covered = ~np.isnan(stitched_in_memory(cut(image, places, core), window(core, overlap, overlap), size)[0])
    assert (~np.isnan(answer) == is_covered).all()
    assert (answer[:, is_covered] == image[:, is_covered]).all()


@given(cuts(), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_bands_agree_with_everything_held_in_memory(plan: tuple[Size, Size, Places, int, int], seed: int) -> None:
    size, core, places, overlap, band_px = plan
    rng = np.random.default_rng(seed)
    cores = {place: rng.random((3, *core.shape), np.float32) for place in places}
    weights = window(core, overlap, overlap)
    answer = stitched(cores, weights, size, band_px)
    np.testing.assert_allclose(answer, stitched_in_memory(cores, weights, size), atol=2e-6, equal_nan=True)


@given(cuts(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_starting_at_a_later_band_changes_no_bit(plan: tuple[Size, Size, Places, int, int], seed: int) -> None:
    size, core, places, overlap, band_px = plan
    rng = np.random.default_rng(seed)
    cores = {place: rng.random((2, *core.shape), np.float32) for place in places}
    weights = window(core, overlap, overlap)
    whole = stitched(cores, weights, size, band_px)
    for top in range(band_px, size.height, band_px):
        np.testing.assert_array_equal(stitched(cores, weights, size, band_px, top), whole[:, top:])


@pytest.mark.parametrize("value", [1.0, 0.1, 1 / 3, 0.0])
def test_a_constant_comes_back_exactly(value: float) -> None:
    size, core = Size(100, 90), Size(26, 26)
    cores = {(y, x): np.full((1, 26, 26), value, np.float32) for y in range(-4, 90, 19) for x in range(-4, 100, 19)}
    answer = stitched(cores, window(core, 7, 7), size, band_px=32)
    assert (answer == np.float32(value)).all()


def test_windows_of_neighbours_add_up_to_one() -> None:
    weights = window(Size(20, 1), 6, 0)[0]
    np.testing.assert_allclose(weights[14:] + weights[:6], 1, atol=1e-7)
    assert (weights[6:14] == 1).all()
    assert (np.diff(weights[:6]) > 0).all()


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 64))
def test_a_window_has_no_zero(width: int, height: int, overlap: int) -> None:
    weights = window(Size(width, height), overlap, overlap)
    assert weights.shape == (height, width)
    assert (weights > 0).all()
    assert (weights <= 1).all()
    np.testing.assert_array_equal(weights, weights[::-1, ::-1])


def test_memory_does_not_grow_with_the_height() -> None:
    low, high = (Stitcher(3, Size(64, height), band_px=32, core_px=20) for height in (100, 10**9))
    assert low._mean.nbytes == high._mean.nbytes == 3 * 64 * 52 * 4


def test_rows_of_cores_come_from_the_top_and_bands_are_taken_in_time() -> None:
    stitcher = Stitcher(1, Size(8, 64), band_px=8, core_px=4)
    core = np.ones((1, 4, 4), np.float32)
    stitcher.add(core, window(Size(4, 4), 1, 1), 0, 4)
    with pytest.raises(AssertionError, match="from the top"):
        stitcher.add(core, window(Size(4, 4), 1, 1), 0, 0)
    with pytest.raises(AssertionError, match="taken in time"):
        stitcher.add(core, window(Size(4, 4), 1, 1), 0, 40)
    with pytest.raises(AssertionError, match="multiples"):
        Stitcher(1, Size(8, 64), band_px=8, core_px=4, top=3)
