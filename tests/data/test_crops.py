import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterstain.data import CropSettings, PatchRecord, draw_weak_patches, open_masked_images, open_patches, read_image
from counterstain.data.crops import find_crops, read_class_mask
from counterstain.errors import ExistingOutputError, InputError, MissingFileError, UnknownNameError
from counterstain.results import Classes

CLASSES = Classes(("gland", "other"), ((205, 51, 51), (65, 105, 225)))
SETTINGS = CropSettings(patch_px=8, draws_per_image=60, mask_values=(1, 0), seed=5)


@pytest.fixture
def images(tmp_path: Path) -> tuple[PatchRecord, ...]:
    """Two images of each of ten patients; the left part of each mask is gland, and of each image red."""
    folder = tmp_path / "source"
    (folder / "masks").mkdir(parents=True)
    lines = ["image,mask,label,patient"]
    for number in range(20):
        is_gland = np.zeros((24, 32), bool)
        is_gland[:, : 12 + number % 5] = True
        pixels = np.zeros((24, 32, 3), np.uint8)
        pixels[is_gland, 0] = 200
        pixels[..., 1] = number
        Image.fromarray(pixels).save(folder / f"i{number}.png")
        Image.fromarray(is_gland).save(folder / "masks" / f"i{number}.png")
        lines.append(f"i{number}.png,masks/i{number}.png,x,P{number // 2}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return open_masked_images(folder / "labels.csv")


def test_labels_say_which_class_covers_a_tenth(images: tuple[PatchRecord, ...], tmp_path: Path) -> None:
    dataset = draw_weak_patches(images, CLASSES, tmp_path / "out", SETTINGS)
    for record in dataset.train:
        red = (read_image(record.image)[..., 0] == 200).mean()
        assert record.label == (int(red >= 0.1), int(1 - red >= 0.1))


def test_every_label_has_as_many_crops(images: tuple[PatchRecord, ...], tmp_path: Path) -> None:
    dataset = draw_weak_patches(images, CLASSES, tmp_path / "out", SETTINGS)
    counts = Counter(record.label for record in dataset.train)
    assert set(counts) == {(1, 0), (0, 1), (1, 1)}
    assert len(set(counts.values())) == 1
    fewer = draw_weak_patches(
        images, CLASSES, tmp_path / "fewer", CropSettings(8, 0.1, 60, 4, seed=5, mask_values=(1, 0))
    )
    assert Counter(record.label for record in fewer.train) == {(1, 0): 4, (0, 1): 4, (1, 1): 4}


def test_patients_are_split_as_written_down(images: tuple[PatchRecord, ...], tmp_path: Path) -> None:
    dataset = draw_weak_patches(images, CLASSES, tmp_path / "out", SETTINGS)
    patients = sorted({record.patient for record in images})
    np.random.default_rng(5).shuffle(patients)
    assert {record.patient for record in dataset.train} == set(patients[:6])
    assert {record.patient for record in dataset.val} == set(patients[6:8])
    assert {record.patient for record in dataset.test} == set(patients[8:])


def test_whole_images_are_kept_with_their_masks(images: tuple[PatchRecord, ...], tmp_path: Path) -> None:
    dataset = draw_weak_patches(images, CLASSES, tmp_path / "out", SETTINGS)
    assert len(dataset.val) == len(dataset.test) == 4
    for record in (*dataset.val, *dataset.test):
        is_gland = read_image(record.image)[..., 0] == 200
        assert np.array_equal(dataset.read_mask(record), np.where(is_gland, 0, 1))
        assert record.label == (1, 1)


def test_no_mask_of_a_training_patient_is_written(images: tuple[PatchRecord, ...], tmp_path: Path) -> None:
    dataset = draw_weak_patches(images, CLASSES, tmp_path / "out", SETTINGS)
    assert all(record.mask is None for record in dataset.train)
    assert not list((tmp_path / "out" / "train").rglob("*mask*"))


def test_the_dataset_says_that_its_labels_are_simulated(images: tuple[PatchRecord, ...], tmp_path: Path) -> None:
    dataset = draw_weak_patches(images, CLASSES, tmp_path / "out", SETTINGS)
    assert any("simulated from masks" in note for note in dataset.notes)
    assert dataset == open_patches(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "simulated.json").read_text())["settings"]["patch_px"] == 8
    assert dataset.classes == CLASSES


def test_the_same_seed_draws_the_same_crops(images: tuple[PatchRecord, ...], tmp_path: Path) -> None:
    first, second = (draw_weak_patches(images, CLASSES, tmp_path / name / "set", SETTINGS) for name in "ab")
    assert first.digest() == second.digest()
    other = CropSettings(patch_px=8, draws_per_image=60, mask_values=(1, 0), seed=6)
    assert draw_weak_patches(images, CLASSES, tmp_path / "c" / "set", other).digest() != first.digest()


def test_covers_agree_with_counting_pixels(images: tuple[PatchRecord, ...]) -> None:
    mask = read_class_mask(images[0], 2, SETTINGS)
    crops = find_crops(images[:1], 2, SETTINGS)
    assert len({(crop.x, crop.y) for crop in crops}) == len(crops) > 20
    for crop in crops:
        part = mask[crop.y : crop.y + 8, crop.x : crop.x + 8]
        assert part.shape == (8, 8)
        assert crop.label == tuple(int((part == index).mean() >= 0.1) for index in range(2))


def test_places_without_any_class_are_left_out(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save(tmp_path / "m.png")
    record = PatchRecord(tmp_path / "i.png", None, "P", tmp_path / "m.png")
    assert find_crops([record], 2, CropSettings(patch_px=8)) == []


def test_more_crops_than_there_are_is_refused_with_the_counts(images: tuple[PatchRecord, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"9000 crops of each label(.|\n)*\[0, 1\]: \d+"):
        draw_weak_patches(
            images, CLASSES, tmp_path / "out", CropSettings(8, patches_per_label=9000, mask_values=(1, 0))
        )
    with pytest.raises(InputError, match="No crop was drawn"):
        draw_weak_patches(images, CLASSES, tmp_path / "out", CropSettings(8, min_cover=1.1, mask_values=(1, 0)))


def test_a_finished_dataset_is_not_overwritten_and_an_interrupted_one_is(
    images: tuple[PatchRecord, ...], tmp_path: Path
) -> None:
    draw_weak_patches(images, CLASSES, tmp_path / "out", SETTINGS)
    with pytest.raises(ExistingOutputError):
        draw_weak_patches(images, CLASSES, tmp_path / "out", SETTINGS)
    (tmp_path / "out" / "labels.csv").unlink()
    assert draw_weak_patches(images, CLASSES, tmp_path / "out", SETTINGS).train


def test_images_that_will_not_do_are_refused(images: tuple[PatchRecord, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="32 x 24 px, less than a crop of 64"):
        draw_weak_patches(images, CLASSES, tmp_path / "out", CropSettings(mask_values=(1, 0)))
    with pytest.raises(InputError, match="has no mask to simulate labels from"):
        read_class_mask(PatchRecord(Path("i.png"), None, "P"), 2, SETTINGS)
    with pytest.raises(InputError, match="1 mask values for 2 classes"):
        read_class_mask(images[0], 2, CropSettings(mask_values=(1,)))
    with pytest.raises(InputError, match=r"holds \[0, 1\]; \[255, 7\] were expected"):
        read_class_mask(images[0], 2, CropSettings(mask_values=(255, 7)))


def test_a_table_of_masked_images_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image,mask\na.png,b.png\n")
    with pytest.raises(UnknownNameError, match="'patient'"):
        open_masked_images(path)
    path.write_text("image,mask,patient\na.png,b.png,P1\n")
    with pytest.raises(MissingFileError, match=r"2 files(.|\n)*a.png\n.*b.png"):
        open_masked_images(path)


def test_random_places_on_real_images_mostly_hold_both(real_data: Path) -> None:
    """Of all images 76 % of the places hold both, 23 % gland alone, 1 % other tissue alone: hence equal thirds."""
    folder = real_data / "ebhi_seg"
    records = open_masked_images(folder / "labels_dev.csv", root=folder / "dev")
    assert (len(records), len({record.patient for record in records})) == (1335, 183)
    crops = find_crops(records[::15], 2, CropSettings(mask_values=(1, 0)))
    share = {label: count / len(crops) for label, count in Counter(crop.label for crop in crops).items()}
    assert share[(1, 1)] > 0.6
    assert 0.1 < share[(1, 0)] < 0.35
    assert 0 < share[(0, 1)] < 0.05
