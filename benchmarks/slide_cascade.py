"""Pixels from slide labels: SSHR trained on cells that a diagnosis's evidence labels, on slides that nobody of it ever saw.

    python benchmarks/slide_cascade.py STUDY.toml OUT WORK --cohort COHORT --encoded ENCODED --weights W.npz --folds 0 1

STUDY and OUT are of a finished `counterstain compare`; of each fold named, the run of DSNet labels cells of the slides
it learned from and validated on, SSHR learns from them, and maps the fold's own slides. Beside it: the same SSHR with true
labels of cells (tumour where half of a cell or more lies in a drawn outline, normal where nothing does), as many of each
slide at most; DSNet's evidence cut at the threshold that chose the cells, and at the best one on drawn validation slides;
and all tissue. Dice is of pixels of the map, over slides with tumour; of the others, the share of tissue that is called
tumour. Prints JSON.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from command import command_given
from counterstain import log
from counterstain.data import open_patches
from counterstain.data.annotations import TumourAreas
from counterstain.data.cohorts import open_cohort
from counterstain.data.diagnosis import Diagnosis, DiagnosisSettings, diagnose
from counterstain.data.encoded_files import read_encoded
from counterstain.data.slide_sets import labelled_slides, open_slide_set
from counterstain.export import polygons_by_class, read_geojson
from counterstain.files import read_json
from counterstain.geometry import Frame
from counterstain.infer import PredictSettings, predict_slide
from counterstain.jobs import cascade
from counterstain.methods import SSHR, SlideMethod, model_digest
from counterstain.methods.artefacts import read_model
from counterstain.metrics.localisation import choose_map_threshold
from counterstain.recipes import recipe
from counterstain.report.crossval import FoldSets, folds_of
from counterstain.report.slide_study import read_slide_study
from counterstain.results import UNCOVERED, SlideMap
from counterstain.settings import build, read_toml
from counterstain.slides import open_slide
from counterstain.training import TrainSettings
from slide_localisation import kinds_of, mean_interval, opened, run_of, truth_of

Mask = npt.NDArray[np.bool_]

SETTINGS = cascade.CascadeSettings()
TRAINING = TrainSettings(epochs=4, batch_size=16, seed=0)
PREDICT = PredictSettings(halo_px=0, overlap=0.25, map_stride=8)


@dataclass(frozen=True)
class Bench:
    """What is measured, and on what.

    Args:
        cohort: The folder of the cohort.
        diagnosis: Its labelled slides.
        encoded: The folder of encoded slides.
        weights: Of MobileNetV2.
        work: Where patches, runs and maps go.
        evidence: How DSNet shows its evidence; None for its own way.
    """

    cohort: Path
    diagnosis: Diagnosis
    encoded: Path
    weights: Path
    work: Path
    evidence: str | None

    def truth(self, slide_id: str, frame: Frame) -> Mask:
        """The drawn tumour under the centres of a frame's pixels."""
        drawn = polygons_by_class(read_geojson(self.cohort / "truth" / f"{slide_id}.geojson")).get("tumour")
        if drawn is None:
            return np.zeros(frame.size.shape, np.bool_)
        return TumourAreas(tuple(drawn.geoms)).mask(frame)


def dense_run(bench: Bench, patches: Path, run: Path) -> SSHR:
    """SSHR, trained on a folder of labelled cells."""
    tree = read_toml(recipe("ebhi_seg_shallow"))
    config = build(SSHR.config_type, {**tree["settings"], "scale": 1.0, "weights": bench.weights})
    data = open_patches(patches, "table")
    method = SSHR.create(config, data, tile_px=SETTINGS.patch_px, seed=TRAINING.seed)
    method.fit(data, run, TRAINING)
    return SSHR.load(*read_model(run))


def true_patches(bench: Bench, run: Path, out: Path) -> None:
    """Cells of the same slides with true labels, cut as the cascade cuts its own."""

    def evidence(method: SlideMethod, encoded: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for slide_id, slide in encoded.items():
            share = truth_of(bench.cohort / "truth" / f"{slide_id}.geojson", slide.frame)
            # what lies between is neither: it has no place in the order
            known = np.where(share >= 0.5, 1.0, np.where(share == 0, 0.0, np.nan))
            found[slide_id] = np.where(slide.observed, known, np.nan).astype(np.float32)
        return found

    job = cascade.CascadeJob(run, bench.encoded, out, SETTINGS)
    cascade.cut_by_evidence(bench.diagnosis, job, evidence)


def tumour_map(bench: Bench, dense: SSHR, run: Path, slide_id: str) -> tuple[SlideMap, Mask, Mask]:
    """A slide's map, what of it is called tumour, and what is tissue."""
    entry = next(row.entry for row in bench.diagnosis.rows if row.slide_id == slide_id)
    with open_slide(entry.path, entry.mpp) as slide:
        found = predict_slide(slide, dense, run / "maps" / slide_id, PREDICT, model_digest(run))
    label = found.label[:]
    return found, label == dense.classes.index("tumour"), label != UNCOVERED


def on_frame(cells_HW: Mask, grid: Frame, frame: Frame) -> Mask:
    """A mask of cells at the pixels of a map."""
    height, width = frame.size.shape
    xs = (frame.origin.x + (np.arange(width) + 0.5) * frame.downsample_x - grid.origin.x) / grid.downsample_x
    ys = (frame.origin.y + (np.arange(height) + 0.5) * frame.downsample_y - grid.origin.y) / grid.downsample_y
    rows, columns = np.floor(ys).astype(int), np.floor(xs).astype(int)
    inside = ((rows >= 0) & (rows < cells_HW.shape[0]))[:, None] & ((columns >= 0) & (columns < cells_HW.shape[1]))
    picked: Mask = (
        cells_HW[rows.clip(0, cells_HW.shape[0] - 1)[:, None], columns.clip(0, cells_HW.shape[1] - 1)] & inside
    )
    return picked


def dice(called: Mask, truth: Mask) -> float:
    """Of two masks; NaN where the truth is empty."""
    return float(2 * (called & truth).sum() / (called.sum() + truth.sum())) if truth.any() else float("nan")


def heat_thresholds(bench: Bench, method: SlideMethod, fold: FoldSets, limits: Mapping[str, float]) -> dict[str, float]:
    """Where evidence is cut: where the cascade takes cells for tumour, and where drawn validation slides say."""
    evidence, truth = [], []
    for slide in fold.val.slides:
        if slide.label:
            encoded = read_encoded(slide.folder, fold.val.encoder.name)
            share = truth_of(bench.cohort / "truth" / f"{slide.slide_id}.geojson", encoded.frame)
            if (share >= 0.5).any():
                evidence.append(method.evidence(encoded))
                truth.append(share)
    # what the cascade takes for tumour exceeds its limit, what is drawn reaches its threshold
    sure = float(np.nextafter(np.float32(limits["sure"]), np.float32(np.inf)))
    return {"heat_map": sure, "heat_map_drawn_threshold": choose_map_threshold(evidence, truth)}


def fold_found(bench: Bench, fold: FoldSets, run: Path) -> list[dict[str, Any]]:
    """A row for each slide of a fold."""
    work, method = bench.work / f"fold_{fold.name}", opened(run, bench.evidence)

    def show(_: SlideMethod, encoded: Mapping[str, Any]) -> dict[str, Any]:
        return {slide_id: method.evidence(slide) for slide_id, slide in encoded.items()}

    made, _ = cascade.cut_by_evidence(
        bench.diagnosis, cascade.CascadeJob(run, bench.encoded, work / "guessed", SETTINGS), show
    )
    true_patches(bench, run, work / "true")
    nets = {name: dense_run(bench, work / name, work / f"sshr_{name}") for name in ("guessed", "true")}
    cuts = heat_thresholds(bench, method, fold, made["limits"])
    rows, kinds = [], kinds_of(bench.cohort)
    for slide in fold.test.slides:
        encoded = read_encoded(slide.folder, fold.test.encoder.name)
        evidence = np.nan_to_num(method.evidence(encoded), nan=-np.inf)
        masks: dict[str, Mask] = {}
        for name, net in nets.items():
            slide_map, masks[f"sshr_{name}"], tissue = tumour_map(bench, net, work / f"sshr_{name}", slide.slide_id)
        for name, cut in cuts.items():
            masks[name] = on_frame(evidence >= cut, encoded.frame, slide_map.frame) & tissue
        masks["all_tissue"] = tissue
        truth = bench.truth(slide.slide_id, slide_map.frame)
        rows.append(
            {
                "slide": slide.slide_id,
                "fold": fold.name,
                "label": slide.label,
                "kind": kinds[slide.slide_id],
                "dice": {name: _plain(dice(mask, truth)) for name, mask in masks.items()},
                "called": {name: float((mask & tissue).sum() / max(1, tissue.sum())) for name, mask in masks.items()},
            }
        )
        log.say(f"{slide.slide_id}: {rows[-1]['kind']} {rows[-1]['dice']}")
    return rows


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None


def summed_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over slides with intervals: of Dice where there is tumour, of the share called tumour where there is none."""
    with_tumour = [row for row in rows if row["label"] == 1 and row["dice"]["all_tissue"] is not None]
    without = [row for row in rows if row["label"] == 0]
    names = list(rows[0]["dice"])
    kinds = sorted({row["kind"] for row in with_tumour})
    return {
        "dice": {name: mean_interval([row["dice"][name] for row in with_tumour]) for name in names},
        "dice_by_kind": {
            kind: {
                name: mean_interval([row["dice"][name] for row in with_tumour if row["kind"] == kind]) for name in names
            }
            for kind in kinds
        },
        "over_heat_map": {
            name: mean_interval([row["dice"][name] - row["dice"]["heat_map_drawn_threshold"] for row in with_tumour])
            for name in ("sshr_guessed", "sshr_true")
        },
        "called_on_slides_without": {name: mean_interval([row["called"][name] for row in without]) for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--table", default="cohort.csv")
    parser.add_argument("--encoded", type=Path, required=True)
    parser.add_argument("--encoder", default="scae")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--variant", default="DSNet")
    parser.add_argument("--evidence", help="of DSNet: grad_cam, integrated, cells")
    parser.add_argument("--folds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    study = read_slide_study(given.study)
    variant = next(one for one in study.variants if one.name == given.variant)
    diagnosis = diagnose(open_cohort(given.cohort / given.table), DiagnosisSettings())
    labelled = labelled_slides(diagnosis.rows, given.encoded)
    slides = open_slide_set(diagnosis.source.stem, diagnosis.classes, labelled, given.encoder)
    bench = Bench(given.cohort, diagnosis, given.encoded, given.weights, given.work, given.evidence)
    rows: list[dict[str, Any]] = []
    minutes = {}
    for fold in folds_of(slides, replace(study.folds, repeats=1)):
        if fold.number in given.folds:
            run = run_of(fold, given.out / variant.learner.folder)
            rows += fold_found(bench, fold, run)
            note = given.work / f"fold_{fold.name}" / "sshr_guessed" / "training.json"
            minutes[fold.name] = read_json(note)["minutes"]
    tree = {
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "variant": variant.name,
        "evidence": given.evidence,
        "minutes_of_sshr": minutes,
        **summed_up(rows),
        "slides": rows,
    }
    print(json.dumps(tree, indent=2))


if __name__ == "__main__":
    main()
