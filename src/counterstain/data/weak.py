"""The images and weak labels that a method learns from.

A patch's mask is left behind when the data set is made: what is not held can't leak into training. Pixels that were decoded
once are kept on disk (`decoded`), without labels.

Does not know: masks, patients, augmentation, batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from counterstain.data.decoded import DecodedPatches, open_decoded
from counterstain.data.images import Pixels, read_image
from counterstain.data.labels import Label
from counterstain.data.records import PatchRecord
from counterstain.errors import InputError, LabelError
from counterstain.geometry import Size


@dataclass(frozen=True)
class WeakSettings:
    """How weak patches are read.

    Args:
        patch_px: Width and height that images are resized to; None leaves them as they are, and then all must be of one
            size. A resized image has another resolution.
        keep: Whether decoded images stay in memory, for sets that fit: 150 kB each at 224 px.
        cache: "auto" keeps decoded images on disk, for other processes and later runs, where `patch_px` is given and they
            fit; "off" decodes them each time. Either gives the same items.
    """

    patch_px: int | None = None
    keep: bool = False
    cache: Literal["auto", "off"] = "auto"


class WeakPatches(Dataset[tuple[Tensor, Tensor]]):
    """Patches with weak labels: item i is (image_CHW uint8 RGB, label_C float32 of 0 and 1).

    Args:
        records: Patches with labels.
        settings: How they are read.

    Raises:
        InputError: When there are none.
        LabelError: Listing every record without a label.
    """

    def __init__(self, records: Sequence[PatchRecord], settings: WeakSettings | None = None) -> None:
        if not records:
            raise InputError("No patches were given to learn from. Check that the dataset has a train split.")
        unlabelled = [str(record.image) for record in records if record.label is None]
        if unlabelled:
            raise LabelError("Weak supervision needs a label for each patch. Without one:", unlabelled)
        self._items: list[tuple[Path, Label]] = [(r.image, r.label) for r in records if r.label is not None]
        self._settings = settings or WeakSettings()
        self._kept: dict[int, Tensor] = {}
        self._size: Size | None = None
        self._decoded: DecodedPatches | None = None
        if self._settings.cache == "auto" and self._settings.patch_px is not None:
            self._decoded = open_decoded([path for path, _ in self._items], self._settings.patch_px)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path, label = self._items[index]
        label_C = torch.tensor(label, dtype=torch.float32)
        if index in self._kept:
            return self._kept[index], label_C
        image_CHW = torch.from_numpy(self._cached(index, path))
        if self._settings.keep:
            self._kept[index] = image_CHW
        return image_CHW, label_C

    @property
    def labels(self) -> Tensor:
        """(N, C) float32: every label, in order; no image is read."""
        return torch.tensor([label for _, label in self._items], dtype=torch.float32)

    def _cached(self, index: int, path: Path) -> Pixels:
        if self._decoded is None:
            return self._read(path)
        pixels_CHW = self._decoded.get(index)
        if pixels_CHW is None:
            pixels_CHW = self._read(path)
            self._decoded.put(index, pixels_CHW)
        return pixels_CHW

    def _read(self, path: Path) -> Pixels:
        pixels_HWC = read_image(path)
        side, size = self._settings.patch_px, Size.of(pixels_HWC)
        if side is None:
            self._refuse_another_size(path, size)
        elif size != Size(side, side):
            pixels_HWC = np.array(Image.fromarray(pixels_HWC).resize((side, side), Image.Resampling.BILINEAR))
        return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))

    def _refuse_another_size(self, path: Path, size: Size) -> None:
        """Refuses an image of another size than the first that was read: no batch could hold both."""
        self._size = self._size or size
        if size != self._size:
            first = f"{self._size.width} x {self._size.height}"
            raise InputError(
                f"Patch '{path}' has {size.width} x {size.height} px, others {first}. Give patch_px, the size that all are "
                "resized to."
            )
