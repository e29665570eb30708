"""What a user names as slides: files, folders of them, cohort tables; one batch without two slides of one name.

Does not know: how slides are read.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from counterstain import log
from counterstain.data.cohorts import CohortSlide, open_cohort
from counterstain.errors import InputError


def slides_of(given: Sequence[Path]) -> list[CohortSlide]:
    """The slides that files, folders and tables name; what is left out of a table is said aloud.

    Raises:
        MissingFileError: When nothing lies at a path.
        InputError: When nothing was given, a folder holds no slide, or two slides would share their output folder.
    """
    if not given:
        raise InputError("No slide was given. Name slide files, folders of them, or cohort tables (.csv).")
    found: list[CohortSlide] = []
    for path in given:
        cohort = open_cohort(path)
        found += cohort.slides
        if path.suffix.lower() in (".csv", ".tsv"):
            log.say(cohort.report())
    twice = [slide_id for slide_id, count in Counter(slide.slide_id for slide in found).items() if count > 1]
    if twice:
        raise InputError(
            f"Slides of one name were given: {', '.join(sorted(twice))}. Give their common folder instead."
        )
    return found
