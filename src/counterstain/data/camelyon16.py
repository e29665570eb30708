"""Camelyon16 as facts: what its slides are called, which of them hold tumour, which are better left out of what.

    training/tumor/tumor_001.tif    training/normal/normal_001.tif    training/lesion_annotations/tumor_001.xml
    testing/images/test_001.tif     testing/reference.csv             testing/lesion_annotations/test_001.xml

or the flat layout of the later releases: images/, annotations/, masks/. Only names count, folders do not.

Does not know: slides, polygons, patches.

Source: the challenge's data page and the read-me file of the release (camelyon17.grand-challenge.org/Data).
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from counterstain.errors import InputError, listed

Task = Literal["patch", "slide", "lesion"]
"""What is asked of the slides: patches cut from drawings, a slide's label, or where its lesions lie."""

_DUPLICATE = "a duplicate of another slide; withdrawn (the release's read-me file)"
_PARTLY = "its tumour is not annotated exhaustively (the release's read-me file)"
_RENAMED = "holds tumour and was renamed to tumor_111 (the release's read-me file; arXiv 1703.02442)"
_MISLABELLED = "reported as wrongly labelled normal (arXiv 1703.02442)"

EXCLUDED: dict[tuple[str, Task], str] = {
    ("test_049", "patch"): _DUPLICATE,
    ("test_049", "slide"): _DUPLICATE,
    ("test_049", "lesion"): _DUPLICATE,
    # That it holds tumour is certain; only where all of it lies is not.
    ("test_114", "patch"): _PARTLY,
    ("test_114", "lesion"): _PARTLY,
    ("normal_086", "patch"): _RENAMED,
    ("normal_086", "slide"): _RENAMED,
    ("normal_086", "lesion"): _RENAMED,
    ("normal_144", "patch"): _MISLABELLED,
    ("normal_144", "slide"): _MISLABELLED,
    ("normal_144", "lesion"): _MISLABELLED,
}
"""Slides that are left out of a task unless they are asked for, with the reason."""


def exclusions(task: Task) -> dict[str, str]:
    """The slides that are left out of one task, with the reason."""
    return {slide: reason for (slide, of), reason in EXCLUDED.items() if of == task}


EXCLUSIONS = exclusions("patch")
"""Those that no patches are cut from."""

PARTLY_DRAWN: tuple[str, ...] = tuple(
    f"tumor_{number:03}" for number in (15, 18, 20, 29, 33, 44, 46, 51, 54, 55, 79, 92, 95)
)
"""Training slides on which some tumour was not drawn.

Source: public scripts for the set, which take the list from the release's read-me file; we have not seen that ourselves.
"""

_NAME = re.compile(r"(tumor|normal|test)_(\d{2,3})", re.IGNORECASE)  # the read-me file writes normal_86
_WORDS = {"tumor": True, "tumour": True, "normal": False}


@dataclass(frozen=True, slots=True)
class SlideName:
    """What the name of a slide says.

    Args:
        name: As the release spells it, in lower case and with three digits.
        is_tumour: None for the slides of the test set, whose names do not say.
        split: "test" for the published test set; None for the others, of which a validation part is taken.
    """

    name: str
    is_tumour: bool | None
    split: Literal["test"] | None


def parse_name(stem: str) -> SlideName | None:
    """What a file's stem says; None when it is none of the cohort's slides: a mask, a thumbnail, another slide."""
    match = _NAME.fullmatch(stem)
    if match is None:
        return None
    kind = match.group(1).lower()
    name = f"{kind}_{int(match.group(2)):03}"
    return SlideName(name, None, "test") if kind == "test" else SlideName(name, kind == "tumor", None)


def read_reference(path: Path) -> dict[str, bool]:
    """Whether each slide of the test set holds tumour, as `reference.csv` says: `test_001,Tumor,IDC,Macro`.

    Raises:
        InputError: When no row says it, or a slide's row says something else, or it is no text in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is no text in UTF-8. Save it as such.") from error
    labels: dict[str, bool] = {}
    foreign = []
    for cells in csv.reader(text.splitlines()):
        name = parse_name(Path(cells[0].strip()).stem) if cells else None
        if name is None:
            continue
        word = cells[1].strip().lower() if len(cells) > 1 else ""
        if word in _WORDS:
            labels[name.name] = _WORDS[word]
        else:
            foreign.append(",".join(cells))
    if foreign:
        raise InputError(listed(f"'{path}' has rows that say neither Tumor nor Normal of their slide:", foreign))
    if not labels:
        raise InputError(f"'{path}' labels no slide; rows such as test_001,Tumor,IDC,Macro were expected.")
    return labels
