"""The logger and the progress display; the only module that prints.

`say` is for people and goes to standard error, `emit` is the answer of a command and goes to standard output, so that
`--json` output can be piped. Progress bars show rate and time left, and fall back to a line now and then where standard
error is no terminal.

Does not know: what is being done.
"""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

logger = logging.getLogger("counterstain")

_LINE_EVERY_S = 20.0  # between progress lines where there is no terminal


def _console() -> Console:
    return Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """A line for people, on standard error."""
    _console().print(message, markup=False, soft_wrap=True)


def emit(text: str) -> None:
    """A command's answer, on standard output."""
    print(text, file=sys.stdout, flush=True)


def emit_json(tree: Any) -> None:
    """A command's answer as JSON, on standard output."""
    emit(json.dumps(tree, indent=2, allow_nan=False))


def emit_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A command's answer as a table, on standard output; columns of numbers align right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        is_numeric = all(row[index][:1].isdigit() or row[index] == "-" for row in rows)
        table.add_column(column, justify="right" if is_numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # plain text: rich would take "[onnx]" for a style
    Console(file=sys.stdout, highlight=False).print(table)


class _Rate(ProgressColumn):
    """Finished units a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {task.fields['unit']}/s" if task.speed else "", style="dim")


class Counter:
    """Counts finished work for a progress display."""

    def __init__(self, what: str, total: int, unit: str, progress: Progress | None) -> None:
        self._what, self._total, self._unit, self._progress = what, total, unit, progress
        self._task = progress.add_task(what, total=total, unit=unit) if progress else None
        self._done, self._start = 0, time.monotonic()
        self._last_line = self._start

    def advance(self, by: int = 1, note: str = "") -> None:
        """Counts `by` more; `note` stands behind the name."""
        self._done += by
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=by, description=f"{self._what} {note}".rstrip())
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            rate = self._done / (self._last_line - self._start)
            left = (self._total - self._done) / rate if rate else float("inf")
            say(
                f"{self._what} {note}".rstrip()
                + f": {self._done}/{self._total} {self._unit}, {rate:.1f} {self._unit}/s, {left:.0f} s left"
            )


@contextmanager
def progress(what: str, total: int, unit: str = "it", *, done: int = 0) -> Iterator[Counter]:
    """A progress display with rate and time left.

    Args:
        what: What is being done, in a few words.
        total: How many units there are.
        unit: What is counted, in the plural: "tiles".
        done: How many an earlier, interrupted execution finished.
    """
    console = _console()
    if not console.is_terminal:
        yield Counter(what, total - done, unit, None)
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as display:
        counter = Counter(what, total, unit, display)
        if done:
            counter.advance(done)
        yield counter
