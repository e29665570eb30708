"""Images whose colours are what a planted model answers, and masks that disagree with them in known ways."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score

from counterstain.data import PatchDataset, PatchRecord
from counterstain.errors import InputError, UnknownNameError
from counterstain.metrics import BootstrapSettings, hausdorff
from counterstain.report import Evaluation, compare_evaluations, evaluate
from counterstain.report.metric import metrics_of
from counterstain.report.tumour import positive_index
from counterstain.results import Classes
from counterstain.testing.planted import PlantedInput, PlantedModel

CLASSES = Classes(("normal", "tumour"), ((240, 50, 130), (60, 60, 170)), background="normal")
TURNED = Classes(("tumour", "normal"), ((60, 60, 170), (240, 50, 130)), background="normal")
IGNORE = 2
SIDE = 32


def square(row: int, column: int, side: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[row : row + side, column : column + side] = 1
    return mask


SHOWN_AND_TRUE = [
    (square(8, 8, 10), square(8, 8, 10)),
    (square(8, 10, 10), square(8, 8, 10)),
    (square(0, 0, 0), square(20, 20, 4)),  # nothing was found
    (square(0, 0, 0), square(0, 0, 0)),
    (square(4, 4, 6), square(0, 0, 0)),
    (square(0, 0, SIDE), square(0, 0, 30)),
]


def tumour_set(folder: Path, shown_and_true: list[tuple[np.ndarray, np.ndarray]], classes: Classes) -> PatchDataset:
    folder.mkdir(exist_ok=True)
    is_turned = classes.names[0] == "tumour"
    records = []
    for number, (shown, true) in enumerate(shown_and_true):
        truth = np.where(true < IGNORE, true ^ 1, true) if is_turned else true
        label = shown ^ 1 if is_turned else shown
        Image.fromarray(np.array(classes.colors, np.uint8)[label]).save(folder / f"{number}.png")
        Image.fromarray(truth.astype(np.uint8)).save(folder / f"{number}_mask.png")
        record = PatchRecord(folder / f"{number}.png", None, f"p{number // 2}", folder / f"{number}_mask.png")
        records.append(record)
    return PatchDataset("planted", classes, IGNORE, 0.5, white_is_background=False, val=tuple(records))


def scored(data: PatchDataset) -> Evaluation:
    return evaluate(PlantedModel(PlantedInput(tile_px=SIDE, halo_px=0, mpp=0.5), data.classes), data, "val")


@pytest.mark.parametrize("classes", [CLASSES, TURNED], ids=["tumour second", "tumour first"])
def test_tumour_is_scored_image_by_image_beside_tumour_everywhere(tmp_path: Path, classes: Classes) -> None:
    found = scored(tumour_set(tmp_path, SHOWN_AND_TRUE, classes)).tumour
    assert found is not None
    f1 = [
        f1_score(true.ravel(), shown.ravel(), pos_label=int(true.any()), zero_division=0)
        for shown, true in SHOWN_AND_TRUE
    ]
    positives = [value for value, (_, true) in zip(f1, SHOWN_AND_TRUE, strict=True) if true.any()]
    everywhere = [2 * true.mean() / (1 + true.mean()) for _, true in SHOWN_AND_TRUE if true.any()]
    assert found.scores.f1_positives == pytest.approx(np.mean(positives))
    assert found.scores.f1_mix == pytest.approx(np.mean(f1))
    assert found.baseline.f1_positives == pytest.approx(np.mean(everywhere))
    assert found.gain is not None
    assert found.gain.estimate == pytest.approx(np.mean(positives) - np.mean(everywhere))
    assert found.intervals["f1_mix"].estimate == pytest.approx(np.mean(f1))
    assert found.intervals["f1_mix"].num_patients == 3
    distances = [hausdorff(shown == 1, true == 1).largest_px for shown, true in SHOWN_AND_TRUE if true.any()]
    assert found.distances.mean_px == pytest.approx(np.mean(distances))
    assert (found.distances.num_images, found.distances.num_empty) == (4, 1)


def test_ignored_pixels_are_no_tumour_of_either_mask(tmp_path: Path) -> None:
    shown, true = square(8, 8, 10), square(8, 8, 10)
    true[20:] = IGNORE
    shown[28:] = 1  # on ignored pixels
    found = scored(tumour_set(tmp_path, [(shown, true), SHOWN_AND_TRUE[3]], CLASSES)).tumour
    assert found is not None
    assert (found.scores.f1_mix, found.distances.mean_px) == (1, 0)


def test_the_json_holds_scores_intervals_baseline_strata_and_distances(tmp_path: Path) -> None:
    data = tumour_set(tmp_path, SHOWN_AND_TRUE, CLASSES)
    tree = json.loads(json.dumps(scored(data).to_json(), allow_nan=False))["tumour"]
    assert tree["class"] == "tumour"
    assert tree["hausdorff"]["hd_um"] == pytest.approx(tree["hausdorff"]["hd_px"] / 2)
    assert [one["num_images"] for one in tree["scores"]["strata"]] == [1, 2, 0, 0, 1]
    assert tree["everywhere"]["recall"] == 1
    assert tree["intervals"]["f1_positives"]["low"] <= tree["scores"]["f1_positives"]
    one_patient = replace(data, val=data.val[:2])
    tree = scored(one_patient).to_json()["tumour"]
    assert (tree["intervals"], tree["gain_f1_positives"]) == ({}, None)


def test_only_two_classes_with_a_background_make_a_tumour_set(tmp_path: Path) -> None:
    assert (positive_index(CLASSES), positive_index(TURNED)) == (1, 0)
    plain = replace(CLASSES, background=None)
    three = Classes(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), background="a")
    assert positive_index(plain) is None
    assert positive_index(three) is None
    found = scored(tumour_set(tmp_path, SHOWN_AND_TRUE, plain))
    assert found.tumour is None
    assert found.to_json()["tumour"] is None
    with pytest.raises(InputError, match="no tumour set"):
        compare_evaluations(found, found, metric="tumour_f1")


def test_two_models_are_compared_by_f1_paired_by_patient(tmp_path: Path) -> None:
    perfect = scored(tumour_set(tmp_path / "a", [(true, true) for _, true in SHOWN_AND_TRUE], CLASSES))
    other = scored(tumour_set(tmp_path / "b", SHOWN_AND_TRUE, CLASSES))
    assert perfect.tumour is not None
    assert other.tumour is not None
    found = compare_evaluations(perfect, other, BootstrapSettings(num=50), "tumour_f1")
    assert found.estimate == pytest.approx(1 - other.tumour.scores.f1_positives)
    assert found.low > 0
    assert compare_evaluations(perfect, perfect, metric="tumour_f1").estimate == 0
    with pytest.raises(UnknownNameError, match="Did you mean 'tumour_f1'"):
        compare_evaluations(perfect, other, metric="tumor_f1")  # type: ignore[arg-type]


def test_metrics_of_a_comparison_are_the_scores_of_its_evaluations(tmp_path: Path) -> None:
    found = scored(tumour_set(tmp_path, SHOWN_AND_TRUE, CLASSES))
    assert found.tumour is not None
    scores = found.tumour.scores
    by_name = {one.name: one.of(found.confusions_NKK) for one in metrics_of("tumour_f1", "exclude_background", 1)}
    assert by_name == {
        "tumour_f1": scores.f1_positives,
        "f1_negatives": scores.f1_negatives,
        "f1_mix": scores.f1_mix,
        "iou_positives": scores.iou_positives,
    }
    overlap = {one.name: one.of(found.confusions_NKK) for one in metrics_of("mean_iou", "exclude_background", None)}
    assert overlap == {"mean_iou": found.scores.mean_iou, "mean_dice": found.scores.mean_dice}
