import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from counterstain.errors import InputError, UnknownNameError
from counterstain.metrics import BootstrapSettings, ConformalScores, auroc, delong_interval, expected_calibration_error
from counterstain.report.diagnosis import describe_scores, read_scores, write_scores
from counterstain.report.score_table import ScoreColumns
from counterstain.results import Classes, ScoredSlide

CLASSES = Classes(("normal", "tumor"), ((0, 114, 178), (213, 94, 0)), background="normal")
QUICK = BootstrapSettings(num=100)


def scored(num: int = 60, repeats: int = 1, seed: int = 0, slides_a_patient: int = 1) -> list[ScoredSlide]:
    """Slides of two sites in four folds, each with a threshold of its own."""
    rng = np.random.default_rng(seed)
    rows = []
    for repeat in range(repeats):
        for number in range(num):
            label, fold = int(number % 5 < 2), number // slides_a_patient % 4
            logit = float(2 * label - 1 + 1.5 * rng.standard_normal())
            probability = float(1 / (1 + np.exp(-logit / 1.4)))
            held = tuple(name for name, p in zip(CLASSES.names, (1 - probability, probability), strict=True) if p > 0.3)
            rows.append(
                ScoredSlide(
                    slide_id=f"slide {number}",
                    patient_id=f"P{number // slides_a_patient}",
                    label=label,
                    fold=f"r{repeat}f{fold}",
                    logit=logit,
                    probability=probability,
                    threshold=0.4 + 0.05 * fold,
                    decision=held[0] if len(held) == 1 else None,
                    prediction_set=held,
                    site="AB"[number % 2],
                    local_share=float(rng.random()),
                )
            )
    return rows


def columns(rows: list[ScoredSlide]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    called = [row.probability >= row.threshold for row in rows]
    return np.array([row.label for row in rows]), np.array([row.probability for row in rows]), np.array(called)


def described(rows: list[ScoredSlide]) -> dict[str, Any]:
    """The tree after a way through JSON, NaN refused."""
    tree: dict[str, Any] = json.loads(json.dumps(describe_scores(rows, CLASSES, QUICK), allow_nan=False))
    return tree


def test_numbers_are_those_of_scikit_learn() -> None:
    rows = scored()
    labels, probability, called = columns(rows)
    tree = described(rows)
    assert tree["ranking"]["pooled"]["auroc"]["estimate"] == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, probability)
    )
    wanted = sklearn.metrics.average_precision_score(labels, probability)
    assert tree["ranking"]["pooled"]["auprc"]["estimate"] == pytest.approx(wanted)
    for name, metric in (
        ("accuracy", sklearn.metrics.accuracy_score),
        ("precision", sklearn.metrics.precision_score),
        ("recall", sklearn.metrics.recall_score),
        ("f1", sklearn.metrics.f1_score),
    ):
        found = tree["decisions"][name]
        assert found["estimate"] == pytest.approx(metric(labels, called))
        assert found["estimate"] == pytest.approx(tree["decisions"]["by_repeat"][0][name]["estimate"])
        assert found["low"] < found["estimate"] < found["high"]
    specificity = sklearn.metrics.recall_score(labels, called, pos_label=0)
    assert tree["decisions"]["specificity"]["estimate"] == pytest.approx(specificity)
    after = tree["calibration"]["after"]
    assert after["brier"]["estimate"] == pytest.approx(sklearn.metrics.brier_score_loss(labels, probability))
    assert after["error"]["estimate"] == pytest.approx(expected_calibration_error(probability, labels))
    raw = 1 / (1 + np.exp(-np.array([row.logit for row in rows])))
    before = tree["calibration"]["before"]
    assert before["brier"]["estimate"] == pytest.approx(sklearn.metrics.brier_score_loss(labels, raw))


def test_baselines_are_what_no_model_would_reach() -> None:
    tree = described(scored())
    assert tree["decisions"]["baselines"]["majority_accuracy"] == pytest.approx(0.6)
    accuracy, gain = (tree["decisions"][name]["estimate"] for name in ("accuracy", "gain_over_majority"))
    assert gain == pytest.approx(accuracy - 0.6)
    everybody = tree["decisions"]["baselines"]["all_positive"]
    assert everybody["f1"] == pytest.approx(sklearn.metrics.f1_score([1, 1, 0, 0, 0], [1] * 5))
    assert tree["ranking"]["pooled"]["baselines"] == {"auroc": 0.5, "auprc": pytest.approx(0.4)}
    assert tree["calibration"]["after"]["brier"]["base_rate"] == pytest.approx(0.24)


def test_folds_stand_by_themselves_and_only_their_own_pairs_count_within_folds() -> None:
    rows = scored()
    tree = described(rows)
    areas, pairs = [], []
    for fold in ("r0f0", "r0f1", "r0f2", "r0f3"):
        own = [row for row in rows if row.fold == fold]
        labels, _, called = columns(own)
        found = tree["ranking"]["by_fold"][fold]
        area = auroc([row.logit for row in own], labels)
        assert found["auroc"]["estimate"] == pytest.approx(area)
        assert found["decisions"]["accuracy"]["estimate"] == pytest.approx((called == labels).mean())
        assert found["threshold"] == own[0].threshold
        areas.append(area)
        pairs.append(labels.sum() * (1 - labels).sum())
    within = tree["ranking"]["within_folds"]["auroc"]["estimate"]
    assert within == pytest.approx(np.average(areas, weights=pairs))
    # what a model adds to all of its logits changes only the pooled figure
    moved = [
        replace(
            row, logit=row.logit + 5 * (row.fold == "r0f1"), probability=0.9 if row.fold == "r0f1" else row.probability
        )
        for row in rows
    ]
    other = described(moved)["ranking"]
    assert other["within_folds"]["auroc"]["estimate"] == pytest.approx(within)
    assert other["pooled"]["auroc"]["estimate"] != pytest.approx(tree["ranking"]["pooled"]["auroc"]["estimate"])


def test_delong_is_given_only_where_slides_were_scored_once() -> None:
    rows = scored()
    labels, probability, _ = columns(rows)
    assert described(rows)["ranking"]["pooled"]["auroc_delong"] == delong_interval(probability, labels).to_json()
    tree = described(scored(repeats=2))
    assert tree["ranking"]["pooled"]["auroc_delong"] is None
    assert len(tree["decisions"]["by_repeat"]) == len(tree["abstention"]["conformal"]["by_repeat"]) == 2
    assert tree["slides"] == {
        "num": 60,
        "num_positives": 24,
        "num_negatives": 36,
        "num_patients": 60,
        "num_models": 8,
        "num_repeats": 2,
    }
    assert any("several repeats" in note for note in tree["warnings"])
    counts = tree["decisions"]["by_repeat"]
    right = [one["true_positives"] + one["true_negatives"] for one in counts]
    assert tree["decisions"]["accuracy"]["estimate"] == pytest.approx(sum(right) / 120)


def test_a_repeat_of_the_same_scores_makes_no_interval_narrower() -> None:
    rows = scored()
    twice = rows + [replace(row, fold="r1" + row.fold[2:]) for row in rows]
    once, both = described(rows), described(twice)
    for section, name in (("decisions", "accuracy"), ("decisions", "f1")):
        assert both[section][name]["low"] == pytest.approx(once[section][name]["low"])
        assert both[section][name]["high"] == pytest.approx(once[section][name]["high"])


def test_bins_of_probabilities_count_a_slide_once_however_many_repeats_there_are() -> None:
    rows = scored()
    twice = rows + [replace(row, fold="r1" + row.fold[2:]) for row in rows]
    for name in ("before", "after"):
        (once,) = described(rows)["calibration"][name]["bins_by_repeat"]
        assert sum(one["positives"]["num"] for one in once) == len(rows)
        assert described(twice)["calibration"][name]["bins_by_repeat"] == [once, once]


def test_abstaining_is_judged_by_the_sets() -> None:
    rows = scored()
    conformal = described(rows)["abstention"]["conformal"]
    sets = np.array([["normal" in row.prediction_set, "tumor" in row.prediction_set] for row in rows])  # type: ignore[operator]
    wanted = ConformalScores.of(sets, [row.label for row in rows])
    for name in ("coverage_negative", "coverage_positive", "abstention", "error_of_decided"):
        assert conformal[name]["estimate"] == pytest.approx(getattr(wanted, name).estimate)
        assert conformal["by_repeat"][0][name] == getattr(wanted, name).to_json()
    labels, _, called = columns(rows)
    assert conformal["never_abstaining"]["error_of_decided"] == pytest.approx((called != labels).mean())


def test_without_a_promise_there_is_nothing_to_say_of_sets() -> None:
    rows = [replace(row, prediction_set=None) for row in scored()]
    tree = described(rows)
    assert tree["abstention"]["conformal"] is None
    assert tree["abstention"]["selective_risk"]["area"] < tree["abstention"]["selective_risk"]["random_order"]
    with pytest.raises(InputError, match="Score all of them alike"):
        describe_scores([*rows[:-1], replace(rows[-1], prediction_set=())], CLASSES)
    with pytest.raises(UnknownNameError, match="class"):
        describe_scores([replace(row, prediction_set=("tumour",)) for row in rows], CLASSES)


def test_sets_of_both_classes_for_everybody_are_warned_of() -> None:
    tree = described([replace(row, prediction_set=CLASSES.names, decision=None) for row in scored()])
    assert sum("prediction set" in note for note in tree["warnings"]) == 1
    assert any("never decides" in note for note in tree["warnings"])
    assert tree["abstention"]["conformal"]["abstention"]["estimate"] == 1
    assert tree["abstention"]["conformal"]["error_of_decided"]["estimate"] is None


@pytest.mark.parametrize(("always", "other"), [("normal", "tumor"), ("tumor", "normal")])
def test_a_class_that_is_never_ruled_out_is_warned_of(always: str, other: str) -> None:
    rows = [
        replace(row, prediction_set=(always,) if number % 3 else CLASSES.names) for number, row in enumerate(scored())
    ]
    (note,) = [note for note in described(rows)["warnings"] if "prediction set" in note]
    assert f"Every prediction set holds {always}, so that no slide is ever decided to be {other}" in note
    assert not any("prediction set" in note for note in described(scored())["warnings"])
    assert not any("prediction set" in note for note in described([rows[0]])["warnings"])


def test_patients_take_the_place_of_slides_where_some_have_several() -> None:
    assert described(scored())["patients"] is None
    rows = scored(slides_a_patient=2)
    tree = described(rows)
    assert tree["patients"]["num"] == 30
    labels, best, right = [], [], []
    for number in range(30):
        own = [row for row in rows if row.patient_id == f"P{number}"]
        labels.append(max(row.label for row in own))
        best.append(max(row.probability for row in own))
        right.append((best[-1] >= own[0].threshold) == labels[-1])
    assert tree["patients"]["ranking"]["pooled"]["auroc"]["estimate"] == pytest.approx(auroc(best, labels))
    assert tree["patients"]["decisions"]["accuracy"]["estimate"] == pytest.approx(np.mean(right))
    assert any("several slides" in note for note in tree["warnings"])


@pytest.mark.parametrize(("threshold", "name"), [(0.0, "tumor"), (1.0, "normal")])
def test_thresholds_that_call_all_slides_alike_are_warned_of(threshold: float, name: str) -> None:
    warnings = described([replace(row, threshold=threshold) for row in scored()])["warnings"]
    assert sum(f"Every slide is called {name} at" in note for note in warnings) == 1
    assert not any("Every slide is called" in note for note in described(scored())["warnings"])


def test_sites_stand_by_themselves_and_unknown_ones_are_called_so() -> None:
    rows = scored()
    tree = described([replace(row, site=None) if row.slide_id == "slide 7" else row for row in rows])
    assert tree["strata"]["scanner"] is None
    sites = tree["strata"]["site"]
    assert list(sites) == ["A", "B", "unknown"]
    labels, probability, _ = columns([row for row in rows if row.site == "A"])
    assert sites["A"]["auroc"]["estimate"] == pytest.approx(auroc(probability, labels))
    assert sites["A"]["baselines"]["majority_accuracy"] == pytest.approx(0.6)
    assert "Only 12 positive" in sites["A"]["warnings"][0]
    assert sites["unknown"]["auroc"] == {"estimate": None, "low": None, "high": None, "num_patients": 1}


def test_a_site_that_gives_the_label_away_is_warned_of() -> None:
    rows = [replace(row, site="AB"[row.label]) for row in scored()]
    assert any("predicts the label" in note for note in described(rows)["warnings"])
    assert not any("predicts the label" in note for note in described(scored())["warnings"])


def test_streams_are_told_of_where_there_are_two() -> None:
    rows = scored()
    shares, labels = np.array([row.local_share for row in rows]), np.array([row.label for row in rows])
    streams = described(rows)["streams"]
    assert streams["mean_local"] == pytest.approx(shares.mean())
    assert streams["mean_local_positives"] == pytest.approx(shares[labels == 1].mean())
    assert described([replace(row, local_share=None) for row in rows])["streams"] is None


def test_few_slides_are_warned_of_and_one_class_alone_has_no_area() -> None:
    rows = [row for row in scored(20) if row.label == 0]
    tree = described(rows)
    assert tree["ranking"]["pooled"]["auroc"]["estimate"] is None
    assert tree["decisions"]["recall"]["estimate"] is None
    assert len(tree["warnings"]) == 2


def test_one_patient_has_estimates_and_no_interval() -> None:
    rows = [replace(row, patient_id="P", fold="test") for row in scored(10)]
    tree = described(rows)
    assert tree["decisions"]["accuracy"]["low"] is None
    assert tree["decisions"]["accuracy"]["estimate"] is not None
    assert tree["ranking"]["within_folds"]["auroc"]["low"] is None


def test_slides_scored_twice_by_one_model_and_no_slides_are_refused() -> None:
    rows = scored(10)
    with pytest.raises(InputError, match="scored twice"):
        describe_scores([*rows, rows[0]], CLASSES)
    with pytest.raises(InputError, match="No scored slide"):
        describe_scores([], CLASSES)


def test_confidence_is_the_part_of_the_way_from_the_threshold() -> None:
    row = scored(1)[0]
    chosen = [(0.2, 0.4), (0.4, 0.4), (0.7, 0.4), (1.0, 1.0), (0.0, 0.0)]
    rows = [
        replace(row, slide_id=str(number), probability=probability, threshold=threshold)
        for number, (probability, threshold) in enumerate(chosen)
    ]
    assert ScoreColumns.of(rows).confidence.tolist() == pytest.approx([0.5, 0, 0.5, 0, 0])
    assert ScoreColumns.of(rows).called.tolist() == [0, 1, 1, 1, 1]


def test_scores_survive_their_table(tmp_path: Path) -> None:
    rows = scored(12)
    rows[0] = replace(rows[0], prediction_set=(), decision=None, site="Köln, West", scanner='"A"; B')
    rows[1] = replace(rows[1], prediction_set=None, local_share=None, site=None, probability=0.1 + 0.2)
    rows[2] = replace(rows[2], slide_id="007", patient_id="0010", fold="1")
    write_scores(tmp_path / "scores.csv", rows)
    assert read_scores(tmp_path / "scores.csv") == tuple(rows)


def test_folds_are_no_numbers_and_those_of_earlier_tables_are_read_as_the_same(tmp_path: Path) -> None:
    rows, path = [replace(row, fold="r0f10") for row in scored(3)], tmp_path / "scores.csv"
    write_scores(path, rows)
    assert ",r0f10," in path.read_text()
    path.write_text(path.read_text().replace(",r0f10,", ",0.10,"))
    assert read_scores(path) == tuple(rows)


def test_a_table_of_something_else_is_refused_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    write_scores(path, scored(3))
    text = path.read_text()
    path.write_text(text.replace("logit", "score", 1))
    with pytest.raises(InputError, match=r"no columns \['logit'\]"):
        read_scores(path)
    lines = text.splitlines()
    lines[1] = lines[1].replace(",1,r0f0,", ",5,r0f0,", 1)
    lines[3] = lines[3].replace(",0,r0f2,", ",x,r0f2,", 1)
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match="0 or 1 was expected") as refused:
        read_scores(path)
    assert "line 4" in str(refused.value)
