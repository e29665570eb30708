import numpy as np
import pytest

from counterstain.synth.nuclei import KINDS, print_stamps, stamps_of


@pytest.mark.parametrize("name", KINDS)
def test_stamps_have_a_middle_and_a_soft_rim(name: str) -> None:
    stamps = stamps_of(name, 0.5)
    assert len(stamps.images) == stamps.shapes * stamps.directions
    for image in stamps.images:
        assert image.shape[0] % 2 == image.shape[1] % 2 == 1
        assert float(image.min()) >= 0
        assert float(image.max()) > 0.02
        assert max(image.shape) <= 2 * stamps.reach_px


@pytest.mark.parametrize("name", ["tumour", "lymphocyte", "spindle"])
def test_a_nucleus_is_as_large_as_its_kind_says_at_any_resolution(name: str) -> None:
    smallest, largest = KINDS[name].long_um
    for mpp in (0.25, 0.5):
        longest = []
        for image in stamps_of(name, mpp).images:
            ys, xs = np.nonzero(image > 0.25 * image.max())
            longest.append(np.hypot(np.ptp(ys) + 1, np.ptp(xs) + 1) * mpp)
        assert min(longest) > 0.6 * smallest
        assert max(longest) < 1.6 * largest


def test_lymphocytes_are_small_and_dark_beside_tumour_nuclei() -> None:
    lymphocytes, tumour = stamps_of("lymphocyte", 0.5).images, stamps_of("tumour", 0.5).images
    assert np.mean([image.shape[0] for image in lymphocytes]) < 0.75 * np.mean([image.shape[0] for image in tumour])
    assert np.mean([image.max() for image in lymphocytes]) > np.mean(
        [np.median(image[image > 0.2]) for image in tumour]
    )


def test_directions_turn_long_nuclei() -> None:
    stamps = stamps_of("spindle", 0.5)
    shape = np.float32([0.9, 0.9])
    flat, upright = stamps.chosen(shape, np.float32([0, np.pi / 2])).tolist()
    assert stamps.images[flat].shape[1] > 2 * stamps.images[flat].shape[0]
    assert stamps.images[upright].shape[0] > 2 * stamps.images[upright].shape[1]
    assert stamps.chosen(shape[:1], np.float32([np.pi])).tolist() == [flat]


def test_printing_does_not_depend_on_the_order() -> None:
    images = stamps_of("tumour", 0.5).images
    random = np.random.default_rng(0)
    numbers, rows, columns = (random.integers(0, high, 60) for high in (len(images), 90, 70))
    one, other = np.zeros((90, 70), np.float32), np.zeros((90, 70), np.float32)
    print_stamps(one, images, numbers, rows, columns)
    print_stamps(other, images, numbers[::-1], rows[::-1], columns[::-1])
    assert (one == other).all()
    assert one.max() > 0.5


def test_stamps_over_the_rim_are_cut_as_a_larger_canvas_shows_them() -> None:
    images = stamps_of("lymphocyte", 0.5).images
    numbers, rows, columns = np.array([3, 4, 5, 6]), np.array([-3, 39, 20, -90]), np.array([15, 31, -2, 5])
    large = np.zeros((140, 90), np.float32)
    print_stamps(large, images, numbers, rows + 50, columns + 30)
    small = np.zeros((40, 32), np.float32)
    print_stamps(small, images, numbers, rows, columns)
    assert (small == large[50:90, 30:62]).all()


def test_strength_scales_what_is_printed() -> None:
    images = stamps_of("debris", 0.5).images
    place = np.array([10])
    full, half = np.zeros((21, 21), np.float32), np.zeros((21, 21), np.float32)
    print_stamps(full, images, np.array([20]), place, place)
    print_stamps(half, images, np.array([20]), place, place, np.float32([0.5]))
    assert np.allclose(half, 0.5 * full)
