from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from counterstain import log
from counterstain.data import Cohort, CohortSlide
from counterstain.data.cell_files import read_cells
from counterstain.data.encoded_files import read_encoded
from counterstain.errors import InputError, MissingFileError, UnknownNameError
from counterstain.jobs.encode import EncodeJob, encode_cohort, open_encoder, try_slides
from counterstain.testing.encoding import CELLS, CPU, MeanEncoder, damage, write_tissue


def job_for(out: Path, **changes: object) -> EncodeJob:
    return replace(EncodeJob(out, MeanEncoder(), CELLS, CPU), **changes)


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    (folder / "deeper").mkdir(parents=True)
    write_tissue(folder / "a.tiff")
    damage(write_tissue(folder / "b.tiff", seed=1))
    write_tissue(folder / "c.tiff", seed=2, mpp=None)
    write_tissue(folder / "deeper" / "a.tiff", seed=3)
    return folder


def test_a_damaged_slide_fails_alone(tmp_path: Path, slides: Path) -> None:
    outcomes = encode_cohort(Cohort.from_folder(slides).slides, job_for(tmp_path / "out"))
    assert list(outcomes.done) == ["a.tiff", "deeper/a.tiff"]
    assert [(failure.slide_id, failure.kind) for failure in outcomes.failures] == [
        ("b.tiff", "DamagedSlideError"),
        ("c.tiff", "MissingResolutionError"),
    ]
    assert not any(failure.is_defect for failure in outcomes.failures)
    assert "DamagedSlideError" in (tmp_path / "out" / "b.tiff" / "error.txt").read_text()
    for slide_id, header in outcomes.done.items():
        encoded = read_encoded(tmp_path / "out" / slide_id, "mean")
        assert len(encoded.features_NC) == header.num_cells


def test_how_far_a_batch_has_come_is_said_now_and_then(
    tmp_path: Path, slides: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_LINE_EVERY_S", 0.0)
    encode_cohort(Cohort.from_folder(slides).slides, job_for(tmp_path / "out"))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Done with ")]
    assert [line.split(",")[0] for line in said] == [
        f"Done with {name}: {number}/4 slides"
        for number, name in enumerate(("a.tiff", "b.tiff", "c.tiff", "deeper/a.tiff"), 1)
    ]


def test_slides_that_can_t_be_encoded_are_found_by_opening_them(tmp_path: Path, slides: Path) -> None:
    entries = Cohort.from_folder(slides).slides
    found = try_slides(entries, tmp_path / "out")
    assert [(one.slide_id, one.kind) for one in found] == [
        ("b.tiff", "DamagedSlideError"),
        ("c.tiff", "MissingResolutionError"),
    ]
    assert [one.slide_id for one in try_slides(entries, tmp_path / "out", assume_mpp=1.0)] == ["b.tiff"]
    assert not (tmp_path / "out" / "c.tiff" / "error.txt").exists()


def test_what_failed_is_mended_by_a_second_call_and_the_rest_is_kept(tmp_path: Path, slides: Path) -> None:
    entries = Cohort.from_folder(slides).slides
    encode_cohort(entries, job_for(tmp_path / "out"))
    write_tissue(slides / "b.tiff", seed=1)
    encoder = MeanEncoder()
    outcomes = encode_cohort(entries, job_for(tmp_path / "out", encoder=encoder, assume_mpp=1.0))
    assert len(outcomes.done) == 4
    assert not outcomes.failures
    assert not (tmp_path / "out" / "b.tiff" / "error.txt").exists()
    num_cells = [outcomes.done[name].num_cells for name in ("b.tiff", "c.tiff")]
    assert encoder.num_batches == sum(-(-num // CPU.batch_size) for num in num_cells)
    record = read_cells(tmp_path / "out" / "c.tiff").slide
    assert record is not None
    assert record.mpp_source == "assumed"


def test_a_table_s_resolution_is_taken_and_the_users_wins(tmp_path: Path) -> None:
    entry = CohortSlide("a", write_tissue(tmp_path / "a.tiff"), mpp=0.5)
    encode_cohort([entry], job_for(tmp_path / "table"))
    encode_cohort([entry], job_for(tmp_path / "user", slide_mpp=1.0))
    assert read_cells(tmp_path / "table" / "a").frame.downsample_x == 32
    assert read_cells(tmp_path / "user" / "a").frame.downsample_x == 16


def test_a_mended_outline_decides_for_one_slide(tmp_path: Path) -> None:
    entry = CohortSlide("a", write_tissue(tmp_path / "a.tiff"))
    found = encode_cohort([entry], job_for(tmp_path / "out")).done["a"]
    outline = tmp_path / "out" / "a" / "tissue.geojson"
    given = encode_cohort([entry], job_for(tmp_path / "again", outline=outline)).done["a"]
    assert given.num_cells == found.num_cells
    assert given.cells_hash != found.cells_hash
    with pytest.raises(InputError, match="belongs to one"):
        encode_cohort([entry, replace(entry, slide_id="b")], job_for(tmp_path / "out", outline=outline))
    with pytest.raises(InputError, match="one id"):
        encode_cohort([entry, entry], job_for(tmp_path / "out"))


def test_a_dense_grid_holds_the_same_embeddings(tmp_path: Path) -> None:
    entry = CohortSlide("a", write_tissue(tmp_path / "a.tiff"))
    header = encode_cohort([entry], job_for(tmp_path / "out", with_dense=True)).done["a"]
    encoded = read_encoded(tmp_path / "out" / "a", "mean")
    group = zarr.open_group(tmp_path / "out" / "a" / "features" / "mean.zarr", mode="r")
    assert np.array_equal(group["features"][...], encoded.dense_features())
    assert group["features"].dtype == np.float16
    assert np.array_equal(group["observed"][...], encoded.observed)
    assert group.attrs["inputs_hash"] == header.inputs_hash
    stamp = (tmp_path / "out" / "a" / "features" / "mean.zarr" / "zarr.json").stat().st_mtime_ns
    encode_cohort([entry], job_for(tmp_path / "out", with_dense=True))
    assert (tmp_path / "out" / "a" / "features" / "mean.zarr" / "zarr.json").stat().st_mtime_ns == stamp
    other = job_for(tmp_path / "out", with_dense=True, encoder=MeanEncoder(digest="2"))
    unasked = replace(other, settings=replace(CPU, overwrite=True), with_dense=False)
    assert not encode_cohort([entry], unasked).failures
    assert not (tmp_path / "out" / "a" / "features" / "mean.zarr").exists(), "that of former features is gone"
    changed = encode_cohort([entry], replace(other, settings=replace(CPU, overwrite=True))).done["a"]
    group = zarr.open_group(tmp_path / "out" / "a" / "features" / "mean.zarr", mode="r")
    assert group.attrs["inputs_hash"] == changed.inputs_hash != header.inputs_hash


def test_encoders_are_opened_by_name(tmp_path: Path) -> None:
    assert open_encoder("tiny", None, 32, untrained=True).spec.input_px == 32
    with pytest.raises(UnknownNameError):
        open_encoder("nonsense")
    with pytest.raises(MissingFileError, match="trained encoder"):
        open_encoder("runs/nothing")
    with pytest.raises(InputError, match="weights of its own"):
        open_encoder(str(tmp_path), tmp_path / "a.npz")
    with pytest.raises(MissingFileError, match=r"no model\.json"):
        open_encoder(str(tmp_path))
