import importlib.util
import json
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile

from counterstain.data import open_patches, read_image
from counterstain.data.annotations import read_asap
from counterstain.data.table import TABLE
from counterstain.errors import ExistingOutputError, InputError, StaleResultError
from counterstain.geometry import Frame, Point, Size
from counterstain.slides import open_slide
from counterstain.testing.processes import exit_code
from counterstain.testing.slide_cohorts import PATCH_PX, FakeCamelyon16, write_asap, write_camelyon16


def killed_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("killed_prepare", Path(__file__).with_name("killed.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KILLED = killed_module()
SETTINGS, make = KILLED.SETTINGS, KILLED.make


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> FakeCamelyon16:
    return write_camelyon16(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def made(cohort: FakeCamelyon16, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    make(cohort.folder, out)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def place_of(image: Path) -> tuple[str, Frame]:
    name, x, y = image.stem.rsplit("_", 2)
    return name, Frame(Point(int(x), int(y)), 1.0, 1.0, Size(PATCH_PX, PATCH_PX))


def test_what_is_made_opens_as_a_dataset(made: Path, cohort: FakeCamelyon16) -> None:
    dataset = open_patches(made)
    assert dataset.classes.names == ("normal", "tumour")
    assert dataset.classes.background == "normal"
    assert dataset.mpp == 1.0
    for split, records in dataset.splits.items():
        labels = Counter(record.label for record in records)
        assert labels[(0, 1)] == labels[(1, 0)] > 5, split
        for record in records:
            assert (record.mask is None) == (split == "train")
    assert {record.patient for record in dataset.test} <= {"test_001", "test_002"}
    assert not dataset.shared_patients
    for record in dataset.val[::7]:
        name, frame = place_of(record.image)
        with open_slide(cohort.slides[name]) as slide:
            assert np.array_equal(read_image(record.image), slide.read_resized(frame.box, frame.size))


def test_labels_and_masks_are_what_was_drawn(made: Path, cohort: FakeCamelyon16) -> None:
    dataset = open_patches(made)
    files = {path.stem: path for path in cohort.folder.rglob("*.xml")}
    for records in dataset.splits.values():
        for record in records:
            name, frame = place_of(record.image)
            drawn = read_asap(files[name]).mask(frame) if name in files else np.zeros((PATCH_PX, PATCH_PX), bool)
            if record.label == (1, 0):
                assert not drawn.any()
            else:
                assert SETTINGS.min_fraction <= drawn.mean()
            if record.mask is not None:
                assert np.array_equal(dataset.read_mask(record), drawn)


def test_no_mask_of_a_training_patch_is_on_disk(made: Path) -> None:
    dataset = open_patches(made)
    masks = {path.name for path in (made / "masks").iterdir()}
    assert masks == {record.image.name for record in (*dataset.val, *dataset.test)}
    assert not masks & {record.image.name for record in dataset.train}
    listed = {record.image.name for records in dataset.splits.values() for record in records}
    assert {path.name for path in (made / "images").iterdir()} == listed


def test_the_report_counts_what_was_made(made: Path) -> None:
    report = json.loads((made / "prepare.json").read_text())
    dataset = open_patches(made)
    for split, counts in report["splits"].items():
        assert counts["tumour"] == sum(report["tumour_fractions"][split])
        assert counts["tumour"] + counts["normal"] == len(dataset.splits[split])
        assert sum(report["tumour_fractions"][split][:2]) == 0  # below the 20 % that a tumour patch needs
        assert counts["too_little_tumour"] > 0
    assert any("simulated from drawn tumour" in note for note in dataset.notes)


def test_a_killed_run_goes_on_to_the_same_folder(made: Path, cohort: FakeCamelyon16, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = Path(__file__).with_name("killed.py")
    assert exit_code(script, cohort.folder, out, 30) == -signal.SIGKILL
    assert not (out / TABLE).exists()
    cut = {path: path.stat().st_mtime_ns for path in (out / "images").glob("[!.]*")}
    assert len(cut) == 30
    assert list((out / "images").glob(".*"))  # what it was writing
    make(cohort.folder, out)
    assert {path: path.stat().st_mtime_ns for path in cut} == cut
    assert contents(out) == contents(made)


def test_a_damaged_ledger_of_surveys_is_made_again(made: Path, cohort: FakeCamelyon16, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    survey = out / "ledger" / "tumor_001" / "survey.json"
    survey.write_bytes(survey.read_bytes()[:100])
    image = next((out / "images").glob("tumor_001_*"))
    (out / "images" / f".{image.stem}-a1_b2c3d.png").write_bytes(b"half a patch")
    make(cohort.folder, out)
    assert contents(out) == contents(made)


def test_hidden_files_of_somebody_else_stay(made: Path, cohort: FakeCamelyon16, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    image = next((out / "images").glob("tumor_001_*"))
    theirs = [out / ".my-notes.txt", out / ".labels-old.csv", out / "images" / f".{image.stem}-mine.png"]
    for path in theirs:
        path.write_text("mine")
    make(cohort.folder, out)
    assert all(path.read_text() == "mine" for path in theirs)


def test_a_damaged_plan_is_refused_with_what_to_do(made: Path, cohort: FakeCamelyon16, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    plan = out / "ledger" / "plan.json"
    plan.write_bytes(plan.read_bytes()[:100])
    with pytest.raises(StaleResultError, match=r"plan.json' is damaged.*another folder"):
        make(cohort.folder, out)


def test_another_recipe_is_refused_and_cut_anew_when_asked(made: Path, cohort: FakeCamelyon16, tmp_path: Path) -> None:
    out, other = tmp_path / "a" / "out", tmp_path / "b" / "out"
    shutil.copytree(made, out)
    changed = replace(SETTINGS, min_fraction=0.5, seed=3)
    with pytest.raises(StaleResultError, match=r"min_fraction: 0.2, now 0.5[\s\S]*seed: 0, now 3"):
        make(cohort.folder, out, changed)
    assert contents(out) == contents(made)
    make(cohort.folder, out, changed, overwrite=True)
    make(cohort.folder, other, changed)
    assert contents(out) == contents(other)
    smaller = replace(changed, patch_px=32)
    make(cohort.folder, out, smaller, overwrite=True)
    shutil.rmtree(other)
    make(cohort.folder, other, smaller)
    assert contents(out) == contents(other)


def test_a_slide_that_changed_is_listed_until_it_may_be_cut_anew(tmp_path: Path) -> None:
    cohort, out = write_camelyon16(tmp_path / "cohort"), tmp_path / "out"
    make(cohort.folder, out)
    drawn = next(cohort.folder.rglob("tumor_001.xml"))
    write_asap(drawn, (("_0", ((64, 64), (192, 64), (192, 160), (64, 160))),))
    report = make(cohort.folder, out)
    assert [(one["slide"], one["kind"]) for one in report["failed"]] == [("tumor_001", "StaleResultError")]
    assert "tumor_001" not in report["slides"]
    assert make(cohort.folder, out, overwrite=True)["failed"] == []
    rows = [line for line in (out / TABLE).read_text().splitlines() if line.startswith("images/tumor_001")]
    cut = {path.name for path in (out / "images").glob("tumor_001_*")}
    assert {Path(row.split(",")[0]).name for row in rows} == cut
    assert all(int(name.split("_")[2]) < 192 for name in cut)


def test_a_slide_that_can_t_be_read_is_listed_and_the_others_are_cut(tmp_path: Path) -> None:
    cohort, out = write_camelyon16(tmp_path / "cohort", num_normal=3), tmp_path / "out"
    cohort.slides["normal_001"].write_bytes(b"no slide")
    write_asap(cohort.slides["normal_002"].with_suffix(".xml"), (("_0", ((0, 0), (99, 0), (99, 99))),))
    next(cohort.folder.rglob("test_002.xml")).write_text("<half")
    report = make(cohort.folder, out, replace(SETTINGS, fractions=(1.0, 0.0, 0.0)))
    reasons = {one["slide"]: one["reason"] for one in report["failed"]}
    assert reasons.keys() == {"normal_001", "normal_002", "test_002"}
    assert "labelled normal" in reasons["normal_002"]
    assert "test_002.xml" in reasons["test_002"]
    assert "Traceback" in (out / "ledger" / "normal_001" / "error.txt").read_text()
    assert report["splits"]["train"]["tumour"] > 10
    assert any("test slides gave no tumour patch" in note for note in report["notes"])
    assert open_patches(out).train


def tear(path: Path) -> None:
    """Damages all but the first third of a slide's tiles; its overview stays whole."""
    torn = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        starts, counts = file.pages[0].dataoffsets, file.pages[0].databytecounts
    for start, count in list(zip(starts, counts, strict=True))[len(starts) // 3 :]:
        torn[start : start + count] = bytes(count)  # the overview is another level, and whole
    path.write_bytes(torn)


def test_no_set_is_made_when_no_tumour_slide_can_be_cut(tmp_path: Path) -> None:
    """Normal patches alone would be a whole table, and teach nothing."""
    cohort, out = write_camelyon16(tmp_path / "cohort", 1, 1, 0), tmp_path / "out"
    tear(cohort.slides["tumor_001"])
    with pytest.raises(InputError, match=r"No tumour patch was found or could be cut(.|\n)*tumor_001: "):
        make(cohort.folder, out, replace(SETTINGS, fractions=(1.0, 0.0, 0.0)))
    assert not (out / TABLE).exists()


def test_a_hole_drawn_on_a_normal_slide_contradicts_its_label(tmp_path: Path) -> None:
    """Tumour may have been drawn in the wrong group, and a hole on a slide without tumour says nothing else."""
    cohort, out = write_camelyon16(tmp_path / "cohort", 1, 2, 0), tmp_path / "out"
    write_asap(cohort.slides["normal_002"].with_suffix(".xml"), (("_2", ((80, 80), (399, 80), (399, 399))),))
    (failed,) = make(cohort.folder, out, replace(SETTINGS, fractions=(1.0, 0.0, 0.0)))["failed"]
    assert failed["slide"] == "normal_002"
    assert "labelled normal, but something is drawn" in failed["reason"]


def test_a_slide_that_breaks_while_it_is_cut_stays_out_of_the_table(tmp_path: Path) -> None:
    cohort, out = write_camelyon16(tmp_path / "cohort", num_tumour=3), tmp_path / "out"
    tear(cohort.slides["tumor_002"])
    report = make(cohort.folder, out, replace(SETTINGS, fractions=(1.0, 0.0, 0.0)))
    assert [(one["slide"], one["kind"]) for one in report["failed"]] == [("tumor_002", "DamagedSlideError")]
    assert {record.patient for record in open_patches(out).train if record.label == (0, 1)} == {
        "tumor_001",
        "tumor_003",
    }
    assert report["splits"]["train"]["tumour"] == sum(report["tumour_fractions"]["train"])


def test_nothing_of_somebody_else_is_replaced(made: Path, cohort: FakeCamelyon16, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ExistingOutputError, match="not made here"):
        make(cohort.folder, tmp_path / "full")
    out = tmp_path / "out"
    shutil.copytree(made, out)
    image = sorted((out / "images").glob("tumor_001_*"))[0]
    image.write_bytes(b"mine")
    (out / "ledger" / "tumor_001" / "cut.json").unlink()
    report = make(cohort.folder, out)
    assert [one["kind"] for one in report["failed"]] == ["ExistingOutputError"]
    assert image.read_bytes() == b"mine"


def test_slides_that_came_later_are_added_and_ones_that_went_are_missed(tmp_path: Path) -> None:
    cohort, out = write_camelyon16(tmp_path / "cohort", num_test=2), tmp_path / "out"
    make(cohort.folder, out)
    more = write_camelyon16(tmp_path / "more", 2, 2, 4)
    report = make(more.folder, out)
    assert report["splits"]["test"]["slides"] == 4
    for name in ("test_003", "test_004"):
        more.slides[name].unlink()
        for path in more.folder.rglob(f"{name}.xml"):
            path.unlink()
    with pytest.raises(StaleResultError, match="test_003 is not to be cut any more"):
        make(more.folder, out)
    make(more.folder, out, overwrite=True)
    assert not list(out.rglob("test_003*"))
    open_patches(out)


def test_a_cohort_without_tumour_makes_nothing(tmp_path: Path) -> None:
    cohort = write_camelyon16(tmp_path / "cohort", 0, 2, 0)
    with pytest.raises(InputError, match="No tumour patch"):
        make(cohort.folder, tmp_path / "out")
    assert not (tmp_path / "out" / TABLE).exists()
