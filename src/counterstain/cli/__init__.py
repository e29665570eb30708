"""The command line: one file a verb, one exit code for each way to end.

0 all done, 2 wrong use or input, 3 done but some slides failed, 130 interrupted. A mistake of the user's gets one line on
standard error; a traceback is a defect of ours.

Does not know: how anything is done. Verbs are imported when they are called, so that `--help` answers at once.
"""

import os
import sys
from collections.abc import Sequence

OK, WRONG_USE, SOME_FAILED, INTERRUPTED = 0, 2, 3, 130

RESUMABLE = ("train", "predict", "encode", "prepare", "demo", "compare")
"""Verbs that go on where they were interrupted."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Runs the command line.

    Returns:
        The exit code.
    """
    # Waiting threads must sleep: spinning ones slow a busy machine down several times. Set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large tensors in huge pages: a ResNet-18 on a CPU is a tenth faster. torch does so on Linux alone, and only when told.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from cyclopts import CycloptsError

    from counterstain import log
    from counterstain.cli.app import build_app
    from counterstain.errors import CounterstainError

    try:
        code = build_app(arguments)(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        log.say(f"{error} Try: {' '.join(['counterstain', *arguments[:1]])} --help")
        return WRONG_USE
    except CounterstainError as error:
        log.say(str(error))
        return WRONG_USE
    except (KeyboardInterrupt, SystemExit) as error:
        # cyclopts and Lightning turn an interruption into an exit without a word, Lightning with code 1.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        goes_on = arguments[:1] and arguments[0] in RESUMABLE
        log.say("Interrupted. The same command goes on where this one stopped." if goes_on else "Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        return OK
    return code if isinstance(code, int) else OK
