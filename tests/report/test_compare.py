"""A study of two quick variants on two textures, trained for real."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from counterstain.data import PatchDataset
from counterstain.errors import DivergedError, InputError
from counterstain.files import read_json
from counterstain.methods.sshr import PRESETS
from counterstain.metrics import mean_iou
from counterstain.report.compare import CompareSettings, Scored, compare, table
from counterstain.report.study import Study, Variant
from counterstain.training import TrainSettings

TRAINING = TrainSettings(epochs=2, batch_size=8)
PLAIN = Variant("plain", "sshr", replace(PRESETS["small"], semantic=False, context=False), TRAINING)
BOTH = Variant("both", "sshr", PRESETS["small"], TRAINING)
STUDY = Study("quick", "Two textures", "plain", (PLAIN, BOTH))


@pytest.fixture(scope="module")
def compared(textures: PatchDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("study")
    tree, _ = compare(STUDY, textures, out, CompareSettings(seeds=(0, 1)))
    return tree, out


def test_each_variant_has_its_mean_spread_interval_and_difference(compared: tuple[dict[str, Any], Path]) -> None:
    tree, _ = compared
    plain, both = tree["rows"]
    for row in (plain, both):
        assert row["seeds"] == [0, 1]
        assert row["mean_iou"]["estimate"] == pytest.approx(np.mean(row["mean_iou_by_seed"]))
        assert row["std_over_seeds"] == pytest.approx(np.std(row["mean_iou_by_seed"], ddof=1))
        assert row["mean_iou"]["low"] <= row["mean_iou"]["estimate"] <= row["mean_iou"]["high"]
        assert row["minutes"]["total"] > 0
    assert plain["gain_over_reference"] is None
    gain = both["mean_iou"]["estimate"] - plain["mean_iou"]["estimate"]
    assert both["gain_over_reference"]["estimate"] == pytest.approx(gain)


def test_scores_are_those_of_the_runs_and_of_their_seeds(compared: tuple[dict[str, Any], Path]) -> None:
    tree, out = compared
    for row, folder in zip(tree["rows"], ("plain", "both"), strict=True):
        for seed, score in zip(row["seeds"], row["mean_iou_by_seed"], strict=True):
            run = out / folder / f"seed_{seed}"
            assert read_json(run / "metrics_val.json")["scores"]["mean_iou"] == pytest.approx(score)
            with np.load(run / "scores_val.npz") as arrays:
                assert float(mean_iou(arrays["confusions"].sum(0))) == pytest.approx(score)


def test_table_and_plot_are_written(compared: tuple[dict[str, Any], Path]) -> None:
    tree, out = compared
    with (out / "quick_val.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"]) for row in rows] == [
        ("plain", "0"),
        ("plain", "1"),
        ("both", "0"),
        ("both", "1"),
    ]
    assert [float(row["mean_iou"]) for row in rows] == [
        score for row in tree["rows"] for score in row["mean_iou_by_seed"]
    ]
    assert (out / "quick_val.md").read_text(encoding="utf-8").count("\n") == 4
    pixels = np.asarray(Image.open(out / "quick_val.png"))
    assert len(np.unique(pixels[..., :3].reshape(-1, 3), axis=0)) > 3


def test_a_second_execution_trains_and_scores_nothing_again(
    textures: PatchDataset, compared: tuple[dict[str, Any], Path]
) -> None:
    tree, out = compared
    files = sorted(out.glob("*/*/model.safetensors")) + sorted(out.glob("*/*/scores_val.npz"))
    before = [path.stat().st_mtime_ns for path in files]
    again, _ = compare(STUDY, textures, out, CompareSettings(seeds=(0, 1)))
    assert [path.stat().st_mtime_ns for path in files] == before
    assert again == tree


def test_scores_of_another_way_of_mapping_are_not_reused(
    textures: PatchDataset, compared: tuple[dict[str, Any], Path]
) -> None:
    tree, out = compared
    flipped = replace(STUDY, name="flipped", predict=replace(STUDY.predict, tta="hv3"))
    other, _ = compare(flipped, textures, out, CompareSettings(seeds=(0,)))
    assert other["predict"]["tta"] == "hv3"
    assert other["rows"][0]["mean_iou_by_seed"] != tree["rows"][0]["mean_iou_by_seed"][:1]


def test_a_run_that_diverges_ends_nothing_and_is_told(textures: PatchDataset, tmp_path: Path) -> None:
    wild = Variant("wild", "sshr", replace(PRESETS["small"], learning_rate=1e12, gradient_clip=0.0), TRAINING)
    study = Study("wild", "One diverges", "plain", (PLAIN, wild))
    tree, rows = compare(study, textures, tmp_path, CompareSettings(seeds=(0,)))
    assert [row.name for row in rows] == ["plain"]
    assert tree["diverged"] == {"plain": [], "wild": [0]}
    with pytest.raises(DivergedError):
        compare(replace(study, reference="wild"), textures, tmp_path, CompareSettings(seeds=(0,)))


def test_seeds_are_one_or_more_each_once() -> None:
    for seeds in ((), (1, 1)):
        with pytest.raises(InputError, match="each once"):
            CompareSettings(seeds=seeds)


def test_differences_are_taken_over_the_seeds_that_both_have() -> None:
    def scored(hits: int) -> Scored:
        counts = np.array([[[hits, 10 - hits, 0], [0, 10, 0], [0, 0, 0]]] * 3)
        return Scored(counts, ("a", "b", "c"), {"total": 1.0})

    found = {"plain": {0: scored(2), 1: scored(4)}, "both": {1: scored(8)}}
    _, both = table(STUDY, found, {"plain": [], "both": [0]}, CompareSettings(seeds=(0, 1)))
    expected = mean_iou(found["both"][1].confusions_NKK.sum(0)) - mean_iou(found["plain"][1].confusions_NKK.sum(0))
    assert both.gain is not None
    assert both.gain.estimate == pytest.approx(float(expected))
    assert both.diverged == (0,)
