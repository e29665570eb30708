"""Smoothing and snapping of maps, against scipy and against a slow twin."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from counterstain.methods.fusion_kd.finish import smoothed, snapped
from counterstain.stain import separate

Floats = npt.NDArray[np.float64]


def chance(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma_px", [0.5, 1.0, 2.5, 3.0])
def test_smoothing_is_scipys_gaussian_with_mirrored_edges(sigma_px: float) -> None:
    fused_B1HW = chance(2, 1, 40, 56)
    expected = [
        ndimage.gaussian_filter(map_HW, sigma_px, mode="mirror") for map_HW in fused_B1HW[:, 0].double().numpy()
    ]
    np.testing.assert_allclose(smoothed(fused_B1HW, sigma_px)[:, 0].numpy(), np.stack(expected), atol=2e-5)


def test_scipys_own_edges_are_others_and_what_is_further_in_is_the_same() -> None:
    """Its default repeats the outermost pixels before it mirrors: within four sigmas of an edge a few percent."""
    rows, columns = np.mgrid[:64, :64]
    map_HW = 1 / (1 + np.exp(np.hypot(rows - 20, columns - 4) - 16))
    found_HW = smoothed(torch.from_numpy(map_HW).float()[None, None], 3.0)[0, 0].numpy()
    apart_HW = np.abs(found_HW - ndimage.gaussian_filter(map_HW, 3.0))
    assert apart_HW[12:-12, 12:-12].max() < 1e-5
    assert 0.001 < apart_HW.max() < 0.06


def test_smoothing_keeps_probabilities_and_their_sum() -> None:
    whole = smoothed(torch.ones(1, 1, 20, 20), 3.0)
    assert torch.allclose(whole, torch.ones(1, 1, 20, 20), atol=1e-6)
    point = torch.zeros(1, 1, 33, 33)
    point[0, 0, 16, 16] = 1
    assert float(smoothed(point, 2.0).sum()) == pytest.approx(1, abs=1e-5)
    assert float(smoothed(point, 2.0).max()) == pytest.approx(1 / (2 * np.pi * 4), rel=0.02)


def test_a_map_smaller_than_the_kernel_is_smoothed_too() -> None:
    found = smoothed(chance(1, 1, 3, 5), 3.0)
    assert found.shape == (1, 1, 3, 5)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_nothing_is_done_where_nothing_is_asked_for() -> None:
    fused_B1HW = chance(1, 1, 8, 8)
    assert smoothed(fused_B1HW, 0.0) is fused_B1HW
    assert snapped(fused_B1HW, chance(1, 3, 8, 8), 0) is fused_B1HW


def guided(guide_HW: Floats, map_HW: Floats, radius: int, eps: float) -> Floats:
    """He et al. 2013 pixel by pixel: a line is fitted in each window, each pixel takes the mean of its windows' lines."""
    height, width = map_HW.shape

    def window(row: int, column: int) -> tuple[slice, slice]:
        return slice(max(0, row - radius), row + radius + 1), slice(max(0, column - radius), column + radius + 1)

    slopes, offsets = np.zeros((height, width)), np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            x, y = guide_HW[window(row, column)].ravel(), map_HW[window(row, column)].ravel()
            slopes[row, column] = np.cov(x, y, bias=True)[0, 1] / (x.var() + eps)
            offsets[row, column] = y.mean() - slopes[row, column] * x.mean()
    found = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            place = window(row, column)
            found[row, column] = slopes[place].mean() * guide_HW[row, column] + offsets[place].mean()
    return found.clip(0, 1)


@pytest.mark.parametrize("radius_px", [1, 3])
def test_snapping_is_a_guided_filter_on_haematoxylin(radius_px: int) -> None:
    images_BCHW, fused_B1HW = 0.1 + 0.8 * chance(2, 3, 9, 12), chance(2, 1, 9, 12, seed=1)
    found_B1HW = snapped(fused_B1HW, images_BCHW, radius_px)
    guides_BHW = separate(images_BCHW)[:, 0].double().numpy()
    for guide_HW, map_HW, found_HW in zip(guides_BHW, fused_B1HW[:, 0].double().numpy(), found_B1HW[:, 0], strict=True):
        np.testing.assert_allclose(found_HW.numpy(), guided(guide_HW, map_HW, radius_px, 1e-3), atol=1e-4)


def test_snapping_draws_a_blurred_border_to_the_tissues() -> None:
    is_tumour_HW = torch.zeros(32, 32, dtype=torch.bool)
    is_tumour_HW[8:24, 8:24] = True
    dark_3, pale_3 = torch.tensor([0.35, 0.2, 0.5]), torch.tensor([0.9, 0.75, 0.85])
    image_BCHW = torch.where(is_tumour_HW, dark_3.view(3, 1, 1), pale_3.view(3, 1, 1))[None]
    # a map that is a little too large, as those of networks with strides are
    grown_B1HW = torch.zeros(1, 1, 32, 32)
    grown_B1HW[:, :, 6:26, 6:26] = 1
    blurred_B1HW = smoothed(grown_B1HW, 2.0)

    def wrong(map_B1HW: Tensor) -> int:
        return int(((map_B1HW[0, 0] >= 0.5) != is_tumour_HW).sum())

    assert wrong(blurred_B1HW) > 100
    assert wrong(snapped(blurred_B1HW, image_BCHW, 4)) < wrong(blurred_B1HW) / 2


def test_where_the_tissue_is_even_snapping_blurs_alone() -> None:
    fused_B1HW = chance(1, 1, 12, 12)
    even_BCHW = torch.full((1, 3, 12, 12), 0.6)
    found_HW = snapped(fused_B1HW, even_BCHW, 2)[0, 0]
    # two box means, each clipped at the edges
    assert float(found_HW[6, 6]) == pytest.approx(
        float(
            np.mean([fused_B1HW[0, 0, r - 2 : r + 3, c - 2 : c + 3].mean() for r in range(4, 9) for c in range(4, 9)])
        ),
        abs=1e-4,
    )


def test_half_precision_around_them_changes_neither_smoothing_nor_stains() -> None:
    fused_B1HW, images_BCHW = chance(1, 1, 12, 12), chance(1, 3, 12, 12)
    expected = smoothed(fused_B1HW, 2.0), separate(images_BCHW)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = smoothed(fused_B1HW, 2.0), separate(images_BCHW)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
