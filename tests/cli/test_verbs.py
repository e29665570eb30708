import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from counterstain.cli import OK, SOME_FAILED, WRONG_USE, run
from counterstain.export import read_geojson
from counterstain.results import SlideMap


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    code = run([str(argument) for argument in (*arguments, "--json")])
    return code, json.loads(capsys.readouterr().out)


def test_help_lists_every_verb() -> None:
    done = subprocess.run([sys.executable, "-m", "counterstain", "--help"], capture_output=True, text=True, check=True)
    for verb in ("doctor", "demo", "synth", "inspect", "train", "predict", "evaluate", "export", "models"):
        assert verb in done.stdout


@pytest.mark.parametrize("verb", ["doctor", "demo", "inspect", "train", "predict", "evaluate", "export"])
def test_every_verb_explains_its_flags_and_takes_json(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == OK
    shown = capsys.readouterr().out
    assert "--json" in shown
    assert "Usage" in shown


def test_the_doctor_finds_this_machine_well(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = answer(capsys, "doctor")
    assert code == OK
    assert found["readers"]
    assert found["problems"] == []
    assert run(["doctor"]) == OK


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Did you mean"),
        (["predict"], "requires an argument"),
        (["train", "run", "--data", "nowhere"], "nothing is there"),
        (["train", "run"], "No dataset was given"),
        (["train", "run", "--data", ".", "--method", "shhr"], "Did you mean 'sshr'"),
        (["train", "run", "--data", ".", "--kernel", "3"], "Did you mean"),
        (["export"], "No map was given"),
        (["predict", "nowhere", "nowhere.svs", "--out", "o"], "trained run"),
        (["predict", "r", "s", "--out", "o", "--exports", "geojon"], "Did you mean 'geojson'"),
        (["models", "show", "shhr"], "Did you mean 'sshr'"),
    ],
)
def test_wrong_use_gets_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == WRONG_USE
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_models_show_counts_the_published_network(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = answer(capsys, "models", "show", "sshr")
    assert code == OK
    assert found["parameters"] == 112_709_714
    assert found["trainable_parameters"] == 111_837_970
    assert found["backbone_parameters"] == 105_070_912
    assert found["gmac"] == pytest.approx(100.24, rel=1e-3)


def test_models_list_and_runs_can_be_looked_at(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, listed = answer(capsys, "models", "list")
    assert "paper" in listed["methods"]["sshr"]["presets"]
    assert listed["backbones"]["wide_resnet38"]["strides"] == [4, 8, 8, 8]
    _, found = answer(capsys, "models", "show", trained)
    assert found["method"] == "sshr"
    assert found["input"]["mpp"] == 1.0
    assert run(["models", "list"]) == OK
    assert run(["models", "show", str(trained)]) == OK


def test_preset_file_and_flags_are_merged_and_stored(trained: Path) -> None:
    tree = tomllib.loads((trained / "config.toml").read_text())
    assert tree["settings"]["kernels"] == [3, 3, 3], "from the file"
    assert tree["settings"]["backbone"] == "tiny", "from the preset"
    assert tree["training"] == {**tree["training"], "epochs": 3, "batch_size": 8}, "from file and flags"


def test_a_stored_config_repeats_the_run(trained: Path, patches: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    arguments = ["train", str(again), "--data", str(patches), "--config", str(trained / "config.toml")]
    assert run([*arguments, "--mpp", "1"]) == OK
    assert (again / "losses.csv").read_text() == (trained / "losses.csv").read_text()


def test_inspect_shows_slides_and_lists_the_ones_it_can_t_read(
    slides: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, found = answer(capsys, "inspect", slides)
    assert code == SOME_FAILED
    by_name = {Path(entry["path"]).relative_to(slides).as_posix(): entry for entry in found}
    assert by_name["a.tiff"]["mpp"] == pytest.approx([1.0, 1.0])
    assert by_name["a.tiff"]["mpp_source"] == "tiff tags"
    assert by_name["no_mpp.tiff"]["mpp"] is None
    assert "error" in by_name["text.svs"]
    assert "error" in by_name["damaged.tiff"]
    assert run(["inspect", str(slides / "a.tiff"), "--thumbnail", str(tmp_path / "t.png"), "--properties"]) == OK
    assert (tmp_path / "t.png").stat().st_size > 1000


def test_a_folder_is_mapped_and_bad_slides_do_not_end_the_batch(
    trained: Path, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, found = answer(capsys, "predict", trained, slides, "--out", out, "--map-stride", 2)
    assert code == SOME_FAILED
    assert set(found["done"]) == {"a.tiff", "deeper/a.tiff"}
    reasons = {entry["slide"]: entry["reason"] for entry in found["failed"]}
    assert set(reasons) == {"no_mpp.tiff", "damaged.tiff", "text.svs", "glass.png"}
    assert "Pass --mpp" in reasons["no_mpp.tiff"]
    assert all("\n" not in reason for reason in reasons.values())
    assert "Traceback" in (out / "text.svs" / "error.txt").read_text()
    for name in ("map.ome.tiff", "regions.geojson", "overlay.png", "summary.json", "slide.json", "tissue.geojson"):
        assert (out / "a.tiff" / name).is_file(), name
    result = SlideMap.open(out / "a.tiff" / "map.zarr")
    assert sum(found["done"]["a.tiff"]["areas_mm2"].values()) > 0
    assert {shape.class_name for shape in read_geojson(out / "a.tiff" / "regions.geojson")} <= set(result.classes.names)


def test_mapping_again_keeps_what_is_done_and_refuses_stale_results(
    trained: Path, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", str(trained), str(slides / "a.tiff"), "--out", str(tmp_path)]
    assert run(arguments) == OK
    before = (tmp_path / "a.tiff" / "map.zarr" / "zarr.json").stat().st_mtime_ns
    assert run(arguments) == OK
    assert (tmp_path / "a.tiff" / "map.zarr" / "zarr.json").stat().st_mtime_ns == before
    assert run([*arguments, "--overlap", "0.5"]) == SOME_FAILED
    assert "overwrite" in capsys.readouterr().err
    assert run([*arguments, "--overlap", "0.5", "--overwrite"]) == OK


def test_an_assumed_resolution_is_recorded_in_everything(trained: Path, slides: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(trained), str(slides / "no_mpp.tiff"), "--out", str(tmp_path), "--assume-mpp", "1"]
    assert run(arguments) == OK
    folder = tmp_path / "no_mpp.tiff"
    assert SlideMap.open(folder / "map.zarr").slide.mpp_source == "assumed"
    assert json.loads((folder / "slide.json").read_text())["slide"]["mpp_source"] == "assumed"
    assert "assumed" in (folder / "summary.json").read_text()


def test_a_tissue_outline_mended_by_hand_is_used(trained: Path, slides: Path, tmp_path: Path) -> None:
    assert run(["predict", str(trained), str(slides / "a.tiff"), "--out", str(tmp_path / "one")]) == OK
    tree = json.loads((tmp_path / "one" / "a.tiff" / "tissue.geojson").read_text())
    square = [[[40, 40], [120, 40], [120, 120], [40, 120], [40, 40]]]
    tree["features"] = [{**tree["features"][0], "geometry": {"type": "Polygon", "coordinates": square}}]
    outline = tmp_path / "mended.geojson"
    outline.write_text(json.dumps(tree))
    arguments = ["predict", str(trained), str(slides / "a.tiff"), "--out", str(tmp_path / "two"), "--map-stride", "1"]
    assert run([*arguments, "--outline", str(outline)]) == OK
    covered = (SlideMap.open(tmp_path / "two" / "a.tiff" / "map.zarr").label[:] != 255).sum()
    assert covered == pytest.approx(80 * 80, rel=0.15)
    assert run(["predict", str(trained), str(slides), "--out", str(tmp_path), "--outline", str(outline)]) == WRONG_USE


def test_a_cohort_table_gives_each_slide_its_resolution(
    trained: Path, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text("slide_id,path,mpp\none,slides/a.tiff,2\ntwo,slides/no_mpp.tiff,1\nthree,slides/none.tiff,1\n")
    code, found = answer(capsys, "predict", trained, table, "--out", tmp_path / "out", "--exports", "summary")
    assert code == OK
    assert set(found["done"]) == {"one", "two"}
    assert SlideMap.open(tmp_path / "out" / "one" / "map.zarr").slide.mpp.x == 2


def test_export_writes_formats_once_unless_told_otherwise(
    trained: Path, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["predict", str(trained), str(slides / "a.tiff"), "--out", str(out), "--exports", "summary"]
    assert run(arguments) == OK
    code, found = answer(capsys, "export", out / "a.tiff", "--format", "geojson", "ome_tiff_probability")
    assert code == OK
    assert all(Path(path).is_file() for path in found["written"])
    assert run(["export", str(out / "a.tiff"), "--format", "geojson"]) == WRONG_USE
    assert "exists already" in capsys.readouterr().err
    assert run(["export", str(out / "a.tiff"), "--format", "geojson", "--overwrite"]) == OK
    assert run(["export", str(out / "a.tiff"), "--out", str(tmp_path / "mine.geojson")]) == OK
    assert (tmp_path / "mine.geojson").is_file()
    code, formats = answer(capsys, "export", "--list")
    assert {"geojson", "ome_tiff", "overlay", "summary"} <= {entry["name"] for entry in formats}
    assert run(["export", "--list"]) == OK


def test_evaluate_shows_scores_with_baseline_and_interval(
    trained: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = answer(capsys, "evaluate", trained, "--data", patches)
    assert code == OK
    assert found["num_images"] == 6
    assert found["baseline"]["scores"]["mean_iou"] < 0.5
    interval = found["intervals"]["mean_iou"]
    assert interval["low"] <= interval["estimate"] <= interval["high"]
    assert interval["num_patients"] == 6
    assert (trained / "metrics_val.json").is_file()
    assert run(["evaluate", str(trained), "--data", str(patches)]) == OK


def test_the_test_split_opens_once(
    trained: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "patches"
    other.mkdir()
    (other / "images").symlink_to(patches / "images")
    (other / "labels.csv").write_text((patches / "labels.csv").read_text().replace(",val,", ",test,"))
    arguments = ["evaluate", str(trained), "--data", str(other), "--split", "test"]
    assert run(arguments) == OK
    assert run(arguments) == WRONG_USE
    assert "was opened for" in capsys.readouterr().err
    assert run([*arguments, "--again"]) == OK
    assert "opened 2 times" in capsys.readouterr().err


def test_synthetic_data_is_written_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--num-train", 4, "--num-val", 1, "--num-test", 1, "--patch-px", 32, "--num-patients", 3]
    code, found = answer(capsys, "synth", "patches", tmp_path / "p", "--layout", "bcss_wsss", *small)
    assert code == OK
    assert len(list((Path(found["patches"]) / "train").rglob("*.png"))) == 4
    code, found = answer(capsys, "synth", "slide", tmp_path / "s.tiff", "--width", 600, "--height", 400)
    assert code == OK
    assert Path(found["slide"]).is_file()
    assert json.loads(Path(found["truth"]).read_text())["type"] == "FeatureCollection"
    assert run(["synth", "slide", str(tmp_path / "s.tiff"), "--width", "600"]) == WRONG_USE
    tiny = ["--num-slides", 3, "--num-patients", 3, "--width", 1200]
    code, found = answer(capsys, "synth", "cohort", tmp_path / "c", *tiny)
    assert code == OK
    assert Path(found["cohort"]).read_text().startswith("slide_id,patient_id,path,label")


def test_the_demo_ends_with_files_to_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = answer(capsys, "demo", "--quick", "--out", tmp_path / "demo")
    assert code == OK
    assert set(found["mean_iou"]) == {"sshr", "plain_cam", "best_single_class"}
    assert all(Path(path).is_file() for path in found["files"].values())
    assert run(["demo", "--quick", "--out", str(tmp_path / "demo")]) == OK
    assert "Look at:" in capsys.readouterr().out
