from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from counterstain.methods.cams import min_max, present_classes, share, softmax, sum_min_max, upsample

FUSION = (0.0, 0.6, 0.2, 0.2)


def cams(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, side, side, generator=generator) for side in (8, 4, 4, 4)]


def test_min_max_reaches_both_ends_in_every_class_and_image() -> None:
    stretched = min_max(cams()[0])
    assert stretched.amin(dim=(2, 3)).eq(0).all()
    assert torch.allclose(stretched.amax(dim=(2, 3)), torch.ones(2, 3))
    assert min_max(torch.zeros(1, 1, 2, 2)).eq(0).all()


def test_the_fused_map_is_the_released_one_worked_slowly() -> None:
    given_cams, size = cams(), (16, 16)
    expected = torch.zeros(2, 3, *size)
    for weight, cam in zip(FUSION, given_cams, strict=True):
        up = torch.nn.functional.interpolate(cam.clamp(min=0), size=size, mode="bilinear", align_corners=False)
        for image in range(2):
            for index in range(3):
                plane = up[image, index]
                expected[image, index] += weight * (plane - plane.min()) / (plane.max() - plane.min() + 1e-8)
    assert torch.allclose(sum_min_max(given_cams, FUSION, size), expected, atol=1e-6)


def test_a_scale_of_weight_zero_is_left_out() -> None:
    other = cams()
    other[0] = torch.full_like(other[0], torch.nan)
    assert torch.equal(sum_min_max(cams(), FUSION, (8, 8)), sum_min_max(other, FUSION, (8, 8)))


def test_where_no_class_reaches_its_threshold_the_likeliest_stands() -> None:
    presence_BC = torch.tensor([[0.1, 0.3, 0.2], [0.9, 0.1, 0.6]])
    assert present_classes(presence_BC, (0.5, 0.5, 0.5)).tolist() == [
        [False, True, False],
        [True, False, True],
    ]
    assert present_classes(presence_BC, (0.95, 0.05, 0.7)).tolist() == [
        [False, True, False],
        [False, True, False],
    ]


def test_an_absent_class_never_wins_where_all_present_ones_are_zero() -> None:
    """The released code multiplies by 0 and argmax then names class 0."""
    probability = share(torch.zeros(1, 3, 2, 2), torch.tensor([[False, True, True]]))
    assert probability[:, 0].eq(0).all()
    assert probability.argmax(1).eq(1).all()


@pytest.mark.parametrize("gated", [share, softmax])
@given(seed=st.integers(0, 50), gate=st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
def test_probabilities_sum_to_one_over_the_present_classes(
    gated: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], seed: int, gate: list[bool]
) -> None:
    present_BC = torch.tensor([gate, gate])
    probability_BCHW = gated(sum_min_max(cams(seed), FUSION, (12, 12)), present_BC)
    assert torch.allclose(probability_BCHW.sum(1), torch.ones(2, 12, 12), atol=1e-5)
    assert probability_BCHW[:, ~torch.tensor(gate)].eq(0).all()
    assert probability_BCHW.min() >= 0


@given(seed=st.integers(0, 50))
def test_shares_keep_the_published_argmax(seed: int) -> None:
    scores_BCHW = sum_min_max(cams(seed), FUSION, (12, 12))
    everything = torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(share(scores_BCHW, everything).argmax(1), scores_BCHW.argmax(1))
    assert torch.equal(softmax(scores_BCHW, everything).argmax(1), scores_BCHW.argmax(1))


def test_upsampling_keeps_half_pixel_geometry() -> None:
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    assert torch.allclose(upsample(ramp, (8, 8))[0, 0, 0], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]))
