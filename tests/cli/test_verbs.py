import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from counterstain.cli import INTERRUPTED, OK, SOME_FAILED, WRONG_USE, run
from counterstain.cli.demo import QUICK
from counterstain.cli.doctor import _LIBRARIES
from counterstain.data import open_patches
from counterstain.export import read_geojson
from counterstain.methods import model_digest
from counterstain.results import SlideMap


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    code = run([str(argument) for argument in (*arguments, "--json")])
    return code, json.loads(capsys.readouterr().out)


def test_help_lists_every_verb() -> None:
    done = subprocess.run([sys.executable, "-m", "counterstain", "--help"], capture_output=True, text=True, check=True)
    for verb in ("doctor", "bench", "demo", "synth", "inspect", "train", "predict", "evaluate", "export", "models"):
        assert verb in done.stdout


@pytest.mark.parametrize("verb", ["doctor", "bench", "demo", "inspect", "train", "predict", "evaluate", "export"])
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


def test_the_doctor_lists_every_library_that_is_required() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {re.split("[<>=]", one)[0] for one in project["dependencies"]} == set(_LIBRARIES)


def test_a_library_that_can_t_be_loaded_is_a_problem_and_little_memory_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = psutil.virtual_memory()._replace(available=1 << 30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    code, found = answer(capsys, "doctor")
    assert code == OK
    assert len(found["warnings"]) == 1
    assert found["problems"] == []
    monkeypatch.setitem(sys.modules, "torch", None)
    code, found = answer(capsys, "doctor")
    assert code == WRONG_USE
    assert any("torch" in problem for problem in found["problems"])
    assert run(["doctor"]) == WRONG_USE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predikt"], "Did you mean"),
        (["predict"], "requires an argument"),
        (["train", "run", "--data", "nowhere"], "nothing is there"),
        (["train", "run"], "No dataset was given"),
        (["train", "run", "--data", ".", "--method", "shhr"], "Did you mean 'sshr'"),
        (["train", "run", "--data", ".", "--kernel", "3"], "Did you mean"),
        (["export"], "No map was given"),
        (["predict", "nowhere", "nowhere.svs", "--out", "o"], "trained run"),
        (["predict", "r", "s", "--out", "o", "--exports", "geojon"], "Did you mean 'geojson'"),
        (["models", "show", "shhr"], "Did you mean 'sshr'"),
        (["predict", "r", "s", "--out", "o", "--mpp", "0"], "--mpp was given as 0"),
        (["predict", "r", "s", "--out", "o", "--assume-mpp", "-1"], "--assume-mpp was given as -1"),
        (["inspect", "s", "--mpp", "0"], "--mpp was given as 0"),
        (["evaluate", "r", "--data", ".", "--mpp", "nan"], "--mpp was given as nan"),
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


def test_a_method_of_two_classes_is_shown_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = answer(capsys, "models", "show", "fusion_kd")
    assert code == OK
    assert found["parameters"] == 1_738_243


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


def test_a_thumbnail_is_of_one_slide_and_replaces_no_file(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "t.png"
    picture.write_text("mine")
    arguments = ["inspect", str(slides / "a.tiff"), "--thumbnail", str(picture)]
    assert run(arguments) == WRONG_USE
    assert "exists already" in capsys.readouterr().err
    assert picture.read_text() == "mine"
    assert run([*arguments, "--overwrite"]) == OK
    assert picture.stat().st_size > 1000
    assert run(["inspect", str(slides), "--thumbnail", str(tmp_path / "other.png")]) == WRONG_USE
    assert "it shows one" in capsys.readouterr().err


def test_inspect_takes_resolutions_from_a_table_and_lists_rows_it_can_t_use(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text("slide_id,path,mpp\none,slides/a.tiff,2\ntwo,slides/no_mpp.tiff,3\nthree,slides/none.tiff,1\n")
    code, found = answer(capsys, "inspect", table)
    assert code == SOME_FAILED
    assert [entry.get("mpp") for entry in found] == [[2, 2], [3, 3], None]
    assert found[2]["kind"] == "Dropped"
    _, found = answer(capsys, "inspect", table, "--mpp", 4)
    assert found[0]["mpp"] == [4, 4]


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


def test_exports_of_the_same_map_are_kept_and_those_of_another_removed(
    trained: Path, slides: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "a.tiff"
    arguments = ["predict", str(trained), str(slides / "a.tiff"), "--out", str(tmp_path), "--exports", "geojson"]
    assert run([*arguments, "summary"]) == OK
    (folder / "regions.geojson").write_text("corrected by hand")
    (folder / "summary.json").unlink()
    assert run([*arguments, "summary"]) == OK
    assert (folder / "regions.geojson").read_text() == "corrected by hand"
    assert (folder / "summary.json").is_file(), "a missing one is written again"
    assert run([*arguments, "--overlap", "0.5", "--overwrite"]) == OK
    assert read_geojson(folder / "regions.geojson")
    assert not (folder / "summary.json").exists()
    note = json.loads((folder / "exports.json").read_text())
    inputs_hash = SlideMap.open(folder / "map.zarr").inputs_hash
    assert note == {"geojson": {"inputs_hash": inputs_hash, "file": "regions.geojson"}}


def test_a_file_of_somebody_else_is_not_replaced(
    trained: Path, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "a.tiff" / "regions.geojson"
    mine.parent.mkdir()
    mine.write_text("mine")
    arguments = ["predict", str(trained), str(slides / "a.tiff"), "--out", str(tmp_path), "--exports", "geojson"]
    assert run(arguments) == SOME_FAILED
    assert "predict did not write it" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert run([*arguments, "--overwrite"]) == OK
    assert read_geojson(mine)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--precision", "16", "--device", "cpu"], "Pass --precision 32"),
        (["--map-stride", "5"], "must be a multiple of the stride"),
        (["--int8"], "--format onnx --calibrate PATCHES"),
        (["--int8", "--runtime", "torch"], "Leave --device and --runtime out"),
        (["--int8", "--tile-px", "64"], "Leave --tile-px out"),
        pytest.param(
            ["--device", "cuda"],
            "Pass --device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_what_would_fail_with_every_slide_is_refused_at_once(
    flags: list[str], message: str, trained: Path, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", str(trained), str(slides), "--out", str(tmp_path / "out"), *flags]) == WRONG_USE
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_resolution_is_told_one_by_its_own_flag(
    trained: Path, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "run"
    shutil.copytree(trained, other)
    tree = json.loads((other / "model.json").read_text())
    tree["input"]["mpp"] = None
    (other / "model.json").write_text(json.dumps(tree))
    arguments = ["predict", str(other), str(slides / "a.tiff"), "--out", str(tmp_path / "out"), "--exports", "summary"]
    assert run(arguments) == WRONG_USE
    assert "as --model-mpp" in capsys.readouterr().err
    assert run([*arguments, "--model-mpp", "1"]) == OK


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
    assert code == SOME_FAILED
    assert set(found["done"]) == {"one", "two"}
    assert [(entry["slide"], entry["kind"]) for entry in found["failed"]] == [("line 4: slides/none.tiff", "Dropped")]
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
    assert json.loads((trained / "metrics_val.json").read_text()) == found
    assert found["model_digest"] == model_digest(trained)
    assert found["data_digest"] == open_patches(patches).digest()
    assert found["min_share"] == 0
    assert found["predict"]["overlap"] == 0.25
    assert "map_stride" not in found["predict"]
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


def test_mistakes_are_found_before_the_test_split_is_opened(
    trained: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "patches"
    other.mkdir()
    (other / "images").symlink_to(patches / "images")
    (other / "labels.csv").write_text((patches / "labels.csv").read_text().replace(",val,", ",test,"))
    run_folder = tmp_path / "run"
    shutil.copytree(trained, run_folder, ignore=shutil.ignore_patterns("test_opened.json"))
    arguments = ["evaluate", str(run_folder), "--data", str(other), "--split", "test"]
    for flags, message in (
        (["--precision", "16", "--device", "cpu"], "Pass --precision 32"),
        (["--halo-px", "1000"], "leaves nothing of a tile"),
        (["--mpp", "0.5"], "the model was trained at 1"),
        (["--map-stride", "2"], "Unknown option"),
    ):
        assert run([*arguments, *flags]) == WRONG_USE
        assert message in capsys.readouterr().err
    assert not (run_folder / "test_opened.json").exists()
    assert run([*arguments, "--mpp", "1.05"]) == OK
    assert run([*arguments, "--mpp", "1.04"]) == WRONG_USE, "another resolution makes no other dataset of it"


def test_synthetic_data_is_written_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--num-train", 4, "--num-val", 1, "--num-test", 1, "--patch-px", 32, "--num-patients", 3]
    code, found = answer(capsys, "synth", "patches", tmp_path / "p", "--layout", "bcss_wsss", *small)
    assert code == OK
    assert len(list((Path(found["patches"]) / "train").rglob("*.png"))) == 4
    few = ["--num-train", 3, "--num-val", 2, "--num-test", 2, "--num-patients", 6]
    code, found = answer(capsys, "synth", "tumours", tmp_path / "t", "--patch-px", 48, "--area-um", 1500, *few)
    assert code == OK
    assert (Path(found["tumours"]) / "labels.csv").read_text().count("\n") == 8
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


def test_a_demo_goes_on_only_with_its_own_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "demo.json").write_text(json.dumps({"size": asdict(QUICK), "seed": 0}))
    for flags in (["--quick", "--seed", "1"], []):
        assert run(["demo", "--out", str(tmp_path), *flags]) == WRONG_USE
        assert "another --out" in capsys.readouterr().err
    other = tmp_path / "other"
    (other / "patches").mkdir(parents=True)
    assert run(["demo", "--quick", "--out", str(other)]) == WRONG_USE
    assert "no demo.json" in capsys.readouterr().err


def test_only_verbs_that_go_on_say_so_when_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(psutil, "virtual_memory", interrupted)
    monkeypatch.setattr(np.random, "default_rng", interrupted)
    assert run(["doctor"]) == INTERRUPTED
    assert "goes on" not in capsys.readouterr().err
    assert run(["demo", "--quick", "--out", str(tmp_path / "demo")]) == INTERRUPTED
    assert "The same command goes on" in capsys.readouterr().err
