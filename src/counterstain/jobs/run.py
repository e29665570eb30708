"""The cohort runner: does a piece of work for every slide and keeps the failures.

One bad slide never ends a batch: whatever goes wrong with it is kept with its traceback beside its outputs, and the next
slide is taken. This is the only place where every exception is caught.

Does not know: what the work is.
"""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from counterstain import log
from counterstain.errors import CounterstainError, UnwritableError
from counterstain.files import write_text

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Failure:
    """Why a slide was not done.

    Args:
        slide_id: Which.
        kind: The exception's class.
        reason: Its message, one line for people.
        is_defect: Whether it is none of the errors that a slide or a user can cause, but one of ours.
    """

    slide_id: str
    kind: str
    reason: str
    is_defect: bool


@dataclass(frozen=True)
class Outcomes(Generic[ResultT]):
    """What became of a batch.

    Args:
        done: Results by slide, in the order of the batch.
        failures: In the order of the batch.
    """

    done: dict[str, ResultT]
    failures: tuple[Failure, ...]


def run_all(
    work: Mapping[str, Callable[[], ResultT]], folder: Path, counter: log.Counter | None = None
) -> Outcomes[ResultT]:
    """Does every piece of work; a failing one is noted and the next is taken.

    Args:
        work: What to do for each slide identifier.
        folder: Where the slides' own folders are; a failed one gets `error.txt` with reason and traceback, a later success
            removes it.
        counter: Advances by one after each slide, failed ones too, so its words must not say that it was done.
    """
    done: dict[str, ResultT] = {}
    failures: list[Failure] = []
    for slide_id, function in work.items():
        note = folder / slide_id / "error.txt"
        try:
            done[slide_id] = function()
        except Exception as error:  # noqa: BLE001 (the one place: see the header)
            failures.append(_failure(slide_id, error))
            log.say(f"{slide_id}: {failures[-1].reason}")
            _write_note(note, failures[-1].reason, error)
        else:
            _remove_note(note)
        finally:
            if counter is not None:
                counter.advance(note=slide_id)
    return Outcomes(done, tuple(failures))


def _write_note(note: Path, reason: str, error: Exception) -> None:
    if isinstance(error, UnwritableError):
        return  # there least of all
    told = "".join(traceback.format_exception(error))
    # A full disk may be why the slide failed: it must not end the batch here either.
    try:
        write_text(note, f"{reason}\n\n{told}")
    except OSError as problem:
        log.say(f"{note} can't be written: {problem}")
        if not isinstance(error, CounterstainError):  # a defect's traceback stands nowhere else
            log.say(told)


def _remove_note(note: Path) -> None:
    try:
        note.unlink(missing_ok=True)
    except OSError as problem:
        log.say(f"{note} of a former failure can't be removed: {problem}")


def _failure(slide_id: str, error: Exception) -> Failure:
    is_defect = not isinstance(error, CounterstainError)
    reason = str(error) or type(error).__name__
    if is_defect:
        reason = f"{type(error).__name__}: {reason} (a defect of counterstain: please report it with error.txt)"
    return Failure(slide_id, type(error).__name__, reason, is_defect)
