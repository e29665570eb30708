import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterstain.data import PatchDataset, default_colors, open_patches, tumour_class
from counterstain.data.table import class_file_text, read_class_file
from counterstain.errors import InputError, LabelError, MissingFileError, SplitError, UnknownNameError
from counterstain.results import Classes

Write = Callable[..., Path]

PLAIN = ("image,split,patient,gland,other", "a.png,train,P1,1,0", "b.png,val,P2,1,1", "c.png,testing,P3,0,1")


def by_name(dataset: PatchDataset) -> dict[str, tuple[int, ...] | None]:
    return {record.image.name: record.label for records in dataset.splits.values() for record in records}


def test_columns_of_0_and_1_become_classes_in_their_order(table: Write) -> None:
    dataset = open_patches(table(*PLAIN))
    assert dataset.classes.names == ("gland", "other")
    assert dataset.classes.colors == default_colors(2)
    assert by_name(dataset) == {"a.png": (1, 0), "b.png": (1, 1), "c.png": (0, 1)}
    assert [record.patient for record in dataset.test] == ["P3"]
    assert (dataset.ignore_index, dataset.mpp, dataset.white_is_background) == (255, None, False)
    assert dataset.name == table(*PLAIN).name


def test_the_table_itself_may_be_given_under_any_name(table: Write) -> None:
    folder = table(*PLAIN)
    (folder / "labels.csv").rename(folder / "mine.csv")
    assert len(open_patches(folder / "mine.csv").train) == 1
    with pytest.raises(InputError, match="is a file, and layout 'bcss_wsss' is a folder"):
        open_patches(folder / "mine.csv", "bcss_wsss")


def test_a_column_of_names_becomes_classes_in_alphabetical_order(table: Write) -> None:
    folder = table("image,split,label,biopsy", "a.png,train,other; gland,B1", "b.png,test,gland,B2", "c.png,val,,B3")
    dataset = open_patches(folder)
    assert dataset.classes.names == ("gland", "other")
    assert by_name(dataset) == {"a.png": (1, 1), "b.png": (1, 0), "c.png": None}


def test_the_class_file_says_order_colours_and_the_rest(table: Write) -> None:
    folder = table(
        "image,split,patient,gland,score,other",
        "a.png,train,P1,1,0.7,0",
        classes="""
            name = "own"
            background = "other"
            ignore_index = 9
            ignore_color = [1, 2, 3]
            mpp = 0.5
            white_is_background = true
            notes = ["made by hand"]
            classes = [{name = "other"}, {name = "gland", color = [9, 8, 7]}]
        """,
    )
    dataset = open_patches(folder)
    assert dataset.classes == Classes(("other", "gland"), (default_colors(2)[0], (9, 8, 7)), "other")
    assert by_name(dataset) == {"a.png": (0, 1)}
    assert (dataset.name, dataset.mpp, dataset.ignore_index, dataset.ignore_color) == ("own", 0.5, 9, (1, 2, 3))
    assert dataset.white_is_background
    assert "made by hand" in dataset.notes


def test_a_class_file_that_was_written_says_the_same_again(tmp_path: Path) -> None:
    classes = Classes(("a", "b"), ((1, 2, 3), (4, 5, 6)), "b")
    dataset = PatchDataset("x", classes, 7, 0.5, white_is_background=True, ignore_color=(9, 9, 9), notes=("n",))
    (tmp_path / "classes.toml").write_text(class_file_text(dataset))
    facts = read_class_file(tmp_path)
    assert facts.classes == classes
    assert (facts.name, facts.mpp, facts.ignore_index, facts.ignore_color) == ("x", 0.5, 7, (9, 9, 9))
    assert facts.notes == ("n",)


def test_a_json_list_of_classes_does_as_well(table: Write) -> None:
    folder = table(*PLAIN)
    classes = Classes(("other", "gland"), ((1, 1, 1), (2, 2, 2)), "other")
    (folder / "classes.json").write_text(json.dumps(classes.to_json()))
    assert open_patches(folder).classes == classes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('clases = [{name = "a"}]', "Did you mean 'classes'"),
        ('classes = ["a"]', "Each class is a table with 'name'"),
        ("classes = [{color = [1, 2, 3]}]", "Each class is a table with 'name'"),
        ('classes = [{name = "gland", color = [1, 2, 300]}]', r"\[1, 2, 300\] was given; three numbers from 0 to 255"),
        ("mpp = -1", "'-1' was given as mpp"),
        ('classes = [{name = "nerve"}]', r"no column for the classes \['nerve'\]"),
    ],
)
def test_a_wrong_class_file_is_refused(table: Write, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_patches(table(*PLAIN, classes=text))


def test_two_class_files_are_refused(table: Write) -> None:
    folder = table(*PLAIN, classes="mpp = 1")
    (folder / "classes.json").write_text("{}")
    with pytest.raises(InputError, match="Keep one"):
        open_patches(folder)


def test_all_bad_labels_are_listed_at_once(table: Write) -> None:
    folder = table("image,patient,gland,area", "a.png,P1,1,0.7", "b.png,P2,yes,0", "c.png,P3,,", "d.png,P4,1.0,0")
    with pytest.raises(LabelError, match=r"3 rows whose label(.|\n)*classes.toml") as caught:
        open_patches(folder)
    assert caught.value.offenders == ("line 2: area = '0.7'", "line 3: gland = 'yes'", "line 4: no label")


def test_a_name_that_is_no_class_is_refused(table: Write) -> None:
    folder = table(
        "image,split,label", "a.png,train,gland", "b.png,test,glnd;other", classes='classes = [{name = "gland"}]'
    )
    with pytest.raises(LabelError, match="line 3: no class glnd, other"):
        open_patches(folder)


def test_a_table_without_classes_or_image_is_refused(table: Write) -> None:
    with pytest.raises(InputError, match="names no class"):
        open_patches(table("image,patient", "a.png,P1"))
    with pytest.raises(UnknownNameError, match="column where 'image' was expected 'picture'"):
        open_patches(table("picture,patient,gland", "a.png,P1,1"))


def test_all_missing_files_are_listed_at_once(table: Write) -> None:
    folder = table("image,split,gland", "a.png,train,1", "b.png,train,1", "c.png,train,1")
    (folder / "a.png").unlink()
    (folder / "c.png").unlink()
    with pytest.raises(MissingFileError, match=r"2 files in column 'image'(.|\n)*line 2: a.png\n  line 4: c.png"):
        open_patches(folder)
    with pytest.raises(MissingFileError, match="line 3: empty"):
        open_patches(table("image,split,gland", "a.png,train,1", ",train,1"))
    with pytest.raises(MissingFileError, match=r"column 'mask'(.|\n)*line 2: m.png"):
        open_patches(table("image,split,mask,gland", "a.png,test,m.png,1"))


def test_an_image_named_twice_is_refused(table: Write) -> None:
    with pytest.raises(InputError, match="twice"):
        open_patches(table("image,split,gland", "a.png,train,1", "a.png,test,1"))


def test_files_that_are_no_images_are_listed(table: Write) -> None:
    folder = table(*PLAIN)
    (folder / "a.png").write_text("no image")
    with pytest.raises(InputError, match=r"1 files of the dataset can't be used:\n.*a.png' is no image"):
        open_patches(folder)


def test_masks_are_read_by_the_tables_coding(table: Write) -> None:
    folder = table("image,split,mask,gland,other", "a.png,train,,1,0", "b.png,test,b_mask.png,,")
    mask = np.array([[0, 1, 255, 0, 0, 0, 0, 0]] * 6, np.uint8)
    Image.fromarray(mask).save(folder / "b_mask.png")
    dataset = open_patches(folder)
    assert np.array_equal(dataset.read_mask(dataset.test[0]), mask)
    assert dataset.test[0].label is None
    with pytest.raises(InputError, match="has no mask to score against"):
        dataset.read_mask(dataset.train[0])


def test_a_mask_of_another_size_than_its_image_is_refused(table: Write) -> None:
    folder = table("image,split,mask,gland", "a.png,train,,1", "b.png,test,b_mask.png,1")
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(folder / "b_mask.png")
    with pytest.raises(InputError, match=r"b_mask.png: not 8 x 6 px"):
        open_patches(folder)


def test_training_masks_are_not_opened(table: Write) -> None:
    folder = table("image,split,mask,gland", "a.png,train,m.png,1")
    (folder / "m.png").write_text("no mask")
    assert open_patches(folder).train[0].mask == folder / "m.png"


def test_a_patient_in_two_splits_is_refused(table: Write) -> None:
    folder = table("image,split,patient,gland", "a.png,train,P1,1", "b.png,test,P1,1", "c.png,val,P2,1")
    with pytest.raises(SplitError, match="P1: train, test"):
        open_patches(folder)


def test_without_a_split_patients_are_split(table: Write) -> None:
    rows = [f"p{number}_{side}.png,P{number},1" for number in range(10) for side in "lr"]
    folder = table("image,patient,gland", *rows)
    dataset = open_patches(folder, fractions=(0.5, 0.2, 0.3), seed=3)
    assert [len(part) for part in dataset.splits.values()] == [10, 4, 6]
    assert dataset.shared_patients == {}
    assert dataset == open_patches(folder, "table", fractions=(0.5, 0.2, 0.3), seed=3)
    assert dataset != open_patches(folder, fractions=(0.5, 0.2, 0.3), seed=4)


def test_without_split_and_patient_nothing_is_guessed(table: Write) -> None:
    with pytest.raises(SplitError, match="neither a column 'split' nor 'patient'"):
        open_patches(table("image,gland", "a.png,1"))


def test_a_split_without_patients_is_taken_and_said_to_be_unchecked(table: Write) -> None:
    dataset = open_patches(table("image,split,gland", "a.png,train,1", "b.png,test,1"))
    assert any("names no patients" in note for note in dataset.notes)
    assert dataset.train[0].patient != dataset.test[0].patient


def test_empty_patients_and_unknown_splits_are_listed(table: Write) -> None:
    with pytest.raises(InputError, match=r"without a patient(.|\n)*line 3"):
        open_patches(table("image,patient,gland", "a.png,P1,1", "b.png,,1"))
    with pytest.raises(InputError, match="line 2: 'holdout'\n  line 3: ''"):
        open_patches(table("image,split,gland", "a.png,holdout,1", "b.png,,1"))


def test_the_resolution_comes_from_the_caller_then_the_table_then_the_class_file(table: Write) -> None:
    folder = table("image,split,mpp,gland", "a.png,train,0.5,1", "b.png,test,0.50,1", classes="mpp = 2")
    assert open_patches(folder).mpp == 0.5
    assert open_patches(folder, mpp=1.0).mpp == 1.0
    assert open_patches(table("image,split,gland", "a.png,train,1", classes="mpp = 2")).mpp == 2.0
    with pytest.raises(InputError, match="must be above 0"):
        open_patches(folder, mpp=0.0)


def test_several_resolutions_or_none_in_a_column_are_refused(table: Write) -> None:
    with pytest.raises(InputError, match=r"2 resolutions, 0.25 to 0.5"):
        open_patches(table("image,split,mpp,gland", "a.png,train,0.25,1", "b.png,test,0.5,1"))
    with pytest.raises(InputError, match="mpp in line 3"):
        open_patches(table("image,split,mpp,gland", "a.png,train,0.25,1", "b.png,test,unknown,1"))


def test_default_colours_are_distinct_and_never_white() -> None:
    colors = default_colors(40)
    assert len(set(colors)) == 40
    assert (255, 255, 255) not in colors
    assert colors[:3] == default_colors(3)


def test_one_class_column_makes_two_classes_normal_first(table: Write) -> None:
    dataset = open_patches(
        table("image,split,patient,tumour", "a.png,train,P1,1", "b.png,train,P2,0", "c.png,test,P3,")
    )
    assert (dataset.classes.names, dataset.classes.background) == (("normal", "tumour"), "normal")
    assert by_name(dataset) == {"a.png": (0, 1), "b.png": (1, 0), "c.png": None}
    assert tumour_class(dataset.classes) == 1


def test_a_label_column_of_normal_and_another_does_the_same(table: Write) -> None:
    rows = ("a.png,train,lesion", "b.png,train,normal", "c.png,test,")
    dataset = open_patches(table("image,split,label", *rows))
    assert (dataset.classes.names, dataset.classes.background) == (("normal", "lesion"), "normal")
    assert by_name(dataset) == {"a.png": (0, 1), "b.png": (1, 0), "c.png": None}
    with pytest.raises(LabelError, match="line 2: both normal and lesion"):
        open_patches(table("image,split,label", "a.png,train,lesion;normal"))


def test_two_other_names_stay_two_classes_of_which_none_is_the_background(table: Write) -> None:
    dataset = open_patches(table("image,split,label", "a.png,train,gland", "b.png,train,other;gland"))
    assert (dataset.classes.names, dataset.classes.background) == (("gland", "other"), None)


def test_the_background_may_be_called_otherwise_or_stand_anywhere(table: Write) -> None:
    rows = ("image,split,cancer", "a.png,train,1", "b.png,train,0", "c.png,test,0")
    dataset = open_patches(table(*rows, classes='background = "benign"'))
    assert (dataset.classes.names, dataset.classes.background) == (("benign", "cancer"), "benign")
    classes = 'background = "benign"\nclasses = [{name = "cancer"}, {name = "benign", color = [1, 2, 3]}]'
    dataset = open_patches(table(*rows, classes=classes))
    assert by_name(dataset) == {"a.png": (1, 0), "b.png": (0, 1), "c.png": (0, 1)}
    assert dataset.read_mask(dataset.test[0]).tolist() == [[1] * 8] * 6
    mask = np.array([[0, 1, 255, 0, 0, 0, 0, 0]] * 6, np.uint8)
    folder = table("image,split,mask,cancer", "a.png,train,,1", "c.png,test,c_mask.png,1", classes=classes)
    Image.fromarray(mask).save(folder / "c_mask.png")
    dataset = open_patches(folder)
    assert dataset.read_mask(dataset.test[0])[0].tolist() == [1, 0, 0, 1, 1, 1, 1, 1]


def test_a_class_column_named_after_the_background_is_refused(table: Write) -> None:
    with pytest.raises(InputError, match="'normal' was given as the one class"):
        open_patches(table("image,split,normal", "a.png,train,1"))


@pytest.mark.parametrize("white", [1, 2, 255])
def test_masks_of_one_class_are_0_or_not_0(table: Write, white: int) -> None:
    folder = table("image,split,mask,tumour", "a.png,train,,1", "b.png,test,b_mask.png,1")
    mask = np.array([[0, 1, 1, 0, 0, 0, 0, 0]] * 6, np.uint8)
    for image in (Image.fromarray(white * mask), Image.fromarray(np.stack([0 * mask, white * mask, mask], -1))):
        image.save(folder / "b_mask.png")
        dataset = open_patches(folder)
        assert np.array_equal(dataset.read_mask(dataset.test[0]), mask)
    Image.fromarray(255 * mask).save(folder / "b_mask.png", format="JPEG")
    with pytest.raises(InputError, match="is a JPEG, which smears labels"):
        dataset.read_mask(dataset.test[0])


def test_masks_of_one_class_may_leave_pixels_out_by_a_value_that_is_named(table: Write) -> None:
    rows = ("image,split,mask,tumour", "a.png,train,,1", "b.png,test,b_mask.png,1")
    folder = table(*rows, classes="ignore_index = 255")
    Image.fromarray(np.array([[0, 1, 255, 9, 0, 0, 0, 0]] * 6, np.uint8)).save(folder / "b_mask.png")
    dataset = open_patches(folder)
    assert dataset.ignore_index == 255
    assert dataset.read_mask(dataset.test[0])[0].tolist() == [0, 1, 255, 1, 0, 0, 0, 0]


def test_images_without_the_one_class_need_no_mask(table: Write) -> None:
    rows = ("a.png,train,,1", "b.png,train,,0", "c.png,test,,0", "d.png,test,,1", "e.png,test,,")
    dataset = open_patches(table("image,split,mask,tumour", *rows))
    assert [record.has_truth for record in dataset.test] == [True, False, False]
    assert not dataset.read_mask(dataset.test[0]).any()
    assert not any(record.has_truth for record in dataset.train)
    with pytest.raises(InputError, match="has no mask to score against"):
        dataset.read_mask(dataset.test[1])


def test_labels_of_zeros_in_several_columns_do_not_make_an_image_empty(table: Write) -> None:
    dataset = open_patches(table("image,split,gland,other", "a.png,train,1,0", "b.png,test,0,0"))
    assert not dataset.test[0].has_truth
