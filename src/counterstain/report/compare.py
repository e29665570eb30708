"""`compare`: a study and a dataset in; every variant trained and scored with every seed; one table and one plot out.

    OUT/<variant>/seed_<n>/              a run as `train` makes it, gone on with where it stopped
    OUT/<variant>/seed_<n>/scores_val.*  its confusions, one for each image, kept while model and settings stay the same
    OUT/<study>_val.{json,csv,md,png}    means over seeds, their spread, intervals over patients, paired differences

What is compared differs in what the study says alone: images, labels, seeds and scoring are the same.

Does not know: what a variant changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain import log
from counterstain.data import PatchDataset, image_size
from counterstain.errors import DivergedError, InputError
from counterstain.files import atomic, read_json, settings_hash, write_json
from counterstain.methods import DenseMethod, find_method, load_dense_method, model_digest
from counterstain.metrics import (
    BootstrapSettings,
    Interval,
    bootstrap,
    bootstrap_difference,
    majority_baseline,
    mean_dice,
    mean_iou,
)
from counterstain.metrics.segmentation import class_iou
from counterstain.report.evaluation import EvaluateSettings, evaluate
from counterstain.report.opened import open_test_split
from counterstain.report.study import Study, Variant
from counterstain.settings import to_tree

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CompareSettings:
    """How variants are compared.

    Args:
        seeds: Of every variant's training.
        split: What is scored: "val" or "test".
        again: Whether test splits that were opened for a run are opened once more.
        evaluate: How maps are scored.
        bootstrap: How intervals are made.

    Raises:
        InputError: When there is no seed, or one twice.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    split: str = "val"
    again: bool = False
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"Seeds {self.seeds} were given; one or more, each once, were expected.")


@dataclass(frozen=True)
class Scored:
    """What came of one run.

    Args:
        confusions_NKK: Of each image.
        patients: Of each image.
        minutes: Of its training, in all and by stage where it has stages.
    """

    confusions_NKK: Counts
    patients: tuple[str, ...]
    minutes: dict[str, float]


@dataclass(frozen=True)
class Row:
    """A variant's line in the table; IoU and Dice are fractions.

    Args:
        name: Of the variant.
        seeds: That ended well.
        diverged: Seeds whose loss became no number.
        mean_iou: The mean over seeds, with its interval over patients.
        std: Of the mean IoU over seeds; None with one.
        by_seed: Mean IoU of each seed.
        mean_dice: The mean over seeds.
        class_iou: Of each class, likewise.
        gain: Over the reference's, paired by patient, mean over seeds; None for the reference itself.
        minutes: Of training, mean over seeds, in all and by stage.
    """

    name: str
    seeds: tuple[int, ...]
    diverged: tuple[int, ...]
    mean_iou: Interval
    std: float | None
    by_seed: tuple[float, ...]
    mean_dice: float
    class_iou: tuple[float, ...]
    gain: Interval | None
    minutes: dict[str, float]


def compare(
    study: Study, data: PatchDataset, out: Path, settings: CompareSettings
) -> tuple[dict[str, Any], tuple[Row, ...]]:
    """Trains and scores what is missing, and writes table and plot.

    Args:
        study: What is compared.
        data: With masks for the scored split.
        out: The folder of the study's runs; killed and called again, it goes on.
        settings: Seeds, split, scoring.

    Returns:
        What `OUT/<study>_<split>.json` holds, and the rows of its table.

    Raises:
        InputError: When the split can't be scored.
        DivergedError: When every seed of the reference diverged.
        StaleResultError: When a run folder holds a run of other settings or data.
        ExistingOutputError: When the test split was opened before for a run whose scores are gone.
    """
    from counterstain.report.figures import draw_comparison

    scored: dict[str, dict[int, Scored]] = {variant.name: {} for variant in study.variants}
    diverged: dict[str, list[int]] = {variant.name: [] for variant in study.variants}
    todo = [(seed, variant) for seed in settings.seeds for variant in study.variants]
    for number, (seed, variant) in enumerate(todo, 1):
        log.say(f"Run {number} of {len(todo)}: {variant.name}, seed {seed}")
        run = out / variant.folder / f"seed_{seed}"
        try:
            scored[variant.name][seed] = _scored(variant, seed, data, run, study, settings)
        except DivergedError as error:
            log.say(str(error))
            diverged[variant.name].append(seed)
    rows = table(study, scored, diverged, settings)
    tree = {**_tree(study, data, rows, scored, settings), "diverged": diverged}
    name = f"{study.name}_{settings.split}"
    write_json(out / f"{name}.json", tree)
    _write_tables(out / name, rows, data.classes.names)
    draw_comparison(rows, study, settings.split, out / f"{name}.png")
    return tree, rows


def _scored(
    variant: Variant, seed: int, data: PatchDataset, run: Path, study: Study, settings: CompareSettings
) -> Scored:
    training = replace(variant.training, seed=seed)
    first = image_size(data.split("train")[0].image)
    method = find_method(variant.method).create(variant.config, data, tile_px=min(first.width, first.height), seed=seed)
    method.fit(data, run, training)
    dense = load_dense_method(run)
    key = settings_hash(model_digest(run), data.digest(), study.predict.that_matter(), settings.evaluate)
    return _kept(run, key, settings) or _score(dense, data, run, key, study, settings)


def _kept(run: Path, key: str, settings: CompareSettings) -> Scored | None:
    """Scores of the same model and settings from an earlier execution."""
    path = run / f"scores_{settings.split}.npz"
    if not path.exists():
        return None
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        if str(arrays["key"]) != key:
            return None
        patients = tuple(str(one) for one in arrays["patients"])
        return Scored(arrays["confusions"], patients, _minutes(run))


def _score(
    dense: DenseMethod, data: PatchDataset, run: Path, key: str, study: Study, settings: CompareSettings
) -> Scored:
    if settings.split == "test":
        open_test_split(run, data.digest(), settings.again)
    found = evaluate(dense, data, settings.split, study.predict, settings.evaluate)
    with atomic(run / f"scores_{settings.split}.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, key=np.array(key), confusions=found.confusions_NKK, patients=np.array(found.patients))
    write_json(run / f"metrics_{settings.split}.json", found.to_json())
    return Scored(found.confusions_NKK, found.patients, _minutes(run))


def _minutes(run: Path) -> dict[str, float]:
    note = read_json(run / "training.json")
    return {"total": note["minutes"], **note.get("stages", {})}


def table(
    study: Study,
    scored: dict[str, dict[int, Scored]],
    diverged: dict[str, list[int]],
    settings: CompareSettings,
) -> tuple[Row, ...]:
    """One row for each variant that has a score; differences are taken over the seeds that both have.

    Raises:
        DivergedError: When the reference has no score.
    """
    reference = scored[study.reference]
    if not reference:
        raise DivergedError(
            f"Every seed of the reference {study.reference!r} diverged; nothing can be compared with it. Lower its "
            "learning rate."
        )
    rows = []
    for variant in study.variants:
        own = scored[variant.name]
        if own:
            gain = None if variant.name == study.reference else _gain(own, reference, settings)
            rows.append(_row(variant.name, own, tuple(diverged[variant.name]), gain, settings))
    return tuple(rows)


def _stacked(runs: dict[int, Scored], seeds: Sequence[int]) -> Counts:
    """(N, seeds, K, K)."""
    return np.stack([runs[seed].confusions_NKK for seed in seeds], axis=1)


def _row(
    name: str, runs: dict[int, Scored], diverged: tuple[int, ...], gain: Interval | None, settings: CompareSettings
) -> Row:
    seeds = tuple(runs)
    counts_NSKK, patients = _stacked(runs, seeds), runs[seeds[0]].patients
    total_SKK = counts_NSKK.sum(0)
    protocol = settings.evaluate.protocol
    by_seed = tuple(float(one) for one in mean_iou(total_SKK, protocol))
    stages = {stage: float(np.mean([runs[seed].minutes[stage] for seed in seeds])) for stage in runs[seeds[0]].minutes}
    return Row(
        name=name,
        seeds=seeds,
        diverged=diverged,
        mean_iou=bootstrap(counts_NSKK, patients, _seed_mean(settings), settings.bootstrap),
        std=float(np.std(by_seed, ddof=1)) if len(seeds) > 1 else None,
        by_seed=by_seed,
        mean_dice=float(mean_dice(total_SKK, protocol).mean()),
        class_iou=tuple(float(one) for one in class_iou(total_SKK, protocol).mean(0)),
        gain=gain,
        minutes=stages,
    )


def _seed_mean(settings: CompareSettings) -> Any:
    """The statistic that is resampled: the mean over seeds of the mean IoU."""

    def statistic(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        means: npt.NDArray[Any] = mean_iou(counts, settings.evaluate.protocol).mean(-1)
        return means

    return statistic


def _gain(own: dict[int, Scored], reference: dict[int, Scored], settings: CompareSettings) -> Interval | None:
    both = [seed for seed in own if seed in reference]
    if not both:
        return None
    return bootstrap_difference(
        _stacked(own, both),
        _stacked(reference, both),
        own[both[0]].patients,
        _seed_mean(settings),
        settings.bootstrap,
    )


def _tree(
    study: Study,
    data: PatchDataset,
    rows: tuple[Row, ...],
    scored: dict[str, dict[int, Scored]],
    settings: CompareSettings,
) -> dict[str, Any]:
    one = next(iter(scored[study.reference].values()))
    total = one.confusions_NKK.sum(0)
    labels = np.array([record.label for record in data.train if record.label is not None])
    baseline = majority_baseline(total, int(labels.sum(0).argmax()), "training labels", settings.evaluate.protocol)
    return {
        "study": study.name,
        "title": study.title,
        "split": settings.split,
        "num_images": len(one.patients),
        "num_patients": len(set(one.patients)),
        "data": data.summary(),
        "data_digest": data.digest(),
        "reference": study.reference,
        "baseline": baseline.to_json(data.classes.names),
        "evaluate": to_tree(settings.evaluate),
        "predict": to_tree(study.predict),
        "rows": [_row_tree(row, data.classes.names) for row in rows],
        "variants": {
            variant.name: {
                "method": variant.method,
                "settings": to_tree(variant.config),
                "training": to_tree(variant.training),
            }
            for variant in study.variants
        },
    }


def _row_tree(row: Row, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": row.name,
        "seeds": list(row.seeds),
        "diverged": list(row.diverged),
        "mean_iou": row.mean_iou.to_json(),
        "std_over_seeds": row.std,
        "mean_iou_by_seed": list(row.by_seed),
        "mean_dice": row.mean_dice,
        "class_iou": dict(zip(names, row.class_iou, strict=True)),
        "gain_over_reference": row.gain.to_json() if row.gain else None,
        "minutes": row.minutes,
    }


def cells(row: Row) -> list[str]:
    """A row as people read it."""
    spread = "-" if row.std is None else f"{100 * row.std:.1f}"
    return [
        row.name,
        str(len(row.seeds)) + (f" ({len(row.diverged)} diverged)" if row.diverged else ""),
        str(row.mean_iou),
        spread,
        "-" if row.gain is None else str(row.gain),
        f"{100 * row.mean_dice:.1f}",
        f"{row.minutes['total']:.1f}",
    ]


COLUMNS = ["variant", "seeds", "mean IoU (95 %)", "std", "over reference (95 %)", "Dice", "minutes"]


def _write_tables(path: Path, rows: tuple[Row, ...], names: tuple[str, ...]) -> None:
    import csv

    with atomic(path.with_suffix(".csv")) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "seed", "mean_iou", *(f"mean over seeds: IoU {name}" for name in names)])
        for row in rows:
            for seed, value in zip(row.seeds, row.by_seed, strict=True):
                writer.writerow([row.name, seed, repr(value), *map(repr, row.class_iou)])
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(cells(row) for row in rows)]
    with atomic(path.with_suffix(".md")) as temporary:
        temporary.write_text("".join(f"| {' | '.join(line)} |\n" for line in lines), encoding="utf-8")
