from pathlib import Path

import pytest

from counterstain.errors import InputError
from counterstain.methods.base import InputSpec
from counterstain.methods.fusion_kd import FusionKD, FusionKDConfig
from counterstain.methods.multi_stage_config import MultiStageConfig
from counterstain.methods.starting import refuse_small_images, weights_notes
from counterstain.results import Classes


def test_a_backbone_of_each_stage_without_weights_is_told_with_its_flag() -> None:
    first, second = weights_notes(MultiStageConfig(backbone="resnet18", second_backbone="resnet101"))
    assert first.startswith("resnet18 was given no pretrained weights")
    assert "--weights FILE (resnet18-*.pth" in first
    assert "--second-weights FILE (resnet101-*.pth" in second


def test_teacher_and_student_of_one_network_are_told_once() -> None:
    (note,) = weights_notes(FusionKDConfig())
    assert note.startswith("vgg16 was given no pretrained weights")
    assert weights_notes(FusionKDConfig(weights=Path("vgg16-397923af.pth"))) == ()


def test_a_student_of_another_network_is_told_with_its_own_flag() -> None:
    (note,) = weights_notes(FusionKDConfig(weights=Path("vgg16-397923af.pth"), student="swin_mil"))
    assert note.startswith("swin_tiny")
    assert "--student-weights FILE" in note


def test_a_network_that_learns_from_scratch_is_told_nothing() -> None:
    assert weights_notes(FusionKDConfig(teacher="tiny_mil", student="tiny_mil")) == ()


def test_images_of_one_cell_are_refused_with_the_least_size_that_will_do() -> None:
    classes = Classes(("normal", "tumour"), ((200, 200, 200), (205, 51, 51)), background="normal")
    config = FusionKDConfig(teacher="tiny_mil", student="tiny_mil", scale=2.0)
    refuse_small_images(FusionKD(config, classes, InputSpec(5, 0, None)))
    with pytest.raises(InputError, match=r"of 4 px were given.* one cell for 8 px.* images of more than 4 px"):
        refuse_small_images(FusionKD(config, classes, InputSpec(4, 0, None)))


def test_a_student_of_the_same_network_with_other_options_is_told_that_it_has_no_weights() -> None:
    weights = Path("vgg16-397923af.pth")
    (note,) = weights_notes(FusionKDConfig(weights=weights, student_options={"attention": True}))
    assert "--student-weights FILE" in note
    assert weights_notes(FusionKDConfig(weights=weights, student_weights=weights)) == ()
