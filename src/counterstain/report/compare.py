"""`compare`: a study and a dataset in; every variant trained and scored with every seed; one table and one plot out.

    OUT/<variant>/seed_<n>/              a run as `train` makes it, gone on with where it stopped, with its scores
    OUT/<study>_<split>.{json,csv,md,png}

What can be found wrong is found before the first training. A run whose loss diverges is noted and the others go on.

Does not know: what a variant changes.
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from counterstain import log
from counterstain.data import PatchDataset, image_size
from counterstain.errors import DivergedError, InputError, listed
from counterstain.files import read_json, settings_hash, write_json
from counterstain.methods import find_method
from counterstain.methods.starting import refuse_small_images, weights_notes
from counterstain.metrics import BootstrapSettings, majority_baseline, one_class
from counterstain.metrics.segmentation import plain
from counterstain.report.comparison import (
    Row,
    Rules,
    baseline_cells,
    cells,
    columns,
    row_json,
    row_of,
    write_tables,
)
from counterstain.report.evaluation import EvaluateSettings, majority_of
from counterstain.report.figures import draw_comparison
from counterstain.report.kept import Counts, Scored, Scoring, scores_of
from counterstain.report.metric import Metric, metrics_of
from counterstain.report.study import Study, Variant
from counterstain.report.tumour import positive_index
from counterstain.settings import to_tree

_SPLITS = ("val", "test")


@dataclass(frozen=True)
class CompareSettings:
    """How variants are compared.

    Args:
        seeds: Of every variant's training.
        split: What is scored: "val" or "test".
        again: Whether test splits that were opened for a run are opened once more.
        mpp: um/px of the patches, where the dataset does not say.
        evaluate: How maps are scored.
        bootstrap: How intervals are made.

    Raises:
        InputError: When there is no seed, one twice, or no such split.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    split: Literal["val", "test"] = "val"
    again: bool = False
    mpp: float | None = None
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"Seeds {self.seeds} were given; one or more, each once, were expected.")
        if self.split not in _SPLITS:
            raise InputError(
                f"Split {self.split!r} was given; val or test was expected: what is trained on is no test."
            )


@dataclass(frozen=True)
class Comparison:
    """What came of a study.

    Args:
        title: What was compared, and on what.
        rows: In the study's order.
        lines: The table as people read it, heads first, what one class everywhere scores last.
        tree: What `OUT/<study>_<split>.json` holds.
        metric: What scores and differences are of.
    """

    title: str
    rows: tuple[Row, ...]
    lines: tuple[list[str], ...]
    tree: dict[str, Any]
    metric: Metric


def compare(study: Study, data: PatchDataset, out: Path, settings: CompareSettings) -> Comparison:
    """Trains and scores what is missing, and writes table and plot after each seed.

    Args:
        study: What is compared.
        data: With masks for the scored split, opened as the dataset says of itself.
        out: The folder of the study's runs; killed and called again, it goes on.
        settings: Seeds, split, scoring.

    Raises:
        InputError: When the split can't be scored, or a variant can't be built for the data.
        WeightsError: When pretrained weights don't fit.
        DivergedError: When every run diverged.
        StaleResultError: When a run folder holds a run of other settings or data.
        ExistingOutputError: When the test split was opened for a run before.
    """
    trained_on = data if settings.mpp is None else replace(data, mpp=settings.mpp)
    _check(study, trained_on, settings)
    scoring = Scoring(settings.split, study.predict, settings.evaluate, settings.again)
    scored: dict[str, dict[int, Scored]] = {variant.name: {} for variant in study.variants}
    diverged: dict[str, list[int]] = {variant.name: [] for variant in study.variants}
    total, number, found = len(settings.seeds) * len(study.variants), 0, None
    for seed in settings.seeds:
        for variant in study.variants:
            number += 1
            run = out / variant.folder / f"seed_{seed}"
            state = " (trained before)" if (run / "model.json").exists() else ""
            log.say(f"Run {number} of {total}: {variant.name}, seed {seed}{state}")
            if variant.starts_from is not None and seed in diverged[variant.starts_from]:
                log.say(f"It starts from {variant.starts_from}, which diverged.")
                diverged[variant.name].append(seed)
            elif _train(_started(study, variant, seed, out), seed, trained_on, run):
                scored[variant.name][seed] = scores_of(run, data, scoring)
            else:
                diverged[variant.name].append(seed)
        if any(scored.values()):
            found = _summed_up(study, data, scored, diverged, settings)
            _write(found, study, settings, out)
    if found is None:
        raise DivergedError(f"Every run of study {study.name!r} diverged. Lower its learning rates.")
    return found


def _check(study: Study, data: PatchDataset, settings: CompareSettings) -> None:
    """Refuses before hours of training what would fail after them."""
    _metrics(study, data, settings)
    records = data.split(settings.split)
    unmasked = [str(record.image) for record in records if not record.has_truth]
    if unmasked:
        raise InputError(listed(f"Images of the {settings.split} split have no mask to score against:", unmasked))
    patients = {record.patient for record in records}
    if len(patients) < 2:
        raise InputError(
            f"The {settings.split} split has images of one patient, {min(patients)!r}; an interval over patients wants "
            "two. Add images of other patients to it, or score single runs with `evaluate`."
        )
    tile_px = _tile_px(data)
    for variant in study.variants:
        refuse_small_images(find_method(variant.method).create(variant.config, data, tile_px=tile_px, seed=0))
    for note in dict.fromkeys(note for variant in study.variants for note in weights_notes(variant.config)):
        log.say(f"Note: {note}")


def _metrics(study: Study, data: PatchDataset, settings: CompareSettings) -> tuple[Metric, ...]:
    return metrics_of(study.metric, settings.evaluate.protocol, positive_index(data.classes))


def _tile_px(data: PatchDataset) -> int:
    first = image_size(data.split("train")[0].image)
    return min(first.width, first.height)


def _started(study: Study, variant: Variant, seed: int, out: Path) -> Variant:
    """The variant with the run it starts from in its settings: the one of the same seed."""
    if variant.starts_from is None:
        return variant
    teacher_run = out / study.variant(variant.starts_from).folder / f"seed_{seed}"
    return replace(variant, config=replace(variant.config, teacher_run=teacher_run))


def _train(variant: Variant, seed: int, data: PatchDataset, run: Path) -> bool:
    """Trains a run to the end, or goes on with it; whether its loss stayed a number, this time or before."""
    training = replace(variant.training, seed=seed)
    note, what = run / "diverged.json", settings_hash(variant.method, variant.config, training, data.digest())
    if note.exists() and read_json(note)["of"] == what:
        log.say("It diverged before.")
        return False
    method = find_method(variant.method).create(variant.config, data, tile_px=_tile_px(data), seed=seed)
    try:
        method.fit(data, run, training)
    except DivergedError as error:
        log.say(str(error))
        write_json(note, {"of": what, "message": str(error)})
        return False
    return True


def _summed_up(
    study: Study,
    data: PatchDataset,
    scored: dict[str, dict[int, Scored]],
    diverged: dict[str, list[int]],
    settings: CompareSettings,
) -> Comparison:
    metrics = _metrics(study, data, settings)
    rules = Rules(settings.evaluate.protocol, settings.bootstrap, metrics)
    reference = scored[study.reference]
    rows = tuple(
        row_of(name, runs, diverged[name], None if name == study.reference else reference, rules)
        for name, runs in scored.items()
    )
    runs = [run for one in scored.values() for run in one.values()]
    total = runs[0].confusions_NKK.sum(0)
    baseline = majority_baseline(total, *_everywhere(metrics[0], data, total), rules.protocol)
    constant_NKK, names = one_class(runs[0].confusions_NKK, baseline.class_index), data.classes.names
    lines = (
        columns(rules),
        *(cells(row, rules) for row in rows),
        baseline_cells(names[baseline.class_index], constant_NKK, metrics),
    )
    tree = {
        "study": study.name,
        "title": study.title,
        "split": settings.split,
        "num_images": len(runs[0].patients),
        "num_patients": len(set(runs[0].patients)),
        "data": data.summary(),
        "data_digest": data.digest(),
        "reference": study.reference,
        "metric": metrics[0].name,
        "baseline": {**baseline.to_json(names), **{one.name: plain(one.of(constant_NKK)) for one in metrics}},
        "rows": [row_json(row, names, metrics) for row in rows],
        "bootstrap": to_tree(settings.bootstrap),
        "predict": to_tree(study.predict),
        "notes": sorted({note for run in runs for note in run.about["notes"]}),
        "variants": {variant.name: _about(variant, scored[variant.name]) for variant in study.variants},
    }
    return Comparison(_title(study, runs[0], settings), rows, lines, tree, metrics[0])


def _everywhere(metric: Metric, data: PatchDataset, total: Counts) -> tuple[int, str]:
    """The class to name everywhere, and what it was chosen on."""
    if metric.everywhere is not None:
        return metric.everywhere, "the metric: it is of this class alone"
    return majority_of(data, total)


def _about(variant: Variant, runs: dict[int, Scored]) -> dict[str, Any]:
    """What a variant was trained with, and under which rules each of its runs was scored."""
    config = variant.config
    # files by their names: a table is shown elsewhere than where it was made
    files = {one.name for one in fields(config) if isinstance(getattr(config, one.name), Path)}
    training = to_tree(variant.training)
    training.pop("seed")
    return {
        "method": variant.method,
        "starts_from": variant.starts_from,
        "settings": {name: Path(value).name if name in files else value for name, value in to_tree(config).items()},
        "training": training,
        "runs": {str(seed): {"model_digest": run.model_digest, **run.about} for seed, run in runs.items()},
    }


def _write(found: Comparison, study: Study, settings: CompareSettings, out: Path) -> None:
    path = out / f"{study.name}_{settings.split}"
    write_json(path.with_name(f"{path.name}.json"), found.tree)
    name = found.metric.name
    write_tables(path, f"{found.title}.", found.lines, found.rows, name)
    baseline = float("nan") if found.tree["baseline"][name] is None else found.tree["baseline"][name]
    draw_comparison(found.rows, found.title, found.metric.title, baseline, path.with_name(f"{path.name}.png"))


def _title(study: Study, run: Scored, settings: CompareSettings) -> str:
    num_patients = len(set(run.patients))
    what = (
        f"{settings.split} split, {len(run.patients)} images of {num_patients} patients, {settings.evaluate.protocol}"
    )
    return f"{study.title}\n{what}, gate {settings.evaluate.gate}"
