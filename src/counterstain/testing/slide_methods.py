"""The exam of a slide method: inherit it, give settings that learn quickly, and pytest runs it.

    class TestABMIL(SlideMethodContract):
        name, config = "abmil", replace(SLIDE_METHODS["abmil"].presets["short"], width=16, hidden=8)

A fixture `halves` must give slides to learn from and slides to validate on, as `halves_of` makes them. What holds for the
network alone is the exam in `slide_networks.py`.

Does not know: what the network is.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from counterstain.data.encoded import EncodedSlide, SlideSet
from counterstain.data.encoded_files import read_encoded
from counterstain.methods import find_slide_method, load_slide_method, model_digest
from counterstain.methods.slide_method import SlideMethod
from counterstain.settings import build, to_tree
from counterstain.testing.encoded_slides import EncodedSlides, write_encoded_slides
from counterstain.training import TrainSettings
from counterstain.training.fit import read_losses

Halves = tuple[SlideSet, SlideSet]


def halves_of(folder: Path) -> Halves:
    """Eight planted slides to learn from and four of other patients to validate on, small and not square.

    Args:
        folder: Where they are written.
    """
    slides = write_encoded_slides(folder, EncodedSlides(num_slides=12, cells=(4, 7), in_thumbnail=90))
    ids = [slide.slide_id for slide in slides.slides]
    return slides.of(ids[:8]), slides.of(ids[8:])


class SlideMethodContract:
    """What holds for every method that scores slides."""

    name: ClassVar[str]
    """Its name in SLIDE_METHODS."""

    config: ClassVar[Any]
    """Settings that make it quick to train."""

    training: ClassVar[TrainSettings] = TrainSettings(epochs=2, batch_size=4, seed=1)

    def create(self, halves: Halves, seed: int = 1) -> SlideMethod:
        """A fresh one, from a seed."""
        return find_slide_method(self.name).create(self.config, halves[0], seed)

    def fitted(self, halves: Halves, run: Path) -> SlideMethod:
        """One that has learned for two epochs."""
        method = self.create(halves)
        method.fit(*halves, run, self.training)
        return method

    def held_out(self, halves: Halves) -> list[EncodedSlide]:
        """Slides that it has not learned from."""
        return [read_encoded(slide.folder, halves[1].encoder.name) for slide in halves[1].slides]

    def test_its_presets_survive_a_settings_file_and_each_has_a_training(self) -> None:
        method = find_slide_method(self.name)
        assert method.name == self.name
        assert next(iter(method.presets)) == "paper"
        assert set(method.presets) == set(method.training)
        for config in method.presets.values():
            assert build(method.config_type, to_tree(config)) == config

    def test_first_weights_follow_the_seed_and_leave_other_randomness_alone(self, halves: Halves) -> None:
        state = torch.get_rng_state()
        first, again, other = (self.create(halves, seed).score(self.held_out(halves)) for seed in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), state)
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_a_slide_has_the_same_answer_whatever_else_is_scored(self, halves: Halves) -> None:
        method, slides = self.create(halves), self.held_out(halves)
        together, alone = method.score(slides), np.concatenate([method.score([slide]) for slide in slides])
        assert together.shape == (len(slides), 2)
        assert together.dtype == np.float32
        assert np.allclose(together, alone, atol=1e-4)
        assert np.allclose(method.margins(halves[1]), together[:, 1] - together[:, 0], atol=1e-4)

    def test_a_finished_run_answers_from_disk_as_the_method_that_learned(self, halves: Halves, tmp_path: Path) -> None:
        method, slides = self.fitted(halves, tmp_path / "run"), self.held_out(halves)
        loaded = load_slide_method(tmp_path / "run")
        assert type(loaded) is type(method)
        assert np.array_equal(loaded.score(slides), method.score(slides))
        assert np.isfinite(loaded.score(slides)).all()
        assert (loaded.classes, loaded.seen, loaded.config) == (halves[0].classes, method.seen, self.config)
        assert loaded.judge("slide", 0.3) == method.judge("slide", 0.3)
        for slide in slides:
            evidence_HW = loaded.evidence(slide)
            assert evidence_HW.dtype == np.float32
            assert np.array_equal(evidence_HW, method.evidence(slide), equal_nan=True)
            assert np.array_equal(np.isfinite(evidence_HW), slide.observed), (
                "a number exactly where cells were observed"
            )
            assert np.array_equal(np.isnan(evidence_HW), ~slide.observed), "NaN elsewhere"

    def test_two_runs_of_one_seed_are_the_same(self, halves: Halves, tmp_path: Path) -> None:
        for name in ("one", "other"):
            self.fitted(halves, tmp_path / name)
        assert read_losses(tmp_path / "one" / "losses.csv") == read_losses(tmp_path / "other" / "losses.csv")
        assert model_digest(tmp_path / "one") == model_digest(tmp_path / "other")
