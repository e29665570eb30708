import json

import pytest

from counterstain import log


def test_answers_and_talk_go_to_different_streams(capsys: pytest.CaptureFixture[str]) -> None:
    log.say("reading [a] slide")
    log.emit_json({"slides": 3})
    captured = capsys.readouterr()
    assert captured.err == "reading [a] slide\n"
    assert json.loads(captured.out) == {"slides": 3}


def test_a_table_holds_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    log.emit_table("Scores", ["class", "IoU"], [["tumour", "0.71"], ["stroma", "0.64"]])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("Scores", "class", "IoU", "tumour", "0.64"))


def test_what_stands_in_brackets_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    log.emit_table("Extras", ["extra"], [["pip install counterstain[onnx]"]])
    assert "counterstain[onnx]" in capsys.readouterr().out


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_LINE_EVERY_S", 0.0)
    with log.progress("Reading", 10, "tiles", done=4) as counter:
        counter.advance(3, note="a.svs")
    assert "Reading a.svs: 3/6 tiles" in capsys.readouterr().err


def test_on_a_terminal_progress_is_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with log.progress("Reading", 10, "tiles", done=4) as counter:
        counter.advance(6)
    assert "10/10" in capsys.readouterr().err
