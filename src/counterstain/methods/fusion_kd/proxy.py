"""Which of two networks maps tumour better, judged by image labels alone on images that trained neither.

No one number is safe without masks, so five are asked and each can say no:

    B1  false positives on negative images: exact, for all of them is normal; blind to what is missed
    B2  correlation with an independent verifier's cells on positives; beside it sufficiency, which falls as a map grows,
        and completeness, which falls as it shrinks
    B3  agreement with a witness, a teacher of other patients: its mistakes are others
    B4  consistency under mirroring, turning and scaling: a gate only, a constant map is perfectly consistent
    B5  AUROC of image scores: a gate only, who classifies best does not map best

A student must be worse in none by more than a margin, and better in B2 or B3. (B6, areas, is asked before: `selectors`.)

Does not know: masks, networks, how cells were verified.

Source: ours. The parts are known, their union is not; docs say how well it ranks where the truth is known.

N images, h w rows and columns of a map, g g of cells.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from counterstain.errors import InputError
from counterstain.methods.fusion_kd.drift import THRESHOLD, Floats, Maps, check_pair, soft_dice
from counterstain.methods.fusion_kd.seen import HeldOut, Seen
from counterstain.methods.fusion_kd.selectors import Verdict
from counterstain.metrics.intervals import BootstrapSettings, Interval, bootstrap_difference
from counterstain.metrics.tumour import mean_counts, summed_mean

_POWER = 4  # of the generalised mean, as the MIL networks' published one
_TOP_SHARE = 0.1  # of an image's tissue cells, whose mean says what a map has missed
_ROUNDING = 1e-9  # of differences that are to be compared with a margin


@dataclass(frozen=True)
class ProxyMargins:
    """How much worse a student may be, and how much better it must be; fractions.

    Args:
        false_positive: B1, of the share of negatives' pixels.
        verifier: B2, of the correlation.
        cross_fit: B3.
        consistency: B4.
        auroc: B5.
        gain: By which B2 or B3 must be better.
        confidence: Share of resamples over patients in which it must be.

    Raises:
        InputError: When one is negative, or the confidence no share.

    Source: ours.
    """

    false_positive: float = 0.005
    verifier: float = 0.01
    cross_fit: float = 0.01
    consistency: float = 0.02
    auroc: float = 0.01
    gain: float = 0.005
    confidence: float = 0.9

    def __post_init__(self) -> None:
        margins = (self.false_positive, self.verifier, self.cross_fit, self.consistency, self.auroc, self.gain)
        if min(margins) < 0 or not 0 < self.confidence <= 1:
            raise InputError(
                f"Margins {margins} with confidence {self.confidence} were given; 0 or more and (0, 1] were expected."
            )


@dataclass(frozen=True)
class ProxyScores:
    """What image labels say of a network, image by image; NaN where a term does not concern an image.

    Args:
        held: The images.
        false_positive_N: B1, of negatives: the share called tumour.
        sufficiency_N: Of positives: the verifier's mean P(tumour) inside the map; 0 for an empty map.
        completeness_N: Of positives: 1 less the verifier's mean P(tumour) in the tenth of tissue cells that looks most like
            tumour outside the map.
        moments_N6: B2, of tissue cells of positives: what `moments` gives, zeros for negatives. `correlation` makes one
            number of their sum.
        cross_fit_N: B3, of positives; None without a witness.
        consistency_N: B4.
        image_score_N: Generalised mean of the map, power 4.
    """

    held: HeldOut
    false_positive_N: Floats
    sufficiency_N: Floats
    completeness_N: Floats
    moments_N6: Floats
    cross_fit_N: Floats | None
    consistency_N: Floats
    image_score_N: Floats

    @property
    def verifier(self) -> float:
        """B2: the correlation of map and verifier over the tissue cells of all positives."""
        return float(correlation(self.moments_N6.sum(0)))

    @property
    def scores(self) -> dict[str, float]:
        """Every term's mean, by name; the cross-fit only where there was a witness, consistency NaN without views."""
        from sklearn.metrics import roc_auc_score

        scores = {
            "b1_false_positive": _mean(self.false_positive_N),
            "b2_verifier": self.verifier,
            "b2_sufficiency": _mean(self.sufficiency_N),
            "b2_completeness": _mean(self.completeness_N),
            "b4_consistency": float(self.consistency_N.mean()),
            "b5_auroc": float(roc_auc_score(self.held.is_positive_N, self.image_score_N)),
            "proxy": self.total(),
        }
        return scores if self.cross_fit_N is None else {**scores, "b3_cross_fit": _mean(self.cross_fit_N)}

    def total(self) -> float:
        """One number to rank the candidates of a round by: the mean of B2 and B3, less B1.

        Source: ours. The two terms that see both kinds of mistake, and the one that is exact; the gates stay gates.
        """
        terms = [self.verifier] if self.cross_fit_N is None else [self.verifier, _mean(self.cross_fit_N)]
        return float(np.mean(terms)) - _mean(self.false_positive_N)


def proxy_scores(
    seen: Seen,
    held: HeldOut,
    cells_Ngg: npt.NDArray[np.floating[Any]],
    is_tissue_Ngg: npt.NDArray[np.bool_],
    witness_Nhw: Maps | None = None,
) -> ProxyScores:
    """Scores a network's maps by image labels.

    Args:
        seen: What it said.
        held: Of which images.
        cells_Ngg: (N, g, g) in [0, 1], the verifier's P(tumour).
        is_tissue_Ngg: Likewise bool.
        witness_Nhw: (N, h, w) in [0, 1], maps of a teacher that learned from other patients; None where there is none.

    Raises:
        InputError: When shapes disagree.
    """
    maps_Nhw = seen.maps_Nhw.astype(np.float32)
    check_pair(maps_Nhw, maps_Nhw if witness_Nhw is None else witness_Nhw, held.is_positive_N)
    if cells_Ngg.shape != is_tissue_Ngg.shape or len(cells_Ngg) != len(maps_Nhw):
        raise InputError(
            f"Cells of {cells_Ngg.shape} and tissue of {is_tissue_Ngg.shape} were given for {len(maps_Nhw)} maps; let the "
            "verifier judge the same images."
        )
    is_tumour_Nhw = maps_Nhw >= THRESHOLD
    inside_Ngg = _shares(is_tumour_Nhw, cells_Ngg.shape[1:])
    is_positive_N = held.is_positive_N
    return ProxyScores(
        held=held,
        false_positive_N=np.where(is_positive_N, np.nan, is_tumour_Nhw.mean((1, 2))),
        sufficiency_N=np.where(is_positive_N, sufficiency(inside_Ngg, cells_Ngg, is_tissue_Ngg), np.nan),
        completeness_N=np.where(is_positive_N, completeness(inside_Ngg, cells_Ngg, is_tissue_Ngg), np.nan),
        moments_N6=moments(inside_Ngg, cells_Ngg, is_tissue_Ngg & is_positive_N[:, None, None]),
        cross_fit_N=None if witness_Nhw is None else np.where(is_positive_N, soft_dice(maps_Nhw, witness_Nhw), np.nan),
        consistency_N=seen.consistency_N.astype(np.float64),
        image_score_N=(maps_Nhw.astype(np.float64) ** _POWER).mean((1, 2)) ** (1 / _POWER),
    )


def sufficiency(inside_Ngg: Floats, cells_Ngg: npt.NDArray[Any], is_tissue_Ngg: npt.NDArray[np.bool_]) -> Floats:
    """The verifier's mean P(tumour) inside a map, (N,) in [0, 1]; cells count as far as they are covered, glass as normal.

    An empty map has 0: a positive image holds tumour, so that it is surely wrong.

    Args:
        inside_Ngg: Share of each cell that the map calls tumour.
        cells_Ngg: P(tumour).
        is_tissue_Ngg: Whether the verifier's word counts.
    """
    believed_N = (inside_Ngg * cells_Ngg * is_tissue_Ngg).sum((1, 2))
    covered_N = inside_Ngg.sum((1, 2))
    mean_N: Floats = believed_N / np.where(covered_N == 0, 1, covered_N)
    return mean_N


def completeness(inside_Ngg: Floats, cells_Ngg: npt.NDArray[Any], is_tissue_Ngg: npt.NDArray[np.bool_]) -> Floats:
    """1 less the mean P(tumour) of the top tenth of tissue cells outside a map, (N,) in [0, 1].

    A cell is outside when less than half of it is covered. The tenth is one of the image's tissue cells, not of those
    outside, so that a map can't gain by leaving few.

    Args:
        inside_Ngg: Share of each cell that the map calls tumour.
        cells_Ngg: P(tumour).
        is_tissue_Ngg: Whether the verifier's word counts.
    """
    left_NM = np.where(is_tissue_Ngg & (inside_Ngg < 0.5), cells_Ngg, 0).reshape(len(cells_Ngg), -1)
    sorted_NM = -np.sort(-left_NM.astype(np.float64), axis=1)
    num_N = np.maximum(1, np.round(_TOP_SHARE * is_tissue_Ngg.sum((1, 2)))).astype(int)
    missed_N = np.array([row[:num].mean() for row, num in zip(sorted_NM, num_N, strict=True)])
    return 1 - missed_N


def moments(inside_Ngg: Floats, cells_Ngg: npt.NDArray[Any], is_counted_Ngg: npt.NDArray[np.bool_]) -> Floats:
    """Sums over cells that `correlation` needs, (N, 6): number, map, verifier, map squared, verifier squared, product.

    Args:
        inside_Ngg: Share of each cell that the map calls tumour.
        cells_Ngg: P(tumour).
        is_counted_Ngg: Which cells are summed.
    """
    cells = cells_Ngg.astype(np.float64)
    terms = (np.ones_like(cells), inside_Ngg, cells, inside_Ngg**2, cells**2, inside_Ngg * cells)
    sums_N6: Floats = np.stack([(term * is_counted_Ngg).sum((1, 2)) for term in terms], axis=1)
    return sums_N6


def correlation(sums: npt.NDArray[Any]) -> Floats:
    """Pearson's correlation of map and verifier from summed `moments`, (..., 6) to (...); 0 where either is constant.

    A verifier whose mistakes have nothing to do with the maps lowers every map's correlation by the same factor: the best
    map stays the best. The harmonic mean of sufficiency and completeness has no such property: the less the verifier knows,
    the more it favours maps that leave nothing outside.

    Source: ours, for the reason above. On 40 synthetic patches, among truths grown and shrunk by up to 28 px, all and
    nothing, the harmonic mean chose all (F1 0.32), the correlation the truth shrunk by 6 px (F1 0.76): cells at a tumour's
    edge look less like it, so that a lean towards small maps is left.
    """
    number, one, other, one_squared, other_squared, product = np.moveaxis(sums, -1, 0)
    number = np.maximum(number, 1)
    covariance = product / number - one / number * (other / number)
    spread = (one_squared / number - (one / number) ** 2) * (other_squared / number - (other / number) ** 2)
    is_flat = spread <= _ROUNDING**2
    result: Floats = np.where(is_flat, 0, covariance / np.sqrt(np.where(is_flat, 1, spread)))
    return result


def proxy_verdict(
    student: ProxyScores,
    teacher: ProxyScores,
    margins: ProxyMargins | None = None,
    bootstrap: BootstrapSettings | None = None,
) -> Verdict:
    """Whether image labels speak for the student.

    Non-inferiority is judged by the differences themselves: by their intervals, a small held-out set would never let a
    student pass. The gain is judged by both.

    Args:
        student: Its scores, with consistency.
        teacher: Likewise, of the same images.
        margins: How much worse and better.
        bootstrap: How intervals are made.

    Raises:
        InputError: When the two are of different images, or one lacks views or a witness that the other has.
    """
    margins = margins or ProxyMargins()
    _check_same(student, teacher)
    intervals = _intervals(student, teacher, bootstrap or BootstrapSettings())
    ours, theirs = student.scores, teacher.scores
    gains = {name: sign * (ours[name] - theirs[name]) for name, (_, sign, _) in _TERMS.items() if name in ours}
    worse = [
        f"{words} worse by {-gains[name]:.4f}, {getattr(margins, margin):g} is allowed"
        for name, (margin, _, words) in _TERMS.items()
        if name in gains and not gains[name] >= -getattr(margins, margin) - _ROUNDING
    ]
    proofs = [name for name, interval in intervals.items() if _is_gain(interval, margins)]
    better = [f"{_TERMS[name][2]} better by {gains[name]:.4f}" for name in proofs]
    reasons = worse + (better or [f"neither verifier nor witness is sure of a gain of {margins.gain:g}"])
    return Verdict(
        is_better=not worse and bool(proofs),
        scores={f"gain_{name}": gain for name, gain in gains.items()},
        interval=intervals[proofs[0] if proofs else "b2_verifier"],
        reasons=tuple(reasons),
    )


_TERMS = {
    "b1_false_positive": ("false_positive", -1, "B1 false positives on negatives"),
    "b2_verifier": ("verifier", 1, "B2 verifier"),
    "b3_cross_fit": ("cross_fit", 1, "B3 agreement with the witness"),
    "b4_consistency": ("consistency", 1, "B4 consistency"),
    "b5_auroc": ("auroc", 1, "B5 image AUROC"),
}
"""By score: the margin that holds for it, whether more is better, and what it is called."""


def _intervals(student: ProxyScores, teacher: ProxyScores, settings: BootstrapSettings) -> dict[str, Interval]:
    """Student less teacher, patients drawn alike for both, of the two terms that can show a gain."""
    patients = student.held.patients
    found = {
        "b2_verifier": bootstrap_difference(student.moments_N6, teacher.moments_N6, patients, correlation, settings)
    }
    if student.cross_fit_N is not None and teacher.cross_fit_N is not None:
        one, other = mean_counts(student.cross_fit_N), mean_counts(teacher.cross_fit_N)
        found["b3_cross_fit"] = bootstrap_difference(one, other, patients, summed_mean, settings)
    return found


def _is_gain(interval: Interval, margins: ProxyMargins) -> bool:
    assert interval.above_zero is not None
    return interval.estimate >= margins.gain - _ROUNDING and interval.above_zero >= margins.confidence


def _check_same(student: ProxyScores, teacher: ProxyScores) -> None:
    one, other = student.held, teacher.held
    if one.patients != other.patients or not np.array_equal(one.is_positive_N, other.is_positive_N):
        raise InputError(
            "Scores of different images were given; let student and teacher look at the same held-out set."
        )
    if (student.cross_fit_N is None) != (teacher.cross_fit_N is None):
        raise InputError("A witness was given for one of the two only. Score both with it, or neither.")
    if np.isnan(student.consistency_N).any() or np.isnan(teacher.consistency_N).any():
        raise InputError("Views were not looked at, so consistency is unknown. Look at the images with views.")


def _shares(is_tumour_Nhw: npt.NDArray[np.bool_], size: tuple[int, ...]) -> Floats:
    """The share of each cell that a map covers, (N, g, g)."""
    maps = torch.from_numpy(is_tumour_Nhw.astype(np.float32))[:, None]
    shares_Ngg: Floats = F.adaptive_avg_pool2d(maps, (size[0], size[1]))[:, 0].numpy().astype(np.float64)
    return shares_Ngg


def _mean(values_N: Floats) -> float:
    return float(np.nanmean(values_N))
