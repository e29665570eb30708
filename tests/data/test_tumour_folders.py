"""Tumour / no tumour datasets: labels from folders, masks in white, splits by slide."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterstain.data import (
    PatchDataset,
    PatchRecord,
    WeakPatches,
    WeakSettings,
    digestpath_slide,
    image_size,
    open_patches,
    refuse_shared_patients,
)
from counterstain.data.images import read_binary_mask
from counterstain.errors import InputError, LabelError, MissingFileError, SplitError, UnknownNameError
from counterstain.testing.datasets import FakeDataset, write_digestpath, write_pos_neg_gt

NAME = "2019_04115_1-1_2019-02-20 20_13_37-lv1-40690-7875-4758-4116"


def labels_of(dataset: PatchDataset) -> dict[str, tuple[int, ...] | None]:
    return {record.image.name: record.label for records in dataset.splits.values() for record in records}


def check_truths(dataset: PatchDataset, written: FakeDataset) -> None:
    expected = {name: mask for masks in written.masks.values() for name, mask in masks.items()}
    for record in (*dataset.val, *dataset.test):
        assert record.has_truth
        assert np.array_equal(dataset.read_mask(record), expected[record.image.name]), record.image.name


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_labels_come_from_folders_and_masks_by_name(tmp_path: Path, suffix: str) -> None:
    written = write_pos_neg_gt(tmp_path / "camelyon16", suffix=suffix)
    dataset = open_patches(tmp_path / "camelyon16", "pos_neg_gt")
    assert labels_of(dataset) == written.labels
    assert [len(records) for records in dataset.splits.values()] == [6, 6, 6]
    assert (dataset.name, dataset.classes.names, dataset.classes.background) == (
        "camelyon16",
        ("normal", "tumour"),
        "normal",
    )
    assert dataset.mpp is None
    check_truths(dataset, written)
    assert len({record.patient for records in dataset.splits.values() for record in records}) == 18
    assert any("no patients.csv" in note for note in dataset.notes)


def test_both_folder_layouts_are_recognised(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path / "colon", 1)
    write_digestpath(tmp_path / "digest")
    assert open_patches(tmp_path / "colon").source == (str(tmp_path / "colon"), "pos_neg_gt")
    assert open_patches(tmp_path / "digest", mpp=0.5).source == (str(tmp_path / "digest"), "digestpath")
    assert open_patches(tmp_path / "digest", mpp=0.5).mpp == 0.5


@pytest.mark.parametrize("word", ["val", "valid", "validation"])
def test_validation_goes_by_three_names_and_may_be_missing(tmp_path: Path, word: str) -> None:
    write_pos_neg_gt(tmp_path, 2, splits=("train", "test", word))
    assert len(open_patches(tmp_path).val) == 4
    write_pos_neg_gt(tmp_path / "less", 2, splits=("train", "test"))
    assert open_patches(tmp_path / "less").val == ()


def test_a_split_under_two_names_is_refused(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 1, splits=("train", "val", "valid"))
    with pytest.raises(InputError, match="val and valid for one split"):
        open_patches(tmp_path)


def test_the_truth_of_a_negative_needs_no_file_and_is_counted(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 2)
    dataset = open_patches(tmp_path)
    negatives = [record for record in dataset.test if record.label == (1, 0)]
    assert all(record.mask is None and record.has_truth for record in negatives)
    assert dataset.read_mask(negatives[0]).shape == (40, 40)
    assert not dataset.read_mask(negatives[0]).any()
    assert dataset.summary()["splits"]["test"]["masks"] == 4


def test_training_images_come_without_their_truth(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path / "one", 2)
    write_digestpath(tmp_path / "two")
    for folder in ("one", "two"):
        dataset = open_patches(tmp_path / folder)
        assert not any(record.has_truth for record in dataset.train)
        patches = WeakPatches(dataset.train, WeakSettings(patch_px=32))
        assert patches[0][0].shape == (3, 32, 32)


def test_training_masks_may_be_missing_misnamed_or_broken(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 3)
    masks = sorted((tmp_path / "train" / "gt").iterdir())
    masks[0].unlink()
    masks[1].rename(masks[1].with_name("other.jpg"))
    masks[2].write_bytes(b"no image")
    assert len(open_patches(tmp_path).train) == 6


def test_every_missing_mask_of_a_positive_is_listed(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 3)
    (tmp_path / "test" / "gt" / "test_pos_0.jpg").unlink()
    (tmp_path / "test" / "gt" / "test_pos_2.jpg").unlink()
    with pytest.raises(MissingFileError, match=r"2 positive images(.|\n)*test_pos_0.jpg\n  test_pos_2.jpg"):
        open_patches(tmp_path)


def test_a_missing_mask_never_shifts_the_others(tmp_path: Path) -> None:
    """Lists of images and masks that are sorted and paired by position would give each image its neighbour's mask."""
    written = write_pos_neg_gt(tmp_path, 4)
    (tmp_path / "val" / "gt" / "val_pos_0.jpg").unlink()
    (tmp_path / "val" / "pos" / "val_pos_0.jpg").unlink()
    first = tmp_path / "val" / "gt" / "val_pos_1.jpg"
    first.rename(first.with_name("val_pos_1_mask.jpg"))
    check_truths(open_patches(tmp_path), written)


def test_an_image_whose_name_ends_like_a_mask_keeps_its_own(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 1)
    truth, images = tmp_path / "test" / "gt", tmp_path / "test" / "pos"
    (images / "test_pos_0.jpg").rename(images / "a.jpg")
    (truth / "test_pos_0.jpg").rename(truth / "a.jpg")
    white = Image.new("L", (40, 40), 255)
    white.save(images / "a_mask.jpg")
    white.save(truth / "a_mask.jpg")
    dataset = open_patches(tmp_path)
    covered = {record.image.name: dataset.read_mask(record).mean() for record in dataset.test if record.mask}
    assert covered["a_mask.jpg"] == 1 > covered["a.jpg"] > 0


def test_a_mask_without_its_image_is_refused(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 2)
    (tmp_path / "test" / "pos" / "test_pos_1.jpg").unlink()
    with pytest.raises(MissingFileError, match=r"no positive image(.|\n)*test_pos_1.jpg"):
        open_patches(tmp_path)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 2)
    Image.new("L", (20, 20), 255).save(tmp_path / "test" / "gt" / "test_pos_1.jpg")
    with pytest.raises(InputError, match=r"test_pos_1.jpg: not 40 x 40 px"):
        open_patches(tmp_path)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_masks_in_black_and_white_may_have_any_kind_of_pixels(tmp_path: Path, mode: str) -> None:
    written = write_pos_neg_gt(tmp_path, 2, suffix=".png")
    for path in (tmp_path / "test" / "gt").iterdir():
        with Image.open(path) as image:
            converted = image.convert(mode)
        converted.save(path)
    check_truths(open_patches(tmp_path), written)


def test_greys_count_as_tumour_above_127_in_the_mean_of_channels(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 1, suffix=".png")
    colors = [(127, 127, 127), (128, 128, 128), (127, 127, 128), (255, 0, 0), (255, 126, 0), (255, 127, 0)]
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[0, :6] = colors
    Image.fromarray(pixels).save(tmp_path / "test" / "gt" / "test_pos_0.png")
    dataset = open_patches(tmp_path)
    record = next(record for record in dataset.test if record.mask)
    assert dataset.read_mask(record)[0, :7].tolist() == [0, 1, 1, 0, 0, 1, 0]


def test_masks_of_indices_or_with_transparency_are_refused_where_white_is_expected(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 1, suffix=".png")
    path = tmp_path / "test" / "gt" / "test_pos_0.png"
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(path)
    dataset = open_patches(tmp_path)
    record = next(record for record in dataset.test if record.mask)
    with pytest.raises(InputError, match="no pixel brighter than 1"):
        dataset.read_mask(record)
    Image.new("RGBA", (40, 40), (255, 255, 255, 0)).save(path)
    with pytest.raises(InputError, match="transparent"):
        dataset.read_mask(record)


@pytest.mark.parametrize("brightest", [0, 1, 100])
def test_a_positive_whose_jpeg_mask_is_not_in_black_and_white_is_no_negative(tmp_path: Path, brightest: int) -> None:
    write_pos_neg_gt(tmp_path, 1)
    mask = np.zeros((40, 40), np.uint8)
    mask[8:24, 8:24] = brightest
    Image.fromarray(mask).save(tmp_path / "test" / "gt" / "test_pos_0.jpg")
    dataset = open_patches(tmp_path)
    record = next(record for record in dataset.test if record.mask)
    says = "no pixel brighter" if brightest == 100 else "labelled tumour, and no pixel of its mask"
    with pytest.raises(InputError, match=rf"test_pos_0.jpg.*{says}|{says}.*test_pos_0.jpg"):
        dataset.read_mask(record)
    Image.new("L", (40, 40), 20).save(tmp_path / "black.jpg")
    assert not read_binary_mask(tmp_path / "black.jpg", "white").any()


def test_two_masks_of_one_image_are_refused(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 1)
    Image.new("L", (40, 40), 255).save(tmp_path / "test" / "gt" / "test_pos_0.png")
    with pytest.raises(InputError, match=r"suffix alone(.|\n)*test_pos_0"):
        open_patches(tmp_path)
    (tmp_path / "test" / "gt" / "test_pos_0.png").rename(tmp_path / "train" / "gt" / "train_pos_0.png")
    assert open_patches(tmp_path).train  # nobody looks at the masks of training images


def test_a_table_beside_the_folders_says_whose_tissue_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = write_pos_neg_gt(tmp_path, 1)
    rows = [f"{name},{'B' if name.startswith('test') else 'A'}" for name in written.labels]
    rows[0] = rows[0].replace("train_pos_0", "train\\pos\\train_pos_0")
    (tmp_path / "patients.csv").write_text("\n".join(["image,patient", *rows]))
    with caplog.at_level(logging.WARNING, "counterstain"):
        dataset = open_patches(tmp_path)
    assert {record.patient for record in dataset.train} == {"A"}
    assert dataset.shared_patients == {"A": ("train", "val")}
    assert "1 patients of" in caplog.text


def test_every_gap_in_the_table_of_patients_is_listed(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 1, splits=("train",))
    write_pos_neg_gt(tmp_path / "more", 1, splits=("train",))
    (tmp_path / "train" / "neg" / "train_pos_0.jpg").write_bytes(
        (tmp_path / "train" / "pos" / "train_pos_0.jpg").read_bytes()
    )
    table = tmp_path / "patients.csv"
    table.write_text("image,patient\ntrain_pos_0.jpg,A\nnowhere.jpg,A\ntrain_neg_0.jpg,\ntrain/neg/train_neg_0.jpg,B\n")
    with pytest.raises(InputError, match="must name each image once") as caught:
        open_patches(tmp_path)
    for problem in (
        "line 2: 2 images 'train_pos_0.jpg'; give the path",
        "line 3: no image 'nowhere.jpg'",
        "line 4: no patient for",
        "train/pos/train_pos_0.jpg: no row",
        "train/neg/train_pos_0.jpg: no row",
    ):
        assert problem in str(caught.value)
    table.write_text("picture,patient\na.jpg,A\n")
    with pytest.raises(UnknownNameError, match=r"patients.csv in the place of 'image'"):
        open_patches(tmp_path)


def test_one_image_of_two_patients_is_refused(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 1, splits=("train",))
    rows = ("train_pos_0.jpg,A", "train_neg_0.jpg,A", "train/pos/train_pos_0.jpg,B")
    (tmp_path / "patients.csv").write_text("\n".join(["image,patient", *rows]))
    with pytest.raises(InputError, match=r"line 4: another patient for 'train/pos/train_pos_0.jpg'"):
        open_patches(tmp_path)


def test_a_folder_without_the_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of a split"):
        open_patches(tmp_path, "pos_neg_gt")
    with pytest.raises(InputError, match="Give their folder"):
        open_patches(tmp_path, "digestpath")
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="no images in pos or neg"):
        open_patches(tmp_path, "pos_neg_gt")


def test_training_images_without_tumour_teach_nothing(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 1)
    (tmp_path / "train" / "pos" / "train_pos_0.jpg").unlink()
    with pytest.raises(LabelError, match="nothing can be learned"):
        open_patches(tmp_path)


def test_images_that_differ_in_their_suffix_alone_are_refused(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 1)
    Image.new("RGB", (40, 40)).save(tmp_path / "train" / "neg" / "train_neg_0.png")
    with pytest.raises(InputError, match="differ in their suffix alone"):
        open_patches(tmp_path)


@pytest.mark.parametrize(
    ("stem", "slide"),
    [
        (NAME, "2019_04115_1-1"),
        (NAME.replace(" ", "_"), "2019_04115_1-1"),
        ("D2018_12_0_2018-12-31 00_00_59-lv0-0-0-10-10", "D2018_12_0"),
        (NAME + "_mask", None),
        ("2019_04115_1-1-lv1-40690-7875-4758-4116", None),
        ("_2019-02-20 20_13_37-lv1-40690-7875-4758-4116", None),
    ],
)
def test_the_slide_stands_before_the_time_of_its_scan(stem: str, slide: str | None) -> None:
    assert digestpath_slide(stem) == slide


def test_digestpath_is_split_by_slide_with_all_its_images(tmp_path: Path) -> None:
    written = write_digestpath(tmp_path, num_slides=10)
    dataset = open_patches(tmp_path)
    assert labels_of(dataset) == written.labels
    assert [len(records) for records in dataset.splits.values()] == [18, 6, 6]
    assert dataset.shared_patients == {}
    for records in dataset.splits.values():
        assert all(record.patient == written.patients[record.image.name] for record in records)
    check_truths(dataset, written)
    other = open_patches(tmp_path, fractions=(0.5, 0.0, 0.5), seed=1)
    assert [len(records) for records in other.splits.values()] == [15, 0, 15]
    assert dataset == open_patches(tmp_path)
    assert any("seed 1" in note for note in other.notes)
    assert any("patients are slides" in note for note in other.notes)


def test_masks_saved_as_jpeg_hold_greys_and_are_read_by_a_threshold(tmp_path: Path) -> None:
    """Guards the tests above: were the fake masks pure black and white, asking for 255 would pass them."""
    write_digestpath(tmp_path)
    values = np.concatenate([np.asarray(Image.open(p)).ravel() for p in tmp_path.rglob("*_mask.jpg")])
    assert ((values > 127) & (values < 255)).any()
    assert ((values > 0) & (values <= 127)).any()


def test_a_split_that_shares_a_slide_is_refused() -> None:
    """Published lists of DigestPath2019's images put images of one slide into training and test."""
    later = NAME.replace("40690", "1200").replace("20_13_37", "21_00_00")
    other = NAME.replace("04115", "04116")
    records = [PatchRecord(Path(f"{stem}.jpg"), (0, 1), str(digestpath_slide(stem))) for stem in (NAME, other, later)]
    refuse_shared_patients({"train": records[:1], "test": records[1:2]})
    with pytest.raises(SplitError, match="2019_04115_1-1: train, test"):
        refuse_shared_patients({"train": records[:1], "test": records[1:]})


def test_names_that_end_in_a_letter_of_mask_are_images_too(tmp_path: Path) -> None:
    """The pattern '*[!_mask].jpg' passes over them: it means one character, none of these."""
    write_digestpath(tmp_path, num_slides=5)
    negatives = tmp_path / "tissue-train-neg"
    names = ["norma.jpg", "lamps.jpg", "bark.jpg", "rim.jpg", "end_.jpg"]
    rows = [f"{path.name},{digestpath_slide(path.stem)}" for path in negatives.iterdir()]
    positives = [path for path in (tmp_path / "tissue-train-pos-v1").iterdir() if not path.stem.endswith("_mask")]
    rows += [f"{path.name},{digestpath_slide(path.stem)}" for path in positives]
    for name in names:
        Image.new("RGB", (48, 48)).save(negatives / name)
        rows.append(f"{name},P{name}")
    with pytest.raises(InputError, match="5 names are not as published") as caught:
        open_patches(tmp_path)
    assert all(name in str(caught.value) for name in names)
    (tmp_path / "patients.csv").write_text("\n".join(["image,patient", *rows]))
    assert set(names) < set(labels_of(open_patches(tmp_path)))


def test_missing_and_left_over_masks_of_digestpath_are_listed(tmp_path: Path) -> None:
    write_digestpath(tmp_path, num_slides=5)
    positives = tmp_path / "tissue-train-pos-v1"
    of_training = {record.image.stem for record in open_patches(tmp_path).train}
    masks = sorted(positives.glob("*_mask.jpg"))
    for mask in masks:
        if mask.stem.removesuffix("_mask") in of_training:
            mask.unlink()
    open_patches(tmp_path)
    left = [mask for mask in masks if mask.exists()]
    for mask in left:
        mask.rename(tmp_path / mask.name)
    with pytest.raises(MissingFileError, match=f"{len(left)} positive images to be scored have no mask"):
        open_patches(tmp_path)
    (tmp_path / left[0].name).rename(positives / "strange_mask.jpg")
    with pytest.raises(MissingFileError, match=r"strange_mask.jpg"):
        open_patches(tmp_path)


def test_a_mask_among_digestpaths_negatives_is_refused(tmp_path: Path) -> None:
    write_digestpath(tmp_path, num_slides=5)
    image = min((tmp_path / "tissue-train-neg").iterdir())
    image.with_name(f"{image.stem}_mask.jpg").write_bytes(image.read_bytes())
    with pytest.raises(InputError, match="negatives have none of"):
        open_patches(tmp_path)


def test_an_image_of_digestpaths_largest_size_is_no_attack(tmp_path: Path) -> None:
    """Pillow refuses more than 179 million pixels; the largest published image has 438 million."""
    path = tmp_path / "large.jpg"
    Image.new("L", (16, 16)).save(path)
    data = path.read_bytes()
    start = data.index(b"\xff\xc0") + 5  # height and width in the frame's header
    path.write_bytes(data[:start] + (19314).to_bytes(2) + (22701).to_bytes(2) + data[start + 4 :])
    before = Image.MAX_IMAGE_PIXELS
    assert image_size(path).width == 22701
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_digest_knows_which_images_are_said_to_be_empty(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 1)
    dataset = open_patches(tmp_path)
    assert dataset.digest() == open_patches(tmp_path).digest()
    unknown = replace(dataset, test=tuple(replace(record, is_empty=False) for record in dataset.test))
    assert dataset.digest() != unknown.digest()


def test_an_empty_record_needs_a_background_to_be_empty_of(tmp_path: Path) -> None:
    write_pos_neg_gt(tmp_path, 1)
    dataset = open_patches(tmp_path)
    nameless = replace(dataset, classes=replace(dataset.classes, background=None))
    with pytest.raises(InputError, match="no class is its background"):
        nameless.read_mask(next(record for record in dataset.test if record.is_empty))
