"""A teacher's maps of the training images of a round, kept on disk: made once, read every epoch, freed when it ends.

Only positives have maps: of negatives the truth is known. Maps are bytes, 0 to 255 for probabilities from 0 to 1, 255 for 1
alone; where a limit of disk asks for it, every second, fourth or eighth pixel's mean is kept.

    folder/maps.npy      (positives, S, h, w) uint8, of its full size from the beginning
    folder/done.json     how many are written

A killed execution goes on with the first batch that is not noted as done.

Shapes: S maps of an image (the fused one alone, or all four), h w their rows and columns.
Does not know: students, losses.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from counterstain import log
from counterstain.data.weak import WeakPatches
from counterstain.errors import InputError
from counterstain.files import read_json, write_json
from counterstain.infer.tta import VIEWS, apply_view, undo_view

Teach = Callable[[Tensor, Sequence[int]], Tensor]
"""(B, S, H, W) probabilities from images (B, 3, H, W) in [0, 1] and their numbers in the set."""

_STRIDES = (1, 2, 4, 8)
_AT_ONCE = 16  # fixed, so that a resumed execution sees the same batches and rounds the same way


@dataclass(frozen=True)
class TeacherMaps:
    """Where a round's maps lie.

    Args:
        folder: Theirs alone.
        rows: For each training image its row; -1 for those without a map.
        num_maps: S.
        image_px: Width and height of the images.
        stride: Pixels of an image for one of a map.
    """

    folder: Path
    rows: tuple[int, ...]
    num_maps: int
    image_px: int
    stride: int

    @classmethod
    def of(
        cls, folder: Path, is_positive: npt.NDArray[np.bool_], num_maps: int, image_px: int, most_mb: float
    ) -> "TeacherMaps":
        """Maps as fine as the limit of disk allows.

        Raises:
            InputError: When even the coarsest don't fit.
        """
        number = int(is_positive.sum())
        rows = np.where(is_positive, np.cumsum(is_positive) - 1, -1)
        for stride in _STRIDES:
            maps = cls(folder, tuple(rows.tolist()), num_maps, image_px, stride)
            if maps.megabytes <= most_mb:
                return maps
        raise InputError(
            f"The teacher's maps of {number} positive images would take {maps.megabytes:.0f} MB even at an eighth of their "
            f"width, and {most_mb:.0f} were allowed. Raise --cache-mb."
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(positives, S, h, w)."""
        side = -(-self.image_px // self.stride)
        return max(self.rows) + 1, self.num_maps, side, side

    @property
    def megabytes(self) -> float:
        """Of disk."""
        return float(np.prod(self.shape, dtype=np.float64)) / 1e6

    def write(self, patches: WeakPatches, teach: Teach) -> None:
        """Writes what is missing.

        Args:
            patches: The training images, in the order of `rows`.
            teach: The teacher; its last maps are kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        note, path = self.folder / "done.json", self.folder / "maps.npy"
        positives = [index for index, row in enumerate(self.rows) if row >= 0]
        done = read_json(note)["done"] if note.exists() and path.exists() else 0
        maps = np.lib.format.open_memmap(path, mode="r+" if done else "w+", dtype=np.uint8, shape=self.shape)
        with log.progress("Teacher's maps", len(positives), "images", done=done) as counter:
            for start in range(done, len(positives), _AT_ONCE):
                indices = positives[start : start + _AT_ONCE]
                images_BCHW = torch.stack([patches[index][0] for index in indices]).float() / 255
                taught_BSHW = teach(images_BCHW, indices)[:, -self.num_maps :]
                maps[start : start + len(indices)] = _bytes(taught_BSHW, self.stride)
                maps.flush()
                write_json(note, {"done": start + len(indices)})
                counter.advance(len(indices))

    def read(self, index: int) -> Tensor:
        """(S, h, w) uint8 of a training image; zeros, the truth, of a negative."""
        row = self.rows[index]
        if row < 0:
            return torch.zeros(self.shape[1:], dtype=torch.uint8)
        # opened anew each time: a few microseconds, and nothing that another process would have to inherit
        maps = np.load(self.folder / "maps.npy", mmap_mode="r")
        return torch.from_numpy(np.array(maps[row]))

    def free(self) -> None:
        """Takes them from the disk."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _bytes(maps_BSHW: Tensor, stride: int) -> npt.NDArray[np.uint8]:
    coarse = F.avg_pool2d(maps_BSHW.float(), stride, ceil_mode=True) if stride > 1 else maps_BSHW.float()
    # only what is sure stays so: a loss that cuts to integers tells 1 from 0.999
    rounded = torch.where(coarse < 1, (coarse * 255).round().clamp(0, 254), 255)
    found: npt.NDArray[np.uint8] = rounded.to(torch.uint8).cpu().numpy()
    return found


def enlarged(maps_BShw: Tensor, size: tuple[int, int]) -> Tensor:
    """Kept maps at the size of their images, bilinear; float.

    Args:
        maps_BShw: float.
        size: Height and width of the images, of which the last squares may hang over the edge.
    """
    if maps_BShw.shape[2:] == size:
        return maps_BShw
    stride = next(stride for stride in _STRIDES if -(-size[0] // stride) == maps_BShw.shape[2])
    whole = F.interpolate(maps_BShw, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return whole[:, :, : size[0], : size[1]]


def averaged(network: torch.nn.Module, images_BCHW: Tensor, tta: str) -> Tensor:
    """A MIL network's maps, averaged over views; (B, S, H, W)."""
    views = VIEWS[tta]
    found = [undo_view(network(apply_view(images_BCHW, view)), view) for view in views]
    return torch.stack(found).mean(0)


class TaughtPatches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Training images with labels and their teacher's maps: (image_CHW uint8, label_C float32, maps_Shw uint8).

    Args:
        patches: The images.
        maps: Of the same images, in the same order.
    """

    def __init__(self, patches: WeakPatches, maps: TeacherMaps) -> None:
        assert len(patches) == len(maps.rows)
        self._patches, self._maps = patches, maps

    def __len__(self) -> int:
        return len(self._maps.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        image_CHW, label_C = self._patches[index]
        return image_CHW, label_C, self._maps.read(index)
