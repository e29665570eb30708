import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from counterstain.data import open_patches
from counterstain.errors import InputError, LabelError, MissingFileError, UnknownNameError
from counterstain.layouts import LAYOUTS
from counterstain.testing.datasets import FakeNames, Folders, write_layout

Write = Callable[..., Path]

LUAD = LAYOUTS["luad_histoseg"]
NAMES = FakeNames("{patient}-{number}-1", "{patient}-{number}-2", ("11", "22", "33"))


def test_an_unknown_layout_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'luad_histoseg'"):
        open_patches(tmp_path, "luad_histosec")


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="a dataset of patches"):
        open_patches(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match="the table of a dataset"):
        open_patches(tmp_path, "table")


def test_a_layout_that_does_not_fit_names_the_choices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fits no layout .* luad_histoseg, bcss_wsss, wsss4luad, table"):
        open_patches(tmp_path)


def test_four_digits_alone_do_not_tell_the_order_of_classes(tmp_path: Path) -> None:
    """Own patches in the folders of LUAD-HistoSeg and with its digits, but without its patients."""
    write_layout(tmp_path, LUAD, FakeNames("mine{patient}-{number}", "{number}", ("a", "b", "c")))
    with pytest.raises(InputError, match="Pass --layout"):
        open_patches(tmp_path)
    dataset = open_patches(tmp_path, "luad_histoseg")
    assert any("8 of 8 file names of the train split carry no patient" in note for note in dataset.notes)


def test_a_folder_of_two_layouts_is_not_guessed(tmp_path: Path) -> None:
    write_layout(tmp_path, LUAD, NAMES)
    (tmp_path / "labels.csv").write_text("image,split,gland\n")
    with pytest.raises(InputError, match="fits luad_histoseg and table"):
        open_patches(tmp_path)
    assert open_patches(tmp_path, "luad_histoseg").name == "luad_histoseg"


def test_a_split_under_two_names_is_refused(tmp_path: Path) -> None:
    write_layout(tmp_path, LUAD, NAMES)
    (tmp_path / "training").mkdir()
    with pytest.raises(InputError, match="train and training for its train split"):
        open_patches(tmp_path, "luad_histoseg")


def test_a_dataset_one_folder_down_is_pointed_at(tmp_path: Path) -> None:
    write_layout(tmp_path / "LUAD-HistoSeg", LUAD, NAMES)
    with pytest.raises(InputError, match=r"They lie deeper: give '.*LUAD-HistoSeg'"):
        open_patches(tmp_path, "luad_histoseg")


def test_images_in_two_places_or_none_are_refused(tmp_path: Path) -> None:
    write_layout(tmp_path, LUAD, NAMES)
    (tmp_path / "train" / "img").mkdir()
    first = next((tmp_path / "train").glob("*.png"))
    first.rename(tmp_path / "train" / "img" / first.name)
    with pytest.raises(InputError, match="there are some in both"):
        open_patches(tmp_path, "luad_histoseg")
    for path in (tmp_path / "train").rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match="there are none"):
        open_patches(tmp_path, "luad_histoseg")


def test_images_that_differ_in_their_suffix_alone_are_refused(tmp_path: Path) -> None:
    write_layout(tmp_path, LUAD, NAMES)
    first = min((tmp_path / "train").glob("*.png"))
    first.with_suffix(".jpg").write_bytes(first.read_bytes())
    with pytest.raises(InputError, match="differ in their suffix alone"):
        open_patches(tmp_path, "luad_histoseg")


def test_hidden_twins_of_macos_archives_are_passed_over(tmp_path: Path) -> None:
    written = write_layout(tmp_path, LUAD, NAMES)
    (tmp_path / "train" / "._a.png").write_bytes(b"\0\5\26\7")
    assert len(open_patches(tmp_path).train) == len(written.labels)


def test_a_split_without_masks_is_refused(tmp_path: Path) -> None:
    write_layout(tmp_path, LUAD, NAMES)
    (tmp_path / "val" / "mask").rename(tmp_path / "val" / "label")
    with pytest.raises(MissingFileError, match="a mask for each of 2 images"):
        open_patches(tmp_path, "luad_histoseg")


def test_a_published_dataset_may_lack_a_split(tmp_path: Path) -> None:
    write_layout(tmp_path, LUAD, NAMES, Folders(train="unused"))
    dataset = open_patches(tmp_path, "luad_histoseg")
    assert dataset.train == ()
    assert len(dataset.split("val")) == 2
    with pytest.raises(InputError, match="no train split; it has val, test"):
        dataset.split("train")
    with pytest.raises(UnknownNameError, match=r"'trein'. Did you mean 'train'"):
        dataset.split("trein")
    with pytest.raises(InputError, match="fits no layout"):
        open_patches(tmp_path)  # without training names, class order can't be told


def test_patients_in_two_published_splits_are_reported_and_not_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_layout(tmp_path, LUAD, FakeNames("{patient}-{number}-1", "{patient}-{number}-2", ("11", "22", "11")))
    with caplog.at_level(logging.WARNING, "counterstain"):
        dataset = open_patches(tmp_path)
    assert dataset.shared_patients == {"11": ("train", "test")}
    assert any("not scores on unseen patients" in note for note in dataset.notes)
    assert "1 patients of luad_histoseg" in caplog.text


def test_the_callers_resolution_overrides_the_layouts(tmp_path: Path) -> None:
    write_layout(tmp_path, LUAD, NAMES)
    assert open_patches(tmp_path).mpp == 1.0
    assert open_patches(tmp_path, mpp=0.9).mpp == 0.9


def test_labels_of_zeros_are_kept_and_counted(table: Write) -> None:
    dataset = open_patches(table("image,split,a,b", "x.png,train,0,0", "y.png,train,1,0"))
    assert [record.label for record in dataset.train] == [(0, 0), (1, 0)]
    assert any("1 of 2 training labels are all zeros" in note for note in dataset.notes)
    assert any("No training label names b" in note for note in dataset.notes)


def test_nothing_but_zeros_is_refused(table: Write) -> None:
    with pytest.raises(LabelError, match="nothing can be learned"):
        open_patches(table("image,split,a", "x.png,train,0"))
