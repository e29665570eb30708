"""The order in which training images come: a function of seed and epoch alone.

Nothing about the order is kept in a generator that a kill would lose, so that a resumed run sees what the uninterrupted
one would have seen.

Does not know: what an item is, networks, Lightning.
"""

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from counterstain.errors import InputError


class SeededShuffle(Sampler[int]):
    """A random order for each epoch, drawn from (seed, epoch).

    Args:
        data: What is sampled; only its length matters.
        seed: Of the run.
    """

    def __init__(self, data: Sized, seed: int) -> None:
        self._length = len(data)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next. Lightning calls this, also after a resume."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        yield from torch.randperm(self._length, generator=generator).tolist()

    def __len__(self) -> int:
        return self._length


def train_loader(data: Dataset[Any], *, batch_size: int, seed: int, num_workers: int = 0) -> DataLoader[Any]:
    """A loader of full batches in a seeded order; what is left over in an epoch comes in another epoch's order.

    Args:
        data: A map-style data set.
        batch_size: Images a step, on one device.
        seed: Of the run.
        num_workers: Processes that read; 0 reads in this one.

    Raises:
        InputError: When there are fewer items than one batch holds.
    """
    length = len(data)  # type: ignore[arg-type]
    if length < batch_size:
        raise InputError(f"{length} training images were given for batches of {batch_size}. Lower --batch-size.")
    return DataLoader(
        data,
        batch_size=batch_size,
        sampler=SeededShuffle(data, seed),  # type: ignore[arg-type]
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
    )
