"""A study of two quick variants on two textures, trained for real."""

import csv
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from PIL import Image

from counterstain.data import PatchDataset, PatchRecord
from counterstain.errors import DivergedError, ExistingOutputError, InputError, WeightsError
from counterstain.files import read_json
from counterstain.methods.fusion_kd.config import PRESETS as FUSION_PRESETS
from counterstain.methods.sshr import PRESETS
from counterstain.metrics import BootstrapSettings, TumourScores, mean_iou, one_class
from counterstain.report import kept
from counterstain.report.compare import CompareSettings, Comparison, compare
from counterstain.report.comparison import Rules, row_of
from counterstain.report.kept import Scored
from counterstain.report.metric import metrics_of
from counterstain.report.study import Study, Variant
from counterstain.training import TrainSettings

TRAINING = TrainSettings(epochs=2, batch_size=8)
PLAIN = Variant("plain", "sshr", replace(PRESETS["small"], semantic=False, context=False), TRAINING)
BOTH = Variant("both", "sshr", PRESETS["small"], TRAINING)
STUDY = Study("quick", "Two textures", "plain", (PLAIN, BOTH))
RULES = Rules("exclude_background", BootstrapSettings(num=50), metrics_of("mean_iou", "exclude_background", None))
Done = tuple[Comparison, Path]


@pytest.fixture(scope="module")
def compared(textures: PatchDataset, tmp_path_factory: pytest.TempPathFactory) -> Done:
    out = tmp_path_factory.mktemp("study")
    return compare(STUDY, textures, out, CompareSettings(seeds=(0, 1))), out


def test_each_variant_has_its_mean_spread_interval_and_difference(compared: Done) -> None:
    plain, both = compared[0].tree["rows"]
    for row in (plain, both):
        assert row["seeds"] == [0, 1]
        assert row["mean_iou"]["estimate"] == pytest.approx(np.mean(row["mean_iou_by_seed"]))
        assert row["std_over_seeds"] == pytest.approx(np.std(row["mean_iou_by_seed"], ddof=1))
        assert row["mean_iou"]["low"] <= row["mean_iou"]["estimate"] <= row["mean_iou"]["high"]
        assert row["minutes"]["total"] > 0
    assert plain["gain_over_reference"] is None
    gains = np.subtract(both["mean_iou_by_seed"], plain["mean_iou_by_seed"])
    assert both["gain_by_seed"] == pytest.approx(list(gains))
    assert both["gain_over_reference"]["estimate"] == pytest.approx(gains.mean())


def test_scores_are_those_of_the_runs_and_of_their_seeds(compared: Done) -> None:
    found, out = compared
    for row, folder in zip(found.tree["rows"], ("plain", "both"), strict=True):
        for seed, score in zip(row["seeds"], row["mean_iou_by_seed"], strict=True):
            (path,) = (out / folder / f"seed_{seed}" / "compare").glob("val_*.npz")
            with np.load(path) as arrays:
                assert float(mean_iou(arrays["confusions"].sum(0))) == pytest.approx(score)


def test_the_report_says_how_it_was_made(compared: Done) -> None:
    tree = compared[0].tree
    run = tree["variants"]["both"]["runs"]["1"]
    assert run["protocol"]["gate"] == "predicted"
    assert run["model_digest"] != tree["variants"]["both"]["runs"]["0"]["model_digest"]
    assert "seed" not in tree["variants"]["both"]["training"]
    assert tree["baseline"]["class"] in ("dots", "stripes")
    assert tree["notes"] == []


def test_table_and_plot_are_written(compared: Done) -> None:
    found, out = compared
    with (out / "quick_val.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"]) for row in rows] == [
        ("plain", "0"),
        ("plain", "1"),
        ("both", "0"),
        ("both", "1"),
    ]
    scores = [score for row in found.tree["rows"] for score in row["mean_iou_by_seed"]]
    assert [float(row["mean_iou"]) for row in rows] == pytest.approx(scores)
    lines = (out / "quick_val.md").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["Two textures", "val split, 6 images of 6 patients, exclude_background, gate predicted."]
    assert [line.split(" | ")[0] for line in lines[5:]] == ["| plain", "| both", f"| {found.lines[-1][0]}"]
    pixels = np.asarray(Image.open(out / "quick_val.png").convert("RGB")).reshape(-1, 3)
    blue, grey = (pixels == (43, 108, 163)).all(1), (pixels == (122, 122, 122)).all(1)
    assert blue.sum() > 100  # the variant's dots, left and right
    assert grey.sum() > 50  # the reference's


def test_a_second_execution_trains_and_scores_nothing_again(textures: PatchDataset, compared: Done) -> None:
    found, out = compared
    files = [*sorted(out.glob("*/*/model.safetensors")), *sorted(out.glob("*/*/compare/*.npz"))]
    assert len(files) == 8
    before = [path.stat().st_mtime_ns for path in files]
    again = compare(STUDY, textures, out, CompareSettings(seeds=(0, 1), bootstrap=BootstrapSettings(num=50)))
    assert [path.stat().st_mtime_ns for path in files] == before
    assert [row.by_seed for row in again.rows] == [row.by_seed for row in found.rows]


def test_scores_of_another_way_of_mapping_stand_beside(textures: PatchDataset, compared: Done, tmp_path: Path) -> None:
    found, out = compared
    copytree(out, tmp_path / "out")
    flipped = replace(STUDY, name="flipped", predict=replace(STUDY.predict, tta="hv3"))
    other = compare(flipped, textures, tmp_path / "out", CompareSettings(seeds=(0,)))
    assert other.tree["predict"]["tta"] == "hv3"
    assert other.rows[0].by_seed[0] != found.rows[0].by_seed[0]
    assert len(list((tmp_path / "out" / "plain" / "seed_0" / "compare").glob("*.npz"))) == 2


def test_the_test_split_is_opened_once_and_a_killed_scoring_goes_on(
    textures: PatchDataset, compared: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree(compared[1], tmp_path / "out")
    data = replace(textures, test=tuple(replace(record, patient=f"t{record.patient}") for record in textures.val))
    # another test split is other data: trained runs are stale, so these are trained for it
    out, settings = tmp_path / "fresh", CompareSettings(seeds=(0,), split="test")

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kept, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            compare(STUDY, data, out, settings)
    assert len(read_json(out / "plain" / "seed_0" / "test_opened.json")) == 1
    found = compare(STUDY, data, out, settings)
    assert len(found.tree["variants"]["plain"]["runs"]["0"]["test_openings"]) == 1
    compare(STUDY, data, out, settings)  # kept scores are no further look
    assert len(read_json(out / "plain" / "seed_0" / "test_opened.json")) == 1
    flipped = replace(STUDY, predict=replace(STUDY.predict, tta="hv3"))
    with pytest.raises(ExistingOutputError, match="opened"):
        compare(flipped, data, out, settings)
    again = compare(flipped, data, out, replace(settings, again=True))
    assert len(again.tree["variants"]["plain"]["runs"]["0"]["test_openings"]) == 2


def test_what_would_fail_later_is_refused_before_any_training(textures: PatchDataset, tmp_path: Path) -> None:
    one_patient = replace(textures, val=tuple(replace(record, patient="p") for record in textures.val))
    unmasked = replace(textures, val=tuple(replace(record, mask=None) for record in textures.val))
    misfit = tmp_path / "weights.npz"
    np.savez(misfit, stem=np.zeros(3))
    wrong = Variant("wrong", "sshr", replace(PRESETS["small"], weights=misfit), TRAINING)
    for study, data, error, told in (
        (STUDY, one_patient, InputError, "one patient"),
        (STUDY, unmasked, InputError, "no mask"),
        (replace(STUDY, variants=(PLAIN, wrong)), textures, WeightsError, "stem"),
    ):
        with pytest.raises(error, match=told):
            compare(study, data, tmp_path / "out", CompareSettings(seeds=(0,)))
    assert not (tmp_path / "out").exists()


def test_a_run_that_diverges_ends_nothing_is_told_and_not_tried_again(
    textures: PatchDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = Variant("wild", "sshr", replace(PRESETS["small"], learning_rate=1e12, gradient_clip=0.0), TRAINING)
    study = Study("wild", "One diverges", "plain", (PLAIN, wild))
    found = compare(study, textures, tmp_path, CompareSettings(seeds=(0,)))
    assert [(row.name, row.diverged) for row in found.rows] == [("plain", ()), ("wild", (0,))]
    assert found.lines[2] == ["wild", "0 (1 diverged)", "-", "-", "-", "-", "-"]
    capsys.readouterr()
    without = compare(replace(study, reference="wild"), textures, tmp_path, CompareSettings(seeds=(0,)))
    assert "It diverged before" in capsys.readouterr().err
    assert without.rows[0].gain is None
    with pytest.raises(DivergedError, match="Every run"):
        compare(Study("wild", "", "wild", (wild,)), textures, tmp_path, CompareSettings(seeds=(0,)))


def test_seeds_are_one_or_more_each_once_and_training_patches_are_no_test() -> None:
    for seeds in ((), (1, 1)):
        with pytest.raises(InputError, match="each once"):
            CompareSettings(seeds=seeds)
    with pytest.raises(InputError, match="val or test"):
        CompareSettings(split="train")  # type: ignore[arg-type]


def scored(hits: int, absent: bool = False) -> Scored:
    second = 0 if absent else 10
    counts = np.array([[[hits, 10 - hits if not absent else 0, 0], [0, second, 0], [0, 0, 0]]] * 3)
    return Scored(counts, ("a", "b", "c"), {"total": 1.0}, "digest", {"notes": []})


def test_differences_are_taken_over_the_seeds_that_both_have() -> None:
    plain, both = {0: scored(2), 1: scored(4)}, {1: scored(8)}
    row = row_of("both", both, [0], plain, RULES)
    expected = float(mean_iou(both[1].confusions_NKK.sum(0)) - mean_iou(plain[1].confusions_NKK.sum(0)))
    assert row.gain is not None
    assert row.gain.estimate == pytest.approx(expected)
    assert (row.gain_by_seed, row.diverged) == ((pytest.approx(expected),), (0,))


def test_a_class_that_occurs_nowhere_in_a_seed_is_left_out_of_its_mean() -> None:
    row = row_of("one", {0: scored(5, absent=True), 1: scored(5)}, [], None, RULES)
    assert row.class_iou[1] == pytest.approx(10 / 15)
    nowhere = row_of("one", {0: scored(5, absent=True)}, [], None, RULES)
    assert np.isnan(nowhere.class_iou[1])


TEACHER = replace(FUSION_PRESETS["small"], max_rounds=0, tta="none", neg_pos_ratio=None)
STUDENT = replace(TEACHER, max_rounds=1, selector="schedule", area_band=None)
FUSION = Study(
    "fusion",
    "Stripes as tumour",
    "teacher",
    (
        Variant("teacher", "fusion_kd", TEACHER, TRAINING),
        Variant("student", "fusion_kd", STUDENT, TRAINING, starts_from="teacher"),
    ),
)


@pytest.fixture(scope="module")
def tumours(textures: PatchDataset) -> PatchDataset:
    """Stripes as tumour: a positive's label says tumour alone."""

    def alone(record: PatchRecord) -> PatchRecord:
        assert record.label is not None
        return replace(record, label=(1 - record.label[1], record.label[1]))

    classes = replace(textures.classes, background="dots")
    train, val = (tuple(alone(record) for record in records) for records in (textures.train, textures.val))
    return replace(textures, classes=classes, train=train, val=val)


@pytest.fixture(scope="module")
def tumours_compared(tumours: PatchDataset, tmp_path_factory: pytest.TempPathFactory) -> Done:
    out = tmp_path_factory.mktemp("fusion")
    return compare(replace(FUSION, metric="tumour_f1"), tumours, out, CompareSettings(seeds=(0,))), out


def test_a_study_of_tumour_masks_speaks_of_the_f1_of_positives(tumours: PatchDataset, tumours_compared: Done) -> None:
    found, out = tumours_compared
    (kept_scores,) = (out / "student" / "seed_0" / "compare").glob("val_*.npz")
    with np.load(kept_scores) as arrays:
        expected = TumourScores.of(arrays["confusions"], 1)
        everywhere = TumourScores.of(one_class(arrays["confusions"], 1), 1)
    teacher, student = found.tree["rows"]
    assert found.tree["metric"] == "tumour_f1"
    assert student["tumour_f1"]["estimate"] == pytest.approx(expected.f1_positives)
    assert student["tumour_f1_by_seed"] == [pytest.approx(expected.f1_positives)]
    assert student["f1_mix"] == pytest.approx(expected.f1_mix)
    assert student["iou_positives"] == pytest.approx(expected.iou_positives)
    gain = student["tumour_f1"]["estimate"] - teacher["tumour_f1"]["estimate"]
    assert student["gain_over_reference"]["estimate"] == pytest.approx(gain)
    heads, *_, last = found.lines
    assert heads[2] == "F1 positives % (95 %)"
    assert heads[5:8] == ["F1 negatives %", "F1 mix %", "IoU positives %"]
    assert last[0] == "'stripes' everywhere"
    assert last[2] == f"{100 * everywhere.f1_positives:.1f}"
    assert {len(line) for line in found.lines} == {len(heads)}
    assert found.tree["baseline"]["tumour_f1"] == pytest.approx(everywhere.f1_positives)
    with (out / "fusion_val.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["tumour_f1"]) == pytest.approx(expected.f1_positives)
    assert (out / "fusion_val.png").stat().st_size > 5000


def test_another_metric_of_the_same_runs_scores_nothing_again(tumours: PatchDataset, tumours_compared: Done) -> None:
    out = tumours_compared[1]
    files = [*out.glob("*/*/model.safetensors"), *out.glob("*/*/compare/*.npz")]
    before = [path.stat().st_mtime_ns for path in files]
    assert len(before) == 4
    found = compare(replace(FUSION, name="overlap"), tumours, out, CompareSettings(seeds=(0,)))
    assert [path.stat().st_mtime_ns for path in files] == before
    assert found.tree["rows"][1]["mean_iou"]["estimate"] > 0
    assert found.lines[0][2] == "mean IoU % (95 %)"


def test_a_variant_starts_from_the_run_of_the_same_seed(tumours_compared: Done) -> None:
    found, out = tumours_compared
    config = read_json(out / "student" / "seed_0" / "model.json")["config"]
    assert Path(config["teacher_run"]) == out / "teacher" / "seed_0"
    assert read_json(out / "teacher" / "seed_0" / "model.json")["config"].get("teacher_run") is None
    about = found.tree["variants"]["student"]
    assert about["starts_from"] == "teacher"
    assert "teacher_run" not in about["settings"]  # a table is shown elsewhere than where it was made
    assert "teacher" not in (found.rows[1].minutes or {})  # it was not trained again


def test_what_starts_from_a_run_that_diverged_is_not_tried(tumours: PatchDataset, tmp_path: Path) -> None:
    wild = Variant("wild", "sshr", replace(PRESETS["small"], learning_rate=1e12, gradient_clip=0.0), TRAINING)
    plain, student = FUSION.variants
    study = replace(FUSION, variants=(plain, wild, replace(student, starts_from="wild")))
    found = compare(study, tumours, tmp_path, CompareSettings(seeds=(0,)))
    assert [row.diverged for row in found.rows] == [(), (0,), (0,)]
    assert not (tmp_path / "student").exists()


def test_f1_of_tumour_is_refused_before_training_where_there_is_no_tumour(
    textures: PatchDataset, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no tumour set"):
        compare(replace(STUDY, metric="tumour_f1"), textures, tmp_path / "out", CompareSettings(seeds=(0,)))
    assert not (tmp_path / "out").exists()


def test_minutes_of_a_stage_that_a_seed_had_none_of_count_as_none() -> None:
    runs = {
        0: replace(scored(5), minutes={"total": 3.0, "round 2": 2.0}),
        1: replace(scored(5), minutes={"total": 1.0}),
    }
    assert row_of("one", runs, [], None, RULES).minutes == {"total": 2.0, "round 2": 1.0}
