"""Distillation losses, worked by hand, against brute force and against slow loops."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from counterstain.errors import InputError
from counterstain.losses import (
    DICES,
    AgreementSettings,
    Dice,
    agreement_cross_entropy,
    block_distillation,
    dice_semimetric,
    fusion_distillation,
    legacy_cross_entropy,
    soft_dice,
    squared_dice,
)

EVERY_PIXEL = AgreementSettings(ignore_band=0.0)


def maps(seed: int = 0) -> Tensor:
    """Probabilities of 3 images, 4 outputs, 5 x 6 pixels."""
    return torch.rand(3, 4, 5, 6, generator=torch.Generator().manual_seed(seed))


IS_POSITIVE = torch.tensor([True, False, True])


def row(*pixels: float) -> Tensor:
    """One image of one row: (1, 1, pixels)."""
    return torch.tensor(pixels)[None, None]


def every_row(levels: Tensor, num_pixels: int) -> Tensor:
    """All images of one row that the levels make: (B, 1, 1, pixels)."""
    return torch.tensor(list(itertools.product(levels.tolist(), repeat=num_pixels)))[:, None, None]


def least(dice: Dice, candidates_B11W: Tensor, target: Tensor) -> Tensor:
    losses_B1 = dice(candidates_B11W, target.expand(len(candidates_B11W), 1, 1, -1), None)
    return candidates_B11W[losses_B1[:, 0].argmin(), 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_the_soft_dice_of_a_soft_target_is_least_at_a_dilated_hard_mask(seed: int) -> None:
    target = torch.rand(11, generator=torch.Generator().manual_seed(seed)) ** 2
    best = least(soft_dice, every_row(torch.tensor([0.0, 1.0]), 11), target)
    lowest = float(soft_dice(best[None, None, None], target[None, None, None]))
    reachable = 1 - lowest
    assert reachable < 1
    assert torch.equal(best.bool(), target > reachable / 2)
    anything_B11W = torch.rand(4000, 1, 1, 11, generator=torch.Generator().manual_seed(seed + 100))
    nearby_B11W = (best + 0.1 * (anything_B11W - 0.5)).clamp(0, 1)
    for candidates_B11W in (anything_B11W, nearby_B11W):
        assert float(soft_dice(candidates_B11W, target.expand(4000, 1, 1, -1)).min()) >= lowest


def test_on_a_grid_of_soft_maps_the_soft_dice_dilates_and_the_others_stay_at_the_target() -> None:
    target = torch.tensor([0.95, 0.45, 0.3])
    candidates_B11W = every_row(torch.arange(21) / 20, 3)
    assert least(soft_dice, candidates_B11W, target).tolist() == [1, 1, 0]
    for dice in (dice_semimetric, squared_dice):
        torch.testing.assert_close(least(dice, candidates_B11W, target), target)


@pytest.mark.parametrize("dice", [dice_semimetric, squared_dice])
def test_the_dices_for_soft_targets_are_zero_at_the_target(dice: Dice) -> None:
    assert float(dice(maps(), maps(), None).abs().max()) == 0
    assert float(dice(maps(), maps(1), None).min()) > 0.1


def test_the_semimetric_is_as_worked_by_hand() -> None:
    """x = .5, 1 and t = 1, .25: (.5 + .75) / (1.5 + 1.25) = 5/11."""
    found = dice_semimetric(row(0.5, 1.0)[None], row(1.0, 0.25)[None])
    assert float(found) == pytest.approx(5 / 11)


def test_the_squared_dice_is_as_worked_by_hand() -> None:
    """x = .5, 1 and t = 1, .25: 1 - 2 * .75 / (1.25 + 1.0625)."""
    found = squared_dice(row(0.5, 1.0)[None], row(1.0, 0.25)[None])
    assert float(found) == pytest.approx(1 - 1.5 / 2.3125)


def test_the_semimetric_of_a_hard_target_is_the_soft_dice_without_smoothing() -> None:
    x_BSHW, t_BSHW = maps().double(), (maps(1) > 0.5).double()
    plain_BS = 1 - 2 * (x_BSHW * t_BSHW).sum((2, 3)) / (x_BSHW.sum((2, 3)) + t_BSHW.sum((2, 3)))
    torch.testing.assert_close(dice_semimetric(x_BSHW, t_BSHW).double(), plain_BS, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", DICES)
def test_pixels_that_are_not_scored_take_no_part(name: str) -> None:
    is_scored_B1HW = torch.ones(3, 1, 5, 6, dtype=torch.bool)
    is_scored_B1HW[..., 4:] = False
    cut_BS = DICES[name](maps()[..., :4], maps(1)[..., :4], None)
    torch.testing.assert_close(DICES[name](maps(), maps(1), is_scored_B1HW), cut_BS)
    nothing_BS = DICES[name](maps(), maps(1), torch.zeros_like(is_scored_B1HW))
    assert float(nothing_BS.abs().max()) < 1e-6


@pytest.mark.parametrize("name", DICES)
def test_every_output_learns_the_fused_map_of_the_teacher(name: str) -> None:
    dice, student_BSHW, teacher_B1HW = DICES[name], maps(), maps(1)[:, -1:]
    found_BS = fusion_distillation(student_BSHW, teacher_B1HW, IS_POSITIVE, dice)
    for i in range(3):
        for k in range(4):
            student, teacher = student_BSHW[i, k][None, None], teacher_B1HW[i][None]
            pair = (student, teacher) if IS_POSITIVE[i] else (1 - student, torch.ones_like(teacher))
            torch.testing.assert_close(found_BS[i, k], dice(*pair, None)[0, 0])


@pytest.mark.parametrize("name", DICES)
def test_every_output_learns_the_teachers_of_its_depth(name: str) -> None:
    student_BSHW, teacher_BSHW = maps(), maps(1)
    found_BS = block_distillation(student_BSHW, teacher_BSHW, IS_POSITIVE, DICES[name])
    for k in range(4):
        alone = slice(k, k + 1)
        expected_B1 = fusion_distillation(student_BSHW[:, alone], teacher_BSHW[:, alone], IS_POSITIVE, DICES[name])
        torch.testing.assert_close(found_BS[:, alone], expected_B1)


def test_negatives_learn_zeros_as_worked_by_hand() -> None:
    """p = .5, .75: 1 - p = .5, .25 against ones; soft 1 - 2.5 / 3.75, semimetric 1.25 / 2.75."""
    student_1SHW, teacher_11HW, is_positive = row(0.5, 0.75)[None], row(1.0, 1.0)[None], torch.tensor([False])
    found = fusion_distillation(student_1SHW, teacher_11HW, is_positive, DICES["soft"])
    assert float(found) == pytest.approx(1 - 2.5 / 3.75)
    found = fusion_distillation(student_1SHW, teacher_11HW, is_positive, DICES["dml"])
    assert float(found) == pytest.approx(1.25 / 2.75)


@pytest.mark.parametrize("name", DICES)
def test_negatives_ignore_their_teacher(name: str) -> None:
    student_BSHW, teacher_BSHW = maps().requires_grad_(), maps(1)
    spoiled_BSHW = teacher_BSHW.clone()
    spoiled_BSHW[1] = torch.nan
    for distil, cut in ((fusion_distillation, slice(3, 4)), (block_distillation, slice(None))):
        clean_BS = distil(student_BSHW, teacher_BSHW[:, cut], IS_POSITIVE, DICES[name])
        found_BS = distil(student_BSHW, spoiled_BSHW[:, cut], IS_POSITIVE, DICES[name])
        torch.testing.assert_close(found_BS, clean_BS)
        assert bool(torch.autograd.grad(found_BS.sum(), student_BSHW)[0].isfinite().all())
    clean_B = agreement_cross_entropy(student_BSHW[:, 3], teacher_BSHW[:, 3], IS_POSITIVE, AgreementSettings())
    found_B = agreement_cross_entropy(student_BSHW[:, 3], spoiled_BSHW[:, 3], IS_POSITIVE, AgreementSettings())
    torch.testing.assert_close(found_B, clean_B)


def test_glass_is_left_out_of_distillation() -> None:
    is_scored_B1HW = torch.ones(3, 1, 5, 6, dtype=torch.bool)
    is_scored_B1HW[..., 4:] = False
    for distil, cut in ((fusion_distillation, slice(3, 4)), (block_distillation, slice(None))):
        found_BS = distil(maps(), maps(1)[:, cut], IS_POSITIVE, DICES["dml"], is_scored_B1HW)
        cut_BS = distil(maps()[..., :4], maps(1)[:, cut, :, :4], IS_POSITIVE, DICES["dml"])
        torch.testing.assert_close(found_BS, cut_BS)
    found_B = agreement_cross_entropy(maps()[:, 3], maps(1)[:, 3], IS_POSITIVE, EVERY_PIXEL, is_scored_B1HW[:, 0])
    cut_B = agreement_cross_entropy(maps()[:, 3, :, :4], maps(1)[:, 3, :, :4], IS_POSITIVE, EVERY_PIXEL)
    torch.testing.assert_close(found_B, cut_B)


def test_no_gradient_reaches_the_teacher() -> None:
    student_BSHW, teacher_BSHW = maps().requires_grad_(), maps(1).requires_grad_()
    losses = [
        fusion_distillation(student_BSHW, teacher_BSHW[:, 3:], IS_POSITIVE, DICES["dml"]).sum(),
        block_distillation(student_BSHW, teacher_BSHW, IS_POSITIVE, DICES["dml"]).sum(),
        legacy_cross_entropy(student_BSHW[:, 3], teacher_BSHW[:, 3]).sum(),
        agreement_cross_entropy(student_BSHW[:, 3], teacher_BSHW[:, 3], IS_POSITIVE, EVERY_PIXEL).sum(),
    ]
    torch.stack(losses).sum().backward()
    assert student_BSHW.grad is not None
    assert teacher_BSHW.grad is None


def test_the_released_cross_entropy_is_a_pull_to_background() -> None:
    """A teacher that is nowhere exactly 1 has no part in it: mean log(1 + exp(2 p - 1)), from .313 to 1.313."""
    fused_BHW = maps()[:, 3]
    found_B = legacy_cross_entropy(fused_BHW, maps(1)[:, 3] * 0.999999)
    torch.testing.assert_close(found_B, torch.log(1 + torch.exp(2 * fused_BHW - 1)).mean((1, 2)))
    ends_B = legacy_cross_entropy(torch.tensor([[[0.0]], [[1.0]]]), torch.zeros(2, 1, 1))
    assert ends_B.tolist() == pytest.approx([0.3133, 1.3133], abs=1e-4)


def test_the_released_cross_entropy_weighs_pixels_once_a_teacher_is_sure() -> None:
    """p = .2, .9 and teacher .7, 1 give targets 0, 1: two losses, shares exp(-loss), weights of mean 1."""
    losses = [math.log(1 + math.exp(0.4 - 1)), math.log(1 + math.exp(1 - 1.8))]
    shares = [math.exp(-loss) for loss in losses]
    expected = sum(loss * share for loss, share in zip(losses, shares, strict=True)) / sum(shares)
    assert float(legacy_cross_entropy(row(0.2, 0.9), row(0.7, 1.0))) == pytest.approx(expected, rel=1e-5)


def test_the_released_cross_entropy_weighs_nothing_when_all_is_tumour() -> None:
    expected = (math.log(1 + math.exp(1 - 0.4)) + math.log(1 + math.exp(1 - 1.8))) / 2
    assert float(legacy_cross_entropy(row(0.2, 0.9), row(1.0, 1.0))) == pytest.approx(expected, rel=1e-5)


def twin(fused: Tensor, teacher: Tensor, is_positive: bool, settings: AgreementSettings) -> float:
    """Closed form, pixel by pixel: a weight is the pseudo label's probability over the mean of those it stands among."""
    pixels = []
    for p, t in zip(fused.double().flatten().tolist(), teacher.double().flatten().tolist(), strict=True):
        if is_positive and abs(t - settings.threshold) < settings.ignore_band:
            continue
        label = int(is_positive and t >= settings.threshold)
        pixels.append((label, p if label else 1 - p))
    if not pixels:
        return 0.0
    has_both = len({label for label, _ in pixels}) == 2
    total = 0.0
    for label, q in pixels:
        among = [other_q for other, other_q in pixels if other == label or not settings.per_class]
        weight = q / (sum(among) / len(among)) if has_both else 1.0
        total -= weight * math.log(q)
    return total / len(pixels)


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize(("threshold", "ignore_band"), [(0.5, 0.0), (0.5, 0.1), (0.3, 0.2), (0.5, 0.45)])
def test_agreement_weights_are_the_pseudo_labels_probability(
    per_class: bool, threshold: float, ignore_band: float
) -> None:
    settings = AgreementSettings(threshold, ignore_band, per_class)
    fused_BHW, teacher_BHW = 0.02 + 0.96 * maps()[:, 3], maps(1)[:, 3]
    found_B = agreement_cross_entropy(fused_BHW, teacher_BHW, IS_POSITIVE, settings)
    for i in range(3):
        expected = twin(fused_BHW[i], teacher_BHW[i], bool(IS_POSITIVE[i]), settings)
        assert float(found_B[i]) == pytest.approx(expected, rel=1e-4)


def test_agreement_is_as_worked_by_hand() -> None:
    """p = .9, .2 with labels 1, 1 and p = .3 with 0: q = .9, .2, .7, weights q / .6."""
    q = (0.9, 0.2, 0.7)
    expected = sum(-(share / 0.6) * math.log(share) for share in q) / 3
    found = agreement_cross_entropy(row(0.9, 0.2, 0.3), row(0.8, 0.6, 0.1), torch.tensor([True]), EVERY_PIXEL)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    by_class = AgreementSettings(ignore_band=0.0, per_class=True)
    expected = (-(0.9 * math.log(0.9) + 0.2 * math.log(0.2)) / 0.55 - math.log(0.7)) / 3
    found = agreement_cross_entropy(row(0.9, 0.2, 0.3), row(0.8, 0.6, 0.1), torch.tensor([True]), by_class)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_weights_of_agreement_pass_no_gradient() -> None:
    """With weights q / .6 held fixed the slope in p of a tumour pixel is -(q / .6) / q / 3, of background the opposite."""
    fused_BHW = row(0.9, 0.2, 0.3).requires_grad_()
    loss_B = agreement_cross_entropy(fused_BHW, row(0.8, 0.6, 0.1), torch.tensor([True]), EVERY_PIXEL)
    gradient = torch.autograd.grad(loss_B.sum(), fused_BHW)[0]
    assert gradient.flatten().tolist() == pytest.approx([-1 / 1.8, -1 / 1.8, 1 / 1.8], rel=1e-4)


@pytest.mark.parametrize("per_class", [False, True])
def test_a_single_pseudo_class_weighs_all_pixels_the_same(per_class: bool) -> None:
    settings = AgreementSettings(per_class=per_class)
    expected = -(math.log(0.9) + math.log(0.2)) / 2
    found = agreement_cross_entropy(row(0.9, 0.2), row(0.8, 0.7), torch.tensor([True]), settings)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    found = agreement_cross_entropy(row(0.1, 0.8), row(0.8, 0.5), torch.tensor([False]), settings)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_unsure_pixels_of_the_teacher_are_not_scored() -> None:
    fused_BHW = row(0.9, 0.2, 0.3).requires_grad_()
    loss_B = agreement_cross_entropy(fused_BHW, row(0.8, 0.55, 0.1), torch.tensor([True]), AgreementSettings())
    gradient = torch.autograd.grad(loss_B.sum(), fused_BHW)[0]
    assert (gradient.flatten() != 0).tolist() == [True, False, True]


def test_a_teacher_at_the_threshold_says_tumour() -> None:
    found = agreement_cross_entropy(row(0.2), row(0.5), torch.tensor([True]), EVERY_PIXEL)
    assert float(found) == pytest.approx(-math.log(0.2), rel=1e-5)


@pytest.mark.parametrize("per_class", [False, True])
def test_an_image_without_a_scored_pixel_has_no_loss(per_class: bool) -> None:
    fused_BHW = maps()[:, 3].requires_grad_()
    teacher_BHW = maps(1)[:, 3]
    teacher_BHW[0] = 0.5
    found_B = agreement_cross_entropy(fused_BHW, teacher_BHW, IS_POSITIVE, AgreementSettings(per_class=per_class))
    assert found_B.tolist()[0] == 0
    gradient = torch.autograd.grad(found_B.sum(), fused_BHW)[0]
    assert bool(gradient.isfinite().all())
    assert float(gradient[0].abs().max()) == 0


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_gradients_are_finite_where_maps_are_sure(value: float, target: float) -> None:
    student_BSHW = torch.full((3, 4, 5, 6), value, requires_grad=True)
    teacher_BSHW = torch.full((3, 4, 5, 6), target)
    fused_BHW, teacher_BHW = student_BSHW[:, 3], teacher_BSHW[:, 3]
    losses = [fusion_distillation(student_BSHW, teacher_BSHW[:, 3:], IS_POSITIVE, dice) for dice in DICES.values()]
    losses += [block_distillation(student_BSHW, teacher_BSHW, IS_POSITIVE, dice) for dice in DICES.values()]
    losses.append(legacy_cross_entropy(fused_BHW, teacher_BHW))
    losses += [
        agreement_cross_entropy(fused_BHW, teacher_BHW, IS_POSITIVE, AgreementSettings(per_class=per_class))
        for per_class in (False, True)
    ]
    for loss in losses:
        assert bool(loss.isfinite().all())
        assert bool(torch.autograd.grad(loss.sum(), student_BSHW, retain_graph=True)[0].isfinite().all())


def test_losses_of_half_precision_maps_are_float32() -> None:
    student_BSHW, teacher_BSHW = maps().bfloat16(), maps(1).half()
    assert legacy_cross_entropy(student_BSHW[:, 3], teacher_BSHW[:, 3]).dtype == torch.float32
    loss_B = agreement_cross_entropy(student_BSHW[:, 3], teacher_BSHW[:, 3], IS_POSITIVE, EVERY_PIXEL)
    assert loss_B.dtype == torch.float32
    for dice in DICES.values():
        assert block_distillation(student_BSHW, teacher_BSHW, IS_POSITIVE, dice).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (1, 1, 5, 6), (3, 5, 6), (3, 1, 5, 1)])
def test_a_fused_map_is_one_for_each_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="fused map"):
        fusion_distillation(maps(), torch.ones(shape), IS_POSITIVE, DICES["soft"])


@pytest.mark.parametrize("shape", [(3, 1, 5, 6), (3, 3, 5, 6), (1, 4, 5, 6)])
def test_a_teacher_of_other_depths_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="A teacher"):
        block_distillation(maps(), torch.ones(shape), IS_POSITIVE, DICES["soft"])


@pytest.mark.parametrize("shape", [(3, 1, 5, 6), (1, 5, 6), (5, 6)])
def test_maps_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    for fused_BHW, teacher_BHW in ((maps()[:, 3], torch.ones(shape)), (torch.ones(shape), maps()[:, 3])):
        with pytest.raises(InputError, match="fused map"):
            legacy_cross_entropy(fused_BHW, teacher_BHW)
        with pytest.raises(InputError, match="fused map"):
            agreement_cross_entropy(fused_BHW, teacher_BHW, IS_POSITIVE, EVERY_PIXEL)


@pytest.mark.parametrize("is_positive", [torch.tensor([True]), torch.ones(3), torch.tensor([[True]] * 3)])
def test_labels_are_one_bool_for_each_image(is_positive: Tensor) -> None:
    with pytest.raises(InputError, match="Image labels"):
        fusion_distillation(maps(), maps()[:, 3:], is_positive, DICES["soft"])
    with pytest.raises(InputError, match="Image labels"):
        agreement_cross_entropy(maps()[:, 3], maps()[:, 3], is_positive, EVERY_PIXEL)


@pytest.mark.parametrize("threshold", [0.0, 1.0, math.nan])
def test_a_threshold_is_between_0_and_1(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold"):
        AgreementSettings(threshold=threshold)


@pytest.mark.parametrize(("threshold", "ignore_band"), [(0.5, -0.1), (0.5, 0.5), (0.2, 0.3), (0.9, 0.1001)])
def test_an_ignore_band_leaves_pixels_on_both_sides(threshold: float, ignore_band: float) -> None:
    with pytest.raises(InputError, match="ignore_band"):
        AgreementSettings(threshold, ignore_band)
