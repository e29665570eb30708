"""Losses worked by hand and against torch's own."""

import math

import pytest
import torch
from torch import Tensor

from counterstain.errors import InputError
from counterstain.losses import (
    image_logits,
    labels_per_image,
    mean_over_scored,
    multilabel_soft_margin,
    oeem_weights,
    pixel_cross_entropy,
    weighted_scales,
)
from counterstain.results import UNCOVERED


def test_the_soft_margin_loss_is_as_worked_by_hand() -> None:
    """Logits ln 3, 0 have probabilities 3/4, 1/2; labels 1, 0: -(ln 3/4 + ln 1/2) / 2."""
    loss = multilabel_soft_margin(torch.tensor([[math.log(3), 0.0]]), torch.tensor([[1.0, 0.0]]))
    assert float(loss) == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)


def test_images_and_classes_are_averaged() -> None:
    logits_BC = torch.tensor([[math.log(3), -math.log(3)], [0.0, 0.0], [0.0, 0.0]])
    labels_BC = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    expected = (2 * -math.log(0.75) + 4 * math.log(2)) / 6
    assert float(multilabel_soft_margin(logits_BC, labels_BC)) == pytest.approx(expected)


def test_the_soft_margin_loss_and_its_gradient_are_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_BC = (10 * torch.randn(7, 5, generator=generator)).requires_grad_()
    labels_BC = (torch.rand(7, 5, generator=generator) > 0.5).float()
    ours = multilabel_soft_margin(logits_BC, labels_BC)
    theirs = torch.nn.MultiLabelSoftMarginLoss()(logits_BC, labels_BC)
    torch.testing.assert_close(ours, theirs)
    for gradient, expected in zip(
        torch.autograd.grad(ours, logits_BC), torch.autograd.grad(theirs, logits_BC), strict=True
    ):
        torch.testing.assert_close(gradient, expected)


def test_sure_logits_stay_finite() -> None:
    right = multilabel_soft_margin(torch.tensor([[200.0, -200.0]]), torch.tensor([[1.0, 0.0]]))
    wrong = multilabel_soft_margin(torch.tensor([[200.0, -200.0]]), torch.tensor([[0.0, 1.0]]))
    assert float(right) == 0
    assert float(wrong) == pytest.approx(200)


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(4, 3\).*\(1, 3\)"):
        multilabel_soft_margin(torch.zeros(4, 3), torch.zeros(1, 3))


def test_an_images_logit_is_the_mean_of_its_map() -> None:
    maps_BCHW = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[-1.0, -1.0], [-1.0, 1.0]]]])
    assert image_logits(maps_BCHW).tolist() == [[3.0, -0.5]]


def test_depths_add_up_by_their_weights() -> None:
    losses = [torch.tensor(value) for value in (1.0, 2.0, 3.0, 4.0)]
    assert float(weighted_scales(losses, (0.10, 0.15, 0.25, 0.50))) == pytest.approx(3.15)
    assert float(weighted_scales(losses, [0.25] * 4)) == pytest.approx(2.5)


@pytest.mark.parametrize(("num_losses", "num_weights"), [(4, 3), (0, 0)])
def test_each_loss_needs_a_weight(num_losses: int, num_weights: int) -> None:
    with pytest.raises(InputError, match="each loss needs one weight"):
        weighted_scales([torch.tensor(1.0)] * num_losses, [1.0] * num_weights)


def masks(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of 4 images, 3 classes, 5 x 6 pixels; labels with holes: two classes, three, one, none at all."""
    generator = torch.Generator().manual_seed(seed)
    logits_BKHW = 3 * torch.randn(4, 3, 5, 6, generator=generator)
    labels_BHW = torch.randint(0, 3, (4, 5, 6), generator=generator)
    labels_BHW[0][labels_BHW[0] == 2] = 0
    labels_BHW[2] = 1
    labels_BHW[:, 1] = UNCOVERED
    labels_BHW[3] = UNCOVERED
    return logits_BKHW, labels_BHW


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_the_cross_entropy_of_pixels_agrees_with_a_loop(dtype: torch.dtype) -> None:
    logits_BKHW, labels_BHW = masks()
    losses_BHW, is_scored_BHW = pixel_cross_entropy(logits_BKHW, labels_BHW.to(dtype))
    for image in range(4):
        for row in range(5):
            for column in range(6):
                label, logits = int(labels_BHW[image, row, column]), logits_BKHW[image, :, row, column].tolist()
                found = float(losses_BHW[image, row, column])
                assert bool(is_scored_BHW[image, row, column]) == (label != 255)
                if label == 255:
                    assert found == 0
                else:
                    assert found == pytest.approx(math.log(sum(map(math.exp, logits))) - logits[label], abs=1e-5)


def test_pixels_without_a_label_teach_nothing() -> None:
    logits_BKHW, labels_BHW = masks()
    logits_BKHW.requires_grad_()
    losses_BHW, is_scored_BHW = pixel_cross_entropy(logits_BKHW, labels_BHW)
    mean_over_scored(losses_BHW, is_scored_BHW).backward()
    assert logits_BKHW.grad is not None
    moved_BHW = logits_BKHW.grad.abs().amax(1) > 0
    assert torch.equal(moved_BHW, is_scored_BHW)


@pytest.mark.parametrize("label", [3, 254, -1])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    logits_BKHW, labels_BHW = masks()
    labels_BHW[0, 0, 0] = label
    with pytest.raises(InputError, match="0 to 2, or 255 for none"):
        pixel_cross_entropy(logits_BKHW, labels_BHW)


@pytest.mark.parametrize("shape", [(4, 5, 5), (1, 5, 6), (4, 1, 5, 6)])
def test_masks_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\(images, rows, columns\)"):
        pixel_cross_entropy(masks()[0], torch.zeros(shape, dtype=torch.int64))


def test_labels_are_counted_without_holes() -> None:
    assert labels_per_image(masks()[1], 3).tolist() == [2, 3, 1, 0]


def test_easy_pixels_weigh_as_a_loop_says() -> None:
    logits_BKHW, labels_BHW = masks()
    losses_BHW, is_scored_BHW = pixel_cross_entropy(logits_BKHW, labels_BHW)
    weights_BHW = oeem_weights(losses_BHW, is_scored_BHW, labels_per_image(labels_BHW, 3))
    for image in (0, 1):
        pixels = [tuple(pixel) for pixel in is_scored_BHW[image].nonzero().tolist()]
        shares = {pixel: math.exp(-float(losses_BHW[image][pixel])) for pixel in pixels}
        mean = sum(shares.values()) / len(shares)
        for pixel, share in shares.items():
            assert float(weights_BHW[image][pixel]) == pytest.approx(share / mean, rel=1e-4)
        assert float(weights_BHW[image][is_scored_BHW[image]].mean()) == pytest.approx(1, rel=1e-5)
    assert set(weights_BHW[2][is_scored_BHW[2]].tolist()) == {1.0}
    assert float(weights_BHW[~is_scored_BHW].abs().max()) == 0
    assert not weights_BHW.requires_grad


def test_an_easy_pixel_weighs_more_by_hand() -> None:
    """Losses 0 and ln 3 have shares 3/4 and 1/4: weights 1.5 and 0.5, and a weighed mean of ln 3 / 4."""
    losses_BHW = torch.tensor([[[0.0, math.log(3)]]])
    weights_BHW = oeem_weights(losses_BHW, torch.ones(1, 1, 2, dtype=torch.bool), torch.tensor([2]))
    assert weights_BHW.flatten().tolist() == pytest.approx([1.5, 0.5])
    mean = mean_over_scored(losses_BHW, torch.ones(1, 1, 2, dtype=torch.bool), weights_BHW)
    assert float(mean) == pytest.approx(math.log(3) / 4)


def test_weights_pass_no_gradient() -> None:
    logits_BKHW, labels_BHW = masks()
    logits_BKHW.requires_grad_()
    losses_BHW, is_scored_BHW = pixel_cross_entropy(logits_BKHW, labels_BHW)
    weights_BHW = oeem_weights(losses_BHW, is_scored_BHW, labels_per_image(labels_BHW, 3))
    found = torch.autograd.grad(mean_over_scored(losses_BHW, is_scored_BHW, weights_BHW), logits_BKHW)[0]
    shares_BKHW = logits_BKHW.detach().softmax(1)
    onehot_BKHW = torch.stack([labels_BHW == label for label in range(3)], dim=1).float()
    expected = (shares_BKHW - onehot_BKHW) * (weights_BHW / is_scored_BHW.sum())[:, None]
    torch.testing.assert_close(found, expected)


def test_the_mean_is_over_scored_pixels_of_the_batch() -> None:
    losses_BHW = torch.tensor([[[1.0, 2.0]], [[6.0, 100.0]]])
    is_scored_BHW = torch.tensor([[[True, True]], [[True, False]]])
    assert float(mean_over_scored(losses_BHW, is_scored_BHW)) == 3
    weights_BHW = torch.tensor([[[2.0, 0.5]], [[1.0, 1.0]]])
    assert float(mean_over_scored(losses_BHW, is_scored_BHW, weights_BHW)) == 3


def test_a_batch_without_any_label_has_a_loss_of_zero() -> None:
    logits_BKHW = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels_BHW = torch.full((2, 4, 4), UNCOVERED)
    losses_BHW, is_scored_BHW = pixel_cross_entropy(logits_BKHW, labels_BHW)
    weights_BHW = oeem_weights(losses_BHW, is_scored_BHW, labels_per_image(labels_BHW, 3))
    loss = mean_over_scored(losses_BHW, is_scored_BHW, weights_BHW)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits_BKHW.grad is not None
    assert float(logits_BKHW.grad.abs().max()) == 0


def test_what_is_not_scored_stays_out_of_the_mean_even_when_infinite() -> None:
    losses_BHW = torch.tensor([[[1.0, math.inf]]])
    assert float(mean_over_scored(losses_BHW, torch.tensor([[[True, False]]]))) == 1
