"""Who decides whether a student takes its teacher's place, and what may be said of the decision.

Three selectors, from strong evidence to none: `pixel_val` scores masks of a few validation images, `proxy` knows image
labels alone, `schedule` changes roles unconditionally. A report prints the selector's sentence and no other. Before any of
them, a student whose areas have drifted is rolled back.

Does not know: how evidence is gathered.
"""

from dataclasses import dataclass, field
from typing import Any

from counterstain.errors import InputError, UnknownNameError
from counterstain.methods.fusion_kd.drift import Drift
from counterstain.metrics.intervals import Interval
from counterstain.metrics.segmentation import plain

SELECTORS: dict[str, str] = {
    "pixel_val": (
        "student outperformed teacher on {num_positive} pixel-labelled validation images of {num_patients} patients "
        "(F1 {student_f1:.1%}, teacher {teacher_f1:.1%})"
    ),
    "proxy": "no pixel truth was looked at; image-label evidence B1-B6 favoured the student",
    "schedule": "roles change every round by schedule; no claim that either is better",
}
"""By selector, what a report says of a change of roles."""

KEPT: dict[str, str] = {
    "pixel_val": (
        "teacher kept on {num_positive} pixel-labelled validation images of {num_patients} patients "
        "(F1 {teacher_f1:.1%}, student {student_f1:.1%})"
    ),
    "proxy": "no pixel truth was looked at; image-label evidence B1-B6 did not favour the student",
    "schedule": "roles stay by schedule; no claim that either is better",
}
"""By selector, what a report says where the teacher stays."""

BAND = (0.75, 1.3)
"""Median ratios of areas, student to teacher, beyond which a student is rolled back. Source: ours."""


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


def claim(selector: str, verdict: Verdict) -> str:
    """The sentence that a report may print of a verdict.

    Args:
        selector: A name in SELECTORS, the one that made the verdict.
        verdict: What it said.

    Raises:
        UnknownNameError: When there is no such selector.
    """
    if selector not in SELECTORS:
        raise UnknownNameError("selector", selector, SELECTORS)
    counts = {name: int(value) for name, value in verdict.scores.items() if name.startswith("num_")}
    return (SELECTORS if verdict.is_better else KEPT)[selector].format(**{**verdict.scores, **counts})


def scheduled() -> Verdict:
    """The verdict of a schedule: roles change, and nothing is said about who is better."""
    return Verdict(True, reasons=(SELECTORS["schedule"],))


def drift_verdict(drift: Drift, band: tuple[float, float] = BAND) -> Verdict | None:
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
