import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from counterstain.cli import OK, WRONG_USE, run
from counterstain.files import write_json


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    """The exit code, the answer, and what was said beside it."""
    capsys.readouterr()
    code = run([str(argument) for argument in (*arguments, "--json")])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


@pytest.fixture
def own_run(trained: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("metrics_*", "test_opened*")))


def test_the_protocol_stands_in_the_answer_and_in_the_file(
    own_run: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found, _ = answer(capsys, "evaluate", own_run, "--data", patches, "--tta", "hv3")
    assert code == OK
    thresholds = json.loads((own_run / "model.json").read_text())["thresholds"]
    assert found["protocol"] == {
        "background": "exclude_background",
        "gate": "predicted",
        "tta": "hv3",
        "thresholds": thresholds,
    }
    assert json.loads((own_run / "metrics_val_tta_hv3.json").read_text()) == found
    assert not any("oracle" in note for note in found["notes"])


def test_an_oracle_is_called_one_and_replaces_no_other_numbers(
    own_run: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, own, _ = answer(capsys, "evaluate", own_run, "--data", patches)
    code, oracle, said = answer(capsys, "evaluate", own_run, "--data", patches, "--gate", "truth")
    assert code == OK
    assert oracle["protocol"]["gate"] == "truth"
    assert "not comparable" in oracle["notes"][0]
    assert "oracle" in said
    assert oracle["presence"]["exact_match"] >= own["presence"]["exact_match"]
    _, open_gate, _ = answer(
        capsys, "evaluate", own_run, "--data", patches, "--gate", "none", "--protocol", "with_background"
    )
    _, averaged, _ = answer(capsys, "evaluate", own_run, "--data", patches, "--gate", "truth", "--tta", "hv3")
    files = {path.name: json.loads(path.read_text()) for path in own_run.glob("metrics_*.json")}
    assert files == {
        "metrics_val.json": own,
        "metrics_val_gate_truth.json": oracle,
        "metrics_val_gate_truth_tta_hv3.json": averaged,
        "metrics_val_with_background_gate_none.json": open_gate,
    }


def test_the_terminal_shows_protocol_weighted_iou_and_accuracy(
    own_run: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(own_run), "--data", str(patches), "--gate", "truth", "--tta", "d4"]) == OK
    said = capsys.readouterr().err
    assert "Protocol: exclude_background, gate truth (an oracle), test-time augmentation d4." in said
    assert "Frequency-weighted IoU" in said
    assert "pixel accuracy" in said
    assert "Note: Gate 'truth' is an oracle" in said


def test_an_unknown_gate_is_refused(own_run: Path, patches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(own_run), "--data", str(patches), "--gate", "oracle"]) == WRONG_USE
    assert "--gate" in capsys.readouterr().err
    assert not list(own_run.glob("metrics_*"))


def test_scored_patients_that_were_trained_on_are_told(
    own_run: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from counterstain.data import open_patches

    description = json.loads((own_run / "model.json").read_text())
    description["provenance"]["data"] = open_patches(patches).provenance()
    write_json(own_run / "model.json", description)
    leaky = tmp_path / "leaky"
    leaky.mkdir()
    (leaky / "images").symlink_to(patches / "images")
    lines = (patches / "labels.csv").read_text().replace(",val,p24,", ",val,p0,")
    (leaky / "labels.csv").write_text("".join(line + "\n" for line in lines.splitlines() if ",train," not in line))
    _, found, said = answer(capsys, "evaluate", own_run, "--data", leaky)
    assert any("1 of 6 scored patients (p0) were trained on" in note for note in found["notes"])
    assert "(p0) were trained on" in said
    _, found, said = answer(capsys, "evaluate", own_run, "--data", patches)
    assert "trained on" not in said + " ".join(found["notes"])


def test_tumour_masks_get_a_table_of_their_own(
    patches: Path, settings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tumours = tmp_path / "tumours"
    shutil.copytree(patches, tumours)
    lines = (tumours / "labels.csv").read_text().replace(",1,1\n", ",0,1\n")
    (tumours / "labels.csv").write_text(lines)
    (tumours / "classes.toml").write_text('background = "dots"\n')
    folder = tmp_path / "run"
    trained = ["train", str(folder), "--data", str(tumours), "--config", str(settings_file), "--batch-size", "8"]
    assert run([*trained, "--epochs", "1"]) == OK
    code, found, _ = answer(capsys, "evaluate", folder, "--data", tumours, "--mpp", "0.5")
    assert code == OK
    tree = found["tumour"]
    assert (tree["class"], tree["scores"]["num_positives"], tree["scores"]["num_negatives"]) == ("stripes", 4, 2)
    assert tree["hausdorff"]["hd_um"] == pytest.approx(tree["hausdorff"]["hd_px"] / 2)
    assert run(["evaluate", str(folder), "--data", str(tumours)]) == OK
    shown = capsys.readouterr()
    assert "'stripes', image by image: 4 positives, 2 negatives" in shown.out
    for head in ("F1 positives", "F1 negatives", "F1 mix", "'stripes' everywhere", "60 to 100 %"):
        assert head in shown.out
    assert "nothing was found on" in shown.err


def test_flags_of_slides_are_refused_by_name_where_no_slides_are_given(
    own_run: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in (
        ["--labels", "tcga"],
        ["--patient-is-slide"],
        ["--encoded", str(patches)],
        ["--encoder", str(patches)],
    ):
        assert run(["evaluate", str(own_run), "--data", str(patches), *more]) == WRONG_USE
        assert f"{more[0]} was given, and no slides were named by --cohort. Leave it out." in capsys.readouterr().err
    assert not list(own_run.glob("metrics_*.json"))


def test_help_says_what_a_run_remembers_of_its_cohort(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "--help"]) == OK
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Runs that diagnose slides" in shown
    assert "Of the cohort that it learned from, a run remembers what was said then" in shown
    assert "or on labelled slides." in shown
