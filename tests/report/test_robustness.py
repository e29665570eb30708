import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from counterstain.data import PatchDataset, PatchRecord, image_size
from counterstain.errors import InputError, StaleResultError, UnknownNameError
from counterstain.infer import PredictSettings
from counterstain.methods import DenseMethod
from counterstain.metrics import BootstrapSettings
from counterstain.report import (
    EvaluateSettings,
    Kept,
    RobustnessSettings,
    RobustnessTable,
    draw_robustness,
    evaluate,
    measure_robustness,
)
from counterstain.report.corruptions import CORRUPTIONS, STRENGTHS
from counterstain.report.robustness import some_records
from counterstain.testing.planted import PlantedModel

QUICK = RobustnessSettings(scoring=EvaluateSettings(bootstrap=BootstrapSettings(num=50)))


def curve(table: RobustnessTable, name: str) -> list[float]:
    return [cell.scores.mean_iou for cell in table.cells[name]]


@pytest.fixture
def fine(noisy: PatchDataset) -> PatchDataset:
    """Stripes of three pixels, told from each other by colour alone: a blur mixes what a stain shift leaves apart."""
    colors = np.array(noisy.classes.colors, np.uint8)
    truth = (1 + (np.arange(48) // 3) % 2).astype(np.uint8)[None].repeat(48, 0)
    for record in noisy.val:
        assert record.mask is not None
        Image.fromarray(truth).save(record.mask)
        Image.fromarray(colors[truth]).save(record.image)
    return noisy


def test_the_mean_iou_falls_with_blur_and_not_with_stain(fine: PatchDataset) -> None:
    found = measure_robustness(PlantedModel(classes=fine.classes), fine, "val", None, QUICK)
    assert list(found.cells) == list(CORRUPTIONS)
    assert [cell.strength for cell in found.cells["blur"]] == [0, *STRENGTHS]
    assert curve(found, "stain_shift")[:4] == [1.0] * 4
    blurred = curve(found, "blur")
    assert all(after <= before for before, after in itertools.pairwise(blurred))
    assert blurred[1] == 1.0
    assert blurred[-1] < 0.6
    assert curve(found, "jpeg")[-1] < 1.0


def test_strength_0_is_the_evaluation_with_its_interval(method: DenseMethod, noisy: PatchDataset) -> None:
    settings = replace(QUICK, corruptions=("jpeg",))
    found = measure_robustness(method, noisy, "val", None, settings).cells["jpeg"][0]
    plain = evaluate(method, noisy, "val", None, settings.scoring)
    assert found.scores.mean_iou == plain.scores.mean_iou
    assert found.mean_iou == plain.mean_iou
    assert np.array_equal(found.counts_PKK.sum(0), plain.confusions_NKK.sum(0))


def test_truth_is_untouched_by_corruption(method: DenseMethod, noisy: PatchDataset) -> None:
    cells = measure_robustness(method, noisy, "val", None, replace(QUICK, corruptions=("blur",))).cells["blur"]
    assert all(np.array_equal(cell.counts_PKK.sum(2), cells[0].counts_PKK.sum(2)) for cell in cells)


def test_gate_and_protocol_are_recorded_and_heeded(method: DenseMethod, noisy: PatchDataset) -> None:
    scoring = replace(QUICK.scoring, gate="truth", protocol="with_background")
    settings = RobustnessSettings(("stain_shift",), scoring=scoring)
    tree = measure_robustness(method, noisy, "val", PredictSettings(tta="hv3"), settings).to_json()
    assert tree["protocol"] == {"background": "with_background", "gate": "truth", "tta": "hv3", "thresholds": None}
    assert "oracle" in tree["notes"][0]
    plain = evaluate(method, noisy, "val", PredictSettings(tta="hv3"), scoring)
    assert tree["corruptions"]["stain_shift"][0]["scores"] == plain.to_json()["scores"]
    with pytest.raises(InputError, match="can't be told"):
        measure_robustness(PlantedModel(classes=noisy.classes), noisy, "val", None, settings)


class Stopping(PlantedModel):
    """A model that is interrupted after so many images, and counts them."""

    def __init__(self, data: PatchDataset, after: int) -> None:
        super().__init__(classes=data.classes)
        self.left, self.seen = after, 0

    def predict_maps(self, images_BCHW: Any) -> Any:
        if not self.left:
            raise KeyboardInterrupt
        self.left, self.seen = self.left - 1, self.seen + 1
        return super().predict_maps(images_BCHW)


def test_an_interrupted_measurement_goes_on_with_the_cell_it_was_in(noisy: PatchDataset, tmp_path: Path) -> None:
    settings = replace(QUICK, corruptions=("blur",))
    predict = PredictSettings(tile_px=48, halo_px=0)  # an image is one window
    kept = Kept(tmp_path / "cells.json", "model")
    with pytest.raises(KeyboardInterrupt):
        measure_robustness(Stopping(noisy, 20), noisy, "val", predict, settings, kept)
    assert set(json.loads(kept.path.read_text())["cells"]) == {"none 0", "blur 1"}
    rest = Stopping(noisy, 1000)
    resumed = measure_robustness(rest, noisy, "val", predict, settings, kept)
    assert rest.seen == 8 * 4
    whole = measure_robustness(PlantedModel(classes=noisy.classes), noisy, "val", predict, settings)
    assert resumed.to_json() == whole.to_json()
    more = Stopping(noisy, 1000)
    measure_robustness(more, noisy, "val", predict, replace(settings, corruptions=("blur", "jpeg")), kept)
    assert more.seen == 8 * 5, "further corruptions leave finished cells as they are"


def test_cells_of_other_inputs_are_refused(method: DenseMethod, noisy: PatchDataset, tmp_path: Path) -> None:
    settings = replace(QUICK, corruptions=("jpeg",), max_images=2)
    kept = Kept(tmp_path / "cells.json", "model")
    measure_robustness(method, noisy, "val", None, settings, kept)
    scoring = replace(settings.scoring, protocol="with_background")
    measure_robustness(method, noisy, "val", None, replace(settings, scoring=scoring), kept)  # the same maps
    others: list[tuple[Any, ...]] = [
        (None, settings, replace(kept, model_digest="another")),
        (PredictSettings(tta="hv3"), settings, kept),
        (None, replace(settings, max_images=3), kept),
        (None, replace(settings, seed=1), kept),
        (None, replace(settings, scoring=replace(scoring, gate="none")), kept),
    ]
    for arguments in others:
        with pytest.raises(StaleResultError, match="another model, other data or other settings"):
            measure_robustness(method, noisy, "val", *arguments)


def test_a_limit_takes_images_of_as_many_patients_as_it_can() -> None:
    sizes = {"a": 10, "b": 1, "c": 3}
    records = [
        PatchRecord(Path(f"{name}{number}"), None, name) for name, size in sizes.items() for number in range(size)
    ]
    for seed in range(5):
        found = some_records(records, 5, seed)
        assert sorted(record.patient for record in found) == ["a", "a", "b", "c", "c"]
        assert list(found) == [record for record in records if record in found], "in their order"
        assert found == some_records(records, 5, seed)
    assert len({some_records(records, 2, seed) for seed in range(10)}) > 3
    assert some_records(records, None, 0) == some_records(records, 14, 0) == tuple(records)


def test_one_patient_has_curves_without_an_interval(method: DenseMethod, noisy: PatchDataset, tmp_path: Path) -> None:
    settings = replace(QUICK, corruptions=("jpeg",))
    found = measure_robustness(method, replace(noisy, val=noisy.val[:2]), "val", None, settings)
    assert all(cell.mean_iou is None for cell in found.cells["jpeg"])
    draw_robustness({"one": found}, tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 5000


def test_models_are_drawn_together_when_they_were_measured_alike(
    method: DenseMethod, noisy: PatchDataset, tmp_path: Path
) -> None:
    settings = replace(QUICK, max_images=4)
    one = measure_robustness(method, noisy, "val", None, settings)
    other = measure_robustness(PlantedModel(classes=noisy.classes), noisy, "val", None, settings)
    draw_robustness({"one": one, "other": other}, tmp_path / "both.png")
    assert image_size(tmp_path / "both.png").width == 1800
    refused = {
        "different protocols": replace(one, protocol=replace(one.protocol, tta="d4")),
        "other corruptions": replace(one, cells={"blur": one.cells["blur"]}),
        "other images": measure_robustness(method, replace(noisy, val=noisy.val[:4]), "val", None, settings),
    }
    for message, table in refused.items():
        with pytest.raises(InputError, match=message):
            draw_robustness({"one": one, "two": table}, tmp_path / "none.png")
    with pytest.raises(InputError, match="No robustness"):
        draw_robustness({}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'jpeg'"):
        RobustnessSettings(("jepg",))
    with pytest.raises(InputError, match="No corruption"):
        RobustnessSettings(())
    with pytest.raises(InputError, match="must be above 0"):
        RobustnessSettings(max_images=0)
