"""Losses worked by hand and against torch's own."""

import math

import pytest
import torch

from counterstain.errors import InputError
from counterstain.losses import image_logits, multilabel_soft_margin, weighted_scales


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
