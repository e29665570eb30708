"""Losses of image labels, worked by hand and against slow loops."""

import math

import pytest
import torch
from torch import Tensor

from counterstain.errors import InputError
from counterstain.losses import (
    area_constraint,
    constant_mask_dice,
    fraction_needed,
    generalised_mean,
    generalised_mean_bce,
    ratio_needed,
    soft_dice,
)

POSITIVE, NEGATIVE = torch.tensor([True]), torch.tensor([False])


def image(*pixels: float) -> Tensor:
    """One image of one output and one row."""
    return torch.tensor(pixels)[None, None, None]


def outputs(seed: int = 0) -> Tensor:
    """Probabilities of 3 images, 4 outputs, 5 x 6 pixels."""
    return torch.rand(3, 4, 5, 6, generator=torch.Generator().manual_seed(seed))


def test_the_soft_dice_is_as_worked_by_hand() -> None:
    """x = .5, 1 and t = 1, 0: 1 - (2 * .5 + 1) / (1.5 + 1 + 1) = 3/7."""
    assert float(soft_dice(image(0.5, 1.0), image(1.0, 0.0))) == pytest.approx(3 / 7)


@pytest.mark.parametrize("num_targets", [1, 4])
@pytest.mark.parametrize("scored", [False, True])
def test_the_soft_dice_agrees_with_a_loop(num_targets: int, scored: bool) -> None:
    x_BSHW, t_BSHW = outputs(), outputs(1)[:, :num_targets]
    is_scored_B1HW = outputs(2)[:, :1] > 0.4 if scored else None
    found_BS = soft_dice(x_BSHW, t_BSHW, is_scored_B1HW)
    assert found_BS.shape == (3, 4)
    for i in range(3):
        for k in range(4):
            x, t = x_BSHW[i, k].double(), t_BSHW[i, min(k, num_targets - 1)].double()
            kept = torch.ones(5, 6, dtype=torch.bool) if is_scored_B1HW is None else is_scored_B1HW[i, 0]
            overlap = float((x[kept] * t[kept]).sum())
            expected = 1 - (2 * overlap + 1) / (float(x[kept].sum()) + float(t[kept].sum()) + 1 + 1e-7)
            assert float(found_BS[i, k]) == pytest.approx(expected, abs=1e-6)


def test_constant_masks_are_compared_as_worked_by_hand() -> None:
    """p = .25, .75: positive 1 - (2 + 1) / (1 + 2 + 1) = 1/4; p = .5, .75 as a negative 1 - 2.5 / 3.75 = 1/3."""
    assert float(constant_mask_dice(image(0.25, 0.75), POSITIVE)) == pytest.approx(1 / 4)
    assert float(constant_mask_dice(image(0.5, 0.75), NEGATIVE)) == pytest.approx(1 - 2.5 / 3.75)


def test_each_image_is_compared_by_its_own_label() -> None:
    p_BSHW = outputs()
    found_BS = constant_mask_dice(p_BSHW, torch.tensor([True, False, True]))
    ones_B1HW = torch.ones(3, 1, 5, 6)
    torch.testing.assert_close(found_BS[[0, 2]], soft_dice(p_BSHW, ones_B1HW)[[0, 2]])
    torch.testing.assert_close(found_BS[1], soft_dice(1 - p_BSHW, ones_B1HW)[1])


def test_a_sure_and_right_image_loses_nothing() -> None:
    p_BSHW = torch.stack([torch.ones(2, 4, 4), torch.zeros(2, 4, 4)])
    assert float(constant_mask_dice(p_BSHW, torch.tensor([True, False])).abs().max()) < 1e-6
    assert float(constant_mask_dice(p_BSHW, torch.tensor([False, True])).min()) > 0.9


def test_glass_is_left_out_of_constant_masks() -> None:
    is_scored_B1HW = torch.tensor([[[[True, True, False]]]])
    found = constant_mask_dice(image(0.25, 0.75, 0.6), POSITIVE, is_scored_B1HW)
    assert float(found) == pytest.approx(1 / 4)
    nothing = constant_mask_dice(image(0.25, 0.75, 0.6), NEGATIVE, torch.zeros(1, 1, 1, 3, dtype=torch.bool))
    assert float(nothing) == pytest.approx(0, abs=1e-6)


def test_the_generalised_mean_has_its_inner_power() -> None:
    """((.5^4 + 1) / 2)^(1/4) = .853...; without the inner power it would be (.75)^(1/4) = .930...."""
    found = float(generalised_mean(image(0.5, 1.0), 4))
    assert found == pytest.approx(((0.0625 + 1) / 2) ** 0.25)
    assert abs(found - 0.75**0.25) > 0.05


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.01, 0.32), (0.05, 0.47), (0.1, 0.56), (0.2, 0.67), (0.4, 0.80), (0.6, 0.88)]
)
def test_small_tumours_pool_to_what_the_table_says(fraction: float, expected: float) -> None:
    p_BSHW = (torch.arange(100) < round(100 * fraction)).float().view(1, 1, 10, 10)
    assert float(generalised_mean(p_BSHW, 4)) == pytest.approx(expected, abs=0.006)


def test_a_higher_power_hears_small_tumours_better() -> None:
    p_BSHW = (torch.arange(100) < 1).float().view(1, 1, 10, 10)
    assert float(generalised_mean(p_BSHW, 8)) == pytest.approx(0.56, abs=0.005)
    assert float(generalised_mean(p_BSHW, 1)) == pytest.approx(0.01, abs=1e-6)


@pytest.mark.parametrize("power", [1.0, 2.5, 4.0, 8.0])
def test_the_generalised_mean_and_its_gradient_agree_with_the_plain_formula(power: float) -> None:
    p_BSHW, is_scored_B1HW = outputs().requires_grad_(), outputs(2)[:, :1] > 0.4
    found_BS = generalised_mean(p_BSHW, power, is_scored_B1HW)
    kept_BSHW = is_scored_B1HW.expand_as(p_BSHW)
    plain_BS = torch.stack(
        [
            (p[kept].double() ** power).mean() ** (1 / power)
            for p, kept in zip(p_BSHW.flatten(0, 1), kept_BSHW.flatten(0, 1), strict=True)
        ]
    ).view(3, 4)
    torch.testing.assert_close(found_BS.double(), plain_BS, atol=1e-6, rtol=1e-5)
    found, expected = (torch.autograd.grad(value.sum(), p_BSHW)[0] for value in (found_BS, plain_BS))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_faint_maps_pool_without_underflow() -> None:
    p_BSHW = torch.full((1, 1, 4, 4), 1e-5, requires_grad=True)
    found = generalised_mean(p_BSHW, 16)
    assert found.tolist() == [[pytest.approx(1e-5, rel=1e-4)]]
    gradient = torch.autograd.grad(found.sum(), p_BSHW)[0]
    assert gradient.flatten().tolist() == pytest.approx([1 / 16] * 16, rel=1e-4)


def test_the_pooled_cross_entropy_is_as_worked_by_hand() -> None:
    pooled = ((0.0625 + 0.4096) / 2) ** 0.25
    assert float(generalised_mean_bce(image(0.5, 0.8), POSITIVE)) == pytest.approx(-math.log(pooled), rel=1e-5)
    assert float(generalised_mean_bce(image(0.5, 0.8), NEGATIVE)) == pytest.approx(-math.log(1 - pooled), rel=1e-5)
    found = generalised_mean_bce(image(0.5, 0.8), POSITIVE, power=1.0)
    assert float(found) == pytest.approx(-math.log(0.65), rel=1e-5)


def test_an_image_that_is_all_glass_pools_to_no_loss() -> None:
    p_BSHW = outputs().requires_grad_()
    is_scored_B1HW = torch.ones(3, 1, 5, 6, dtype=torch.bool)
    is_scored_B1HW[1] = False
    found_BS = generalised_mean_bce(p_BSHW, torch.tensor([True, True, False]), 4.0, is_scored_B1HW)
    assert found_BS[1].tolist() == [0.0] * 4
    assert bool((found_BS[[0, 2]] > 0).all())
    with torch.autograd.set_detect_anomaly(True):  # nor a NaN on the way that a later step happens to hide
        gradient = torch.autograd.grad(found_BS.sum(), p_BSHW)[0]
    assert bool(gradient.isfinite().all())
    assert float(gradient[1].abs().max()) == 0


def test_the_area_constraint_is_as_worked_by_hand() -> None:
    """Means .5 and .25 against .1: 2.5 * .16 and 5 * .0225; a negative has none."""
    p_BSHW = torch.tensor([[[[0.0, 1.0]], [[0.25, 0.25]]]]).repeat(2, 1, 1, 1)
    found_BS = area_constraint(p_BSHW, torch.tensor([True, False]), 0.1, (2.5, 5))
    assert found_BS[0].tolist() == pytest.approx([0.4, 0.1125])
    assert found_BS[1].tolist() == [0.0, 0.0]


def test_sides_and_the_fused_map_weigh_as_published() -> None:
    found_BS = area_constraint(torch.ones(1, 4, 2, 2), POSITIVE, 0.0)
    assert found_BS.tolist() == [[2.5, 5.0, 10.0, 10.0]]


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("power", [1.0, 4.0, 8.0])
def test_gradients_are_finite_where_maps_are_sure(value: float, power: float) -> None:
    p_BSHW = torch.full((2, 4, 3, 3), value, requires_grad=True)
    is_positive_B = torch.tensor([True, False])
    losses = [
        constant_mask_dice(p_BSHW, is_positive_B),
        generalised_mean(p_BSHW, power),
        generalised_mean_bce(p_BSHW, is_positive_B, power),
        area_constraint(p_BSHW, is_positive_B, 0.1),
    ]
    for loss_BS in losses:
        assert bool(loss_BS.isfinite().all())
        assert bool(torch.autograd.grad(loss_BS.sum(), p_BSHW)[0].isfinite().all())


def test_losses_of_half_precision_maps_are_float32() -> None:
    p_BSHW, is_positive_B = outputs().bfloat16(), torch.tensor([True, False, True])
    for loss_BS in (
        constant_mask_dice(p_BSHW, is_positive_B),
        generalised_mean_bce(p_BSHW, is_positive_B),
        area_constraint(p_BSHW, is_positive_B, 0.1),
    ):
        assert loss_BS.dtype == torch.float32


def slope(fraction: float, normal: float, ratio: float) -> Tensor:
    """Of the loss of one positive image and `ratio` negatives: tumour at 1, normal-looking pixels at `normal` in both."""
    q = torch.tensor(normal, requires_grad=True)
    is_tumour_HW = (torch.arange(10_000) < round(10_000 * fraction)).view(100, 100)
    p_BSHW = torch.stack([torch.where(is_tumour_HW, 1.0, q), q.expand(100, 100)])[:, None]
    losses_B1 = constant_mask_dice(p_BSHW, torch.tensor([True, False]))
    return torch.autograd.grad(losses_B1[0, 0] + ratio * losses_B1[1, 0], q)[0]


@pytest.mark.parametrize(
    ("fraction", "ratio", "best"),
    [(0.1, 0.5, 0.71), (0.1, 1, 0.43), (0.1, 2, 0.15), (0.4, 0.5, 0.47), (0.4, 1, 0.11), (0.05, 1, 0.47)],
)
def test_normal_tissue_in_positives_settles_where_two_kinds_of_pixels_say(
    fraction: float, ratio: float, best: float
) -> None:
    """The slope of a convex loss changes its sign at the best probability."""
    assert float(slope(fraction, best - 0.02, ratio)) < 0
    assert float(slope(fraction, best + 0.02, ratio)) > 0


@pytest.mark.parametrize(("fraction", "ratio"), [(0.1, 2.98), (0.2, 2.22), (0.4, 1.22), (0.6, 0.63)])
def test_enough_negatives_push_normal_tissue_to_zero(fraction: float, ratio: float) -> None:
    assert ratio_needed(fraction) == pytest.approx(ratio, abs=0.006)
    assert float(slope(fraction, 0.0, 1.02 * ratio_needed(fraction))) > 0
    assert float(slope(fraction, 0.0, 0.98 * ratio_needed(fraction))) < 0


def test_the_share_needed_is_the_inverse_of_the_ratio_needed() -> None:
    assert fraction_needed(2.98) == pytest.approx(0.1, abs=0.001)
    for fraction in (0.0, 0.01, 0.1, 0.37, 0.9, 1.0):
        assert fraction_needed(ratio_needed(fraction)) == pytest.approx(fraction, abs=1e-9)
    assert [fraction_needed(ratio) for ratio in (0, 4, 9, math.inf)] == [1, 0, 0, 0]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_a_tumour_share_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(InputError, match="0 to 1"):
        ratio_needed(fraction)
    with pytest.raises(InputError, match="0 to 1"):
        area_constraint(outputs(), torch.tensor([True] * 3), fraction)


@pytest.mark.parametrize("ratio", [-1.0, math.nan])
def test_a_ratio_below_zero_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match="0 or more"):
        fraction_needed(ratio)


def test_a_power_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        generalised_mean(outputs(), 0.5)


@pytest.mark.parametrize("shape", [(3, 2, 5, 6), (1, 1, 5, 6), (3, 5, 6), (3, 4, 5, 1)])
def test_targets_that_would_broadcast_by_mistake_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="A target"):
        soft_dice(outputs(), torch.ones(shape))


@pytest.mark.parametrize(
    "is_scored",
    [torch.ones(3, 4, 5, 6) > 0, torch.ones(1, 1, 5, 6) > 0, torch.ones(3, 5, 6) > 0, torch.ones(3, 1, 5, 6)],
)
def test_masks_of_scored_pixels_are_bools_for_each_image(is_scored: Tensor) -> None:
    for score in (
        lambda: soft_dice(outputs(), outputs(1), is_scored),
        lambda: generalised_mean(outputs(), 4, is_scored),
    ):
        with pytest.raises(InputError, match="mask of scored pixels"):
            score()


@pytest.mark.parametrize(
    "is_positive", [torch.tensor([True]), torch.tensor([[True]] * 3), torch.ones(3), torch.tensor(True)]
)
def test_labels_are_one_bool_for_each_image(is_positive: Tensor) -> None:
    for loss in (
        lambda: constant_mask_dice(outputs(), is_positive),
        lambda: generalised_mean_bce(outputs(), is_positive),
        lambda: area_constraint(outputs(), is_positive, 0.1),
    ):
        with pytest.raises(InputError, match="Image labels"):
            loss()


def test_a_map_without_its_axis_of_outputs_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(images, outputs, rows, columns\)"):
        constant_mask_dice(outputs()[:, 0], torch.tensor([True] * 3))


def test_each_output_needs_a_weight_of_its_area() -> None:
    with pytest.raises(InputError, match="each output needs one"):
        area_constraint(outputs(), torch.tensor([True] * 3), 0.1, (1.0, 2.0))


def test_the_area_is_a_share_of_the_scored_pixels() -> None:
    p_BSHW = torch.tensor([[[[0.0, 1.0, 0.5]]]]).repeat(2, 1, 1, 1)
    is_scored_B1HW = torch.tensor([[[[True, False, True]]], [[[False, False, False]]]])
    found_BS = area_constraint(p_BSHW, torch.tensor([True, True]), 0.05, (2.0,), is_scored_B1HW)
    assert found_BS.flatten().tolist() == pytest.approx([2 * 0.2**2, 0])
