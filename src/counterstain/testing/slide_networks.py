"""The exam of a slide network: inherit it, say how a small one is built, and pytest runs it.

    class TestABMIL(SlideNetworkContract):
        def build(self):
            return ABMIL(self.num_features, ABMILSettings(width=16, hidden=8))

Shapes: B slides, C channels, H W rows and columns of cells.
Does not know: pytest; any runner that calls methods named `test_...` will do.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from counterstain.models.slide_network import SlideBatch, SlideNetwork

SIZES = ((5, 7), (3, 4), (6, 6), (2, 9))  # rows, columns of cells: even, odd, and none another's transpose


def random_slide(rows: int, columns: int, num_features: int, seed: int = 0, share: float = 0.6) -> SlideBatch:
    """A batch of one random slide.

    Args:
        rows: Of cells.
        columns: Of cells.
        num_features: C.
        seed: Of everything in it.
        share: Of its cells that are observed, one at least unless the share is 0.
    """
    random = torch.Generator().manual_seed(seed)
    chance_11HW = torch.rand(1, 1, rows, columns, generator=random)
    observed_11HW = (chance_11HW < share).float()
    if share > 0:
        observed_11HW.view(-1)[int(chance_11HW.argmin())] = 1.0
    features_1CHW = torch.randn(1, num_features, rows, columns, generator=random) * observed_11HW
    thumbnails_13HW = torch.rand(1, 3, 2 * rows, 2 * columns, generator=random)
    return SlideBatch(features_1CHW, observed_11HW, torch.ones(1, 1, rows, columns), thumbnails_13HW)


def padded(batch: SlideBatch, rows: int, columns: int) -> SlideBatch:
    """The same slides in more padding at the right and at the bottom."""
    below, right = rows - batch.features_BCHW.shape[2], columns - batch.features_BCHW.shape[3]
    thumbnails = batch.thumbnails_B3HW
    return SlideBatch(
        F.pad(batch.features_BCHW, (0, right, 0, below)),
        F.pad(batch.observed_B1HW, (0, right, 0, below)),
        F.pad(batch.extent_B1HW, (0, right, 0, below)),
        None if thumbnails is None else F.pad(thumbnails, (0, 2 * right, 0, 2 * below)),
    )


def together(slides: Sequence[SlideBatch]) -> SlideBatch:
    """One batch of several."""
    rows = max(slide.features_BCHW.shape[2] for slide in slides)
    columns = max(slide.features_BCHW.shape[3] for slide in slides)
    even = [padded(slide, rows, columns) for slide in slides]
    thumbnails = [slide.thumbnails_B3HW for slide in even if slide.thumbnails_B3HW is not None]
    return SlideBatch(
        torch.cat([slide.features_BCHW for slide in even]),
        torch.cat([slide.observed_B1HW for slide in even]),
        torch.cat([slide.extent_B1HW for slide in even]),
        torch.cat(thumbnails) if thumbnails else None,
    )


def planted(num_slides: int, num_features: int, side: int = 8, seed: int = 0) -> tuple[SlideBatch, Tensor, Tensor]:
    """Slides of which every second shows a tumour, in its embeddings and in its thumbnail.

    Returns:
        The batch, labels (B,) int64, and (B, H, W) bool: cells of tumour.
    """
    batch = together([random_slide(side, side, num_features, seed + index, 0.8) for index in range(num_slides)])
    labels_B = torch.arange(num_slides) % 2
    is_tumour_BHW = torch.zeros(num_slides, side, side, dtype=torch.bool)
    is_tumour_BHW[labels_B == 1, 1:4, 2:5] = True
    is_tumour_BHW &= batch.observed_B1HW[:, 0] > 0
    features_BCHW = batch.features_BCHW * 0.3
    features_BCHW[:, 0] += 3.0 * is_tumour_BHW
    assert batch.thumbnails_B3HW is not None
    thumbnails_B3HW = batch.thumbnails_B3HW * 0.2
    thumbnails_B3HW[:, 1] += 0.7 * is_tumour_BHW.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return replace(batch, features_BCHW=features_BCHW, thumbnails_B3HW=thumbnails_B3HW), labels_B, is_tumour_BHW


def agree(found: Tensor, expected: Tensor) -> None:
    """Fails unless both are NaN in the same places and equal up to rounding elsewhere."""
    largest = float(expected.nan_to_num().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5 * (1 + largest), equal_nan=True)


class SlideNetworkContract(ABC):
    """What holds for every slide network."""

    num_features: ClassVar[int] = 6
    """C of the slides it is tested with."""

    learning_steps: ClassVar[int] = 40
    """Of Adam, after which a planted tumour is told."""

    learning_rate: ClassVar[float] = 3e-3
    """Of these steps."""

    @abstractmethod
    def build(self) -> SlideNetwork:
        """A fresh one that is quick to test; random numbers are seeded outside."""

    def made(self, seed: int = 0) -> SlideNetwork:
        """A fresh one, from a seed, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build().eval()

    def warmed(self) -> SlideNetwork:
        """One whose norms have seen slides: fresh statistics hide what depends on them."""
        network = self.made().train()
        with torch.no_grad():
            network(self.slides())
        return network.eval()

    def slide(self, index: int) -> SlideBatch:
        """One of the slides it is tested with."""
        return random_slide(*SIZES[index], self.num_features, seed=index)

    def slides(self) -> SlideBatch:
        """All of them."""
        return together([self.slide(index) for index in range(len(SIZES))])

    @torch.no_grad()
    def test_a_slide_has_two_logits_and_a_number_for_each_cell(self) -> None:
        network, batch = self.warmed(), self.slides()
        logits_BK, evidence_BHW = network(batch), network.evidence(batch)
        assert logits_BK.shape == (len(batch), 2)
        assert evidence_BHW.shape == (len(batch), *batch.features_BCHW.shape[2:])
        assert logits_BK.dtype == evidence_BHW.dtype == torch.float32
        assert bool(torch.isfinite(logits_BK).all())

    @torch.no_grad()
    def test_evidence_is_a_number_exactly_where_cells_were_observed(self) -> None:
        batch = self.slides()
        evidence_BHW = self.warmed().evidence(batch)
        assert torch.equal(torch.isfinite(evidence_BHW), batch.observed_B1HW[:, 0] > 0)
        assert torch.equal(torch.isnan(evidence_BHW), batch.observed_B1HW[:, 0] <= 0)

    @torch.no_grad()
    def test_padding_changes_nothing(self) -> None:
        network, batch = self.warmed(), self.slides()
        rows, columns = batch.features_BCHW.shape[2:]
        for more in ((rows + 1, columns), (rows + 5, columns + 8)):
            larger = padded(batch, *more)
            agree(network(larger), network(batch))
            agree(network.evidence(larger)[:, :rows, :columns], network.evidence(batch))

    @torch.no_grad()
    def test_slides_of_different_sizes_answer_together_as_alone(self) -> None:
        network, batch = self.warmed(), self.slides()
        logits_BK, evidence_BHW = network(batch), network.evidence(batch)
        for index, (rows, columns) in enumerate(SIZES):
            agree(logits_BK[index : index + 1], network(self.slide(index)))
            agree(evidence_BHW[index : index + 1, :rows, :columns], network.evidence(self.slide(index)))

    @torch.no_grad()
    def test_what_stands_in_unobserved_cells_changes_nothing(self) -> None:
        network, batch = self.warmed(), self.slides()
        for garbage in (1e3, torch.nan):
            garbage_BCHW = torch.where(batch.observed_B1HW > 0, batch.features_BCHW, garbage)
            dirty = replace(batch, features_BCHW=garbage_BCHW)
            assert torch.equal(network(dirty), network(batch))
            agree(network.evidence(dirty), network.evidence(batch))

    @torch.no_grad()
    def test_a_slide_of_one_cell_has_an_answer(self) -> None:
        network = self.warmed()
        slide = random_slide(1, 1, self.num_features)
        assert bool(torch.isfinite(network(slide)).all())
        assert bool(torch.isfinite(network.evidence(slide)).all())

    @torch.no_grad()
    def test_a_slide_without_observed_cells_has_logits_and_no_evidence(self) -> None:
        network = self.warmed()
        slide = random_slide(3, 5, self.num_features, share=0.0)
        assert bool(torch.isfinite(network(slide)).all())
        assert bool(torch.isnan(network.evidence(slide)).all())

    @torch.no_grad()
    def test_in_eval_mode_an_answer_is_always_the_same(self) -> None:
        network, batch = self.warmed(), self.slides()
        state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        assert torch.equal(network(batch), network(batch))
        assert torch.equal(network.evidence(batch).nan_to_num(), network.evidence(batch).nan_to_num())
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())

    def test_evidence_can_be_had_wherever_gradients_are_off_and_leaves_none(self) -> None:
        network, batch = self.warmed(), self.slides()
        expected_BHW = network.evidence(batch)
        with torch.inference_mode():
            agree(network.evidence(batch), expected_BHW.detach())
        with torch.no_grad():
            agree(network.evidence(batch), expected_BHW.detach())
        assert all(parameter.grad is None for parameter in network.parameters())

    def test_a_state_makes_another_one_equal(self) -> None:
        first, second, batch = self.warmed(), self.made(seed=1), self.slides()
        with torch.no_grad():
            assert not torch.equal(first(batch), second(batch))
            second.load_state_dict(deepcopy(first.state_dict()))
            assert torch.equal(first(batch), second(batch))

    def test_every_parameter_learns(self) -> None:
        network, batch = self.made().train(), self.slides()
        logits_BK, extra = network.learn(batch, torch.arange(len(batch)) % 2)
        assert extra.shape == ()
        torch.autograd.backward(F.cross_entropy(logits_BK, torch.arange(len(batch)) % 2) + extra)
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, f"{name} was not reached"
            assert bool(torch.isfinite(parameter.grad).all()), f"{name} has no finite gradient"
            assert bool(parameter.grad.any()), f"{name} has no gradient but zeros"

    def test_a_slide_without_cells_does_no_harm_in_training(self) -> None:
        network = self.made().train()
        batch = together([self.slide(0), random_slide(4, 4, self.num_features, share=0.0), self.slide(1)])
        labels_B = torch.tensor([1, 0, 1])
        logits_BK, extra = network.learn(batch, labels_B)
        torch.autograd.backward(F.cross_entropy(logits_BK, labels_B) + extra)
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        assert gradients
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())

    def test_it_learns_to_tell_a_planted_tumour(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = self.build().train()
            batch, labels_B, _ = planted(8, self.num_features)
            optimiser = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
            for _ in range(self.learning_steps):
                logits_BK, extra = network.learn(batch, labels_B)
                optimiser.zero_grad()
                torch.autograd.backward(F.cross_entropy(logits_BK, labels_B) + extra)
                optimiser.step()
            with torch.no_grad():
                log_odds_B = network(batch).diff(dim=1)[:, 0]
        assert float(log_odds_B[labels_B == 1].min()) > float(log_odds_B[labels_B == 0].max())
