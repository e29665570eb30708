"""Every exception a user can meet.

    CounterstainError
    ├── InputError (ValueError)              a value, name or table that can't be used as given
    │   ├── UnknownNameError                 a name outside a known list; the message gives the nearest
    │   ├── LabelError                       labels that can't be parsed; all of them at once
    │   └── SplitError                       splits that would share a patient, or be empty
    ├── MissingFileError (FileNotFoundError)
    ├── ExistingOutputError (FileExistsError)
    ├── UnwritableError (OSError)             nothing can be written where results should go
    ├── StaleResultError (RuntimeError)      results made with other inputs or settings
    ├── MissingExtraError (ImportError)      an optional library that is not installed
    ├── WeightsError (RuntimeError)          tensors missing, left over or of another shape
    ├── ExportError (RuntimeError)           a network that another runtime than torch can't run, or runs to other values
    ├── DivergedError (ArithmeticError)      a training loss that is no number any more
    ├── SlideError (OSError)                 one slide fails, its batch goes on
    │   ├── UnsupportedSlideError            no reader knows this file, or not this kind of it
    │   ├── DamagedSlideError                the file can't be decoded
    │   └── NoTissueError                    nothing to look at on this slide
    └── MissingResolutionError (SlideError, ValueError)

Every message says what was given, what was expected, and what to do. Each class also inherits the builtin that a
stranger would catch. Who raises what is said under `Raises` in the docstrings; invariants of our own are `assert`.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def listed(problem: str, offenders: Sequence[str], shown: int = 20) -> str:
    """A message with one line for each offender, so that all of them can be mended at once.

    Args:
        problem: What is wrong with them and what was expected.
        offenders: One entry for each bad file or row.
        shown: How many are written out; the rest is counted.
    """
    lines = "".join(f"\n  {offender}" for offender in offenders[:shown])
    return f"{problem}{lines}" + (f"\n  and {len(offenders) - shown} more" if len(offenders) > shown else "")


def in_short(names: Sequence[str], shown: int = 5) -> str:
    """Names for a line of text: "a, b and 7 more".

    Args:
        names: One at least.
        shown: How many are written out; the rest is counted.
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def counted(number: int, what: str) -> str:
    """A number and its noun: "1 slide", "2 slides"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


class CounterstainError(Exception):
    """Base of everything a user can cause."""


class InputError(CounterstainError, ValueError):
    """A value, name or table that can't be used as given."""


class UnknownNameError(InputError):
    """A name outside a known list.

    Args:
        kind: What the name stands for, in the singular: "backbone".
        given: The name that was given.
        known: All names that would have done.
    """

    def __init__(self, kind: str, given: str, known: Iterable[str]) -> None:
        names = sorted(known)
        # what a name begins with says more than how many letters it shares: "luad" is no "wsss4luad"
        begun = [name for name in names if given and name.startswith(given)]
        nearest = begun or get_close_matches(given, names, n=1, cutoff=0.5)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        super().__init__(f"Unknown {kind} {given!r}.{hint} Known: {', '.join(names)}.")
        self.kind, self.given, self.known = kind, given, names

    def __reduce__(self) -> tuple[type["UnknownNameError"], tuple[str, str, list[str]]]:
        return type(self), (self.kind, self.given, self.known)


class LabelError(InputError):
    """Labels that can't be parsed, all of them at once.

    Args:
        problem: What is wrong with them and what was expected.
        offenders: One entry for each bad file or row.
    """

    def __init__(self, problem: str, offenders: Sequence[str]) -> None:
        super().__init__(listed(problem, offenders))
        self.problem, self.offenders = problem, tuple(offenders)

    def __reduce__(self) -> tuple[type["LabelError"], tuple[str, tuple[str, ...]]]:
        return type(self), (self.problem, self.offenders)


class SplitError(InputError):
    """Splits that would share a patient, or be empty."""


class MissingFileError(CounterstainError, FileNotFoundError):
    """A file or folder that is not there."""


class ExistingOutputError(CounterstainError, FileExistsError):
    """An output that would be overwritten."""


class UnwritableError(CounterstainError, OSError):
    """Nothing can be written where results should go."""


class StaleResultError(CounterstainError, RuntimeError):
    """Results on disk that were made with other inputs or settings."""


class MissingExtraError(CounterstainError, ImportError):
    """An optional library that is not installed.

    Args:
        library: Its import name.
        extra: The extra of this package that brings it.
        purpose: What it is needed for.
    """

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library!r}. Install it: pip install 'counterstain[{extra}]'.")
        self.library, self.extra, self.purpose = library, extra, purpose

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str, str]]:
        return type(self), (self.library, self.extra, self.purpose)


class WeightsError(CounterstainError, RuntimeError):
    """Weights whose tensors are missing, left over or of another shape."""


class ExportError(CounterstainError, RuntimeError):
    """A network that another runtime than torch can't run, or runs to other values."""


class DivergedError(CounterstainError, ArithmeticError):
    """A training whose loss is no number any more."""


class SlideError(CounterstainError, OSError):
    """One slide that fails; its batch goes on."""


class UnsupportedSlideError(SlideError):
    """A file that no reader knows, or a kind of slide that a reader can't show rightly."""


class DamagedSlideError(SlideError):
    """A slide file that can't be decoded."""


class NoTissueError(SlideError):
    """A slide on which no tissue was found."""


class MissingResolutionError(SlideError, ValueError):
    """A slide without a known size of its pixels."""
