"""How well the evidence of slide methods finds tumour that nobody drew for them: each slide by a model that never saw it.

    python benchmarks/slide_localisation.py STUDY.toml OUT --cohort COHORT --encoded ENCODED --encoder scae > found.json

STUDY and OUT are those of a finished `counterstain compare`; COHORT holds cohort.csv, truth.csv and truth/SLIDE.geojson. Of
every fold of the first repeat, its run shows the evidence of the slides kept from it. Cells are tumour where half of them
lies in a drawn outline. Thresholds of maps are chosen on the drawn slides that the fold set aside, and read on the others.
Deletion and insertion take or give cells in the order of evidence, beside random orders. Prints JSON.
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from command import command_given
from counterstain import log
from counterstain.data.annotations import TumourAreas
from counterstain.data.cohorts import open_cohort
from counterstain.data.diagnosis import DiagnosisSettings, diagnose
from counterstain.data.encoded import EncodedSlide, SlideSet
from counterstain.data.encoded_files import read_encoded
from counterstain.data.slide_sets import labelled_slides, open_slide_set
from counterstain.errors import InputError
from counterstain.export import polygons_by_class, read_geojson
from counterstain.geometry import Frame, Size
from counterstain.methods import SlideMethod, load_slide_method
from counterstain.methods.slide_method import patients_of
from counterstain.metrics.lesions import LesionRules, detect, find_lesions, froc, match
from counterstain.metrics.localisation import choose_map_threshold, map_dice, points_at_tumour, tile_auroc
from counterstain.metrics.perturbation import deletion_curve, insertion_curve, random_order_curves
from counterstain.models.dsnet import DSNet
from counterstain.report.crossval import FoldSets, folds_of
from counterstain.report.slide_study import SlideVariant, read_slide_study

Floats = npt.NDArray[np.floating]

FINE = 8  # places along each side of a cell at which the truth is looked up
TUMOUR_FROM = 0.5
STEPS = 10
PERTURBED = ("deletion", "deletion_random", "insertion", "insertion_random")
RADIUS_CELLS = 2.0  # of suppression: detections are further apart than this
RESAMPLES = 1000


@dataclass(frozen=True)
class Shown:
    """A slide's evidence beside its truth.

    Args:
        slide_id: Which.
        kind: Of its tumour, as truth.csv says; "" where it does not.
        evidence: (H, W) NaN where nothing was observed.
        truth: (H, W) share of each cell that is tumour.
    """

    slide_id: str
    kind: str
    evidence: Floats
    truth: Floats

    @property
    def has_tumour(self) -> bool:
        """Whether any cell counts as tumour."""
        return bool((self.truth >= TUMOUR_FROM).any())


def truth_of(path: Path, frame: Frame) -> Floats:
    """The share of each cell that lies in a drawn outline."""
    drawn = polygons_by_class(read_geojson(path)).get("tumour")
    height, width = frame.size.shape
    if drawn is None:
        return np.zeros((height, width))
    fine = Frame(frame.origin, frame.downsample_x / FINE, frame.downsample_y / FINE, Size(width * FINE, height * FINE))
    mask = TumourAreas(tuple(drawn.geoms)).mask(fine)
    shares: Floats = mask.reshape(height, FINE, width, FINE).mean((1, 3))
    return shares


def kinds_of(cohort: Path) -> dict[str, str]:
    """What truth.csv calls the tumour of each slide."""
    with (cohort / "truth.csv").open(encoding="utf-8") as file:
        return {row["slide_id"]: row.get("kind", "") for row in csv.DictReader(file)}


def shown(method: SlideMethod, slides: SlideSet, cohort: Path, kinds: Mapping[str, str]) -> list[Shown]:
    """Evidence and truth of the slides of a set."""
    found = []
    for slide in slides.slides:
        encoded = read_encoded(slide.folder, slides.encoder.name)
        truth = truth_of(cohort / "truth" / f"{slide.slide_id}.geojson", encoded.frame)
        found.append(Shown(slide.slide_id, kinds[slide.slide_id], method.evidence(encoded), truth))
    return found


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """A mean over slides with its interval, slides drawn with replacement; undefined ones are counted apart."""
    defined = np.array([value for value in values if np.isfinite(value)])
    if not len(defined):
        return {"estimate": None, "low": None, "high": None, "slides": 0}
    drawn = np.random.default_rng(0).choice(defined, (RESAMPLES, len(defined))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return {"estimate": float(defined.mean()), "low": low, "high": high, "slides": len(defined)}


def without_cells(encoded: EncodedSlide, kept_HW: npt.NDArray[np.bool_]) -> EncodedSlide:
    """A slide of which only some cells were observed; its thumbnail is white elsewhere."""
    stays = kept_HW[encoded.cells_N2[:, 0], encoded.cells_N2[:, 1]]
    thumbnail = encoded.thumbnail_HWC
    if thumbnail is not None:
        fine = kept_HW.repeat(2, 0).repeat(2, 1)
        thumbnail = np.where(fine[..., None], thumbnail, np.uint8(255))
    return replace(
        encoded,
        features_NC=encoded.features_NC[stays],
        cells_N2=encoded.cells_N2[stays],
        thumbnail_HWC=thumbnail,
    )


def perturbed(method: SlideMethod, slides: SlideSet, evidence: Mapping[str, Floats]) -> dict[str, list[float]]:
    """Areas of deletion and insertion, and of random orders, of each positive slide."""
    areas: dict[str, list[float]] = {name: [] for name in PERTURBED}
    for slide in slides.slides:
        if slide.label != 1:
            continue
        encoded = read_encoded(slide.folder, slides.encoder.name)

        def score(kept: npt.NDArray[np.bool_], encoded: EncodedSlide = encoded) -> float:
            logits = method.score([without_cells(encoded, kept)])
            return method.judge("", float(logits[0, 1] - logits[0, 0])).probability

        for name, curve in (("deletion", deletion_curve), ("insertion", insertion_curve)):
            areas[name].append(curve(evidence[slide.slide_id], score, STEPS).area)
            random = random_order_curves(evidence[slide.slide_id], score, curve, STEPS, 2)
            areas[f"{name}_random"].append(float(np.mean([one.area for one in random])))
    return areas


def run_of(fold: FoldSets, folder: Path) -> Path:
    """The run of a fold, which must have learned from the patients that the fold has now.

    Raises:
        InputError: When it did not: table or study are not those that the run was made with.
    """
    run = fold.folder(folder) / folder.name
    if patients_of(run)["train"] != {slide.patient_id for slide in fold.train.slides}:
        raise InputError(
            f"{run} learned from other patients than the fold has. Give the table and study it was made with."
        )
    return run


@dataclass(frozen=True)
class Asked:
    """What is looked at.

    Args:
        folds: The first repeat's.
        out: The folder of the study's runs.
        cohort: The folder with the truth.
        evidence: How a network that can show several shows its evidence; None for its own way.
        with_deletion: Whether cells are taken and given.
    """

    folds: tuple[FoldSets, ...]
    out: Path
    cohort: Path
    evidence: str | None
    with_deletion: bool


def opened(run: Path, evidence: str | None) -> SlideMethod:
    """The method of a run, showing its evidence as was asked."""
    method = load_slide_method(run)
    if evidence is not None and isinstance(method.network, DSNet):
        method.network.architecture = replace(method.network.architecture, evidence_kind=evidence)  # type: ignore[arg-type]
    return method


def variant_found(variant: SlideVariant, asked: Asked) -> dict[str, Any]:
    """What a variant's evidence finds."""
    kinds, folder = kinds_of(asked.cohort), asked.out / variant.learner.folder
    everything: list[Shown] = []
    dices, frocs = [], []
    gone: dict[str, list[float]] = {name: [] for name in PERTURBED}
    for fold in asked.folds:
        method = opened(run_of(fold, folder), asked.evidence)
        test, val = (shown(method, part, asked.cohort, kinds) for part in (fold.test, fold.val))
        everything += test
        threshold = drawn_threshold(val)
        dices += [map_dice(one.evidence, one.truth, threshold) for one in test if one.has_tumour]
        frocs.append(fold_froc(test, fold.test.cell_um))
        if asked.with_deletion:
            for name, areas in perturbed(method, fold.test, {one.slide_id: one.evidence for one in test}).items():
                gone[name] += areas
        log.say(f"{variant.name}: fold {fold.name} looked at")
    positive = [one for one in everything if one.has_tumour]
    pointing = [points_at_tumour(one.evidence, one.truth, within_cells=1) for one in positive]
    shares = [float((one.truth[np.isfinite(one.evidence)] >= TUMOUR_FROM).mean()) for one in positive]
    return {
        "variant": variant.name,
        "evidence": asked.evidence or "the network's own",
        "slides": len(everything),
        "with_tumour_cells": len(positive),
        "tile_auroc": mean_interval([tile_auroc(one.evidence, one.truth) for one in positive]),
        "tile_auroc_by_kind": {
            kind: mean_interval([tile_auroc(one.evidence, one.truth) for one in positive if one.kind == kind])
            for kind in sorted({one.kind for one in positive})
        },
        "pointing": {
            "hits": mean_interval([float(hit) for hit, _ in pointing]),
            "by_chance": float(np.mean([by_chance for _, by_chance in pointing])),
        },
        "dice": {**mean_interval(dices), "all_cells": mean_interval([2 * share / (1 + share) for share in shares])},
        "froc": {"mean_over_folds": float(np.mean(frocs)), "by_fold": frocs},
        "deletion_insertion": {name: mean_interval(areas) for name, areas in gone.items() if areas},
    }


def drawn_threshold(val: Sequence[Shown]) -> float:
    """The threshold that is best on drawn slides that were set aside."""
    drawn = [one for one in val if one.has_tumour]
    return choose_map_threshold([one.evidence for one in drawn], [one.truth for one in drawn])


def fold_froc(test: Sequence[Shown], cell_um: float) -> float:
    """Camelyon16's figure over the slides of one fold: evidence of two models has no common unit."""
    least = float(np.nanmedian(np.concatenate([one.evidence.ravel() for one in test])))
    matched = [
        match(detect(one.evidence, RADIUS_CELLS, least), find_lesions(one.truth, cell_um, LesionRules(isolated_um=0)))
        for one in test
    ]
    return float(froc(matched).score)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--table", default="cohort.csv")
    parser.add_argument("--encoded", type=Path, required=True)
    parser.add_argument("--encoder", default="scae")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--evidence", nargs="*", default=[None], help="of DSNet: grad_cam, integrated")
    parser.add_argument("--deletion", nargs="*", default=[], help="variants whose deletion and insertion are measured")
    given = parser.parse_args()
    study = read_slide_study(given.study)
    diagnosis = diagnose(open_cohort(given.cohort / given.table), DiagnosisSettings())
    found = []
    for variant in study.variants:
        if given.only and variant.name not in given.only:
            continue
        labelled = labelled_slides(diagnosis.rows, given.encoded)
        slides = open_slide_set(diagnosis.source.stem, diagnosis.classes, labelled, variant.encoder or given.encoder)
        folds = tuple(folds_of(slides, replace(study.folds, repeats=1)))
        kinds = given.evidence if variant.learner.method == "dsnet" else [None]
        for kind in kinds:
            asked = Asked(folds, given.out, given.cohort, kind, variant.name in given.deletion)
            found.append(variant_found(variant, asked))
    tree = {
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "study": study.name,
        "cell": "tumour where half of it or more lies in a drawn outline",
        "variants": found,
    }
    print(json.dumps(tree, indent=2))


if __name__ == "__main__":
    main()
