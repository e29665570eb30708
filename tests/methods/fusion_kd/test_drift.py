import numpy as np
import numpy.typing as npt
import pytest

from counterstain.errors import InputError
from counterstain.methods.fusion_kd.drift import agreement, area_drift, soft_dice

Maps = npt.NDArray[np.float32]

POSITIVE = np.array([True, True, True, False])


def squares(side: int) -> Maps:
    """Four maps of 20 x 20 with a square of that side; the last one, a negative, empty."""
    maps = np.zeros((4, 20, 20), np.float32)
    maps[:3, :side, :side] = 0.9
    return maps


def test_equal_maps_have_not_drifted() -> None:
    drift = area_drift(squares(10), squares(10), POSITIVE)
    assert (drift.median_ratio, drift.share_large) == (1.0, 0.0)
    assert drift.student_area == drift.teacher_area == 0.25


def test_growth_and_shrinking_are_told_by_the_ratio_of_areas() -> None:
    grown, shrunk = area_drift(squares(20), squares(10), POSITIVE), area_drift(squares(5), squares(10), POSITIVE)
    assert grown.median_ratio == pytest.approx(4)
    assert shrunk.median_ratio == pytest.approx(1 / 4)
    assert grown.share_large == shrunk.share_large == 1


def test_nothing_against_nothing_is_no_drift_and_everything_lost_is_a_large_one() -> None:
    assert area_drift(squares(0), squares(0), POSITIVE).median_ratio == 1
    assert area_drift(squares(0), squares(10), POSITIVE).median_ratio == pytest.approx(0.001 / 0.25)


def test_negatives_do_not_count_as_drift() -> None:
    student = squares(10)
    student[3] = 1
    assert area_drift(student, squares(10), POSITIVE) == area_drift(squares(10), squares(10), POSITIVE)


def test_one_image_of_three_that_grew_shows_in_the_share_and_not_in_the_median() -> None:
    student = squares(10)
    student[0] = 1
    drift = area_drift(student, squares(10), POSITIVE)
    assert drift.median_ratio == 1
    assert drift.share_large == pytest.approx(1 / 3)


def test_soft_dice_is_dice_on_masks() -> None:
    one, other = np.zeros((1, 100, 100)), np.zeros((1, 100, 100))
    one[0, :50, :], other[0, 25:75, :] = 1, 1
    assert soft_dice(one, other)[0] == pytest.approx(0.5, abs=1e-3)


def test_a_soft_map_agrees_with_itself_wholly() -> None:
    half = np.full((2, 6, 6), 0.5)
    half[1] = 0
    np.testing.assert_array_equal(soft_dice(half, half), 1)
    assert soft_dice(half[:1], 1.2 * half[:1])[0] < 0.95


def test_agreement_is_over_positives_alone() -> None:
    student = squares(10)
    student[3] = 1
    assert agreement(student, squares(10), POSITIVE) == 1
    assert agreement(squares(10), squares(5), POSITIVE) == pytest.approx(0.4, abs=0.01)


def test_maps_of_other_images_are_refused() -> None:
    with pytest.raises(InputError, match="same images"):
        area_drift(squares(10)[:3], squares(10), POSITIVE)
    with pytest.raises(InputError, match="No image is positive"):
        agreement(squares(10), squares(10), np.zeros(4, bool))
