from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from counterstain.data import PatchDataset
from counterstain.errors import InputError
from counterstain.infer import PredictSettings
from counterstain.methods import DenseMethod
from counterstain.metrics import BootstrapSettings
from counterstain.report import (
    EvaluateSettings,
    ScoringProtocol,
    compare_evaluations,
    evaluate,
    refuse_other_protocol,
)
from counterstain.testing.planted import PlantedModel


def test_every_report_records_its_protocol(method: DenseMethod, noisy: PatchDataset) -> None:
    usual = evaluate(method, noisy, "val").to_json()
    assert usual["protocol"] == {
        "background": "exclude_background",
        "gate": "predicted",
        "tta": "none",
        "thresholds": [0.2, 0.2, 0.2],
    }
    assert usual["notes"] == []
    settings = EvaluateSettings(protocol="with_background", gate="truth")
    oracle = evaluate(method, noisy, "val", PredictSettings(tta="hv3"), settings).to_json()
    assert oracle["protocol"] == {"background": "with_background", "gate": "truth", "tta": "hv3", "thresholds": None}
    assert "oracle" in oracle["notes"][0]
    assert "not comparable" in oracle["notes"][0]
    assert evaluate(PlantedModel(classes=noisy.classes), noisy, "val").protocol.thresholds is None


def test_a_protocol_says_oracle_in_words_too() -> None:
    assert "an oracle" in str(ScoringProtocol("exclude_background", "truth", "none"))
    assert str(ScoringProtocol("with_background", "none", "d4")) == (
        "with_background, gate none, test-time augmentation d4"
    )


@pytest.mark.parametrize(
    ("settings", "tta", "named"),
    [
        (EvaluateSettings(protocol="with_background"), "none", "background 'exclude_background' and 'with_background'"),
        (EvaluateSettings(gate="truth"), "none", "gate 'predicted' and 'truth'"),
        (EvaluateSettings(), "hv3", "tta 'none' and 'hv3'"),
    ],
)
def test_numbers_of_two_protocols_are_not_mixed(
    settings: EvaluateSettings, tta: Any, named: str, method: DenseMethod, noisy: PatchDataset
) -> None:
    usual = evaluate(method, noisy, "val")
    other = evaluate(method, noisy, "val", PredictSettings(tta=tta), settings)
    with pytest.raises(InputError, match=named):
        refuse_other_protocol(usual.protocol, other.protocol)
    with pytest.raises(InputError, match=named):
        compare_evaluations(usual, other)


def test_thresholds_are_a_model_s_own_and_no_protocol(method: Any, noisy: PatchDataset) -> None:
    usual = evaluate(method, noisy, "val")
    method.thresholds = (0.0, 0.0, 0.0)
    laxer = evaluate(method, noisy, "val")
    refuse_other_protocol(usual.protocol, laxer.protocol)
    assert usual.protocol != laxer.protocol


def test_a_difference_is_paired_by_patient_and_follows_the_protocol(method: Any, noisy: PatchDataset) -> None:
    for background in ("exclude_background", "with_background"):
        settings = EvaluateSettings(protocol=background)
        usual = evaluate(method, noisy, "val", None, settings)
        worse = evaluate(PlantedModel(classes=noisy.classes), noisy, "val", None, settings)
        found = compare_evaluations(usual, worse, BootstrapSettings(num=50))
        assert found.estimate == pytest.approx(usual.scores.mean_iou - worse.scores.mean_iou)
        assert found.low > 0
        assert found.num_patients == 4
        assert compare_evaluations(usual, usual).estimate == 0


def test_other_images_or_classes_make_no_pair(method: DenseMethod, noisy: PatchDataset) -> None:
    usual = evaluate(method, noisy, "val")
    turned = usual.confusions_NKK[::-1]
    assert not np.array_equal(turned, usual.confusions_NKK)
    for other in (replace(usual, confusions_NKK=turned), replace(usual, patients=usual.patients[::-1])):
        with pytest.raises(InputError, match="not the same ones"):
            compare_evaluations(usual, other)
    with pytest.raises(InputError, match="in the same order"):
        compare_evaluations(usual, replace(usual, class_names=usual.class_names[::-1]))
