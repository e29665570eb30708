import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterstain.data import open_patches
from counterstain.errors import ExistingOutputError, InputError, UnknownNameError
from counterstain.layouts import LAYOUTS, LUAD_HISTOSEG, WSSS4LUAD, PatchLayout
from counterstain.synth.bank import BankSettings
from counterstain.synth.patches import PatchSetSettings, write_patch_set

FEW = PatchSetSettings(num_train=14, num_val=4, num_test=3, num_patients=4, patch_px=96, mpp=2.0, seed=3)


def changed(**changes: object) -> PatchSetSettings:
    return PatchSetSettings(**{**vars(FEW), **changes})


@pytest.fixture(scope="module", params=LAYOUTS.values(), ids=LAYOUTS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PatchLayout]:
    folder = tmp_path_factory.mktemp("patches") / "set"
    write_patch_set(folder, request.param, FEW)
    return folder, request.param


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def label_of(path: Path) -> tuple[int, ...]:
    match = re.search(r"\[([01, ]+)\]$", path.stem)
    assert match, path.name
    return tuple(int(digit) for digit in re.sub(r"[ ,]", "", match[1]))


def test_folders_and_counts_are_the_datasets(written: tuple[Path, PatchLayout]) -> None:
    folder, layout = written
    assert len(list((folder / layout.train_folders[0]).glob("*.png"))) == 14
    for names, count in ((layout.val_folders, 4), (layout.test_folders, 3)):
        for part in ("img", "mask"):
            assert len(list((folder / names[0] / part).glob("*.png"))) == count


def test_names_carry_labels_and_patients(written: tuple[Path, PatchLayout]) -> None:
    folder, layout = written
    for path in (folder / layout.train_folders[0]).iterdir():
        label = label_of(path)
        assert len(label) == len(layout.classes)
        assert path.stem.endswith(layout.label_suffix(label))
        assert layout.patient(path.stem)


def test_training_patches_have_no_mask_anywhere(written: tuple[Path, PatchLayout]) -> None:
    folder, layout = written
    train = folder / layout.train_folders[0]
    assert all(path.is_file() for path in train.iterdir())
    trained = {path.stem.split("[")[0] for path in train.iterdir()}
    masks = {path.stem for path in folder.rglob("mask/*.png")}
    assert masks
    assert not trained & masks
    assert not {name.rstrip("-") for name in trained} & masks
    for path in train.iterdir():
        with Image.open(path) as image:
            assert image.mode == "RGB"
            assert image.size == (96, 96)


def test_what_is_written_is_what_is_read(written: tuple[Path, PatchLayout]) -> None:
    folder, layout = written
    dataset = open_patches(folder, layout.name)
    assert dataset.classes == layout.classes
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (14, 4, 3)
    for record in dataset.train:
        assert record.label == label_of(record.image)
        assert record.mask is None
    assert all(record.mask is not None and record.mask.is_file() for record in (*dataset.val, *dataset.test))


def test_masks_are_palette_images_of_the_datasets_classes(written: tuple[Path, PatchLayout]) -> None:
    folder, layout = written
    seen: set[int] = set()
    for path in folder.rglob("mask/*.png"):
        with Image.open(path) as image:
            assert image.mode == "P"
            values = np.unique(np.asarray(image)).tolist()
            palette = np.array(image.getpalette()).reshape(-1, 3)
        assert set(values) <= {*range(len(layout.classes)), layout.mask_ignore}
        assert palette[: len(layout.classes)].tolist() == [list(color) for color in layout.classes.colors]
        assert palette[layout.mask_ignore].tolist() == [255, 255, 255]
        assert (path.parents[1] / "img" / path.name).is_file()
        seen |= set(values)
    assert set(range(len(layout.classes))) <= seen


def test_parts_share_no_patient(written: tuple[Path, PatchLayout]) -> None:
    folder, layout = written
    patients = [
        {layout.patient(path.stem) for path in (folder / names[0]).rglob("*.png")}
        for names in (layout.train_folders, layout.val_folders, layout.test_folders)
    ]
    if layout is WSSS4LUAD:  # its validation and test names carry no patient: the reader may not make one up
        assert patients[1:] == [{None}, {None}]
        assert None not in patients[0]
        return
    assert not patients[0] & patients[1]
    assert not patients[1] & patients[2]
    assert len(set.union(*patients)) == 4


def test_background_masks_are_where_the_mask_is_white(tmp_path: Path) -> None:
    write_patch_set(tmp_path / "set", WSSS4LUAD, changed(num_train=0, num_val=3, num_test=0, patch_px=128))
    split = tmp_path / "set" / "2.validation"
    assert sorted(path.name for path in (split / "img").iterdir()) == ["00.png", "01.png", "02.png"]
    for path in (split / "background-mask").iterdir():
        with Image.open(path) as background, Image.open(split / "mask" / path.name) as mask:
            assert ((np.asarray(background) != 0) == (np.asarray(mask) == 3)).all()


def test_sizes_vary_where_the_datasets_do(tmp_path: Path) -> None:
    write_patch_set(tmp_path / "set", WSSS4LUAD, changed(num_train=4, num_val=2, num_test=0, patch_px=None, mpp=1.0))
    sizes = {}
    for part in ("1.training", "2.validation/img"):
        sizes[part] = {read(path).shape[:2] for path in (tmp_path / "set" / part).iterdir()}
    assert len(sizes["1.training"]) == 4
    assert max(max(size) for size in sizes["1.training"]) <= 300
    assert min(min(size) for size in sizes["2.validation/img"]) >= 313


def test_labels_name_the_classes_that_cover_enough(tmp_path: Path) -> None:
    """Validation patches are drawn as training ones: written twice, once with a mask, the rule can be checked."""
    settings = changed(num_train=0, num_val=8, num_test=0, num_patients=1, difficulty=0.0)
    write_patch_set(tmp_path / "val", LUAD_HISTOSEG, settings)
    write_patch_set(tmp_path / "train", LUAD_HISTOSEG, changed(**{**vars(settings), "num_val": 0, "num_train": 8}))
    labels = {path.stem.split("-[")[0]: label_of(path) for path in (tmp_path / "train" / "train").iterdir()}
    for path in (tmp_path / "val" / "val" / "mask").iterdir():
        with Image.open(path) as image:
            cover = np.bincount(np.asarray(image).ravel(), minlength=5)[:4] / 96**2
        assert labels[path.stem] == tuple((cover >= 0.05).astype(int).tolist())


def test_every_class_is_met_alone_and_beside_others(tmp_path: Path) -> None:
    write_patch_set(tmp_path / "set", LUAD_HISTOSEG, changed(num_train=32, num_val=0, num_test=0, num_patients=2))
    labels = np.array([label_of(path) for path in (tmp_path / "set" / "train").iterdir()])
    assert labels.shape == (32, 4)
    assert (labels.sum(0) >= 4).all()
    assert (labels.sum(0) <= 29).all()
    assert (labels.sum(1) == 1).any()
    assert (labels.sum(1) >= 2).any()


def test_the_same_seed_writes_the_same_set(tmp_path: Path) -> None:
    settings = changed(num_train=3, num_val=1, num_test=0, num_patients=2)
    for name in ("one", "two"):
        write_patch_set(tmp_path / name, LUAD_HISTOSEG, settings)
    write_patch_set(tmp_path / "three", LUAD_HISTOSEG, changed(**{**vars(settings), "seed": 4}))
    files = {
        name: {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.png")}
        for name in ("one", "two", "three")
    }
    assert files["one"] == files["two"]
    assert not set(files["one"]) & set(files["three"])


def test_a_set_of_real_patches_shares_no_real_patient(tmp_path: Path, bank_folder: Path) -> None:
    settings = changed(
        num_train=4,
        num_val=2,
        num_test=0,
        num_patients=3,
        patch_px=64,
        mpp=0.5,
        bank=BankSettings(bank_folder / "table.csv", overlap_px=8),
        bank_names={"gland or lesion": "tumour epithelium", "other tissue": "tumour-associated stroma"},
    )
    write_patch_set(tmp_path / "set", LUAD_HISTOSEG, settings)
    labels = [label_of(path) for path in (tmp_path / "set" / "train").iterdir()]
    assert len(labels) == 4
    assert all(label[1] == label[2] == 0 for label in labels)
    masks = [read(path) for path in (tmp_path / "set" / "val" / "mask").iterdir()]
    assert {int(value) for mask in masks for value in np.unique(mask)} <= {0, 3}


def test_an_existing_set_is_kept(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(ExistingOutputError, match="set exists already"):
        write_patch_set(tmp_path / "set", LUAD_HISTOSEG, FEW)
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_train": 0, "num_val": 0, "num_test": 0}, "at least one patch"),
        ({"num_train": -1}, "none below 0"),
        ({"num_patients": 2}, "each part needs its own"),
        ({"min_cover": 0.0}, "smallest cover"),
        ({"patch_px": 8}, "at least 32"),
        ({"bank_names": {"a": "b"}}, "go together"),
    ],
    ids=str,
)
def test_impossible_sets_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(**changes)


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    odd = PatchLayout(**{**vars(LUAD_HISTOSEG), "name": "luad_histosek"})
    with pytest.raises(UnknownNameError, match="Did you mean 'luad_histoseg'"):
        write_patch_set(tmp_path / "set", odd, FEW)
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_can_hold_no_class_is_refused(tmp_path: Path, bank_folder: Path) -> None:
    settings = changed(bank=BankSettings(bank_folder / "table.csv", overlap_px=8), bank_names={"glass": "necrosis"})
    with pytest.raises(InputError, match="no tissue of any class"):
        write_patch_set(tmp_path / "set", LUAD_HISTOSEG, settings)
    assert list(tmp_path.iterdir()) == []
