from pathlib import Path

import numpy as np
import pytest

from counterstain.data import PatchDataset, open_patches, read_image, read_mask
from counterstain.errors import ExistingOutputError, InputError
from counterstain.synth.anatomy import GLASS, LYMPHOCYTES, SCENE_CLASSES, TUMOUR, Composition
from counterstain.synth.scene import Scene
from counterstain.synth.tumour import TUMOUR_CLASSES, TumourSetSettings, metastasis_slide, write_tumour_set

FEW = TumourSetSettings(
    num_train=12, num_val=4, num_test=6, num_patients=7, patch_px=48, mpp=2.0, area_um=1200.0, seed=4
)


def changed(**changes: object) -> TumourSetSettings:
    return TumourSetSettings(**{**vars(FEW), **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tumour") / "few"
    write_tumour_set(folder, FEW)
    return folder


@pytest.fixture(scope="module")
def dataset(folder: Path) -> PatchDataset:
    return open_patches(folder, "table")


def test_what_is_written_is_what_is_read(dataset: PatchDataset) -> None:
    assert dataset.classes == TUMOUR_CLASSES
    assert dataset.classes.background == "normal"
    assert dataset.mpp == 2.0
    assert [len(split) for split in (dataset.train, dataset.val, dataset.test)] == [12, 4, 6]
    assert all(read_image(record.image).shape == (48, 48, 3) for record in dataset.train)


def test_twice_as_many_negatives_are_learned_from_and_as_many_scored(dataset: PatchDataset) -> None:
    positives = [
        sum(record.label == (0, 1) for record in split) for split in (dataset.train, dataset.val, dataset.test)
    ]
    negatives = [
        sum(record.label == (1, 0) for record in split) for split in (dataset.train, dataset.val, dataset.test)
    ]
    assert positives == [4, 2, 3]
    assert negatives == [8, 2, 3]


def test_a_mask_says_what_its_label_says_and_nothing_between(dataset: PatchDataset) -> None:
    for record in (*dataset.val, *dataset.test):
        assert record.mask is not None
        mask = read_mask(record.mask)
        assert set(np.unique(mask)) <= {0, 1}
        fraction = (mask == 1).mean()
        assert (fraction == 0) if record.label == (1, 0) else (FEW.min_fraction <= fraction <= FEW.max_fraction)


def test_no_training_mask_is_written_anywhere(folder: Path, dataset: PatchDataset) -> None:
    assert all(record.mask is None for record in dataset.train)
    images = {record.image for split in (dataset.train, dataset.val, dataset.test) for record in split}
    masks = {record.mask for split in (dataset.val, dataset.test) for record in split}
    assert set(folder.rglob("*.png")) == images | masks


def test_negatives_come_from_patients_with_tumour_and_without(dataset: PatchDataset) -> None:
    ill = {record.patient for record in dataset.train if record.label == (0, 1)}
    others = {record.patient for record in dataset.train} - ill
    negatives = {record.patient for record in dataset.train if record.label == (1, 0)}
    assert ill <= negatives
    assert others
    assert others <= negatives


def test_the_same_seed_writes_the_same_set_and_another_another(folder: Path, tmp_path: Path) -> None:
    tiny = changed(num_train=2, num_val=2, num_test=2, num_patients=6)
    for name, settings in (("one", tiny), ("two", tiny), ("other", changed(**{**vars(tiny), "seed": 5}))):
        write_tumour_set(tmp_path / name, settings)
    one, two, other = ((tmp_path / name / "labels.csv").read_text() for name in ("one", "two", "other"))
    assert one == two
    assert one != other
    for path in (tmp_path / "one").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    with pytest.raises(ExistingOutputError):
        write_tumour_set(folder, FEW)


@pytest.mark.slow
def test_small_middle_and_large_tumours_are_as_many(tmp_path: Path) -> None:
    write_tumour_set(tmp_path / "set", changed(num_train=18, num_val=2, num_test=36, num_patients=12, area_um=3000.0))
    test = open_patches(tmp_path / "set", "table").test
    fractions = [(read_mask(record.mask) == 1).mean() for record in test if record.mask and record.label == (0, 1)]
    counts = np.histogram(fractions, [0.02, 0.1, 0.3, 0.6])[0]
    assert counts.sum() == 18
    assert counts.min() >= 4


@pytest.mark.parametrize(
    "changes",
    [
        {"num_val": 1},
        {"min_fraction": 0.0},
        {"min_fraction": 0.7},
        {"neg_pos_ratio": 0.0},
        {"patch_px": 16},
        {"area_um": 100.0},
        {"healthy": 1.0},
        {"composition": Composition(tumour=0.0)},
        {"num_patients": 5},
    ],
)
def test_numbers_that_make_no_tumour_set_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        changed(**changes)


def test_tissue_without_room_for_a_patch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no place left for a patch with"):
        write_tumour_set(tmp_path / "set", changed(num_train=40, area_um=200.0))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("seed", range(3))
def test_a_metastasis_is_a_small_part_of_a_node_full_of_lymphocytes(seed: int) -> None:
    settings = metastasis_slide(seed)
    assert (settings.size.width, settings.mpp) == (4096, 1.0)
    labels = Scene(settings.scene(settings.glass)).labels(settings.glass, 16.0)
    parts = np.bincount(labels[labels != GLASS], minlength=len(SCENE_CLASSES)) / (labels != GLASS).sum()
    assert 0.01 < parts[TUMOUR] < 0.1
    assert parts[LYMPHOCYTES] > 0.4
