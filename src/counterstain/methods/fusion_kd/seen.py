"""What a network says of images that nothing was trained on: the held-out images, and its maps of them.

    held-out records -> HeldOut (images and labels, never masks) -> look(network) -> Seen (maps, consistency)

Maps are kept as means over squares of 4 px in half precision, since they are compared with one another and never scored:
256 px of a thousand images take 8 MB.

Does not know: masks, teachers and students, what is chosen by the maps.

B images of a batch, C channels, S outputs (sides, then the fused one), H W rows and columns, N images, h w squares.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from counterstain import log
from counterstain.data.records import PatchRecord
from counterstain.data.weak import WeakPatches, WeakSettings
from counterstain.errors import InputError
from counterstain.files import atomic, existing
from counterstain.methods.device import on_device

SQUARE_PX = 4
"""Width and height of the squares that maps are averaged over."""

_AT_ONCE = 16  # images in a batch
_SMALLER = 0.7  # of the view that is shown at another scale


@dataclass(frozen=True)
class HeldOut:
    """Images and image labels of the held-out split; no masks.

    Args:
        patches: The images.
        is_positive_N: (N,) bool, whether an image's label names the tumour.
        patients: Whose tissue each image shows.
    """

    patches: WeakPatches
    is_positive_N: npt.NDArray[np.bool_]
    patients: tuple[str, ...]

    @classmethod
    def of(cls, records: Sequence[PatchRecord], positive_index: int, tile_px: int) -> Self:
        """The images and labels of records; where their masks are is forgotten.

        Args:
            records: Held out from training, with labels.
            positive_index: The tumour's place in a label.
            tile_px: Width and height that images are resized to.

        Raises:
            InputError: When negatives are missing, or positives of two patients.
            LabelError: Listing every record without a label.
        """
        patches = WeakPatches(records, WeakSettings(patch_px=tile_px))
        is_positive_N = patches.labels[:, positive_index].numpy() > 0
        patients = tuple(record.patient for record in records)
        with_tumour = {patient for patient, is_one in zip(patients, is_positive_N, strict=True) if is_one}
        if is_positive_N.all() or len(with_tumour) < 2:
            raise InputError(
                f"{int((~is_positive_N).sum())} negative held-out images and {int(is_positive_N.sum())} positive ones of "
                f"{len(with_tumour)} patients were given; networks are compared on both kinds, positives of two patients "
                "or more. Put more patients into the val split."
            )
        return cls(patches, is_positive_N, patients)

    def __len__(self) -> int:
        return len(self.patches)


@dataclass(frozen=True)
class Seen:
    """What a network said of the held-out images.

    Args:
        maps_Nhw: (N, h, w) float16 in [0, 1], the fused probability averaged over squares of `SQUARE_PX`.
        consistency_N: (N,) float32 in [0, 1], 1 less the mean difference between a map and the maps of changed views
            changed back; NaN where no views were looked at.
    """

    maps_Nhw: npt.NDArray[np.float16]
    consistency_N: npt.NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Writes an .npz file atomically."""
        with atomic(path) as temporary:
            np.savez(temporary, maps_Nhw=self.maps_Nhw, consistency_N=self.consistency_N)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote.

        Raises:
            MissingFileError: When it is not there.
        """
        with np.load(existing(path, "kept maps of held-out images")) as arrays:
            return cls(arrays["maps_Nhw"], arrays["consistency_N"])


def look(network: nn.Module, held: HeldOut, with_views: bool) -> Seen:
    """A network's maps of the held-out images.

    Args:
        network: (B, 3, H, W) float32 RGB in [0, 1] to (B, S, H, W) probabilities, the fused ones last. Its mode and device
            are left as they were.
        held: The images.
        with_views: Whether mirrored, turned and smaller views are looked at too, for the consistency: four times the work.
    """
    maps, consistencies = [], []
    with judging(network) as device, log.progress("Looking at held-out images", len(held), "images") as counter:
        for images_BCHW in batches(held.patches):
            on_device_BCHW = images_BCHW.to(device)
            maps_Bhw = _squares(fused(network, on_device_BCHW))
            consistencies.append(_consistency(network, on_device_BCHW, maps_Bhw) if with_views else _unknown(maps_Bhw))
            maps.append(maps_Bhw.astype(np.float16))
            counter.advance(len(images_BCHW))
    return Seen(np.concatenate(maps), np.concatenate(consistencies))


@contextmanager
def judging(network: nn.Module) -> Iterator[torch.device]:
    """A network on its device, in evaluation mode and without gradients; afterwards it is as it was.

    Yields:
        The device, for what the network is given.
    """
    was_training = network.training
    try:
        with on_device(network) as device, torch.inference_mode():
            yield device
    finally:
        network.train(was_training)


def batches(patches: WeakPatches, indices: Sequence[int] | None = None) -> Iterator[Tensor]:
    """Images in order, 16 at a time: (B, 3, H, W) float32 RGB in [0, 1].

    Args:
        patches: The images.
        indices: Which of them; all where none are given.
    """
    chosen = range(len(patches)) if indices is None else indices
    for start in range(0, len(chosen), _AT_ONCE):
        yield torch.stack([patches[index][0] for index in chosen[start : start + _AT_ONCE]]).float() / 255


def fused(network: nn.Module, images_BCHW: Tensor) -> Tensor:
    """The fused probability alone, (B, H, W) float32."""
    outputs_BSHW: Tensor = network(images_BCHW)
    return outputs_BSHW[:, -1].float()


def _squares(maps_BHW: Tensor) -> npt.NDArray[np.float32]:
    squares_Bhw: npt.NDArray[np.float32] = F.avg_pool2d(maps_BHW, SQUARE_PX, ceil_mode=True).cpu().numpy()
    return squares_Bhw


def _smaller(images_BCHW: Tensor) -> Tensor:
    size = [max(1, round(side * _SMALLER)) for side in images_BCHW.shape[2:]]
    return F.interpolate(images_BCHW, size, mode="bilinear", antialias=True)


def _resized(maps_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps_BHW[:, None], size, mode="bilinear", align_corners=False)[:, 0]


_Change = Callable[[Tensor], Tensor]
_VIEWS: tuple[tuple[_Change, Callable[[Tensor, tuple[int, int]], Tensor]], ...] = (
    (lambda images: images.flip(-1), lambda maps, size: maps.flip(-1)),
    (lambda images: images.rot90(1, (-2, -1)), lambda maps, size: maps.rot90(-1, (-2, -1))),
    (_smaller, _resized),
)
"""Each view, and how its map is brought back. Fixed, so that two networks are asked the same."""


def _consistency(network: nn.Module, images_BCHW: Tensor, maps_Bhw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    size = (images_BCHW.shape[2], images_BCHW.shape[3])
    # differences of pixels, no overlap of areas: that would call small maps less consistent than large ones
    apart = [
        np.abs(maps_Bhw - _squares(back(fused(network, change(images_BCHW)), size))).mean((1, 2))
        for change, back in _VIEWS
    ]
    mean_B: npt.NDArray[np.float32] = (1 - np.mean(apart, axis=0)).astype(np.float32)
    return mean_B


def _unknown(maps_Bhw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.full(len(maps_Bhw), np.nan, np.float32)
