"""Prepares a fake cohort and is killed at a patch: `python killed.py COHORT OUT PATCH`.

The tests load this file too, so that the killed, the resumed and the uninterrupted run have the same settings.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from counterstain.data import Cohort
from counterstain.data.cutting import CutSettings
from counterstain.jobs.prepare import PrepareJob, prepare
from counterstain.testing.slide_cohorts import PATCH_PX

SETTINGS = CutSettings(patch_px=PATCH_PX, fractions=(0.5, 0.5, 0.0), cohort="camelyon16")


def make(folder: Path, out: Path, settings: CutSettings = SETTINGS, **job: Any) -> dict[str, Any]:
    """The report."""
    return prepare(Cohort.from_folder(folder).slides, PrepareJob(out, folder, settings, **job))


def die_at(patch: int) -> None:
    """Has the process killed when a patch is whole and about to get its name, as a power cut might."""
    left = iter(range(patch))

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and "/images/" in str(arguments[1]) and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(listen)


if __name__ == "__main__":
    die_at(int(sys.argv[3]))
    make(Path(sys.argv[1]), Path(sys.argv[2]))
