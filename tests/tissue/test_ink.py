from collections.abc import Callable

import numpy as np
import pytest

from counterstain.tissue.glass import glass_color, transmittance
from counterstain.tissue.ink import INKS, Stroke, find_ink, touching, within

STROKE = Stroke(core_px=5, edge_px=20)


def light_of(scene: object) -> np.ndarray:
    pixels = scene.pixels  # type: ignore[attr-defined]
    return transmittance(pixels, glass_color(pixels))


@pytest.mark.parametrize("ink", INKS)
def test_a_stroke_on_glass_beside_tissue_is_ink_and_the_tissue_is_not(ink: str, scene: Callable, stains: dict) -> None:
    drawing = scene()
    tissue, stroke = drawing.disc(70, 100, 50), drawing.box(150, 20, 175, 180)
    drawing.lay(tissue, stains["purple"], 0.4).lay(stroke, stains[ink])
    found = find_ink(light_of(drawing), INKS, STROKE)
    assert found[stroke].mean() > 0.97
    assert found[tissue].mean() < 0.01
    assert found.sum() < 1.25 * stroke.sum()


@pytest.mark.parametrize("ink", INKS)
def test_a_stroke_over_tissue_is_ink(ink: str, scene: Callable, stains: dict) -> None:
    drawing = scene()
    tissue, stroke = drawing.disc(110, 100, 80), drawing.box(95, 40, 120, 160)
    drawing.lay(tissue, stains["pink"], 0.2).lay(stroke, stains[ink])
    found = find_ink(light_of(drawing), INKS, STROKE)
    assert found[stroke].mean() > 0.97
    assert found[tissue & ~within(stroke, 6)].mean() < 0.01


@pytest.mark.parametrize("ink", INKS)
def test_an_ink_that_is_not_asked_for_stays(ink: str, scene: Callable, stains: dict) -> None:
    drawing = scene()
    drawing.lay(drawing.disc(70, 100, 50), stains["pink"], 0.2).lay(drawing.box(150, 20, 175, 180), stains[ink])
    assert not find_ink(light_of(drawing), tuple(name for name in INKS if name != ink), STROKE).any()


@pytest.mark.parametrize("stain", ["pink", "purple", "pale"])
def test_stains_are_no_ink(stain: str, scene: Callable, stains: dict) -> None:
    drawing = scene()
    drawing.lay(drawing.disc(100, 100, 70), stains[stain], 0.5)
    assert not find_ink(light_of(drawing), INKS, STROKE).any()


@pytest.mark.parametrize("ink", INKS)
def test_dots_smaller_than_a_stroke_are_no_ink(ink: str, scene: Callable, stains: dict) -> None:
    drawing = scene()
    drawing.lay(drawing.disc(100, 100, 80), stains["pink"], 0.2)
    for x in range(50, 160, 25):
        drawing.lay(drawing.disc(x, 100, 4), stains[ink])
    assert not find_ink(light_of(drawing), INKS, STROKE).any()


def test_haematoxylin_of_an_immunostain_is_no_blue_ink(scene: Callable) -> None:
    drawing = scene()
    drawing.lay(drawing.disc(100, 100, 80), (0.45, 0.38, 0.22), 0.5).lay(
        drawing.disc(100, 100, 30), (0.4, 0.6, 0.9), 0.5
    )
    assert not find_ink(light_of(drawing), INKS, STROKE).any()


def test_the_soft_edge_of_a_stroke_belongs_to_it_as_far_as_the_edge_reaches(scene: Callable, stains: dict) -> None:
    drawing = scene()
    stroke, edge = drawing.box(100, 20, 130, 180), drawing.box(130, 20, 170, 180)
    faint = tuple(0.2 * value for value in stains["blue"])
    drawing.lay(stroke, stains["blue"]).lay(edge, faint)
    found = find_ink(light_of(drawing), INKS, STROKE)
    assert found[:, 140][30:170].all()
    assert not found[:, 160][30:170].any()


def test_a_stroke_that_leaves_the_view_is_ink_up_to_the_border(scene: Callable, stains: dict) -> None:
    drawing = scene()
    stroke = drawing.box(-1, 60, 240, 66)
    drawing.lay(drawing.box(-1, -1, 240, 8), stains["green"]).lay(stroke, stains["green"])
    found = find_ink(light_of(drawing), INKS, STROKE)
    assert found[:7].all()
    assert not found[stroke].any(), "three pixels to either side are too narrow for a stroke"


def test_within_takes_exactly_the_pixels_in_reach() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    rows, columns = np.mgrid[:9, :9] - 4
    assert np.array_equal(within(mask, 2.5), rows**2 + columns**2 <= 6.25)
    assert np.array_equal(within(mask, 0), mask)
    assert not within(np.zeros((3, 3), bool), 5).any()


def test_touching_keeps_the_patches_with_a_seed_also_across_corners() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
    seeds = np.zeros((4, 4), bool)
    seeds[1, 1] = seeds[2, 2] = True
    assert touching(mask, seeds).astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert not touching(mask, np.zeros((4, 4), bool)).any()
