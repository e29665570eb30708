from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterstain.data import PatchDataset, PatchRecord, open_masked_images, read_image, read_mask
from counterstain.data.tumour_windows import WindowSettings, choose_windows, cut_tumour_windows
from counterstain.errors import ExistingOutputError, InputError
from counterstain.results import Classes

CLASSES = Classes(("other", "gland"), ((255, 165, 0), (205, 51, 51)), background="other")
SETTINGS = WindowSettings(window_px=8, enlarged=2, num_train=18, num_val=4, num_test=4, seed=5)


@pytest.fixture
def images(tmp_path: Path) -> tuple[PatchRecord, ...]:
    """Two images of each of ten patients: the lower left part of each mask is gland, and of each image red. The first
    image of each patient is grey glass on its right; everything else is grainy."""
    folder = tmp_path / "source"
    (folder / "masks").mkdir(parents=True)
    rng = np.random.default_rng(1)
    lines = ["image,mask,patient"]
    for number in range(20):
        rows, columns = np.indices((24, 40))
        is_gland = columns < 4 + number % 5 + rows / 2
        pixels = rng.integers(0, 150, (24, 40, 3)).astype(np.uint8)
        if number % 2 == 0:
            pixels[:, 22:] = 180
        pixels[..., 0] = np.where(is_gland, 255, pixels[..., 0])
        Image.fromarray(pixels).save(folder / f"i{number}.png")
        Image.fromarray(is_gland).save(folder / "masks" / f"i{number}.png")
        lines.append(f"i{number}.png,masks/i{number}.png,P{number // 2}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return open_masked_images(folder / "labels.csv")


@pytest.fixture
def dataset(images: tuple[PatchRecord, ...], tmp_path: Path) -> PatchDataset:
    return cut_tumour_windows(images, CLASSES, tmp_path / "out", SETTINGS)


def test_windows_are_as_many_and_as_large_as_asked(dataset: PatchDataset) -> None:
    assert dataset.classes == CLASSES
    for split, count in ((dataset.train, {(1, 0): 12, (0, 1): 6}), (dataset.val, {(1, 0): 2, (0, 1): 2})):
        assert Counter(record.label for record in split) == count
        assert {read_image(record.image).shape for record in split} == {(16, 16, 3)}


def test_a_window_shows_what_its_label_says(dataset: PatchDataset) -> None:
    for record in dataset.train:
        has_gland = (read_image(record.image)[..., 0] > 230).any()
        assert record.label == ((0, 1) if has_gland else (1, 0))


def test_a_mask_is_the_windows_own_and_never_between(dataset: PatchDataset, tmp_path: Path) -> None:
    for record in (*dataset.val, *dataset.test):
        assert record.mask is not None
        mask = read_mask(record.mask)
        assert mask.shape == (16, 16)
        part = (mask == 1).mean()
        assert (part == 0) if record.label == (1, 0) else (0.05 <= part <= 0.95)
        is_red = read_image(record.image)[..., 0] > 200
        assert (is_red == (mask == 1)).mean() > 0.9
    assert all(record.mask is None for record in dataset.train)
    assert len(list((tmp_path / "out").rglob("mask/*.png"))) == 8
    assert not (tmp_path / "out" / "train" / "mask").exists()


def test_positive_windows_are_of_the_patients_of_the_negative_ones(images: tuple[PatchRecord, ...]) -> None:
    windows = choose_windows(images, 12, 12, SETTINGS)
    patients = [
        Counter(w.record.patient for w in windows if (w.part > 0) == is_positive) for is_positive in (False, True)
    ]
    assert patients[0] == patients[1]


def test_parts_of_positive_windows_are_evenly_spread(images: tuple[PatchRecord, ...]) -> None:
    windows = [window for window in choose_windows(images, 10, 10, SETTINGS) if window.part > 0]
    assert np.sort([window.part for window in windows]) == pytest.approx(np.linspace(0.05, 0.95, 10), abs=0.13)


def test_windows_of_one_image_are_half_a_window_apart_or_more(images: tuple[PatchRecord, ...]) -> None:
    windows = choose_windows(images, 40, 20, SETTINGS)
    for is_positive in (False, True):
        own = [window for window in windows if (window.part > 0) == is_positive]
        for number, window in enumerate(own):
            for other in own[:number]:
                far = max(abs(window.x - other.x), abs(window.y - other.y)) >= 4
                assert far or window.record is not other.record


def test_few_negative_windows_are_blank(images: tuple[PatchRecord, ...]) -> None:
    windows = choose_windows(images, 40, 4, SETTINGS)
    blank = [window for window in windows if window.part == 0 and window.is_blank]
    assert len(blank) <= 2
    for window in blank:
        assert (window.x + 8 - 22) / 8 > 0.5, "glass begins in column 22"
    with pytest.raises(InputError, match="were asked for"):
        choose_windows(images[::2], 60, 4, WindowSettings(window_px=8, max_blank=0.0))


def test_a_window_with_a_pixel_of_unknown_truth_is_neither(images: tuple[PatchRecord, ...]) -> None:
    for record in images:
        assert record.mask is not None
        mask = np.asarray(Image.open(record.mask)).astype(np.uint8)
        mask[:, 30] = 255
        Image.fromarray(mask).save(record.mask)
    windows = choose_windows(images, 20, 4, SETTINGS)
    assert {window.part > 0 for window in windows} == {True, False}
    for window in windows:
        assert window.record.mask is not None
        truth = read_mask(window.record.mask)[window.y : window.y + 8, window.x : window.x + 8]
        assert set(np.unique(truth)) <= ({0, 1} if window.part > 0 else {0})


def test_what_can_be_no_set_is_refused(images: tuple[PatchRecord, ...], dataset: PatchDataset, tmp_path: Path) -> None:
    assert dataset.train
    with pytest.raises(ExistingOutputError):
        cut_tumour_windows(images, CLASSES, tmp_path / "out", SETTINGS)
    with pytest.raises(InputError, match="the first of them the background"):
        cut_tumour_windows(images, Classes(("a", "b"), ((0, 0, 0), (1, 1, 1))), tmp_path / "other", SETTINGS)
    with pytest.raises(InputError, match="less than a window"):
        choose_windows(images, 1, 1, WindowSettings(window_px=30))
    for wrong in ({"num_val": 1}, {"min_fraction": 0.0}, {"neg_pos_ratio": 0.0}, {"enlarged": 0}):
        with pytest.raises(InputError):
            WindowSettings(**wrong)  # type: ignore[arg-type]
