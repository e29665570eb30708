"""The preset "legacy" against what the released code does: its losses by hand, its schedule, what it carries over."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from counterstain.data import PatchDataset
from counterstain.errors import InputError
from counterstain.files import read_json
from counterstain.methods import FusionKD
from counterstain.methods.fusion_kd import distil
from counterstain.methods.fusion_kd.config import PRESETS
from counterstain.methods.fusion_kd.learn import candidate_epochs, learn_labels, learn_maps
from counterstain.methods.fusion_kd.rounds import Row, Rules, State, state_after
from counterstain.models.weights import read_state

Distilled = Callable[..., FusionKD]

LEGACY = PRESETS["legacy"]
LABELS = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
"""(normal, tumour) of a positive and a negative."""

IMAGES = torch.full((2, 3, 1, 2), 120, dtype=torch.uint8)


class Fixed(nn.Module):
    """Says the same of every batch: for each image three sides and a fused map of two pixels."""

    def __init__(self, *outputs: tuple[tuple[float, float], ...]) -> None:
        super().__init__()
        self.outputs_BSHW = nn.Parameter(torch.tensor(outputs)[:, :, None])

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.outputs_BSHW


POSITIVE = ((0.25, 0.75), (1.0, 0.0), (0.0, 0.0), (0.5, 0.5))
NEGATIVE = ((0.5, 0.75), (0.0, 0.0), (1.0, 1.0), (0.25, 0.75))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_teachers_loss_of_a_batch_is_as_worked_by_hand() -> None:
    """Dice of p with ones, 1 - (2 sum p + 1) / (sum p + 3), of the positive; of 1 - p with ones of the negative.

    Sums of p are 1, 1, 0, 1: 1/4 + 1/4 + 2/3 + 1/4; sums of 1 - p are .75, 2, 0, 1: 1/3 + 0 + 2/3 + 1/4.
    """
    batch = IMAGES, LABELS
    expected = (1 / 4 + 1 / 4 + 2 / 3 + 1 / 4) + (1 / 3 + 0 + 2 / 3 + 1 / 4)
    found = learn_labels(Fixed(POSITIVE, NEGATIVE), LEGACY, 1, False)(batch, generator(), 0)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-6)


def test_a_students_loss_of_a_batch_is_as_worked_by_hand() -> None:
    """The positive's outputs against t = .8, .2 by 1 - (2 sum pt + 1) / (sum p + 2), the negative's as a teacher's; and for
    both twice the mean of log(1 + exp(2 p - 1)) of the fused map, whatever the teacher says.

    sum pt is .35, .8, 0, .5 and sum p is 1, 1, 0, 1: 1.3/3 + .4/3 + 1/2 + 1/3.
    """
    batch = IMAGES, LABELS, torch.tensor([[204, 51], [0, 0]], dtype=torch.uint8)[:, None, None]
    dices = (1.3 / 3 + 0.4 / 3 + 1 / 2 + 1 / 3) + (1 / 3 + 0 + 2 / 3 + 1 / 4)
    of_half = math.log(2)
    of_quarters = (math.log(1 + math.exp(-0.5)) + math.log(1 + math.exp(0.5))) / 2
    network = Fixed(POSITIVE, NEGATIVE)
    found = learn_maps(network, LEGACY, 1, False)(batch, generator(), 0)
    assert float(found.detach()) == pytest.approx(dices + 2 * (of_half + of_quarters), rel=1e-6)
    averaged = learn_maps(network, replace(LEGACY, batch_sum=False), 1, False)(batch, generator(), 0)
    assert float(averaged.detach()) == pytest.approx(float(found.detach()) / 2, rel=1e-6)


def test_losses_are_summed_over_images_so_that_a_batch_of_two_alike_counts_twice() -> None:
    maps = torch.tensor([[204, 51]] * 2, dtype=torch.uint8)[:, None, None]
    labels = LABELS[:1].expand(2, 2)
    one = learn_maps(Fixed(POSITIVE), LEGACY, 1, False)((IMAGES[:1], labels[:1], maps[:1]), generator(), 0)
    two = learn_maps(Fixed(POSITIVE, POSITIVE), LEGACY, 1, False)((IMAGES, labels, maps), generator(), 0)
    assert float(two.detach()) == pytest.approx(2 * float(one.detach()), rel=1e-6)


def test_the_optimiser_is_adam_with_one_rate_that_never_changes() -> None:
    optimiser = LEGACY.optimiser(LEGACY.warmup_epochs)
    assert (optimiser.optimizer, optimiser.learning_rate, optimiser.weight_decay) == ("adam", 5e-5, 5e-5)
    assert (optimiser.scratch_factor, optimiser.poly_power, optimiser.warmup_steps) == (1, 0, 0)


def test_images_are_shown_as_they_are_and_the_teachers_map_is_of_one_view() -> None:
    assert (LEGACY.flip, LEGACY.turn, LEGACY.stain_sigma, LEGACY.augment_teacher) == (False, False, 0, False)
    assert (LEGACY.tta, LEGACY.cross_fit, LEGACY.neg_pos_ratio, LEGACY.ema) == ("none", False, None, 0)


def test_roles_change_after_epoch_60_and_every_30_from_there() -> None:
    """Counted from 0: 31 epochs of the teacher, then 30 for each student; the sixteenth was cut short at epoch 500."""
    assert LEGACY.teacher_epochs is not None
    assert LEGACY.round_epochs is not None
    last_epochs = [
        LEGACY.teacher_epochs + LEGACY.round_epochs * number - 1 for number in range(1, LEGACY.max_rounds + 1)
    ]
    assert last_epochs[:-1] == list(range(60, 500, 30))
    assert len(last_epochs) == 16
    assert last_epochs[-2] < 500 <= last_epochs[-1]
    assert candidate_epochs(LEGACY.round_epochs, LEGACY.candidates) == tuple(range(1, 31))


RULES = Rules(
    LEGACY.max_rounds, LEGACY.patience, LEGACY.student_init, LEGACY.most_agreement, keeps_best=True, best_by="f1_mix"
)


def played(teacher: float, *students: float) -> list[State]:
    """The states before and after rounds whose students had these scores."""
    rows: list[Row] = []
    states, known = [state_after(rows, RULES)], {"teacher": teacher}
    for number, score in enumerate(students, start=1):
        state = states[-1]
        known[f"round_{number}"] = score
        scores, of_teacher = {"f1_mix": score}, {"f1_mix": known[state.teacher]}
        rows.append(
            Row(
                number=number,
                teacher=state.teacher,
                start=state.start,
                kind=state.kind,
                epoch=1,
                decision="scheduled",
                reasons=(),
                scores=scores,
                teacher_scores=of_teacher,
                interval=None,
                areas={},
                agreement=1.0,
            )
        )
        states.append(state_after(rows, RULES))
    return states


def test_the_best_so_far_teaches_and_is_kept_and_whoever_taught_before_learns() -> None:
    states = played(0.5, 0.7, 0.6, 0.65, 0.8)
    assert [state.best for state in states] == ["teacher", "round_1", "round_1", "round_1", "round_4"]
    assert [state.teacher for state in states] == ["teacher", "round_1", "round_1", "round_1", "round_4"]
    assert [state.start for state in states] == [None, "teacher", "round_1", "round_1", "round_1"]


def test_a_student_as_good_as_the_best_is_not_kept() -> None:
    assert played(0.5, 0.7, 0.7)[-1].best == "round_1"
    assert played(0.5, 0.5)[-1].best == "teacher"


def test_only_the_schedule_ends_it() -> None:
    states = played(0.9, *[0.1] * 16)
    assert [state.end is None for state in states] == [True] * 16 + [False]
    assert states[-1].best == "teacher"


TINY: dict[str, Any] = {"selector": "schedule", "max_rounds": 2}
NUM_STEPS = 3
"""Of an epoch of the blobs."""


def steps_counted(run: Path) -> set[float]:
    """The steps that the last student's moments are of."""
    checkpoint = torch.load(run / "rounds" / "2" / "train" / "checkpoints" / "last.ckpt", weights_only=True)
    return {float(moments["step"]) for moments in checkpoint["optimizer_states"][0]["state"].values()}


def test_moments_are_carried_over_a_change_of_roles_as_released_and_not_otherwise(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not LEGACY.reset_optimizer
    monkeypatch.setattr(distil, "shutil", SimpleNamespace(rmtree=lambda *_, **__: None))  # leaves the last checkpoints
    distilled(blobs, tmp_path / "reset", **TINY, reset_optimizer=True)
    distilled(blobs, tmp_path / "kept", **TINY, reset_optimizer=False, teacher_run=tmp_path / "reset")
    assert steps_counted(tmp_path / "reset") == {NUM_STEPS}
    assert steps_counted(tmp_path / "kept") == {2 * NUM_STEPS}
    first, second = (
        [read_state(tmp_path / run / "rounds" / number / "weights.safetensors") for run in ("reset", "kept")]
        for number in ("1", "2")
    )
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0])
    assert not all(torch.equal(second[0][name], second[1][name]) for name in second[0])


@pytest.mark.parametrize(("init", "num_batches"), [("swap", 2), ("copy_best", 2), ("fresh", 1)])
def test_at_a_swap_norms_take_their_buffers_with_them(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled, init: str, num_batches: int
) -> None:
    """With a rate of nearly 0 an epoch's three batches do the same to a variance: 1 becomes .729 + .271 v, and that .729 of
    itself + .271 v. What the batches added has grown to 1.729 of it.
    """
    distilled(blobs, tmp_path, **TINY, student_init=init, learning_rate=1e-9)
    teacher, last = (read_state(tmp_path / name / "weights.safetensors") for name in ("teacher", "rounds/2"))
    counted = {int(last[name]) for name in last if name.endswith("num_batches_tracked")}
    assert counted == {num_batches * NUM_STEPS}
    name = "backbone.stem.1.running_var"
    grown = (last[name] - 0.729**num_batches) / (teacher[name] - 0.729)
    if init == "swap":  # the others begin from other weights than the teacher's
        assert torch.allclose(grown, torch.full_like(grown, 1.729), rtol=0.2)


def test_the_best_of_all_epochs_of_all_rounds_is_kept(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    names = ("wce", "wce_weight", "batch_sum", "schedule_keeps", "reset_optimizer", "warmup_epochs", "smooth_px")
    settings = {name: getattr(LEGACY, name) for name in names}
    distilled(blobs, tmp_path, **TINY, **settings, round_epochs=2, candidates=2, keep_candidates=True)
    ledger = read_json(tmp_path / "ledger.json")
    assert [row["decision"] for row in ledger["rows"]] == ["scheduled", "scheduled"]
    scores = {"teacher": ledger["rows"][0]["teacher_scores"]["f1_mix"]}
    scores |= {f"round_{row['number']}": row["scores"]["f1_mix"] for row in ledger["rows"]}
    assert ledger["kept"] == max(scores, key=lambda name: scores[name])
    assert sorted(path.name for path in (tmp_path / "rounds/1/candidates").iterdir()) == [
        "epoch_1.safetensors",
        "epoch_2.safetensors",
    ]


def test_the_best_by_masks_needs_masks_and_the_last_needs_none(
    blobs: PatchDataset, tmp_path: Path, distilled: Distilled
) -> None:
    bare = replace(blobs, val=tuple(replace(record, mask=None) for record in blobs.val))
    with pytest.raises(InputError, match="have no mask"):
        distilled(bare, tmp_path / "best", selector="schedule", max_rounds=1, schedule_keeps="best_f1")
    distilled(bare, tmp_path / "last", selector="schedule", max_rounds=1, schedule_keeps="last")
    assert read_json(tmp_path / "last" / "ledger.json")["kept"] == "round_1"


def test_maps_are_smoothed_by_three_pixels_before_the_threshold() -> None:
    assert LEGACY.smooth_px == 3
    assert PRESETS["paper"].smooth_px == 0
