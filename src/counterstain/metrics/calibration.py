"""Whether a probability means what it says: how to calibrate one, and how far off calibrated probabilities are.

A logit is the margin of the positive class against the other; sigmoid(logit / T) is its calibrated probability. T is fitted
on slides that neither trained the network nor are scored. There are few of them, so labels are softened as Platt did: of n
positive slides the wanted probability is (n + 1) / (n + 2), of negative ones 1 / (n + 2). Slides that a network tells apart
without a mistake then do not turn into probabilities of 0 and 1.

Does not know: networks, thresholds, which slides are set aside.

Source: Guo et al. 2017 (ICML) for the temperature; Platt 1999 for the softened labels; Naeini et al. 2015 (AAAI) for the
expected calibration error; Brier 1950.

N slides, R resamples, B bins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError, UnknownNameError
from counterstain.metrics.decisions import Labels, Proportion, checked_scores, wilson
from counterstain.metrics.intervals import BootstrapSettings, Interval, bootstrap_weights
from counterstain.metrics.segmentation import Floats, plain, ratio

Binning = Literal["equal_width", "equal_mass"]
BINNINGS: tuple[Binning, ...] = ("equal_width", "equal_mass")

NUM_BINS = 10
"""Bins of probabilities; with a few hundred slides more of them hold too few."""

TEMPERATURES = (0.01, 100.0)
"""Between what temperatures are sought."""

_FINEST = 1e-12  # probabilities are kept this far from 0 and 1 in a log loss


def calibrated(logits_N: npt.ArrayLike, temperature: float = 1.0) -> Floats:
    """Probabilities of the positive class, sigmoid(logit / temperature); (N,) in [0, 1].

    Raises:
        InputError: When the temperature is not above 0.
    """
    from scipy.special import expit

    if not temperature > 0:
        raise InputError(f"A temperature of {temperature} was given; one above 0 was expected.")
    return np.asarray(expit(np.asarray(logits_N, np.float64) / temperature))


def fit_temperature(logits_N: npt.ArrayLike, labels_N: npt.ArrayLike, soften: bool = True) -> float:
    """The temperature whose probabilities fit labels best, by log loss.

    Args:
        logits_N: (N,) float, margin of the positive class, of slides set aside for it.
        labels_N: (N,) of 0 and 1.
        soften: Whether labels are softened as Platt did; matters for few slides, vanishes for many.

    Returns:
        In [0.01, 100]. 1 leaves probabilities as they are, more pulls them to 1/2. The upper end means that logits speak
        against their labels, or of nothing: every probability is then near 1/2.

    Raises:
        InputError: When a class has no slide, or a logit is not finite.
    """
    from scipy.optimize import minimize_scalar

    logits, labels = _checked_logits(logits_N, labels_N)
    targets = _softened(labels) if soften else labels.astype(np.float64)
    found = minimize_scalar(
        lambda logarithm: _mean_log_loss(logits * np.exp(-logarithm), targets),
        bounds=(float(np.log(TEMPERATURES[0])), float(np.log(TEMPERATURES[1]))),
        method="bounded",
        options={"xatol": 1e-8, "maxiter": 500},
    )
    ends = [_mean_log_loss(logits / end, targets) for end in TEMPERATURES]
    if min(ends) <= found.fun:  # the search stops short of an end
        return TEMPERATURES[int(np.argmin(ends))]
    return float(np.exp(found.x))


def _checked_logits(logits_N: npt.ArrayLike, labels_N: npt.ArrayLike) -> tuple[Floats, Labels]:
    logits, labels = checked_scores(logits_N, labels_N)
    if not np.isfinite(logits).all():
        raise InputError("Logits that are not finite were given. Check the network, or leave these slides out.")
    if set(np.unique(labels)) != {0, 1}:
        raise InputError(
            f"{int(labels.sum())} positive and {int((1 - labels).sum())} negative slides were given; calibration needs "
            "both. Set more slides aside for it."
        )
    return logits, labels


def _softened(labels_N: Labels) -> Floats:
    num_positives, num_negatives = labels_N.sum(), (1 - labels_N).sum()
    softened: Floats = np.where(labels_N == 1, (num_positives + 1) / (num_positives + 2), 1 / (num_negatives + 2))
    return softened


def _mean_log_loss(margins_N: Floats, targets_N: Floats) -> float:
    """-mean(t log p + (1 - t) log(1 - p)) with p = sigmoid(margin), without p."""
    return float((np.logaddexp(0, margins_N) - targets_N * margins_N).mean())


def checked_probabilities(probability_N: npt.ArrayLike, labels_N: npt.ArrayLike) -> tuple[Floats, Labels]:
    """Probabilities and labels as float64 and int64.

    Raises:
        InputError: When their numbers differ or are 0, a probability is outside [0, 1], or a label is neither 0 nor 1.
    """
    probability, labels = checked_scores(probability_N, labels_N)
    if not len(probability) or ((probability < 0) | (probability > 1)).any():
        raise InputError(
            "Probabilities outside [0, 1], or none at all, were given. Give one for each slide, not logits."
        )
    return probability, labels


def brier(probability_N: npt.ArrayLike, labels_N: npt.ArrayLike) -> float:
    """Mean squared distance of P(positive) from the label: 0 is best, the share of positives s alone gives s (1 - s).

    Raises:
        InputError: As `checked_probabilities`.
    """
    probability, labels = checked_probabilities(probability_N, labels_N)
    return float(((probability - labels) ** 2).mean())


def log_loss(probability_N: npt.ArrayLike, labels_N: npt.ArrayLike) -> float:
    """Mean negative log of the label's probability, in nats; probabilities are kept 1e-12 from 0 and 1.

    Raises:
        InputError: As `checked_probabilities`.
    """
    probability, labels = checked_probabilities(probability_N, labels_N)
    return float(_log_losses(probability, labels).mean())


def expected_calibration_error(
    probability_N: npt.ArrayLike,
    labels_N: npt.ArrayLike,
    num_bins: int = NUM_BINS,
    binning: Binning = "equal_width",
) -> float:
    """The mean distance, over slides, of their bin's share of positives from its mean P(positive).

    Binary: of P(positive) against the positive class, not of the winning class's confidence against being right. With few
    slides a bin it is above 0 even for a perfectly calibrated method.

    Args:
        probability_N: (N,) of the positive class.
        labels_N: (N,) of 0 and 1.
        num_bins: Bins; fewer where probabilities repeat.
        binning: "equal_width": of [0, 1]; "equal_mass": equally many slides in each.

    Raises:
        UnknownNameError: When there is no such binning.
        InputError: As `checked_probabilities`, or when there is no bin.
    """
    probability, labels = checked_probabilities(probability_N, labels_N)
    bins = _bins(probability, num_bins, binning)[0]
    return float(_calibration_errors(probability, labels, bins, np.ones((1, len(labels))))[0])


@dataclass(frozen=True)
class ReliabilityBin:
    """Slides whose probabilities are alike.

    Args:
        low: Probabilities from here,
        high: to here.
        mean_probability: Their mean.
        positives: How many are positive, as a share with its interval.
    """

    low: float
    high: float
    mean_probability: float
    positives: Proportion

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "low": self.low,
            "high": self.high,
            "mean_probability": plain(self.mean_probability),
            "positives": self.positives.to_json(),
        }


def reliability(
    probability_N: npt.ArrayLike,
    labels_N: npt.ArrayLike,
    num_bins: int = NUM_BINS,
    binning: Binning = "equal_width",
    level: float = 0.95,
) -> tuple[ReliabilityBin, ...]:
    """The bins of `expected_calibration_error` that hold slides, rising.

    Raises:
        UnknownNameError: When there is no such binning.
        InputError: As `checked_probabilities`, or when there is no bin.
    """
    probability, labels = checked_probabilities(probability_N, labels_N)
    bins_N, edges = _bins(probability, num_bins, binning)
    rows = []
    for number in np.unique(bins_N).tolist():
        own = bins_N == number
        positives = wilson(int(labels[own].sum()), int(own.sum()), level)
        mean = float(probability[own].mean())
        rows.append(ReliabilityBin(float(edges[number]), float(edges[number + 1]), mean, positives))
    return tuple(rows)


@dataclass(frozen=True)
class CalibrationScores:
    """How far probabilities are from what they say; each with its interval over patients, None with fewer than two.

    Args:
        brier: Mean squared distance from the label.
        log_loss: In nats.
        error: Expected calibration error in bins of equal width.
        error_equal_mass: In bins of equally many slides.
        base_rate_brier: What the share of positives as everybody's probability would score.
        base_rate_log_loss: Likewise.
        intervals: Of the first four, by name. Those of both errors lie too high: a resample repeats slides, and bins of
            fewer different slides are further off.
        bins: Of equal width.
        num: Slides.
    """

    brier: float
    log_loss: float
    error: float
    error_equal_mass: float
    base_rate_brier: float
    base_rate_log_loss: float
    intervals: dict[str, Interval]
    bins: tuple[ReliabilityBin, ...]
    num: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, None for NaN; every score beside its baseline and its interval."""
        baselines = {"brier": self.base_rate_brier, "log_loss": self.base_rate_log_loss}
        tree: dict[str, Any] = {"num": self.num}
        for name in _STATISTICS:
            interval = self.intervals.get(name)
            tree[name] = {
                "estimate": plain(getattr(self, name)),
                "interval": interval.to_json() if interval else None,
                "base_rate": baselines.get(name, 0.0),  # the base rate is calibrated by its making
            }
        return {**tree, "bins": [one.to_json() for one in self.bins]}


def calibration_scores(
    probability_N: npt.ArrayLike,
    labels_N: npt.ArrayLike,
    patients: Sequence[str],
    settings: BootstrapSettings | None = None,
    num_bins: int = NUM_BINS,
) -> CalibrationScores:
    """Brier score, log loss and calibration errors with their intervals over patients.

    Args:
        probability_N: (N,) of the positive class.
        labels_N: (N,) of 0 and 1.
        patients: Of each slide.
        settings: How intervals are made.
        num_bins: Of probabilities. Bins are those of all slides in every resample.

    Raises:
        InputError: As `checked_probabilities`, or when there is no bin.
    """
    probability, labels = checked_probabilities(probability_N, labels_N)
    statistics = {name: make(probability, labels, num_bins) for name, make in _STATISTICS.items()}
    once = np.ones((1, len(labels)))
    values = {name: float(statistic(once)[0]) for name, statistic in statistics.items()}
    intervals = {}
    if len(set(patients)) > 1:
        intervals = {name: bootstrap_weights(one, patients, settings) for name, one in statistics.items()}
    share = np.full(len(labels), labels.mean())
    return CalibrationScores(
        **values,
        base_rate_brier=brier(share, labels),
        base_rate_log_loss=log_loss(share, labels),
        intervals=intervals,
        bins=reliability(probability, labels, num_bins, level=(settings or BootstrapSettings()).level),
        num=len(labels),
    )


_Weighted = Callable[[Floats], Floats]


def _mean_of(values_N: Floats) -> _Weighted:
    return lambda drawn_RN: ratio(drawn_RN @ values_N, drawn_RN.sum(-1))


def _error_in(binning: Binning) -> Callable[[Floats, Labels, int], _Weighted]:
    def make(probability_N: Floats, labels_N: Labels, num_bins: int) -> _Weighted:
        bins_N = _bins(probability_N, num_bins, binning)[0]
        return lambda drawn_RN: _calibration_errors(probability_N, labels_N, bins_N, drawn_RN)

    return make


_STATISTICS: dict[str, Callable[[Floats, Labels, int], _Weighted]] = {
    "brier": lambda probability, labels, _: _mean_of((probability - labels) ** 2),
    "log_loss": lambda probability, labels, _: _mean_of(_log_losses(probability, labels)),
    "error": _error_in("equal_width"),
    "error_equal_mass": _error_in("equal_mass"),
}


def _log_losses(probability_N: Floats, labels_N: Labels) -> Floats:
    of_label = np.where(labels_N == 1, probability_N, 1 - probability_N)
    losses: Floats = -np.log(np.clip(of_label, _FINEST, 1.0))
    return losses


def _bins(probability_N: Floats, num_bins: int, binning: Binning) -> tuple[npt.NDArray[np.intp], Floats]:
    """The bin of each slide, counted from 0, and the bins' edges; a bin holds its lower edge, the last one both."""
    if binning not in BINNINGS:
        raise UnknownNameError("binning", binning, BINNINGS)
    if num_bins < 1:
        raise InputError(f"{num_bins} bins were given; 1 or more were expected.")
    edges = np.linspace(0, 1, num_bins + 1)
    if binning == "equal_mass":
        edges = np.unique(np.quantile(probability_N, edges))  # repeated probabilities stay in one bin
        edges = edges if len(edges) > 1 else np.repeat(edges, 2)
    return np.clip(np.searchsorted(edges, probability_N, side="right") - 1, 0, len(edges) - 2), edges


def _calibration_errors(
    probability_N: Floats, labels_N: Labels, bins_N: npt.NDArray[np.intp], drawn_RN: Floats
) -> Floats:
    """Sum over bins of |drawn positives - drawn probability|, over all drawn slides; (R,)."""
    in_bin_NB = bins_N[:, None] == np.unique(bins_N)
    gaps_RB = drawn_RN @ (in_bin_NB * (probability_N - labels_N)[:, None])
    return ratio(np.abs(gaps_RB).sum(-1), drawn_RN.sum(-1))
