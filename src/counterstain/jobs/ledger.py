"""The ledger of a patch set that is being cut: what is whole, what it was made from, which files are ours.

    OUT/ledger/plan.json           settings, and each slide's patient, split and label
    OUT/ledger/SLIDE/survey.json   its places, under a hash of slide, annotation and settings
    OUT/ledger/SLIDE/cut.json      the files of its patches, under the same hash; written before the first of them

Files appear whole or not at all, so whatever is there and named here needs not be made again. A file that is not named here
is somebody else's and is never replaced.

Does not know: how slides are surveyed or cut.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from counterstain.data.cutting import Survey
from counterstain.errors import ExistingOutputError, StaleResultError, listed
from counterstain.files import read_json, write_json

FOLDER = "ledger"

_WRITTEN = ("labels.csv", "classes.toml", "prepare.json")
_TEMPORARY = re.compile(r"\.(.+)-[a-z0-9_]{8}(\.[a-z]+)")  # as `files.atomic` names what is not whole yet


@dataclass(frozen=True)
class Ledger:
    """The ledger of one folder.

    Args:
        out: The patch set.
        overwrite: Whether what was made of other inputs or settings is replaced instead of refused.
    """

    out: Path
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.out / FOLDER

    def open(self, plan: Mapping[str, Any]) -> None:
        """Starts the ledger, or goes on with it.

        Args:
            plan: `settings`, and under `slides` what is said of each slide; plain values.

        Raises:
            ExistingOutputError: When the folder holds something that was not made here.
            StaleResultError: When it was made with other settings, of slides that are not given any more, or with other
                labels, patients or splits, and `overwrite` is not set; when the plan is damaged.
        """
        path = self.folder / "plan.json"
        if not path.exists():
            if self.out.is_dir() and any(entry.name != FOLDER for entry in self.out.iterdir()):
                raise ExistingOutputError(f"'{self.out}' holds files that were not made here. Give another folder.")
        else:
            before = _read(path)
            if before is None:
                raise StaleResultError(
                    f"'{path}' is damaged, so nobody knows what '{self.out}' was made of. Give another folder."
                )
            self._go_on(before, plan)
        self._sweep()
        write_json(path, plan)

    def _go_on(self, before: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        changes = _changes(before, plan)
        if changes and not self.overwrite:
            raise StaleResultError(
                listed(
                    f"'{self.out}' was made otherwise. Give another folder, or pass --overwrite to cut anew what differs:",
                    changes,
                )
            )
        for name in sorted(before["slides"].keys() - plan["slides"].keys()):
            self.remove(name, self.files(name))
            for entry in (self.folder / name).glob("*"):
                entry.unlink()
            if (self.folder / name).is_dir():
                (self.folder / name).rmdir()

    def _sweep(self) -> None:
        """Removes what a killed run was writing, told by the names of the files that it was to become."""
        notes = [entry / name for entry in self.folder.glob("*/") for name in ("survey.json", "cut.json", "error.txt")]
        ours = {self.out / name for name in _WRITTEN} | {self.folder / "plan.json", *notes}
        ours |= {self.out / file for entry in self.folder.glob("*/") for file in self.files(entry.name)}
        for folder in sorted({path.parent for path in ours}):
            for path in folder.glob(".*-*"):
                match = _TEMPORARY.fullmatch(path.name)
                if match is not None and folder / "".join(match.groups()) in ours:
                    path.unlink()

    def survey(self, name: str, inputs_hash: str) -> Survey | None:
        """A slide's survey; None when there is none of these inputs yet.

        Raises:
            StaleResultError: When it was made of other inputs and `overwrite` is not set.
        """
        entry = _read(self.folder / name / "survey.json")
        if entry is None or "touched" not in entry:  # older surveys don't tell
            return None
        if entry["inputs_hash"] != inputs_hash:
            if self.overwrite:
                return None
            raise StaleResultError(
                f"Slide {name} or its annotation is another than when its patches were cut. Give another folder, or pass "
                "--overwrite to cut it anew."
            )
        places = np.array(entry["places"], np.float64).reshape(-1, 3)
        (down_x, down_y), (mpp_x, mpp_y) = entry["downsample"], entry["mpp"]
        is_touched = np.zeros(len(places), np.bool_)
        is_touched[entry["touched"]] = True
        return Survey(places[:, :2], places[:, 2].astype(np.int64), (down_x, down_y), (mpp_x, mpp_y), is_touched)

    def keep_survey(self, name: str, inputs_hash: str, survey: Survey) -> None:
        """Notes a survey."""
        pairs = zip(survey.corners.tolist(), survey.tumour_px.tolist(), strict=True)
        tree = {
            "inputs_hash": inputs_hash,
            "downsample": list(survey.downsample),
            "mpp": list(survey.mpp),
            "places": [[x, y, tumour_px] for (x, y), tumour_px in pairs],
            "touched": np.flatnonzero(survey.is_touched).tolist(),
        }
        write_json(self.folder / name / "survey.json", tree)

    def files(self, name: str) -> tuple[str, ...]:
        """The files that are a slide's, relative to the folder; some may not be there yet."""
        entry = _read(self.folder / name / "cut.json")
        return () if entry is None else tuple(entry["files"])

    def claim(self, name: str, inputs_hash: str, files: Iterable[str]) -> None:
        """Notes which files a slide is to have, and removes what it had otherwise.

        Raises:
            ExistingOutputError: When one is there that was not made here.
        """
        files = sorted(files)
        entry = _read(self.folder / name / "cut.json") or {"inputs_hash": inputs_hash, "files": []}
        before = set(entry["files"])
        foreign = [file for file in files if file not in before and (self.out / file).exists()]
        if foreign:
            raise ExistingOutputError(
                listed(
                    f"{len(foreign)} files of slide {name} are there and were not made here. Move them away:", foreign
                )
            )
        is_same = entry["inputs_hash"] == inputs_hash
        self.remove(name, before - set(files) if is_same else before)
        if files or before:
            write_json(self.folder / name / "cut.json", {"inputs_hash": inputs_hash, "files": files})

    def remove(self, name: str, files: Iterable[str]) -> None:
        """Removes files of a slide."""
        ours = set(self.files(name))
        for file in files:
            assert file in ours, f"{file} is none of slide {name}'s"
            (self.out / file).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """An entry; None when there is none, or only part of one: files are renamed into place, but disks fail."""
    if not path.exists():
        return None
    try:
        entry: dict[str, Any] = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return entry


def _changes(before: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """What differs from before, a line each; slides that came in addition do not count."""
    old, new = before["settings"], plan["settings"]
    changes = [
        f"{key}: {old.get(key)!r}, now {new.get(key)!r}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)
    ]
    for name, said in before["slides"].items():
        now = plan["slides"].get(name)
        if now is None:
            changes.append(f"slide {name} is not to be cut any more")
        elif now != said:
            changes.append(f"slide {name}: {said}, now {now}")
    return changes
