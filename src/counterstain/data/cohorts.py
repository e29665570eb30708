"""Slides and what is known of them: a folder, or a table in any of the dialects that other tools write.

Headers of CLAM, STAMP, slideflow, TRIDENT and slide2vec are names for the same eight columns: `slide_id, patient_id, path,
label, split, mpp, site, scanner`. A slide's id is unique by its path below the root, never by its bare stem. A row that
can't be used is dropped with its reason, and counted aloud; a table that can't be used is refused.

Does not know: how to open a slide, what is predicted for it.
"""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from counterstain.data.rows import Rows, read_rows
from counterstain.errors import InputError, in_short, listed
from counterstain.files import existing

ALIASES: dict[str, tuple[str, ...]] = {
    "slide_id": ("slide_id", "slide", "sample_id"),
    "patient_id": ("patient_id", "patient", "case_id"),
    "path": ("path", "filename", "wsi", "image_path"),
    "label": ("label",),
    "split": ("split",),
    "mpp": ("mpp", "spacing_at_level_0"),
    "site": ("site",),
    "scanner": ("scanner",),
}
"""What other tools call the columns, in lower case; ours first."""

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm"}
    | {".png", ".jpg", ".jpeg", ".bmp"}
)
"""Files of a folder that are taken for slides, in lower case. What they really are, their reader says."""

_SAID = ("slide_id", "patient_id", "label", "split", "mpp", "site", "scanner")  # of a file, by a row


@dataclass(frozen=True, slots=True)
class CohortSlide:
    """One slide.

    Args:
        slide_id: Unique in its cohort; usable as a relative path.
        path: The file.
        patient_id: None where unknown, as everything below.
        label: As the table writes it.
        split: As the table writes it.
        mpp: um/px of level 0, as the table says; it overrides the file's.
        site: Where it was made.
        scanner: What it was scanned with.
        line: Of the table, where it stands in one.
    """

    slide_id: str
    path: Path
    patient_id: str | None = None
    label: str | None = None
    split: str | None = None
    mpp: float | None = None
    site: str | None = None
    scanner: str | None = None
    line: int | None = field(default=None, compare=False)

    @property
    def place(self) -> str:
        """What a person finds it by: its line and its name."""
        return _place(self.slide_id, self.line)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row, file or slide that has no part in what is done.

    Args:
        what: The slide's id; of what is no slide, the file as it is named.
        reason: Why.
        line: Of the table, where it stands in one.
        kind: "unusable": somebody wanted it; "repeat": its file is used, in another row; "encoder": only an encoder learns
            from it; "left out": nobody expects more of it.
    """

    what: str
    reason: str
    line: int | None = None
    kind: Literal["unusable", "repeat", "encoder", "left out"] = "left out"

    @property
    def place(self) -> str:
        """What a person finds it by: its line and its name."""
        return _place(self.what, self.line)


_TITLES = {
    "unusable": "Can't be used",
    "repeat": "Named again",
    "encoder": "For an encoder alone",
    "left out": "Left out",
}


def told_by_reason(dropped: Sequence[Dropped], shown: int = 8) -> list[str]:
    """A line for each reason, with what it holds of: "Can't be used: line 4: a.svs and 7 more: its file is not there".

    Args:
        dropped: What has no part.
        shown: How many of a reason are named, before the rest is counted.
    """
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind in _TITLES:
        for one in dropped:
            if one.kind == kind:
                by_reason[_TITLES[kind], one.reason].append(one.place)
    return [f"{title}: {in_short(places, shown)}: {reason}" for (title, reason), places in by_reason.items()]


@dataclass(frozen=True)
class Cohort:
    """Slides, and what was left out.

    Args:
        source: The table, folder or file.
        slides: At least one.
        dropped: Rows and files left out.
        ignored_columns: Columns of the table that mean nothing here.
        conflicts: Those of the dropped rows that name a file again and say something else of it.
        columns: The table's own spelling of each of our columns that it has.
    """

    source: Path
    slides: tuple[CohortSlide, ...]
    dropped: tuple[Dropped, ...] = ()
    ignored_columns: tuple[str, ...] = ()
    conflicts: tuple[Dropped, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_folder(cls, folder: Path | str) -> Self:
        """Every slide below a folder, by path; hidden files and the insides of `.zarr` are passed over.

        The files of a DICOM series in one folder are one slide: the first stands for all.

        Raises:
            MissingFileError: When the folder is not there.
            InputError: When it holds no slide.
        """
        folder = existing(folder, "a folder of slides")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_passed_over(path, folder)]
        slides: list[CohortSlide] = []
        dropped: list[Dropped] = []
        series: set[tuple[Path, str]] = set()
        for path in files:
            name = path.relative_to(folder).as_posix()
            uid = _series_of(path)
            if path.suffix.lower() not in SLIDE_SUFFIXES:
                dropped.append(Dropped(name, f"{path.suffix or 'no suffix'} is no slide's"))
            elif (path.parent, uid) in series:
                dropped.append(Dropped(name, "another file of the same DICOM series stands for it"))
            else:
                slides.append(CohortSlide(name, path))
                series |= {(path.parent, uid)} if uid else set()
        if not slides:
            raise InputError(f"'{folder}' holds no slide: {', '.join(sorted(SLIDE_SUFFIXES))} were looked for.")
        return cls(folder, tuple(slides), tuple(dropped))

    @classmethod
    def from_file(cls, path: Path | str) -> Self:
        """A single slide.

        Raises:
            MissingFileError: When it is not there.
        """
        path = existing(path, "a slide")
        return cls(path, (CohortSlide(path.name, path),))

    def report(self) -> str:
        """How many slides and patients there are, and how many rows were dropped for which reason; a line each."""
        patients = len({slide.patient_id for slide in self.slides if slide.patient_id is not None})
        known = f" of {patients} patients" if patients else ""
        lines = [f"{self.source}: {len(self.slides)} slides{known}, {len(self.dropped)} rows or files left out"]
        reasons = Counter(dropped.reason for dropped in self.dropped)
        examples = {dropped.reason: dropped.place for dropped in reversed(self.dropped)}
        lines += [f"  {count} x {reason} ({examples[reason]})" for reason, count in reasons.most_common()]
        if self.ignored_columns:
            lines.append(f"  columns not used: {', '.join(self.ignored_columns)}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        slides = [{**asdict(slide), "path": str(slide.path)} for slide in self.slides]
        return {
            "source": str(self.source),
            "slides": slides,
            "dropped": [asdict(dropped) for dropped in self.dropped],
            "ignored_columns": list(self.ignored_columns),
            "conflicts": [asdict(conflict) for conflict in self.conflicts],
        }


def _series_of(path: Path) -> str | None:
    if path.suffix.lower() != ".dcm":
        return None
    # Here and not above: methods load this room on machines without the slide libraries.
    from counterstain.slides.dicom import series_of

    return series_of(path)


def open_cohort(source: Path | str, root: Path | None = None) -> Cohort:
    """A cohort from whatever names one: a folder, a table (CSV), or a single slide.

    Raises:
        MissingFileError: When nothing is there.
        InputError: When it names no slide that can be found.
    """
    source = existing(source, "a slide, a folder of slides or a table of them")
    if source.is_dir():
        return Cohort.from_folder(source)
    return read_cohort(source, root) if source.suffix.lower() in (".csv", ".tsv") else Cohort.from_file(source)


def read_cohort(path: Path | str, root: Path | None = None) -> Cohort:
    """Reads a cohort's table.

    Args:
        path: A CSV file with a column for the path or the slide under any of the ALIASES.
        root: The folder that paths are relative to, and in which a slide that is given by its id alone is looked for; the
            table's own by default.

    Raises:
        MissingFileError: When the table is not there.
        InputError: When it names no slides, names a thing twice, or no row can be used.
    """
    table = read_rows(path)
    root = existing(root or table.path.parent, "the folder of the slides")
    columns = _canonical(table)
    if "path" not in columns and "slide_id" not in columns:
        known = ", ".join((*ALIASES["path"], *ALIASES["slide_id"]))
        raise InputError(
            f"Table '{table.path}' names no slides: it has {', '.join(table.header)}; one of {known} was expected. Where "
            "labels are in a table of patients, join it to the table of slides first."
        )
    by_name = None if "path" in columns else _files_by_name(root)
    slides: list[CohortSlide] = []
    dropped: list[Dropped] = []
    conflicts: list[Dropped] = []
    seen: dict[Path, tuple[int, CohortSlide]] = {}
    for row in table.rows:
        cells = {name: row.cells[column] for name, column in columns.items() if row.cells[column]}
        slide = _slide_of(cells, root, by_name)
        if isinstance(slide, str):
            dropped.append(Dropped(_named(cells), slide, row.line, "unusable"))
            continue
        slide = replace(slide, line=row.line)
        line, first = seen.setdefault(slide.path.resolve(), (row.line, slide))
        if first is slide:
            slides.append(slide)
            continue
        differing = _differing(first, slide)
        contradiction = f", and says another {', '.join(differing)}" if differing else ""
        dropped.append(Dropped(_named(cells), f"the same file as line {line}{contradiction}", row.line, "repeat"))
        conflicts += dropped[-1:] if differing else []
    if not slides:
        reasons = [f"{entry.place}: {entry.reason}" for entry in dropped]
        problem = (
            f"No row of '{table.path}' can be used. Paths are relative to '{root}'; --root of check and train names"
        )
        raise InputError(listed(f"{problem} another folder:", reasons))
    ignored = tuple(column for column in table.header if column not in columns.values())
    return Cohort(table.path, _with_unique_ids(slides, root), tuple(dropped), ignored, tuple(conflicts), columns)


def _differing(one: CohortSlide, other: CohortSlide) -> list[str]:
    """The columns in which both rows say something, and not the same."""
    said = ((name, {getattr(one, name), getattr(other, name)}) for name in _SAID)
    return [name for name, values in said if len(values - {None, ""}) == 2]


def _canonical(table: Rows) -> dict[str, str]:
    """The table's own spelling of each of our columns that it has."""
    columns = {}
    for name, aliases in ALIASES.items():
        found = [column for column in table.header if column.lower() in aliases]
        if len(found) > 1:
            raise InputError(f"Table '{table.path}' has {' and '.join(found)} for the {name}. Remove one of them.")
        if found:
            columns[name] = found[0]
    return columns


def _slide_of(cells: dict[str, str], root: Path, by_name: dict[str, list[Path]] | None) -> CohortSlide | str:
    """The slide of a row, or why there is none."""
    path = _path_of(cells, root, by_name)
    if isinstance(path, str):
        return path
    mpp = None
    if "mpp" in cells:
        mpp = _number(cells["mpp"])
        if mpp is None:
            return "its resolution is no number above 0"
    return CohortSlide(
        slide_id=cells.get("slide_id", ""),
        path=path,
        patient_id=cells.get("patient_id"),
        label=cells.get("label"),
        split=cells.get("split"),
        mpp=mpp,
        site=cells.get("site"),
        scanner=cells.get("scanner"),
    )


def _path_of(cells: dict[str, str], root: Path, by_name: dict[str, list[Path]] | None) -> Path | str:
    if "path" in cells:
        path = root / cells["path"].replace("\\", "/")
        return path if path.exists() else "its file is not there"
    if by_name is None or "slide_id" not in cells:
        return "it names no file"
    found = by_name.get(cells["slide_id"], [])
    if len(found) > 1:
        return "several files have this name; add a column 'path'"
    return found[0] if found else "no file has this name"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _files_by_name(root: Path) -> dict[str, list[Path]]:
    """Slides below a root, by relative path, by name and by stem, as CLAM's tables give them."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix.lower() in SLIDE_SUFFIXES and not _is_passed_over(path, root):
            for name in {path.relative_to(root).as_posix(), path.name, path.stem}:
                found[name].append(path)
    return found


def _with_unique_ids(slides: Sequence[CohortSlide], root: Path) -> tuple[CohortSlide, ...]:
    """Slides with the ids the table gave, and with their relative paths where it gave none or one twice."""
    given = Counter(slide.slide_id for slide in slides)
    is_kept = {name: count == 1 and _is_usable(name) for name, count in given.items()}
    return tuple(s if is_kept[s.slide_id] else replace(s, slide_id=_relative(s.path, root)) for s in slides)


def _is_usable(name: str) -> bool:
    return bool(name) and not name.startswith("/") and ".." not in Path(name).parts


def _relative(path: Path, root: Path) -> str:
    # links are not followed: a slide is called by where its user put it
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))  # noqa: PTH100
    return (
        path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix().lstrip("/").replace(":", "")
    )


def _is_passed_over(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return any(part.startswith(".") for part in parts) or any(part.endswith(".zarr") for part in parts[:-1])


def _named(cells: Mapping[str, str]) -> str:
    return cells.get("path") or cells.get("slide_id") or "empty"


def _place(name: str, line: int | None) -> str:
    return name if line is None else f"line {line}: {name}"
