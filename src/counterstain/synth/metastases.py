"""A cohort of slides with metastases of three kinds, for classifiers that look at texture and at layout.

Half of the slides are positive; of those a third each can be told by texture and layout, by texture alone, by layout
alone (`deposits.py`). Sizes, sites, scanners and patients with two slides are dealt out to every kind alike. Further
slides of other patients, split "encoder", are there to train what encodes patches and are never scored.

Does not know: how a slide is drawn or written.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from counterstain.errors import InputError
from counterstain.geometry import Box, Size
from counterstain.settings import to_tree
from counterstain.synth.anatomy import SCENE_CLASSES, TUMOUR, Composition, Labels
from counterstain.synth.deposits import METASTASIS_CLASSES, Findings, Kind, MetastasisPlane
from counterstain.synth.noise import key_of
from counterstain.synth.scene import SceneSettings
from counterstain.synth.slide import SlideSettings, write_slide
from counterstain.synth.slide_set import CohortSlide, write_slide_set
from counterstain.synth.sowing import sow

ENCODER_SPLIT = "encoder"

_KINDS: tuple[Kind, ...] = ("both", "texture", "layout")
_REPEATED = 0.16  # part of slides that are the second one of their patient
_SKEW = 1.25  # above 1 has more small slides than evenly spread logarithms
_STRETCH = 0.15  # natural logarithm of how far sides stray from a square's
_LEAST_UM2 = 6000.0  # of metastases on a slide: one and a half squares of 64 um
_REGION_UM = 600.0
_LOOK_MPP, _FACTS_MPP = 8.0, 4.0
_CELLS = 0.4  # part of a deposit that tumour cells cover, at least
_TRIES = 80


@dataclass(frozen=True)
class MetastasesSettings:
    """What a cohort with metastases is.

    Args:
        num_slides: Half of them positive.
        num_encoder: Of the further slides, likewise.
        fractions: Smallest and largest part of a positive slide's tissue that metastases cover, logarithms evenly spread.
        rings: Smallest part that rings cover where they are all that is to be seen: one of them is large already.
        side_px: Smallest and largest side of a slide.
        num_sites: Patients of each kind are dealt out to them in turn.
        num_scanners: Sites have them in turn.
        mpp: um/px.
        seed: Of everything; a slide's follows from it and the slide's number.
        difficulty: 0 to 1, as in `SceneSettings`.
        variation: How far stains and scanners differ.
        covered: The part of a slide that tissue covers, about.
        composition: Of the tissue; without tumour. Nests and glands tell what tumour looks like.

    Raises:
        InputError: When the numbers can't be a cohort.
    """

    num_slides: int = 120
    num_encoder: int = 24
    fractions: tuple[float, float] = (0.002, 0.2)
    rings: float = 0.06
    side_px: tuple[int, int] = (2000, 8000)
    num_sites: int = 4
    num_scanners: int = 3
    mpp: float = 0.5
    seed: int = 0
    difficulty: float = 0.15
    variation: float = 0.7
    covered: float = 0.42
    composition: Composition = field(
        default_factory=lambda: Composition(
            tumour=0.0, nests=0.95, necrosis=0.0, lymphocytes=0.1, normal=0.2, fat=0.07, glands=0.3
        )
    )

    def __post_init__(self) -> None:
        if self.num_slides < 2 or self.num_encoder < 0:
            raise InputError(f"{self.num_slides} and {self.num_encoder} slides were given; give at least 2 and 0.")
        if not 0 < self.fractions[0] <= self.fractions[1] <= 0.5:
            raise InputError(
                f"Fractions of {list(self.fractions)} were given; give parts up to 0.5, the smaller first."
            )
        if not self.fractions[0] <= self.rings <= self.fractions[1]:
            raise InputError(f"Rings were given to cover {self.rings}; give a part within {list(self.fractions)}.")
        if not 64 <= self.side_px[0] <= self.side_px[1]:
            raise InputError(f"Sides of {list(self.side_px)} px were given; give at least 64, the smaller first.")
        if min(self.num_sites, self.num_scanners) < 1:
            raise InputError("A cohort needs at least one site and one scanner.")
        if self.composition.tumour > 0:
            raise InputError("The composition holds tumour. Metastases are planted; give a composition without.")


@dataclass(frozen=True)
class PlannedSlide:
    """What a slide is to be.

    Args:
        slide: Its row.
        number: Of the slide in the cohort.
        patient: Of its patient.
        scanner: Of its scanner.
        kind: Of its metastases.
        fraction: That they should cover.
        size: Level 0.
    """

    slide: CohortSlide
    number: int
    patient: int
    scanner: int
    kind: Kind
    fraction: float
    size: Size


def write_metastases(folder: Path, settings: MetastasesSettings | None = None) -> Path:
    """Writes the cohort, or what is missing of it.

    Args:
        folder: With `cohort.csv`, `truth.csv`, `slides/`, `truth/`, `settings.json`. One that an earlier call with the
            same settings left unfinished is finished.
        settings: What the cohort is.

    Returns:
        The path of `cohort.csv`.

    Raises:
        ExistingOutputError: When the folder holds something else.
        InputError: When a slide's tissue has no room for what it should hold.
    """
    settings = settings or MetastasesSettings()
    planned = {one.slide.slide_id: one for one in plan_metastases(settings)}

    def write(slide: CohortSlide, path: Path, truth: Path) -> dict[str, object]:
        return _write(settings, planned[slide.slide_id], path, truth)

    slides = [one.slide for one in planned.values()]
    return write_slide_set(Path(folder), to_tree(settings), slides, write)


def plan_metastases(settings: MetastasesSettings) -> list[PlannedSlide]:
    """All slides of a cohort, in the table's order: by patient."""
    random = np.random.default_rng(key_of(settings.seed, "metastases"))
    dealt = [*_dealt(settings, settings.num_slides, "", random)]
    dealt += _dealt(settings, settings.num_encoder, ENCODER_SPLIT, random)
    # Patients are named in random order: a name tells nothing.
    keys = sorted({one.patient for one in dealt})
    names = dict(zip(keys, random.permutation(len(keys)).tolist(), strict=True))
    slides: list[PlannedSlide] = []
    for one in sorted(dealt, key=lambda one: (names[one.patient], one.copy)):
        slides.append(_planned(settings, one, len(slides), names[one.patient]))
    return slides


@dataclass(frozen=True)
class _Dealt:
    """A slide before its patient has a name."""

    patient: tuple[str, str, int]
    copy: int
    split: str
    kind: Kind
    site: int
    size: Size
    fraction: float


def _dealt(settings: MetastasesSettings, count: int, split: str, random: np.random.Generator) -> Iterator[_Dealt]:
    """Slides of a split, kind by kind; sizes and fractions evenly spread over each kind."""
    positive = count // 2
    counts: dict[Kind, int] = {"none": count - positive}
    counts |= {kind: (positive + len(_KINDS) - 1 - place) // len(_KINDS) for place, kind in enumerate(_KINDS)}
    for kind, number in counts.items():
        repeated = 0 if split == ENCODER_SPLIT else round(_REPEATED * number)
        spread = [(random.permutation(number) + random.uniform(0, 1, number)) / max(number, 1) for _ in range(2)]
        first_site = int(random.integers(settings.num_sites))
        for place, (of_size, of_fraction) in enumerate(zip(*spread, strict=True)):
            patient = place % max(number - repeated, 1)
            low, high = np.log((settings.rings if kind == "layout" else settings.fractions[0], settings.fractions[1]))
            yield _Dealt(
                patient=(split, kind, patient),
                copy=place // max(number - repeated, 1),
                split=split,
                kind=kind,
                site=(first_site + patient) % settings.num_sites,
                size=_size(settings, float(of_size), random),
                fraction=0.0 if kind == "none" else float(np.exp(low + (high - low) * of_fraction)),
            )


def _size(settings: MetastasesSettings, part: float, random: np.random.Generator) -> Size:
    low, high = settings.side_px
    side = low * (high / low) ** (part**_SKEW)
    stretch = np.exp(random.uniform(-_STRETCH, _STRETCH))
    width, height = (round(float(np.clip(length, low, high))) for length in (side * stretch, side / stretch))
    return Size(width, height)


def _planned(settings: MetastasesSettings, one: _Dealt, number: int, patient: int) -> PlannedSlide:
    name = f"P{patient + 1:03d}"
    scanner = one.site % settings.num_scanners
    slide = CohortSlide(
        slide_id=f"{name}_S{one.copy + 1}",
        patient_id=name,
        label="normal" if one.kind == "none" else "tumour",
        split=one.split,
        site=f"site {one.site + 1}",
        scanner=f"scanner {scanner + 1}",
        mpp=settings.mpp,
    )
    return PlannedSlide(slide, number, patient, scanner, one.kind, one.fraction, one.size)


def plane_of(settings: MetastasesSettings, planned: PlannedSlide) -> MetastasisPlane:
    """What a slide shows: seeds are tried until its tissue has room for a ring and its deposits hold cells.

    Raises:
        InputError: When none of the seeds does.
    """
    wanted = SceneSettings(
        mpp=settings.mpp,
        difficulty=settings.difficulty,
        composition=settings.composition,
        region_um=_REGION_UM,
        patient_seed=key_of(settings.seed, f"patient {planned.patient}"),
        scanner_seed=key_of(settings.seed, f"scanner {planned.scanner}"),
        variation=settings.variation,
        tissue=Box.whole(planned.size),
        covered=settings.covered,
    )
    area_um2 = planned.size.width * planned.size.height * settings.mpp**2 * settings.covered
    fraction = max(planned.fraction, _LEAST_UM2 / area_um2)
    for attempt in range(_TRIES):
        scene = replace(wanted, seed=key_of(settings.seed, f"metastases {planned.number} attempt {attempt}"))
        findings = sow(scene, planned.kind, fraction)
        if findings is not None and _has_cells(scene, findings):
            return MetastasisPlane(scene, findings)
    raise InputError(
        f"No tissue on a slide of {planned.size} has room for what it should hold, in {_TRIES} tries. Give larger "
        "sides, more covered, or other fractions."
    )


def _has_cells(scene: SceneSettings, findings: Findings) -> bool:
    """Whether enough of the deposits is tumour cells: a rim of a nest without a nucleus shows nobody a tumour."""
    if not findings.deposits:
        return True
    plane, box = MetastasisPlane(scene, findings), scene.tissue
    assert box is not None, "sown in an area"
    is_inside = plane.labels(box, _LOOK_MPP) == METASTASIS_CLASSES.index("tumour")
    is_cells = plane.tissues(box, _LOOK_MPP) == TUMOUR
    return bool((is_inside & is_cells).sum() >= _CELLS * is_inside.sum() > 0)


def _write(settings: MetastasesSettings, planned: PlannedSlide, path: Path, truth: Path) -> dict[str, object]:
    plane = plane_of(settings, planned)
    scene = plane.settings
    told = write_slide(path, SlideSettings(size=planned.size, mpp=scene.mpp, seed=scene.seed), truth, plane)
    areas = told.areas_mm2
    rings = sum(motif.shape == "ring" for motif in plane.findings.motifs)
    return {
        "kind": planned.kind,
        "tumour_fraction": round(areas["tumour"] / (areas["tumour"] + areas["normal"]), 6),
        "deposits": rings + len(plane.findings.deposits),
        "tumour mm2": round(areas["tumour"], 6),
        "normal mm2": round(areas["normal"], 6),
        **_tissue_areas(plane.tissues(Box.whole(planned.size), _FACTS_MPP)),
    }


def _tissue_areas(labels: Labels) -> dict[str, object]:
    """mm2 of each of the scene's classes but glass, drawn as such whatever the truth says."""
    counts = np.bincount(labels.ravel(), minlength=len(SCENE_CLASSES))
    named = zip(SCENE_CLASSES.names, counts.tolist(), strict=True)
    return {
        f"drawn {name} mm2": round(count * _FACTS_MPP**2 / 1e6, 6)
        for name, count in named
        if name != SCENE_CLASSES.background
    }
