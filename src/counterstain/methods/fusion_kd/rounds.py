"""Role reversal as a state machine: what came of each round, and who teaches and who learns in the next.

A round trains one student against one teacher. Its row in the ledger says who they were, what the held-out images said of
both, and the decision. The state of things is a pure function of the rows: a killed run reads its ledger and goes on.

    decision    what follows
    switch      the student is the new teacher and the best so far; the old teacher learns next (or a fresh network)
    keep        the teacher stays; a fresh student tries once more, then it ends
    rollback    likewise: what the student calls tumour has grown or shrunk too far
    scheduled   roles change, whoever is better

Does not know: networks, scores, files of weights.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Decision = Literal["switch", "keep", "rollback", "scheduled"]
Kind = Literal["teacher", "student"]

FIRST_TEACHER = "teacher"


@dataclass(frozen=True)
class Row:
    """What came of a round; plain values.

    Args:
        number: From 1.
        teacher: Whose maps were learned from: "teacher" or "round_1".
        start: Whose weights the student started from; None where it started afresh.
        kind: Which of the two networks the student was.
        epoch: After which the judged weights were taken, from 1.
        decision: See above.
        reasons: Of the decision, in words.
        scores: Of the student, on held-out images.
        teacher_scores: Likewise of the teacher.
        interval: Of the difference that decided; None where none did.
        areas: Mean tumour area of both on held-out positives, the median ratio, the share that changed much.
        agreement: Overlap of both on held-out positives.
        maps: Pixels of an image for one of the teacher's kept maps, and the disk that they took.
        candidates: How many checkpoints of the student were looked at; the best of them was judged.
    """

    number: int
    teacher: str
    start: str | None
    kind: Kind
    epoch: int
    decision: Decision
    reasons: tuple[str, ...]
    scores: dict[str, float | None]
    teacher_scores: dict[str, float | None]
    interval: dict[str, Any] | None
    areas: dict[str, float]
    agreement: float
    maps: dict[str, float] = field(default_factory=dict)
    candidates: int = 1

    @property
    def name(self) -> str:
        """Of its student."""
        return f"round_{self.number}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Row":
        """The row that `to_json` wrote."""
        return cls(**{**tree, "reasons": tuple(tree["reasons"])})


@dataclass(frozen=True)
class Rules:
    """How rounds follow each other.

    Args:
        max_rounds: At most so many.
        patience: Rounds in a row without a change of roles, beyond the first, after which it ends.
        student_init: What the next student starts from after a change of roles: "swap" takes the old teacher with its
            weights, "fresh" its network without, "copy_best" the new teacher itself.
        most_agreement: Above which a round that changed nothing ends it: there was nothing new to learn.
        keeps_best: With a schedule, whether the best by `best_by` teaches and is kept, instead of the last.
        best_by: The score by which it is.
    """

    max_rounds: int
    patience: int
    student_init: Literal["swap", "fresh", "copy_best"]
    most_agreement: float
    keeps_best: bool = False
    best_by: str = "f1_mix"


@dataclass(frozen=True)
class State:
    """Who teaches, who learns, what would be kept.

    Args:
        number: Of the next round.
        teacher: Name of the teacher.
        teacher_kind: Which network it is.
        start: Name of the weights that the next student starts from; None starts afresh.
        kind: Which network it is.
        best: What is kept if it ends here.
        best_kind: Which network it is.
        failures: Rounds in a row that changed nothing.
        end: Why it has ended; None while it goes on.
    """

    number: int = 1
    teacher: str = FIRST_TEACHER
    teacher_kind: Kind = "teacher"
    start: str | None = None
    kind: Kind = "student"
    best: str = FIRST_TEACHER
    best_kind: Kind = "teacher"
    failures: int = 0
    end: str | None = None


def state_after(rows: Sequence[Row], rules: Rules) -> State:
    """The state after all rounds of a ledger."""
    state = State() if rules.max_rounds else State(end="no rounds were asked for")
    top: float | None = None
    for row in rows:
        state = _after_scheduled(state, row, rules, top) if row.decision == "scheduled" else _after(state, row, rules)
        top = max(score for score in (top, *_scores(row, rules)) if score is not None) if rules.keeps_best else None
        if state.end is None and state.number > rules.max_rounds:
            state = replace(state, end=f"all {rules.max_rounds} rounds are done")
    return state


def _scores(row: Row, rules: Rules) -> tuple[float | None, ...]:
    of_student = None if row.decision == "rollback" else row.scores.get(rules.best_by)  # it can't be the best
    return of_student, row.teacher_scores.get(rules.best_by)


def _after(state: State, row: Row, rules: Rules) -> State:
    if row.decision == "switch":
        return replace(_roles_changed(state, row, rules), failures=0)
    failures = state.failures + 1
    end = None
    if row.agreement > rules.most_agreement:
        end = f"student and teacher agree to {row.agreement:.3f}: a round teaches nothing new"
    elif failures > rules.patience:
        end = f"{failures} rounds in a row brought nothing better"
    # what failed is tried again from the beginning, so that what it had learned by heart is forgotten
    return replace(state, number=row.number + 1, start=None, failures=failures, end=end)


def _roles_changed(state: State, row: Row, rules: Rules) -> State:
    start, kind = state.teacher, state.teacher_kind
    if rules.student_init == "copy_best":
        start, kind = row.name, row.kind
    return replace(
        state,
        number=row.number + 1,
        teacher=row.name,
        teacher_kind=row.kind,
        start=None if rules.student_init == "fresh" else start,
        kind=kind,
        best=row.name,
        best_kind=row.kind,
    )


def _after_scheduled(state: State, row: Row, rules: Rules, top: float | None) -> State:
    """As released where the best is kept: it teaches, and the teacher before learns, though both may be the same."""
    score, of_teacher = _scores(row, rules)
    before = top if top is not None else of_teacher
    is_best = not rules.keeps_best or (score is not None and (before is None or score > before))
    if is_best:
        return _roles_changed(state, row, rules)
    start, kind = state.teacher, state.teacher_kind
    if rules.student_init == "copy_best":
        start, kind = state.best, state.best_kind
    return replace(
        state,
        number=row.number + 1,
        teacher=state.best,
        teacher_kind=state.best_kind,
        start=None if rules.student_init == "fresh" else start,
        kind=kind,
    )
