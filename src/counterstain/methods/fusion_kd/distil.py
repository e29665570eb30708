"""A run of fusion knowledge distillation: the first teacher, then rounds of students, each judged, a ledger of them all.

    labels -> teacher -> [ maps of training images -> student -> judged on held-out images -> who teaches next ] x rounds

    run/teacher, run/witness, run/half_a, run/half_b    trainings, each with the weights that it ended with
    run/rounds/2/train                                  of a student: checkpoints and losses
    run/rounds/2/maps                                   its teacher's maps, while the round lasts
    run/rounds/2/weights.safetensors                    the candidate that was judged
    run/ledger.json                                     selector, what it may claim, rows, what was kept and why it ended

Killed at any point and called again, it goes on, and on a CPU it ends with the same ledger. Training sees images, labels
and teachers' maps; the only thing here that may see masks is the judge's `PixelTruth`, and no training is handed the judge.

Does not know: how a loss is made, what a selector looks at, slides.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from counterstain import log
from counterstain.data.weak import WeakPatches, WeakSettings
from counterstain.errors import InputError, MissingFileError
from counterstain.files import read_json, write_json
from counterstain.losses import fraction_needed
from counterstain.methods.device import on_device
from counterstain.methods.fusion_kd.cache import TaughtPatches, TeacherMaps, averaged
from counterstain.methods.fusion_kd.config import FusionKDConfig
from counterstain.methods.fusion_kd.judging import Evidence, Judge
from counterstain.methods.fusion_kd.learn import candidate_epochs, keeper, label_loss, learn_labels, learn_maps
from counterstain.methods.fusion_kd.pixel_val import PixelTruth
from counterstain.methods.fusion_kd.rounds import FIRST_TEACHER, Kind, Row, Rules, State, state_after
from counterstain.methods.fusion_kd.seen import HeldOut
from counterstain.methods.fusion_kd.selectors import Basis, Verdict, claim, run_claim
from counterstain.methods.fusion_kd.taken import weights_taken
from counterstain.methods.fusion_kd.verifier import VerifierSettings, fit_verifier
from counterstain.methods.optimise import training_module, two_groups
from counterstain.methods.stages import learn_once
from counterstain.models.mil import MilNetwork
from counterstain.models.weights import load_state, read_state, write_state
from counterstain.training import TrainSettings, fit, train_loader
from counterstain.training.loaders import RatioShuffle

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from counterstain.data import PatchDataset

WITNESS, HALVES = "witness", ("half_a", "half_b")
_ENDED = "ended.json"  # beside the losses of a student that has learned to the end
_MOST_KEPT_BYTES = 1_000_000_000  # of decoded training images in each process
_SEEDS = {
    FIRST_TEACHER: 0,
    WITNESS: 101,
    "half_a": 102,
    "half_b": 103,
}  # apart from each other and from rounds' numbers

Build = Callable[[Kind, int], MilNetwork]
"""A fresh network from its kind and a seed, with pretrained weights where there are any."""


@dataclass(frozen=True)
class Distillation:
    """A run.

    Args:
        config: Of the method.
        data: Its training split's masks are never read.
        run: The folder.
        settings: How long and on what.
        tile_px: Width and height of the images.
        index: Of the tumour class.
        build: Makes fresh networks.
    """

    config: FusionKDConfig
    data: "PatchDataset"
    run: Path
    settings: TrainSettings
    tile_px: int
    index: int
    build: Build

    @cached_property
    def patches(self) -> WeakPatches:
        """Training images and labels."""
        records = self.data.split("train")
        # decoded once where they fit: rounds go over the same images hundreds of times
        fits = 3 * self.tile_px**2 * len(records) <= _MOST_KEPT_BYTES
        return WeakPatches(records, WeakSettings(patch_px=self.tile_px, keep=fits))

    @cached_property
    def is_positive(self) -> npt.NDArray[np.bool_]:
        """Of each training image."""
        found: npt.NDArray[np.bool_] = self.patches.labels[:, self.index].numpy() > 0.5
        return found

    @property
    def rules(self) -> Rules:
        """How rounds follow each other."""
        config = self.config
        return Rules(
            config.max_rounds,
            config.patience,
            config.student_init,
            config.most_agreement,
            keeps_best=config.selector == "schedule" and config.schedule_keeps == "best_f1",
        )

    def execute(self) -> State:
        """Trains what is missing, round after round; the state that it ends in."""
        self._refuse()
        self._learn_labels(FIRST_TEACHER, np.arange(len(self.patches)))
        if self.config.selector == "proxy":
            self._learn_labels(WITNESS, self._half(0))
        for half, name in enumerate(HALVES if self.config.cross_fit and self.config.max_rounds else ()):
            self._learn_labels(name, self._half(half))
        state = state_after(self.rows, self.rules)
        judge = self.judge() if state.end is None else None
        self._tidy()
        while judge is not None and state.end is None:
            row = self._round(state, judge)
            rows = [*self.rows, row]
            state = state_after(rows, self.rules)
            self._write_ledger(rows, state)
            judge.forget_but(state.teacher, state.best)
            self._tidy()
        self._write_ledger(self.rows, state)
        for checkpoints in (*self.run.glob("*/checkpoints"), *self.run.glob("rounds/*/train/checkpoints")):
            shutil.rmtree(checkpoints, ignore_errors=True)  # nothing goes on from here
        return state

    @property
    def rows(self) -> list[Row]:
        """Of the ledger as it stands."""
        path = self.run / "ledger.json"
        return [Row.from_json(tree) for tree in read_json(path)["rows"]] if path.exists() else []

    def network(self, name: str, kind: Kind) -> MilNetwork:
        """A trained network of the run, by the name that the ledger has for it."""
        network = self.build(kind, 0)
        path = self._weights(name)
        load_state(network, read_state(path), source=str(path))
        return network

    @property
    def trainings(self) -> dict[str, Path]:
        """The folders of all trainings of this run, by name, in their order."""
        names = {FIRST_TEACHER: "teacher", WITNESS: WITNESS, **{half: half for half in HALVES}}
        folders = {name: self.run / folder for name, folder in names.items()}
        folders |= {f"round {row.number}": self._folder(row.number) / "train" for row in self.rows}
        return {name: folder for name, folder in folders.items() if (folder / "training.json").exists()}

    def _folder(self, number: int) -> Path:
        return self.run / "rounds" / str(number)

    def _weights(self, name: str) -> Path:
        if name.startswith("round_"):
            return self._folder(int(name.removeprefix("round_"))) / "weights.safetensors"
        return self.run / name / "weights.safetensors"

    def _refuse(self) -> None:
        """Refuses before hours of training what would fail after them."""
        self._check_kinds()
        config = self.config
        halves = range(2 if config.cross_fit and config.max_rounds else 1 if config.selector == "proxy" else 0)
        for half in halves:
            self._half(half)
        if not config.max_rounds:
            return
        self._check_patients()
        self._maps(self._folder(1))
        _ = self._held
        if config.reads_masks:
            _ = self._truth

    def _check_patients(self) -> None:
        """Refuses to call students better on patients that taught them."""
        train, val = ({record.patient for record in self.data.split(name)} for name in ("train", "val"))
        if self.config.selector != "schedule" and train & val:
            raise InputError(
                f"{len(train & val)} patients have images in the train and in the val split, {min(train & val)!r} first: "
                f"selector {self.config.selector!r} would judge students by what they have learned from. Split by patient, "
                "or pass --selector schedule."
            )

    def _check_kinds(self) -> None:
        num_positive = int(self.is_positive.sum())
        if num_positive in (0, len(self.is_positive)):
            raise InputError(
                f"{num_positive} of {len(self.is_positive)} training images are positive; teachers learn from both kinds."
            )
        if self.config.mil_loss == "constant_dice":
            ratio = self.config.neg_pos_ratio or (len(self.is_positive) - num_positive) / num_positive
            log.say(ratio_note(ratio, self.config.area_fraction))

    def _half(self, number: int) -> npt.NDArray[np.int64]:
        """The training images of one half of the patients."""
        patients = np.array([record.patient for record in self.data.split("train")])
        names = np.unique(patients)
        halves = np.random.default_rng(self.settings.seed).permutation(len(names)) % 2
        chosen = np.flatnonzero(np.isin(patients, names[halves == number]))
        if len(set(self.is_positive[chosen].tolist())) < 2:
            raise InputError(
                f"Half of the {len(names)} training patients have images of one kind alone, and a second teacher learns "
                "from such a half. Add patients, or pass --selector pixel_val or schedule without cross_fit."
            )
        return chosen

    def _learn_labels(self, name: str, chosen: npt.NDArray[np.int64]) -> None:
        """Trains a teacher on some of the images, unless it is there."""
        folder = self.run / name
        given = weights_taken(self.config, name)
        if given is not None and not (folder / "weights.safetensors").exists():
            write_state(folder / "weights.safetensors", read_state(given))
        config, seed = self.config, self.settings.seed + _SEEDS[name]
        network = self.build("teacher", seed)

        def train() -> None:
            settings = replace(self.settings, seed=seed, epochs=config.teacher_epochs or self.settings.epochs)
            loader = self._loader(Subset(self.patches, chosen.tolist()), self.is_positive[chosen], settings)
            module = training_module(
                network,
                two_groups(network.parameter_groups(), config.optimiser(0)),
                config.optimiser(0),
                seed,
                learn_labels(network, config, self.index, self.ignores_glass),
                label_loss(network, config, self.index, self.ignores_glass),
            )
            fit(module, loader, folder, settings, self._val_loader() if settings.patience else None)

        if not (folder / "weights.safetensors").exists():
            log.say(f"Training {name.replace('_', ' ')} on {len(chosen)} images.")
        learn_once(network, folder, train)

    @property
    def ignores_glass(self) -> bool:
        """Whether losses leave glass out."""
        given = self.config.ignore_glass
        return self.data.white_is_background if given is None else given

    def _loader(self, data: Dataset[Any], is_positive: npt.NDArray[np.bool_], settings: TrainSettings) -> Any:
        ratio = self.config.neg_pos_ratio
        sampler = RatioShuffle(is_positive.tolist(), ratio, settings.seed) if ratio is not None else None
        return train_loader(
            data,
            batch_size=settings.batch_size,
            seed=settings.seed,
            num_workers=settings.num_workers,
            sampler=sampler,
        )

    def _val_loader(self) -> Any:
        from counterstain.methods.gate import label_loader

        return label_loader(self.data, self.tile_px, self.settings.batch_size)

    def judge(self) -> Judge:
        """Fits the verifier and looks at what does not change: once for each call of a run."""
        config, held, glass = self.config, self._held, self.ignores_glass
        if config.selector == "proxy":
            backbone = None
            if config.weights is not None:
                backbone = self.build("teacher", 0).backbone.eval()
            log.say("Fitting the verifier, which sees labels and no maps.")
            settings = VerifierSettings.at(self.data.mpp)
            cells = fit_verifier(self.patches, self.index, settings, backbone).judge(held)
            witness = Judge(config, held, ignores_glass=glass).evidence(self.network(WITNESS, "teacher"))
            return Judge(config, held, cells, witness.seen.maps_Nhw, ignores_glass=glass)
        return Judge(config, held, truth=self._truth if config.reads_masks else None, ignores_glass=glass)

    @cached_property
    def _held(self) -> HeldOut:
        return HeldOut.of(self.data.split("val"), self.index, self.tile_px)

    @cached_property
    def _truth(self) -> PixelTruth:
        return PixelTruth(self.data, self.data.split("val"), self.index, self.tile_px, self.config.smooth_px)

    def _round(self, state: State, judge: Judge) -> Row:
        folder = self._folder(state.number)
        log.say(f"Round {state.number}: {state.teacher.replace('_', ' ')} teaches.")
        maps = self._maps(folder)
        with ExitStack() as stack:
            stack.callback(maps.free)  # a round that fails may be the last thing that is tried here
            self._teach(state, maps)
            files = self._learn_maps(state, maps, folder)
            stack.pop_all()
        teacher = judge.evidence_of(state.teacher, lambda: self.network(state.teacher, state.teacher_kind))
        if not self._ranks:
            files = {max(files): files[max(files)]}
        epoch, student = self._best_candidate(state, files, judge)
        write_state(folder / "weights.safetensors", read_state(files[epoch]))
        judge.know(f"round_{state.number}", student)
        verdict, has_drifted = judge.verdict(student, teacher)
        changes = "scheduled" if self.config.selector == "schedule" else "switch"
        row = Row(
            number=state.number,
            teacher=state.teacher,
            start=state.start,
            kind=state.kind,
            epoch=epoch,
            decision="rollback" if has_drifted else changes if verdict.is_better else "keep",  # type: ignore[arg-type]
            reasons=verdict.reasons if has_drifted else (self._claim(verdict, len(files)), *verdict.reasons),
            scores=student.scores,
            teacher_scores=teacher.scores,
            interval=verdict.interval.to_json() if verdict.interval is not None else None,
            maps={"stride": maps.stride, "megabytes": maps.megabytes},
            candidates=len(files),
            **judge.compared(student, teacher),
        )
        log.say(f"Round {row.number}: {row.decision}. {row.reasons[0]}")
        return row

    def _maps(self, folder: Path) -> TeacherMaps:
        num_maps = 1 if self.config.distill == "fusion" else 4
        return TeacherMaps.of(folder / "maps", self.is_positive, num_maps, self.tile_px, self.config.cache_mb)

    def _teach(self, state: State, maps: TeacherMaps) -> None:
        if not (self.config.cross_fit and state.teacher == FIRST_TEACHER):
            networks, of_network = [self.network(state.teacher, state.teacher_kind)], np.zeros(len(self.patches), int)
        else:
            # each image is shown by the teacher that has not learned from its patient
            networks = [self.network(name, "teacher") for name in HALVES]
            of_network = np.isin(np.arange(len(self.patches)), self._half(0)).astype(int)
        with on_device(networks[0]) as device, on_device(networks[-1]), torch.inference_mode():

            def teach(images_BCHW: Tensor, indices: Sequence[int]) -> Tensor:
                all_shown = [averaged(network, images_BCHW.to(device), self.config.tta) for network in networks]
                return torch.stack([all_shown[of_network[index]][row] for row, index in enumerate(indices)])

            maps.write(self.patches, teach)

    def _learn_maps(self, state: State, maps: TeacherMaps, folder: Path) -> Mapping[int, Path]:
        """Trains a round's student; the files of its candidates by epoch."""
        config, seed = self.config, self.settings.seed + state.number
        epochs = config.round_epochs or self.settings.epochs
        files = {
            epoch: folder / "candidates" / f"epoch_{epoch}.safetensors"
            for epoch in candidate_epochs(epochs, config.candidates)
        }
        ended = folder / "train" / _ENDED
        # the last candidate is written before its epoch's losses and checkpoint: alone it does not say that all has ended
        if ended.exists() and all(path.exists() for path in files.values()):
            return files
        student = self.build(state.kind, seed)
        if state.start is not None:
            path = self._weights(state.start)
            load_state(student, read_state(path), source=str(path))
        settings = replace(self.settings, seed=seed, epochs=epochs, patience=None)
        loader = self._loader(TaughtPatches(self.patches, maps), self.is_positive, settings)
        optimiser = config.optimiser(config.warmup_epochs * len(loader))
        module = training_module(
            student,
            two_groups(student.parameter_groups(), optimiser),
            optimiser,
            seed,
            learn_maps(student, config, self.index, self.ignores_glass),
        )
        callbacks: list[Callback] = [keeper(student, files, config.ema, self._moments(state.number))]
        fit(module, loader, folder / "train", settings, callbacks=callbacks)
        write_json(ended, {"epochs": epochs})
        return files

    def _moments(self, number: int) -> Path | None:
        """The checkpoint of the round before, whose optimiser goes on; None where one starts afresh."""
        if self.config.reset_optimizer or number == 1:
            return None
        before = self._folder(number - 1) / "train" / "checkpoints" / "last.ckpt"
        if not before.exists():
            raise MissingFileError(
                f"{before} is not there, and round {number} was to go on with its optimiser's moments. Train afresh in "
                "another folder."
            )
        return before

    def _best_candidate(self, state: State, files: Mapping[int, Path], judge: Judge) -> tuple[int, Evidence]:
        """The epoch whose weights rank first, and what is known of them; the last one where nothing tells them apart."""
        best: tuple[int, Evidence] | None = None
        for epoch, path in sorted(files.items()):
            network = self.build(state.kind, 0)
            load_state(network, read_state(path), source=str(path))
            found = judge.evidence(network)
            if best is None or found.rank >= best[1].rank:
                best = epoch, found
        assert best is not None
        return best

    @property
    def _ranks(self) -> bool:
        """Whether anything is asked that tells candidates apart."""
        return self.config.selector == "proxy" or self.config.reads_masks

    def _basis(self, num_candidates: int) -> Basis:
        return Basis(self.config.watches_areas, self.config.reads_masks, num_candidates)

    def _claim(self, verdict: Verdict, num_candidates: int) -> str:
        return claim(self.config.selector, verdict, self._basis(num_candidates))

    def claims(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What the run may say of itself after these rounds, and what that rests on; plain values."""
        config = self.config
        basis = self._basis(max((row.candidates for row in rows), default=1))
        return {
            "selector": config.selector,
            "claim": run_claim(config.selector, config.max_rounds, basis),
            "reads_masks": config.reads_masks,
        }

    def _write_ledger(self, rows: list[Row], state: State) -> None:
        write_json(
            self.run / "ledger.json",
            {
                **self.claims(rows),
                "rows": [row.to_json() for row in rows],
                "kept": state.best,
                "kept_kind": state.best_kind,
                "end": state.end,
            },
        )

    def _tidy(self) -> None:
        """Frees what rounds that are in the ledger need no more: maps, candidates, checkpoints but the last."""
        numbers = [row.number for row in self.rows]
        for number in numbers:
            folder = self._folder(number)
            unneeded = {
                "maps": True,
                "candidates": not self.config.keep_candidates,
                "train/checkpoints": number < max(numbers),
            }
            for name in (name for name, is_unneeded in unneeded.items() if is_unneeded):
                shutil.rmtree(folder / name, ignore_errors=True)


def ratio_note(ratio: float, fraction: float | None) -> str:
    """What a ratio of negatives to positives does to normal tissue in positive images, as people read it.

    Args:
        ratio: Negatives for each positive.
        fraction: The part of a positive image that tumour covers as a rule; None where it is not known.
    """
    needed = fraction_needed(ratio)
    note = (
        f"{ratio:.2g} negatives for each positive: normal-looking tissue in positive images is pushed to background where "
        f"tumours cover {needed:.0%} of them or more."
    )
    if fraction is not None and fraction < needed:
        return f"Warning: {note} Yours cover {fraction:.0%}: raise --neg-pos-ratio, or masks will be too large."
    return note
