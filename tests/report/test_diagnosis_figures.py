from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterstain.errors import InputError
from counterstain.metrics import BootstrapSettings
from counterstain.report.diagnosis import describe_scores
from counterstain.report.diagnosis_figures import draw_diagnosis, told_auroc
from counterstain.report.score_table import ScoreColumns
from counterstain.results import Classes, ScoredSlide

CLASSES = Classes(("normal", "tumor"), ((0, 114, 178), (213, 94, 0)), background="normal")
QUICK = BootstrapSettings(num=30)
BLUE = (43, 108, 163)


def scored(num: int = 40, gap: float = 2.0, seed: int = 0) -> list[ScoredSlide]:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num):
        logit = float(gap * (number % 2 - 0.5) + rng.standard_normal())
        rows.append(
            ScoredSlide(
                slide_id=f"s{number}",
                patient_id=f"P{number}",
                label=number % 2,
                fold=f"0.{number // 2 % 3}",
                logit=logit,
                probability=float(1 / (1 + np.exp(-logit))),
                decision=None,
                prediction_set=("normal", "tumor") if abs(logit) < 0.5 else (CLASSES.names[int(logit > 0)],),
                local_share=float(rng.random()),
            )
        )
    return rows


def names(paths: tuple[Path, ...]) -> set[str]:
    return {path.stem for path in paths}


def share_of(path: Path, color: tuple[int, int, int]) -> float:
    """The share of a picture's pixels that have a colour exactly."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return float((pixels == color).all(-1).mean())


def test_everything_is_drawn_that_slides_allow(tmp_path: Path) -> None:
    drawn = draw_diagnosis(scored(), CLASSES, tmp_path / "figures", QUICK)
    assert names(drawn) == {"roc", "precision_recall", "reliability", "selective_risk", "streams"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {path.name for path in drawn}
    for path in drawn:
        if path.stem != "streams":
            assert share_of(path, BLUE) > 0.001, path.stem


def test_classes_have_their_own_colours_in_histograms(tmp_path: Path) -> None:
    draw_diagnosis(scored(), CLASSES, tmp_path, QUICK)
    for name in ("streams", "reliability"):
        assert all(share_of(tmp_path / f"{name}.png", color) > 0.005 for color in CLASSES.colors)


def test_a_better_ranking_fills_more_under_its_curve(tmp_path: Path) -> None:
    """The curve of a perfect ranking runs along the upper edge, that of the worst along the lower one."""
    heights = []
    for name, gap in (("good", 100.0), ("bad", -100.0)):
        draw_diagnosis(scored(gap=gap), CLASSES, tmp_path / name, QUICK)
        with Image.open(tmp_path / name / "roc.png") as image:
            rows, _ = np.nonzero((np.asarray(image.convert("RGB")) == BLUE).all(-1))
        heights.append(np.median(rows))
    assert heights[0] < heights[1]


def test_the_auroc_at_the_curve_is_the_one_that_reports_quote() -> None:
    rows = [replace(row, probability=row.probability / (1 + (row.fold == "0.1"))) for row in scored()]
    ranking = describe_scores(rows, CLASSES, QUICK)["ranking"]
    quoted, pooled = (ranking[name]["auroc"]["estimate"] for name in ("within_folds", "pooled"))
    assert f"{quoted:.3f}" != f"{pooled:.3f}"
    told = told_auroc(ScoreColumns.of(rows), QUICK)
    assert told.startswith(f"AUROC within folds {quoted:.3f} (95 %: ")
    alone = [replace(row, fold="test", patient_id="P") for row in rows]
    assert told_auroc(ScoreColumns.of(alone), QUICK).startswith("AUROC 0.")


def test_a_negative_slide_above_all_draws_no_line_down_the_edge(tmp_path: Path) -> None:
    chosen = [(0, 0.9), *((1, 0.5 + number / 100) for number in range(20))]
    rows = [
        replace(scored(2)[label], slide_id=str(number), patient_id=str(number), probability=p, fold="test")
        for number, (label, p) in enumerate(chosen)
    ]
    draw_diagnosis(rows, CLASSES, tmp_path, QUICK)
    with Image.open(tmp_path / "precision_recall.png") as image:
        blue = (np.asarray(image.convert("RGB")) == BLUE).all(-1)
    assert blue.any()
    assert blue.sum(0).max() < 0.4 * len(blue), "precision rises from 1/2, and fell from 1 to 0 before"


def test_one_class_has_no_curves_and_one_stream_no_histogram(tmp_path: Path) -> None:
    rows = [replace(row, local_share=None, prediction_set=None) for row in scored() if row.label == 0]
    assert names(draw_diagnosis(rows, CLASSES, tmp_path, QUICK)) == {"reliability", "selective_risk"}


def test_slides_of_one_patient_are_drawn_without_bands(tmp_path: Path) -> None:
    rows = [replace(row, patient_id="P", fold="test") for row in scored(12)]
    assert "roc" in names(draw_diagnosis(rows, CLASSES, tmp_path, QUICK))


def test_several_repeats_and_slides_without_a_mistake_are_drawn(tmp_path: Path) -> None:
    rows = scored(gap=100.0)
    twice = rows + [replace(row, fold="1" + row.fold[1:]) for row in rows]
    assert len(draw_diagnosis(twice, CLASSES, tmp_path, QUICK)) == 5


def test_bins_have_bars_only_where_every_slide_counts_once(tmp_path: Path) -> None:
    rows = scored()
    twice = rows + [replace(row, fold="1" + row.fold[1:]) for row in rows]
    blue = []
    for name, own in (("once", rows), ("twice", twice)):
        draw_diagnosis(own, CLASSES, tmp_path / name, QUICK)
        blue.append(share_of(tmp_path / name / "reliability.png", BLUE))
    assert blue[1] < 0.7 * blue[0]


def test_nothing_is_drawn_of_no_slides(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No scored slide"):
        draw_diagnosis([], CLASSES, tmp_path / "figures")
    assert not (tmp_path / "figures").exists()
