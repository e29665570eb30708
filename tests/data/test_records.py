from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterstain.data import PatchDataset, PatchRecord, open_patches
from counterstain.errors import InputError
from counterstain.results import Classes

Write = Callable[..., Path]

ROWS = ("image,split,patient,a,b", "x.png,train,P1,1,0", "y.png,train,P1,1,1", "z.png,test,P2,0,1")


def test_a_summary_counts_patches_patients_and_labels(table: Write) -> None:
    summary = open_patches(table(*ROWS)).summary()
    assert summary["splits"]["train"] == {"patches": 2, "patients": 1, "masks": 0, "present": {"a": 2, "b": 1}}
    assert summary["splits"]["val"] == {"patches": 0, "patients": 0, "masks": 0, "present": {"a": 0, "b": 0}}


def test_a_digest_changes_with_labels_classes_and_files(table: Write) -> None:
    dataset = open_patches(table(*ROWS))
    same = open_patches(table(*ROWS))
    assert dataset.digest() == same.digest()
    relabelled = open_patches(table(*ROWS[:-1], "z.png,test,P2,1,1"))
    renamed = replace(dataset, classes=Classes(("a", "c"), dataset.classes.colors))
    assert len({dataset.digest(), relabelled.digest(), renamed.digest()}) == 3
    folder = dataset.train[0].image.parent
    (folder / "x.png").write_bytes((folder / "x.png").read_bytes() + b"more")
    assert dataset.digest() != same.digest() or dataset.digest() != open_patches(table(*ROWS)).digest()


def test_excluded_pixels_get_the_ignore_index_or_255(tmp_path: Path) -> None:
    mask = np.array([[0, 1], [1, 0]], np.uint8)
    Image.fromarray(mask).save(tmp_path / "m.png")
    Image.fromarray(np.array([[0, 1], [0, 0]], np.uint8)).save(tmp_path / "e.png")
    record = PatchRecord(tmp_path / "i.png", None, "P", tmp_path / "m.png", tmp_path / "e.png")
    classes = Classes(("a", "b"), ((1, 1, 1), (2, 2, 2)))
    for ignore_index, expected in ((7, 7), (None, 255)):
        dataset = PatchDataset("x", classes, ignore_index, None, white_is_background=False)
        assert dataset.read_mask(record).tolist() == [[0, expected], [1, 0]]
    Image.fromarray(np.zeros((1, 2), np.uint8)).save(tmp_path / "e.png")
    with pytest.raises(InputError, match="both must agree"):
        dataset.read_mask(record)


@pytest.mark.parametrize("background", ["a", "b"])
def test_a_label_and_a_mask_that_contradict_each_other_are_refused(tmp_path: Path, background: str) -> None:
    """What can't be told from a mask that was read wrongly must not be scored as an image without tumour."""
    classes = Classes(("a", "b"), ((1, 1, 1), (2, 2, 2)), background)
    dataset = PatchDataset("x", classes, 255, None, white_is_background=False)
    empty, sought = (0, 1) if background == "a" else (1, 0)
    values = {"empty": [empty] * 4, "some": [empty, sought, empty, empty], "unsure": [empty, 255, empty, empty]}
    masks = {name: tmp_path / f"{name}.png" for name in values}
    for name, path in masks.items():
        Image.fromarray(np.array([values[name]], np.uint8)).save(path)
    positive: tuple[int, ...] = (0, 1) if sought == 1 else (1, 0)
    negative = positive[::-1]

    def read(label: tuple[int, ...] | None, name: str, data: PatchDataset = dataset) -> None:
        assert data.read_mask(PatchRecord(tmp_path / "i.png", label, "P", masks[name])).tolist() == [values[name]]

    for label, name in ((positive, "empty"), (negative, "some")):
        with pytest.raises(InputError, match=rf"i.png' is labelled .*{name}.png' reads as"):
            read(label, name)
        read(label, name, replace(dataset, classes=replace(classes, background=None)))
    for label, name in ((positive, "some"), (positive, "unsure"), (negative, "empty"), (negative, "unsure")):
        read(label, name)
    for name in values:
        read((1, 1), name)
        read(None, name)
