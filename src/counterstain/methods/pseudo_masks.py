"""Pseudo masks: a trained classifier's activation maps become labels for the pixels of its own training patches.

For each patch and each tap: its maps at the patch's size, classes that the patch's label lacks taken out, the strongest of
the others; white glass becomes 255, which no loss looks at. The masks are written as indexed PNGs, a batch after the other,
and a killed execution goes on with the first batch that is not whole:

    folder/source.json          a hash of all that the masks follow from
    folder/minutes.json         what they took, over all executions
    folder/tap3/NAME.png        of the deepest tap: class indices, 255 for what is not scored

Published masks come from maps stretched to [0, 1] over all classes together, which moves no argmax: it is left out.

Does not know: true masks, second stages.

B batch, K classes, L layers (one for each tap), h w a map's rows and columns, H W the patch's.
"""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from counterstain import log
from counterstain.data.images import Mask, write_mask
from counterstain.files import read_json, settings_hash, write_json
from counterstain.methods.cams import upsample
from counterstain.methods.optimise import enlarged
from counterstain.models.weights import digest
from counterstain.results import RGB, UNCOVERED

if TYPE_CHECKING:
    from counterstain.data.weak import WeakPatches
    from counterstain.models.classifier import CamClassifier

_AT_ONCE = 16  # fixed, so that a resumed execution sees the same batches and rounds the same way
_WHITE_GRAY = 200
_WHITE_MIN_PX = 50


@dataclass(frozen=True)
class PseudoMaskSettings:
    """What pseudo masks are made from.

    Args:
        taps: Of the backbone, 0 to 3, shallow to deep; each gives a layer of masks.
        leaves_white_out: Whether white glass is left unscored.
        scale: Patches are enlarged by this before the classifier.
    """

    taps: tuple[int, ...]
    leaves_white_out: bool
    scale: float = 1.0


def is_white(image_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Where glass shows: gray above 200, in pieces of 50 pixels or more, joined along their sides.

    Args:
        image_HWC: uint8 RGB.

    Returns:
        (H, W) bool.

    Source: arXiv 2110.08048, released code.
    """
    gray = np.asarray(Image.fromarray(image_HWC).convert("L"))
    pieces, num = ndimage.label(gray > _WHITE_GRAY)
    is_kept = np.bincount(pieces.ravel(), minlength=num + 1) >= _WHITE_MIN_PX
    is_kept[0] = False
    kept: npt.NDArray[np.bool_] = is_kept[pieces]
    return kept


def strongest_labelled(cams_BKhw: Tensor, labels_BK: Tensor, size: tuple[int, int]) -> Tensor:
    """The class with the strongest map among those that the image's label names.

    Args:
        cams_BKhw: Activation maps, of any sign and scale.
        labels_BK: 1 where the class is in the image.
        size: (H, W) of the answer.

    Returns:
        (B, H, W) uint8: class indices; `UNCOVERED` in images whose label names none.

    Source: arXiv 2110.08048. Its released code sets absent classes to 0, so that they can win where present ones are 0 too;
    here they can't.
    """
    present_BK = labels_BK.bool()
    scores_BKHW = upsample(cams_BKhw, size).masked_fill(~present_BK[:, :, None, None], -torch.inf)
    best_BHW = scores_BKHW.argmax(dim=1).to(torch.uint8)
    return best_BHW.masked_fill(~present_BK.any(dim=1)[:, None, None], UNCOVERED)


class PseudoMasks:
    """A folder of pseudo masks, written or to be.

    Args:
        folder: Where they lie.
        images: The patches' files, in the order of the patches.
        taps: As `PseudoMaskSettings` has them.
    """

    def __init__(self, folder: Path, images: Sequence[Path], taps: Sequence[int]) -> None:
        self.folder = folder
        stems = [path.stem for path in images]
        is_unique = len({stem.casefold() for stem in stems}) == len(stems)  # some systems ignore case
        self._names = stems if is_unique else [f"{index}_{stem}" for index, stem in enumerate(stems)]
        self._layers = [f"tap{tap}" for tap in taps]

    def __len__(self) -> int:
        return len(self._names)

    def paths(self, index: int) -> tuple[Path, ...]:
        """A patch's masks, one for each tap."""
        return tuple(self.folder / layer / f"{self._names[index]}.png" for layer in self._layers)

    @property
    def minutes(self) -> float:
        """Spent on writing them, over all executions."""
        path = self.folder / "minutes.json"
        return float(read_json(path)["minutes"]) if path.exists() else 0.0

    def pending(self) -> list[int]:
        """The patches of all batches that are not whole."""
        starts = range(0, len(self), _AT_ONCE)
        batches = [range(start, min(start + _AT_ONCE, len(self))) for start in starts]
        return [
            index
            for batch in batches
            if not all(path.exists() for index in batch for path in self.paths(index))
            for index in batch
        ]

    def write(self, index: int, masks_LHW: Mask, colors: Sequence[RGB]) -> None:
        """Writes a patch's masks; a reader never meets half of one."""
        for path, mask in zip(self.paths(index), masks_LHW, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            # not synced to disk, as a dataset's images are not: that would take longer than making them
            temporary = path.with_name(f".{os.getpid()}-{path.name}")
            write_mask(temporary, mask, colors)
            temporary.replace(path)

    def add_minutes(self, minutes: float) -> None:
        """Counts time that was spent."""
        write_json(self.folder / "minutes.json", {"minutes": self.minutes + minutes})


def begin_from(folder: Path, source: str) -> None:
    """Makes a folder ready for what follows from a source; what followed from another one is removed.

    Args:
        folder: All of it is ours.
        source: A hash.

    Raises:
        OSError: When what is there can't be removed: with the new source beside it, it would pass for the new one's.
    """
    note = folder / "source.json"
    if not note.exists() or read_json(note)["source"] != source:
        if folder.exists():
            shutil.rmtree(folder)
        write_json(note, {"source": source})


def source_of(classifier: "CamClassifier", data_digest: str, tile_px: int, settings: PseudoMaskSettings) -> str:
    """A hash of all that pseudo masks follow from."""
    return settings_hash(digest(classifier.state_dict()), data_digest, tile_px, settings)


def write_pseudo_masks(
    masks: PseudoMasks,
    classifier: "CamClassifier",
    patches: "WeakPatches",
    settings: PseudoMaskSettings,
    colors: Sequence[RGB],
    num_workers: int = 0,
) -> None:
    """Writes the masks that are not there yet.

    Args:
        masks: Its folder after `begin_from`.
        classifier: Trained; it is judged where it lies, CPU or GPU.
        patches: What it was trained on, with labels.
        settings: See there.
        colors: Of the classes, for people who open a mask.
        num_workers: Processes that read patches; 0 reads in this one.
    """
    pending = masks.pending()
    device = next(classifier.parameters()).device
    classifier.eval()
    loader: DataLoader[Any] = DataLoader(Subset(patches, pending), batch_size=_AT_ONCE, num_workers=num_workers)
    clock = time.monotonic()
    with log.progress("Pseudo masks", len(masks), "patches", done=len(masks) - len(pending)) as counter:
        for number, (images_BCHW, labels_BK) in enumerate(loader):
            indices = pending[number * _AT_ONCE : (number + 1) * _AT_ONCE]
            masks_BLHW = pseudo_masks(classifier, images_BCHW.to(device), labels_BK.to(device), settings)
            for index, masks_LHW in zip(indices, masks_BLHW.cpu().numpy(), strict=True):
                masks.write(index, masks_LHW, colors)
            masks.add_minutes((time.monotonic() - clock) / 60)
            clock = time.monotonic()
            counter.advance(len(indices))


def pseudo_masks(
    classifier: "CamClassifier", images_BCHW: Tensor, labels_BK: Tensor, settings: PseudoMaskSettings
) -> Tensor:
    """The pseudo masks of patches, one for each tap.

    Args:
        classifier: In evaluation mode.
        images_BCHW: uint8 RGB.
        labels_BK: 1 where the class is in the patch.
        settings: See there.

    Returns:
        (B, L, H, W) uint8: class indices, `UNCOVERED` where not scored.

    Source: arXiv 2110.08048: Grad-CAM (arXiv 1610.02391) without its ReLU. At the deepest tap, whose mean a linear head
    sees, that is the plain class activation map but for a factor.
    """
    height, width = images_BCHW.shape[2:]
    layers = classifier.grad_cams(enlarged(images_BCHW.float() / 255, settings.scale), settings.taps)
    masks_BLHW = torch.stack([strongest_labelled(cams, labels_BK, (height, width)) for cams in layers], dim=1)
    if settings.leaves_white_out:
        white_BHW = np.stack([is_white(image) for image in images_BCHW.movedim(1, -1).cpu().numpy()])
        masks_BLHW = masks_BLHW.masked_fill(torch.from_numpy(white_BHW).to(masks_BLHW.device)[:, None], UNCOVERED)
    return masks_BLHW
