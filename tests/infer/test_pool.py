"""Means over squares against torch's own pooling."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from counterstain.infer.pool import float_images, pooled_gray, pooled_maps


@pytest.mark.parametrize("stride", [1, 3, 4])
def test_maps_are_averaged_as_by_torch_s_pooling_to_a_millionth(stride: int) -> None:
    torch.manual_seed(0)
    maps_BCHW = torch.rand(2, 5, 6 * stride, 4 * stride)
    torch.testing.assert_close(pooled_maps(maps_BCHW, stride), F.avg_pool2d(maps_BCHW, stride), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_maps_of_one_value_keep_it(value: float) -> None:
    maps_BCHW = torch.full((1, 2, 12, 12), value)
    assert (pooled_maps(maps_BCHW, 4) == torch.tensor(value)).all()


@pytest.mark.parametrize("stride", [1, 4])
def test_gray_is_the_mean_of_the_pixels_luma(stride: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5 * stride, 7 * stride, 3), np.uint8)
    luma = pixels.astype(np.float64) @ np.array((0.299, 0.587, 0.114)) / 255
    expected = luma.reshape(2, 5, stride, 7, stride).mean((2, 4))[:, None]
    np.testing.assert_allclose(pooled_gray(torch.from_numpy(pixels), stride).numpy(), expected, atol=1e-6)


def test_images_are_the_pixels_over_255_bit_by_bit() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), np.uint8)
    found = float_images(torch.from_numpy(pixels))
    assert found.is_contiguous()
    np.testing.assert_array_equal(found.numpy(), pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
