import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from counterstain.errors import InputError
from counterstain.stain import DARKEST, HED_TO_RGB, combine, jitter_hed, od_to_rgb, rgb_to_od, separate


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(num: int = 4, side: int = 6, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand((num, 3, side, side), generator=seeded(0), dtype=dtype)


def pixel(*rgb: float) -> torch.Tensor:
    return torch.tensor(rgb).view(1, 3, 1, 1)


def test_the_matrix_and_its_inverse_are_the_published_ones() -> None:
    """Ruifrok and Johnston's inverse, to the digits that are printed for it in common use."""
    assert HED_TO_RGB == ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
    inverse = [
        [1.87798274, -1.00767869, -0.55611582],
        [-0.06590806, 1.13473037, -0.1355218],
        [-0.60190736, -0.48041419, 1.57358807],
    ]
    for channel in range(3):
        density = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
        density[0, channel] = 1.0
        stains = separate(od_to_rgb(density)).flatten().tolist()
        assert stains == pytest.approx(inverse[channel], abs=1e-7)


def test_optical_density_of_white_is_nothing_and_of_a_tenth_is_ln_10() -> None:
    densities = rgb_to_od(pixel(1.0, 0.1, 0.5)).flatten().tolist()
    assert densities == pytest.approx([0.0, math.log(10), math.log(2)])
    assert od_to_rgb(rgb_to_od(pixel(1.0, 0.1, 0.5))).flatten().tolist() == pytest.approx([1.0, 0.1, 0.5])


def test_a_pixel_of_pure_stain_is_that_stain_alone() -> None:
    for number, direction in enumerate(HED_TO_RGB):
        image = pixel(*(math.exp(-0.8 * value) for value in direction))
        expected = [0.0, 0.0, 0.0]
        expected[number] = 0.8
        assert separate(image).flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_a_mixture_worked_by_hand_is_separated() -> None:
    """0.5 haematoxylin and 0.3 eosin: densities 0.5 * (0.65, 0.70, 0.29) + 0.3 * (0.07, 0.99, 0.11)."""
    image = pixel(math.exp(-0.346), math.exp(-0.647), math.exp(-0.178))
    assert separate(image).flatten().tolist() == pytest.approx([0.5, 0.3, 0.0], abs=1e-5)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_separating_and_combining_gives_the_image_back(dtype: torch.dtype, error: float) -> None:
    original = images(dtype=dtype).clamp(DARKEST, 1)
    again = combine(separate(original))
    assert again.dtype == dtype
    torch.testing.assert_close(again, original, atol=error, rtol=0)


def test_black_white_and_what_lies_outside_stay_finite_and_in_range() -> None:
    extremes = torch.tensor([0.0, 1.0, -0.5, 1.5]).view(4, 1, 1, 1).expand(4, 3, 5, 5)
    assert separate(extremes).isfinite().all()
    torch.testing.assert_close(combine(separate(extremes)), extremes.clamp(0, 1), atol=DARKEST * 1.001, rtol=0)
    jittered = jitter_hed(extremes, seeded(), 0.9, 0.9)
    assert jittered.isfinite().all()
    assert jittered.min() >= 0
    assert jittered.max() <= 1


def test_no_jitter_leaves_images_as_they_are() -> None:
    original = images()
    torch.testing.assert_close(jitter_hed(original, seeded(), 0.0), original, atol=DARKEST, rtol=0)


@given(st.integers(0, 1000))
def test_empty_glass_stays_white_however_strong_the_jitter(seed: int) -> None:
    white = torch.ones(3, 3, 2, 2)
    torch.testing.assert_close(jitter_hed(white, seeded(seed), 0.5, 0.5), white)
    glass = torch.tensor([0.95, 0.94, 0.96]).view(1, 3, 1, 1)
    assert (jitter_hed(glass, seeded(seed), 0.2) - glass).abs().max() < 0.03


def test_each_image_changes_in_its_own_way_and_a_seed_repeats_it() -> None:
    same = images(1).expand(5, -1, -1, -1)
    jittered = jitter_hed(same, seeded(), 0.2)
    assert all(not torch.equal(jittered[0], other) for other in jittered[1:])
    assert torch.equal(jittered, jitter_hed(same, seeded(), 0.2))
    assert not torch.equal(jittered, jitter_hed(same, seeded(4), 0.2))
    assert jittered.shape == same.shape
    assert jittered.dtype == same.dtype


def test_the_amount_of_each_stain_moves_within_the_range_that_was_asked_for() -> None:
    mixture = pixel(math.exp(-0.346), math.exp(-0.647), math.exp(-0.178)).double().expand(400, 3, 1, 1)
    scaled = separate(jitter_hed(mixture, seeded(), 0.2, 0.0))[..., 0, 0]
    for number, amount in enumerate((0.5, 0.3)):
        factors = scaled[:, number] / amount
        assert 0.8 - 1e-6 <= factors.min() < 0.82
        assert 1.18 < factors.max() <= 1.2 + 1e-6
        assert abs(float(factors.mean()) - 1) < 0.02
    shifted = separate(jitter_hed(mixture, seeded(), 0.0, 0.1))[..., 0, 0] - separate(mixture)[..., 0, 0]
    weight = (1 - math.exp(-5 * (0.346 + 0.647 + 0.178) / 3)) ** 2
    assert shifted.abs().max() <= 0.1 * weight + 1e-9
    assert shifted.abs().max() > 0.095 * weight


def test_the_shift_is_as_wide_as_the_scale_unless_it_is_given() -> None:
    original = images()
    assert torch.equal(jitter_hed(original, seeded(), 0.1), jitter_hed(original, seeded(), 0.1, 0.1))


def test_jitter_takes_torchs_own_generator_and_half_precision() -> None:
    torch.manual_seed(11)
    first = jitter_hed(images(), None, 0.1)
    torch.manual_seed(11)
    assert torch.equal(first, jitter_hed(images(), None, 0.1))
    low = jitter_hed(images().bfloat16(), seeded(), 0.1)
    assert low.dtype == torch.bfloat16
    assert low.isfinite().all()


def test_gradients_pass_through() -> None:
    original = images().clamp(0.05, 0.95).requires_grad_()
    jitter_hed(original, seeded(), 0.1).sum().backward()
    assert original.grad is not None
    assert original.grad.isfinite().all()


@pytest.mark.parametrize(("sigma", "shift"), [(-0.1, None), (1.0, None), (0.1, -0.2), (float("nan"), None)])
def test_a_sigma_out_of_range_is_refused(sigma: float, shift: float | None) -> None:
    with pytest.raises(InputError, match=r"0\.05 is light"):
        jitter_hed(images(), seeded(), sigma, shift)
