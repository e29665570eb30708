"""The command that made a result, as results tell it."""

import sys
from pathlib import Path


def command_given() -> str:
    """The running script and its arguments, of paths the last part alone: where files lie says nothing of a result.

    Example:
        `python /here/robustness.py A=/runs/a --data /sets/b` is told as `python benchmarks/robustness.py A=a --data b`.
    """
    script, *words = sys.argv
    return " ".join([f"python benchmarks/{Path(script).name}", *map(_without_folder, words)])


def _without_folder(word: str) -> str:
    name, separator, value = word.rpartition("=")
    return name + separator + (Path(value).name or value)
