"""Every slide method takes the same exam."""

from dataclasses import replace

import pytest

from counterstain.data.encoded_files import read_encoded
from counterstain.methods import (
    ABMIL,
    CLAM,
    SLIDE_METHODS,
    Compressed,
    DSNet,
    MeanPool,
    Thumbnail,
    TransMIL,
)
from counterstain.testing.slide_methods import Halves, SlideMethodContract, halves_of


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Halves:
    return halves_of(tmp_path_factory.mktemp("encoded"))


class TestDSNet(SlideMethodContract):
    name, config = "dsnet", replace(DSNet.presets["short"], levels=(1,))


class TestMeanPool(SlideMethodContract):
    name, config = "mean_pool", replace(MeanPool.presets["paper"], warmup_epochs=0)


class TestABMIL(SlideMethodContract):
    name, config = "abmil", replace(ABMIL.presets["short"], width=16, hidden=8)


class TestCLAM(SlideMethodContract):
    name, config = "clam", replace(CLAM.presets["short"], width=16, hidden=8, num_picked=3)


class TestTransMIL(SlideMethodContract):
    name, config = "transmil", replace(TransMIL.presets["short"], width=16, heads=2, landmarks=8)


class TestThumbnail(SlideMethodContract):
    name, config = "thumbnail", replace(Thumbnail.presets["small"], thumbnail_px=40)


class TestCompressed(SlideMethodContract):
    name, config = "nic", replace(Compressed.presets["small"], grid_cells=40)


def test_every_slide_method_takes_the_exam() -> None:
    assert {exam.name for exam in SlideMethodContract.__subclasses__()} == set(SLIDE_METHODS)


def test_the_exam_s_slides_are_of_other_patients_and_each_has_cells_that_were_not_observed(halves: Halves) -> None:
    train, val = halves
    assert not {slide.patient_id for slide in train.slides} & {slide.patient_id for slide in val.slides}
    observed = [read_encoded(slide.folder, "planted").observed for slide in (*train.slides, *val.slides)]
    assert all(0 < cells.sum() < cells.size for cells in observed)
