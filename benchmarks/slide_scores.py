"""What the scores of a finished cross-validation amount to: every variant beside a reference, and one variant in full.

    python benchmarks/slide_scores.py OUT --reference NAME --full NAME [--truth truth.csv] > result.json

OUT holds a folder for each variant with repeat_r/fold_k/scores.csv, as `counterstain compare` leaves them. AUROC is of
pairs of slides that one model scored, with intervals over patients; differences are over the slides and folds that both
variants have. With --truth, AUROC of each kind of positive slide against all negative ones. --full adds calibration before
and after, what abstaining promises and keeps, and decisions. Prints JSON.
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from command import command_given
from counterstain.files import read_json
from counterstain.metrics.ranking import auprc
from counterstain.metrics.within_folds import within_fold_difference, within_fold_interval
from counterstain.report.diagnosis import describe_scores
from counterstain.report.score_table import read_scores
from counterstain.results import Classes, ScoredSlide

CLASSES = Classes(("normal", "tumour"), ((0, 114, 178), (213, 94, 0)), background="normal")


def rows_of(folder: Path) -> list[ScoredSlide]:
    """The scores of all folds of a variant that are finished."""
    return [row for path in sorted(folder.glob("repeat_*/fold_*/scores.csv")) for row in read_scores(path)]


def columns(rows: Sequence[ScoredSlide]) -> tuple[Any, Any, list[str], list[str]]:
    scores, labels = np.array([row.logit for row in rows]), np.array([row.label for row in rows])
    return scores, labels, [row.fold for row in rows], [row.patient_id for row in rows]


def difference(rows: Sequence[ScoredSlide], reference: Sequence[ScoredSlide]) -> dict[str, Any]:
    """AUROC less the reference's, on what both scored."""
    other = {(row.fold, row.slide_id): row for row in reference}
    both = [row for row in rows if (row.fold, row.slide_id) in other]
    scores, labels, folds, patients = columns(both)
    paired = np.array([other[row.fold, row.slide_id].logit for row in both])
    return {"slides": len(both), **within_fold_difference(scores, paired, labels, folds, patients).to_json()}


def told(folder: Path, reference: Sequence[ScoredSlide] | None, kinds: Mapping[str, str]) -> dict[str, Any]:
    """A variant's figures."""
    rows = rows_of(folder)
    scores, labels, folds, patients = columns(rows)
    minutes = [read_json(note)["minutes"] for note in sorted(folder.glob("repeat_*/fold_*/*/training.json"))]
    found: dict[str, Any] = {
        "folds": len(set(folds)),
        "scored": len(rows),
        "auroc": within_fold_interval(scores, labels, folds, patients).to_json(),
        "auprc": float(auprc([row.probability for row in rows], labels)),
        "minutes_a_fold": float(np.mean(minutes)),
    }
    if reference is not None:
        found["over_reference"] = difference(rows, reference)
    for kind in sorted(set(kinds.values()) - {"", "none"}):
        some = [row for row in rows if row.label == 0 or kinds[row.slide_id] == kind]
        found.setdefault("auroc_by_kind", {})[kind] = within_fold_interval(*columns(some)).to_json()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--reference", required=True, help="the folder of the variant that differences are taken to")
    parser.add_argument("--full", help="the folder of the variant that is told in full")
    parser.add_argument("--truth", type=Path)
    given = parser.parse_args()
    kinds: dict[str, str] = {}
    if given.truth is not None:
        with given.truth.open(encoding="utf-8") as file:
            kinds = {row["slide_id"]: row.get("kind", "") for row in csv.DictReader(file)}
    reference = rows_of(given.out / given.reference)
    folders = sorted(path for path in given.out.iterdir() if path.is_dir() and rows_of(path))
    tree = {
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "variants": {
            path.name: told(path, None if path.name == given.reference else reference, kinds) for path in folders
        },
        "full": describe_scores(rows_of(given.out / given.full), CLASSES) if given.full else None,
    }
    print(json.dumps(tree, indent=2))


if __name__ == "__main__":
    main()
