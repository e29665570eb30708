"""Which of two networks maps tumour better, judged by image labels alone on images that trained neither.

No one number is safe without masks, so five are asked and each can say no:

    B1  false positives on negative images: exact, for all of them is normal; blind to what is missed
    B2  an independent verifier's cells on positives: the harmonic mean of sufficiency, which falls as a map grows, and
        completeness, which falls as it shrinks
    B3  agreement with a witness, a teacher of half of the same training patients with another seed: partly independent, for
        it learned the same way from images that the teacher has seen too
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
from counterstain.methods.fusion_kd.drift import THRESHOLD, Floats, Maps, check_pair
from counterstain.methods.fusion_kd.seen import HeldOut, Seen
from counterstain.methods.fusion_kd.selectors import Verdict
from counterstain.metrics.intervals import BootstrapSettings, Interval, bootstrap_difference
from counterstain.metrics.tumour import mean_counts, summed_mean

_POWER = 4  # of the generalised mean, as the MIL networks' published one
_NORMAL_SHARE = 0.9  # of cells of negatives, whose P(tumour) is taken for noise
_WITNESS_SHARE = 0.97  # of negatives' pixels that the witness may not call tumour
_ROUNDING = 1e-9  # of differences that are to be compared with a margin


@dataclass(frozen=True)
class ProxyMargins:
    """How much worse a student may be, and how much better it must be; fractions.

    Args:
        false_positive: B1, of the share of negatives' pixels.
        verifier: B2, of the harmonic mean.
        witness: B3.
        consistency: B4.
        auroc: B5; wide, as two hundred images tell no smaller difference.
        gain: By which B2 or B3 must be better.
        confidence: Share of resamples over patients in which it must be.

    Raises:
        InputError: When one is negative, or the confidence no share.

    Source: ours.
    """

    false_positive: float = 0.005
    verifier: float = 0.01
    witness: float = 0.01
    consistency: float = 0.02
    auroc: float = 0.05
    gain: float = 0.005
    confidence: float = 0.9

    def __post_init__(self) -> None:
        margins = (self.false_positive, self.verifier, self.witness, self.consistency, self.auroc, self.gain)
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
        sufficiency_N: Of positives: the verifier's mean belief inside the map.
        completeness_N: Of positives: the share of the verifier's belief that lies inside the map.
        witness_N: B3, of positives in which the witness sees tumour; None without a witness, or where it sees none at all.
        consistency_N: B4.
        image_score_N: Generalised mean of the map, power 4.
    """

    held: HeldOut
    false_positive_N: Floats
    sufficiency_N: Floats
    completeness_N: Floats
    witness_N: Floats | None
    consistency_N: Floats
    image_score_N: Floats

    @property
    def verifier(self) -> Floats:
        """B2, of positives: the harmonic mean of sufficiency and completeness."""
        both_N = self.sufficiency_N + self.completeness_N
        mean_N: Floats = 2 * self.sufficiency_N * self.completeness_N / np.where(both_N == 0, 1, both_N)
        return mean_N

    @property
    def scores(self) -> dict[str, float]:
        """Every term's mean, by name; B3 only where a witness had something to say, consistency NaN without views."""
        from sklearn.metrics import roc_auc_score

        scores = {
            "b1_false_positive": _mean(self.false_positive_N),
            "b2_verifier": _mean(self.verifier),
            "b2_sufficiency": _mean(self.sufficiency_N),
            "b2_completeness": _mean(self.completeness_N),
            "b4_consistency": float(self.consistency_N.mean()),
            "b5_auroc": float(roc_auc_score(self.held.is_positive_N, self.image_score_N)),
            "proxy": self.total(),
        }
        return scores if self.witness_N is None else {**scores, "b3_witness": _mean(self.witness_N)}

    def total(self) -> float:
        """One number to rank the candidates of a round by: the mean of B2 and B3, less B1.

        Source: ours. The two terms that see both kinds of mistake, and the one that is exact; the gates stay gates.
        """
        terms = [self.verifier] if self.witness_N is None else [self.verifier, self.witness_N]
        return float(np.mean([_mean(term_N) for term_N in terms])) - _mean(self.false_positive_N)


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
        witness_Nhw: (N, h, w) in [0, 1], maps of a second teacher, of half of the patients; None where there is none.

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
    believed_Ngg = believed(cells_Ngg, is_tissue_Ngg, is_positive_N)
    return ProxyScores(
        held=held,
        false_positive_N=np.where(is_positive_N, np.nan, is_tumour_Nhw.mean((1, 2))),
        sufficiency_N=np.where(is_positive_N, sufficiency(inside_Ngg, believed_Ngg), np.nan),
        completeness_N=np.where(is_positive_N, completeness(inside_Ngg, believed_Ngg), np.nan),
        witness_N=None if witness_Nhw is None else _testified(maps_Nhw, witness_Nhw, is_positive_N),
        consistency_N=seen.consistency_N.astype(np.float64),
        image_score_N=(maps_Nhw.astype(np.float64) ** _POWER).mean((1, 2)) ** (1 / _POWER),
    )


def believed(
    cells_Ngg: npt.NDArray[np.floating[Any]], is_tissue_Ngg: npt.NDArray[np.bool_], is_positive_N: npt.NDArray[np.bool_]
) -> Floats:
    """The part of the verifier's word that negatives don't contradict, (N, g, g) in [0, 1]; 0 on glass.

    All cells of negative images are normal, whatever the verifier thinks of them. What it says of nine in ten of those is
    taken off and the rest stretched to 1: a verifier that can't tell tumour from normal tissue is left with nothing to say.

    Args:
        cells_Ngg: P(tumour).
        is_tissue_Ngg: Whether the verifier's word counts.
        is_positive_N: By label.

    Source: ours. With the bare P(tumour), maps of everything scored best on images whose truth is known.
    """
    normal = cells_Ngg[~is_positive_N][is_tissue_Ngg[~is_positive_N]]
    floor = float(np.quantile(normal, _NORMAL_SHARE)) if normal.size else 0.0
    stretched_Ngg: Floats = ((cells_Ngg.astype(np.float64) - floor) / max(1 - floor, _ROUNDING)).clip(0, 1)
    return stretched_Ngg * is_tissue_Ngg


def sufficiency(inside_Ngg: Floats, believed_Ngg: Floats) -> Floats:
    """The mean belief inside a map, (N,) in [0, 1]; 0 for an empty map. It falls as a map grows past the tumour.

    Args:
        inside_Ngg: Share of each cell that the map calls tumour.
        believed_Ngg: As `believed` has it.
    """
    covered_N = inside_Ngg.sum((1, 2))
    mean_N: Floats = (inside_Ngg * believed_Ngg).sum((1, 2)) / np.where(covered_N == 0, 1, covered_N)
    return mean_N


def completeness(inside_Ngg: Floats, believed_Ngg: Floats) -> Floats:
    """The share of all belief that lies inside a map, (N,) in [0, 1]; 0 where there is none. It falls as a map shrinks.

    Args:
        inside_Ngg: Share of each cell that the map calls tumour.
        believed_Ngg: As `believed` has it.
    """
    all_N = believed_Ngg.sum((1, 2))
    share_N: Floats = (inside_Ngg * believed_Ngg).sum((1, 2)) / np.where(all_N == 0, 1, all_N)
    return share_N


def witnessed(maps_Nhw: Maps, witness_Nhw: Maps, is_positive_N: npt.NDArray[np.bool_]) -> Floats:
    """Dice of a map's tumour with a witness's, (N,) in [0, 1]; NaN where the witness sees none and has nothing to say.

    The witness calls tumour what it is surer of than of 97 % of the pixels of negatives, all of which are normal, and surer
    than not: a teacher learns to see too much, and a witness that does would speak for maps that do.

    Args:
        maps_Nhw: Probabilities.
        witness_Nhw: Likewise, of a second teacher, of half of the patients and with another seed.
        is_positive_N: By label.

    Source: ours. Of a positive some tumour is known to be there: an empty witness is wrong, and would speak for empty maps.
    """
    floor = max(THRESHOLD, float(np.quantile(witness_Nhw[~is_positive_N].astype(np.float32), _WITNESS_SHARE)))
    is_tumour, is_witnessed = maps_Nhw >= THRESHOLD, witness_Nhw.astype(np.float32) >= floor
    both_N = (is_tumour & is_witnessed).sum((1, 2))
    seen_N = is_witnessed.sum((1, 2))
    dice_N: Floats = 2 * both_N / np.where(seen_N == 0, np.nan, is_tumour.sum((1, 2)) + seen_N)
    return dice_N


def _testified(maps_Nhw: Maps, witness_Nhw: Maps, is_positive_N: npt.NDArray[np.bool_]) -> Floats | None:
    """What the witness says of positives; None where it says nothing of any of them."""
    found_N: Floats = np.where(is_positive_N, witnessed(maps_Nhw, witness_Nhw, is_positive_N), np.nan)
    return None if np.isnan(found_N).all() else found_N


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
    "b3_witness": ("witness", 1, "B3 agreement with the witness"),
    "b4_consistency": ("consistency", 1, "B4 consistency"),
    "b5_auroc": ("auroc", 1, "B5 image AUROC"),
}
"""By score: the margin that holds for it, whether more is better, and what it is called."""


def _intervals(student: ProxyScores, teacher: ProxyScores, settings: BootstrapSettings) -> dict[str, Interval]:
    """Student less teacher, patients drawn alike for both, of the two terms that can show a gain."""
    patients = student.held.patients
    pairs = {"b2_verifier": (student.verifier, teacher.verifier)}
    if student.witness_N is not None and teacher.witness_N is not None:
        pairs["b3_witness"] = (student.witness_N, teacher.witness_N)
    return {
        name: bootstrap_difference(mean_counts(one_N), mean_counts(other_N), patients, summed_mean, settings)
        for name, (one_N, other_N) in pairs.items()
    }


def _is_gain(interval: Interval, margins: ProxyMargins) -> bool:
    assert interval.above_zero is not None
    return interval.estimate >= margins.gain - _ROUNDING and interval.above_zero >= margins.confidence


def _check_same(student: ProxyScores, teacher: ProxyScores) -> None:
    one, other = student.held, teacher.held
    if one.patients != other.patients or not np.array_equal(one.is_positive_N, other.is_positive_N):
        raise InputError(
            "Scores of different images were given; let student and teacher look at the same held-out set."
        )
    if (student.witness_N is None) != (teacher.witness_N is None):
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
