"""The order in which training images come: a function of seed and epoch alone.

Nothing about the order is kept in a generator that a kill would lose, so that a resumed run sees what the uninterrupted
one would have seen.

Does not know: what an item is, networks, Lightning.
"""

from collections.abc import Callable, Iterator, Sequence, Sized
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
        generator = _generator(self._seed, self._epoch)
        yield from torch.randperm(self._length, generator=generator).tolist()

    def __len__(self) -> int:
        return self._length


class RatioShuffle(Sampler[int]):
    """A random order for each epoch, drawn from (seed, epoch), with every positive once and `ratio` negatives to each.

    Batches without negatives have nothing that pushes a map down, so the two kinds are spread evenly: of any run of `b`
    indices, `b / (1 + ratio)` are positives, give or take two. Negatives are drawn anew for each epoch, none twice before
    all have come.

    Args:
        is_positive: Of each item.
        ratio: Negatives to a positive; an epoch has `round(ratio * positives)` of them.
        seed: Of the run.

    Raises:
        InputError: When there are no positives or no negatives, or the ratio gives none.

    Source: ours: the released code of fusion-KD takes the classes as they come, though their ratio decides what becomes of
        normal tissue in positive images.
    """

    def __init__(self, is_positive: Sequence[bool], ratio: float, seed: int) -> None:
        self._positives = torch.tensor([index for index, positive in enumerate(is_positive) if positive])
        self._negatives = torch.tensor([index for index, positive in enumerate(is_positive) if not positive])
        if not len(self._positives) or not len(self._negatives):
            raise InputError(
                f"{len(self._positives)} positive and {len(self._negatives)} negative training images were given; a ratio "
                "of the two needs some of each. Add images of the kind that is missing."
            )
        self._num_negatives = round(ratio * len(self._positives))
        if self._num_negatives < 1:
            raise InputError(
                f"{ratio} negatives to a positive were asked for; with {len(self._positives)} positives that gives no "
                "negative at all. Raise the ratio."
            )
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next. Lightning calls this, also after a resume."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = _generator(self._seed, self._epoch)
        rounds = -(-self._num_negatives // len(self._negatives))
        drawn = [_shuffled(self._negatives, generator) for _ in range(rounds)]
        kinds = (_shuffled(self._positives, generator), torch.cat(drawn)[: self._num_negatives])
        # One random offset for each kind, not for each index: equal steps keep every batch near the ratio.
        offsets = torch.rand(2, generator=generator, dtype=torch.float64)
        places = [(torch.arange(len(kind)) + offset) / len(kind) for kind, offset in zip(kinds, offsets, strict=True)]
        yield from torch.cat(kinds)[torch.cat(places).argsort(stable=True)].tolist()

    def __len__(self) -> int:
        return len(self._positives) + self._num_negatives


def train_loader(
    data: Dataset[Any],
    *,
    batch_size: int,
    seed: int,
    num_workers: int = 0,
    sampler: Sampler[int] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
) -> DataLoader[Any]:
    """A loader of full batches in a seeded order; what is left over in an epoch comes in another epoch's order.

    Args:
        data: A map-style data set.
        batch_size: Images a step, on one device.
        seed: Of the run.
        num_workers: Processes that read; 0 reads in this one.
        sampler: The order, where it is not `SeededShuffle`; it has a length, and carries a seed of its own.
        collate: Makes a batch of items, where they can't simply be stacked.

    Raises:
        InputError: When an epoch has fewer items than one batch holds.
    """
    order = SeededShuffle(data, seed) if sampler is None else sampler  # type: ignore[arg-type]
    length = len(order)  # type: ignore[arg-type]
    if length < batch_size:
        raise InputError(f"{length} training images were given for batches of {batch_size}. Lower --batch-size.")
    return DataLoader(
        data,
        batch_size=batch_size,
        sampler=order,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
    )


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def _shuffled(indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return indices[torch.randperm(len(indices), generator=generator)]
