"""Studies of slide methods: what they say, what they refuse, and that their tables hold the numbers of their scores."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterstain.data.encoded import SlideSet
from counterstain.errors import InputError, MissingFileError, UnknownNameError
from counterstain.files import read_json
from counterstain.methods import find_slide_method
from counterstain.recipes.studies import STUDIES, study_file
from counterstain.report.comparison import Row
from counterstain.report.diagnosis import read_scores
from counterstain.report.slide_study import (
    compare_slides,
    fold_runs,
    is_slide_study,
    read_slide_study,
    table_lines,
)
from counterstain.results import ScoredSlide
from counterstain.testing.encoded_slides import EncodedSlides, write_encoded_slides

SMALL = """
kind = "slides"
title = "Two ways to pool"
reference = "most positive"
[folds]
folds = 2
repeats = 2
val = 0.5
[training]
epochs = 6
batch_size = 8
[methods.mean_pool]
preset = "short"
[methods.mean_pool.settings]
learning_rate = 0.05
warmup_epochs = 0
pool = "max"
turn = false
[[variants]]
name = "idle"
training = { epochs = 1 }
settings = { learning_rate = 1e-9, warmup_from = 0.0 }
[[variants]]
name = "most positive"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> SlideSet:
    return write_encoded_slides(tmp_path_factory.mktemp("encoded"), EncodedSlides(in_features=5.0))


@pytest.fixture(scope="module")
def compared(
    slides: SlideSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[Row, ...], dict[str, Any]]:
    out = tmp_path_factory.mktemp("study")
    study = read_slide_study(written(out, SMALL))
    return out, *compare_slides(study, lambda _: slides, out)


def test_a_variant_s_own_settings_win_over_its_method_s_and_these_over_the_preset_s(tmp_path: Path) -> None:
    study = read_slide_study(written(tmp_path, SMALL))
    idle, whole = (variant.learner for variant in study.variants)
    assert (idle.config.learning_rate, whole.config.learning_rate) == (1e-9, 0.05)
    assert (whole.config.pool, whole.config.schedule, whole.config.crop_cells) == ("max", "cosine", 7)
    assert (idle.training.epochs, whole.training.epochs, idle.training.batch_size) == (1, 6, 8)
    assert (study.folds.repeats, study.reference, whole.folder) == (2, "most positive", "most_positive")
    assert study.variants[0].encoder is None


def test_a_variant_may_have_another_method_and_another_encoder(tmp_path: Path) -> None:
    text = SMALL + '[[variants]]\nname = "other"\nmethod = "abmil"\npreset = "short"\nencoder = "scae_fg"\n'
    other = read_slide_study(written(tmp_path, text)).variants[-1]
    assert (other.learner.method, other.encoder) == ("abmil", "scae_fg")
    assert isinstance(other.learner.config, find_slide_method("abmil").config_type)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ('reference = "most positive"', 'reference = "most"', UnknownNameError, "most positive"),
        ("[training]", "[trainings]", UnknownNameError, "Did you mean 'training'"),
        ("turn = false", "turns = false", UnknownNameError, "Did you mean 'turn'"),
        ("[methods.mean_pool]", "[methods.mean_pols]", UnknownNameError, "Did you mean 'mean_pool'"),
        ('preset = "short"', 'preset = "shorts"', UnknownNameError, "Did you mean 'short'"),
        ('preset = "short"', 'presets = "short"', UnknownNameError, "Did you mean 'preset'"),
        ('name = "idle"\n', "", InputError, "has no name"),
        ('name = "idle"', 'name = "Most-positive"', InputError, "a name of its own"),
        ('name = "idle"', 'name = "+"', InputError, "a letter or a digit"),
        ('name = "idle"', "name = 3", InputError, "a text was expected"),
        ("epochs = 6", "epochs = 0", InputError, "'epochs'"),
        ("folds = 2\n", "folds = 1\n", InputError, "folds"),
        ("folds = 2\n", "parts = 2\n", UnknownNameError, "parts"),
    ],
)
def test_what_a_study_can_t_mean_is_refused(
    tmp_path: Path, old: str, new: str, error: type[Exception], message: str
) -> None:
    assert old in SMALL
    with pytest.raises(error, match=message):
        read_slide_study(written(tmp_path, SMALL.replace(old, new, 1)))


def test_a_study_of_nothing_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="variants"):
        read_slide_study(written(tmp_path, 'kind = "slides"\n'))
    with pytest.raises(MissingFileError):
        read_slide_study(tmp_path / "gone.toml")


def test_a_study_can_be_narrowed_and_keeps_its_reference(tmp_path: Path) -> None:
    study = read_slide_study(written(tmp_path, SMALL))
    assert [one.name for one in study.only(["idle"]).variants] == ["idle", "most positive"]
    assert [one.name for one in study.only(["most positive"]).variants] == ["most positive"]
    assert study.only(["idle"]).name == "study_part"  # the whole study's table is not replaced
    with pytest.raises(UnknownNameError, match="idle"):
        study.only(["idles"])


@pytest.mark.parametrize("name", [name for name, path in STUDIES.items() if is_slide_study(path)])
def test_every_packaged_study_builds_its_networks_and_says_how_it_is_run(name: str) -> None:
    study = read_slide_study(study_file(name))
    head = study_file(name).read_text(encoding="utf-8").split("title =")[0]
    assert f"--study {name} " in head
    assert "arXiv 2109.05788" in head
    assert len({variant.learner.folder for variant in study.variants}) == len(study.variants) > 1
    for variant in study.variants:
        find_slide_method(variant.learner.method).build_network(variant.learner.config, 8)


def test_the_paper_s_tables_are_all_there() -> None:
    ours = {name for name, path in STUDIES.items() if is_slide_study(path)}
    assert ours >= {"dsnet_baselines", "dsnet_parts", "dsnet_levels", "dsnet_encodings"}


def pairs_won(scores: Sequence[ScoredSlide]) -> float:
    """The AUROC within folds, counted pair by pair."""
    won = [
        (one.logit > other.logit) + 0.5 * (one.logit == other.logit)
        for one in scores
        for other in scores
        if one.fold == other.fold and (one.label, other.label) == (1, 0)
    ]
    return float(np.mean(won))


def scores_of(folder: Path) -> list[ScoredSlide]:
    return [row for table in sorted(folder.glob("repeat_*/fold_*/scores.csv")) for row in read_scores(table)]


def test_the_table_s_numbers_are_those_counted_pair_by_pair(
    compared: tuple[Path, tuple[Row, ...], dict[str, Any]],
) -> None:
    out, rows, tree = compared
    scores = {name: scores_of(out / name.replace(" ", "_")) for name in ("idle", "most positive")}
    for row in rows:
        own = scores[row.name]
        assert len(own) == 32
        assert row.score is not None
        assert row.score.estimate == pytest.approx(pairs_won(own))
        by_repeat = [pairs_won([one for one in own if one.fold.startswith(repeat)]) for repeat in ("r0f", "r1f")]
        assert row.by_seed == pytest.approx(by_repeat)
        called = [(one.probability >= one.threshold) == bool(one.label) for one in own]
        assert row.further["accuracy"] == pytest.approx(np.mean(called))
        assert row.further["brier"] == pytest.approx(np.mean([(one.probability - one.label) ** 2 for one in own]))
    idle, best = rows
    assert best.gain is None
    assert idle.gain is not None
    assert idle.gain.estimate == pytest.approx(pairs_won(scores["idle"]) - pairs_won(scores["most positive"]))
    assert idle.gain.estimate < 0
    assert idle.gain_by_seed == pytest.approx([a - b for a, b in zip(idle.by_seed, best.by_seed, strict=True)])
    assert (tree["slides"], tree["patients"], tree["baseline"]) == (16, 8, {"auroc": 0.5, "accuracy": 0.5})


def test_the_tables_on_disk_are_the_ones_that_were_given_back(
    compared: tuple[Path, tuple[Row, ...], dict[str, Any]],
) -> None:
    out, rows, tree = compared
    assert read_json(out / "study.json") == tree
    assert all((out / f"study{suffix}").stat().st_size for suffix in (".csv", ".md", ".png"))
    heads, *lines = table_lines(rows)
    assert [line[0] for line in lines] == ["idle", "most positive"]
    assert all(len(line) == len(heads) for line in lines)
    assert lines[1][2] == "-"
    with (out / "study.csv").open() as file:
        assert [line[0] for line in csv.reader(file)][1:] == ["idle", "idle", "most positive", "most positive"]


def test_the_tree_says_what_each_variant_is_and_saw(compared: tuple[Path, tuple[Row, ...], dict[str, Any]]) -> None:
    _, _, tree = compared
    about = tree["variants"]["idle"]
    assert (about["method"], about["encoder"], about["settings"]["learning_rate"]) == ("mean_pool", "planted", 1e-9)
    assert tree["folds"] == {"folds": 2, "repeats": 2, "val": 0.5, "seed": 0}


def test_a_finished_study_trains_nothing_and_its_folds_can_be_looked_at(
    compared: tuple[Path, tuple[Row, ...], dict[str, Any]], slides: SlideSet
) -> None:
    out, rows, _ = compared
    before = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    assert len(before) == 8
    study = read_slide_study(out / "study.toml")
    part = study.only(["idle"])
    again, _ = compare_slides(part, lambda _: slides, out)
    assert [row.score for row in again] == [row.score for row in rows]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")} == before
    runs = fold_runs(study, study.variants[1], slides, out)
    assert all((run / "model.json").exists() for run in runs)
    tested = [slide.slide_id for part in runs.values() for slide in part.slides]
    assert sorted(tested) == sorted(2 * [slide.slide_id for slide in slides.slides])


def test_a_variant_sees_the_embeddings_of_the_encoder_that_it_names(slides: SlideSet, tmp_path: Path) -> None:
    text = SMALL.replace("repeats = 2", "repeats = 1").replace('name = "idle"', 'name = "idle"\nencoder = "other"', 1)
    study = read_slide_study(written(tmp_path, text))
    study = replace(study, variants=study.variants[:1], reference="idle")
    asked: list[str | None] = []

    def open_set(encoder: str | None) -> SlideSet:
        asked.append(encoder)
        return slides

    compare_slides(study, open_set, tmp_path)
    assert asked == ["other"]


@pytest.mark.parametrize("text", ['variants = ["x"]', "[methods]\ndsnet = 3"])
def test_what_is_no_table_is_refused_in_a_study_of_slides(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'kind = "slides"\n{text}\n')
    with pytest.raises(InputError, match="a table was expected"):
        read_slide_study(path)
