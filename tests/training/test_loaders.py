"""Orders of training images: what an epoch holds, and that seed and epoch alone decide it."""

from collections import Counter

import pytest
import torch
from torch.utils.data import TensorDataset

from counterstain.errors import InputError
from counterstain.training.loaders import RatioShuffle, SeededShuffle, train_loader

POSITIVE = [index % 5 == 0 for index in range(100)]  # 20 positives, 80 negatives


def epoch_of(sampler: RatioShuffle, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0, 3.7])
def test_an_epoch_has_every_positive_once_and_the_asked_number_of_different_negatives(ratio: float) -> None:
    sampler = RatioShuffle(POSITIVE, ratio, seed=3)
    for epoch in range(3):
        order = epoch_of(sampler, epoch)
        positives = [index for index in order if POSITIVE[index]]
        negatives = [index for index in order if not POSITIVE[index]]
        assert sorted(positives) == list(range(0, 100, 5))
        assert len(negatives) == len(set(negatives)) == round(20 * ratio)
        assert len(order) == len(sampler)


def test_no_negative_comes_again_before_all_have_come() -> None:
    positive = [True] * 10 + [False] * 8
    counts = Counter(index for index in epoch_of(RatioShuffle(positive, 2.0, seed=0), 0) if not positive[index])
    assert set(counts) == set(range(10, 18))
    assert sorted(counts.values()) == [2, 2, 2, 2, 3, 3, 3, 3]


def test_all_negatives_come_within_a_few_epochs() -> None:
    sampler = RatioShuffle(POSITIVE, 1.0, seed=0)
    seen = {index for epoch in range(40) for index in epoch_of(sampler, epoch)}
    assert seen == set(range(100))


@pytest.mark.parametrize("num_positives", [20, 37, 250])
def test_every_batch_of_twelve_has_about_the_ratio_of_both_kinds(num_positives: int) -> None:
    positive = [True] * num_positives + [False] * 410
    sampler = RatioShuffle(positive, 2.0, seed=1)
    for epoch in range(20):
        order = epoch_of(sampler, epoch)
        for first in range(0, len(order) - 11, 12):
            assert 3 <= sum(positive[index] for index in order[first : first + 12]) <= 5


def test_seed_and_epoch_alone_decide_the_order() -> None:
    sampler = RatioShuffle(POSITIVE, 2.0, seed=7)
    uninterrupted = [epoch_of(sampler, epoch) for epoch in range(4)]
    assert epoch_of(RatioShuffle(POSITIVE, 2.0, seed=7), 3) == uninterrupted[3]  # as after a resume
    assert len({tuple(order) for order in uninterrupted}) == 4
    assert epoch_of(RatioShuffle(POSITIVE, 2.0, seed=8), 0) != uninterrupted[0]


def test_the_order_does_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    list(RatioShuffle(POSITIVE, 2.0, seed=7))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("positive", [[True] * 4, [False] * 4, []])
def test_a_kind_that_is_missing_is_refused(positive: list[bool]) -> None:
    with pytest.raises(InputError, match="some of each"):
        RatioShuffle(positive, 1.0, seed=0)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 0.02])
def test_a_ratio_that_gives_no_negative_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match="Raise the ratio"):
        RatioShuffle(POSITIVE, ratio, seed=0)


def test_a_loader_takes_another_order_and_passes_epochs_on_to_it() -> None:
    data = TensorDataset(torch.arange(100))
    sampler = RatioShuffle(POSITIVE, 2.0, seed=5)
    loader = train_loader(data, batch_size=12, seed=5, sampler=sampler)
    loader.sampler.set_epoch(2)  # type: ignore[attr-defined]  # as Lightning does
    seen = torch.cat([batch for (batch,) in loader]).tolist()
    assert seen == epoch_of(RatioShuffle(POSITIVE, 2.0, seed=5), 2)[:60]


def test_a_loader_without_an_order_shuffles_everything() -> None:
    data = TensorDataset(torch.arange(24))
    seen = torch.cat([batch for (batch,) in train_loader(data, batch_size=12, seed=5)]).tolist()
    assert seen == list(SeededShuffle(data, 5))
    assert sorted(seen) == list(range(24))


def test_an_epoch_shorter_than_a_batch_is_refused() -> None:
    data = TensorDataset(torch.arange(100))
    with pytest.raises(InputError, match="Lower --batch-size"):
        train_loader(data, batch_size=128, seed=0)
    with pytest.raises(InputError, match="60 training images"):
        train_loader(data, batch_size=64, seed=0, sampler=RatioShuffle(POSITIVE, 2.0, seed=0))
