"""The rectification module: hand-worked values, identity at the start, what padding does at edges."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from counterstain.errors import InputError
from counterstain.models import HFRM


def maps(seed: int = 0) -> tuple[Tensor, Tensor]:
    """A shallow map of 6 channels and a deep one of 16."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 6, 11, 9, generator=generator), torch.randn(2, 16, 5, 4, generator=generator)


def test_it_starts_as_an_exact_identity() -> None:
    low_BCHW, deep_BDhw = maps()
    for padding in ("zeros", "replicate"):
        assert torch.equal(HFRM(6, 16, kernel=15, padding=padding)(low_BCHW, deep_BDhw), low_BCHW)


def test_its_window_starts_as_a_box() -> None:
    weights = HFRM(6, 16, kernel=15).smooth.weight
    assert weights.shape == (6, 1, 15, 15)
    assert torch.equal(weights, torch.full_like(weights, 1 / 225))


@torch.no_grad()
def test_it_computes_the_papers_equations() -> None:
    torch.manual_seed(0)
    hfrm, (low_BCHW, deep_BDhw) = HFRM(6, 16, reduction=4, kernel=5), maps()
    hfrm.semantic_scale.fill_(0.7)
    hfrm.context_scale.fill_(-1.3)
    hfrm.smooth.weight.normal_()
    found = hfrm(low_BCHW, deep_BDhw)
    assert hfrm.squeeze.weight.shape == (4, 16)
    for image in range(2):
        hidden = torch.relu(hfrm.squeeze.weight @ deep_BDhw[image].mean((1, 2)))
        weights = 1 / (1 + torch.exp(-(hfrm.excite.weight @ hidden)))
        for channel in range(6):
            plane = low_BCHW[image, channel]
            padded = F.pad(plane, (2, 2, 2, 2))
            smooth = sum(
                hfrm.smooth.weight[channel, 0, i, j] * padded[i : i + 11, j : j + 9] for i in range(5) for j in range(5)
            )
            expected = plane + 0.7 * plane * weights[channel] - 1.3 * smooth
            torch.testing.assert_close(found[image, channel], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_corner_sees_the_published_share_of_its_window() -> None:
    hfrm, ones = HFRM(1, 1, kernel=15), torch.ones(1, 1, 28, 28)
    gain = hfrm.smooth(ones)[0, 0]
    assert float(gain[0, 0]) == pytest.approx((8 / 15) ** 2)
    assert float(gain[0, 14]) == pytest.approx(8 / 15)
    full = (gain > 1 - 1e-5).float().mean()
    assert float(full) == pytest.approx((14 / 28) ** 2)


def test_replicated_padding_keeps_a_constant_map_constant() -> None:
    hfrm = HFRM(1, 1, kernel=15, padding="replicate")
    for size in (28, 3):
        smooth = hfrm.smooth(torch.ones(1, 1, size, size))
        torch.testing.assert_close(smooth, torch.ones(1, 1, size, size))


def test_scales_learn_at_once_and_branches_wake_after_them() -> None:
    torch.manual_seed(0)
    hfrm, (low_BCHW, deep_BDhw) = HFRM(6, 16, kernel=5), maps()

    def learn() -> dict[str, float]:
        hfrm.zero_grad()
        (hfrm(low_BCHW, deep_BDhw) ** 2).mean().backward()
        return {name: float(p.grad.abs().max()) for name, p in hfrm.named_parameters() if p.grad is not None}

    first = learn()
    assert first["semantic_scale"] > 0
    assert first["context_scale"] > 0
    assert first["squeeze.weight"] == first["excite.weight"] == first["smooth.weight"] == 0
    with torch.no_grad():
        for parameter in (hfrm.semantic_scale, hfrm.context_scale):
            assert parameter.grad is not None
            parameter -= 0.1 * parameter.grad
    assert min(learn().values()) > 0


@pytest.mark.parametrize(
    ("semantic", "context", "names"),
    [
        (True, False, {"squeeze.weight", "excite.weight", "semantic_scale"}),
        (False, True, {"smooth.weight", "context_scale"}),
        (False, False, set()),
    ],
)
def test_a_branch_that_is_off_has_no_parameters(semantic: bool, context: bool, names: set[str]) -> None:
    hfrm, (low_BCHW, deep_BDhw) = HFRM(6, 16, semantic=semantic, context=context), maps()
    assert {name for name, _ in hfrm.named_parameters()} == names
    assert torch.equal(hfrm(low_BCHW, deep_BDhw), low_BCHW)


def test_few_deep_channels_keep_one_hidden_unit() -> None:
    assert HFRM(2, 4, reduction=8).squeeze.weight.shape == (1, 4)


@pytest.mark.parametrize("options", [{"kernel": 4}, {"kernel": 0}, {"kernel": -1}, {"padding": "reflect"}])
def test_windows_that_cannot_be_used_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="an odd kernel and 'zeros' or 'replicate'"):
        HFRM(2, 4, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("low", "parameters"), [(256, 2_285_826), (512, 2_474_498), (1024, 2_851_842)])
def test_it_has_the_published_parameters(low: int, parameters: int) -> None:
    with torch.device("meta"):
        hfrm = HFRM(low, 4096)
    assert sum(parameter.numel() for parameter in hfrm.parameters()) == parameters


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize(("semantic", "context"), [(True, True), (True, False), (False, True)])
def test_a_folded_head_gives_and_learns_the_same(padding: str, semantic: bool, context: bool) -> None:
    torch.manual_seed(0)
    hfrm = HFRM(6, 16, 4, 7, padding, semantic, context).double()
    head = torch.nn.Conv2d(6, 3, 1).double()
    for parameter in hfrm.parameters():
        torch.nn.init.normal_(parameter)
    low_BCHW, deep_BDhw = (part.double().requires_grad_() for part in maps())
    plain, folded = head(hfrm(low_BCHW, deep_BDhw)), hfrm.folded(low_BCHW, deep_BDhw, head)
    torch.testing.assert_close(folded, plain)
    assert torch.equal(hfrm.projected(low_BCHW, deep_BDhw, head), plain)  # on a CPU, to the last bit
    learned = [low_BCHW, *hfrm.parameters(), *head.parameters()]
    upstream = torch.randn_like(plain)
    gradients = [torch.autograd.grad((found * upstream).sum(), learned) for found in (plain, folded)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one)
