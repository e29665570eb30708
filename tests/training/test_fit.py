from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from counterstain.errors import DivergedError, InputError
from counterstain.files import read_json
from counterstain.training import SeededShuffle, TrainSettings, fit, train_loader
from counterstain.training.fit import read_losses


class Points(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, num: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(num, 4, generator=generator)
        self.targets = self.inputs.sum(1, keepdim=True)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]


class Regression(LightningModule):
    """Dropout makes each step depend on its random draws; momentum makes it depend on the optimiser's state."""

    def __init__(self, stop_at_step: int | None = None, lr: float = 0.005) -> None:
        super().__init__()
        self.lr = lr
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.stop_at_step = stop_at_step

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        if self.stop_at_step == self.global_step:
            raise KeyboardInterrupt
        inputs, targets = batch
        return nn.functional.mse_loss(self.network(inputs), targets)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self.log("val_loss", torch.tensor(1.0))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - step / 20) ** 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


SETTINGS = TrainSettings(epochs=4, batch_size=4, seed=3)


def loader() -> DataLoader[Any]:
    return train_loader(Points(22), batch_size=4, seed=3)


def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path: Path) -> None:
    whole, halted, resumed = Regression(), Regression(stop_at_step=12), Regression()
    assert fit(whole, loader(), tmp_path / "whole", SETTINGS).epoch == 0
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(halted, loader(), tmp_path / "broken", SETTINGS)
    assert fit(resumed, loader(), tmp_path / "broken", SETTINGS).epoch == 2
    assert read_losses(tmp_path / "whole" / "losses.csv") == read_losses(tmp_path / "broken" / "losses.csv")
    assert len(read_losses(tmp_path / "whole" / "losses.csv")) == 20
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert read_json(tmp_path / "whole" / "training.json")["epochs"] == 4


def test_training_stops_early_only_when_asked(tmp_path: Path) -> None:
    settings = TrainSettings(epochs=4, batch_size=4, patience=1)
    fit(Regression(), loader(), tmp_path, settings, val_loader=DataLoader(Points(4), batch_size=4))
    assert read_json(tmp_path / "training.json")["epochs"] == 2
    with pytest.raises(InputError, match="no validation split"):
        fit(Regression(), loader(), tmp_path, settings)


def test_a_run_that_stopped_early_is_not_trained_on_when_it_is_taken_up_again(tmp_path: Path) -> None:
    settings = TrainSettings(epochs=4, batch_size=4, patience=1)
    networks = [Regression(), Regression()]
    for network in networks:
        fit(network, loader(), tmp_path, settings, val_loader=DataLoader(Points(4), batch_size=4))
        assert read_json(tmp_path / "training.json")["epochs"] == 2
        assert len(read_losses(tmp_path / "losses.csv")) == 2 * 5
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, other)


def test_patience_goes_on_counting_where_a_run_was_stopped(tmp_path: Path) -> None:
    settings, val_loader = TrainSettings(epochs=9, batch_size=4, patience=2), DataLoader(Points(4), batch_size=4)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(Regression(stop_at_step=12), loader(), tmp_path, settings, val_loader)
    fit(Regression(), loader(), tmp_path, settings, val_loader)
    assert read_json(tmp_path / "training.json")["epochs"] == 3


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="Lower the learning rate"):
        fit(Regression(lr=1e20), loader(), tmp_path, SETTINGS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU to train on")
def test_half_precision_is_refused_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Pass --precision 32"):
        fit(Regression(), loader(), tmp_path, TrainSettings(epochs=1, batch_size=4, precision="bf16"))


def test_each_epoch_has_an_order_of_its_own_and_the_same_one_again() -> None:
    sampler = SeededShuffle(Points(50), seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == first != second
    assert sorted(second) == list(range(50))
    assert len(sampler) == 50


def test_too_few_images_for_a_batch_are_refused() -> None:
    with pytest.raises(InputError, match="Lower --batch-size"):
        train_loader(Points(3), batch_size=4, seed=0)


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_size": 0}, {"patience": 0}, {"num_workers": -1}])
def test_settings_below_their_least_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        TrainSettings(**bad)  # type: ignore[arg-type]
