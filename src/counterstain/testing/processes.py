"""Runs Python files in processes of their own that begin with what takes seconds to load, for tests that kill one.

Does not know: what the files do.
"""

import multiprocessing
import runpy
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

_LOADED = (
    "counterstain.infer",
    "counterstain.infer.encode",
    "counterstain.jobs.prepare",
    "counterstain.methods",
    "counterstain.testing.processes",
    "lightning.pytorch",
    "sklearn.linear_model",
    "sklearn.metrics",
    "torch._dynamo",
)


def start(script: Path, *arguments: object) -> BaseProcess:
    """Starts `python SCRIPT ARGUMENTS`, forked from a process that has done nothing but load libraries.

    What it says on stderr goes where this process's went when the first of its kind was started.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_LOADED))
    process = context.Process(target=_run, args=(script, tuple(map(str, arguments))))
    process.start()
    return process


def exit_code(script: Path, *arguments: object) -> int | None:
    """What such a process ends with; the negative number of the signal that killed it."""
    process = start(script, *arguments)
    process.join()
    return process.exitcode


def _run(script: Path, arguments: tuple[str, ...]) -> None:
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
