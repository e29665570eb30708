"""`counterstain train --method cascade`: from a diagnosis's run to a run that maps tissue."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from counterstain.cli import OK, SOME_FAILED, WRONG_USE, run
from counterstain.data.cohorts import CohortSlide
from counterstain.files import write_json
from counterstain.jobs.encode import EncodeJob, encode_cohort
from counterstain.methods import load_dense_method
from counterstain.testing.diagnosing import linear_method
from counterstain.testing.encoding import CELLS, CPU, NUCLEI, MeanEncoder, damage, draw_tissue
from counterstain.testing.slide_files import TiffDialect, write_tiff

SLIDES = {"n1": "train", "n2": "train", "t1": "train", "t2": "train", "n3": "val", "t3": "val"}
CELLS_OF = ("--sure", "1", "--most-tumour", "4", "--most-normal", "4", "--patch-px", "32")
QUICK = ("--preset", "small", "--epochs", "1", "--batch-size", "8")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides, their table, and the run of a method that diagnoses them."""
    folder = tmp_path_factory.mktemp("cohort")
    with (folder / "cohort.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "path", "patient_id", "label", "split"])
        for seed, (name, split) in enumerate(SLIDES.items()):
            image = draw_tissue(seed)
            if name.startswith("t"):
                image[NUCLEI.slices()][: int(NUCLEI.height) // 2, :, 0] //= 8
            write_tiff(folder / f"{name}.tiff", image, 1.0, TiffDialect(factors=()))
            writer.writerow([name, f"{name}.tiff", f"P{name}", "tumour" if name.startswith("t") else "normal", split])
    encoder, model = MeanEncoder(), folder / "run"
    entries = [CohortSlide(name, folder / f"{name}.tiff") for name in SLIDES]
    encode_cohort(entries, EncodeJob(model / "encoded", encoder, CELLS, CPU))
    sides = {side: [f"P{name}" for name, its in SLIDES.items() if its == side] for side in ("train", "val")}
    linear_method(encoder.spec).save(model, {"data": {"patients": sides}})
    write_json(model / "cohort.json", {"cohort": str(folder / "cohort.csv")})
    return folder


def train(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    code = run(["train", *(str(argument) for argument in arguments), "--method", "cascade"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else said.err


def test_a_diagnosis_becomes_a_map_and_its_cohort_need_not_be_named(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tissue"
    code, answer = train(capsys, out, "--slide-run", cohort / "run", *CELLS_OF, *QUICK, "--json")
    assert code == OK
    assert answer == {"run": str(out), "patches": {"tumour": 12, "normal": 24}, "failed": []}
    method = load_dense_method(out)
    assert method.classes.names == ("normal", "tumour")
    assert (method.input.tile_px, method.input.mpp) == (32, 0.5)
    before = (out / "model.safetensors").stat().st_mtime_ns
    code, said = train(capsys, out, "--slide-run", cohort / "run", "--cohort", cohort / "cohort.csv", *CELLS_OF, *QUICK)
    assert code == OK
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    assert f"counterstain predict {out}" in said


def test_a_slide_that_can_t_be_read_any_more_is_listed(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (*cohort.glob("*.tiff"), cohort / "cohort.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path / "t2.tiff")
    given = ("--slide-run", cohort / "run", "--cohort", tmp_path / "cohort.csv", "--json")
    code, answer = train(capsys, tmp_path / "tissue", *given, *CELLS_OF, *QUICK)
    assert (code, answer["failed"]) == (SOME_FAILED, ["t2"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset", "smalle"], "Did you mean 'small'"),
        (["--dense", "sshrr"], "Did you mean 'sshr'"),
        (["--sure", "0.2"], "must not be above"),
        (["--mpp", "0"], "--mpp"),
        (["--positive", "cancer"], "cancer"),
        (["--batch-size", "5000"], "Lower --batch-size"),
    ],
)
def test_what_can_t_be_meant_is_refused(
    flags: list[str], message: str, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = train(capsys, tmp_path / "tissue", "--slide-run", cohort / "run", *flags)
    assert code == WRONG_USE
    assert message in said
    assert not (tmp_path / "tissue" / "model.json").exists()


def test_a_run_that_is_none_or_that_forgot_its_cohort_is_refused(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = train(capsys, tmp_path / "tissue", "--slide-run", tmp_path, "--cohort", cohort / "cohort.csv")
    assert code == WRONG_USE
    assert "no model.json" in said
    code, said = train(capsys, tmp_path / "tissue", "--slide-run", tmp_path)
    assert code == WRONG_USE
    assert "--cohort TABLE.csv" in said
