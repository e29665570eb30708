"""Intervals by resampling patients.

Images of one patient resemble each other, so patients are drawn with replacement, not images: an interval over images comes
out too narrow. Whatever is counted is added up for each patient first; a resample is then a matrix product of how often
each patient was drawn with these sums, and the statistic sees all resamples at once. What does not add up over slides, as
a ranking does not, is given how often each slide was drawn instead: `draw_weights`, `bootstrap_weights`.

Does not know: what is counted, what the statistic means.

Source: Efron and Tibshirani 1993, percentile interval (ch. 13); resampling whole clusters: Field and Welsh 2007.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.metrics.segmentation import Floats, plain

Statistic = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""(..., counts of one image) -> (...): `mean_iou`, `mean_boundary_iou`, or one's own."""

WeightedStatistic = Callable[[Floats], Floats]
"""(R, N), how often each of N slides was drawn in R resamples -> (R,)."""

_AT_ONCE = 1 << 22  # draws held at once: 32 MB


@dataclass(frozen=True)
class BootstrapSettings:
    """How an interval is made.

    Args:
        num: Resamples.
        level: Share of resamples inside the interval.
        seed: Of the resamples.
    """

    num: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num < 1 or not 0 < self.level < 1:
            raise InputError(
                f"{self.num} resamples at level {self.level} were given; 1 or more and (0, 1) were expected."
            )


@dataclass(frozen=True)
class Interval:
    """An estimate and its percentile interval; fractions, NaN where undefined.

    Args:
        estimate: The statistic of all patients.
        low: Lower end.
        high: Upper end.
        level: Share of resamples between both.
        num_patients: How many were resampled.
        num_resamples: How many resamples gave a number; the others lacked every class.
        above_zero: Of a difference, the share of resamples in which the first was better; None otherwise.
    """

    estimate: float
    low: float
    high: float
    level: float
    num_patients: int
    num_resamples: int
    above_zero: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, None for NaN."""
        return {name: plain(value) if isinstance(value, float) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"{100 * self.estimate:.1f} ({100 * self.low:.1f} to {100 * self.high:.1f})"


def bootstrap(
    counts: npt.NDArray[Any],
    patients: Sequence[str],
    statistic: Statistic,
    settings: BootstrapSettings | None = None,
) -> Interval:
    """The interval of a statistic of counts.

    Args:
        counts: (N, ...), one entry for each image, such as its `confusion`.
        patients: The patient of each image.
        statistic: A function of counts summed over images.
        settings: How the interval is made.

    Raises:
        InputError: When there are fewer than two patients, or not one for each image.
    """
    settings = settings or BootstrapSettings()
    sums = per_patient(counts, patients)
    return _interval(statistic(sums.sum(0)), _resampled(sums, statistic, settings), len(sums), settings)


def bootstrap_difference(
    counts: npt.NDArray[Any],
    other_counts: npt.NDArray[Any],
    patients: Sequence[str],
    statistic: Statistic,
    settings: BootstrapSettings | None = None,
) -> Interval:
    """The interval of the difference of a statistic between two models on the same images, patients drawn alike for both.

    Args:
        counts: (N, ...) of one model.
        other_counts: Likewise of the other, in the same order.
        patients: The patient of each image.
        statistic: A function of counts summed over images.
        settings: How the interval is made.

    Returns:
        The first model's statistic less the other's.

    Raises:
        InputError: When there are fewer than two patients, or the two differ in shape.
    """
    settings = settings or BootstrapSettings()
    if counts.shape != other_counts.shape:
        raise InputError(f"Counts of {counts.shape} and {other_counts.shape} were given; a pair needs the same images.")
    both = np.stack([per_patient(counts, patients), per_patient(other_counts, patients)], axis=1)

    def difference(sums: npt.NDArray[Any]) -> npt.NDArray[Any]:
        axis = sums.ndim - counts.ndim
        return statistic(np.take(sums, 0, axis)) - statistic(np.take(sums, 1, axis))

    resamples = _resampled(both, difference, settings)
    interval = _interval(difference(both.sum(0)), resamples, len(both), settings)
    defined = resamples[~np.isnan(resamples)]
    return replace(interval, above_zero=float((defined > 0).mean()) if len(defined) else float("nan"))


def per_patient(counts: npt.NDArray[Any], patients: Sequence[str]) -> npt.NDArray[Any]:
    """Counts added up for each patient, patients in the order of their names.

    Returns:
        (P, ...).

    Raises:
        InputError: When there are fewer than two patients, or not one for each image.
    """
    if len(patients) != len(counts):
        raise InputError(f"{len(patients)} patients were given for {len(counts)} images. Give one for each.")
    names, rows = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"{len(names)} patients were given; an interval over patients needs at least two.")
    sums = np.zeros((len(names), *counts.shape[1:]), counts.dtype)
    np.add.at(sums, rows, counts)
    return sums


def draw_weights(
    patients: Sequence[str], settings: BootstrapSettings | None = None, strata: Sequence[object] | None = None
) -> Floats:
    """How often each slide is drawn in each resample of patients.

    Args:
        patients: The patient of each slide.
        settings: How many resamples, and their seed.
        strata: A word for each slide, such as its label. Patients are then drawn within the groups that agree in the words
            of their slides, so that no resample lacks a class; a patient with slides of both labels is of a third group.

    Returns:
        (num, N) float64 of whole numbers; slides of one patient have the same.

    Raises:
        InputError: When there are fewer than two patients, or not one stratum for each slide.
    """
    settings = settings or BootstrapSettings()
    names, rows_N = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"{len(names)} patients were given; an interval over patients needs at least two.")
    if strata is not None and len(strata) != len(rows_N):
        raise InputError(f"{len(strata)} strata were given for {len(rows_N)} slides. Give one for each.")
    words: list[set[object]] = [set() for _ in names]
    for row, word in zip(rows_N.tolist(), strata if strata is not None else [0] * len(rows_N), strict=True):
        words[row].add(word)
    groups: dict[tuple[str, ...], list[int]] = {}
    for patient, own in enumerate(words):
        groups.setdefault(tuple(sorted(map(str, own))), []).append(patient)
    rng = np.random.default_rng(settings.seed)
    times_RP = np.empty((settings.num, len(names)))
    for _, members in sorted(groups.items()):
        times_RP[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), settings.num)
    return times_RP[:, rows_N]


def bootstrap_weights(
    statistic: WeightedStatistic,
    patients: Sequence[str],
    settings: BootstrapSettings | None = None,
    strata: Sequence[object] | None = None,
) -> Interval:
    """The interval of a statistic of weighted slides.

    Args:
        statistic: A function of weights (R, N) that gives (R,), NaN where undefined. A difference of two models is one too.
        patients: The patient of each slide.
        settings: How the interval is made.
        strata: As `draw_weights` takes them.

    Raises:
        InputError: When there are fewer than two patients, or not one stratum for each slide.
    """
    settings = settings or BootstrapSettings()
    values_R = statistic(draw_weights(patients, settings, strata))
    estimate = statistic(np.ones((1, len(patients))))[0]
    return _interval(estimate, values_R, len(set(patients)), settings)


def _resampled(sums: npt.NDArray[Any], statistic: Statistic, settings: BootstrapSettings) -> Floats:
    """The statistic of every resample, (num,)."""
    rng = np.random.default_rng(settings.seed)
    number = len(sums)
    flat = sums.reshape(number, -1).astype(np.float64)  # whole numbers stay exact up to 2^53
    step = max(1, _AT_ONCE // number)
    values = []
    for start in range(0, settings.num, step):
        times_drawn = rng.multinomial(number, np.full(number, 1 / number), min(step, settings.num - start))
        resamples = (times_drawn.astype(np.float64) @ flat).reshape(-1, *sums.shape[1:])
        values.append(statistic(resamples))
    return np.concatenate(values).astype(np.float64)


def _interval(
    estimate: npt.NDArray[Any], resamples: Floats, num_patients: int, settings: BootstrapSettings
) -> Interval:
    defined = resamples[~np.isnan(resamples)]
    tail = (1 - settings.level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (np.nan, np.nan)
    return Interval(
        estimate=float(estimate),
        low=float(low),
        high=float(high),
        level=settings.level,
        num_patients=num_patients,
        num_resamples=len(defined),
    )
