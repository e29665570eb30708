"""A folder of other tools' feature files in, a folder for each slide with cells and features out.

    OUT/SLIDE/cells.zarr            the grid of the file's patches, the thumbnail where the slide is at hand
    OUT/SLIDE/features/ENCODER.h5   the features
    OUT/SLIDE/error.txt             why a slide failed

Files and slides are matched by name. A file that fails is kept with its reason and the others go on.

Does not know: command lines, dialects.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from counterstain.data.cohorts import CohortSlide, Dropped
from counterstain.data.encoded_files import FeatureHeader
from counterstain.data.features import ImportSettings, import_features
from counterstain.errors import InputError
from counterstain.files import existing
from counterstain.jobs.run import Outcomes, run_all
from counterstain.slides import open_slide

_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class ImportJob:
    """What is done with every file of features.

    Args:
        out: Where each slide's folder goes.
        settings: What files do not say.
        slide_mpp: Overrides what slides and tables say.
        assume_mpp: For slides that have no resolution.
    """

    out: Path
    settings: ImportSettings = field(default_factory=ImportSettings)
    slide_mpp: float | None = None
    assume_mpp: float | None = None


@dataclass(frozen=True)
class Matches:
    """Files of features, by the slides that they are of.

    Args:
        files: By slide id.
        slides: By slide id; those that are at hand.
        dropped: Slides without a file.
        unused: Files that are of none of the slides, where slides were given.
    """

    files: dict[str, Path]
    slides: dict[str, CohortSlide]
    dropped: tuple[Dropped, ...] = ()
    unused: tuple[Path, ...] = ()


def match_files(source: Path, slides: Sequence[CohortSlide] = ()) -> Matches:
    """Finds the file of each slide.

    A file is a slide's when it is named as the slide's id or as its file, with or without the suffix. Without slides, each
    file is a slide of its own, named by its path.

    Args:
        source: A file of features, or a folder below which there are some.
        slides: A cohort; empty where only features are at hand.

    Raises:
        MissingFileError: When nothing is there.
        InputError: When there is no file, or none of a slide; when two files would be one slide's, or one file two
            slides'.
    """
    source = existing(source, "a file of features or a folder of them")
    root, paths = (source.parent, [source]) if source.is_file() else (source, _files_below(source))
    if not paths:
        raise InputError(f"'{source}' holds no file of features: {', '.join(_SUFFIXES)} were looked for.")
    ids = {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}
    if len(ids) != len(paths):
        raise InputError(f"'{source}' holds files that differ in their suffix alone. Move one of each pair away.")
    if not slides:
        return Matches(ids, {})
    named: dict[str, list[Path]] = defaultdict(list)
    for slide_id, path in ids.items():
        for name in {slide_id, path.stem}:
            named[name].append(path)
    files: dict[str, Path] = {}
    dropped: list[Dropped] = []
    for slide in slides:
        found = _file_of(slide, named)
        if found is None:
            dropped.append(Dropped(slide.slide_id, f"no file of features below '{source}' has its name"))
        else:
            files[slide.slide_id] = found
    _refuse_shared(files)
    if not files:
        raise InputError(
            f"None of {len(slides)} slides has a file of features below '{source}'. They are matched by name: slide "
            f"'{slides[0].slide_id}' and file '{paths[0].name}', for instance, are not."
        )
    unused = sorted(set(paths) - set(files.values()))
    at_hand = {slide.slide_id: slide for slide in slides if slide.slide_id in files}
    return Matches(files, at_hand, tuple(dropped), tuple(unused))


def _files_below(folder: Path) -> list[Path]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix.lower() in _SUFFIXES)
    return [path for path in paths if not path.name.startswith(".")]


def _file_of(slide: CohortSlide, named: dict[str, list[Path]]) -> Path | None:
    slide_id = PurePosixPath(slide.slide_id)
    for name in (slide.slide_id, slide_id.with_suffix("").as_posix(), slide.path.name, slide.path.stem):
        found = named.get(name, [])
        if len(found) > 1:
            raise InputError(
                f"Several files of features are named as slide {slide.slide_id}: {', '.join(map(str, found))}. Give the "
                "folder of one encoder."
            )
        if found:
            return found[0]
    return None


def _refuse_shared(files: dict[str, Path]) -> None:
    owners: dict[Path, list[str]] = defaultdict(list)
    for slide_id, path in files.items():
        owners[path].append(slide_id)
    for path, slide_ids in owners.items():
        if len(slide_ids) > 1:
            raise InputError(
                f"'{path}' is named as several slides: {', '.join(slide_ids)}. Rename the files of features."
            )


def import_cohort(matches: Matches, job: ImportJob) -> Outcomes[FeatureHeader]:
    """Imports every file of features.

    Args:
        matches: Files, and the slides that are at hand.
        job: What is done with each.

    Returns:
        What each slide's new file says of itself, and the failures.
    """
    work = {slide_id: _work(slide_id, path, matches, job) for slide_id, path in matches.files.items()}
    return run_all(work, job.out)


def _work(slide_id: str, path: Path, matches: Matches, job: ImportJob) -> Callable[[], FeatureHeader]:
    def work() -> FeatureHeader:
        folder, entry = job.out / slide_id, matches.slides.get(slide_id)
        if entry is None:
            return import_features(path, folder, settings=job.settings)
        mpp = job.slide_mpp if job.slide_mpp is not None else entry.mpp
        with open_slide(entry.path, mpp, assume_mpp=job.assume_mpp) as slide:
            return import_features(path, folder, slide, job.settings)

    return work
