import math

import pytest

from counterstain.errors import InputError, UnknownNameError
from counterstain.methods.slide_config import SlideConfig


def test_the_rate_rises_in_a_line_from_where_the_warm_up_starts() -> None:
    config = SlideConfig(learning_rate=1e-3, warmup_from=1e-4, warmup_epochs=2)
    rates = [config.rate(step, 5, 10) for step in range(10)]
    assert rates == pytest.approx([0.1 + 0.9 * (step + 1) / 10 for step in range(10)])
    assert rates[-1] == pytest.approx(1.0)


def test_steps_divide_the_rate_every_so_many_epochs() -> None:
    config = SlideConfig(warmup_epochs=1, drop_every=30, drop_by=5.0)
    at = {epoch: config.rate(4 * epoch, 4, 200) for epoch in (1, 29, 30, 59, 60, 199)}
    assert at == pytest.approx({1: 1.0, 29: 1.0, 30: 0.2, 59: 0.2, 60: 0.04, 199: 0.2**6})
    assert config.rate(4 * 30 - 1, 4, 200) == 1.0


def test_the_cosine_is_half_way_down_in_the_middle_and_at_0_where_training_ends() -> None:
    config = SlideConfig(warmup_epochs=2, schedule="cosine")
    assert config.rate(20, 10, 12) == pytest.approx(1.0)
    assert config.rate(70, 10, 12) == pytest.approx(0.5)
    assert config.rate(45, 10, 12) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert config.rate(120, 10, 12) == pytest.approx(0.0)


@pytest.mark.parametrize("schedule", ["steps", "cosine"])
def test_a_training_shorter_than_its_warm_up_only_rises(schedule: str) -> None:
    config = SlideConfig(warmup_epochs=5, schedule=schedule)  # type: ignore[arg-type]
    rates = [config.rate(step, 3, 2) for step in range(6)]
    assert rates == sorted(rates)
    assert rates[-1] < 0.5


def test_no_warm_up_starts_at_the_whole_rate() -> None:
    for schedule in ("steps", "cosine"):
        assert SlideConfig(warmup_epochs=0, schedule=schedule).rate(0, 3, 2) == 1.0  # type: ignore[arg-type]


def test_the_defaults_are_those_of_the_paper() -> None:
    config = SlideConfig()
    assert (config.learning_rate, config.warmup_from, config.weight_decay) == (1e-4, 1e-6, 1e-5)
    assert (config.drop_every, config.drop_by, config.crop_cells) == (30, 5.0, 7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning rate"),
        ({"warmup_from": 1.0}, "warm-up from 1.0"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"warmup_epochs": -1}, "warmup_epochs"),
        ({"crop_cells": -1}, "crop_cells"),
        ({"drop_every": 0}, "every 0 epochs"),
        ({"drop_by": 0.5}, "divided by 0.5"),
        ({"error": 0.0}, "error of 0.0"),
        ({"error": 1.0}, "error of 1.0"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SlideConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["schedule", "select", "threshold"])
def test_unknown_names_are_refused(field: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Unknown {field} 'best'"):
        SlideConfig(**{field: "best"})  # type: ignore[arg-type]
