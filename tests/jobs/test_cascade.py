"""From evidence to labelled patches: which cells get which label, what their patches show, and what is refused."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from counterstain.data import open_patches
from counterstain.data.cell_files import read_cells
from counterstain.data.cohorts import CohortSlide
from counterstain.data.diagnosis import Diagnosis, DiagnosisSlide
from counterstain.errors import InputError, StaleResultError
from counterstain.files import read_json, write_json
from counterstain.jobs.cascade import CascadeJob, CascadeSettings, Picked, cut_by_evidence, limits_of, pick
from counterstain.jobs.encode import EncodeJob, encode_cohort
from counterstain.methods import load_slide_method
from counterstain.slides import Pixels
from counterstain.testing.diagnosing import linear_method
from counterstain.testing.encoding import CELLS, CPU, NUCLEI, MeanEncoder, damage, draw_tissue
from counterstain.testing.evidence import DIAGNOSIS
from counterstain.testing.slide_files import TiffDialect, write_tiff

PATIENTS = {"n1": ("A", "train"), "n2": ("B", "val"), "t1": ("C", "train"), "t2": ("D", "val"), "new": ("E", "test")}
SETTINGS = CascadeSettings(sure=1.0, clear=0.5, most_tumour=5, most_normal=6, patch_px=16)
NAN = float("nan")


def pixels_of(name: str) -> Pixels:
    """Tissue; with tumour, the upper part of it has next to no red."""
    image = draw_tissue(list(PATIENTS).index(name))
    if name.startswith("t"):
        image[NUCLEI.slices()][: int(NUCLEI.height) // 2, :, 0] //= 8
    return image


def diagnosis_of(folder: Path, *names: str) -> Diagnosis:
    rows = [
        DiagnosisSlide(
            CohortSlide(name, folder / f"{name}.tiff"), int(name.startswith("t")), PATIENTS[name][0], PATIENTS[name][1]
        )
        for name in names or PATIENTS
    ]
    return Diagnosis(Path("cohort.csv"), DIAGNOSIS, tuple(rows), (), ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides, what they were encoded to, and the run of a method that little red speaks to."""
    folder = tmp_path_factory.mktemp("cascade")
    for name in PATIENTS:
        write_tiff(folder / f"{name}.tiff", pixels_of(name), 1.0, TiffDialect(factors=()))
    encoder = MeanEncoder()
    outcomes = encode_cohort(
        [row.entry for row in diagnosis_of(folder).rows], EncodeJob(folder / "encoded", encoder, CELLS, CPU)
    )
    assert not outcomes.failures
    sides = {side: [patient for patient, its in PATIENTS.values() if its == side] for side in ("train", "val")}
    linear_method(encoder.spec).save(folder / "run", {"data": {"patients": sides}})
    return folder


def job_of(folder: Path, out: Path, **changes: Any) -> CascadeJob:
    return replace(CascadeJob(folder / "run", folder / "encoded", out, SETTINGS), **changes)


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("patches") / "set"
    tree, failures = cut_by_evidence(diagnosis_of(folder), job_of(folder, out))
    assert failures == ()
    return out, tree


def evidence(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_limits_are_quantiles_of_what_was_observed_on_slides_without_tumour() -> None:
    negatives = [evidence(0.0, 1.0, NAN, 2.0), evidence(NAN, 3.0, 4.0)]
    assert limits_of(negatives, CascadeSettings(clear=0.5, sure=0.75)) == (2.0, 3.0)
    assert limits_of(negatives, CascadeSettings(clear=0.0, sure=1.0)) == (0.0, 4.0)


def test_on_a_slide_with_tumour_what_is_neither_sure_nor_clear_gets_no_label() -> None:
    found = pick(evidence(5.0, 2.5, NAN, 2.0, 1.0, 3.0), 1, (2.0, 3.0), SETTINGS)
    assert found.tumour == ((0, 0),)  # 3.0 is not above 3.0
    assert set(found.normal) == {(0, 3), (0, 4)}


def test_at_most_so_many_cells_and_those_with_most_evidence_are_tumour() -> None:
    found = pick(evidence(*range(10)), 1, (-1.0, 2.0), replace(SETTINGS, most_tumour=3))
    assert found == Picked(((0, 9), (0, 8), (0, 7)), ())


def test_every_cell_of_a_slide_without_tumour_may_be_normal_and_the_hardest_half_is() -> None:
    found = pick(evidence(*range(20)), 0, (2.0, 3.0), replace(SETTINGS, most_normal=6))
    assert found.tumour == ()
    assert found.normal[:3] == ((0, 19), (0, 18), (0, 17))
    assert len(set(found.normal)) == 6
    others = [pick(evidence(*range(20)), 0, (2.0, 3.0), replace(SETTINGS, seed=seed)).normal for seed in range(4)]
    assert len(set(others)) > 1, "the rest is drawn"
    assert pick(evidence(1.0, NAN), 0, (0.0, 0.0), SETTINGS).normal == ((0, 0),)


def test_patches_show_their_cell_and_nothing_around_it(folder: Path, made: tuple[Path, dict[str, Any]]) -> None:
    out, _ = made
    patches = sorted((out / "images").iterdir())
    assert patches
    for path in patches:
        name, row, column = path.stem.rsplit("_", 2)
        frame = read_cells(folder / "encoded" / name).frame
        x, y = int(frame.origin.x) + 16 * int(column), int(frame.origin.y) + 16 * int(row)
        assert np.array_equal(np.asarray(Image.open(path)), pixels_of(name)[y : y + 16, x : x + 16]), path.name


def test_cells_with_more_evidence_than_any_normal_slide_s_are_the_tumour(
    folder: Path, made: tuple[Path, dict[str, Any]]
) -> None:
    out, tree = made
    method = load_slide_method(folder / "run")
    from counterstain.data.encoded_files import read_encoded

    maps = {name: method.evidence(read_encoded(folder / "encoded" / name, "mean")) for name in PATIENTS}
    most = max(float(np.nanmax(maps[name])) for name in ("n1", "n2"))
    assert tree["limits"]["sure"] == pytest.approx(most)
    for row in rows_of(out):
        name, y, x = Path(row["image"]).stem.rsplit("_", 2)
        is_sure = maps[name][int(y), int(x)] > most
        assert (row["normal"], row["tumour"]) == (("0", "1") if is_sure else ("1", "0"))
        if is_sure:
            frame = read_cells(folder / "encoded" / name).frame
            assert frame.origin.y + 16 * int(y) < NUCLEI.y + NUCLEI.height / 2, "where the red was taken away"


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "labels.csv").open() as file:
        return list(csv.DictReader(file))


def test_slides_keep_their_side_and_others_are_left_alone(made: tuple[Path, dict[str, Any]]) -> None:
    out, tree = made
    by_slide: dict[str, set[tuple[str, str, str]]] = {}
    for row in rows_of(out):
        name = Path(row["image"]).stem.rsplit("_", 2)[0]
        by_slide.setdefault(name, set()).add((row["patient"], row["split"], row["tumour"]))
    assert by_slide == {
        "n1": {("A", "train", "0")},
        "n2": {("B", "val", "0")},
        "t1": {("C", "train", "0"), ("C", "train", "1")},
        "t2": {("D", "val", "0"), ("D", "val", "1")},
    }
    assert tree["slides"]["t1"]["tumour"] == 5
    assert tree["slides"]["n2"] == {"split": "val", "label": 0, "tumour": 0, "normal": 6}


def test_the_set_opens_as_any_other_and_holds_no_mask(made: tuple[Path, dict[str, Any]]) -> None:
    out, tree = made
    data = open_patches(out, "table")
    assert data.classes == DIAGNOSIS
    assert data.mpp == pytest.approx(1.0)
    assert any("no patch was looked at" in note for note in data.notes)
    for records in (data.train, data.val):
        assert {record.label for record in records} == {(0, 1), (1, 0)}
        assert not any(record.has_truth for record in records)
    assert data.test == ()
    assert {path.name for path in out.iterdir()} == {"images", "labels.csv", "classes.toml", "cascade.json"}
    assert read_json(out / "cascade.json") == json.loads(json.dumps(tree))


def test_what_a_kill_left_is_finished_and_what_is_there_is_kept(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder, tmp_path / "set")
    tree, _ = cut_by_evidence(diagnosis_of(folder), job)
    table = (job.out / "labels.csv").read_text()
    first, *others = sorted((job.out / "images").iterdir())
    kept = {path: path.stat().st_mtime_ns for path in others}
    first.unlink()
    (job.out / "labels.csv").unlink()
    write_json(job.out / "cascade.json", {"inputs_hash": tree["inputs_hash"]})
    again, _ = cut_by_evidence(diagnosis_of(folder), job)
    assert (again, (job.out / "labels.csv").read_text()) == (tree, table)
    assert first.exists()
    assert {path: path.stat().st_mtime_ns for path in others} == kept
    with pytest.raises(StaleResultError, match="of another run, other slides or settings"):
        cut_by_evidence(diagnosis_of(folder), replace(job, settings=replace(SETTINGS, patch_px=32)))
    with pytest.raises(StaleResultError, match="of another run, other slides or settings"):
        cut_by_evidence(diagnosis_of(folder, "n1", "t1", "t2"), job)


def test_a_slide_that_can_t_be_read_is_listed_and_has_no_patches(folder: Path, tmp_path: Path) -> None:
    for name in PATIENTS:
        (tmp_path / f"{name}.tiff").write_bytes((folder / f"{name}.tiff").read_bytes())
    damage(tmp_path / "t2.tiff")
    tree, failures = cut_by_evidence(diagnosis_of(tmp_path), job_of(folder, tmp_path / "set"))
    assert [one.slide_id for one in failures] == ["t2"]
    assert set(tree["slides"]) == {"n1", "n2", "t1"}
    assert not any("t2_" in row["image"] for row in rows_of(tmp_path / "set"))


def test_a_run_that_finds_nothing_is_refused(folder: Path, tmp_path: Path) -> None:
    diagnosis = diagnosis_of(folder, "n1", "n2", "t1")
    rows = [replace(row, label=1 - row.label) if row.slide_id != "n2" else row for row in diagnosis.rows]
    with pytest.raises(InputError, match="found nothing to show"):
        cut_by_evidence(replace(diagnosis, rows=tuple(rows)), job_of(folder, tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def test_slides_of_another_cohort_or_another_encoder_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few slides that"):
        cut_by_evidence(diagnosis_of(folder, "n1", "new"), job_of(folder, tmp_path / "set"))
    (tmp_path / "encoded" / "t1").mkdir(parents=True)
    (tmp_path / "encoded" / "t1" / "error.txt").write_text("it failed when it was encoded")
    with pytest.raises(InputError, match="--encoded"):
        cut_by_evidence(diagnosis_of(folder), job_of(folder, tmp_path / "set", encoded=tmp_path / "encoded"))
    entries = [row.entry for row in diagnosis_of(folder, "n1", "t1").rows]
    encode_cohort(entries, EncodeJob(tmp_path / "other", MeanEncoder(digest="2"), CELLS, CPU))
    with pytest.raises(InputError, match="another mean"):
        cut_by_evidence(diagnosis_of(folder), job_of(folder, tmp_path / "set", encoded=tmp_path / "other"))


def test_slides_whose_patches_would_share_a_name_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "1").symlink_to(folder / "encoded" / "t1")
    for name in ("n1", "t1", "t_1"):
        (tmp_path / name).symlink_to(folder / "encoded" / name.replace("_", ""))
    diagnosis = diagnosis_of(folder, "n1", "t1")
    same = [
        replace(diagnosis.rows[1], entry=replace(diagnosis.rows[1].entry, slide_id=name)) for name in ("t/1", "t_1")
    ]
    with pytest.raises(InputError, match=r"(?s)differ in / and _ alone.*t/1.*t_1"):
        cut_by_evidence(
            replace(diagnosis, rows=(*diagnosis.rows, *same)), job_of(folder, tmp_path / "set", encoded=tmp_path)
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sure": 0.4}, "must not be above"),
        ({"sure": 1.1}, "Quantiles"),
        ({"clear": -0.1}, "Quantiles"),
        ({"most_tumour": 0}, "1 or more"),
        ({"patch_px": 0}, "1 or more"),
    ],
)
def test_settings_out_of_their_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CascadeSettings(**settings)
