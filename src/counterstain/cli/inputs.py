"""What a user names as slides: files, folders, cohort tables.

Does not know: how slides are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from counterstain.errors import InputError
from counterstain.files import existing

SLIDE_SUFFIXES = frozenset(
    ".svs .tif .tiff .ndpi .vms .vmu .scn .mrxs .svslide .bif .dcm .czi .png .jpg .jpeg .bmp".split()
)


@dataclass(frozen=True)
class SlideInput:
    """A slide to work on.

    Args:
        path: The file.
        slide_id: Unique in its batch; names the output folder.
        mpp: From the user's table; None where it says nothing.
    """

    path: Path
    slide_id: str
    mpp: float | None


def expand_slides(given: Sequence[Path]) -> list[Path]:
    """The slide files among files and folders, folders searched to the bottom, sorted.

    Raises:
        MissingFileError: When nothing lies at a path.
        InputError: When nothing that looks like a slide was found.
    """
    found: list[Path] = []
    for path in given:
        existing(path, "a slide or a folder of slides")
        found += _in_folder(path) if path.is_dir() else [path]
    if not found:
        raise InputError(
            f"No slide was found in {', '.join(map(str, given)) or 'nothing'}. Known endings: "
            f"{' '.join(sorted(SLIDE_SUFFIXES))}."
        )
    return found


def _in_folder(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in SLIDE_SUFFIXES)
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def name_slides(given: Sequence[Path], mpp: float | None) -> list[SlideInput]:
    """Slides with identifiers that are unique by relative path, never by bare stem alone.

    A slide named by itself is called after its stem, unless two would share it: then the suffix stays.
    """
    named: list[tuple[Path, Path]] = []
    for path in given:
        named += [(file, file.relative_to(path) if path.is_dir() else Path(file.name)) for file in expand_slides([path])]
    stems = [str(relative.with_suffix("")) for _, relative in named]
    inputs = [
        SlideInput(file, stem if stems.count(stem) == 1 else str(relative), mpp)
        for (file, relative), stem in zip(named, stems, strict=True)
    ]
    twice = {entry.slide_id for entry in inputs if [other.slide_id for other in inputs].count(entry.slide_id) > 1}
    if twice:
        raise InputError(f"Slides of the same name were given: {', '.join(sorted(twice))}. Give their common folder.")
    return inputs
