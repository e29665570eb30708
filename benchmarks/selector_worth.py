"""What selectors without masks are worth: how well they rank checkpoints whose masks are known.

    python benchmarks/selector_worth.py DATA STUDY_OUT --variants schedule proxy --seeds 0 1 2 > selector_worth.json

All checkpoints of a seed, the teacher's, the students' and their kept candidates, are scored twice on the same validation
images: by what image labels say of them, and by F1 on the masks. For each way of choosing there are Kendall's tau, regret
(F1 of the best checkpoint less F1 of the chosen one) and what the chosen one gains over the teacher, with an interval over
patients: in the pool of all named variants, and among each variant's own checkpoints. "last" takes the end of each variant,
"random" any checkpoint, both in the mean; "agreement" ranks students by their overlap with their own teacher. Beside it
stands how often the whole selector, gates and margins included, let students pass that masks call better.
Prints JSON.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from command import command_given
from counterstain import log
from counterstain.data import PatchDataset, open_patches
from counterstain.errors import InputError, MissingFileError
from counterstain.files import read_json, whole_hash
from counterstain.methods import FusionKD, FusionKDConfig, load_dense_method
from counterstain.methods.fusion_kd.distil import WITNESS, Distillation
from counterstain.methods.fusion_kd.drift import agreement
from counterstain.methods.fusion_kd.judging import Evidence, Judge
from counterstain.methods.fusion_kd.pixel_val import Counted, PixelTruth
from counterstain.methods.fusion_kd.rounds import Kind
from counterstain.metrics import bootstrap_difference, kendall, regret
from counterstain.metrics.segmentation import plain
from counterstain.metrics.tumour import mean_counts, summed_mean
from counterstain.models.mil import MilNetwork, build_mil
from counterstain.models.weights import load_state, read_state
from counterstain.settings import read_toml
from counterstain.training import TrainSettings

Floats = npt.NDArray[np.float64]

TRUTHS = ("f1_pos", "f1_mix")
TERMS = {
    "proxy": 1,
    "b1_false_positive": -1,
    "b2_verifier": 1,
    "b3_witness": 1,
    "b4_consistency": 1,
    "b5_auroc": 1,
}
"""Scores that checkpoints are ranked by, and whether more is better."""
AGREEMENT, LAST, RANDOM = "agreement", "last", "random"
RULES = (*TERMS, AGREEMENT, LAST, RANDOM)
POOLED = "all"
FEWEST = 3
"""Checkpoints, below which a variant's own are not ranked."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights of a run: of its first teacher (round 0) or of a student after an epoch."""

    variant: str
    round: int
    epoch: int
    is_student_kind: bool
    path: Path
    own_teacher: Path | None
    config: FusionKDConfig

    def network(self) -> MilNetwork:
        config = self.config
        kind = (
            (config.student, config.student_options)
            if self.is_student_kind
            else (config.teacher, config.teacher_options)
        )
        network = build_mil(*kind, config.scale)
        load_state(network, read_state(self.path), source=str(self.path))
        return network


@dataclass(frozen=True)
class Known:
    """What is known of a checkpoint; the digest is of its weights, which several runs may share."""

    checkpoint: Checkpoint
    digest: str
    evidence: Evidence
    agreement: float | None
    passes: bool | None
    own_teacher: str | None

    @property
    def counted(self) -> Counted:
        assert self.evidence.counted is not None
        return self.evidence.counted

    def images(self, truth: str) -> Floats:
        """F1 of each image; NaN where it does not count."""
        counted = self.counted
        if truth == "f1_pos":
            return counted.f1_positive
        return np.where(counted.is_positive, counted.f1_positive, counted.f1_negative)

    def truth(self, name: str) -> float:
        return self.counted.scores[name]


def checkpoints_of(run: Path, variant: str) -> list[Checkpoint]:
    """In the order in which they were learned."""
    method = load_dense_method(run)
    if not isinstance(method, FusionKD):
        raise InputError(
            f"{run} is a run of {method.name!r}; fusion_kd was expected. Name its variants with --variants."
        )
    config, first = method.config, run / "teacher" / "weights.safetensors"
    found = [Checkpoint(variant, 0, 0, False, first, None, config)]
    for row in read_json(run / "ledger.json")["rows"]:
        folder = run / "rounds" / str(row["number"])
        files = {int(path.stem.removeprefix("epoch_")): path for path in (folder / "candidates").glob("epoch_*")}
        files[row["epoch"]] = folder / "weights.safetensors"
        teacher = row["teacher"]
        own = first if teacher == "teacher" else run / "rounds" / teacher.removeprefix("round_") / "weights.safetensors"
        found += [
            Checkpoint(variant, row["number"], epoch, row["kind"] == "student", path, own, config)
            for epoch, path in sorted(files.items())
        ]
    return found


def with_witness(runs: dict[str, Path]) -> Path:
    """The run that has a witness: one of those named, or one of the same study that they started from.

    Raises:
        MissingFileError: When none has.
    """
    starts = {run: load_dense_method(run).config.teacher_run for run in runs.values()}
    beside = [run.parents[1] / Path(start).parent.name / run.name for run, start in starts.items() if start is not None]
    for run in (*starts, *beside):
        if (run / WITNESS / "weights.safetensors").exists():
            return run
    raise MissingFileError(
        f"None of the runs {', '.join(runs)} has a witness, nor a run that they start from. Name a variant whose selector "
        "is 'proxy'."
    )


def judge_of(run: Path, data: PatchDataset) -> Judge:
    """With everything there is: verifier, witness and masks."""
    method = load_dense_method(run)
    assert isinstance(method, FusionKD)
    config = replace(method.config, selector="proxy")
    tile_px, index = method.input.tile_px, method.index

    def build(kind: Kind, seed: int) -> MilNetwork:
        assert kind == "teacher", "a judge needs no student"
        return FusionKD.create(config, data, tile_px, seed).network

    made = Distillation(config, data, run, TrainSettings(), tile_px, index, build).judge()
    return replace(made, truth=PixelTruth(data, data.split("val"), index, tile_px, config.smooth_px))


def known_of(checkpoints: Sequence[Checkpoint], judge: Judge) -> list[Known]:
    """Looks at each file once, whoever's it is."""
    found: dict[Path, Known] = {}
    seen: dict[str, Evidence] = {}
    for number, one in enumerate(checkpoints):
        digest = whole_hash(one.path)
        if digest not in seen:
            log.say(
                f"Checkpoint {number + 1} of {len(checkpoints)}: {one.variant}, round {one.round}, epoch {one.epoch}"
            )
            seen[digest] = judge.evidence(one.network())
        evidence, own, passes, digest_of_own = seen[digest], None, None, None
        if one.own_teacher is not None:
            teacher = found[one.own_teacher]
            own = agreement(evidence.seen.maps_Nhw, teacher.evidence.seen.maps_Nhw, judge.held.is_positive_N)
            config = replace(judge.config, area_band=one.config.area_band)
            passes = replace(judge, config=config).verdict(evidence, teacher.evidence)[0].is_better
            digest_of_own = teacher.digest
        found[one.path] = Known(one, digest, evidence, own, passes, digest_of_own)
    return list(found.values())


@dataclass(frozen=True)
class Pool:
    """Checkpoints to choose from, the teacher first, each weights once; and which of them a variant ended with."""

    members: tuple[Known, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, known: Sequence[Known]) -> "Pool":
        members: dict[str, Known] = {}
        ends: dict[str, str] = {}
        for one in known:
            members.setdefault(one.digest, one)
            if one.checkpoint.round:
                ends[one.checkpoint.variant] = one.digest
        places = list(members)
        return cls(tuple(members.values()), tuple(places.index(digest) for digest in ends.values()))


def pools_of(known: Sequence[Known]) -> dict[str, Pool]:
    """All, and each variant's own where there are enough."""
    variants = dict.fromkeys(one.checkpoint.variant for one in known)
    pools = {POOLED: Pool.of(known)}
    if len(variants) > 1:
        own = {name: Pool.of([one for one in known if one.checkpoint.variant == name]) for name in variants}
        pools |= {name: pool for name, pool in own.items() if len(pool.members) >= FEWEST}
    return pools


def scores_by(rule: str, pool: Pool) -> dict[int, float]:
    """What a rule ranks by, of those checkpoints that it can rank; empty where it does not rank."""
    if rule == AGREEMENT:
        return {index: one.agreement for index, one in enumerate(pool.members) if one.agreement is not None}
    found = {index: one.evidence.scores.get(rule) for index, one in enumerate(pool.members)} if rule in TERMS else {}
    return {index: TERMS[rule] * value for index, value in found.items() if value is not None}


def weights_of(rule: str, pool: Pool) -> Floats:
    """How often each checkpoint is chosen, (K,), sums to 1."""
    weights_K = np.zeros(len(pool.members))
    scores = scores_by(rule, pool)
    if scores:
        weights_K[max(scores, key=lambda index: (scores[index], -index))] = 1
    elif rule == LAST:
        for index in pool.ends:  # two variants may have ended alike
            weights_K[index] += 1 / len(pool.ends)
    elif rule == RANDOM:
        weights_K[:] = 1 / len(pool.members)
    return weights_K


def worth(rule: str, pool: Pool, truth: str) -> dict[str, Any] | None:
    """What choosing by a rule brings; None where it has nothing to choose by."""
    weights_K, truths = weights_of(rule, pool), [one.truth(truth) for one in pool.members]
    if not weights_K.any():
        return None
    scores = scores_by(rule, pool)
    own = [truths[index] for index in scores]
    lost = max(truths) - (max(own) - regret(list(scores.values()), own) if scores else float(weights_K @ truths))
    return {
        "tau": plain(kendall(list(scores.values()), own)) if len(own) > 1 else None,
        "regret": lost,
        "gain_over_teacher": max(truths) - lost - truths[0],
        **({"chosen": label(pool.members[int(weights_K.argmax())])} if scores else {}),
    }


def label(one: Known) -> str:
    checkpoint = one.checkpoint
    return (
        f"{checkpoint.variant}, round {checkpoint.round}, epoch {checkpoint.epoch}" if checkpoint.round else "teacher"
    )


def over_seeds(rule: str, truth: str, pools: Sequence[Pool], patients: Sequence[str]) -> dict[str, Any] | None:
    """Means over seeds; the gain over the teacher with its interval over patients."""
    found = [one for pool in pools if (one := worth(rule, pool, truth)) is not None]
    if len(found) < len(pools):
        return None
    chosen, teacher = [], []
    for pool in pools:
        weights_K = weights_of(rule, pool)
        chosen.append(
            mean_counts(np.einsum("k,kn->n", weights_K, np.stack([one.images(truth) for one in pool.members])))
        )
        teacher.append(mean_counts(pool.members[0].images(truth)))
    interval = bootstrap_difference(
        np.stack(chosen, 1), np.stack(teacher, 1), patients, lambda sums: summed_mean(sums).mean(-1)
    )
    taus = [one["tau"] for one in found if one["tau"] is not None]
    return {
        "tau": float(np.mean(taus)) if taus else None,
        "regret": float(np.mean([one["regret"] for one in found])),
        "gain_over_teacher": interval.to_json(),
    }


def verdicts(known: Sequence[Known]) -> dict[str, int]:
    """Whether the whole selector and masks (F1 on positives) say the same of students and their own teachers."""
    truths = {one.digest: one.truth("f1_pos") for one in known}
    counts = {"passed_better": 0, "passed_not_better": 0, "stopped_better": 0, "stopped_not_better": 0}
    for one in {(one.digest, one.own_teacher): one for one in known if one.own_teacher}.values():
        assert one.own_teacher is not None
        better = "better" if truths[one.digest] > truths[one.own_teacher] else "not_better"
        counts[f"{'passed' if one.passes else 'stopped'}_{better}"] += 1
    return counts


def told(one: Known) -> dict[str, Any]:
    checkpoint = one.checkpoint
    return {
        "variant": checkpoint.variant,
        "round": checkpoint.round,
        "epoch": checkpoint.epoch,
        "passes": one.passes,
        AGREEMENT: one.agreement,
        **one.evidence.scores,
    }


def rounded(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: rounded(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [rounded(value) for value in tree]
    return round(tree, 4) if isinstance(tree, float) else tree


def runs_of(options: argparse.Namespace, data_digest: str) -> dict[int, dict[str, Path]]:
    """The named variants' runs of each seed, all finished and of this data.

    Raises:
        InputError: When one is not.
    """
    finished = {path.parent for path in options.study_out.glob("*/seed_*/model.json")}
    known = sorted({run.parent.name for run in finished})
    variants = options.variants or known
    found: dict[int, dict[str, Path]] = {}
    for seed in options.seeds:
        found[seed] = {name: options.study_out / name / f"seed_{seed}" for name in variants}
        for name, run in found[seed].items():
            if run not in finished:
                raise InputError(
                    f"There is no finished run of {name!r} with seed {seed}; finished are some of {known}."
                )
            if read_toml(run / "config.toml")["data"]["digest"] != data_digest:
                raise InputError(
                    f"The run of {name!r} with seed {seed} was trained on other data than {options.data.name}."
                )
    return found


def measured(runs: dict[str, Path], data: PatchDataset) -> tuple[list[Known], tuple[str, ...]]:
    judge = judge_of(with_witness(runs), data)
    checkpoints = [one for name, run in runs.items() for one in checkpoints_of(run, name)]
    return known_of(checkpoints, judge), judge.held.patients


def options_given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("study_out", type=Path, help="what `counterstain compare` wrote")
    parser.add_argument("--variants", nargs="+", help="folders in STUDY_OUT; all that have finished runs by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options = options_given()
    torch.set_num_threads(options.threads)
    data = open_patches(options.data)
    digest = data.digest()
    known: dict[int, list[Known]] = {}
    patients: tuple[str, ...] = ()
    for seed, runs in runs_of(options, digest).items():
        log.say(f"Seed {seed}")
        known[seed], patients = measured(runs, data)
    pools = {seed: pools_of(one) for seed, one in known.items()}
    names = [name for name in pools[options.seeds[0]] if all(name in one for one in pools.values())]

    def of_pool(name: str) -> dict[str, Any]:
        own = {seed: one[name] for seed, one in pools.items()}
        return {
            truth: {
                rule: {
                    "mean": over_seeds(rule, truth, list(own.values()), patients),
                    **{f"seed_{seed}": worth(rule, pool, truth) for seed, pool in own.items()},
                }
                for rule in RULES
            }
            for truth in TRUTHS
        } | {"checkpoints": {f"seed_{seed}": len(pool.members) for seed, pool in own.items()}}

    result = {
        "what": "how selectors without masks rank checkpoints, against per-image F1 on the same validation images",
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "data": data.summary(),
        "data_digest": digest,
        "patients": len(set(patients)),
        "pools": {name: of_pool(name) for name in names},
        "verdicts": {f"seed_{seed}": verdicts(one) for seed, one in known.items()},
        "checkpoints": {f"seed_{seed}": [told(one) for one in pools[seed][POOLED].members] for seed in known},
    }
    print(json.dumps(rounded(result), indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
