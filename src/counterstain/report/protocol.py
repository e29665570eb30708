"""Under what rules numbers were made, so that those of different rules are told apart and never set side by side.

Does not know: how maps are made or scored.
"""

from dataclasses import asdict, dataclass
from typing import Any

from counterstain.errors import InputError
from counterstain.metrics import Protocol
from counterstain.report.gate import Gate

_RULES = ("background", "gate", "tta")
_ORACLE = (
    "Gate 'truth' is an oracle: every map was told the classes that its image really holds. Such numbers are no measure of "
    "how the model does on new images, and not comparable with any made without the oracle."
)


@dataclass(frozen=True)
class ScoringProtocol:
    """The rules under which a model was scored.

    Args:
        background: Which pixels count; see docs/metrics.md.
        gate: Which classes a map may show.
        tta: Views averaged for each window.
        thresholds: Above which the model judged each class present; None where it has none, or the gate is another.
            They are the model's own, as its weights are, and no rule: two models of one protocol may differ in them.
    """

    background: Protocol
    gate: Gate
    tta: str
    thresholds: tuple[float, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "thresholds": list(self.thresholds) if self.thresholds is not None else None}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report of such numbers has to say."""
        return (_ORACLE,) if self.gate == "truth" else ()

    def __str__(self) -> str:
        views = "no test-time augmentation" if self.tta == "none" else f"test-time augmentation {self.tta}"
        gate = f"gate {self.gate} (an oracle)" if self.gate == "truth" else f"gate {self.gate}"
        return f"{self.background}, {gate}, {views}"


def refuse_other_protocol(protocol: ScoringProtocol, other: ScoringProtocol) -> None:
    """Refuses to set numbers of two protocols side by side.

    Raises:
        InputError: When which pixels count, the gate or the views of test-time augmentation differ.
    """
    differing = [name for name in _RULES if getattr(protocol, name) != getattr(other, name)]
    if differing:
        found = ", ".join(f"{name} {getattr(protocol, name)!r} and {getattr(other, name)!r}" for name in differing)
        raise InputError(
            f"The two were scored under different protocols: {found}. Their numbers can't be compared. Score both alike."
        )
