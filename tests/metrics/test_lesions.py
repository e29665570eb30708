import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterstain.errors import InputError
from counterstain.metrics import (
    FALSE_POSITIVES,
    Detections,
    LesionRules,
    Lesions,
    MatchedSlide,
    detect,
    find_lesions,
    froc,
    match,
)

EVERY = LesionRules(isolated_um=0)


def matched(lesions: Sequence[float], false: Sequence[float]) -> MatchedSlide:
    return MatchedSlide(np.array(lesions, float), np.array(false, float))


def grid(*rows: str) -> np.ndarray:
    return np.array([[float(one == "#") for one in row] for row in rows])


def test_pieces_that_touch_at_a_corner_are_one_lesion_and_holes_are_filled() -> None:
    lesions = find_lesions(grid("###...", "#.#...", "###...", "...#.#"), 100, EVERY)
    assert lesions.number_HW.max() == 2
    assert lesions.number_HW[1, 1] == lesions.number_HW[0, 0] == lesions.number_HW[3, 3]
    assert lesions.number_HW[3, 5] == 2
    assert lesions.counts_L.tolist() == [True, True]


@pytest.mark.parametrize(("cell_um", "num"), [(15.0, 1), (30.0, 2)])
def test_pieces_nearer_than_the_gap_are_one_lesion(cell_um: float, num: int) -> None:
    """Three cells lie between both: 60 um from centre to centre, or 120."""
    assert len(find_lesions(grid("#...#"), cell_um, EVERY).counts_L) == num


def test_clusters_of_isolated_cells_are_neither_to_be_found_nor_false_to_find() -> None:
    truth = grid("####....", "####....", "####....", "####...#", "####....")
    lesions = find_lesions(truth, 70)
    assert lesions.counts_L.tolist() == [True, False]
    slide = match(Detections(np.array([[0, 0], [3, 7], [4, 1], [0, 7]]), np.array([0.5, 0.9, 0.7, 0.3])), lesions)
    assert slide.lesion_scores_L.tolist() == [0.7]
    assert slide.false_scores.tolist() == [0.3]


def test_the_long_axis_of_a_rectangle_is_that_of_its_moments() -> None:
    """n cells in a row have the axis 4 sqrt((n^2 - 1) / 12 + 1 / 12) = 4 n / sqrt(12): 23.1 cells for 20."""
    truth = np.zeros((5, 30))
    truth[2, 3:23] = 1
    for isolated_um, counts in ((2300.0, True), (2320.0, False)):
        lesions = find_lesions(truth, 100, LesionRules(merge_um=0, isolated_um=isolated_um))
        assert lesions.counts_L.tolist() == [counts]


def test_a_slide_without_tumour_has_only_false_positives() -> None:
    lesions = find_lesions(np.zeros((4, 4)), 64)
    slide = match(Detections(np.array([[1, 1]]), np.array([0.4])), lesions)
    assert (len(slide.lesion_scores_L), slide.false_scores.tolist()) == (0, [0.4])
    with pytest.raises(InputError, match="outside a grid of 4 x 4"):
        match(Detections(np.array([[1, 4]]), np.array([0.4])), lesions)
    with pytest.raises(InputError, match="a size above 0"):
        find_lesions(np.zeros((4, 4)), 0)


def slow_detect(evidence: np.ndarray, radius: float, least: float) -> list[tuple[int, int]]:
    left, found = evidence.copy(), []
    rows, columns = np.mgrid[: evidence.shape[0], : evidence.shape[1]]
    while not np.isnan(left).all() and np.nanmax(left) >= least:
        row, column = np.unravel_index(np.nanargmax(left), left.shape)
        found.append((int(row), int(column)))
        left[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = np.nan
    return found


@given(st.integers(0, 10_000), st.sampled_from([0, 1, 1.5, 3, 4.3]), st.floats(-2, 2))
@settings(max_examples=40, deadline=None)
def test_detections_agree_with_taking_the_largest_again_and_again(seed: int, radius: float, least: float) -> None:
    rng = np.random.default_rng(seed)
    evidence = np.round(rng.standard_normal((9, 13)), 1)
    evidence[rng.random(evidence.shape) < 0.2] = np.nan
    found = detect(evidence, radius, least)
    assert [tuple(cell) for cell in found.cells_D2.tolist()] == slow_detect(evidence, radius, least)
    assert (np.diff(found.scores_D) <= 0).all()


def test_a_froc_worked_by_hand() -> None:
    """Two slides, three lesions: found at .9 and .5, one missed; false at .8, .6, .4 makes 0.5, 1, 1.5 a slide."""
    curve = froc([matched([0.9, -math.inf], [0.8, 0.4]), matched([0.5], [0.6])])
    assert curve.false_positives.tolist() == [0, 0, 0.5, 1, 1, 1.5]
    assert curve.sensitivity.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert list(curve.at) == list(FALSE_POSITIVES)
    assert list(curve.at.values()) == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert curve.score == pytest.approx(10 / 18)
    tree = json.loads(json.dumps(curve.to_json(), allow_nan=False))
    assert tree["sensitivity_at"]["0.25"] == pytest.approx(1 / 3)
    assert (tree["reaches"], tree["num_lesions"], tree["num_slides"]) == (1.5, 3, 2)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 9), max_size=4), st.lists(st.integers(0, 9), max_size=9)),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=60, deadline=None)
def test_every_point_of_a_froc_is_a_threshold_counted(slides: list[tuple[list[int], list[int]]]) -> None:
    curve = froc([matched(*slide) for slide in slides])
    lesions, false = ([one for slide in slides for one in slide[place]] for place in (0, 1))
    thresholds = sorted({*lesions, *false}, reverse=True)
    wanted = [sum(one >= threshold for one in false) / len(slides) for threshold in thresholds]
    assert curve.false_positives.tolist() == pytest.approx([0, *wanted])
    if lesions:
        found = [sum(one >= threshold for one in lesions) / len(lesions) for threshold in thresholds]
        assert curve.sensitivity.tolist() == pytest.approx([0, *found])
    else:
        assert math.isnan(curve.score)


def test_a_map_that_is_the_truth_finds_every_lesion_without_a_false_one() -> None:
    truth = np.zeros((30, 30))
    truth[2:8, 2:8] = truth[20:28, 5:10] = 1
    curve = froc([match(detect(truth, 4, 0.5), find_lesions(truth, 64))])
    assert (curve.score, curve.num_lesions) == (1, 2)
    with pytest.raises(InputError, match="No slide"):
        froc([])
    with pytest.raises(InputError, match="radius of -1"):
        detect(truth, -1, 0)
    assert isinstance(find_lesions(truth, 64), Lesions)
