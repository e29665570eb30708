"""`fit`: one training run, from a Lightning module and its loaders to checkpoints and a loss curve.

Every epoch ends with an atomic checkpoint. Each step's randomness (dropout, augmentation) is drawn from (seed, step), and
each epoch's order from (seed, epoch): a run that was killed and started again goes on from its last checkpoint and ends
with the same weights and the same loss curve as one that was not.

    run/checkpoints/last.ckpt    weights, optimiser, schedule, counters
    run/losses.csv               step, loss
    run/training.json            minutes trained, epochs, device, precision

Does not know: networks, losses, data, methods. Lightning is imported when training starts: it takes seconds.
"""

import csv
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from counterstain import log
from counterstain.errors import DivergedError, InputError
from counterstain.files import atomic, make_folder, read_json, write_json

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from torch.utils.data import DataLoader


@dataclass(frozen=True)
class TrainSettings:
    """How long and on what a method is trained; what it learns with stands in the method's own config.

    Args:
        epochs: Passes over the training images.
        batch_size: Images a step on one device.
        seed: Of weights, order, dropout and augmentation.
        num_workers: Processes that read images; 0 reads in the training process.
        precision: "auto" takes bf16 where a GPU has it, else fp16 on a GPU, else fp32; bf16 on a CPU is slower than fp32.
        devices: How many GPUs (or CPU processes) train side by side.
        patience: Epochs without a lower validation loss after which training stops; None trains to the end.

    Raises:
        InputError: When a number is below 1.
    """

    epochs: int = 25
    batch_size: int = 20
    seed: int = 42
    num_workers: int = 0
    precision: Literal["auto", "32", "16", "bf16"] = "auto"
    devices: int = 1
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "devices", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"Setting {name!r} was given as {value}; it must be at least 1.")
        if self.num_workers < 0:
            raise InputError(f"Setting 'num_workers' was given as {self.num_workers}; it must be 0 or more.")


@dataclass(frozen=True)
class Resumed:
    """Where a run went on.

    Args:
        epoch: The first epoch trained by this call; 0 when it started afresh.
    """

    epoch: int


def fit(
    module: "LightningModule",
    train_loader: "DataLoader[Any]",
    run: Path,
    settings: TrainSettings,
    val_loader: "DataLoader[Any] | None" = None,
    callbacks: "Sequence[Callback]" = (),
) -> Resumed:
    """Trains a module to the end, from where its run folder's last checkpoint stands.

    Args:
        module: Its `training_step` gives the loss. With a `val_loader` its `validation_step` logs "val_loss".
        train_loader: As `training.train_loader` makes it.
        run: The run folder.
        settings: How long and on what.
        val_loader: Needed for early stopping, of no use otherwise.
        callbacks: Further ones. They come before each epoch's checkpoint is written, which holds their state.

    Returns:
        The epoch at which this call took up the run.

    Raises:
        InputError: When `patience` is set and there is nothing to validate on, or a precision is asked of a CPU.
        DivergedError: When the loss is no number any more.
    """
    from lightning.pytorch import Trainer

    if settings.patience is not None and val_loader is None:
        raise InputError("Early stopping was asked for, but there is no validation split. Leave --patience out.")
    checkpoint = run / "checkpoints" / "last.ckpt"
    resumed = Resumed(_epochs_done(checkpoint))
    _seed(settings.seed, resumed.epoch)
    if hasattr(train_loader.sampler, "set_epoch"):
        # processes that read ask for an order before Lightning has said which epoch comes
        train_loader.sampler.set_epoch(resumed.epoch)
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        steps = len(train_loader) // settings.devices  # of an epoch, for each process
        counter = stack.enter_context(
            log.progress("Training", settings.epochs * steps, "steps", done=resumed.epoch * steps)
        )
        trainer = Trainer(
            accelerator="auto",
            devices=settings.devices,
            precision=_precision(settings.precision),
            max_epochs=settings.epochs,
            callbacks=[*callbacks, *_callbacks(run, settings, counter)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if val_loader is not None else 0,
        )
        trainer.fit(module, train_loader, val_loader, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
    return resumed


def _epochs_done(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["epoch"]) + 1


def _precision(asked: str) -> Any:
    if asked == "auto":
        if not torch.cuda.is_available():
            return "32-true"
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if asked != "32" and not torch.cuda.is_available():
        raise InputError(
            f"Precision {asked!r} was given for a CPU, where it is many times slower. Pass --precision 32."
        )
    return {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}[asked]


def _seed(seed: int, number: int) -> None:
    """Draws everything that follows from (seed, number), on all devices."""
    torch.manual_seed((seed * 1_000_003 + number) % (1 << 63))


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's banners and hints about loaders are kept from the terminal; its errors are not."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    before = [logging.getLogger(name).level for name in names]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*but have no .val_dataloader.*")
        # frozen norms stay in evaluation mode on purpose
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in zip(names, before, strict=True):
                logging.getLogger(name).setLevel(level)


def _callbacks(run: Path, settings: TrainSettings, counter: log.Counter) -> "list[Callback]":
    from lightning.pytorch import Callback
    from lightning.pytorch.callbacks import EarlyStopping

    # It looks right after validation: at an epoch's end it comes after Keeper, and the checkpoint would lack its count.
    stopper = (
        EarlyStopping("val_loss", patience=settings.patience, mode="min", check_on_train_epoch_end=False)
        if settings.patience is not None
        else None
    )

    class Keeper(Callback):
        """Seeds each step, keeps the loss curve, saves after each epoch."""

        def __init__(self) -> None:
            self._losses: list[tuple[int, float]] = []
            self._coming: tuple[int, Callable[[], float]] | None = None
            self._epoch_start = 0.0

        def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
            # Lightning forgets that it had stopped: a run killed after its last epoch would train one more
            if stopper is not None and (stopper.stopped_epoch or stopper.wait_count >= stopper.patience):
                trainer.should_stop = True

        def on_train_epoch_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
            self._epoch_start = time.monotonic()

        def on_train_batch_start(
            self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int
        ) -> None:
            _seed(settings.seed + trainer.global_rank, trainer.global_step)

        def on_train_batch_end(
            self, trainer: "Trainer", pl_module: "LightningModule", outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            # The loss of the step before: a GPU that was waited for at each step would stand idle until the next.
            self._note(trainer)
            self._coming = (trainer.global_step, _coming(outputs["loss"]))

        def _note(self, trainer: "Trainer") -> None:
            if self._coming is None:
                return
            (step, arrived), self._coming = self._coming, None
            loss = arrived()
            if not math.isfinite(loss):
                raise DivergedError(
                    f"The loss became {loss} at step {step}. Lower the learning rate, or train in another folder with "
                    "--precision 32."
                )
            self._losses.append((step, loss))
            counter.advance(note=f"epoch {trainer.current_epoch + 1}/{settings.epochs}, loss {loss:.3f}")

        def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
            self._note(trainer)
            # The checkpoint comes last: killed in between, the epoch is trained again and its losses replaced.
            if trainer.is_global_zero and self._losses:
                _append_losses(run / "losses.csv", self._losses)
                _add_minutes(run / "training.json", trainer, (time.monotonic() - self._epoch_start) / 60)
            _save_checkpoint(trainer, run / "checkpoints" / "last.ckpt")
            self._losses = []

    return [Keeper()] if stopper is None else [stopper, Keeper()]


def _coming(loss: torch.Tensor) -> Callable[[], float]:
    """A loss on its way from its device. Asked for, it waits for its own step and not for what was begun since."""
    if loss.device.type != "cuda":
        value = float(loss)
        return lambda: value
    copied, is_there = loss.detach().to("cpu", non_blocking=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
    is_there.record()

    def arrived() -> float:
        is_there.synchronize()
        return float(copied)

    return arrived


def _save_checkpoint(trainer: "Trainer", path: Path) -> None:
    """Every process takes part, as sharded strategies ask; one renames."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}")
    trainer.save_checkpoint(temporary)
    if trainer.is_global_zero:
        temporary.replace(path)


def _append_losses(path: Path, losses: list[tuple[int, float]]) -> None:
    """Adds an epoch to the loss curve; steps that an interrupted epoch had written before are replaced."""
    rows = [row for row in read_losses(path) if row[0] < losses[0][0]] if path.exists() else []
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss"])
        writer.writerows((step, repr(loss)) for step, loss in [*rows, *losses])


def read_losses(path: Path) -> list[tuple[int, float]]:
    """The loss curve of a run: (step, loss), steps from 1."""
    with path.open(newline="", encoding="utf-8") as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


def _add_minutes(path: Path, trainer: "Trainer", minutes: float) -> None:
    # An epoch that was trained twice, since a kill came before its checkpoint, counts once.
    before = read_json(path)["minutes_by_epoch"] if path.exists() and trainer.current_epoch > 0 else []
    minutes_by_epoch = [*before[: trainer.current_epoch], minutes]
    write_json(
        path,
        {
            "minutes": sum(minutes_by_epoch),
            "minutes_by_epoch": minutes_by_epoch,
            "epochs": trainer.current_epoch + 1,
            "device": str(trainer.strategy.root_device),
            "devices": trainer.num_devices,
            "precision": str(trainer.precision),
        },
    )
