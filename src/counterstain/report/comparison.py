"""The table of a comparison: means over seeds, intervals over patients, paired differences; and its files.

Does not know: how anything was trained or mapped.

N images, S seeds, K classes and one for what is not scored.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain.files import atomic
from counterstain.metrics import (
    Baseline,
    BootstrapSettings,
    Interval,
    Protocol,
    bootstrap,
    bootstrap_difference,
    mean_dice,
    mean_iou,
)
from counterstain.metrics.segmentation import class_iou, mean_defined, plain
from counterstain.report.kept import Counts, Scored

Runs = Mapping[int, Scored]
"""What came of each seed."""


@dataclass(frozen=True)
class Rules:
    """How scores are summed up.

    Args:
        protocol: Which pixels count.
        bootstrap: How intervals are made.
    """

    protocol: Protocol
    bootstrap: BootstrapSettings


@dataclass(frozen=True)
class Row:
    """A variant's line in the table; IoU and Dice are fractions, NaN where a class occurs nowhere.

    Args:
        name: Of the variant.
        seeds: That ended well.
        diverged: Seeds whose loss became no number.
        mean_iou: The mean over seeds, with its interval over patients; None where every seed diverged.
        by_seed: Mean IoU of each seed.
        mean_dice: The mean over seeds.
        class_iou: Of each class, likewise.
        gain: Over the reference, paired by patient, mean over the seeds that both have; None for the reference itself.
        gain_by_seed: Of each of these seeds.
        minutes: Of training by the clock, mean over seeds, in all and by stage.
    """

    name: str
    seeds: tuple[int, ...]
    diverged: tuple[int, ...]
    mean_iou: Interval | None = None
    by_seed: tuple[float, ...] = ()
    mean_dice: float = float("nan")
    class_iou: tuple[float, ...] = ()
    gain: Interval | None = None
    gain_by_seed: tuple[float, ...] = ()
    minutes: Mapping[str, float] | None = None

    @property
    def std(self) -> float | None:
        """The standard deviation of the mean IoU over seeds; None with fewer than two."""
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
    counts_NSKK, patients = _stacked(runs, seeds), runs[seeds[0]].patients
    total_SKK = counts_NSKK.sum(0)
    both = [seed for seed in seeds if seed in (reference or {})]
    return Row(
        name=name,
        seeds=seeds,
        diverged=tuple(diverged),
        mean_iou=bootstrap(counts_NSKK, patients, _seed_mean(rules), rules.bootstrap),
        by_seed=tuple(float(one) for one in mean_iou(total_SKK, rules.protocol)),
        mean_dice=float(mean_dice(total_SKK, rules.protocol).mean()),
        class_iou=tuple(float(one) for one in mean_defined(class_iou(total_SKK, rules.protocol).T)),
        gain=_gain(runs, reference, both, rules) if reference and both else None,
        gain_by_seed=tuple(_score(runs[seed], rules) - _score(reference[seed], rules) for seed in both)
        if reference
        else (),
        minutes={
            stage: float(np.mean([runs[seed].minutes[stage] for seed in seeds])) for stage in runs[seeds[0]].minutes
        },
    )


def _stacked(runs: Runs, seeds: Sequence[int]) -> Counts:
    """(N, S, K, K)."""
    return np.stack([runs[seed].confusions_NKK for seed in seeds], axis=1)


def _score(run: Scored, rules: Rules) -> float:
    return float(mean_iou(run.confusions_NKK.sum(0), rules.protocol))


def _seed_mean(rules: Rules) -> Any:
    """The statistic that is resampled: the mean over seeds of the mean IoU."""

    def statistic(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        means: npt.NDArray[Any] = mean_iou(counts, rules.protocol).mean(-1)
        return means

    return statistic


def _gain(own: Runs, reference: Runs, seeds: Sequence[int], rules: Rules) -> Interval:
    patients = own[seeds[0]].patients
    return bootstrap_difference(
        _stacked(own, seeds), _stacked(reference, seeds), patients, _seed_mean(rules), rules.bootstrap
    )


def row_json(row: Row, names: Sequence[str]) -> dict[str, Any]:
    """Plain values; `names` are the classes'."""
    return {
        "name": row.name,
        "seeds": list(row.seeds),
        "diverged": list(row.diverged),
        "mean_iou": row.mean_iou.to_json() if row.mean_iou else None,
        "std_over_seeds": row.std,
        "mean_iou_by_seed": [plain(one) for one in row.by_seed],
        "mean_dice": plain(row.mean_dice),
        "class_iou": dict(zip(names, map(plain, row.class_iou), strict=True)) if row.class_iou else None,
        "gain_over_reference": row.gain.to_json() if row.gain else None,
        "gain_by_seed": [plain(one) for one in row.gain_by_seed],
        "minutes": dict(row.minutes) if row.minutes else None,
    }


def columns(level: float) -> list[str]:
    """Heads of the table's columns; `level` is the intervals'."""
    percent = f"{100 * level:g} %"
    return ["variant", "seeds", f"mean IoU % ({percent})", "std", f"over reference ({percent})", "Dice %", "minutes"]


def cells(row: Row) -> list[str]:
    """A row as people read it."""
    seeds = str(len(row.seeds)) + (f" ({len(row.diverged)} diverged)" if row.diverged else "")
    if row.mean_iou is None or row.minutes is None:
        return [row.name, seeds, *["-"] * 5]
    std, gain = row.std, row.gain
    return [
        row.name,
        seeds,
        str(row.mean_iou),
        "-" if std is None else f"{100 * std:.1f}",
        "-" if gain is None else f"{100 * gain.estimate:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})",
        f"{100 * row.mean_dice:.1f}",
        "<0.1" if row.minutes["total"] < 0.05 else f"{row.minutes['total']:.1f}",
    ]


def baseline_cells(baseline: Baseline, names: Sequence[str]) -> list[str]:
    """What one class everywhere scores, as a row of the table."""
    scores = baseline.scores
    name = f"'{names[baseline.class_index]}' everywhere"
    return [name, "-", f"{100 * scores.mean_iou:.1f}", "-", "-", f"{100 * scores.mean_dice:.1f}", "-"]


def write_tables(path: Path, title: str, lines: Sequence[Sequence[str]], rows: Sequence[Row]) -> None:
    """Writes the table as people read it (.md) and every seed's score (.csv).

    Args:
        path: Without suffix.
        title: What is compared, on what.
        lines: Heads and cells.
        rows: In the order of the table.
    """
    scores = path.with_name(f"{path.name}.csv")
    with atomic(scores) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "seed", "mean_iou"])
        for row in rows:
            writer.writerows([row.name, seed, one] for seed, one in zip(row.seeds, row.by_seed, strict=True))
    marked = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    with atomic(path.with_name(f"{path.name}.md")) as temporary:
        table = "".join(f"| {' | '.join(line)} |\n" for line in marked)
        temporary.write_text(f"{title}\n\n{table}", encoding="utf-8")
