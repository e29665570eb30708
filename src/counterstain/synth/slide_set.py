"""Slides written one by one into a cohort that can be taken up again where it was left.

Every slide has a small file of facts beside its truth, written last: a slide with facts is whole, any other is written
anew. The tables are written when all slides are whole.

Does not know: what is on the slides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from counterstain.errors import ExistingOutputError
from counterstain.files import read_json, write_json, write_text
from counterstain.log import progress

SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class CohortSlide:
    """A slide of a cohort before it is written.

    Args:
        slide_id: Its name.
        patient_id: Whose it is.
        label: "normal" or "tumour".
        split: "encoder", or empty where folds are drawn later.
        site: Where it comes from.
        scanner: What scanned it.
        mpp: um/px.
    """

    slide_id: str
    patient_id: str
    label: str
    split: str
    site: str
    scanner: str
    mpp: float

    @property
    def path(self) -> Path:
        """Of the slide, relative to the cohort's folder."""
        return Path("slides") / f"{self.slide_id}.svs"

    def row(self) -> dict[str, object]:
        """Of the cohort's table, in the canonical order."""
        return {
            "slide_id": self.slide_id,
            "patient_id": self.patient_id,
            "path": self.path.as_posix(),
            "label": self.label,
            "split": self.split,
            "mpp": self.mpp,
            "site": self.site,
            "scanner": self.scanner,
        }


def write_slide_set(
    folder: Path,
    settings: Any,
    slides: Sequence[CohortSlide],
    write: Callable[[CohortSlide, Path, Path], dict[str, object]],
) -> Path:
    """Writes the slides that are not whole yet, then the tables.

    Args:
        folder: Of the cohort: `slides/`, `truth/`, `settings.json`, and in the end `cohort.csv` and `truth.csv`.
        settings: Plain values that all follows from; a folder with others is refused.
        slides: In the tables' order.
        write: Writes one slide and its GeoJSON to the paths given; answers what `truth.csv` tells of it.

    Returns:
        The path of `cohort.csv`.

    Raises:
        ExistingOutputError: When the folder holds something else.
    """
    folder = Path(folder)
    _take_up(folder, settings)
    facts = []
    with progress("writing slides", len(slides), "slides") as counter:
        for slide in slides:
            facts.append(_written(folder, slide, write))
            counter.advance()
    write_text(folder / "truth.csv", pd.DataFrame(facts).to_csv(index=False))
    write_text(folder / "cohort.csv", pd.DataFrame([slide.row() for slide in slides]).to_csv(index=False))
    return folder / "cohort.csv"


def _take_up(folder: Path, settings: Any) -> None:
    kept = folder / SETTINGS_FILE
    if kept.is_file():
        if read_json(kept) != settings:
            raise ExistingOutputError(
                f"{folder} holds slides of other settings. Give another folder, or the same ones."
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise ExistingOutputError(f"{folder} exists already and is no unfinished cohort. Give another folder.")
    else:
        write_json(kept, settings)


def _written(
    folder: Path, slide: CohortSlide, write: Callable[[CohortSlide, Path, Path], dict[str, object]]
) -> dict[str, object]:
    truth = folder / "truth" / f"{slide.slide_id}.geojson"
    facts = truth.with_suffix(".json")
    if not facts.is_file():
        path = folder / slide.path
        path.unlink(missing_ok=True)
        truth.unlink(missing_ok=True)
        write_json(facts, {"slide_id": slide.slide_id, **write(slide, path, truth)})
    told: dict[str, object] = read_json(facts)
    return told
