import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from counterstain.tissue.glass import DEFAULT_GLASS, glass_color, is_dark, otsu, saturation, transmittance


def test_the_colour_of_yellowish_glass_is_found_beside_tissue() -> None:
    image = np.full((40, 40, 3), (236, 230, 216), np.uint8)
    image[:, 10:] = (190, 110, 160)
    assert glass_color(image) == pytest.approx([236, 230, 216])


def test_a_patch_of_tissue_all_over_gets_the_default_glass() -> None:
    image = np.full((40, 40, 3), (230, 180, 210), np.uint8)
    assert glass_color(image) == pytest.approx(DEFAULT_GLASS)


def test_glass_lets_all_light_through_and_has_no_saturation() -> None:
    image = np.full((20, 20, 3), (236, 230, 216), np.uint8)
    light = transmittance(image, glass_color(image))
    assert light.dtype == np.float32
    assert light == pytest.approx(np.ones_like(light))
    assert saturation(light) == pytest.approx(np.zeros((20, 20)))


def test_a_grey_shadow_has_no_saturation_and_stain_has_much() -> None:
    light = np.array([[[0.5, 0.5, 0.5], [0.8, 0.4, 0.6]]], np.float32)
    assert saturation(light).tolist() == [[0.0, 0.5]]


def test_black_is_dark_but_not_infinitely_dense() -> None:
    light = transmittance(np.zeros((8, 8, 3), np.uint8), np.array(DEFAULT_GLASS, np.float32))
    assert light == pytest.approx(np.full_like(light, 12 / 245))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.full((20, 20, 3), (45, 8, 6), np.uint8), True),
        (np.zeros((20, 20, 3), np.uint8), True),
        (np.full((20, 20, 3), (110, 60, 120), np.uint8), False),
        (np.pad(np.full((6, 6, 3), 230, np.uint8), ((0, 14), (0, 14), (0, 0))), False),
    ],
    ids=["fluorescence", "black", "dense tissue", "unscanned parts filled with black"],
)
def test_dark_slides_are_told_from_bright_ones(image: np.ndarray, expected: bool) -> None:
    assert is_dark(image) is expected


def test_otsu_splits_two_heaps_in_the_middle_of_the_gap() -> None:
    values = np.concatenate([np.full(900, 0.1), np.full(100, 0.7)])
    assert otsu(values) == pytest.approx(0.4, abs=0.01)


def test_otsu_of_equal_values_is_that_value() -> None:
    assert otsu(np.full(10, 0.25)) == 0.25


@given(hnp.arrays(np.float64, st.integers(2, 60), elements=st.sampled_from(np.linspace(0, 1, 11).tolist())))
def test_no_other_threshold_has_less_variance_within_its_classes(values: np.ndarray) -> None:
    """The obvious twin: try every split."""

    def within(threshold: float) -> float:
        parts = values[values <= threshold], values[values > threshold]
        return float(sum(((part - part.mean()) ** 2).sum() for part in parts if part.size))

    best = min(within(level) for level in np.unique(values))
    assert within(otsu(values)) <= best + 0.02 * values.size * 0.1
