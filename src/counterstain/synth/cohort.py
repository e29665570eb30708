"""Synthetic cohorts: several slides of several patients with slide labels, split by patient.

A patient keeps stain and nuclei over all slides; sites share scanners. A slide's label says whether there is tumour on
it, which its truth decides; how much stands in `truth.csv`.

Does not know: how a slide is drawn or written.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from counterstain.errors import InputError
from counterstain.files import atomic_folder, write_json, write_text
from counterstain.geometry import Size
from counterstain.log import progress
from counterstain.settings import to_tree
from counterstain.synth.anatomy import SCENE_CLASSES, TUMOUR, Composition
from counterstain.synth.noise import key_of
from counterstain.synth.pyramid import Container
from counterstain.synth.scene import Scene
from counterstain.synth.slide import SlideSettings, write_slide
from counterstain.synth.truth import LAYOUT_NAMES

COLUMNS = ("slide_id", "patient_id", "path", "label", "split", "mpp", "site", "scanner")
"""The canonical header of a cohort's table."""

_SPLITS = ("train", "val", "test")
_TUMOUR = SCENE_CLASSES.names[TUMOUR]
_LOOK_MPP = 16.0
_ENOUGH_MM2 = 0.02  # of tumour on the overview of a slide that is to have some
_TRIES = 40
_ENDINGS = {"aperio": "svs", "generic": "tiff", "leica": "scn"}


@dataclass(frozen=True)
class CohortSettings:
    """What a cohort is.

    Args:
        num_slides: In all.
        num_patients: Slides are dealt out to them in turn; at least one for each split that is not empty.
        tumour_patients: The part of patients whose slides hold tumour.
        tumour: Smallest and largest part of a tumour slide's tissue that is tumour bed, each slide between them.
        split: Parts of the patients for train, val and test.
        num_sites: Patients are dealt out to them; each has a scanner of its own until `num_scanners` are used up.
        num_scanners: How many there are.
        size: Level 0 of every slide.
        mpp: um/px.
        seed: Of everything.
        difficulty: 0 to 1, as in `SceneSettings`.
        variation: How far stains and scanners differ.
        layout: The dataset in whose classes truth is told; a scene's own when None.
        container: "aperio", "generic" or "leica".
        composition: How much of what, except tumour.

    Raises:
        InputError: When the numbers can't be a cohort.
    """

    num_slides: int = 6
    num_patients: int = 6
    tumour_patients: float = 0.5
    tumour: tuple[float, float] = (0.1, 0.6)
    split: tuple[float, float, float] = (0.5, 0.2, 0.3)
    num_sites: int = 2
    num_scanners: int = 2
    size: Size = field(default_factory=lambda: Size(6000, 5000))
    mpp: float = 0.5
    seed: int = 0
    difficulty: float = 0.5
    variation: float = 0.7
    layout: str | None = None
    container: Container = "aperio"
    composition: Composition = field(default_factory=Composition)

    def __post_init__(self) -> None:
        if not 1 <= self.num_patients <= self.num_slides:
            raise InputError(
                f"{self.num_patients} patients were given for {self.num_slides} slides; each needs at least one."
            )
        if min(self.split) < 0 or abs(sum(self.split) - 1) > 1e-6:
            raise InputError(f"A split of {list(self.split)} was given; its parts must sum to 1.")
        if self.num_patients < sum(part > 0 for part in self.split):
            raise InputError(f"{self.num_patients} patients were given; each split that is not 0 needs its own.")
        if not 0 <= self.tumour_patients <= 1 or not 0 < self.tumour[0] <= self.tumour[1] <= 1:
            raise InputError(
                f"Parts of {self.tumour_patients} tumour patients and {list(self.tumour)} tumour were given; "
                "give parts of 1, the smaller one first."
            )
        if min(self.num_sites, self.num_scanners) < 1:
            raise InputError("A cohort needs at least one site and one scanner.")


@dataclass(frozen=True)
class _Slide:
    """One slide of a cohort before it is written."""

    slide_id: str
    patient: int
    patient_id: str
    split: str
    has_tumour: bool
    site: int
    scanner: int


def write_cohort(folder: Path, settings: CohortSettings) -> Path:
    """Writes slides, their truth and the tables.

    Args:
        folder: Made by this function: `cohort.csv`, `truth.csv`, `slides/`, `truth/`, `settings.json`.
        settings: What the cohort is.

    Returns:
        The path of `cohort.csv`; paths in it are relative to the folder.

    Raises:
        ExistingOutputError: When the folder is there and not empty.
        InputError: When a slide with tumour can't be found.
    """
    folder = Path(folder)
    slides = _dealt(settings)
    rows, truths = [], []
    with (
        atomic_folder(folder) as target,
        progress("writing cohort", len(slides), "slides") as counter,
    ):
        for number, slide in enumerate(slides):
            row, truth = _write(target, settings, slide, number)
            rows.append(row)
            truths.append(truth)
            counter.advance(note=slide.slide_id)
        write_text(target / "cohort.csv", pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False))
        write_text(target / "truth.csv", pd.DataFrame(truths).to_csv(index=False))
        write_json(target / "settings.json", to_tree(settings))
    return folder / "cohort.csv"


def _dealt(settings: CohortSettings) -> list[_Slide]:
    """Slides with their patients, splits and sites, tumour spread evenly over the splits."""
    order = np.random.default_rng(key_of(settings.seed, "cohort")).permutation(settings.num_patients)
    num_tumour = round(settings.tumour_patients * settings.num_patients)
    # Patients in order of split alternate between the labels, so that no split is left with one of them alone.
    has_tumour = {}
    for place, patient in enumerate(order.tolist()):
        before, after = (count * num_tumour // settings.num_patients for count in (place, place + 1))
        has_tumour[patient] = after > before
    splits = dict(zip(order.tolist(), _splits(settings), strict=True))
    dealt = []
    for number in range(settings.num_slides):
        patient = number % settings.num_patients
        site = patient % settings.num_sites
        name = f"P{patient + 1:03d}"
        dealt.append(
            _Slide(
                slide_id=f"{name}_S{number // settings.num_patients + 1}",
                patient=patient,
                patient_id=name,
                split=splits[patient],
                has_tumour=has_tumour[patient],
                site=site,
                scanner=site % settings.num_scanners,
            )
        )
    return dealt


def _splits(settings: CohortSettings) -> list[str]:
    """A split for each patient: one at least for each that is not empty, the rest by their parts."""
    wanted = [number for number, part in enumerate(settings.split) if part > 0]
    counts = [int(number in wanted) for number in range(len(_SPLITS))]
    for _ in range(settings.num_patients - len(wanted)):
        short = [part * settings.num_patients - count for part, count in zip(settings.split, counts, strict=True)]
        counts[int(np.argmax(short))] += 1
    return [name for name, count in zip(_SPLITS, counts, strict=True) for _ in range(count)]


def _write(
    folder: Path, settings: CohortSettings, slide: _Slide, number: int
) -> tuple[dict[str, object], dict[str, object]]:
    path = Path("slides") / f"{slide.slide_id}.{_ENDINGS[settings.container]}"
    written = write_slide(
        folder / path, _slide_settings(settings, slide, number), folder / "truth" / f"{slide.slide_id}.geojson"
    )
    total = sum(written.areas_mm2.values())
    tumour = written.areas_mm2[_TUMOUR if settings.layout is None else LAYOUT_NAMES[settings.layout][_TUMOUR]]
    row: dict[str, object] = {
        "slide_id": slide.slide_id,
        "patient_id": slide.patient_id,
        "path": path.as_posix(),
        "label": "tumour" if tumour > 0 else "normal",
        "split": slide.split,
        "mpp": settings.mpp,
        "site": f"site {slide.site + 1}",
        "scanner": f"scanner {slide.scanner + 1}",
    }
    truth: dict[str, object] = {"slide_id": slide.slide_id, "tumour_fraction": round(tumour / total, 6) if total else 0}
    truth |= {f"{name} mm2": round(area, 6) for name, area in written.areas_mm2.items()}
    return row, truth


def _slide_settings(settings: CohortSettings, slide: _Slide, number: int) -> SlideSettings:
    """A slide that holds tumour or none, as it should: seeds are tried until its overview shows it."""
    random = np.random.default_rng(key_of(settings.seed, f"slide {number}"))
    part = float(random.uniform(*settings.tumour)) if slide.has_tumour else 0.0
    wanted = SlideSettings(
        size=settings.size,
        mpp=settings.mpp,
        difficulty=settings.difficulty,
        composition=replace(settings.composition, tumour=part),
        patient_seed=key_of(settings.seed, f"patient {slide.patient}"),
        scanner_seed=key_of(settings.seed, f"scanner {slide.scanner}"),
        variation=settings.variation,
        layout=settings.layout,
        container=settings.container,
    )
    for attempt in range(_TRIES):
        tried = replace(wanted, seed=key_of(settings.seed, f"slide {number} attempt {attempt}"))
        labels = Scene(tried.scene(tried.glass)).labels(tried.glass, _LOOK_MPP)
        tumour_mm2 = float((labels == TUMOUR).sum()) * _LOOK_MPP**2 / 1e6
        if (tumour_mm2 >= _ENOUGH_MM2) == slide.has_tumour:
            return tried
    raise InputError(
        f"No slide of {settings.size} with {part:.0%} tumour bed was found in {_TRIES} tries. Give larger slides or "
        "more tumour."
    )
