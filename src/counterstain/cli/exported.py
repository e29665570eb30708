"""What `predict` exported into a slide's folder, and of which map: `exports.json` beside the map.

    {"geojson": {"inputs_hash": "5f0c...", "file": "regions.geojson"}, ...}

An export of this very map is kept: regions corrected by hand stay, and a cohort that goes on pays for nothing twice.
Exports of a former map are removed, so that nothing stale lies beside a new one. Files of somebody else are refused.

Does not know: how a map is made or written.
"""

from collections.abc import Sequence
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
    files: dict[str, Path] = {}
    for name in names:
        writer = find_writer(name)
        target = files[name] = folder / writer.file_name
        if name in ours and target.exists():
            continue
        # The entry first, since a file without one is somebody else's: killed between the two, it is exported again.
        target.unlink(missing_ok=True)
        ours[name] = {"inputs_hash": slide_map.inputs_hash, "file": target.name}
        write_json(folder / NOTE, ours)
        writer.write(slide_map, target, slide=slide)
    return files


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
