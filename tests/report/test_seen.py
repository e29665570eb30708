import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterstain.data import PatchDataset, PatchRecord
from counterstain.methods.fusion_kd.selectors import Basis, run_claim
from counterstain.report import notes_on_choice, notes_on_patients


@pytest.fixture
def trained_on(noisy: PatchDataset) -> PatchDataset:
    """Patients p9 in training and p0 to p3 in validation, as they are scored later."""
    return noisy


def note(run: Path, data: Any) -> Path:
    run.mkdir(exist_ok=True)
    (run / "model.json").write_text(json.dumps({"provenance": {"data": data}}))
    return run


def of_patients(data: PatchDataset, *names: str) -> tuple[PatchRecord, ...]:
    return tuple(replace(data.val[0], patient=name) for name in names)


def test_patients_that_were_trained_on_are_named(trained_on: PatchDataset, tmp_path: Path) -> None:
    run = note(tmp_path / "run", trained_on.provenance())
    other = replace(
        trained_on, val=of_patients(trained_on, "p9", "p77"), test=of_patients(trained_on, "p9", "p0", "p8")
    )
    assert notes_on_patients(run, other, "val", other.digest()) == (
        "1 of 2 scored patients (p9) were trained on too: their scores say nothing of patients whom the model has not "
        "seen.",
    )
    of_test = notes_on_patients(run, other, "test", other.digest())
    assert len(of_test) == 2
    assert of_test[1].startswith("1 of 3 scored patients (p0) were in the split that thresholds")


def test_unseen_patients_get_no_note_nor_do_those_validated_on(trained_on: PatchDataset, tmp_path: Path) -> None:
    run = note(tmp_path / "run", trained_on.provenance())
    other = replace(trained_on, test=of_patients(trained_on, "p10", "P9"))
    for split in ("val", "test"):
        assert notes_on_patients(run, other, split, other.digest()) == ()


def test_of_a_run_without_a_record_the_same_dataset_tells_and_another_does_not(
    trained_on: PatchDataset, tmp_path: Path
) -> None:
    digest = trained_on.digest()
    run = note(tmp_path / "run", {"digest": digest})
    leaky = replace(trained_on, val=of_patients(trained_on, "p9"))
    assert notes_on_patients(run, trained_on, "val", digest) == ()
    assert "p9" in notes_on_patients(run, leaky, "val", digest)[0]
    for data in ({"digest": "another"}, None):
        (found,) = notes_on_patients(note(run, data), trained_on, "val", digest)
        assert "is not known" in found


def test_provenance_holds_no_patient_s_name(trained_on: PatchDataset) -> None:
    secret = replace(trained_on, train=of_patients(trained_on, "Jane Doe"))
    assert "Jane" not in json.dumps(secret.provenance())
    assert secret.provenance()["patients"]["train"] != trained_on.provenance()["patients"]["train"]
    assert len(trained_on.provenance()["patients"]["val"]) == 4


def chosen(run: Path, data: PatchDataset, selector: str, *, reads_masks: bool = False, max_rounds: int = 3) -> Path:
    claim = run_claim(selector, max_rounds, Basis())
    provenance = {"data": data.provenance(), "selector": selector, "claim": claim, "reads_masks": reads_masks}
    run.mkdir(exist_ok=True)
    (run / "model.json").write_text(json.dumps({"provenance": provenance, "config": {"max_rounds": max_rounds}}))
    return run


def test_a_report_names_the_selector_and_what_its_run_may_claim(trained_on: PatchDataset, tmp_path: Path) -> None:
    digest = trained_on.digest()
    for selector, words in (("proxy", "no pixel truth"), ("schedule", "no claim"), ("pixel_val", "pixel-labelled")):
        run = chosen(tmp_path / selector, trained_on, selector)
        (said,) = notes_on_choice(run, trained_on, "test", digest)
        assert said.startswith(f"Selector '{selector}': ")
        assert words in said
        assert "{" not in said
    alone = chosen(tmp_path / "alone", trained_on, "pixel_val", max_rounds=0)
    assert notes_on_choice(alone, trained_on, "test", digest) == ()
    assert notes_on_choice(note(tmp_path / "other", None), trained_on, "val", digest) == ()


@pytest.mark.parametrize("selector", ["pixel_val", "schedule"])
def test_a_score_on_the_masks_that_chose_the_network_is_called_one(
    trained_on: PatchDataset, tmp_path: Path, selector: str
) -> None:
    run, digest = chosen(tmp_path / "run", trained_on, selector, reads_masks=True), trained_on.digest()
    assert "chosen by masks" in notes_on_choice(run, trained_on, "val", digest)[1]
    assert len(notes_on_choice(run, trained_on, "test", digest)) == 1
    other = replace(trained_on, val=of_patients(trained_on, "p77"))
    assert len(notes_on_choice(run, other, "val", other.digest())) == 1
    blind = chosen(tmp_path / "blind", trained_on, "proxy")
    assert len(notes_on_choice(blind, trained_on, "val", digest)) == 1
