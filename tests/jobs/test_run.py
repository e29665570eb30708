from pathlib import Path

import pytest

from counterstain import log
from counterstain.errors import DamagedSlideError, UnwritableError
from counterstain.jobs import run_all


def damaged() -> int:
    raise DamagedSlideError("Slide 'b.svs' can't be decoded.")


def defective() -> int:
    return [1][1]


def test_one_bad_slide_does_not_end_the_batch(tmp_path: Path) -> None:
    outcomes = run_all({"a": lambda: 1, "b": damaged, "c": defective, "d": lambda: 4}, tmp_path)
    assert outcomes.done == {"a": 1, "d": 4}
    assert [(failure.slide_id, failure.kind, failure.is_defect) for failure in outcomes.failures] == [
        ("b", "DamagedSlideError", False),
        ("c", "IndexError", True),
    ]
    said = (tmp_path / "c" / "error.txt").read_text()
    assert said.startswith("IndexError: list index out of range (a defect of counterstain")
    assert "Traceback" in said.split("\n\n")[1]
    assert (tmp_path / "b" / "error.txt").read_text().startswith("Slide 'b.svs' can't be decoded.\n\nTraceback")
    assert outcomes.failures[0].reason == "Slide 'b.svs' can't be decoded."


def test_where_nothing_can_be_written_there_is_one_line_and_no_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unwritable() -> int:
        raise UnwritableError("'out' was given to write to, which can't be done (File exists).")

    outcomes = run_all({"a": unwritable}, tmp_path)
    assert not outcomes.failures[0].is_defect
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err.count("\n") == 1


def test_a_later_success_takes_the_note_away(tmp_path: Path) -> None:
    run_all({"b": damaged}, tmp_path)
    run_all({"b": lambda: 2}, tmp_path)
    assert not (tmp_path / "b" / "error.txt").exists()


def test_a_note_that_can_t_be_written_or_removed_does_not_end_the_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").write_text("a file where the slides' folders should go")
    outcomes = run_all({"a": damaged, "b": lambda: 2, "c": lambda: 3}, tmp_path / "full")
    assert outcomes.done == {"b": 2, "c": 3}
    assert [failure.slide_id for failure in outcomes.failures] == ["a"]
    said = capsys.readouterr().err
    assert "can't be written" in said
    assert "can't be removed" in said
    assert "Traceback" not in said


def test_a_defect_s_traceback_is_said_where_it_can_t_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").write_text("a file where the slides' folders should go")
    run_all({"c": defective}, tmp_path / "full")
    assert "in defective" in capsys.readouterr().err


def test_every_slide_is_counted_once_its_work_has_ended_failed_ones_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_LINE_EVERY_S", 0.0)
    work = {"a": lambda: 1, "b": damaged, "c": lambda: log.say("at work on c")}
    run_all(work, tmp_path, log.Counter("Done with", 3, "slides", None))
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "Done with a: 1/3 slides",
        "b: Slide 'b.svs' can't be decoded.",
        "Done with b: 2/3 slides",
        "at work on c",
        "Done with c: 3/3 slides",
    ]
