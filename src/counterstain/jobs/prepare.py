"""A cohort of annotated slides in, a set of patches with tumour / no tumour labels out.

    slides + annotations -> plan -> surveys (ledger) -> choice -> patches, slide by slide (ledger) -> table

    OUT/images/SLIDE_X_Y.png      patches; X and Y are level-0 pixels of the left upper corner
    OUT/masks/SLIDE_X_Y.png       0 normal, 1 tumour; of val and test alone: no mask of a training patch is ever written
    OUT/labels.csv, classes.toml  the table that `open_patches` reads, written last
    OUT/prepare.json              settings, counts, tumour fractions, what was left out and what failed

A slide that fails is kept with its reason and the others go on. Killed and called again, it goes on where it was.

Does not know: command lines, the rules of the recipe.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from counterstain import log
from counterstain.data.annotations import TumourAreas, read_asap
from counterstain.data.cohorts import CohortSlide, Dropped
from counterstain.data.cutting import (
    CutSettings,
    Picks,
    Survey,
    Surveyed,
    choose,
    histogram,
    patch_mask,
    read_patch,
    survey_slide,
)
from counterstain.data.images import write_image, write_mask
from counterstain.data.records import SPLITS, PatchDataset
from counterstain.data.table import TABLE, class_file_text
from counterstain.data.tumour import tumour_classes
from counterstain.data.tumour_slides import PlanSettings, SlidePlan, TumourSlide, plan_slides
from counterstain.errors import InputError, listed
from counterstain.files import atomic, file_hash, settings_hash, whole_hash, write_json, write_text
from counterstain.jobs.ledger import Ledger
from counterstain.jobs.run import Failure, run_all
from counterstain.results import UNCOVERED
from counterstain.settings import to_tree
from counterstain.slides import Slide, open_slide

CLASSES = tumour_classes()

_SAME_MPP = 1.1  # resolutions that differ by less go into one set without resampling, as Camelyon16's two scanners' do


@dataclass(frozen=True)
class PrepareJob:
    """What is made, and where.

    Args:
        out: The folder of the patch set.
        annotations: The folder below which annotation files lie.
        settings: The recipe.
        include: Slides that are taken although the cohort's exclusions name them.
        slide_mpp: um/px of the slides' level 0, where files say it wrongly.
        assume_mpp: Likewise, for slides that say nothing.
        overwrite: Whether what was made of other inputs or settings is replaced instead of refused.
    """

    out: Path
    annotations: Path
    settings: CutSettings
    include: tuple[str, ...] = ()
    slide_mpp: float | None = None
    assume_mpp: float | None = None
    overwrite: bool = False

    @property
    def ledger(self) -> Ledger:
        """Of the folder."""
        return Ledger(self.out, self.overwrite)

    def open(self, entry: TumourSlide) -> Slide:
        """A slide at the resolution that is believed."""
        mpp = self.slide_mpp if self.slide_mpp is not None else entry.entry.mpp
        return open_slide(entry.entry.path, mpp, assume_mpp=self.assume_mpp)

    def areas(self, entry: TumourSlide) -> TumourAreas | None:
        """A slide's tumour; None of a normal one.

        Raises:
            InputError: When label and annotation contradict each other.
        """
        areas = None if entry.annotation is None else read_asap(entry.annotation, self.settings.groups)
        if areas is None:
            assert not entry.is_tumour, "a tumour slide without an annotation file was refused"
            return None
        if entry.is_tumour and areas.tumour:
            return areas
        if entry.is_tumour or not areas.is_blank:
            # An area of any group: on a slide without tumour nothing can be taken out of it, so the group may be wrong.
            told, drawn = ("tumour", "none is") if entry.is_tumour else ("normal", "something is")
            raise InputError(
                f"Slide {entry.name} is labelled {told}, but {drawn} drawn in '{entry.annotation}'. Correct one of them."
            )
        return None


def prepare(entries: Sequence[CohortSlide], job: PrepareJob, dropped: Sequence[Dropped] = ()) -> dict[str, Any]:
    """Makes a patch set, or finishes one that was interrupted.

    Args:
        entries: The slides.
        job: Recipe and folder.
        dropped: What of the cohort is no slide; it is listed among what failed.

    Returns:
        What stands in `prepare.json`: `settings`, `splits`, `tumour_fractions`, `slides`, `excluded`, `failed`, `notes`.

    Raises:
        InputError: When no slide can be cut, names repeat, or no tumour patch was found or none could be cut.
        SplitError: When the patients can't be split.
        MissingFileError: When the folder of annotations is not there.
        ExistingOutputError: When the folder holds files that were not made here.
        StaleResultError: When it was made with other settings or slides and `overwrite` is not set.
    """
    settings = job.settings
    how = PlanSettings(settings.cohort, job.include, settings.fractions, settings.seed, settings.partly_drawn)
    plan = plan_slides(entries, job.annotations, how)
    job.ledger.open(_plan_tree(plan, job))
    slides = {one.name: one for one in plan.slides}
    with log.progress("Looking for places", len(slides), "slides") as counter:
        surveys = run_all(
            {name: partial(_survey, one, job) for name, one in slides.items()}, job.ledger.folder, counter
        )
    found = {name: Surveyed(one, slides[name].is_tumour, slides[name].split) for name, one in surveys.done.items()}
    picks = choose(found, settings)
    _refuse_no_tumour(picks, surveys.failures)
    (job.out / TABLE).unlink(missing_ok=True)  # a folder with a table is a whole dataset
    with log.progress("Cutting", len(found), "slides") as counter:
        work = {name: partial(_cut, slides[name], found[name].survey, picks[name], job) for name in found}
        cuts = run_all(work, job.ledger.folder, counter)
    found = {name: one for name, one in found.items() if name in cuts.done}
    failures = (*surveys.failures, *cuts.failures)
    _refuse_no_tumour({name: picks[name] for name in found}, failures)
    failed = [{"slide": one.slide_id, "kind": one.kind, "reason": one.reason} for one in failures]
    failed += [{"slide": one.what, "kind": "Refused", "reason": one.reason} for one in plan.refused]
    failed += [{"slide": one.place, "kind": "Dropped", "reason": one.reason} for one in dropped]
    return _write_tables(plan, found, picks, failed, job)


def _refuse_no_tumour(picks: Mapping[str, Picks], failures: Sequence[Failure]) -> None:
    if not any(one.tumour for one in picks.values()):
        reasons = [f"{one.slide_id}: {one.reason}" for one in failures]
        problem = "No tumour patch was found or could be cut, so there is nothing to learn from."
        raise InputError(listed(f"{problem} These failed:", reasons) if reasons else problem)


def _plan_tree(plan: SlidePlan, job: PrepareJob) -> dict[str, Any]:
    settings = {**to_tree(job.settings), "slide_mpp": job.slide_mpp, "assume_mpp": job.assume_mpp}
    said = {one.name: [one.patient, one.split, "tumour" if one.is_tumour else "normal"] for one in plan.slides}
    return {"settings": settings, "slides": said}


def _inputs_hash(entry: TumourSlide, job: PrepareJob) -> str:
    drawn = None if entry.annotation is None else whole_hash(entry.annotation)
    resolution = job.slide_mpp, job.assume_mpp, entry.entry.mpp
    return settings_hash(file_hash(entry.entry.path), drawn, entry.is_tumour, resolution, job.settings.for_survey())


def _survey(entry: TumourSlide, job: PrepareJob) -> Survey:
    inputs_hash = _inputs_hash(entry, job)
    survey = job.ledger.survey(entry.name, inputs_hash)
    if survey is None:
        areas = job.areas(entry)
        if areas is not None and areas.num_empty:
            log.say(f"{entry.name}: {areas.num_empty} annotations without an area were left out")
        with job.open(entry) as slide:
            survey = survey_slide(slide, areas, job.settings)
        job.ledger.keep_survey(entry.name, inputs_hash, survey)
    return survey


def _cut(entry: TumourSlide, survey: Survey, picks: Picks, job: PrepareJob) -> int:
    images = {_image(entry.name, survey, place): place for place in (*picks.tumour, *picks.normal)}
    masks = {_mask(image): place for image, place in images.items()} if entry.split != "train" else {}
    job.ledger.claim(entry.name, _inputs_hash(entry, job), [*images, *masks])
    patch_px = job.settings.patch_px
    areas = job.areas(entry) if masks else None
    for file, place in masks.items():
        if not (job.out / file).exists():
            with atomic(job.out / file) as temporary:
                write_mask(temporary, patch_mask(areas, survey.frame(place, patch_px)), CLASSES.colors)
    with job.open(entry) as slide:
        for file, place in images.items():
            if not (job.out / file).exists():
                with atomic(job.out / file) as temporary:
                    write_image(temporary, read_patch(slide, survey.frame(place, patch_px)))
    return len(images)


def _image(name: str, survey: Survey, place: int) -> str:
    x, y = survey.corners[place].tolist()
    return f"images/{name}_{round(x)}_{round(y)}.png"


def _mask(image: str) -> str:
    return image.replace("images/", "masks/", 1)


def _write_tables(
    plan: SlidePlan,
    found: Mapping[str, Surveyed],
    picks: Mapping[str, Picks],
    failed: Sequence[Mapping[str, str]],
    job: PrepareJob,
) -> dict[str, Any]:
    """Writes the table, what its classes are, and the report; gives the report."""
    slides = {one.name: one for one in plan.slides if one.name in found}
    rows = [row for name, one in slides.items() for row in _rows(one, found[name].survey, picks[name])]
    mpp, notes = _resolution(found, job.settings)
    splits = _counts(slides, picks)
    notes += plan.notes + _shortfalls(splits, job.settings)
    report = {
        "settings": to_tree(job.settings),
        "splits": splits,
        "tumour_fractions": histogram(found, picks, job.settings),
        "slides": {name: _slide_tree(one, picks[name]) for name, one in slides.items()},
        "excluded": [{"slide": one.what, "reason": one.reason} for one in plan.excluded],
        "failed": list(failed),
        "notes": list(notes),
    }
    dataset = PatchDataset(job.out.name, CLASSES, UNCOVERED, mpp, white_is_background=False, notes=notes)
    write_text(job.out / "classes.toml", class_file_text(dataset))
    write_json(job.out / "prepare.json", report)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("image", "split", "patient", "mask", *CLASSES.names), *rows])
    write_text(job.out / TABLE, text.getvalue())
    return report


def _rows(entry: TumourSlide, survey: Survey, picks: Picks) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for places, label in ((picks.tumour, ("0", "1")), (picks.normal, ("1", "0"))):
        for place in places:
            image = _image(entry.name, survey, place)
            rows.append((image, entry.split, entry.patient, "" if entry.split == "train" else _mask(image), *label))
    return rows


def _resolution(found: Mapping[str, Surveyed], settings: CutSettings) -> tuple[float | None, tuple[str, ...]]:
    """The set's um/px, None where its slides differ too much, and what a report has to say of it."""
    simulated: tuple[str, ...] = (
        "Labels are simulated from drawn tumour: a patch is positive when "
        f"{100 * settings.min_fraction:g} % of it is tumour or more; patches with less, but some, are left out.",
    )
    if settings.patch_mpp is not None:
        return settings.patch_mpp, simulated
    all_mpp = [value for one in found.values() for value in one.survey.mpp]
    least, most = min(all_mpp), max(all_mpp)
    if most > _SAME_MPP * least:
        return None, (*simulated, f"Patches are of level 0, which has from {least:.4g} to {most:.4g} um/px.")
    if most > least:
        simulated += (f"Patches are of level 0 as scanned, {least:.4g} to {most:.4g} um/px.",)
    return round(geometric_mean(all_mpp), 6), simulated


def _counts(slides: Mapping[str, TumourSlide], picks: Mapping[str, Picks]) -> dict[str, dict[str, int]]:
    counts = {}
    for split in SPLITS:
        inside = [one for one in slides.values() if one.split == split]
        counts[split] = {
            "slides": len(inside),
            "patients": len({one.patient for one in inside}),
            "tumour": sum(len(picks[one.name].tumour) for one in inside),
            "normal": sum(len(picks[one.name].normal) for one in inside),
            "too_little_tumour": sum(picks[one.name].num_slight for one in inside),
            "thinned_out": sum(picks[one.name].num_thinned for one in inside),
        }
    return counts


def _shortfalls(splits: Mapping[str, Mapping[str, int]], settings: CutSettings) -> tuple[str, ...]:
    notes = []
    for split, counts in splits.items():
        wanted = round(settings.neg_pos_ratio * counts["tumour"])
        if counts["slides"] and not counts["tumour"]:
            has = f"{counts['normal']} normal patches" if counts["normal"] else "no patch at all"
            notes.append(f"The {split} slides gave no tumour patch, so that split has {has}.")
        elif counts["normal"] != wanted:
            notes.append(f"The {split} slides gave {counts['normal']} normal patches; {wanted} were to be drawn.")
    return tuple(notes)


def _slide_tree(entry: TumourSlide, picks: Picks) -> dict[str, Any]:
    return {
        "path": str(entry.entry.path),
        "patient": entry.patient,
        "split": entry.split,
        "label": CLASSES.names[entry.is_tumour],
        "tumour": len(picks.tumour),
        "normal": len(picks.normal),
        "too_little_tumour": picks.num_slight,
        "thinned_out": picks.num_thinned,
    }
