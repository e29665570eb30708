"""How a batch becomes a loss, worked by hand on fixed maps, and what is kept of a student while it trains."""

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from counterstain.losses import generalised_mean_bce
from counterstain.methods.fusion_kd.config import FusionKDConfig
from counterstain.methods.fusion_kd.learn import (
    candidate_epochs,
    is_tissue,
    keeper,
    label_loss,
    learn_labels,
    learn_maps,
)
from counterstain.methods.optimise import training_module, two_groups
from counterstain.models.mil import build_mil
from counterstain.models.weights import read_state
from counterstain.training import TrainSettings, fit, train_loader

PLAIN = FusionKDConfig(wce="off")
LABELS = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
"""(normal, tumour) of a positive and a negative."""


class Fixed(nn.Module):
    """Says the same of every batch."""

    def __init__(self, outputs_BSHW: Tensor) -> None:
        super().__init__()
        self.outputs_BSHW = nn.Parameter(outputs_BSHW)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.outputs_BSHW


class Echo(nn.Module):
    """Says of each pixel how red it is, four times."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW[:, :1].expand(-1, 4, -1, -1)


def pixels(*values: float) -> Tensor:
    """Four outputs of one row that all say the same: (1, 4, 1, W)."""
    return torch.tensor(values).expand(1, 4, 1, -1).clone()


def tissue(num_images: int, width: int) -> Tensor:
    """Images of one row that show tissue: (B, 3, 1, W) uint8."""
    return torch.full((num_images, 3, 1, width), 120, dtype=torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of_labels(outputs: Tensor, images: Tensor, config: FusionKDConfig = PLAIN, ignores_glass: bool = False) -> float:
    network = Fixed(outputs)
    batch = images, LABELS[: len(images)]
    return float(learn_labels(network, config, 1, ignores_glass)(batch, generator(), 0).detach())


def of_maps(
    outputs: Tensor, images: Tensor, maps: Tensor, config: FusionKDConfig = PLAIN, ignores_glass: bool = False
) -> float:
    batch = images, LABELS[: len(images)], maps
    return float(learn_maps(Fixed(outputs), config, 1, ignores_glass)(batch, generator(), 0).detach())


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed))


def kept(*values: int, num_maps: int = 1) -> Tensor:
    """A teacher's maps of one row as they are kept: (1, S, 1, W) uint8."""
    return torch.tensor(values, dtype=torch.uint8).expand(1, num_maps, 1, -1).clone()


def test_pale_gray_is_glass_and_pink_is_tissue() -> None:
    colours_3N = torch.tensor([[240, 240, 240], [230, 170, 200], [202, 202, 202], [199, 199, 199]]).T / 255
    assert is_tissue(colours_3N.view(1, 3, 1, 4)).flatten().tolist() == [False, True, False, True]


def test_a_teachers_loss_is_the_mean_over_images_of_the_sum_over_outputs() -> None:
    """p = .25, .75: as tumour 1 - 3/4; p = .5, .75 as normal 1 - 2.5/3.75; four outputs each."""
    outputs = torch.cat([pixels(0.25, 0.75), pixels(0.5, 0.75)])
    both = 4 / 4 + 4 / 3
    assert of_labels(outputs, tissue(2, 2)) == pytest.approx(both / 2)
    assert of_labels(outputs, tissue(2, 2), replace(PLAIN, batch_sum=True)) == pytest.approx(both)


def test_glass_is_left_out_of_a_teachers_loss() -> None:
    images = tissue(1, 3)
    images[..., 2] = 245
    assert of_labels(pixels(0.25, 0.75, 0.1), images, ignores_glass=True) == pytest.approx(4 / 4)
    assert of_labels(pixels(0.25, 0.75, 0.1), images) > 4 / 4
    validate = label_loss(Fixed(pixels(0.25, 0.75, 0.1)), PLAIN, 1, True)
    assert float(validate((images, LABELS[:1])).detach()) == pytest.approx(4 / 4)


def test_pooled_labels_and_an_area_are_learned_where_they_are_asked_for() -> None:
    pooled = replace(PLAIN, mil_loss="gm_bce", gm_power=1.0)
    assert of_labels(pixels(0.5, 0.75), tissue(1, 2), pooled) == pytest.approx(-4 * math.log(0.625), rel=1e-5)
    with_area = replace(pooled, area_weight=2.0, area_fraction=0.125)
    expected = -4 * math.log(0.625) + 2 * 0.25 * (2.5 + 5 + 10 + 10)
    assert of_labels(pixels(0.5, 0.75), tissue(1, 2), with_area) == pytest.approx(expected, rel=1e-5)


def test_a_validation_loss_is_a_mean_of_images_as_they_are() -> None:
    config = replace(PLAIN, batch_sum=True, augment_teacher=True, turn=True, stain_sigma=0.5)
    images_BCHW = (noise(2, 3, 4, 4) * 255).to(torch.uint8)
    validate = label_loss(Echo(), config, 1, False)
    found = float(validate((images_BCHW, LABELS)))
    assert float(validate((images_BCHW, LABELS))) == found
    assert found == pytest.approx(float(learn_labels(Echo(), PLAIN, 1, False)((images_BCHW, LABELS), generator(), 0)))


def test_a_teachers_images_are_varied_only_if_asked_for() -> None:
    batch = (noise(2, 3, 4, 4) * 255).to(torch.uint8), LABELS
    varied = replace(PLAIN, stain_sigma=0.5)
    plain = float(learn_labels(Echo(), PLAIN, 1, False)(batch, generator(), 0))
    assert float(learn_labels(Echo(), varied, 1, False)(batch, generator(), 0)) == plain
    asked = learn_labels(Echo(), replace(varied, augment_teacher=True), 1, False)
    assert float(asked(batch, generator(), 0)) != plain
    assert float(asked(batch, generator(), 0)) == float(asked(batch, generator(), 0))


def test_every_output_of_a_student_learns_the_one_map_that_is_kept() -> None:
    """p = .5, .5 against t = .8, .2 by |p - t| / (p + t): .6 / 2."""
    config = replace(PLAIN, dice="dml")
    assert of_maps(pixels(0.5, 0.5), tissue(1, 2), kept(204, 51), config) == pytest.approx(4 * 0.3, rel=1e-5)


def test_every_output_learns_its_counterpart_where_blocks_are_distilled() -> None:
    config = replace(PLAIN, dice="dml", distill="block")
    maps = kept(204, 51, num_maps=4)
    maps[:, 1] = 0
    maps[:, 2] = torch.tensor([51, 204])
    assert of_maps(pixels(0.8, 0.2), tissue(1, 2), maps, config) == pytest.approx(0 + 1 + 1.2 / 2 + 0, rel=1e-5)


def test_coarse_maps_are_enlarged_to_the_image() -> None:
    config = replace(PLAIN, dice="dml")
    images, maps = (noise(1, 3, 4, 4) * 255).to(torch.uint8), (noise(1, 1, 2, 2, seed=1) * 255).to(torch.uint8)
    fine = nn.functional.interpolate(maps.float() / 255, size=(4, 4), mode="bilinear", align_corners=False)
    assert of_maps(fine.expand(1, 4, 4, 4), images, maps, config) == pytest.approx(0, abs=1e-6)


def test_a_map_is_moved_with_its_image() -> None:
    """The map is the image's red: whoever gives that back has learned all, if both are turned alike."""
    images = (noise(8, 3, 6, 6) * 255).to(torch.uint8)
    config = replace(PLAIN, dice="dml", flip=True, turn=True)
    learn = learn_maps(Echo(), config, 1, False)
    batch = images, LABELS[:1].expand(8, 2), images[:, :1]
    assert float(learn(batch, generator(), 0)) == pytest.approx(0, abs=1e-5)
    upside_down = images, LABELS[:1].expand(8, 2), images[:, :1].flip(2)
    assert float(learn(upside_down, generator(), 0)) > 0.1


@pytest.mark.parametrize("wce", ["agreement", "off"])
@pytest.mark.parametrize("dice", ["soft", "dml", "squared"])
def test_negatives_ignore_the_teachers_map(dice: str, wce: Any) -> None:
    config = replace(PLAIN, dice=dice, wce=wce)
    outputs = torch.cat([pixels(0.3, 0.6), pixels(0.2, 0.7)])
    losses = {
        of_maps(outputs, tissue(2, 2), torch.cat([kept(204, 51), kept(*said)]), config)
        for said in ((0, 0), (255, 255), (255, 0))
    }
    assert len(losses) == 1
    true = replace(config, wce="off", dice="soft")
    alone = learn_maps(Fixed(pixels(0.5, 0.75)), true, 1, False)
    loss = alone((tissue(1, 2), LABELS[1:], kept(255, 255)), generator(), 0)
    assert float(loss.detach()) == pytest.approx(4 * (1 - 2.5 / 3.75))  # against a mask of zeros


@pytest.mark.parametrize("wce", ["agreement", "legacy", "off"])
def test_nothing_is_learned_from_glass(wce: Any) -> None:
    config = replace(PLAIN, wce=wce, anchor_weight=0.5)
    images = tissue(2, 3)
    images[..., 2] = 245
    network = Fixed(noise(2, 4, 1, 3))
    for said in (0, 255):
        maps = torch.cat([kept(204, 51, said), kept(0, 0, 0)])
        loss = learn_maps(network, config, 1, True)((images, LABELS, maps), generator(), 0)
        gradient = torch.autograd.grad(loss, network.outputs_BSHW)[0]
        assert bool((gradient[..., :2] != 0).all())
        assert not gradient[..., 2].any()


def test_the_cross_entropy_is_on_the_fused_map_alone_and_weighs_what_it_is_told() -> None:
    config = replace(PLAIN, wce="agreement", wce_weight=3.0, ignore_band=0.0)
    outputs, maps = pixels(0.9, 0.2), kept(255, 0)
    plain = of_maps(outputs, tissue(1, 2), maps)
    weights = 0.9 / 0.85, 0.8 / 0.85
    expected = -(weights[0] * math.log(0.9) + weights[1] * math.log(0.8)) / 2
    assert of_maps(outputs, tissue(1, 2), maps, config) == pytest.approx(plain + 3 * expected, rel=1e-5)
    outputs[:, :3] = 0.5
    sides_changed = of_maps(outputs, tissue(1, 2), maps, config) - of_maps(outputs, tissue(1, 2), maps)
    assert sides_changed == pytest.approx(3 * expected, rel=1e-5)


def test_the_anchor_holds_the_fused_map_to_the_label() -> None:
    outputs, maps = noise(2, 4, 2, 2), torch.cat([kept(204, 51), kept(0, 0)]).expand(2, 1, 2, 2)
    images = torch.full((2, 3, 2, 2), 120, dtype=torch.uint8)
    anchored = of_maps(outputs, images, maps, replace(PLAIN, anchor_weight=0.25, gm_power=3.0))
    anchor_B1 = generalised_mean_bce(outputs[:, 3:], torch.tensor([True, False]), 3.0)
    assert anchored == pytest.approx(of_maps(outputs, images, maps) + 0.25 * float(anchor_B1.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("epochs", "number", "expected"),
    [(30, 30, tuple(range(1, 31))), (4, 1, (4,)), (10, 2, (5, 10)), (10, 3, (3, 7, 10)), (2, 5, (1, 2)), (1, 1, (1,))],
)
def test_candidates_are_spaced_evenly_and_the_last_epoch_is_one(
    epochs: int, number: int, expected: tuple[int, ...]
) -> None:
    assert candidate_epochs(epochs, number) == expected


NUM_STEPS = 3
"""Of an epoch."""


class Watcher(Callback):
    """Notes the optimiser's state before the first step, and weights and norms' buffers after each."""

    def __init__(self) -> None:
        self.begun_with: dict[str, Any] = {}
        self.states: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begun_with = deepcopy(trainer.optimizers[0].state_dict())  # else it goes on with the training

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.states.append({name: tensor.clone() for name, tensor in pl_module.network.state_dict().items()})


def student_trained(
    folder: Path, epochs: int, files: dict[int, Path], ema: float = 0.0, moments: Path | None = None, rate: float = 1e-2
) -> Watcher:
    """A student's training of some epochs, which goes on where one stands in the folder."""
    torch.manual_seed(0)
    network, config = build_mil("tiny_mil", {"width": 2}), FusionKDConfig(learning_rate=rate, wce="off", dice="dml")
    images, maps = noise(4 * NUM_STEPS, 3, 16, 16), noise(4 * NUM_STEPS, 1, 16, 16, seed=1)
    labels = LABELS.repeat(2 * NUM_STEPS, 1)
    data = TensorDataset((images * 255).to(torch.uint8), labels, (maps * 255).to(torch.uint8))
    optimiser = config.optimiser(0)
    groups = two_groups(network.parameter_groups(), optimiser)
    module = training_module(network, groups, optimiser, 0, learn_maps(network, config, 1, False))
    watcher = Watcher()
    callbacks = [keeper(network, files, ema, moments), watcher]
    settings = TrainSettings(epochs=epochs, batch_size=4, seed=0)
    fit(module, train_loader(data, batch_size=4, seed=0), folder, settings, callbacks=callbacks)
    return watcher


def files_in(folder: Path, *epochs: int) -> dict[int, Path]:
    return {epoch: folder / f"epoch_{epoch}.safetensors" for epoch in epochs}


def test_candidates_are_the_weights_after_their_epochs(tmp_path: Path) -> None:
    files = files_in(tmp_path, 1, 3)
    states = student_trained(tmp_path / "run", 3, files).states
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [path.name for path in files.values()]
    for epoch, path in files.items():
        state = read_state(path)
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[epoch * NUM_STEPS - 1][name]) for name in state)


def test_the_average_over_steps_is_as_worked_by_hand_and_survives_a_kill(tmp_path: Path) -> None:
    files, others = files_in(tmp_path, 2), files_in(tmp_path / "killed", 2)
    states = student_trained(tmp_path / "whole", 2, files, ema=0.8).states
    average = states[0]
    for state in states[1:]:
        average = {
            name: 0.8 * average[name] + 0.2 * state[name] if state[name].is_floating_point() else state[name]
            for name in state
        }
    found = read_state(files[2])
    for name in (name for name in average if average[name].is_floating_point()):
        torch.testing.assert_close(found[name], average[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(found[name], states[-1][name])

    # stopped after an epoch, as a kill between two of them would
    student_trained(tmp_path / "run", 1, others, ema=0.8)
    assert not others[2].exists()
    student_trained(tmp_path / "run", 2, others, ema=0.8)
    again = read_state(others[2])
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_a_student_begins_with_the_moments_that_another_ended_with(tmp_path: Path) -> None:
    student_trained(tmp_path / "before", 2, {}, rate=1e-2)
    path = tmp_path / "before" / "checkpoints" / "last.ckpt"
    ended_with = torch.load(path, weights_only=True)["optimizer_states"][0]
    begun_with = student_trained(tmp_path / "after", 2, files_in(tmp_path, 2), moments=path, rate=5e-3).begun_with
    assert begun_with["state"].keys() == ended_with["state"].keys() != set()
    for number, moments in ended_with["state"].items():
        assert moments["step"] == 2 * NUM_STEPS
        assert all(torch.equal(begun_with["state"][number][name], moments[name]) for name in moments)
    assert {group["lr"] for group in begun_with["param_groups"]} == {5e-3}
    assert student_trained(tmp_path / "fresh", 1, {}).begun_with["state"] == {}

    # a resumed training has moments of its own by then, and keeps those
    student_trained(tmp_path / "resumed", 1, {}, moments=path, rate=5e-3)
    resumed = student_trained(tmp_path / "resumed", 2, files_in(tmp_path / "again", 2), moments=path, rate=5e-3)
    assert {float(moments["step"]) for moments in resumed.begun_with["state"].values()} == {3.0 * NUM_STEPS}
    whole, again = (read_state(folder / "epoch_2.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_glass_is_left_out_of_the_weighted_cross_entropy() -> None:
    """p = .8 against a pseudo label of tumour, whatever glass says: -log .8; as background to both it would halve."""
    images = tissue(1, 2)
    images[..., 1] = 245
    config = replace(PLAIN, dice="dml", wce="agreement", per_class=False)
    of_dice = of_maps(pixels(0.8, 0.1), images, kept(204, 0), replace(config, wce="off"), ignores_glass=True)
    found = of_maps(pixels(0.8, 0.1), images, kept(204, 0), config, ignores_glass=True)
    assert found - of_dice == pytest.approx(-math.log(0.8), rel=1e-4)
