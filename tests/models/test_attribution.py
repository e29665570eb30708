"""Integrated evidence: on networks whose answer is known, against gathered cells, and its laws on DSNet."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from counterstain.models.attribution import OrdinaryCells, integrated_evidence
from counterstain.models.dsnet import DSNet, DSNetArchitecture
from counterstain.models.slide_network import SlideBatch, SlideNetwork


class SumOfCells(SlideNetwork):
    """The positive logit is a sum over cells and pixels of what they hold, to a power."""

    def __init__(self, power: int = 1, looks_at_thumbnails: bool = True) -> None:
        super().__init__()
        self.power, self.looks_at_thumbnails = power, looks_at_thumbnails

    def forward(self, batch: SlideBatch) -> Tensor:
        weights_C11 = torch.tensor([1.0, -2.0, 0.5])[:, None, None]
        positive_B = (batch.features_BCHW.pow(self.power) * weights_C11).sum((1, 2, 3))
        if self.looks_at_thumbnails and batch.thumbnails_B3HW is not None:
            positive_B = positive_B + 3 * batch.thumbnails_B3HW[:, 1].sum((1, 2))
        return torch.stack([-positive_B, positive_B], dim=1)

    def evidence(self, batch: SlideBatch) -> Tensor:
        return integrated_evidence(self, batch, OrdinaryCells(3))


def slides(height: int, width: int, num_slides: int = 4, channels: int = 3, seed: int = 0) -> SlideBatch:
    generator = torch.Generator().manual_seed(seed)
    observed_B1HW = (torch.rand(num_slides, 1, height, width, generator=generator) < 0.5).float()
    observed_B1HW[:, :, 0, 0] = 1
    return SlideBatch(
        torch.rand(num_slides, channels, height, width, generator=generator),
        observed_B1HW,
        torch.ones(num_slides, 1, height, width),
        torch.rand(num_slides, 3, 2 * height, 2 * width, generator=generator),
    )


def gathered(batch: SlideBatch, number: int) -> tuple[Tensor, Tensor]:
    """Embeddings (N, C), and colours (4N, 3), of a slide's observed cells."""
    assert batch.thumbnails_B3HW is not None
    is_observed_HW = batch.observed_B1HW[number, 0] > 0
    pixels_HW = is_observed_HW.repeat_interleave(2, 0).repeat_interleave(2, 1)
    features_HWC = batch.features_BCHW[number].movedim(0, -1)
    return features_HWC[is_observed_HW], batch.thumbnails_B3HW[number].movedim(0, -1)[pixels_HW]


def test_ordinary_cells_are_the_mean_over_observed_cells_of_negative_slides() -> None:
    ordinary, labels_B = OrdinaryCells(3), torch.tensor([0, 1, 0, 1])
    batches = [slides(5, 7), slides(4, 2, seed=1)]
    batches[0].features_BCHW.masked_fill_(batches[0].observed_B1HW == 0, torch.nan)
    for batch in batches:
        ordinary.follow(batch, labels_B)
    ordinary.follow(batches[0], torch.ones(4, dtype=torch.int64))
    rows = [gathered(batch, number) for batch in batches for number in (0, 2)]
    torch.testing.assert_close(ordinary.embedding_C, torch.cat([embeddings for embeddings, _ in rows]).mean(0))
    torch.testing.assert_close(ordinary.colour_3, torch.cat([colours for _, colours in rows]).mean(0))
    assert int(ordinary.num_cells) == sum(len(embeddings) for embeddings, _ in rows)


def test_evidence_of_a_sum_is_what_each_cell_adds_to_it() -> None:
    batch, ordinary = slides(5, 7), OrdinaryCells(3)
    ordinary.follow(slides(6, 6, seed=3), torch.zeros(4, dtype=torch.int64))
    found_BHW = integrated_evidence(SumOfCells(), batch, ordinary)
    assert batch.thumbnails_B3HW is not None
    for number, _, i, j in torch.ones(4, 1, 5, 7).nonzero().tolist():
        if not batch.observed_B1HW[number, 0, i, j]:
            assert found_BHW[number, i, j].isnan()
            continue
        away_C = batch.features_BCHW[number, :, i, j] - ordinary.embedding_C
        green = batch.thumbnails_B3HW[number, 1, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] - ordinary.colour_3[1]
        expected = 2 * (away_C @ torch.tensor([1.0, -2.0, 0.5]) + 3 * green.sum())
        assert float(found_BHW[number, i, j]) == pytest.approx(float(expected), abs=1e-5)


def test_evidence_of_squares_adds_up_to_the_difference_from_the_ordinary_slide() -> None:
    """Two points in the middles of halves integrate a straight line exactly, and squares have straight slopes."""
    network, ordinary, batch = SumOfCells(power=2), OrdinaryCells(3), slides(5, 7)
    ordinary.follow(slides(6, 6, seed=3), torch.zeros(4, dtype=torch.int64))
    batch = replace(batch, features_BCHW=batch.features_BCHW * batch.observed_B1HW)
    logits_B2, start_B2 = network(batch), network(ordinary.instead_of(batch))
    expected_B = (logits_B2 - start_B2) @ torch.tensor([-1.0, 1.0])
    found_B = integrated_evidence(network, batch, ordinary).nansum((1, 2))
    torch.testing.assert_close(found_B, expected_B, rtol=1e-4, atol=1e-4)


def test_without_any_training_slide_a_slides_own_mean_is_ordinary() -> None:
    batch = slides(5, 7)
    found = OrdinaryCells(3).instead_of(batch)
    for number in range(4):
        for have, were in zip(gathered(found, number), gathered(batch, number), strict=True):
            torch.testing.assert_close(have, were.mean(0).expand_as(were))
    unobserved = (batch.observed_B1HW == 0).expand_as(batch.features_BCHW)
    assert torch.equal(found.features_BCHW[unobserved], batch.features_BCHW[unobserved])


def test_what_a_network_does_not_look_at_adds_nothing() -> None:
    batch = slides(4, 4)
    blind = integrated_evidence(SumOfCells(looks_at_thumbnails=False), batch, OrdinaryCells(3))
    without = integrated_evidence(SumOfCells(), replace(batch, thumbnails_B3HW=None), OrdinaryCells(3))
    torch.testing.assert_close(blind, without, equal_nan=True)


def test_slides_without_any_observed_cell_have_no_evidence() -> None:
    batch = slides(4, 4)
    batch.observed_B1HW[1] = 0
    found_BHW = integrated_evidence(SumOfCells(), batch, OrdinaryCells(3))
    assert found_BHW[1].isnan().all()
    assert torch.equal(found_BHW.isnan(), batch.observed_B1HW[:, 0] == 0)


def test_evidence_turns_with_the_slide() -> None:
    torch.manual_seed(0)
    net, batch = DSNet(128, DSNetArchitecture(evidence_kind="integrated")), slides(7, 10, num_slides=1, channels=128)
    assert batch.thumbnails_B3HW is not None
    turned = SlideBatch(
        batch.features_BCHW.rot90(1, (2, 3)).flip(3),
        batch.observed_B1HW.rot90(1, (2, 3)).flip(3),
        batch.extent_B1HW.rot90(1, (2, 3)).flip(3),
        batch.thumbnails_B3HW.rot90(1, (2, 3)).flip(3),
    )
    expected_BHW = net.evidence(batch).rot90(1, (1, 2)).flip(2)
    torch.testing.assert_close(net.evidence(turned), expected_BHW, rtol=1e-3, atol=1e-5, equal_nan=True)
