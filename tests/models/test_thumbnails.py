"""Stacked thumbnails: against loops over pixels, hand-worked values, and padding that changes nothing."""

import pytest
import torch
from torch import Tensor

from counterstain.errors import InputError
from counterstain.models.thumbnails import stack_levels


def pixels(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stacked_slowly(thumbnail_3HW: Tensor, extent_HW: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Pixel by pixel, as it is said in words."""
    height, width = extent_HW.shape
    stacked = torch.zeros(3 * len(levels), height, width, dtype=thumbnail_3HW.dtype)
    for number, level in enumerate(levels):
        for row in range(height):
            for column in range(width):
                top, left = level * (row // level), level * (column // level)
                inside_hw = extent_HW[top : top + level, left : left + level]
                window_3hw = thumbnail_3HW[:, top : top + level, left : left + level]
                if extent_HW[row, column]:
                    mean_3 = (window_3hw * inside_hw).sum((1, 2)) / inside_hw.sum()
                    stacked[3 * number : 3 * number + 3, row, column] = mean_3
    return stacked


@pytest.mark.parametrize(("height", "width"), [(2, 2), (8, 6), (10, 14), (16, 2)])
def test_levels_are_what_a_loop_over_pixels_gives(height: int, width: int) -> None:
    thumbnails_B3HW = pixels(height, width)
    extent_B1HW = torch.ones(1, 1, height, width, dtype=torch.float64)
    extent_B1HW[..., max(2, height - 4) :, :] = 0
    found = stack_levels(thumbnails_B3HW, extent_B1HW, (1, 2, 3, 5))
    expected = stacked_slowly(thumbnails_B3HW[0], extent_B1HW[0, 0], (1, 2, 3, 5))
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-14)


def test_coarse_pixels_hold_hand_worked_means() -> None:
    row = torch.tensor([1.0, 3.0, 5.0, 8.0]).expand(1, 3, 2, 4)
    found = stack_levels(row, torch.ones(1, 1, 2, 4), (1, 2, 3))
    assert found.shape == (1, 9, 2, 4)
    assert found[0, 0, 0].tolist() == [1, 3, 5, 8]
    assert found[0, 3, 0].tolist() == [2, 2, 6.5, 6.5]
    assert found[0, 6, 0].tolist() == [3, 3, 3, 8]


@pytest.mark.parametrize("size", [(6, 10), (14, 2), (4, 22)])
def test_padding_changes_not_a_single_bit(size: tuple[int, int]) -> None:
    height, width = size
    thumbnails_B3HW = pixels(height, width).float()
    alone = stack_levels(thumbnails_B3HW, torch.ones(1, 1, height, width), (1, 2, 3, 4))
    padded, extent = torch.full((1, 3, 32, 30), 0.7), torch.zeros(1, 1, 32, 30)
    padded[..., :height, :width], extent[..., :height, :width] = thumbnails_B3HW, 1
    found = stack_levels(padded, extent, (1, 2, 3, 4))
    assert torch.equal(found[..., :height, :width], alone)
    assert found[..., height:, :].abs().sum() == 0
    assert found[..., :, width:].abs().sum() == 0


@pytest.mark.parametrize("levels", [(), (0, 1), (2, 1), (1, 1, 2)])
def test_levels_that_mean_nothing_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="ascending whole numbers"):
        stack_levels(pixels(4, 4), torch.ones(1, 1, 4, 4), levels)
