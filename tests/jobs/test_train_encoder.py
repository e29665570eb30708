"""Training an encoder on the slides of a cohort: what is drawn, what is listed, what is not done twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from counterstain import log
from counterstain.data.cohorts import CohortSlide
from counterstain.data.encoder_patches import DrawSettings
from counterstain.errors import InputError, StaleResultError
from counterstain.files import read_json
from counterstain.jobs.train_encoder import NUM_CELLS, EncoderTraining, train_encoder
from counterstain.methods.scae import PRESETS, TRAINING, SCAEConfig, scae_encoder
from counterstain.testing.encoding import damage, write_tissue
from counterstain.training import TrainSettings

HOW = EncoderTraining(
    config=SCAEConfig(decoder="tiny", rho=90.0),
    training=TrainSettings(epochs=1, batch_size=4, seed=2),
    num_cells=16,
    draw=DrawSettings(cell_um=32.0, input_px=32, seed=2),
)


def entries_of(folder: Path, num: int = 2, mpp: float | None = 1.0) -> list[CohortSlide]:
    return [CohortSlide(f"s{seed}", write_tissue(folder / f"s{seed}.tiff", seed, mpp)) for seed in range(num)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[CohortSlide], Path]:
    """Two slides and a damaged one, and the encoder that learned from the two."""
    folder = tmp_path_factory.mktemp("encoder")
    entries = entries_of(folder, 3)
    damage(entries[1].path)
    failures = train_encoder(entries, folder / "run", HOW)
    assert [(one.slide_id, one.is_defect) for one in failures] == [("s1", False)]
    return entries, folder / "run"


def test_cells_are_dealt_out_evenly_and_a_slide_that_can_t_be_read_is_kept_with_its_reason(
    trained: tuple[list[CohortSlide], Path],
) -> None:
    _, run = trained
    data = read_json(run / "model.json")["provenance"]["data"]
    assert (data["names"], data["cells"], data["draw"]["num_per_slide"]) == (["s0.tiff", "s2.tiff"], 12, 6)
    assert len(list((run / "cells").glob("*.npz"))) == 2
    assert (run / "failed" / "s1" / "error.txt").exists()


def test_what_was_trained_encodes(trained: tuple[list[CohortSlide], Path]) -> None:
    encoder = scae_encoder(trained[1])
    embeddings = encoder(torch.rand(2, 3, 32, 32))
    assert embeddings.shape == (2, encoder.spec.num_features)
    assert (encoder.spec.name, encoder.input_px) == ("scae", 32)


def test_called_again_no_slide_is_drawn_from_and_nothing_trained(
    trained: tuple[list[CohortSlide], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    entries, run = trained
    files = [run / "model.safetensors", *(run / "cells").glob("*.npz")]
    before = [path.stat().st_mtime_ns for path in files]
    assert [one.slide_id for one in train_encoder(entries, run, HOW)] == ["s1"]
    assert [path.stat().st_mtime_ns for path in files] == before
    assert capsys.readouterr().err == f"{run}: the encoder is done\n"
    with pytest.raises(StaleResultError, match="other settings or data"):
        train_encoder(entries, run, replace(HOW, num_cells=24))
    with pytest.raises(StaleResultError, match="other settings or data"):
        train_encoder(entries[:1], run, replace(HOW, num_cells=6))


def test_other_slides_or_settings_are_named_and_refused_before_anything_is_drawn(
    trained: tuple[list[CohortSlide], Path], tmp_path: Path
) -> None:
    entries, run = trained
    before = sorted(run.rglob("*"))
    late = CohortSlide("late", write_tissue(tmp_path / "late.tiff", 9))
    for given, how, told in (
        ([*entries, late], HOW, "1 slide more (late)."),
        (entries[:1], HOW, "2 slides fewer (s1, s2)."),
        ([replace(entries[0], mpp=2.0), *entries[1:]], HOW, "1 slide changed (s0)."),
        (entries, replace(HOW, num_cells=24), "num_cells was 16 and is 24."),
        (entries, replace(HOW, config=SCAEConfig(decoder="tiny", rho=95.0)), "config.rho was 90.0 and is 95.0."),
    ):
        with pytest.raises(StaleResultError) as caught:
            train_encoder(given, run, how, tmp_path / "whole")
        assert f"{run} holds an encoder of other settings or data: {told}" in str(caught.value)
        assert str(caught.value).endswith(f"Give another run folder, or remove {tmp_path / 'whole'} to start afresh.")
    assert sorted(run.rglob("*")) == before
    readers = replace(HOW, training=replace(HOW.training, num_workers=1))
    assert [one.slide_id for one in train_encoder(entries, run, readers)] == ["s1"]


def test_where_no_slide_can_be_read_the_reasons_are_told_and_all_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_LINE_EVERY_S", 0.0)
    entries = entries_of(tmp_path, 2, mpp=None)
    with pytest.raises(InputError, match=r"No training slide could be read(.|\n)*s0: (.|\n)*s1: "):
        train_encoder(entries, tmp_path / "run", HOW)
    assert "Drawing cells s1: 2/2 slides" in capsys.readouterr().err
    assert not (tmp_path / "run" / "run.json").exists()


def test_the_user_s_word_on_resolution_wins_over_the_table_s_and_this_over_the_file_s(tmp_path: Path) -> None:
    (entry,) = entries_of(tmp_path, 1)
    drawn = {}
    for name, mpp, how in (
        ("file", None, HOW),
        ("table", 2.0, HOW),
        ("word", 4.0, replace(HOW, slide_mpp=2.0)),
        ("assumed", None, replace(HOW, assume_mpp=2.0)),
    ):
        run = tmp_path / name
        train_encoder([replace(entry, mpp=mpp)], run, replace(how, num_cells=8))
        with np.load(next((run / "cells").glob("*.npz"))) as arrays:
            drawn[name] = arrays["corners"]
    assert np.array_equal(drawn["table"], drawn["word"])
    assert np.array_equal(drawn["file"], drawn["assumed"])
    assert not np.array_equal(drawn["file"], drawn["table"])


def test_fewer_cells_than_slides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 cells were to be drawn from 2 slides"):
        train_encoder(entries_of(tmp_path), tmp_path / "run", replace(HOW, num_cells=1))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_s_seed_is_of_drawing_and_of_training(name: str) -> None:
    how = EncoderTraining.preset(name, seed=7)
    assert (how.config, how.num_cells) == (PRESETS[name], NUM_CELLS[name])
    assert (how.training, how.draw.seed) == (replace(TRAINING[name], seed=7), 7)
