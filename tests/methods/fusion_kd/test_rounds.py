"""Who teaches and who learns after each round."""

from dataclasses import replace

import pytest

from counterstain.methods.fusion_kd.rounds import Row, Rules, State, state_after

RULES = Rules(max_rounds=4, patience=1, student_init="swap", most_agreement=0.98)


def row(number: int, state: State, decision: str, **changes: object) -> Row:
    """A round as it follows from a state."""
    plain = Row(
        number=number,
        teacher=state.teacher,
        start=state.start,
        kind=state.kind,
        epoch=1,
        decision=decision,  # type: ignore[arg-type]
        reasons=("because",),
        scores={"f1_mix": 0.5},
        teacher_scores={"f1_mix": 0.5},
        interval=None,
        areas={},
        agreement=0.5,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def played(decisions: list[str], rules: Rules = RULES) -> list[State]:
    """The states before, between and after rounds."""
    rows: list[Row] = []
    states = [state_after(rows, rules)]
    for decision in decisions:
        rows.append(row(len(rows) + 1, states[-1], decision))
        states.append(state_after(rows, rules))
    return states


def test_the_first_student_is_fresh_and_learns_from_the_teacher() -> None:
    first = played([])[0]
    assert (first.teacher, first.start, first.kind, first.end) == ("teacher", None, "student", None)


def test_at_a_switch_the_networks_change_roles_with_their_weights() -> None:
    first, second, third = played(["switch", "switch"])
    assert (second.teacher, second.teacher_kind, second.start, second.kind) == (
        "round_1",
        "student",
        "teacher",
        "teacher",
    )
    assert (third.teacher, third.teacher_kind, third.start, third.kind) == ("round_2", "teacher", "round_1", "student")
    assert (first.best, second.best, third.best) == ("teacher", "round_1", "round_2")


@pytest.mark.parametrize(("init", "start", "kind"), [("fresh", None, "teacher"), ("copy_best", "round_1", "student")])
def test_the_next_student_starts_as_asked(init: str, start: str | None, kind: str) -> None:
    after = played(["switch"], replace(RULES, student_init=init))[-1]  # type: ignore[arg-type]
    assert (after.start, after.kind) == (start, kind)


@pytest.mark.parametrize("decision", ["keep", "rollback"])
def test_a_round_without_a_better_student_is_tried_once_more_afresh_and_then_it_ends(decision: str) -> None:
    _, second, third = played([decision, decision])
    assert (second.teacher, second.start, second.kind, second.best, second.end) == (
        "teacher",
        None,
        "student",
        "teacher",
        None,
    )
    assert third.end is not None
    assert third.best == "teacher"


def test_a_switch_forgives_an_earlier_failure() -> None:
    states = played(["keep", "switch", "keep"])
    assert states[-1].end is None
    assert (states[-1].teacher, states[-1].best, states[-1].kind) == ("round_2", "round_2", "teacher")


def test_it_ends_after_the_last_round() -> None:
    states = played(["switch"] * 4)
    assert [state.end is None for state in states] == [True] * 4 + [False]
    assert states[-1].best == "round_4"


def test_no_rounds_leave_the_teacher() -> None:
    only = played([], replace(RULES, max_rounds=0))[0]
    assert only.end is not None
    assert only.best == "teacher"


def test_a_student_that_agrees_with_its_teacher_has_nothing_more_to_learn() -> None:
    same = row(1, State(), "keep", agreement=0.99)
    assert "nothing new" in str(state_after([same], RULES).end)


def test_a_schedule_changes_roles_and_keeps_the_last() -> None:
    states = played(["scheduled", "scheduled"])
    assert (states[-1].best, states[-1].teacher, states[-1].start) == ("round_2", "round_2", "round_1")


def test_as_released_the_best_teaches_and_the_teacher_before_learns_though_both_may_be_the_same() -> None:
    rules = replace(RULES, keeps_best=True)
    better = row(1, State(), "scheduled", scores={"f1_mix": 0.7})
    after = state_after([better], rules)
    assert (after.best, after.teacher, after.start) == ("round_1", "round_1", "teacher")
    worse = row(2, after, "scheduled", scores={"f1_mix": 0.6})
    then = state_after([better, worse], rules)
    # the best stays and learns from itself, the released consequence of a round without a new best
    assert (then.best, then.teacher, then.start) == ("round_1", "round_1", "round_1")


def test_as_released_the_first_student_must_beat_the_teacher_to_be_kept() -> None:
    rules = replace(RULES, keeps_best=True)
    worse = row(1, State(), "scheduled", scores={"f1_mix": 0.4})
    after = state_after([worse], rules)
    assert (after.best, after.teacher, after.start) == ("teacher", "teacher", "teacher")


def test_a_row_survives_json() -> None:
    one = row(3, State(), "switch", reasons=("a", "b"))
    assert Row.from_json(one.to_json()) == one


def test_a_student_that_was_rolled_back_does_not_raise_what_the_next_must_beat() -> None:
    rules = replace(RULES, keeps_best=True)
    drifted = row(1, State(), "rollback", scores={"f1_mix": 0.9})
    after = state_after([drifted], rules)
    better = row(2, after, "scheduled", scores={"f1_mix": 0.7})
    assert state_after([drifted, better], rules).best == "round_2"


def test_where_the_best_teaches_itself_a_student_may_start_from_it_too() -> None:
    rules = replace(RULES, keeps_best=True, student_init="copy_best")
    better = row(1, State(), "scheduled", scores={"f1_mix": 0.7})
    worse = row(2, state_after([better], rules), "scheduled", scores={"f1_mix": 0.6}, kind="teacher")
    then = state_after([better, worse], rules)
    assert (then.teacher, then.start, then.kind) == ("round_1", "round_1", "student")


def test_a_row_that_was_written_before_candidates_were_counted_is_read() -> None:
    tree = row(1, State(), "switch").to_json()
    del tree["candidates"]
    assert Row.from_json(tree).candidates == 1
