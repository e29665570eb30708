"""Diagnoses of slides as files: what they say, that they are made once, and that nothing stale is kept."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from counterstain import log
from counterstain.data.cohorts import CohortSlide, Dropped
from counterstain.data.encoded_files import read_encoded, read_header
from counterstain.errors import ExistingOutputError, InputError, MissingFileError, StaleResultError
from counterstain.export import read_geojson
from counterstain.export.heat import HeatSettings
from counterstain.export.top_tiles import TopTileSettings
from counterstain.geometry import Box
from counterstain.infer.cells import CellSettings, find_cells
from counterstain.infer.encode import encode_slide
from counterstain.infer.evidence import EvidenceMap
from counterstain.jobs.diagnose import FILES, TABLE, DiagnoseJob, diagnose_all, diagnose_slide
from counterstain.jobs.encode import EncodeJob, encode_cohort
from counterstain.methods import DSNet
from counterstain.methods.slide_decision import Decision
from counterstain.methods.slide_method import Seen
from counterstain.settings import to_tree
from counterstain.slides import open_slide
from counterstain.testing.diagnosing import CALIBRATED, linear_method
from counterstain.testing.encoding import CELLS, CPU, MeanEncoder, damage, write_tissue
from counterstain.tissue import find_tissue


@pytest.fixture
def entry(tmp_path: Path) -> CohortSlide:
    return CohortSlide("a", write_tissue(tmp_path / "a.tiff"))


@pytest.fixture
def job(tmp_path: Path) -> DiagnoseJob:
    encoder = MeanEncoder()
    small = {"heat": HeatSettings(panel_px=100), "top": TopTileSettings(count=3, tile_px=60)}
    return DiagnoseJob(
        linear_method(encoder.spec), "run 1", tmp_path / "out", encoder, cells=CELLS, encode=CPU, **small
    )


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / TABLE).open() as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_slide_s_score_is_the_one_worked_out_by_hand(entry: CohortSlide, job: DiagnoseJob) -> None:
    answer = diagnose_slide(entry, job)
    encoded = read_encoded(job.out / "a", "mean")
    red = encoded.features_NC[:, 0].astype(np.float64).mean()
    assert answer["logit"] == pytest.approx(3 - 4 * red, abs=1e-3)
    assert answer["probability"] == pytest.approx(1 / (1 + math.exp(-answer["logit"] / 2)), abs=1e-6)
    assert answer["decision"] is None, "0.6 rules neither class out"
    assert answer["abstains"]
    assert answer["prediction_set"] == ["normal", "tumour"]
    assert (answer["temperature"], answer["threshold"], answer["promised_error"]) == (2.0, 0.5, 0.1)
    assert answer["local_share"] is None, "the method has no two streams"
    assert answer["num_cells"] == len(encoded.cells_N2)
    assert answer["slide"]["mpp_source"] == "tiff tags"
    on_disk = json.loads((job.out / "a" / "score.json").read_text())
    assert on_disk == {key: value for key, value in answer.items() if key != "files"}


def test_every_file_is_there_and_of_the_same_inputs(entry: CohortSlide, job: DiagnoseJob) -> None:
    answer = diagnose_slide(entry, job)
    assert set(answer["files"]) == set(FILES)
    for path in answer["files"].values():
        assert Path(path).exists()
    for name in ("heat_map", "heat_tiles", "heat_ome_tiff", "top_tiles"):
        assert answer["inputs_hash"].encode() in Path(answer["files"][name]).read_bytes()
    assert EvidenceMap.open(answer["files"]["evidence"]).inputs_hash == answer["inputs_hash"]


def test_evidence_on_disk_is_the_method_s_own_at_the_cells_own_places(entry: CohortSlide, job: DiagnoseJob) -> None:
    answer = diagnose_slide(entry, job)
    encoded = read_encoded(job.out / "a", "mean")
    evidence = EvidenceMap.open(answer["files"]["evidence"])
    wanted = job.method.evidence(encoded)
    assert np.array_equal(evidence.evidence_HW, wanted, equal_nan=True)
    assert np.array_equal(np.isfinite(wanted), encoded.observed)
    row, column = np.unravel_index(np.nanargmax(wanted), wanted.shape)
    place = encoded.frame.to_level0(Box(int(column), int(row), 1, 1))
    tiles = read_geojson(answer["files"]["heat_tiles"])
    best = max(tiles, key=lambda tile: tile.measurements["Evidence: tumour"])
    assert best.geometry.bounds == pytest.approx((place.x, place.y, place.right, place.bottom))
    assert best.measurements["Evidence: tumour"] == float(wanted[row, column])
    assert np.array_equal(tifffile.imread(answer["files"]["heat_ome_tiff"]).squeeze(), wanted, equal_nan=True)
    with Path(answer["files"]["top_table"]).open() as file:
        first = next(csv.DictReader(file))
    assert (float(first["x"]), float(first["y"])) == (place.x, place.y)


def test_what_is_done_is_not_done_again(entry: CohortSlide, job: DiagnoseJob) -> None:
    first = diagnose_slide(entry, job)
    before, num_batches = times(job.out), job.encoder.num_batches  # type: ignore[union-attr]
    assert diagnose_slide(entry, job) == first
    assert times(job.out) == before
    assert job.encoder.num_batches == num_batches  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "lost", [["heatmap.png"], ["evidence.zarr"], [name for name in FILES.values() if name != "score.json"]]
)
def test_what_a_kill_left_is_finished_with_the_same_files(
    entry: CohortSlide, job: DiagnoseJob, lost: list[str]
) -> None:
    diagnose_slide(entry, job)
    folder = job.out / "a"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in lost:
        shutil.rmtree(folder / name) if name.endswith(".zarr") else (folder / name).unlink()
    diagnose_slide(entry, job)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_diagnosis_of_another_run_is_refused_and_replaced_when_told_to(entry: CohortSlide, job: DiagnoseJob) -> None:
    diagnose_slide(entry, job)
    before = times(job.out)
    other = replace(
        job, model_digest="run 2", method=linear_method(job.method.encoder, replace(CALIBRATED, temperature=1.0))
    )
    with pytest.raises(StaleResultError, match="--overwrite"):
        diagnose_slide(entry, other)
    assert times(job.out) == before
    answer = diagnose_slide(entry, replace(other, encode=replace(CPU, overwrite=True)))
    assert answer["temperature"] == 1
    assert EvidenceMap.open(answer["files"]["evidence"]).inputs_hash == answer["inputs_hash"]
    diagnose_slide(entry, other)


def test_a_diagnosis_of_another_slide_is_refused(entry: CohortSlide, job: DiagnoseJob, tmp_path: Path) -> None:
    diagnose_slide(entry, job)
    with pytest.raises(StaleResultError, match="--overwrite"):
        diagnose_slide(replace(entry, path=write_tissue(tmp_path / "b.tiff", seed=1)), job)


def test_a_slide_that_was_moved_keeps_its_diagnosis(entry: CohortSlide, job: DiagnoseJob, tmp_path: Path) -> None:
    first = diagnose_slide(entry, job)
    moved = entry.path.rename(tmp_path / "moved.tiff")
    assert diagnose_slide(replace(entry, path=moved), job) == first


def test_a_file_that_is_somebody_else_s_is_never_replaced_silently(entry: CohortSlide, job: DiagnoseJob) -> None:
    (job.out / "a").mkdir(parents=True)
    (job.out / "a" / "heatmap.png").write_text("work of a week")
    with pytest.raises(ExistingOutputError, match="Move it away"):
        diagnose_slide(entry, job)
    assert (job.out / "a" / "heatmap.png").read_text() == "work of a week"


def test_a_damaged_slide_fails_alone(job: DiagnoseJob, tmp_path: Path) -> None:
    slides = [
        CohortSlide("damaged", damage(write_tissue(tmp_path / "damaged.tiff"))),
        CohortSlide("deep/b", write_tissue(tmp_path / "b.tiff", seed=1)),
        CohortSlide("no_mpp", write_tissue(tmp_path / "c.tiff", seed=2, mpp=None)),
    ]
    outcomes = diagnose_all(slides, job, [Dropped("line 7: d.tiff", "the file\nis not there")])
    assert list(outcomes.done) == ["deep/b"]
    assert [one.slide_id for one in outcomes.failures] == ["damaged", "no_mpp"]
    rows = rows_of(job.out)
    assert list(rows) == ["deep/b", "damaged", "no_mpp", "line 7: d.tiff"]
    assert rows["deep/b"]["reason"] == ""
    assert rows["deep/b"]["heat_map"] == "deep/b/heatmap.png"
    assert (job.out / rows["deep/b"]["heat_map"]).exists()
    assert float(rows["deep/b"]["probability"]) == pytest.approx(outcomes.done["deep/b"]["probability"], rel=1e-5)
    assert rows["deep/b"]["decision"] == "no decision"
    assert rows["deep/b"]["prediction_set"] == "normal; tumour"
    assert "damaged" in rows["damaged"]["reason"]
    assert "--mpp" in rows["no_mpp"]["reason"]
    assert rows["line 7: d.tiff"]["reason"] == "the file is not there"
    assert rows["damaged"]["probability"] == "", "what is not known is left empty"
    assert (job.out / "damaged" / "error.txt").exists()


def test_how_far_a_batch_has_come_is_said_now_and_then(
    job: DiagnoseJob, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_LINE_EVERY_S", 0.0)
    slides = [CohortSlide(name, tmp_path / name) for name in ("gone.tiff", "neither.tiff")]
    diagnose_all(slides, job)
    assert "Done with neither.tiff: 2/2 slides" in capsys.readouterr().err


def test_the_table_keeps_slides_that_were_done_before(job: DiagnoseJob, tmp_path: Path) -> None:
    slides = [
        CohortSlide(name, write_tissue(tmp_path / f"{name}.tiff", seed=number)) for number, name in enumerate("ab")
    ]
    diagnose_all(slides[:1], job)
    before = rows_of(job.out)["a"]
    diagnose_all(slides[1:], job)
    assert list(rows_of(job.out)) == ["a", "b"]
    assert rows_of(job.out)["a"] == before
    assert before["probability_of"] == "tumour"
    path = job.out / TABLE
    path.write_text(path.read_text().replace("probability_of,", "").replace(",tumour,", ",", 2))
    diagnose_all(slides[1:], job)
    assert rows_of(job.out)["a"] == before | {"probability_of": ""}, "a table of an earlier version is gone on with"
    other = replace(job, model_digest="2" * 64, encode=replace(CPU, overwrite=True))
    diagnose_all(slides[1:], other)
    assert {slide: row["run"] for slide, row in rows_of(job.out).items()} == {"a": "run 1", "b": "2" * 8}
    shutil.rmtree(job.out / "a")
    diagnose_all(slides[1:], other)
    assert list(rows_of(job.out)) == ["b"], "but not those that are gone"


def test_slides_encoded_elsewhere_are_taken_from_there(entry: CohortSlide, job: DiagnoseJob, tmp_path: Path) -> None:
    elsewhere = replace(job, encoder=None, cells=None, encoded=tmp_path / "encoded")
    with pytest.raises(MissingFileError, match="Encode the slide"):
        diagnose_slide(entry, elsewhere)
    with open_slide(entry.path) as slide:
        encode_slide(slide, MeanEncoder(), tmp_path / "encoded" / "a", CELLS, CPU)
    answer = diagnose_slide(entry, elsewhere)
    assert answer["probability"] == diagnose_slide(entry, replace(job, out=tmp_path / "other"))["probability"]
    assert not (job.out / "a" / "cells.zarr").exists()
    other = replace(entry, path=write_tissue(tmp_path / "b.tiff", seed=1))
    with pytest.raises(StaleResultError, match="another slide"):
        diagnose_slide(other, replace(elsewhere, out=tmp_path / "third"))


def test_embeddings_of_another_encoder_or_cell_are_refused(
    entry: CohortSlide, job: DiagnoseJob, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="weights that made those"):
        replace(job, encoder=MeanEncoder(digest="2"))
    with pytest.raises(InputError, match="cells of 16 um; 32 were given"):
        replace(job, cells=replace(CELLS, cell_um=32.0))
    with open_slide(entry.path) as slide:
        encode_slide(slide, MeanEncoder(digest="2"), tmp_path / "encoded" / "a", CELLS, CPU)
    with pytest.raises(InputError, match="Encode it likewise"):
        diagnose_slide(entry, replace(job, encoder=None, cells=None, encoded=tmp_path / "encoded"))


def learned_from(job: DiagnoseJob, cells: CellSettings, out: Path) -> DiagnoseJob:
    """A job whose method learned from cells that were chosen so."""
    method = linear_method(job.method.encoder)
    method.seen = replace(method.seen, chosen=told(cells))
    return replace(job, method=method, cells=None, out=out)


def told(cells: CellSettings) -> dict[str, Any]:
    """As it comes back from disk."""
    return {name: value for name, value in json.loads(json.dumps(to_tree(cells))).items() if name != "cell_um"}


def test_cells_are_chosen_as_the_method_learned_from_them(entry: CohortSlide, job: DiagnoseJob, tmp_path: Path) -> None:
    otsu = replace(CELLS, filter="otsu", min_tissue=0.5)
    learned = learned_from(job, otsu, tmp_path / "learned")
    assert learned.cell_settings == otsu
    answer = diagnose_slide(entry, learned)
    with open_slide(entry.path) as slide:
        assert answer["num_cells"] == np.count_nonzero(find_cells(slide, otsu).observed_HW)
        assert answer["num_cells"] != np.count_nonzero(find_cells(slide, CELLS).observed_HW)
    for other in (CELLS, replace(otsu, min_tissue=0.25), replace(otsu, tissue=replace(otsu.tissue, min_area_um2=1e4))):
        with pytest.raises(InputError, match=r"chosen by 'otsu' \(at least 0.5 of tissue"):
            replace(learned, cells=other)


def test_encoded_slides_whose_cells_were_chosen_otherwise_are_refused(
    entry: CohortSlide, job: DiagnoseJob, tmp_path: Path
) -> None:
    otsu = replace(CELLS, filter="otsu")
    with open_slide(entry.path) as slide:
        encode_slide(slide, MeanEncoder(), tmp_path / "encoded" / "a", CELLS, CPU)
    learned = learned_from(job, otsu, tmp_path / "learned")
    with pytest.raises(InputError, match="chosen by 'otsu'"):
        diagnose_slide(entry, replace(learned, encoder=None, encoded=tmp_path / "encoded"))
    alike = learned_from(job, CELLS, tmp_path / "alike")
    assert not diagnose_slide(entry, replace(alike, encoder=None, encoded=tmp_path / "encoded"))["warnings"]
    imported = linear_method(job.method.encoder)
    imported.seen = replace(imported.seen, chosen={"filter": "imported"})
    elsewhere = replace(job, method=imported, cells=None, encoder=None, encoded=tmp_path / "encoded")
    assert "learned from were chosen by 'imported'" in diagnose_slide(entry, elsewhere)["warnings"][0]


def test_to_replace_a_diagnosis_replaces_nothing_in_a_folder_of_encoded_slides(
    entry: CohortSlide, job: DiagnoseJob, tmp_path: Path
) -> None:
    shared = replace(job, encoded=tmp_path / "encoded", encode=replace(CPU, overwrite=True))
    with open_slide(entry.path) as slide:
        encode_slide(slide, MeanEncoder(), tmp_path / "encoded" / "a", replace(CELLS, filter="otsu"), CPU)
    before = times(tmp_path / "encoded")
    with pytest.raises(StaleResultError, match="counterstain encode --overwrite"):
        diagnose_slide(entry, shared)
    assert times(tmp_path / "encoded") == before
    diagnose_slide(entry, replace(shared, cells=replace(CELLS, filter="otsu")))
    diagnose_slide(entry, replace(shared, cells=replace(CELLS, filter="otsu"), model_digest="run 2"))
    assert times(tmp_path / "encoded") == before


def test_an_outline_is_refused_where_nothing_is_encoded(job: DiagnoseJob, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Leave the outline"):
        replace(job, encoder=None, cells=None, encoded=tmp_path, outline=tmp_path / "nothing.geojson")
    with pytest.raises(InputError, match="choice of cells"):
        replace(job, encoder=None, encoded=tmp_path)


def test_an_outline_is_read_with_the_settings_that_it_was_encoded_with(
    entry: CohortSlide, job: DiagnoseJob, tmp_path: Path
) -> None:
    with open_slide(entry.path) as slide:
        find_tissue(slide, replace(CELLS.tissue, method="otsu")).save(tmp_path / "mine.geojson")
    encode = EncodeJob(tmp_path / "encoded", MeanEncoder(), CELLS, CPU, outline=tmp_path / "mine.geojson")
    assert not encode_cohort([entry], encode).failures
    answer = diagnose_slide(entry, replace(job, encoded=tmp_path / "encoded", outline=tmp_path / "mine.geojson"))
    assert answer["num_cells"] == read_header(tmp_path / "encoded" / "a", "mean").num_cells


@pytest.mark.parametrize(
    ("decision", "wanted", "held"),
    [
        (replace(CALIBRATED, reach=(0.3, 0.7)), "tumour", ["tumour"]),
        (replace(CALIBRATED, reach=(0.1, 0.1)), None, []),
        (Decision(), "tumour", []),
    ],
)
def test_a_decision_is_told_from_abstaining(
    entry: CohortSlide, job: DiagnoseJob, decision: Decision, wanted: str | None, held: list[str]
) -> None:
    decision = replace(decision, threshold=0.2)
    answer = diagnose_slide(entry, replace(job, method=linear_method(job.method.encoder, decision)))
    assert (answer["decision"], answer["prediction_set"]) == (wanted, held)
    assert answer["abstains"] == (wanted is None)


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda job: job, None),
        (lambda job: replace(job, assume_mpp=1.0), "assumed, not known"),
        (lambda job: replace(job, method=linear_method(job.method.encoder, Decision())), "not calibrated"),
        (
            lambda job: replace(job, method=linear_method(job.method.encoder, replace(CALIBRATED, reach=(None, 0.5)))),
            "Too few slides calibrated",
        ),
        (
            lambda job: replace(job, method=linear_method(job.method.encoder, replace(CALIBRATED, temperature=100.0))),
            "every probability is about one half",
        ),
        (
            lambda job: replace(job, method=linear_method(job.method.encoder, replace(CALIBRATED, threshold=0.0))),
            "calls every slide tumour",
        ),
        (lambda job: replace(job, known={"a": "Seen before."}), "Seen before."),
        (lambda job: replace(job, known={"b": "Seen before."}), None),
        (lambda job: replace(job, slide_mpp=2.5, cells=replace(CELLS, filter="otsu")), "enlarged"),
    ],
)
def test_what_to_be_careful_about_is_said(
    job: DiagnoseJob, tmp_path: Path, change: Callable[[DiagnoseJob], DiagnoseJob], warning: str | None
) -> None:
    changed = change(job)
    mpp = None if changed.assume_mpp is not None else 1.0
    entry = CohortSlide("a", write_tissue(tmp_path / "a.tiff", mpp=mpp))
    answer: dict[str, Any] = diagnose_slide(entry, changed)
    assert bool(answer["warnings"]) == (warning is not None), answer["warnings"]
    assert warning is None or any(warning in one for one in answer["warnings"])


def test_a_method_with_two_streams_says_how_it_weighed_them(entry: CohortSlide, job: DiagnoseJob) -> None:
    config = DSNet.presets["short"]
    seen = Seen(job.method.encoder, job.method.cell_um)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DSNet.build_network(config, seen.encoder.num_features)
    method = DSNet(config, job.method.classes, seen, network, CALIBRATED)
    answer = diagnose_slide(entry, replace(job, method=method))
    assert 0 < answer["local_share"] < 1
    evidence = EvidenceMap.open(answer["files"]["evidence"])
    assert np.array_equal(evidence.observed, read_encoded(job.out / "a", "mean").observed)
