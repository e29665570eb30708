"""What `predict` exported into a slide's folder, and of which map: `exports.json` beside the map.

    {"geojson": {"inputs_hash": "5f0c...", "file": "regions.geojson"}, ...}

An export of this very map is kept: regions corrected by hand stay, and a cohort that goes on pays for nothing twice.
Exports of a former map are removed, so that nothing stale lies beside a new one. Files of somebody else are refused.

Does not know: how a map is made or written.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from counterstain.errors import ExistingOutputError
from counterstain.files import read_json, write_json

if TYPE_CHECKING:
    from counterstain.results import SlideMap
    from counterstain.slides import Slide

NOTE = "exports.json"

Entries = dict[str, dict[str, str]]


def refuse_foreign(folder: Path, names: Sequence[str]) -> None:
    """Refuses to export where a file lies that `predict` did not write.

    Args:
        folder: Of the slide.
        names: Of writers.

    Raises:
        ExistingOutputError: When there is one.
    """
    from counterstain.export import find_writer

    ours = _entries(folder)
    for name in names:
        target = folder / find_writer(name).file_name
        if name not in ours and target.exists():
            raise ExistingOutputError(
                f"{target} is there already, and predict did not write it. Move it away, or pass --overwrite to replace it."
            )


def export_all(slide_map: "SlideMap", slide: "Slide", folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Writes the exports of a map that its folder does not hold yet; whatever else lies at their paths is replaced.

    Args:
        slide_map: A finished map.
        slide: What it was made from.
        folder: Of the slide.
        names: Of writers.

    Returns:
        Every export that was asked for, written now or before.
    """
    from counterstain.export import find_writer

    ours = _without_stale(folder, slide_map.inputs_hash)
    files = {name: folder / find_writer(name).file_name for name in names}
    missing = [name for name, target in files.items() if name not in ours or not target.exists()]
    if not missing:
        return files
    # Entries first, since a file without one is somebody else's: killed before it is there, it is exported again.
    for name in missing:
        files[name].unlink(missing_ok=True)
        ours[name] = {"inputs_hash": slide_map.inputs_hash, "file": files[name].name}
    write_json(folder / NOTE, ours)

    def export(name: str) -> None:
        find_writer(name).write(slide_map, files[name], slide=slide)

    try:
        _side_by_side(export, missing)
    finally:
        written = {name: entry for name, entry in ours.items() if (folder / Path(entry["file"]).name).exists()}
        if written != ours:
            write_json(folder / NOTE, written)
    return files


def _side_by_side(export: Callable[[str], None], names: Sequence[str]) -> None:
    """Runs the first export, the longest by default, in a thread of its own and the others here one by one."""
    with ThreadPoolExecutor(1, "export") as thread:
        first = thread.submit(export, names[0])
        for name in names[1:]:
            export(name)
        first.result()


def _without_stale(folder: Path, inputs_hash: str) -> Entries:
    entries = _entries(folder)
    current = {name: entry for name, entry in entries.items() if entry["inputs_hash"] == inputs_hash}
    for name in entries.keys() - current.keys():
        (folder / Path(entries[name]["file"]).name).unlink(missing_ok=True)
    if current != entries:
        write_json(folder / NOTE, current)
    return current


def _entries(folder: Path) -> Entries:
    note = folder / NOTE
    entries: Entries = read_json(note) if note.exists() else {}
    return entries
