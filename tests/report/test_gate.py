from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from counterstain.data import PatchDataset
from counterstain.errors import InputError, UnknownNameError
from counterstain.infer import PredictSettings
from counterstain.methods import DenseMethod
from counterstain.report import EvaluateSettings, GatedModel, evaluate
from counterstain.report.gate import predict_labels
from counterstain.results import UNCOVERED
from counterstain.testing.planted import PlantedModel


def blank_truth(data: PatchDataset, number: int) -> None:
    """Leaves all of an image's mask ignored."""
    path = data.val[number].mask
    assert path is not None
    Image.fromarray(np.full((48, 48), 3, np.uint8)).save(path)


def test_a_gated_model_shows_the_classes_it_is_told_in_every_window_and_view(method: DenseMethod) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    truth = np.full((70, 90), 2, np.uint8)
    truth[0, 0] = 0  # one pixel in one window's corner counts for the whole image
    predict = PredictSettings(tta="d4", overlap=0.5)
    found = predict_labels(image, truth, method, "truth", predict)
    assert set(np.unique(found)) == {0, 2}
    assert set(np.unique(predict_labels(image, truth, method, "none", predict))) == {0, 1, 2}
    maps_BCHW = GatedModel(method, (0, 1, 0)).predict_maps(torch.rand(2, 3, 8, 8))
    assert (maps_BCHW[:, 1] == 1).all()


def test_the_gate_of_the_truth_beats_none(method: DenseMethod, noisy: PatchDataset) -> None:
    truth, none = (evaluate(method, noisy, "val", None, EvaluateSettings(gate=gate)) for gate in ("truth", "none"))
    assert truth.scores.mean_iou > 1.2 * none.scores.mean_iou
    assert truth.presence.exact_match == 1
    assert none.presence.exact_match == 0


def test_the_gate_of_the_truth_is_right_pixel_by_pixel(method: DenseMethod, noisy: PatchDataset) -> None:
    record = noisy.val[0]
    image, truth = np.asarray(Image.open(record.image)), noisy.read_mask(record)
    found = predict_labels(image, truth, method, "truth", PredictSettings(tile_px=16, halo_px=0, overlap=0))
    colors = np.array(noisy.classes.colors)[1:]
    expected = 1 + np.abs(image[:, :, None].astype(int) - colors).sum(3).argmin(2)
    assert (found == expected).all()


def test_an_image_without_truth_shows_nothing_under_the_oracle_and_is_not_scored(
    method: DenseMethod, noisy: PatchDataset
) -> None:
    blank_truth(noisy, 3)
    settings = EvaluateSettings(gate="truth")
    rest = replace(noisy, val=noisy.val[:3] + noisy.val[4:])
    found, without = (evaluate(method, data, "val", None, settings) for data in (noisy, rest))
    assert found.to_json()["scores"] == without.to_json()["scores"]
    assert found.to_json()["presence"] == without.to_json()["presence"]
    assert found.confusions_NKK[3].sum() == found.confusions_NKK[3, -1, -1] == 48 * 48
    own = evaluate(method, noisy, "val")
    assert own.presence.num_images == 7
    with_background = evaluate(method, noisy, "val", None, replace(settings, protocol="with_background"))
    assert with_background.presence.num_images == 8


def test_a_split_without_any_truth_is_refused(method: DenseMethod, noisy: PatchDataset) -> None:
    blank_truth(noisy, 0)
    for gate in ("predicted", "truth", "none"):
        with pytest.raises(InputError, match="no pixel to score"):
            evaluate(method, replace(noisy, val=noisy.val[:1]), "val", None, EvaluateSettings(gate=gate))


def test_a_rare_class_passes_the_gate_of_the_truth_whatever_counts_as_present(
    method: DenseMethod, noisy: PatchDataset
) -> None:
    settings = [EvaluateSettings(gate="truth", min_share=share) for share in (0, 0.9)]
    trees = [evaluate(method, noisy, "val", None, one).to_json() for one in settings]
    assert trees[0]["scores"] == trees[1]["scores"]
    assert trees[0]["presence"] != trees[1]["presence"]


def test_a_model_that_can_t_be_told_its_classes_is_refused_an_oracle(noisy: PatchDataset) -> None:
    model = PlantedModel(classes=noisy.classes)
    with pytest.raises(InputError, match="PlantedModel, which can't be told"):
        evaluate(model, noisy, "val", None, EvaluateSettings(gate="truth"))
    with pytest.raises(UnknownNameError, match="Did you mean 'truth'"):
        EvaluateSettings(gate="thruth")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="Did you mean 'with_background'"):
        EvaluateSettings(protocol="with_backgroud")  # type: ignore[arg-type]


def test_nothing_is_shown_where_the_truth_holds_no_class(method: DenseMethod) -> None:
    image, truth = np.zeros((20, 30, 3), np.uint8), np.full((20, 30), 3, np.uint8)
    found = predict_labels(image, truth, method, "truth", PredictSettings())
    assert found.shape == (20, 30)
    assert (found == UNCOVERED).all()
