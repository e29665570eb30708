"""From encoded slides to batches: crops and turns for training, padding to one size.

What is random in an item follows from (seed, epoch, slide) alone, so that a resumed training sees what the uninterrupted
one would have seen, however many processes read.

B slides, C channels, H W rows and columns of cells.
Does not know: networks, files beyond what `read_encoded` reads.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from counterstain.data.encoded import THUMBNAIL_SCALE, EncodedSlide, SlideSet
from counterstain.errors import InputError
from counterstain.methods.slide_config import SlideConfig
from counterstain.models.slide_network import SlideBatch
from counterstain.training import SeededShuffle

ScalarT = TypeVar("ScalarT", bound=np.generic)

_STRETCH = 4  # batches that are sorted by size together
_KEPT_BYTES = 4 << 30  # encoded slides held in memory; the rest is read again


class GridSlide:
    """V, T and what was observed of one slide, as dense arrays.

    Args:
        features_HWC: float16 or float32, as they were encoded; 0 where nothing was observed.
        observed_HW: bool.
        thumbnail_HWC: (2H, 2W, 3) uint8; None where no slide was at hand.
    """

    __slots__ = ("features_HWC", "observed_HW", "thumbnail_HWC")

    def __init__(
        self,
        features_HWC: npt.NDArray[np.floating],
        observed_HW: npt.NDArray[np.bool_],
        thumbnail_HWC: npt.NDArray[np.uint8] | None,
    ) -> None:
        self.features_HWC, self.observed_HW, self.thumbnail_HWC = features_HWC, observed_HW, thumbnail_HWC

    @classmethod
    def of(cls, slide: EncodedSlide) -> "GridSlide":
        """The arrays of an encoded slide.

        Raises:
            InputError: When an embedding is not finite.
        """
        if not np.isfinite(slide.features_NC).all():
            raise InputError(
                f"Of {len(slide.features_NC)} embeddings of a slide some are not finite. Encode it again, in float32 if "
                "they are too large for float16."
            )
        return cls(slide.dense_features(), slide.observed, slide.thumbnail_HWC)

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        thumbnail = 0 if self.thumbnail_HWC is None else self.thumbnail_HWC.nbytes
        return self.features_HWC.nbytes + self.observed_HW.nbytes + thumbnail


def augmented(slide: GridSlide, config: SlideConfig, random: np.random.Generator) -> GridSlide:
    """A random crop, turn and mirror image, and cells hidden; V and T move together.

    At most `crop_cells` rows and columns are discarded, dealt out at random between the two ends, never more than half of
    the slide and never all that was observed. The embeddings themselves are those of the unturned cells.

    Source: DSNet (arXiv 2109.05788), section IV-D b; the crop is drawn in cells of V, so that T, cut at twice the places,
        stays aligned.
    """
    features, observed, thumbnail = slide.features_HWC, slide.observed_HW, slide.thumbnail_HWC
    rows, columns = (_kept(extent, config.crop_cells, random) for extent in observed.shape)
    if observed[rows, columns].any():
        features, observed = features[rows, columns], observed[rows, columns]
        thumbnail = None if thumbnail is None else thumbnail[_doubled(rows), _doubled(columns)]
    if config.hide_cells:
        share = random.uniform(0, config.hide_cells)
        shown = observed & (random.random(observed.shape) >= share)
        if shown.any():
            features, observed = np.where(shown[..., None], features, features.dtype.type(0)), shown
    if config.turn:
        quarters, is_mirrored = int(random.integers(4)), bool(random.integers(2))
        features, observed = _turned(features, quarters, is_mirrored), _turned(observed, quarters, is_mirrored)
        thumbnail = None if thumbnail is None else _turned(thumbnail, quarters, is_mirrored)
    return GridSlide(features, observed, thumbnail)


def _kept(extent: int, most: int, random: np.random.Generator) -> slice:
    discarded = int(random.integers(min(most, extent // 2) + 1))
    first = int(random.integers(discarded + 1))
    return slice(first, extent - (discarded - first))


def _doubled(cells: slice) -> slice:
    return slice(THUMBNAIL_SCALE * cells.start, THUMBNAIL_SCALE * cells.stop)


def _turned(array: npt.NDArray[ScalarT], quarters: int, is_mirrored: bool) -> npt.NDArray[ScalarT]:
    turned = np.rot90(array, quarters, axes=(0, 1))
    return turned[:, ::-1] if is_mirrored else turned


def collate(slides: Sequence[GridSlide]) -> SlideBatch:
    """Slides padded at the right and at the bottom to the largest of them.

    Raises:
        InputError: When only some of them have a thumbnail.
    """
    height = max(slide.observed_HW.shape[0] for slide in slides)
    width = max(slide.observed_HW.shape[1] for slide in slides)
    channels = slides[0].features_HWC.shape[2]
    has_thumbnail = [slide.thumbnail_HWC is not None for slide in slides]
    if any(has_thumbnail) != all(has_thumbnail):
        raise InputError(
            f"{sum(has_thumbnail)} of {len(slides)} slides have a thumbnail. Give the slide files of the others, or use a "
            "method that looks at embeddings alone."
        )
    features = torch.zeros(len(slides), channels, height, width)
    observed, extent = (torch.zeros(len(slides), 1, height, width) for _ in range(2))
    fine = THUMBNAIL_SCALE
    thumbnails = torch.zeros(len(slides), 3, fine * height, fine * width) if all(has_thumbnail) else None
    for number, slide in enumerate(slides):
        rows, columns = slide.observed_HW.shape
        features[number, :, :rows, :columns] = _tensor(slide.features_HWC).permute(2, 0, 1)
        observed[number, 0, :rows, :columns] = _tensor(slide.observed_HW)
        extent[number, 0, :rows, :columns] = 1
        if thumbnails is not None and slide.thumbnail_HWC is not None:
            ink = 1 - _tensor(slide.thumbnail_HWC).float() / 255
            thumbnails[number, :, : fine * rows, : fine * columns] = ink.permute(2, 0, 1)
    return SlideBatch(features, observed, extent, thumbnails)


def _tensor(array: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


class SlideItems(Dataset[tuple[GridSlide, int]]):
    """The slides of a set with their labels, read when they are asked for and kept while there is room.

    Args:
        slides: The set.
        config: How training items are augmented; None leaves them as they are.
        seed: Of the augmentation.
    """

    def __init__(self, slides: SlideSet, config: SlideConfig | None = None, seed: int = 0) -> None:
        self._set, self._config, self._seed = slides, config, seed
        self._kept: dict[int, GridSlide] = {}
        self._room = _KEPT_BYTES

    def __len__(self) -> int:
        return len(self._set.slides)

    def __getitem__(self, number: int) -> tuple[GridSlide, int]:
        """The item of epoch `number // len` and slide `number % len`."""
        epoch, index = divmod(number, len(self))
        slide, label = self.read(index), self._set.slides[index].label
        assert label is not None, "slides without a label were left out"
        if self._config is not None:
            slide = augmented(slide, self._config, np.random.default_rng((self._seed, epoch, index)))
        return slide, label

    def areas(self) -> list[int]:
        """Cells of each slide's grid."""
        from counterstain.data.cell_files import grid_size

        return [grid_size(slide.folder).area for slide in self._set.slides]

    def read(self, index: int) -> GridSlide:
        """The arrays of one slide, not augmented."""
        from counterstain.data.encoded_files import read_encoded

        if index in self._kept:
            return self._kept[index]
        slide = GridSlide.of(read_encoded(self._set.slides[index].folder, self._set.encoder.name))
        if slide.num_bytes <= self._room:
            self._kept[index] = slide
            self._room -= slide.num_bytes
        return slide


def collate_labelled(items: Sequence[tuple[GridSlide, int]]) -> tuple[SlideBatch, Tensor]:
    """A batch and its labels (B,) int64."""
    return collate([slide for slide, _ in items]), torch.tensor([label for _, label in items])


class EpochShuffle(Sampler[int]):
    """The seeded order of each epoch, slides of about the same size together; every index carries its epoch.

    Slides of a batch are padded to the largest, so a batch of small and large ones is mostly padding. The shuffled order is
    cut into stretches of a few batches, each sorted by area, and the batches of a stretch come in a random order again: who
    meets whom differs from epoch to epoch.

    Args:
        areas: Cells of each slide's grid, padding of the slide's own included.
        batch_size: Slides that come together.
        seed: Of the run.

    Yields:
        `epoch * num_slides + index`.
    """

    def __init__(self, areas: Sequence[int], batch_size: int, seed: int) -> None:
        self._areas, self._batch_size, self._seed = areas, batch_size, seed
        self._order = SeededShuffle(areas, seed)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next. Lightning calls this, also after a resume."""
        self._epoch = epoch
        self._order.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        order, length = list(self._order), _STRETCH * self._batch_size
        random = np.random.default_rng((self._seed, self._epoch))
        for start in range(0, len(order), length):
            stretch = order[start : start + length]
            whole = len(stretch) // self._batch_size
            # What fills no batch is dropped by the loader: it is taken off before sorting, lest it be always the largest.
            full, left = stretch[: whole * self._batch_size], stretch[whole * self._batch_size :]
            full.sort(key=lambda index: self._areas[index])
            batches = [full[n * self._batch_size : (n + 1) * self._batch_size] for n in random.permutation(whole)]
            batches.append(left)
            yield from (self._epoch * len(order) + index for batch in batches for index in batch)

    def __len__(self) -> int:
        return len(self._order)
