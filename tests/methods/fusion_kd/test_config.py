"""Settings: what each preset stands for, and what is refused."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from counterstain.errors import InputError, UnknownNameError
from counterstain.methods.fusion_kd.config import PRESETS, FusionKDConfig
from counterstain.models.mil import MIL_NETWORKS
from counterstain.settings import build, to_tree

PAPER, LEGACY, ROBUST, SMALL = (PRESETS[name] for name in ("paper", "legacy", "robust", "small"))


def changed(one: FusionKDConfig, other: FusionKDConfig) -> set[str]:
    """The settings in which two presets differ."""
    names = (field.name for field in fields(FusionKDConfig))
    return {name for name in names if getattr(one, name) != getattr(other, name)}


def test_what_the_paper_says_is_what_nobody_has_to_ask_for() -> None:
    assert PRESETS.keys() == {"paper", "legacy", "robust", "small"}
    assert changed(FusionKDConfig(), PAPER) == {"ignore_glass"}  # published without a mask of tissue, whatever the data
    assert (PAPER.teacher, PAPER.student, PAPER.mil_loss, PAPER.distill) == (
        "vgg_mil",
        "vgg_mil",
        "constant_dice",
        "fusion",
    )
    assert MIL_NETWORKS[PAPER.teacher].fusion == (0.3, 0.3, 0.4)
    assert (PAPER.dice, PAPER.wce, PAPER.student_init) == ("soft", "agreement", "swap")
    assert PAPER.selector == "pixel_val"  # "when the student outperforms the teacher"
    assert (PAPER.optimizer, PAPER.learning_rate, PAPER.weight_decay, PAPER.poly_power) == ("adam", 5e-5, 5e-5, 0)


def test_as_released_differs_from_the_text_where_the_code_does() -> None:
    assert changed(LEGACY, PAPER) == {
        "wce",  # cast to integers before a threshold: a background prior
        "wce_weight",
        "batch_sum",
        "teacher_epochs",
        "round_epochs",
        "max_rounds",
        "selector",  # roles change by the clock
        "schedule_keeps",
        "reset_optimizer",
        "warmup_epochs",
        "area_band",
        "patience",
        "candidates",
        "most_agreement",
        "smooth_px",
    }


def test_what_is_recommended_designs_the_drift_out_and_asks_for_no_masks() -> None:
    assert (ROBUST.dice, ROBUST.wce, ROBUST.selector) == ("squared", "agreement", "proxy")
    assert ROBUST.area_band == FusionKDConfig().area_band is not None
    assert ROBUST.neg_pos_ratio == 2
    assert ROBUST.anchor_weight == 0
    assert 0 < ROBUST.ema < 1
    assert ROBUST.augment.flip
    assert ROBUST.augment.turn
    assert ROBUST.augment.stain_sigma > 0


def test_the_small_one_is_the_recommended_one_learned_from_scratch() -> None:
    expected = {"teacher", "student", "optimizer", "learning_rate", "weight_decay", "poly_power", "ema"}
    assert changed(SMALL, ROBUST) == expected
    assert SMALL.teacher == SMALL.student == "tiny_mil"


def test_a_students_weights_are_its_teachers_where_both_are_one_network() -> None:
    weights, own = Path("a.pth"), Path("b.pth")
    assert FusionKDConfig(weights=weights).weights_of_student == weights
    assert FusionKDConfig(weights=weights, student_weights=own).weights_of_student == own
    assert FusionKDConfig(weights=weights, student="swin_mil").weights_of_student is None
    assert FusionKDConfig(weights=weights, student_options={"attention": True}).weights_of_student is None


def test_the_optimiser_is_given_what_the_config_says() -> None:
    given = FusionKDConfig(learning_rate=0.1, head_factor=3.0, weight_decay=0.2, poly_power=0.9).optimiser(7)
    assert (given.learning_rate, given.scratch_factor, given.weight_decay) == (0.1, 3.0, 0.2)
    assert (given.poly_power, given.warmup_steps, given.optimizer) == (0.9, 7, "adam")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"neg_pos_ratio": 0.0}, "neg_pos_ratio"),
        ({"area_weight": 1.0}, "area-fraction"),
        ({"area_fraction": 1.5}, "area_fraction"),
        ({"area_band": (1.1, 1.3)}, "area_band"),
        ({"area_band": (0.0, 1.3)}, "area_band"),
        ({"reset_optimizer": False, "student_options": {"width": 4}}, "moments"),
        ({"ema": 1.0}, "ema"),
        ({"round_epochs": 0}, "round_epochs"),
        ({"teacher_epochs": 0}, "teacher_epochs"),
        ({"candidates": 0}, "candidates"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"margin": -0.1}, "margin"),
        ({"confidence": 1.5}, "confidence"),
        ({"gm_power": 0.5}, "gm_power"),
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": 0.9, "ignore_band": 0.2}, "ignore_band"),
        ({"cache_mb": 0.0}, "cache_mb"),
    ],
)
def test_settings_that_contradict_or_leave_their_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        FusionKDConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"teacher": "vgg"},
        {"student": "vgg"},
        {"dice": "hard"},
        {"wce": "on"},
        {"selector": "proxies"},
        {"tta": "d8"},
        {"schedule_keeps": "best"},
    ],
)
def test_unknown_networks_and_losses_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError):
        FusionKDConfig(**settings)


def test_unwatched_areas_survive_a_file_that_has_no_word_for_none() -> None:
    unwatched = FusionKDConfig(area_band=None)
    assert not unwatched.watches_areas
    assert build(FusionKDConfig, to_tree(unwatched)) == unwatched
    assert FusionKDConfig().watches_areas


@pytest.mark.parametrize(
    ("settings", "reads"),
    [
        ({"selector": "pixel_val"}, True),
        ({"selector": "pixel_val", "max_rounds": 0}, False),
        ({"selector": "proxy", "schedule_keeps": "best_f1"}, False),
        ({"selector": "schedule"}, False),
        ({"selector": "schedule", "schedule_keeps": "best_f1"}, True),
    ],
)
def test_masks_are_read_where_they_decide(settings: dict[str, Any], reads: bool) -> None:
    assert FusionKDConfig(**settings).reads_masks is reads
