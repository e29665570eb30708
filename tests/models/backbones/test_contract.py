"""Every backbone takes the exam of its contract, at options that keep it quick."""

import pytest
import torch
from torch import Tensor, nn

from counterstain.models.backbones import BACKBONES, Backbone
from counterstain.testing.backbones import BackboneContract


class TestWideResNet38(BackboneContract):
    name, options = "wide_resnet38", {"width": 1 / 16, "depths": (1, 2, 1, 2)}


class TestMobileNetV2(BackboneContract):
    name = "mobilenet_v2"


class TestMobileNetV2WithNormsAndDilation(BackboneContract):
    name, options = "mobilenet_v2", {"batch_norm": True, "output_stride": 8, "taps": (2, 6, 10, 17), "num_frozen": 3}


class TestResNet18(BackboneContract):
    name, options = "resnet18", {"output_stride": 16, "num_frozen": 2}


class TestResNet50(BackboneContract):
    name, options = "resnet50", {"output_stride": 16, "frozen_norms": True}


@pytest.mark.slow  # TestResNet50's code, with more of the same blocks
class TestResNet101(BackboneContract):
    name = "resnet101"


class TestVGG16(BackboneContract):
    name = "vgg16"


class TestVGG16WithAttentionAndWithoutNorms(BackboneContract):
    name, options = "vgg16", {"batch_norm": False, "attention": True}


class TestSwinT(BackboneContract):
    name, options = "swin_tiny", {"embed": 8, "depths": (2, 1, 2, 1), "heads": (1, 2, 4, 4), "window": 3}

    def build(self, seed: int = 0) -> Backbone:
        backbone = super().build(seed)
        for index in range(4):  # what a fresh norm gives sums to nothing, which has no gradient
            norm = backbone.get_submodule(f"norm{index}")
            assert isinstance(norm, nn.LayerNorm)
            nn.init.uniform_(norm.weight, 0.5, 1.5, torch.Generator().manual_seed(seed))
        return backbone

    def tap_of(self, backbone: Backbone, index: int, found_BCHW: Tensor) -> Tensor:
        normed: Tensor = backbone.get_submodule(f"norm{index}")(found_BCHW.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class TestTiny(BackboneContract):
    name, options = "tiny", {"width": 8}


def test_every_backbone_takes_the_exam() -> None:
    assert {cls.name for cls in BackboneContract.__subclasses__()} == set(BACKBONES)
