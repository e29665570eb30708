"""Fusion knowledge distillation on MIL pseudo-labels: tumour masks from labels of images.

A MIL teacher learns from tumour / no tumour labels. Every output of a student learns from the teacher's fused map; where
the student is the better of the two, roles change. `distil` runs the rounds; here is what a user holds.

    image -> MIL network -> fused map -> (smoothed, snapped) -> probabilities of tumour and of the rest

Does not know: slides, tiles, masks of truth.

Source: "Enhancing Weakly-Supervised Histopathology Image Segmentation with Knowledge Distillation on MIL-Based
Pseudo-Labels"; docs/methods/fusion_kd.md says line by line what is the paper's, the released code's and ours.

B batch, C classes, H W rows and columns.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from counterstain import log
from counterstain.data.tumour import tumour_class
from counterstain.errors import InputError
from counterstain.files import read_json, settings_hash, write_json
from counterstain.methods import artefacts
from counterstain.methods.base import DenseMethod, InputSpec
from counterstain.methods.fusion_kd.config import PRESETS, FusionKDConfig
from counterstain.methods.fusion_kd.distil import Distillation
from counterstain.methods.fusion_kd.finish import is_tissue, smoothed, snapped
from counterstain.methods.fusion_kd.rounds import Kind, State
from counterstain.methods.fusion_kd.taken import check_taken
from counterstain.methods.multi_stage import halo_px
from counterstain.methods.stages import join_losses
from counterstain.models.mil import MilNetwork, build_mil
from counterstain.models.weights import load_state
from counterstain.results import Classes
from counterstain.training import TrainSettings

if TYPE_CHECKING:
    from counterstain.data import PatchDataset

_LEAST = 1e-6  # so that a class that alone may be shown has something to show
_WEIGHTS = ("weights", "student_weights")


class FusionKD(DenseMethod):
    """Tumour masks from labels of images, refined over rounds of teachers and students.

    Args:
        config: See there.
        classes: Two, one of them the background or the other named by the config.
        input: The training images.
        kind: Which of the config's two networks it holds.

    Raises:
        UnknownNameError: When there is no such class, network or option.
        InputError: When the classes are not two, or a network can't be built with these options.
    """

    name: ClassVar[str] = "fusion_kd"
    config_type: ClassVar[type[FusionKDConfig]] = FusionKDConfig
    presets: ClassVar[dict[str, FusionKDConfig]] = PRESETS
    num_classes: ClassVar[int | None] = 2

    def __init__(self, config: FusionKDConfig, classes: Classes, input: InputSpec, kind: Kind = "teacher") -> None:
        self.config, self.classes, self.input, self.kind = config, classes, input, kind
        self.index = tumour_class(classes, config.positive)
        self.thresholds = (0.0,) * len(classes)  # pixels alone decide: an image without tumour pixels has none
        self.network: MilNetwork = _network(config, kind)
        self.pretrained = {f"{name}_digest": None for name in _WEIGHTS}

    @classmethod
    def create(cls, config: Any, data: "PatchDataset", tile_px: int, seed: int) -> Self:
        tile = InputSpec(tile_px, halo_px(tile_px), data.mpp, data.white_is_background)
        method = cls(config, data.classes, tile)
        method.network = method._fresh("teacher", seed)
        method._fresh("student", seed)  # weights that don't fit are refused before the teacher trains for hours
        return method

    def fit(self, data: "PatchDataset", run: Path, settings: TrainSettings) -> None:
        _check_training(settings)
        recipe = artefacts.Recipe(self.name, self.config, settings, data, self.input)
        taken = check_taken(self.config, self.name, recipe.data_digest, settings.seed)
        if artefacts.begin(run, recipe):
            finished = self.load(*artefacts.read_model(run))
            self.network, self.kind, self.pretrained = finished.network, finished.kind, finished.pretrained
            return
        distillation = Distillation(self.config, data, run, settings, self.input.tile_px, self.index, self._fresh)
        state = distillation.execute()
        self.network, self.kind = distillation.network(state.best, state.best_kind), state.best_kind
        log.say(f"Kept: {state.best.replace('_', ' ')}. {_capital(state.end)}.")
        _join(run, distillation)
        self.save(run, {**recipe.provenance(), **taken, **distillation.claims(distillation.rows), **_kept(state)})

    def _fresh(self, kind: Kind, seed: int) -> MilNetwork:
        """A new network, its backbone filled from the file that the config names."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _network(self.config, kind)
        config = self.config
        name, path = (
            ("weights", config.weights) if kind == "teacher" else ("student_weights", config.weights_of_student)
        )
        if path is not None:
            self.pretrained |= artefacts.load_pretrained(network.backbone, path, name)
        return network

    def identity(self) -> str:
        return settings_hash(super().identity(), self.kind, self.input)

    @property
    def ignores_glass(self) -> bool:
        """Whether losses leave glass out, and masks call none of it tumour."""
        given = self.config.ignore_glass
        return self.input.white_is_background if given is None else given

    @torch.no_grad()
    def predict_maps(self, images_BCHW: Tensor, present_BC: Tensor | None = None) -> Tensor:
        self.network.eval()
        fused_B1HW = smoothed(self.network(images_BCHW)[:, -1:].float(), self.config.smooth_px)
        fused_B1HW = snapped(fused_B1HW, images_BCHW, self.config.snap_px)
        if self.ignores_glass:  # nothing has taught it that glass is normal
            fused_B1HW = fused_B1HW * is_tissue(images_BCHW)
        parts = [1 - fused_B1HW, fused_B1HW] if self.index == 1 else [fused_B1HW, 1 - fused_B1HW]
        maps_BCHW = torch.cat(parts, dim=1)
        if present_BC is None:
            return maps_BCHW
        shown_BCHW = maps_BCHW.clamp(min=_LEAST) * present_BC[:, :, None, None]
        return shown_BCHW / shown_BCHW.sum(1, keepdim=True)

    def save(self, run: Path, provenance: dict[str, Any] | None = None) -> None:
        artefacts.save_model(run, self.network, {**artefacts.describe(self, provenance), "kind": self.kind})

    @classmethod
    def load(cls, description: dict[str, Any], state: dict[str, Tensor]) -> Self:
        from counterstain.settings import build

        method = cls(
            build(FusionKDConfig, description["config"]),
            Classes.from_json(description["classes"]),
            artefacts.input_of(description),
            description["kind"],
        )
        load_state(method.network, state, source="The run's model.safetensors")
        method.pretrained = artefacts.pretrained_of(description, _WEIGHTS)
        return method


def _network(config: FusionKDConfig, kind: Kind) -> MilNetwork:
    if kind == "teacher":
        return build_mil(config.teacher, config.teacher_options, config.scale)
    return build_mil(config.student, config.student_options, config.scale)


def _check_training(settings: TrainSettings) -> None:
    if settings.devices > 1:
        raise InputError(
            f"{settings.devices} devices were given; rounds that follow each other train on one. Leave --devices out."
        )
    if settings.batch_size < 2:
        raise InputError("Batches of one image were given; the networks' norms need two. Raise --batch-size.")


def _kept(state: State) -> dict[str, Any]:
    return {"kept": state.best, "end": state.end}


def _capital(sentence: str | None) -> str:
    return sentence[:1].upper() + sentence[1:] if sentence else ""


def _join(run: Path, distillation: Distillation) -> None:
    """Writes the run's losses and minutes from those of its trainings; none where all was taken from another run."""
    folders = distillation.trainings
    notes = {name: read_json(folder / "training.json") for name, folder in folders.items()}
    minutes = {name: note["minutes"] for name, note in notes.items()}
    last: dict[str, Any] = next(reversed(notes.values()), {})
    write_json(
        run / "training.json",
        {
            **last,
            "minutes": sum(minutes.values()),
            "stages": minutes,
            "minutes_by_epoch": [one for note in notes.values() for one in note["minutes_by_epoch"]],
            "epochs": sum(note["epochs"] for note in notes.values()),
        },
    )
    join_losses(run, folders)
