"""Who decides whether a student takes its teacher's place, and what may be said of the decision.

Three selectors, from strong evidence to none: `pixel_val` scores masks of a few validation images, `proxy` knows image
labels alone, `schedule` changes roles unconditionally. A report prints the selector's sentence and no other. Before any of
them, a student whose areas have drifted is rolled back.

Does not know: how evidence is gathered.
"""

from dataclasses import dataclass, field
from typing import Any

from counterstain.errors import InputError, UnknownNameError
from counterstain.methods.fusion_kd.drift import AREA_BAND, Drift
from counterstain.metrics.intervals import Interval
from counterstain.metrics.segmentation import plain

SELECTORS: dict[str, str] = {
    "pixel_val": (
        "student outperformed teacher on {num_positive} pixel-labelled validation images of {num_patients} patients "
        "(F1 {student_f1:.1%}, teacher {teacher_f1:.1%})"
    ),
    "proxy": "no pixel truth was looked at; image-label evidence {terms} favoured the student",
    "schedule": "roles change every round by schedule; no claim that either is better",
}
"""By selector, what a report says of a change of roles."""

KEPT: dict[str, str] = {
    "pixel_val": (
        "teacher kept on {num_positive} pixel-labelled validation images of {num_patients} patients "
        "(F1 {teacher_f1:.1%}, student {student_f1:.1%})"
    ),
    "proxy": "no pixel truth was looked at; image-label evidence {terms} did not favour the student",
    "schedule": "roles stay by schedule; no claim that either is better",
}
"""By selector, what a report says where the teacher stays."""


_RUNS: dict[str, str] = {
    "pixel_val": "roles changed only where the student outperformed its teacher on pixel-labelled validation images",
    "proxy": "no pixel truth was looked at; image-label evidence {terms} decided which network is kept",
    "schedule": "roles changed by schedule; no claim that any network is better than another",
}
_ALONE = "no rounds: the first teacher is kept, and compared with nothing"
_MASKS_CHOSE = "; validation masks chose which network is kept"


@dataclass(frozen=True)
class Basis:
    """What a decision rests on beside its selector's evidence.

    Args:
        watches_areas: Whether drifted areas are rolled back, B6.
        masks_choose: Whether, with a schedule, validation masks choose what is kept.
        candidates: Checkpoints of the student that were looked at.
    """

    watches_areas: bool = True
    masks_choose: bool = False
    candidates: int = 1

    @property
    def terms(self) -> str:
        """Of the proxy, by name."""
        return "B1-B6" if self.watches_areas else "B1-B5"

    def beside(self, selector: str) -> str:
        """What has to be said too: who chose, and among how many."""
        chose = _MASKS_CHOSE if selector == "schedule" and self.masks_choose else ""
        several = selector == "pixel_val" and self.candidates > 1
        return chose + (f"; the best of {self.candidates} checkpoints on the same images" if several else "")


@dataclass(frozen=True)
class Verdict:
    """Whether a student takes its teacher's place.

    Args:
        is_better: Whether it does; where the schedule decides, it claims nothing.
        scores: What was compared, by name.
        interval: Of the difference that decided, student less teacher; None where none was made.
        reasons: What spoke for or against it, in sentences.
    """

    is_better: bool
    scores: dict[str, float] = field(default_factory=dict)
    interval: Interval | None = None
    reasons: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, None for NaN."""
        return {
            "is_better": self.is_better,
            "scores": {name: plain(value) for name, value in self.scores.items()},
            "interval": self.interval.to_json() if self.interval else None,
            "reasons": list(self.reasons),
        }


def claim(selector: str, verdict: Verdict, basis: Basis | None = None) -> str:
    """The sentence that a report may print of a verdict.

    Args:
        selector: A name in SELECTORS, the one that made the verdict.
        verdict: What it said.
        basis: What else it rests on.

    Raises:
        UnknownNameError: When there is no such selector.
    """
    if selector not in SELECTORS:
        raise UnknownNameError("selector", selector, SELECTORS)
    counts = {name: int(value) for name, value in verdict.scores.items() if name.startswith("num_")}
    basis = basis or Basis()
    sentence = (SELECTORS if verdict.is_better else KEPT)[selector]
    return sentence.format(**{**verdict.scores, **counts, "terms": basis.terms}) + basis.beside(selector)


def run_claim(selector: str, num_rounds: int, basis: Basis) -> str:
    """The sentence that a report may print of a whole run.

    Args:
        selector: A name in SELECTORS.
        num_rounds: At most; 0 leaves the first teacher.
        basis: What decisions rest on.
    """
    return _RUNS[selector].format(terms=basis.terms) + basis.beside(selector) if num_rounds else _ALONE


def scheduled() -> Verdict:
    """The verdict of a schedule: roles change, and nothing speaks for or against either."""
    return Verdict(True)


def drift_verdict(drift: Drift, band: tuple[float, float] = AREA_BAND) -> Verdict | None:
    """The verdict that rolls a drifted student back, to be asked for before any selector.

    Args:
        drift: Of areas on held-out positive images.
        band: Least and largest median ratio that is let through.

    Returns:
        A verdict against the student; None where it has not drifted and a selector is to decide.

    Raises:
        InputError: When the band does not hold 1.
    """
    low, high = band
    if not 0 <= low <= 1 <= high:
        raise InputError(f"A band of {low} to {high} was given; it must hold 1, the ratio of areas that stay.")
    if low <= drift.median_ratio <= high:
        return None
    way = "grew" if drift.median_ratio > 1 else "shrank"
    reason = (
        f"rolled back: areas {way} to {drift.median_ratio:.2f} of the teacher's, beyond {low:g} to {high:g} "
        f"({drift.student_area:.1%} of positive images, the teacher {drift.teacher_area:.1%})"
    )
    return Verdict(False, {"area_ratio": drift.median_ratio, "share_large": drift.share_large}, None, (reason,))
