"""The exam of a dataset layout: a small fake copy in the real folders, and what must come back from it.

    class TestLuadHistoSeg(PatchLayoutContract):
        layout = LAYOUTS["luad_histoseg"]
        train_stem, truth_stem = "{patient}-{number}-27920", "{patient}-{number}-46781"
        patients = ("1031280", "385277", "416392")

`write_layout` writes every folder name that published archives use. Images are a few pixels of noise: nothing here is
tissue. Files are written with Pillow alone, so that the readers are not examined by themselves.

Does not know: pytest; any runner that calls methods named `test_...` with a temporary folder will do.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from counterstain.data import Label, PatchDataset, WeakPatches, open_patches
from counterstain.errors import CounterstainError, InputError, LabelError, MissingFileError
from counterstain.layouts import PatchLayout

Mask = npt.NDArray[np.uint8]

_WIDTH, _HEIGHT = 14, 10
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
    """

    train_stem: str
    truth_stem: str
    patients: tuple[str, ...]


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
    """Every folder name a layout is published under, each at least once."""
    number = max(len(layout.train_folders), len(layout.val_folders), len(layout.test_folders))
    for place in range(number):
        train, val, test = (
            folders[min(place, len(folders) - 1)]
            for folders in (layout.train_folders, layout.val_folders, layout.test_folders)
        )
        for images in layout.image_folders:
            yield Folders(train, val, test, train_images=images, truth_images=images)


def write_layout(
    folder: Path, layout: PatchLayout, names: FakeNames, folders: Folders | None = None, seed: int = 0
) -> FakeDataset:
    """Writes a fake copy of a published dataset: training patches of labels with one or two classes, two truths a split.

    Returns:
        What must come back.
    """
    folders = folders or Folders()
    rng = np.random.default_rng(seed)
    written = FakeDataset(masks={"val": {}, "test": {}})
    number_of_classes = len(layout.classes)
    train = folder / folders.train / folders.train_images
    train.mkdir(parents=True)
    for number in range(2 * number_of_classes):
        chosen = number % number_of_classes
        label = tuple(int(index in (chosen, number // number_of_classes)) for index in range(number_of_classes))
        stem = names.train_stem.format(patient=names.patients[0], number=100 + number)
        name = stem + layout.label_suffix(label) + ".png"
        _noise(rng).save(train / name)
        written.labels[name] = label
        written.patients[name] = names.patients[0]
    for split, patient in (("val", names.patients[1]), ("test", names.patients[2])):
        for number in range(2):
            name = names.truth_stem.format(patient=patient, number=number) + ".png"
            written.masks[split][name] = _write_truth(
                folder / folders.of(split), folders.truth_images, name, layout, rng
            )
            written.patients[name] = patient if "{patient}" in names.truth_stem else None
    return written


def _write_truth(parent: Path, image_folder: str, name: str, layout: PatchLayout, rng: np.random.Generator) -> Mask:
    """Writes an image, its indexed mask and, where the layout has it, the file of what is left out."""
    places = [parent / image_folder, parent / "mask"]
    if layout.background_folder is not None:
        places.append(parent / layout.background_folder)
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    values = np.array([*range(len(layout.classes)), layout.mask_ignore], np.uint8)
    mask: Mask = rng.choice(values, (_HEIGHT, _WIDTH))
    image = Image.fromarray(mask).convert("L")
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(layout.classes)] = layout.classes.colors
    palette[layout.mask_ignore] = layout.mask_ignore_color
    image.putpalette(palette.reshape(-1).tolist())
    _noise(rng).save(places[0] / name)
    image.save(places[1] / name)
    if layout.background_folder is None:
        return mask
    excluded = rng.random(mask.shape) < 0.2
    Image.fromarray((255 * excluded).astype(np.uint8)).save(places[2] / name)
    return np.where(excluded, np.uint8(layout.mask_ignore), mask)


def _noise(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (_HEIGHT, _WIDTH, 3), np.uint8))


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

    def write(self, folder: Path, folders: Folders | None = None) -> FakeDataset:
        """A fake copy of it."""
        names = FakeNames(self.train_stem, self.truth_stem, self.patients)
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
        Image.fromarray(np.full((_HEIGHT, _WIDTH), 77, np.uint8)).save(tmp_path / "test" / "mask" / name)
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
            assert image_CHW.shape == (3, _HEIGHT, _WIDTH)
            assert tuple(label_C.int().tolist()) == record.label

    def _check_patients(self, dataset: PatchDataset, written: FakeDataset) -> None:
        unknown = 0
        for split in _SPLITS:
            for record in dataset.splits[split]:
                expected = written.patients[record.image.name]
                unknown += expected is None
                assert record.patient == (expected or f"{split}/{record.image.stem}")
        assert bool(unknown) == any("carry no patient" in note for note in dataset.notes)
