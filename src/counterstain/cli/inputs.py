"""What a user names as slides: files, folders of them, cohort tables; one batch without two slides of one name.

Does not know: how slides are read.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from counterstain import log
from counterstain.data.cohorts import CohortSlide, Dropped, open_cohort
from counterstain.errors import InputError


@dataclass(frozen=True)
class Batch:
    """What is to be done, and what can't be.

    Args:
        slides: At least one, no two of one name.
        dropped: Rows of tables that name no slide that can be used.
    """

    slides: tuple[CohortSlide, ...]
    dropped: tuple[Dropped, ...]


def slides_of(given: Sequence[Path]) -> Batch:
    """The slides that files, folders and tables name.

    Rows of a table were asked for, so the ones that can't be used are part of the answer. Other files of a folder were
    not: they are counted aloud.

    Raises:
        MissingFileError: When nothing lies at a path.
        InputError: When nothing was given, a folder holds no slide, or two slides would share their output folder.
    """
    if not given:
        raise InputError("No slide was given. Name slide files, folders of them, or cohort tables (.csv).")
    found: list[CohortSlide] = []
    dropped: list[Dropped] = []
    for path in given:
        cohort = open_cohort(path)
        found += cohort.slides
        if path.is_dir():
            if cohort.dropped:
                log.say(f"{path}: {len(cohort.slides)} slides; {len(cohort.dropped)} other files were passed over")
        elif path.suffix.lower() in (".csv", ".tsv"):
            log.say(cohort.report())
            dropped += cohort.dropped
    twice = [slide_id for slide_id, count in Counter(slide.slide_id for slide in found).items() if count > 1]
    if twice:
        raise InputError(
            f"Slides of one name were given: {', '.join(sorted(twice))}. Give their common folder instead."
        )
    return Batch(tuple(found), tuple(dropped))


def refuse_int8_elsewhere(device: str, runtime: str) -> None:
    """Refuses `--int8` with a device or runtime that has no such networks.

    Raises:
        InputError: When either was asked for.
    """
    if device not in ("auto", "cpu") or runtime not in ("auto", "onnx"):
        raise InputError(
            f"--int8 was given with device {device!r} and runtime {runtime!r}; networks in int8 are run by ONNX Runtime on "
            "a CPU. Leave --device and --runtime out."
        )


def check_resolution(flag: str, mpp: float | None) -> None:
    """Refuses a resolution that no slide can have.

    Raises:
        InputError: When it is no finite number above 0.
    """
    if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
        raise InputError(f"{flag} was given as {mpp:g}; microns per pixel must be above 0.")
