import numpy as np
import pytest

from counterstain.geometry import Box
from counterstain.synth.pieces import lay_out

AREA = Box(1000, 500, 9000, 6000)


def depth_of(seed: int, covered: float, step: float = 50.0) -> np.ndarray:
    ys, xs = np.arange(0, 7500, step), np.arange(0, 11000, step)
    return lay_out(seed, AREA, covered).depth(ys, xs)


@pytest.mark.parametrize("covered", [0.25, 0.42, 0.6])
def test_pieces_cover_about_as_much_as_asked_for(covered: float) -> None:
    parts = [(depth_of(seed, covered) > 0).sum() * 50.0**2 / AREA.area for seed in range(12)]
    assert np.mean(parts) == pytest.approx(covered, abs=0.09)


def test_pieces_keep_off_the_rim_of_their_area() -> None:
    for seed in range(8):
        depth = depth_of(seed, 0.8)
        ys, xs = np.nonzero(depth > 0)
        assert (xs * 50 > AREA.x).all()
        assert (xs * 50 < AREA.right).all()
        assert (ys * 50 > AREA.y).all()
        assert (ys * 50 < AREA.bottom).all()


def test_windows_of_an_outline_agree() -> None:
    pieces = lay_out(3, AREA, 0.4)
    ys, xs = np.arange(0, 7500, 20.0), np.arange(0, 11000, 20.0)
    whole = pieces.depth(ys, xs)
    for top, left in ((0, 0), (100, 200), (150, 300), (290, 60)):
        part = pieces.depth(ys[top : top + 40], xs[left : left + 50])
        inside = whole[top : top + 40, left : left + 50]
        assert ((part > 0) == (inside > 0)).all()
        is_near = np.abs(inside) < 30
        assert (part[is_near] == inside[is_near]).all()


def test_seeds_lay_out_other_pieces() -> None:
    numbers = {len(lay_out(seed, AREA, 0.4).pieces) for seed in range(30)}
    assert numbers == {1, 2, 3, 6}
