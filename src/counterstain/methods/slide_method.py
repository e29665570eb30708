"""What every slide method is: a network that is trained on encoded slides and says of a slide what it is, and where.

    training slides -> crops, turns -> batches -> network -> cross entropy
    validation slides -> which epoch is kept -> temperature, threshold, prediction sets
    a slide -> logits -> SlideScore; a slide -> evidence for each cell

A method is a subclass that says its name, its settings and how its network is built; all else is the same for all of them,
so that what is compared differs in the network alone. Test slides are never given to any of it.

B slides, H W rows and columns of cells, N slides of a set.
Does not know: how slides are encoded, folds, exports.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from counterstain import log
from counterstain.data.cell_files import has_thumbnail
from counterstain.data.encoded import EncodedSlide, LabelledSlide, SlideSet
from counterstain.errors import InputError, SplitError
from counterstain.files import settings_hash, whole_hash, write_json
from counterstain.methods.artefacts import open_run, pretrained_of, read_model, save_model
from counterstain.methods.base import Method
from counterstain.methods.device import on_device
from counterstain.methods.slide_batches import EpochShuffle, GridSlide, SlideItems, collate, collate_labelled
from counterstain.methods.slide_config import SlideConfig
from counterstain.methods.slide_decision import Decision
from counterstain.metrics.ranking import auroc
from counterstain.models.slide_network import SlideNetwork
from counterstain.models.weights import load_state, read_state, write_state
from counterstain.results import Classes, EncoderSpec, SlideScore
from counterstain.settings import to_tree
from counterstain.training import TrainSettings, fit, train_loader

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer

_BATCH_CELLS = 1 << 14  # cells scored at a time, padding counted
_BEST = "best.safetensors"


@dataclass(frozen=True)
class Seen:
    """What a slide method was trained on, told from slides of another kind.

    Args:
        encoder: What made the embeddings.
        cell_um: Width and height of a cell.
        chosen: How cells were chosen, plain values as `SlideSet` has them; empty where nobody says.
    """

    encoder: EncoderSpec
    cell_um: float
    chosen: dict[str, Any] = field(default_factory=dict)


class SlideMethod(Method):
    """A method that learns from labelled slides and scores them.

    Args:
        config: Of its `config_type`.
        classes: The background, then the positive class.
        seen: The embeddings it learns from.
        network: As `build_network` gives it.
        decision: How its logits are read.
    """

    presets: ClassVar[Mapping[str, Any]]
    training: ClassVar[Mapping[str, TrainSettings]]
    """How long and on what, by preset."""

    revision: ClassVar[int] = 1
    """Raised when the same settings come to learn something else: runs of before are not taken up then."""

    config: SlideConfig
    network: SlideNetwork

    def __init__(
        self, config: Any, classes: Classes, seen: Seen, network: SlideNetwork, decision: Decision | None = None
    ) -> None:
        self.config, self.classes, self.seen, self.network = config, classes, seen, network
        self.decision = decision or Decision()
        self.pretrained: dict[str, Any] = {}
        self.first_seed: int | None = None

    @classmethod
    def known_as(cls) -> tuple[str | int, ...]:
        """What digests know it by: its name, and its revision, but of the first, which none of them had."""
        return (cls.name, cls.revision) if cls.revision > 1 else (cls.name,)

    @classmethod
    @abstractmethod
    def build_network(cls, config: Any, num_features: int) -> SlideNetwork:
        """The network, its first weights drawn from torch's global generator.

        Args:
            config: Of its `config_type`.
            num_features: Channels of an embedding.
        """

    @classmethod
    def create(cls, config: Any, slides: SlideSet, seed: int) -> Self:
        """A method that has learned nothing yet.

        Args:
            config: Of its `config_type`.
            slides: What it will learn from; only its classes and its encoder are looked at.
            seed: Of the first weights.

        Raises:
            InputError: When the classes are not two.
        """
        if len(slides.classes) != 2:
            raise InputError(
                f"{len(slides.classes)} classes were given; a diagnosis is between two. Name the positive ones: --positive."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = cls.build_network(config, slides.encoder.num_features)
        method = cls(config, slides.classes, Seen(slides.encoder, slides.cell_um, slides.chosen), network)
        method.first_seed = seed
        return method

    def fit(self, train: SlideSet, val: SlideSet, run: Path, settings: TrainSettings) -> None:
        """Learns from slides with labels and keeps the result in a run folder.

        Killed and called again with the same arguments, it resumes where its last checkpoint stands and ends with the same
        weights as without the kill.

        Args:
            train: What the network learns from.
            val: Of other patients, slides of both classes: they choose the decision, and the epoch where one is chosen.
            run: The run folder.
            settings: How long and on what.

        Raises:
            InputError: When a slide has no thumbnail and the network looks at them.
            SplitError: When the two share a patient, or either lacks a class.
            StaleResultError: When the run folder holds a run of other settings or slides.
        """
        _refuse_bad_splits(train, val)
        if self.network.needs_thumbnails:
            _refuse_missing_thumbnails(self.name, (*train.slides, *val.slides))
        if open_run(run, *self._recipe(train, val, settings)):
            finished = type(self).load(*read_model(run))
            self.network, self.decision, self.pretrained = finished.network, finished.decision, finished.pretrained
            return
        items = SlideItems(train, self.config, settings.seed)
        batch_size = min(settings.batch_size, len(items))
        if batch_size < settings.batch_size:
            log.say(
                f"{len(items)} training slides fill no batch of {settings.batch_size}: one batch holds all of them."
            )
        loader = train_loader(
            items,
            batch_size=batch_size,
            seed=settings.seed,
            num_workers=settings.num_workers,
            sampler=EpochShuffle(items.areas(), batch_size, settings.seed),
            collate=collate_labelled,
        )
        held_out = SlideItems(val)
        keeper = _best_epoch(self, held_out, run) if self.config.select == "auroc" else []
        module = _module(self, train, settings.epochs)
        fit(module, loader, run, settings, callbacks=keeper)
        if keeper:
            load_state(self.network, read_state(run / _BEST), source=str(run / _BEST))
        margins, labels = self._margins(held_out)
        self.decision = Decision.learned(margins, labels, self.config)
        sides = {"train": train, "val": val}
        patients = {side: sorted({slide.patient_id for slide in one.slides}) for side, one in sides.items()}
        known = {"name": train.name, "digest": train.digest(), "patients": patients}
        self.save(run, {"data": known, "training": to_tree(settings)})
        (run / _BEST).unlink(missing_ok=True)

    def _recipe(self, train: SlideSet, val: SlideSet, settings: TrainSettings) -> tuple[str, dict[str, Any]]:
        """The digest of all that changes a run's result, and what its `config.toml` says."""
        training = asdict(settings)
        training.pop("num_workers")
        # files by what they hold: where they lie changes nothing
        settings_of = {
            name: whole_hash(value) if isinstance(value, Path) else value for name, value in asdict(self.config).items()
        }
        digest = settings_hash(*self.known_as(), settings_of, self.first_seed, training, train.digest(), val.digest())
        tree: dict[str, Any] = {
            "method": self.name,
            "settings": to_tree(self.config),
            "training": to_tree(settings),
        }
        if self.revision > 1:
            tree["revision"] = self.revision
        tree["data"] = {
            "name": train.name,
            "train": len(train.slides),
            "val": len(val.slides),
            "digest": train.digest(),
        }
        return digest, tree

    def save(self, run: Path, provenance: dict[str, Any] | None = None) -> None:
        save_model(
            run,
            self.network,
            {
                "method": self.name,
                "config": to_tree(self.config),
                "classes": self.classes.to_json(),
                "encoder": asdict(self.seen.encoder),
                "cell_um": self.seen.cell_um,
                "cells_chosen": self.seen.chosen,
                "decision": self.decision.to_json(),
                "provenance": {**(provenance or {}), **self.pretrained},
            },
        )

    @classmethod
    def load(cls, description: dict[str, Any], state: dict[str, Tensor]) -> Self:
        from counterstain.settings import build

        config = build(cls.config_type, description["config"])
        chosen = description.get("cells_chosen", {})  # runs of earlier versions don't say
        seen = Seen(EncoderSpec(**description["encoder"]), description["cell_um"], chosen)
        network = cls.build_network(config, seen.encoder.num_features)
        load_state(network, state, source="the run's model.safetensors")
        decision = Decision.from_json(description["decision"])
        method = cls(config, Classes.from_json(description["classes"]), seen, network, decision)
        known = pretrained_of(description, ["weights"])
        method.pretrained = {name: value for name, value in known.items() if value is not None}
        return method

    @property
    def encoder(self) -> EncoderSpec:
        """What made the embeddings it learned from."""
        return self.seen.encoder

    @property
    def cell_um(self) -> float:
        """Width and height of a cell."""
        return self.seen.cell_um

    def score(self, slides: Sequence[EncodedSlide]) -> npt.NDArray[np.float32]:
        """(N, 2) float32 logits, the background's and the positive class's."""
        return self._logits([GridSlide.of(slide) for slide in slides])

    def margins(self, slides: SlideSet) -> npt.NDArray[np.float64]:
        """(N,) float64: the logit of the positive class less the other's, of slides on disk."""
        items = SlideItems(slides)
        return _margin(self._logits([items.read(number) for number in range(len(items))]))

    def local_shares(self, slides: SlideSet) -> list[float | None]:
        """`local_share` of slides on disk."""
        items = SlideItems(slides)
        return self._shares([items.read(number) for number in range(len(items))])

    def judge(self, slide_id: str, margin: float) -> SlideScore:
        """What is said of a slide, from the difference of its logits."""
        return self.decision.judge(slide_id, margin, self.classes)

    def evidence(self, slide: EncodedSlide) -> npt.NDArray[np.float32]:
        """(H, W) float32: how much each cell speaks for the positive class; NaN where nothing was observed."""
        with on_device(self.network) as device, torch.no_grad():
            evidence_BHW = self.network.evidence(collate([GridSlide.of(slide)]).to(device))
            found: npt.NDArray[np.float32] = evidence_BHW[0].detach().cpu().numpy()
            return found

    def local_share(self, slide: EncodedSlide) -> float | None:
        """The embeddings' part in the answer, in [0, 1], the thumbnail having the rest; None without two streams."""
        return self._shares([GridSlide.of(slide)])[0]

    def _shares(self, slides: Sequence[GridSlide]) -> list[float | None]:
        with on_device(self.network) as device, torch.inference_mode():
            found = [self.network.local_shares(collate([slide]).to(device)) for slide in slides]
        return [None if share_1 is None else float(share_1[0]) for share_1 in found]

    def _margins(self, items: SlideItems) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        pairs = [items[number] for number in range(len(items))]
        return _margin(self._logits([slide for slide, _ in pairs])), np.array([label for _, label in pairs], np.int64)

    def _logits(self, slides: Sequence[GridSlide]) -> npt.NDArray[np.float32]:
        logits = np.empty((len(slides), 2), np.float32)
        with on_device(self.network) as device, torch.inference_mode():
            for numbers in _alike([slide.observed_HW.shape for slide in slides]):
                batch = collate([slides[number] for number in numbers]).to(device)
                logits[numbers] = self.network(batch).float().cpu().numpy()
        return logits


def _alike(shapes: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """Slides of about the same size together, as many as fit."""
    order = sorted(range(len(shapes)), key=lambda number: (shapes[number][0] * shapes[number][1], number))
    batch: list[int] = []
    for number in order:
        grown = [*batch, number]
        area = max(shapes[one][0] for one in grown) * max(shapes[one][1] for one in grown)
        if batch and area * len(grown) > _BATCH_CELLS:
            yield batch
            grown = [number]
        batch = grown
    if batch:
        yield batch


def _margin(logits_N2: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return (logits_N2[:, 1] - logits_N2[:, 0]).astype(np.float64)


def _refuse_bad_splits(train: SlideSet, val: SlideSet) -> None:
    shared = {slide.patient_id for slide in train.slides} & {slide.patient_id for slide in val.slides}
    if shared:
        raise SplitError(
            f"{len(shared)} patients are in training and in validation ({min(shared)}): keep all slides of each together."
        )
    for name, part in (("training", train), ("validation", val)):
        counts = [sum(slide.label == label for slide in part.slides) for label in (0, 1)]
        if not all(counts):
            names = ", ".join(f"{count} {word}" for count, word in zip(counts, part.classes.names, strict=True))
            raise SplitError(f"The {name} slides are {names}; both classes are needed there. Add slides of the other.")


def _refuse_missing_thumbnails(name: str, slides: Sequence[LabelledSlide]) -> None:
    without = [slide.slide_id for slide in slides if not has_thumbnail(slide.folder)]
    if without:
        raise InputError(
            f"{len(without)} of {len(slides)} slides have no thumbnail ({without[0]}), and {name!r} looks at thumbnails as "
            "it is set. Encode them with their slide files at hand, or choose a method that looks at embeddings alone."
        )


def slide_loss(logits_B2: Tensor, labels_B: Tensor, weights_2: Tensor | None = None) -> Tensor:
    """The mean cross entropy of slides, each times the weight of its class, whatever else is in the batch.

    Args:
        logits_B2: float.
        labels_B: int64, 0 or 1.
        weights_2: Of the negative and the positive class; None weighs all alike.
    """
    if weights_2 is None:
        return F.cross_entropy(logits_B2, labels_B)
    # torch's own weights are divided by their sum over the batch: a slide alone in its batch would count as any other
    return (F.cross_entropy(logits_B2, labels_B, reduction="none") * weights_2.to(logits_B2.device)[labels_B]).mean()


def class_weights(slides: Sequence[LabelledSlide]) -> Tensor:
    """(2,) float32: how rare each class is among slides; over the slides they average 1."""
    counts = torch.tensor([sum(slide.label == label for slide in slides) for label in (0, 1)], dtype=torch.float32)
    return len(slides) / (2 * counts)


def _module(method: SlideMethod, train: SlideSet, epochs: int) -> "LightningModule":
    from lightning.pytorch import LightningModule

    config = method.config
    weights_2 = class_weights(train.slides) if config.balance else None

    class Training(LightningModule):
        """Cross entropy of the two logits, and what the network adds."""

        def __init__(self) -> None:
            super().__init__()
            self.network = method.network

        def training_step(self, batch: Any, _: int) -> Tensor:
            slides, labels_B = batch
            logits_B2, added = self.network.learn(slides, labels_B)
            return slide_loss(logits_B2, labels_B, weights_2) + added

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(
                self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
            )
            per_epoch = max(1, int(self.trainer.estimated_stepping_batches) // epochs)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: config.rate(step, per_epoch, epochs))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Training()


def _best_epoch(method: SlideMethod, val: SlideItems, run: Path) -> "list[Callback]":
    """Keeps the weights of the epoch with the best AUROC on the validation slides; the smaller loss of equal ones."""
    from lightning.pytorch import Callback

    class Keeper(Callback):
        """Looks after every epoch, before its checkpoint is written."""

        state_key = "best_epoch"

        def __init__(self) -> None:
            self._seen: list[tuple[float, float]] = []

        def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
            margins, labels = method._margins(val)
            method.network.train()
            signed = np.where(labels == 1, margins, -margins)
            value = (auroc(margins, labels), -float(np.logaddexp(0, -signed).mean()))
            if not self._seen or value > max(self._seen):
                write_state(run / _BEST, method.network.state_dict())
            self._seen.append(value)
            write_json(run / "validation.json", [{"auroc": one, "loss": -loss} for one, loss in self._seen])

        def state_dict(self) -> dict[str, Any]:
            return {"seen": self._seen}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self._seen = [tuple(value) for value in state["seen"]]

    return [Keeper()]


def patients_of(run: Path) -> dict[str, set[str]]:
    """The patients that a finished run learned from ("train"), and was chosen and calibrated on ("val")."""
    sides: dict[str, list[str]] = read_model(run)[0]["provenance"]["data"]["patients"]
    return {side: set(patients) for side, patients in sides.items()}
