from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image
from sklearn.metrics import jaccard_score

from counterstain.data import PatchDataset, PatchRecord
from counterstain.errors import InputError
from counterstain.geometry import Frame, Point, Size
from counterstain.infer import PredictSettings, predict_slide
from counterstain.report import evaluate, score_slide
from counterstain.results import UNCOVERED, Classes, Region
from counterstain.synth.truth import write_geojson
from counterstain.testing.planted import PLANTED_CLASSES, PlantedInput, PlantedModel, PlantedSettings, plant
from counterstain.tissue import Tissue

CLASSES = Classes(PLANTED_CLASSES.names, PLANTED_CLASSES.colors)


def planted_set(folder: Path, num: int = 4) -> PatchDataset:
    """Images whose colours are the truth, but for a strip where the mask says otherwise, and one that is not scored."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(num):
        label = rng.integers(0, 3, (5, 5)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
        truth = label.copy()
        truth[:16] = 1
        truth[-8:] = 3
        Image.fromarray(np.array(CLASSES.colors, np.uint8)[label]).save(folder / f"{number}.png")
        Image.fromarray(truth).save(folder / f"{number}_mask.png")
        patient = f"p{number // 2}"
        records.append(PatchRecord(folder / f"{number}.png", None, patient, folder / f"{number}_mask.png"))
    train = (PatchRecord(records[0].image, (0, 1, 0), "p9"),)
    return PatchDataset("planted", CLASSES, 3, 1.0, white_is_background=False, train=train, val=tuple(records))


MODEL = PlantedModel(PlantedInput(tile_px=32, halo_px=0), CLASSES)


def test_scores_are_those_of_scikit_learn_over_all_scored_pixels(tmp_path: Path) -> None:
    data = planted_set(tmp_path)
    found = evaluate(MODEL, data, "val")
    labels, truths = [], []
    for record in data.val:
        truth = np.asarray(Image.open(record.mask))
        pixels = np.asarray(Image.open(record.image)).astype(int)
        label = np.abs(pixels[:, :, None] - np.array(CLASSES.colors)).sum(3).argmin(2)
        labels.append(label[truth < 3])
        truths.append(truth[truth < 3])
    expected = jaccard_score(np.concatenate(truths), np.concatenate(labels), average=None)
    assert found.scores.iou == pytest.approx(tuple(expected))
    assert found.scores.mean_iou < 1
    tree = found.to_json()
    assert tree["num_patients"] == 2
    assert tree["intervals"]["gain"]["low"] > 0
    assert tree["baseline"]["class"] == "tumour"
    assert tree["baseline"]["chosen_on"] == "training labels"


def test_one_patient_gives_no_interval(tmp_path: Path) -> None:
    data = planted_set(tmp_path)
    found = evaluate(MODEL, replace(data, val=data.val[:2]), "val")
    assert found.mean_iou is None
    assert found.to_json()["intervals"]["mean_iou"] is None


def test_where_training_labels_tie_or_are_missing_the_baseline_is_the_harder_one(tmp_path: Path) -> None:
    data = planted_set(tmp_path)
    tied = replace(data, train=(replace(data.train[0], label=(1, 1, 1)),))
    assert "of tied classes" in evaluate(MODEL, tied, "val").baseline.chosen_on
    assert "no training labels" in evaluate(MODEL, replace(data, train=()), "val").baseline.chosen_on


def test_a_model_of_other_classes_is_not_scored(tmp_path: Path) -> None:
    data = replace(planted_set(tmp_path), classes=Classes(("a", "b", "c"), CLASSES.colors))
    with pytest.raises(InputError, match="of its own classes"):
        evaluate(MODEL, data, "val")


def test_a_slide_is_scored_against_its_polygons_and_uncovered_truth_is_missed(tmp_path: Path) -> None:
    tumour, stroma = shapely.box(40, 40, 160, 160), shapely.box(160, 40, 280, 160)
    drawn = [("tumour", tumour), ("stroma", stroma)]
    slide = plant(tmp_path / "s.planted", PlantedSettings(Size(400, 300), 1.0), drawn)
    truth = tmp_path / "truth.geojson"
    write_geojson(truth, [Region(shape, name, 1.0) for name, shape in drawn], PLANTED_CLASSES)
    mask = np.zeros((30, 40), bool)
    mask[:, :16] = True  # tissue is looked for in the left part only: the stroma stays uncovered
    tissue = Tissue(mask, Frame(Point(0, 0), 10, 10, Size(40, 30)))
    settings = PredictSettings(map_stride=1, num_workers=0)
    result = predict_slide(slide, PlantedModel(), tmp_path / "out", settings, "planted", tissue)
    found = score_slide(result, truth)
    by_name = dict(zip(found.class_names, found.scores.iou, strict=True))
    assert by_name["tumour"] > 0.97
    assert by_name["stroma"] == 0.0
    assert found.best_single.mean_iou == pytest.approx(0.25, abs=0.01)
    assert found.to_json()["best_single_class"] in ("tumour", "stroma")
    assert (result.label[:] == UNCOVERED).any()


def test_truth_without_a_class_of_the_map_is_refused(tmp_path: Path) -> None:
    drawn = [("tumour", shapely.box(40, 40, 160, 160))]
    slide = plant(tmp_path / "s.planted", PlantedSettings(Size(200, 200), 1.0), drawn)
    result = predict_slide(slide, PlantedModel(), tmp_path / "out", PredictSettings(num_workers=0), "planted")
    other = Classes(("elsewhere",), ((1, 2, 3),))
    write_geojson(tmp_path / "t.geojson", [Region(shapely.box(0, 0, 9, 9), "elsewhere", 1.0)], other)
    with pytest.raises(InputError, match="no polygon of the classes"):
        score_slide(result, tmp_path / "t.geojson")
