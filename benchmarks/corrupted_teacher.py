"""How fusion knowledge distillation fares as its pseudo masks get worse.

    python benchmarks/corrupted_teacher.py DATA TEACHERS OUT --levels 0.05 0.1 0.2 --seeds 0 1 2 > corrupted.json

TEACHERS/seed_N are finished runs of the teacher alone, as `compare` leaves them. The weights of every convolution are
multiplied by 1 + sigma * normal noise; of one noise, sigma is sought so that F1 of the validation split's positives falls
by about each level, or the most that sigma 1 and less can do; what was reached is told. One student learns from each
teacher, spoilt and clean (level 0), for one round as the study's variant has it, whatever becomes of it: no selector, no
band of areas. Teacher and student are scored on the same images; intervals of
their difference are over patients, paired. Killed and called again, it goes on. Sigma is always chosen on the validation
split. A run whose test split was opened is opened with --again.
Prints JSON.
"""

import argparse
import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from command import command_given
from counterstain import log
from counterstain.data import PatchDataset, open_patches
from counterstain.errors import InputError
from counterstain.files import read_json, write_json
from counterstain.methods import FusionKD, FusionKDConfig, load_dense_method
from counterstain.methods.artefacts import model_digest, write_untrained
from counterstain.methods.fusion_kd.pixel_val import Counted, PixelTruth
from counterstain.metrics import bootstrap_difference
from counterstain.metrics.tumour import mean_counts, summed_mean
from counterstain.models.weights import write_state
from counterstain.recipes.studies import study_file
from counterstain.report import open_test_split
from counterstain.report.study import Variant, read_study

SIGMAS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0)
"""Tried in their order until the largest drop is reached; between two of them, sigma is halved to a level."""
HALVINGS = 5
ANY_AREA = (1e-4, 1e4)
"""A band that no ratio of areas leaves."""


@dataclass(frozen=True)
class Question:
    """What every seed is asked."""

    data: PatchDataset
    digest: str
    split: str
    again: bool
    variant: Variant
    out: Path


@dataclass(frozen=True)
class Pair:
    """A teacher, how far it was spoilt, and its student."""

    sigma: float
    val_drop: float
    teacher: Counted
    student: Counted


def corrupted(network: nn.Module, sigma: float, seed: int) -> nn.Module:
    """A copy whose convolutions' weights are noisy; the noise of a seed is the same for every sigma."""
    spoilt, generator = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    for module in spoilt.modules():
        if isinstance(module, nn.Conv2d):
            noise = torch.randn(module.weight.shape, generator=generator)
            with torch.no_grad():
                module.weight.mul_(1 + sigma * noise)
    return spoilt


def truth_of(method: FusionKD, data: PatchDataset, split: str) -> PixelTruth:
    return PixelTruth(data, data.split(split), method.index, method.input.tile_px, method.config.smooth_px)


def sigmas_for(
    method: FusionKD, data: PatchDataset, seed: int, levels: Sequence[float]
) -> dict[float, tuple[float, float]]:
    """By level: sigma, and by how much F1 on validation positives fell."""
    truth = truth_of(method, data, "val")
    clean = truth.count(method.network).scores["f1_pos"]

    @cache
    def drop(sigma: float) -> float:
        found = clean - truth.count(corrupted(method.network, sigma, seed)).scores["f1_pos"]
        log.say(f"Sigma {sigma:.4f}: F1 on positives fell from {100 * clean:.1f} by {100 * found:.1f} points.")
        return found

    def sought(level: float) -> float:
        high = next((sigma for sigma in SIGMAS if drop(sigma) >= level), None)
        if high is None:
            return max(SIGMAS, key=drop)
        low, tried = max(sigma for sigma in (0.0, *SIGMAS) if sigma < high), [high]
        for _ in range(HALVINGS):
            tried.append((low + high) / 2)
            low, high = (low, tried[-1]) if drop(tried[-1]) >= level else (tried[-1], high)
        return min(tried, key=lambda sigma: abs(drop(sigma) - level))

    return {level: (sigma, drop(sigma)) for level in sorted(levels) for sigma in [sought(level)]}


def chosen_sigmas(run: Path, asked: Question, seed: int, levels: Sequence[float]) -> dict[float, tuple[float, float]]:
    """As `sigmas_for`, worked once for a teacher."""
    note = asked.out / f"seed_{seed}" / "sigmas.json"
    of = [model_digest(run), asked.digest, sorted(levels)]
    if not note.exists() or read_json(note)["of"] != of:
        found = sigmas_for(fusion_kd(run), asked.data, seed, levels)
        write_json(note, {"of": of, "found": [[level, *pair] for level, pair in found.items()]})
    return {level: (sigma, fell) for level, sigma, fell in read_json(note)["found"]}


def fusion_kd(run: Path) -> FusionKD:
    method = load_dense_method(run)
    if not isinstance(method, FusionKD) or method.kind != "teacher":
        raise InputError(f"{run} holds no first teacher of fusion_kd. Give the runs of a variant with max_rounds = 0.")
    return method


def write_corrupted(run: Path, spoilt: Path, sigma: float, seed: int) -> None:
    """A finished run whose teacher is spoilt, to be used as a `teacher_run`; the description says so."""
    done, note = spoilt / "corrupted.json", {"of": model_digest(run), "sigma": sigma, "seed": seed}
    if done.exists() and read_json(done) == note:
        return
    shutil.rmtree(spoilt, ignore_errors=True)
    method = fusion_kd(run)
    method.network = corrupted(method.network, sigma, seed)  # type: ignore[assignment]
    provenance = {**read_json(run / "model.json")["provenance"], "corrupted": note}
    write_untrained(spoilt, method, provenance, "corrupted", str(note))
    shutil.copy(run / "config.toml", spoilt / "config.toml")
    write_state(spoilt / "teacher" / "weights.safetensors", method.network.state_dict())
    if (run / "witness").exists():
        shutil.copytree(run / "witness", spoilt / "witness")
    write_json(done, note)


def student_config(variant: Variant, teacher_run: Path) -> FusionKDConfig:
    """One round of the variant, from this teacher, kept whatever comes of it."""
    config, of_teacher = variant.config, fusion_kd(teacher_run).config
    if not isinstance(config, FusionKDConfig):
        raise InputError(f"Variant {variant.name!r} is of method {variant.method!r}; name one of fusion_kd.")
    ours, theirs = ((one.teacher, one.teacher_options, one.scale) for one in (config, of_teacher))
    if ours != theirs:
        raise InputError(
            f"The variant's teacher is {ours}, that of {teacher_run} {theirs}. Name a variant of the same one."
        )
    return replace(
        config,
        teacher_run=teacher_run,
        weights=of_teacher.weights,
        student_weights=of_teacher.student_weights,
        selector="schedule",
        schedule_keeps="last",
        max_rounds=1,
        candidates=1,
        keep_candidates=False,
        area_band=ANY_AREA,
    )


def counted(run: Path, asked: Question) -> Counted:
    """A run's masks against the truth of the split, noted where it is the test split."""
    if asked.split == "test":
        open_test_split(run, asked.digest, asked.again)
    method = load_dense_method(run)
    assert isinstance(method, FusionKD)
    return truth_of(method, asked.data, asked.split).count(method.network)


def pair_of(teacher_run: Path, folder: Path, asked: Question, seed: int, how: tuple[float, float]) -> Pair:
    """Trains the student of a teacher, and scores both."""
    tile_px = fusion_kd(teacher_run).input.tile_px
    method = FusionKD.create(student_config(asked.variant, teacher_run), asked.data, tile_px=tile_px, seed=seed)
    method.fit(asked.data, folder, replace(asked.variant.training, seed=seed))
    return Pair(*how, counted(teacher_run, asked), counted(folder, asked))


def pairs_of(teachers: Path, asked: Question, seed: int, levels: Sequence[float]) -> dict[float, Pair]:
    """By level, clean first."""
    run, folder = teachers / f"seed_{seed}", asked.out / f"seed_{seed}"
    trained_on = (
        read_json(run / "model.json")["provenance"]["data"]["digest"] if (run / "model.json").exists() else None
    )
    if trained_on != asked.digest:
        raise InputError(f"{run} holds no finished run on this data. Give the folder of a study's teacher alone.")
    found = {0.0: pair_of(run, folder / "clean", asked, seed, (0.0, 0.0))}
    for level, how in chosen_sigmas(run, asked, seed, levels).items():
        log.say(f"Seed {seed}, level {level:g}: sigma {how[0]:.4f}")
        name = f"level_{level:g}"
        write_corrupted(run, folder / f"{name}_teacher", how[0], seed)
        found[level] = pair_of(folder / f"{name}_teacher", folder / f"{name}_student", asked, seed, how)
    return found


def row_of(level: float, pairs: Sequence[Pair], patients: Sequence[str]) -> dict[str, Any]:
    """What the result says of a level; scores of positives, means over seeds."""
    teacher, student = (
        np.stack([mean_counts(getattr(pair, who).f1_positive) for pair in pairs], axis=1)
        for who in ("teacher", "student")
    )

    def interval(students: Any, teachers: Any) -> dict[str, Any]:
        return bootstrap_difference(students, teachers, patients, lambda sums: summed_mean(sums).mean(-1)).to_json()

    return {
        "level": level,
        "sigma": [pair.sigma for pair in pairs],
        "val_drop": [pair.val_drop for pair in pairs],
        "teacher_f1": float(summed_mean(teacher.sum(0)).mean()),
        "student_f1": float(summed_mean(student.sum(0)).mean()),
        "student_less_teacher": interval(student, teacher),
        "by_seed": [
            {
                "teacher": pair.teacher.scores,
                "student": pair.student.scores,
                "student_less_teacher": interval(student[:, [number]], teacher[:, [number]]),
            }
            for number, pair in enumerate(pairs)
        ],
    }


def options_given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("teachers", type=Path, help="with a finished run in seed_N for each seed")
    parser.add_argument("out", type=Path, help="the folder of the runs; gone on with where it stopped")
    parser.add_argument("--levels", type=float, nargs="+", default=[0.05, 0.1, 0.2], help="falls of F1, fractions")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--study", default="fusion_kd", help="a TOML file or a study's name, for settings and training")
    parser.add_argument("--variant", default="Fusion-KD + WCE")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--again", action="store_true", help="open the test split once more")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if min(options.levels) <= 0:
        parser.error(f"levels {options.levels} were given; each must be above 0, and the clean teacher is there anyway")
    return options


def main() -> None:
    options = options_given()
    torch.set_num_threads(options.threads)
    data = open_patches(options.data)
    variant = read_study(study_file(options.study)).variant(options.variant)
    asked = Question(data, data.digest(), options.split, options.again, variant, options.out)
    by_seed = [pairs_of(options.teachers, asked, seed, options.levels) for seed in options.seeds]
    patients = [record.patient for record in data.split(options.split)]
    result = {
        "what": "per-image F1 of a spoilt teacher and of the student that learned from its maps for one round",
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "data": data.summary(),
        "data_digest": asked.digest,
        "split": options.split,
        "seeds": options.seeds,
        "variant": variant.name,
        "training": {name: value for name, value in asdict(variant.training).items() if name != "seed"},
        "levels": [row_of(level, [pairs[level] for pairs in by_seed], patients) for level in by_seed[0]],
    }
    print(json.dumps(result, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
