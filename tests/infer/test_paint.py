import numpy as np
import pytest

from counterstain.infer.paint import Painter, best_class, glass
from counterstain.results import UNCOVERED, Classes, Maps

TISSUES = Classes(("a", "b"), ((1, 2, 3), (4, 5, 6)))
WITH_GLASS = Classes(("a", "glass"), ((1, 2, 3), (255, 255, 255)), background="glass")


def test_the_best_class_is_the_first_of_the_largest() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (5, 30, 40)).astype(np.float32)
    np.testing.assert_array_equal(best_class(values), values.argmax(0))
    assert best_class(values).dtype == np.uint8


def test_labels_are_taken_before_rounding_and_uncovered_is_nan() -> None:
    mean = np.array([[[0.5, 0.2]], [[0.50001, 0.8]]], np.float32)
    probability, label = Painter(TISSUES, 1, with_gray=False).paint(mean, np.array([[True, False]]))
    np.testing.assert_array_equal(label, [[1, UNCOVERED]])
    assert np.isnan(probability[:, 0, 1]).all()
    half = probability.astype(np.float16)
    assert half[0, 0, 0] == half[1, 0, 0]  # after rounding, the first class would have won
    np.testing.assert_array_equal(Maps(probability, TISSUES).labels(), label)


def gray_with(area: int) -> np.ndarray:
    gray = np.full((20, 20), 0.5, np.float32)
    gray[5:10, 5:15].flat[:area] = 0.9
    return gray


def test_glass_is_bright_and_has_50_image_pixels() -> None:
    everywhere = np.ones((20, 20), bool)
    assert glass(gray_with(50), everywhere, 1).sum() == 50
    assert glass(gray_with(49), everywhere, 1).sum() == 0
    assert glass(gray_with(13), everywhere, 2).sum() == 13
    assert glass(gray_with(12), everywhere, 2).sum() == 0
    assert glass(np.full((20, 20), 200 / 255, np.float32), everywhere, 1).sum() == 0


def test_glass_is_4_connected() -> None:
    gray = np.full((80, 80), 0.5, np.float32)
    gray[np.arange(10, 70), np.arange(10, 70)] = 1
    assert glass(gray, np.ones_like(gray, bool), 1).sum() == 0


def test_bright_pieces_at_the_rim_are_kept_and_uncovered_ones_are_none() -> None:
    gray = np.full((20, 20), 0.5, np.float32)
    gray[0, 3] = gray[7, 19] = gray[10, 10] = 1
    covered = np.ones((20, 20), bool)
    np.testing.assert_array_equal(np.argwhere(glass(gray, covered, 1)), [[0, 3], [7, 19]])
    covered[0] = False
    np.testing.assert_array_equal(np.argwhere(glass(gray, covered, 1)), [[7, 19]])


@pytest.mark.parametrize("classes", [TISSUES, WITH_GLASS])
def test_glass_becomes_background_where_there_is_such_a_class(classes: Classes) -> None:
    mean = np.stack([np.full((20, 20), 0.9), np.full((20, 20), 0.1), gray_with(50)]).astype(np.float32)
    probability, label = Painter(classes, 1, with_gray=True).paint(mean, np.ones((20, 20), bool))
    assert probability.shape == (2, 20, 20)
    is_glass = mean[2] > 0.8
    assert (label[~is_glass] == 0).all()
    if classes.background is None:
        assert (label[is_glass] == UNCOVERED).all()
        assert np.isnan(probability[:, is_glass]).all()
    else:
        assert (label[is_glass] == 1).all()
        assert (probability[1][is_glass] == 1).all()
        assert (probability[0][is_glass] == 0).all()
