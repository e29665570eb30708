"""The table of a comparison: means over seeds, intervals over patients, paired differences; and its files.

Does not know: how anything was trained or mapped.

N images, S seeds, K classes and one for what is not scored.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain.files import atomic
from counterstain.metrics import BootstrapSettings, Interval, Protocol, bootstrap, bootstrap_difference
from counterstain.metrics.segmentation import class_iou, mean_defined, plain
from counterstain.report.kept import Counts, Scored
from counterstain.report.metric import Metric

Runs = Mapping[int, Scored]
"""What came of each seed."""


@dataclass(frozen=True)
class Rules:
    """How scores are summed up.

    Args:
        protocol: Which pixels count.
        bootstrap: How intervals are made.
        metrics: What is summed up; the first is the one that intervals and differences are of.
    """

    protocol: Protocol
    bootstrap: BootstrapSettings
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class Row:
    """A variant's line in the table; scores are fractions, NaN where they are undefined.

    Args:
        name: Of the variant.
        seeds: That ended well.
        diverged: Seeds whose loss became no number.
        score: The first metric, mean over seeds, with its interval over patients; None where every seed diverged.
        by_seed: The first metric of each seed.
        further: The other metrics, by name, mean over seeds.
        class_iou: Of each class, mean over seeds.
        gain: Over the reference, paired by patient, mean over the seeds that both have; None for the reference itself.
        gain_by_seed: Of each of these seeds.
        minutes: Of training by the clock, mean over seeds, in all and by stage.
    """

    name: str
    seeds: tuple[int, ...]
    diverged: tuple[int, ...]
    score: Interval | None = None
    by_seed: tuple[float, ...] = ()
    further: Mapping[str, float] = field(default_factory=dict)
    class_iou: tuple[float, ...] = ()
    gain: Interval | None = None
    gain_by_seed: tuple[float, ...] = ()
    minutes: Mapping[str, float] | None = None

    @property
    def std(self) -> float | None:
        """The standard deviation of the score over seeds; None with fewer than two."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else None


def row_of(name: str, runs: Runs, diverged: Sequence[int], reference: Runs | None, rules: Rules) -> Row:
    """A variant's row.

    Args:
        name: Of the variant.
        runs: Of the variant.
        diverged: Its seeds that came to nothing.
        reference: Of the variant that it is compared with; None for that one itself.
        rules: See there.
    """
    seeds = tuple(runs)
    if not seeds:
        return Row(name, (), tuple(diverged))
    first, *others = rules.metrics
    patients = runs[seeds[0]].patients
    total_SKK = np.stack([runs[seed].confusions_NKK.sum(0) for seed in seeds])
    both = [seed for seed in seeds if seed in (reference or {})]
    return Row(
        name=name,
        seeds=seeds,
        diverged=tuple(diverged),
        score=bootstrap(_stacked(runs, seeds, first), patients, _seed_mean(first), rules.bootstrap),
        by_seed=tuple(first.of(runs[seed].confusions_NKK) for seed in seeds),
        further={one.name: float(np.mean([one.of(runs[seed].confusions_NKK) for seed in seeds])) for one in others},
        class_iou=tuple(float(one) for one in mean_defined(class_iou(total_SKK, rules.protocol).T)),
        gain=_gain(runs, reference, both, rules) if reference and both else None,
        gain_by_seed=tuple(
            first.of(runs[seed].confusions_NKK) - first.of(reference[seed].confusions_NKK) for seed in both
        )
        if reference
        else (),
        minutes=_minutes([run.minutes for run in runs.values()]),
    )


def _minutes(of_seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over seeds of each stage's minutes; a stage that a seed had none of took it none."""
    stages = dict.fromkeys(stage for minutes in of_seeds for stage in minutes)
    return {stage: float(np.mean([minutes.get(stage, 0.0) for minutes in of_seeds])) for stage in stages}


def _stacked(runs: Runs, seeds: Sequence[int], metric: Metric) -> npt.NDArray[Any]:
    """(N, S, ...) counts of the metric."""
    return np.stack([metric.counts(runs[seed].confusions_NKK) for seed in seeds], axis=1)


def _seed_mean(metric: Metric) -> Any:
    """The statistic that is resampled: the mean over seeds of the metric."""

    def statistic(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        means: npt.NDArray[Any] = metric.statistic(counts).mean(-1)
        return means

    return statistic


def _gain(own: Runs, reference: Runs, seeds: Sequence[int], rules: Rules) -> Interval:
    first = rules.metrics[0]
    pair = _stacked(own, seeds, first), _stacked(reference, seeds, first)
    return bootstrap_difference(*pair, own[seeds[0]].patients, _seed_mean(first), rules.bootstrap)


def row_json(row: Row, names: Sequence[str], metrics: Sequence[Metric]) -> dict[str, Any]:
    """Plain values; `names` are the classes', `metrics` those that the row was made with."""
    first, *others = metrics
    return {
        "name": row.name,
        "seeds": list(row.seeds),
        "diverged": list(row.diverged),
        first.name: row.score.to_json() if row.score else None,
        "std_over_seeds": row.std,
        f"{first.name}_by_seed": [plain(one) for one in row.by_seed],
        **{one.name: plain(row.further[one.name]) if row.score else None for one in others},
        "class_iou": dict(zip(names, map(plain, row.class_iou), strict=True)) if row.class_iou else None,
        "gain_over_reference": row.gain.to_json() if row.gain else None,
        "gain_by_seed": [plain(one) for one in row.gain_by_seed],
        "minutes": dict(row.minutes) if row.minutes else None,
    }


def columns(rules: Rules) -> list[str]:
    """Heads of the table's columns."""
    first, *others = rules.metrics
    percent = f"{100 * rules.bootstrap.level:g} %"
    further = [f"{one.title} %" for one in others]
    return [
        "variant",
        "seeds",
        f"{first.title} % ({percent})",
        "std",
        f"over reference ({percent})",
        *further,
        "minutes",
    ]


def cells(row: Row, rules: Rules) -> list[str]:
    """A row as people read it."""
    others = rules.metrics[1:]
    seeds = str(len(row.seeds)) + (f" ({len(row.diverged)} diverged)" if row.diverged else "")
    if row.score is None or row.minutes is None:
        return [row.name, seeds, *["-"] * (4 + len(others))]
    std, gain = row.std, row.gain
    return [
        row.name,
        seeds,
        str(row.score),
        "-" if std is None else f"{100 * std:.1f}",
        "-" if gain is None else f"{100 * gain.estimate:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})",
        *(f"{100 * row.further[one.name]:.1f}" for one in others),
        "<0.1" if row.minutes["total"] < 0.05 else f"{row.minutes['total']:.1f}",
    ]


def baseline_cells(class_name: str, confusions_NKK: Counts, metrics: Sequence[Metric]) -> list[str]:
    """What one class everywhere scores, as a row of the table.

    Args:
        class_name: Of this class.
        confusions_NKK: Of each image, as this class everywhere would have them.
        metrics: Of the table's columns.
    """
    first, *others = (f"{100 * metric.of(confusions_NKK):.1f}" for metric in metrics)
    return [f"'{class_name}' everywhere", "-", first, "-", "-", *others, "-"]


def write_tables(path: Path, title: str, lines: Sequence[Sequence[str]], rows: Sequence[Row], name: str) -> None:
    """Writes the table as people read it (.md) and every seed's score (.csv).

    Args:
        path: Without suffix.
        title: What is compared, on what.
        lines: Heads and cells.
        rows: In the order of the table.
        name: Of the metric.
    """
    scores = path.with_name(f"{path.name}.csv")
    with atomic(scores) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "seed", name])
        for row in rows:
            writer.writerows([row.name, seed, one] for seed, one in zip(row.seeds, row.by_seed, strict=True))
    marked = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    with atomic(path.with_name(f"{path.name}.md")) as temporary:
        table = "".join(f"| {' | '.join(line)} |\n" for line in marked)
        temporary.write_text(f"{title}\n\n{table}", encoding="utf-8")
