import json
import math

import numpy as np
import pytest

from counterstain.errors import InputError
from counterstain.metrics import deletion_curve, insertion_curve, random_order_curves

TRUTH = np.zeros((6, 10), bool)
TRUTH[1:3, 2:5] = True  # six of sixty cells


def share_left(mask: np.ndarray) -> float:
    """A slide's score that is made of the six cells alone."""
    return float((mask & TRUTH).sum() / TRUTH.sum())


def test_a_map_of_what_decides_makes_the_score_fall_and_rise_at_once() -> None:
    evidence = TRUTH.astype(float)
    deleted, inserted = deletion_curve(evidence, share_left, 10), insertion_curve(evidence, share_left, 10)
    assert deleted.shares.tolist() == pytest.approx(np.linspace(0, 1, 11).tolist())
    assert deleted.scores.tolist() == [1] + [0] * 10
    assert inserted.scores.tolist() == [0] + [1] * 10
    assert (deleted.area, inserted.area) == pytest.approx((0.05, 0.95))
    assert (deleted.relative_area, inserted.relative_area) == pytest.approx((0.05, 0.95))
    reversed_ = deletion_curve(-evidence, share_left, 10)
    assert reversed_.area == pytest.approx(0.95)


def test_a_random_order_loses_the_score_evenly() -> None:
    curves = random_order_curves(TRUTH.astype(float), share_left, num=40, steps=10)
    assert len(curves) == 40
    assert np.mean([one.area for one in curves]) == pytest.approx(0.5, abs=0.04)
    given = random_order_curves(TRUTH.astype(float), share_left, insertion_curve, num=40, steps=10)
    assert np.mean([one.area for one in given]) == pytest.approx(0.5, abs=0.04)
    assert len({one.area for one in given}) > 1


def test_only_observed_cells_are_taken_away() -> None:
    evidence = np.full((3, 3), np.nan)
    evidence[0] = [3, 1, 2]
    seen: list[list[list[bool]]] = []

    def score(mask: np.ndarray) -> float:
        seen.append(mask.tolist())
        return float(mask.sum())

    curve = deletion_curve(evidence, score, 3)
    none = [False] * 3
    assert seen == [[row, none, none] for row in ([True] * 3, [False, True, True], [False, True, False], none)]
    assert curve.scores.tolist() == [3, 2, 1, 0]
    assert curve.relative_area == pytest.approx(0.5)


def test_more_steps_than_cells_change_nothing() -> None:
    evidence = np.array([[1.0, 2.0]])
    curve = deletion_curve(evidence, lambda mask: float(mask.sum()), 8)
    assert set(curve.shares.tolist()) == {0, 0.5, 1}
    assert curve.area == pytest.approx(1.0)


def test_a_score_that_cells_do_not_move_has_no_relative_area() -> None:
    curve = insertion_curve(TRUTH.astype(float), lambda _: 0.7, 4)
    assert curve.area == pytest.approx(0.7)
    assert math.isnan(curve.relative_area)
    assert json.loads(json.dumps(curve.to_json(), allow_nan=False))["relative_area"] is None


def test_what_can_t_be_perturbed_is_refused() -> None:
    with pytest.raises(InputError, match="0 observed cells"):
        deletion_curve(np.full((2, 2), np.nan), share_left)
    with pytest.raises(InputError, match="0 steps"):
        insertion_curve(TRUTH.astype(float), share_left, 0)
    with pytest.raises(InputError, match="one without cells too"):
        deletion_curve(TRUTH.astype(float), lambda mask: 1.0 if mask.any() else math.nan)
