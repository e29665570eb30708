"""Every backbone takes the exam of its contract, at options that keep it quick."""

from counterstain.models.backbones import BACKBONES
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


class TestResNet101(BackboneContract):
    name = "resnet101"


class TestTiny(BackboneContract):
    name, options = "tiny", {"width": 8}


def test_every_backbone_takes_the_exam() -> None:
    assert {cls.name for cls in BackboneContract.__subclasses__()} == set(BACKBONES)
