"""Trains an S-CAE on cells without labels, and makes an encoder of the result.

    cells -> S-CAE -> their reconstruction -> squared error      (training)
    pictures of cells -> the S-CAE's encoder -> embeddings        (`scae_encoder`)

It learns from no label, so it is no method that gives maps or scores: a run folder holds what theirs hold (`config.toml`,
`run.json`, `model.safetensors`, `model.json`, `losses.csv`) and `figures/reconstruction.png`, to see whether the mask found
nuclei. The mask's sparsity rho is a number, or sought: a pilot learns for a while, and rho is put where its detection
scores recall the nuclei (`rho.py`).

Shapes: N cells, P x P their pixels, B C H W as usual.
Does not know: slides, how cells are drawn.
"""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from counterstain import log
from counterstain.data.encoder_patches import DrawnCells
from counterstain.errors import InputError, UnknownNameError
from counterstain.files import atomic, read_json, settings_hash, write_json
from counterstain.methods.artefacts import model_digest, open_run, read_model, save_model
from counterstain.methods.device import on_device
from counterstain.methods.optimise import Learn, OptimiserSettings, training_module
from counterstain.methods.rho import haematoxylin, rho_for
from counterstain.models.encoders import PatchEncoder
from counterstain.models.scae import SCAE, STRIDE, Decoder, Encoding, MaskMode, SCAESettings
from counterstain.models.weights import load_state
from counterstain.results import EncoderSpec
from counterstain.settings import to_tree
from counterstain.training import TrainSettings, fit, train_loader

NAME = "scae"

_BATCH = 32  # pictures at a time where nothing is learned
_PILOT_RHO = 90.0  # halfway between the smallest and the largest that are sought
_SHOWN = 6  # cells in the picture of reconstructions
_LOOKED_AT = 96  # cells of which active places are counted
# Ours: encoders that found nuclei had as many active places as rho asks for, one that learned from 200 cells a tenth of it.
_FAR = 3.0


@dataclass(frozen=True)
class SCAEConfig:
    """What an S-CAE is and learns with; the defaults are the paper's, ours where it is silent.

    Args:
        encoding: "separated", "fg", "bg" or "mixed", as `SCAESettings` has them.
        decoder: "paper" or "tiny", which a CPU can train.
        mask: "straight_through", "hard" or "head", as `SCAESettings` has them.
        rho: Per cent of all places that are masked, or "search".
        recall: Of nuclei, that rho is sought for.
        pilot_epochs: What a search learns from.
        tau_momentum: How much of the mask's threshold each batch leaves.
        optimizer: "sgd" with Nesterov's momentum, as published, or "adamw".
        learning_rate: It falls to 0 as (1 - step / steps) ** poly_power.
        momentum: Of SGD.
        weight_decay: On everything.
        poly_power: 0 keeps the learning rate, as published.
        warmup_steps: Over which the learning rate rises, ours; 0 is none.

    Raises:
        InputError: When a number is out of its range; `UnknownNameError` for names.

    Source: DSNet (arXiv 2109.05788), section IV-D. rho, the mask's momentum and how rho is sought are ours: the paper does
        not say.
    """

    encoding: Encoding = "separated"
    decoder: Decoder = "paper"
    mask: MaskMode = "straight_through"
    rho: float | Literal["search"] = 95.0
    recall: float = 0.8
    pilot_epochs: int = 1
    tau_momentum: float = 0.9
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.03
    momentum: float = 0.8
    weight_decay: float = 1e-5
    poly_power: float = 0.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adamw"):
            raise UnknownNameError("optimizer", self.optimizer, ("sgd", "adamw"))
        if self.learning_rate <= 0:
            raise InputError(f"Setting 'learning_rate' was given as {self.learning_rate}; it must be above 0.")
        if self.optimizer == "sgd" and not 0 < self.momentum < 1:
            raise InputError(f"Setting 'momentum' was given as {self.momentum}; give a number between 0 and 1.")
        for name in ("weight_decay", "poly_power", "warmup_steps"):
            if getattr(self, name) < 0:
                raise InputError(f"Setting {name!r} was given as {getattr(self, name)}; it must be 0 or more.")
        if not 0 < self.recall < 1:
            raise InputError(f"Setting 'recall' was given as {self.recall}; give a share between 0 and 1.")
        if self.pilot_epochs < 1:
            raise InputError(f"Setting 'pilot_epochs' was given as {self.pilot_epochs}; it must be at least 1.")
        self.network(_PILOT_RHO if self.rho == "search" else self.rho)  # refuses what is out of range there

    def network(self, rho: float) -> SCAESettings:
        """What the network is, once rho is known."""
        return SCAESettings(self.encoding, self.decoder, self.mask, rho, self.tau_momentum)

    @property
    def optimiser(self) -> OptimiserSettings:
        """How the network's parameters are moved."""
        return OptimiserSettings(
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            scratch_factor=1.0,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            poly_power=self.poly_power,
            warmup_steps=self.warmup_steps,
            gradient_clip=0.0,
            nesterov=self.optimizer == "sgd",
        )


PRESETS = {
    "paper": SCAEConfig(),
    # The paper's encoder, trained within five minutes on one core. Nesterov's SGD stays: with AdamW the mask settled on
    # what is bright, in a trial on synthetic tissue.
    "small": SCAEConfig(decoder="tiny", rho=90.0, poly_power=0.9),
}
"""Configs by name; the first is the published one."""

TRAINING = {"paper": TrainSettings(epochs=6, batch_size=8), "small": TrainSettings(epochs=4, batch_size=8)}
"""How long each preset is trained. The paper's 6 epochs are "for each of the selected slides"; ours go over the pool of all
cells, shuffled: slide after slide, a network forgets the first."""


def train_scae(
    cells: DrawnCells, run: Path | str, config: SCAEConfig | None = None, settings: TrainSettings | None = None
) -> SCAE:
    """Trains an S-CAE and keeps it in a run folder.

    Killed and called again with the same arguments, it resumes where its last checkpoint stands and ends with the same
    weights as without the kill; a finished run is loaded.

    Args:
        cells: What it learns from, of training slides only.
        run: The run folder.
        config: What it is and learns with; the published one when None.
        settings: How long and on what; as published when None.

    Returns:
        The network, in evaluation mode.

    Raises:
        InputError: When cells are no multiple of 16 px wide, are fewer than a batch, or rho is sought for what has no mask.
        StaleResultError: When the run folder holds a run of other cells or settings.
        DivergedError: When the loss is no number any more.
    """
    run, config = Path(run), SCAEConfig() if config is None else config
    settings = TRAINING["paper"] if settings is None else settings
    side = cells.pixels_NPP3.shape[1]
    if side % STRIDE:
        raise InputError(f"Cells of {side} px were given to an S-CAE; draw them at a multiple of {STRIDE} px, 112 say.")
    if config.rho == "search" and config.encoding == "mixed":
        raise InputError("rho was to be sought for a mixed encoding, which has no mask. Give rho as a number.")
    training = asdict(settings)
    training.pop("num_workers")
    data = {"slides": len(cells.names), "cells": len(cells), "input_px": side, "digest": cells.digest()}
    digest = settings_hash(NAME, asdict(config), training, data["digest"])
    tree = {"method": NAME, "settings": to_tree(config), "training": to_tree(settings), "data": data}
    if open_run(run, digest, tree):
        return load_scae(run)
    rho = _searched(cells, run, config, settings) if config.rho == "search" else config.rho
    network = _learn(cells, run, config, rho, settings)
    picture = run / "figures" / "reconstruction.png"
    draw_reconstruction(network, _some(cells, _SHOWN), picture)
    told = little_learned(active_share(network, _some(cells, _LOOKED_AT)), rho)
    if told is not None:
        log.say(f"{run} may have learned too little: {told}. Look at {picture}, and give it more cells or epochs.")
    provenance = {
        "data": {**data, "names": list(cells.names), "draw": to_tree(cells.settings)},
        "training": to_tree(settings),
    }
    description = {"method": NAME, "config": to_tree(config), "rho": rho, "input_px": side, "provenance": provenance}
    save_model(run, network, description)
    return network


def _some(cells: DrawnCells, num: int) -> npt.NDArray[np.uint8]:
    """Cells of all slides, at most `num`: (N, P, P, 3) uint8 RGB."""
    return cells.pixels_NPP3[:: -(-len(cells) // num)]


@torch.inference_mode()
def active_share(network: SCAE, pixels_NPP3: npt.NDArray[np.uint8]) -> float | None:
    """The part of a cell's places that the mask leaves active, 0 to 1: the median over cells; None where there is no mask.

    Args:
        network: Trained.
        pixels_NPP3: (N, P, P, 3) uint8 RGB.
    """
    if network.settings.encoding == "mixed":
        return None
    with on_device(network) as device:
        masks = [network.encoder.mask(images_of(batch_BPP3.to(device))) for batch_BPP3 in _batches(pixels_NPP3)]
    return float(torch.cat(masks).float().flatten(1).mean(1).median())


def little_learned(share: float | None, rho: float) -> str | None:
    """What an active share that is far from rho has to tell; None where it is not far, or there is no mask."""
    if share is None or not is_far_from_rho(share, rho):
        return None
    return f"{100 * share:.1f} % of an ordinary cell's places are active, rho {rho:g} asks for {100 - rho:g} %"


def is_far_from_rho(share: float, rho: float) -> bool:
    """Whether a part of active places is less than a third or more than three times what rho asks for."""
    wanted = 1 - rho / 100
    return not wanted / _FAR <= share <= wanted * _FAR


def load_scae(run: Path | str) -> SCAE:
    """The S-CAE of a finished run, in evaluation mode.

    Raises:
        MissingFileError: When there is no finished run.
        InputError: When the run is none of an S-CAE.
        WeightsError: When its tensors do not fit its description.
    """
    return _load(Path(run))[0]


class SCAEPatchEncoder(PatchEncoder):
    """A trained S-CAE's encoder behind the contract of patch encoders.

    Args:
        network: The S-CAE; its encoder is kept, not copied, put into evaluation mode and frozen.
        spec: What it is called and known by.
    """

    def __init__(self, network: SCAE, spec: EncoderSpec) -> None:
        super().__init__()
        # channels last: a seventh faster on a CPU
        self.encoder = network.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = spec
        self.requires_grad_(False).eval()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        embeddings_BC: Tensor = self.encoder(images_BCHW.contiguous(memory_format=torch.channels_last))
        return embeddings_BC.float()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: the threshold must not follow what is encoded."""
        return super().train(False)


def scae_encoder(run: Path | str, encoding: Encoding | None = None) -> SCAEPatchEncoder:
    """The encoder of a finished run.

    Args:
        run: The run folder.
        encoding: Another one of the same network: "fg" or "bg" of a separated one; None for the run's own.

    Raises:
        MissingFileError: When there is no finished run.
        InputError: When the run is none of an S-CAE, or the network has no such encoding.
        WeightsError: When its tensors do not fit its description.
    """
    network, description = _load(Path(run))
    own = network.settings.encoding
    encoding = own if encoding is None else encoding
    if encoding != own and "mixed" in (encoding, own):
        raise InputError(f"{run} holds an S-CAE of {own!r} encoding, which has no {encoding!r}. Train one that has.")
    network.encoder.settings = replace(network.settings, encoding=encoding)
    spec = EncoderSpec(
        name=NAME if encoding == "separated" else f"{NAME}_{encoding}",
        num_features=network.encoder.num_features,
        digest=settings_hash(NAME, model_digest(Path(run)), encoding),
        input_px=description["input_px"],
        licence="yours: trained here",
    )
    return SCAEPatchEncoder(network, spec)


@torch.inference_mode()
def draw_reconstruction(network: SCAE, pixels_NPP3: npt.NDArray[np.uint8], path: Path) -> None:
    """Draws cells, their masks, what each decoder makes of them, and the sum; below it stands what good ones look like.

    Args:
        network: Trained.
        pixels_NPP3: (N, P, P, 3) uint8 RGB, one row of the picture each.
        path: The picture to write.
    """
    from matplotlib.figure import Figure

    columns = _columns(network, pixels_NPP3)
    figure = Figure(figsize=(1.6 * len(columns), 1.6 * len(pixels_NPP3) + 0.4), layout="constrained")
    panels = figure.subplots(len(pixels_NPP3), len(columns), squeeze=False)
    for panel, title in zip(panels[0], columns, strict=True):
        panel.set_title(title, fontsize=8)
    for row, axes in enumerate(panels):
        for panel, views in zip(axes, columns.values(), strict=True):
            panel.imshow(views[row], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set_axis_off()
    mask = (
        f"the mask lies on nuclei (rho {network.settings.rho:g} leaves about {100 - network.settings.rho:g} % active), "
    )
    has_mask = network.settings.encoding != "mixed"
    figure.supxlabel(
        f"Well trained, {mask if has_mask else ''}the last column looks like the first, blurred", fontsize=8
    )
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _columns(network: SCAE, pixels_NPP3: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """What is shown of each cell, by title; pictures are RGB in [0, 1], masks 0 and 1."""
    with on_device(network) as device:
        images_BCHW = images_of(torch.from_numpy(pixels_NPP3)).to(device)
        made = network.reconstruct(images_BCHW)
        empty_13HW = None if made.foreground_BCHW is None else network.empty_foreground(*images_BCHW.shape[2:])

    def shown(pictures_BCHW: Tensor) -> npt.NDArray[np.float32]:
        return pictures_BCHW.float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()

    if made.foreground_BCHW is None or made.mask_B1HW is None or empty_13HW is None:
        return {"cell": shown(images_BCHW), "reconstruction": shown(made.summed)}
    active = float((made.mask_B1HW > 0.5).float().mean())
    return {
        "cell": shown(images_BCHW),
        f"mask ({100 * active:.1f} % active)": shown(made.mask_B1HW)[..., 0],
        "foreground (grey: none)": shown(made.foreground_BCHW - empty_13HW + 0.5),
        "background": shown(made.background_BCHW + empty_13HW),
        "sum": shown(made.summed),
    }


def images_of(pixels_BPP3: Tensor) -> Tensor:
    """(B, 3, P, P) float32 in [0, 1] of uint8 pixels, channels last in memory."""
    return pixels_BPP3.permute(0, 3, 1, 2).float() / 255


class _Pool(Dataset[Tensor]):
    """Cells one by one, as they are."""

    def __init__(self, cells: DrawnCells) -> None:
        self._pixels = cells.pixels_NPP3

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self._pixels[index])


def _learn(cells: DrawnCells, run: Path, config: SCAEConfig, rho: float, settings: TrainSettings) -> SCAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = SCAE(config.network(rho))
    network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    loader = train_loader(
        _Pool(cells), batch_size=settings.batch_size, seed=settings.seed, num_workers=settings.num_workers
    )
    groups = [
        {
            "params": list(network.parameters()),
            "lr": config.learning_rate,
            "weight_decay": config.weight_decay,
        }
    ]
    module = training_module(network, groups, config.optimiser, settings.seed, _reconstruct(network))
    fit(module, loader, run, settings)
    return network.eval()


def _reconstruct(network: SCAE) -> Learn:
    """How a batch of pixels becomes a loss: the mean squared error of its reconstruction."""

    def learn(pixels_BPP3: Tensor, _: torch.Generator, __: int) -> Tensor:
        images_BCHW = images_of(pixels_BPP3)
        return F.mse_loss(network(images_BCHW).float(), images_BCHW)

    return learn


def _searched(cells: DrawnCells, run: Path, config: SCAEConfig, settings: TrainSettings) -> float:
    """The rho that a pilot's detection scores ask for, written down once it is found."""
    found = run / "rho.json"
    if found.exists():
        return float(read_json(found)["rho"])
    network = _learn(cells, run / "pilot", config, _PILOT_RHO, replace(settings, epochs=config.pilot_epochs))
    scores, amounts = [], []
    with on_device(network) as device, torch.inference_mode():
        for pixels_BPP3 in _batches(cells.pixels_NPP3):
            images_BCHW = images_of(pixels_BPP3.to(device))
            scores.append(network.encoder.scores(images_BCHW).cpu())
            amounts.append(haematoxylin(images_BCHW).cpu())
    rho, recalled = rho_for(torch.cat(scores), torch.cat(amounts), config.recall)
    log.say(f"rho = {rho:.1f}: {100 * recalled:.0f} % of places with haematoxylin are active in the pilot")
    write_json(found, {"rho": rho, "recall": recalled, "wanted": config.recall})
    shutil.rmtree(run / "pilot")
    return rho


def _batches(pixels_NPP3: npt.NDArray[np.uint8]) -> Iterator[Tensor]:
    for start in range(0, len(pixels_NPP3), _BATCH):
        yield torch.from_numpy(pixels_NPP3[start : start + _BATCH])


def _load(run: Path) -> tuple[SCAE, dict[str, Any]]:
    from counterstain.settings import build

    description, state = read_model(run)
    if description["method"] != NAME:
        raise InputError(f"{run} was trained with {description['method']!r}; a run of {NAME!r} was expected.")
    config = build(SCAEConfig, description["config"])
    network = SCAE(config.network(description["rho"]))
    load_state(network, state, source="The run's model.safetensors")
    return network.eval(), description
