"""The exam of a dataset layout: a small fake copy in the real folders, and what must come back from it.

    class TestLuadHistoSeg(PatchLayoutContract):
        layout = LAYOUTS["luad_histoseg"]
        train_stem, truth_stem = "{patient}-{number}-27920", "{patient}-{number}-46781"
        patients = ("1031280", "385277", "416392")

`write_layout` writes every folder name that published archives use, and every way they write a label; `write_pos_neg_gt`
and `write_digestpath` write the layouts whose labels are folders. Images are a few pixels of noise: nothing here is tissue.
Files are written with Pillow alone, so that the readers are not examined by themselves.

Does not know: pytest; any runner that calls methods named `test_...` with a temporary folder will do.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from counterstain.data import Label, PatchDataset, WeakPatches, open_patches
from counterstain.errors import CounterstainError, InputError, LabelError, MissingFileError
from counterstain.layouts import PatchLayout

Mask = npt.NDArray[np.uint8]

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Folders:
    """Which of a layout's published folder names a fake copy uses.

    Args:
        train: The training split's folder.
        val: Likewise.
        test: Likewise.
        train_images: The folder of images inside the training split; "" for none.
        truth_images: Likewise in the others.
    """

    train: str = "train"
    val: str = "val"
    test: str = "test"
    train_images: str = ""
    truth_images: str = "img"

    def of(self, split: str) -> str:
        """The folder of a split."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]


@dataclass(frozen=True)
class FakeNames:
    """File names as the real archive writes them.

    Args:
        train_stem: `str.format` pattern of a training file's stem without its label, of `patient` and `number`.
        truth_stem: Likewise of a val or test file's stem; it may leave `patient` out.
        patients: At least one for each split, in the order train, val, test.
        label_format: Of `published_label_formats`; None is the layout's own.
    """

    train_stem: str
    truth_stem: str
    patients: tuple[str, ...]
    label_format: str | None = None


@dataclass(frozen=True)
class FakeContent:
    """How much a fake copy holds.

    Args:
        num_train: Training patches; None is two for each class.
        num_truth: Patches with a mask in each of val and test.
        width_px: Of every image.
        height_px: Likewise.
        seed: Of the noise and the masks.
    """

    num_train: int | None = None
    num_truth: int = 2
    width_px: int = 14
    height_px: int = 10
    seed: int = 0


@dataclass(frozen=True)
class FakeDataset:
    """What a fake copy holds, by split and file name.

    Args:
        labels: Of training patches.
        masks: The truth as it must be read, exclusions included.
        patients: None where the name carries none.
    """

    labels: dict[str, Label] = field(default_factory=dict)
    masks: dict[str, dict[str, Mask]] = field(default_factory=dict)
    patients: dict[str, str | None] = field(default_factory=dict)


def published_folders(layout: PatchLayout) -> Iterator[Folders]:
    """Every folder name a layout is published under: names of training and validation in all pairs, images flat or not."""
    places = (("", "img"), ("img", "img"), ("", ""))  # of images in the training split, and in the others
    for (index, train), val, (train_images, truth_images) in product(
        enumerate(layout.train_folders), layout.val_folders, places
    ):
        test = layout.test_folders[min(index, len(layout.test_folders) - 1)]
        if {train_images, truth_images} <= set(layout.image_folders):
            yield Folders(train, val, test, train_images, truth_images)


def published_label_formats(layout: PatchLayout) -> Iterator[str]:
    """Every way published archives write a label at the end of a name: "[1 0 0 1]", "[1001]" and "[1, 0, 0, 1]"."""
    before_brackets = layout.label_format.partition("[")[0]
    digits = [f"{{{index}}}" for index in range(len(layout.classes))]
    for separator in (" ", "", ", "):
        yield f"{before_brackets}[{separator.join(digits)}]"


def write_layout(
    folder: Path,
    layout: PatchLayout,
    names: FakeNames,
    folders: Folders | None = None,
    content: FakeContent | None = None,
) -> FakeDataset:
    """Writes a fake copy of a published dataset: training patches of labels with one or two classes, and truths.

    Returns:
        What must come back.
    """
    folders, content = folders or Folders(), content or FakeContent()
    rng = np.random.default_rng(content.seed)
    labels = _write_train(folder / folders.train / folders.train_images, layout, names, content, rng)
    written = FakeDataset(labels, {"val": {}, "test": {}}, dict.fromkeys(labels, names.patients[0]))
    for split, patient in (("val", names.patients[1]), ("test", names.patients[2])):
        for number in range(content.num_truth):
            name = names.truth_stem.format(patient=patient, number=number) + ".png"
            parent = folder / folders.of(split)
            written.masks[split][name] = _write_truth(parent, folders.truth_images, name, layout, content, rng)
            written.patients[name] = patient if "{patient}" in names.truth_stem else None
    return written


def write_pos_neg_gt(
    folder: Path,
    num_each: int = 3,
    px: int = 40,
    seed: int = 0,
    splits: tuple[str, ...] = _SPLITS,
    suffix: str = ".jpg",
) -> FakeDataset:
    """Writes a fake copy of a dataset in {train,val,test}/{pos,neg,gt}: tumour is a darker square in noise.

    Args:
        folder: Where to.
        num_each: Positive images of each split, and as many negative ones.
        px: Width and height of images.
        seed: Of noise and squares.
        splits: The folders of splits.
        suffix: Of the masks; images are JPEG.

    Returns:
        What must come back; no patients are known.
    """
    rng = np.random.default_rng(seed)
    written = FakeDataset(masks={split: {} for split in splits})
    for split, number in product(splits, range(num_each)):
        for kind, label in (("pos", (0, 1)), ("neg", (1, 0))):
            name = f"{split}_{kind}_{number}.jpg"
            mask = _write_tumour(folder / split / kind / name, px, label == (0, 1), rng)
            if kind == "pos":
                _write_white(folder / split / "gt" / f"{split}_{kind}_{number}{suffix}", mask)
            written.labels[name], written.patients[name] = label, None
            written.masks[split][name] = mask
    return written


def write_digestpath(folder: Path, num_slides: int = 8, px: int = 48, seed: int = 0) -> FakeDataset:
    """Writes a fake copy of DigestPath2019's colonoscopy task: of each slide one positive and two negative images.

    Returns:
        What must come back, `masks` under "all", since there are no splits; patients are slides.
    """
    rng = np.random.default_rng(seed)
    written = FakeDataset(masks={"all": {}})
    for slide, number in product(range(num_slides), range(3)):
        patient = f"2019_{4115 + slide:05d}_1-{slide % 3 + 1}"
        stem = f"{patient}_2019-02-20 20_13_{slide:02d}-lv1-{1000 * number}-{7875 + slide}-{px}-{px}"
        label = (0, 1) if number == 0 else (1, 0)
        parent = folder / ("tissue-train-pos-v1" if number == 0 else "tissue-train-neg")
        mask = _write_tumour(parent / f"{stem}.jpg", px, number == 0, rng)
        if number == 0:
            _write_white(parent / f"{stem}_mask.jpg", mask)
        written.labels[f"{stem}.jpg"], written.patients[f"{stem}.jpg"] = label, patient
        written.masks["all"][f"{stem}.jpg"] = mask
    return written


def _write_tumour(path: Path, px: int, is_positive: bool, rng: np.random.Generator) -> Mask:
    """Writes an image; its mask of 0 and 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask: Mask = np.zeros((px, px), np.uint8)
    pixels = rng.integers(170, 256, (px, px, 3), np.uint8)
    if is_positive:
        # Edges between the blocks of 8 pixels that JPEG codes would come back without a grey.
        y, x = 1 + 2 * rng.integers(1, px // 4, 2)
        mask[y : y + px // 3, x : x + px // 3] = 1
        pixels[mask == 1] -= 120
    Image.fromarray(pixels).save(path, quality=90)
    return mask


def _write_white(path: Path, mask: Mask) -> None:
    """Writes a mask in black and white, as JPEG where the name says so: then with greys along its edges."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(255 * mask).save(path)


def _write_train(
    parent: Path, layout: PatchLayout, names: FakeNames, content: FakeContent, rng: np.random.Generator
) -> dict[str, Label]:
    """Writes the training patches; their labels by file name."""
    parent.mkdir(parents=True)
    num_classes = len(layout.classes)
    label_format = names.label_format or layout.label_format
    labels: dict[str, Label] = {}
    for number in range(2 * num_classes if content.num_train is None else content.num_train):
        label = tuple(int(index in (number % num_classes, number // num_classes)) for index in range(num_classes))
        stem = names.train_stem.format(patient=names.patients[0], number=100 + number)
        name = f"{stem}{label_format.format(*label)}.png"
        _noise(content, rng).save(parent / name)
        labels[name] = label
    return labels


def _write_truth(
    parent: Path, image_folder: str, name: str, layout: PatchLayout, content: FakeContent, rng: np.random.Generator
) -> Mask:
    """Writes an image, its indexed mask and, where the layout has it, the file of what is left out."""
    places = [parent / image_folder, parent / "mask"]
    if layout.background_folder is not None:
        places.append(parent / layout.background_folder)
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    values = np.array([*range(len(layout.classes)), layout.mask_ignore], np.uint8)
    mask: Mask = rng.choice(values, (content.height_px, content.width_px))
    image = Image.fromarray(mask).convert("L")
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(layout.classes)] = layout.classes.colors
    palette[layout.mask_ignore] = layout.mask_ignore_color
    image.putpalette(palette.reshape(-1).tolist())
    _noise(content, rng).save(places[0] / name)
    image.save(places[1] / name)
    if layout.background_folder is None:
        return mask
    excluded = rng.random(mask.shape) < 0.2
    Image.fromarray((255 * excluded).astype(np.uint8)).save(places[2] / name)
    return np.where(excluded, np.uint8(layout.mask_ignore), mask)


def _noise(content: FakeContent, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (content.height_px, content.width_px, 3), np.uint8))


def _refusal(kind: type[CounterstainError], call: Callable[[], object]) -> CounterstainError:
    """The error that a call must raise."""
    refusal = None
    try:
        call()
    except kind as error:
        refusal = error
    assert refusal is not None, f"no {kind.__name__} was raised"
    return refusal


class PatchLayoutContract:
    """What holds for every published layout, in every folder name it goes by."""

    layout: ClassVar[PatchLayout]
    """The layout, one of LAYOUTS."""

    train_stem: ClassVar[str]
    """As in `FakeNames`."""

    truth_stem: ClassVar[str]
    """As in `FakeNames`."""

    patients: ClassVar[tuple[str, ...]]
    """As in `FakeNames`."""

    def write(self, folder: Path, folders: Folders | None = None, label_format: str | None = None) -> FakeDataset:
        """A fake copy of it."""
        names = FakeNames(self.train_stem, self.truth_stem, self.patients, label_format)
        return write_layout(folder, self.layout, names, folders)

    def test_labels_patients_and_masks_come_back(self, tmp_path: Path) -> None:
        for number, folders in enumerate(published_folders(self.layout)):
            written = self.write(tmp_path / str(number), folders)
            dataset = open_patches(tmp_path / str(number), self.layout.name)
            assert {record.image.name: record.label for record in dataset.train} == written.labels, folders
            for split in ("val", "test"):
                records = dataset.split(split)
                assert {record.image.name for record in records} == set(written.masks[split]), folders
                for record in records:
                    assert np.array_equal(dataset.read_mask(record), written.masks[split][record.image.name]), folders
            self._check_patients(dataset, written)

    def test_labels_are_read_in_every_form_they_are_written_in(self, tmp_path: Path) -> None:
        for number, label_format in enumerate(published_label_formats(self.layout)):
            written = self.write(tmp_path / str(number), label_format=label_format)
            dataset = open_patches(tmp_path / str(number), self.layout.name)
            assert {record.image.name: record.label for record in dataset.train} == written.labels, label_format

    def test_what_all_patches_share_comes_from_the_layout(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        dataset = open_patches(tmp_path, self.layout.name)
        assert dataset.name == self.layout.name
        assert dataset.classes == self.layout.classes
        assert dataset.ignore_index == self.layout.mask_ignore
        assert dataset.mpp == self.layout.mpp
        assert dataset.white_is_background == self.layout.white_is_background

    def test_it_is_recognised(self, tmp_path: Path) -> None:
        for number, folders in enumerate(published_folders(self.layout)):
            self.write(tmp_path / str(number), folders)
            assert open_patches(tmp_path / str(number)).name == self.layout.name, folders

    def test_every_name_without_a_label_is_listed(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        train = tmp_path / "train"
        digits = len(self.layout.classes)
        bad = ["no-label.png", "a-[].png", f"b-[{'1' * (digits + 1)}].png", f"c-[{'2' * digits}].png"]
        for name in bad:
            next(path for path in train.iterdir() if path.is_file()).rename(train / name)
        refusal = _refusal(LabelError, lambda: open_patches(tmp_path, self.layout.name))
        assert isinstance(refusal, LabelError)
        assert {Path(name).stem for name in bad} == set(refusal.offenders)

    def test_every_missing_mask_is_listed(self, tmp_path: Path) -> None:
        written = self.write(tmp_path)
        for name in written.masks["val"]:
            (tmp_path / "val" / "mask" / name).unlink()
        refusal = _refusal(MissingFileError, lambda: open_patches(tmp_path, self.layout.name))
        assert all(name in str(refusal) for name in written.masks["val"])

    def test_a_mask_without_its_image_is_refused(self, tmp_path: Path) -> None:
        written = self.write(tmp_path)
        gone = next(iter(written.masks["test"]))
        (tmp_path / "test" / "img" / gone).unlink()
        assert gone in str(_refusal(MissingFileError, lambda: open_patches(tmp_path, self.layout.name)))

    def test_masks_in_colours_are_read_like_masks_in_indices(self, tmp_path: Path) -> None:
        written = self.write(tmp_path)
        for split in ("val", "test"):
            for name in written.masks[split]:
                path = tmp_path / split / "mask" / name
                with Image.open(path) as indexed:
                    colored = indexed.convert("RGB")
                colored.save(path)
        dataset = open_patches(tmp_path, self.layout.name)
        for record in dataset.test:
            assert np.array_equal(dataset.read_mask(record), written.masks["test"][record.image.name])

    def test_a_mask_value_that_is_no_class_is_refused(self, tmp_path: Path) -> None:
        written = self.write(tmp_path)
        name = next(iter(written.masks["test"]))
        Image.fromarray(np.full((FakeContent.height_px, FakeContent.width_px), 77, np.uint8)).save(
            tmp_path / "test" / "mask" / name
        )
        dataset = open_patches(tmp_path, self.layout.name)
        spoilt = next(record for record in dataset.test if record.image.name == name)
        assert "[77]" in str(_refusal(InputError, lambda: dataset.read_mask(spoilt)))

    def test_training_does_without_masks(self, tmp_path: Path) -> None:
        written = self.write(tmp_path)
        dataset = open_patches(tmp_path, self.layout.name)
        for path in tmp_path.rglob("mask/*"):
            path.write_bytes(b"not a mask")
        patches = WeakPatches(dataset.train)
        assert len(patches) == len(written.labels)
        for (image_CHW, label_C), record in zip((patches[i] for i in range(len(patches))), dataset.train, strict=True):
            assert image_CHW.shape == (3, FakeContent.height_px, FakeContent.width_px)
            assert tuple(label_C.int().tolist()) == record.label

    def _check_patients(self, dataset: PatchDataset, written: FakeDataset) -> None:
        unknown = 0
        for split in _SPLITS:
            for record in dataset.splits[split]:
                expected = written.patients[record.image.name]
                unknown += expected is None
                assert record.patient == (expected or f"{split}/{record.image.stem}")
        assert bool(unknown) == any("carry no patient" in note for note in dataset.notes)
