from dataclasses import replace

import numpy as np
import pytest

from counterstain.metrics import BootstrapSettings, wilson
from counterstain.report.diagnosis import describe_scores
from counterstain.report.diagnosis_table import HEADS, summary_rows
from counterstain.results import Classes, ScoredSlide

CLASSES = Classes(("normal", "tumour"), ((0, 114, 178), (213, 94, 0)), background="normal")
SETS = {0.9: ("tumour",), 0.6: ("normal", "tumour"), 0.2: ("normal",), 0.7: ("tumour",)}


def scored(labels_and_probabilities: list[tuple[int, float]]) -> list[ScoredSlide]:
    return [
        ScoredSlide(
            slide_id=f"s{number}",
            patient_id=f"p{number}",
            label=label,
            fold="test",
            logit=float(np.log(p / (1 - p))),
            probability=p,
            threshold=0.5,
            decision=SETS[p][0] if len(SETS[p]) == 1 else None,
            prediction_set=SETS[p],
        )
        for number, (label, p) in enumerate(labels_and_probabilities)
    ]


ROWS = scored([(1, 0.9), (1, 0.6), (0, 0.2), (0, 0.7), (0, 0.2), (0, 0.2)])


def table(rows: list[ScoredSlide]) -> dict[str, list[str]]:
    return {name: cells for name, *cells in summary_rows(describe_scores(rows, CLASSES, BootstrapSettings(num=50)))}


def test_each_figure_stands_beside_what_needs_no_model() -> None:
    found = {name: (estimate, baseline) for name, (estimate, _, baseline) in table(ROWS).items()}
    assert found == {
        "AUROC within folds": ("87.5", "50.0"),  # 7 of 8 pairs
        "AUPRC": ("83.3", "33.3"),  # (1 + 2 / 3) / 2
        "accuracy": ("83.3", "66.7"),
        "sensitivity (recall)": ("100.0", "100.0"),
        "specificity": ("75.0", "0.0"),
        "precision": ("66.7", "33.3"),
        "calibration error (ECE)": ("30.0", "0.0"),  # (0.1 + 0.4 + 3 x 0.2 + 0.7) / 6 in bins of a tenth
        "no decision": ("16.7", "0.0"),
        "wrong where decided": ("20.0", "33.3"),
    }
    assert all(len(cells) == len(HEADS) for cells in summary_rows(describe_scores(ROWS, CLASSES)))


def test_an_interval_holds_its_estimate() -> None:
    estimate, interval, _ = table(ROWS)["accuracy"]
    low, high = (float(end) for end in interval.split(" to "))
    assert low <= float(estimate) <= high


def test_no_interval_is_without_width_where_every_slide_is_called_alike() -> None:
    found = table([replace(row, threshold=0.0) for row in ROWS])
    low, high = (100 * end for end in (wilson(2, 6).low, wilson(2, 6).high))
    assert found["accuracy"][:2] == ["33.3", f"{low:.1f} to {high:.1f} (Wilson)"]
    assert found["sensitivity (recall)"][1] == f"{100 * wilson(2, 2).low:.1f} to 100.0 (Wilson)"
    assert found["specificity"][1] == f"0.0 to {100 * wilson(0, 4).high:.1f} (Wilson)"


def test_a_ranking_without_a_mistake_has_the_exact_interval_of_its_disjoint_pairs() -> None:
    perfect = scored([(1, 0.9), (1, 0.9), (0, 0.2), (0, 0.2), (0, 0.2)])
    assert table(perfect)["AUROC within folds"][1] == f"{100 * 0.025 ** (1 / 2):.1f} to 100.0 (exact)"
    assert table(perfect)["AUPRC"][:2] == ["100.0", "-"]


def test_patients_of_several_slides_count_once_in_an_interval_that_no_resample_gives() -> None:
    rows = [replace(row, threshold=0.0, patient_id=f"p{number // 2}") for number, row in enumerate(ROWS)]
    assert table(rows)["specificity"][1] == f"0.0 to {100 * wilson(0, 2).high:.1f} (Wilson)"


def test_what_nobody_can_say_is_a_dash() -> None:
    alone = [replace(row, patient_id="p") for row in ROWS]
    assert table(alone)["AUROC within folds"] == ["87.5", "-", "50.0"]
    silent = [replace(row, decision=None, prediction_set=CLASSES.names) for row in ROWS]
    assert table(silent)["wrong where decided"][0] == "-"


@pytest.mark.parametrize("row", ["no decision", "wrong where decided"])
def test_methods_that_always_decide_have_no_rows_for_abstaining(row: str) -> None:
    assert row not in table([replace(one, prediction_set=None) for one in ROWS])
