import json
import runpy
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from counterstain.data.encoded import SlideSet
from counterstain.data.encoded_files import read_encoded
from counterstain.errors import InputError, SplitError, StaleResultError
from counterstain.methods import SLIDE_METHODS, DSNet, MeanPool, load_dense_method, load_slide_method
from counterstain.methods.slide_baselines import MeanPoolConfig
from counterstain.methods.slide_method import SlideMethod
from counterstain.testing.encoded_slides import write_encoded_slides
from counterstain.training import TrainSettings
from counterstain.training.fit import read_losses

SCRIPT = Path(__file__).with_name("killed_slides.py")
_KILLED = runpy.run_path(str(SCRIPT))
CONFIG: MeanPoolConfig = _KILLED["CONFIG"]
QUICK: TrainSettings = _KILLED["QUICK"]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> SlideSet:
    return write_encoded_slides(tmp_path_factory.mktemp("encoded"), _KILLED["SLIDES"])


@pytest.fixture(scope="module")
def halves(slides: SlideSet) -> tuple[SlideSet, SlideSet]:
    train, val = _KILLED["halves_of"](slides)
    return train, val


def fitted(halves: tuple[SlideSet, SlideSet], run: Path, config: MeanPoolConfig = CONFIG) -> SlideMethod:
    method = MeanPool.create(config, halves[0], QUICK.seed)
    method.fit(*halves, run, QUICK)
    return method


def test_a_run_keeps_all_that_its_answers_follow_from(halves: tuple[SlideSet, SlideSet], tmp_path: Path) -> None:
    method = fitted(halves, tmp_path / "run")
    loaded = load_slide_method(tmp_path / "run")
    slide = read_encoded(halves[1].slides[1].folder, "planted")
    assert np.array_equal(method.score([slide]), loaded.score([slide]))
    assert (loaded.decision, loaded.encoder, loaded.cell_um) == (method.decision, halves[0].encoder, 64.0)
    assert loaded.judge("x", 0.3) == method.judge("x", 0.3)


def test_the_same_arguments_take_up_a_finished_run_and_others_are_refused(
    halves: tuple[SlideSet, SlideSet], tmp_path: Path
) -> None:
    first = fitted(halves, tmp_path / "run")
    written = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    again = fitted(halves, tmp_path / "run")
    assert torch.equal(first.network.state_dict()["head.weight"], again.network.state_dict()["head.weight"])
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(StaleResultError, match="other settings or data"):
        fitted(halves, tmp_path / "run", replace(CONFIG, learning_rate=0.01))


@pytest.mark.parametrize("select", ["auroc", "last"])
def test_a_run_killed_between_epochs_ends_as_one_that_was_not(
    select: str, halves: tuple[SlideSet, SlideSet], tmp_path: Path
) -> None:
    config = replace(CONFIG, select=select, crop_cells=2)
    fitted(halves, tmp_path / "whole", config)
    arguments = [str(tmp_path / "encoded"), str(tmp_path / "killed"), select]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (tmp_path / "killed" / "model.json").exists()
    resumed, whole = fitted(halves, tmp_path / "killed", config), load_slide_method(tmp_path / "whole")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name
    assert read_losses(tmp_path / "killed" / "losses.csv") == read_losses(tmp_path / "whole" / "losses.csv")
    assert resumed.decision == whole.decision


def test_patients_on_both_sides_and_a_side_without_a_class_are_refused(slides: SlideSet, tmp_path: Path) -> None:
    method = MeanPool.create(CONFIG, slides, 0)
    with pytest.raises(SplitError, match="in training and in validation"):
        method.fit(slides, slides, tmp_path, QUICK)
    ids = [slide.slide_id for slide in slides.slides if slide.label == 0]
    with pytest.raises(SplitError, match="both classes are needed"):
        method.fit(slides.of(ids[:4]), slides.of(ids[6:]), tmp_path, QUICK)
    assert not (tmp_path / "run.json").exists()


def test_three_classes_are_no_diagnosis(slides: SlideSet) -> None:
    classes = type(slides.classes)(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), background="a")
    with pytest.raises(InputError, match="between two"):
        MeanPool.create(CONFIG, replace(slides, classes=classes), 0)


def test_the_best_epoch_is_the_one_with_the_best_auroc_then_the_smallest_loss(
    halves: tuple[SlideSet, SlideSet], tmp_path: Path
) -> None:
    method = fitted(halves, tmp_path / "run", replace(CONFIG, select="auroc"))
    told = json.loads((tmp_path / "run" / "validation.json").read_text())
    best = max(told, key=lambda one: (one["auroc"], -one["loss"]))
    labels = np.array([slide.label for slide in halves[1].slides])
    margins = method.margins(halves[1])
    loss = float(np.logaddexp(0, -np.where(labels == 1, margins, -margins)).mean())
    assert loss == pytest.approx(best["loss"], abs=1e-6)


def test_scores_do_not_depend_on_what_else_is_scored(halves: tuple[SlideSet, SlideSet], tmp_path: Path) -> None:
    method = fitted(halves, tmp_path / "run")
    encoded = [read_encoded(slide.folder, "planted") for slide in halves[1].slides]
    together, alone = method.score(encoded), np.concatenate([method.score([slide]) for slide in encoded])
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(method.margins(halves[1]), together[:, 1] - together[:, 0], atol=1e-6)


def test_planted_cells_are_found_and_evidence_is_nan_where_nothing_was_observed(
    halves: tuple[SlideSet, SlideSet], tmp_path: Path
) -> None:
    config = replace(CONFIG, pool="max")
    method = MeanPool.create(config, halves[0], 0)
    method.fit(*halves, tmp_path / "run", replace(QUICK, epochs=20))
    slide = read_encoded(halves[1].slides[1].folder, "planted")
    evidence = method.evidence(slide)
    assert np.array_equal(np.isnan(evidence), ~slide.observed)
    assert method.local_share(slide) is None


def test_a_dsnet_says_how_its_streams_share(slides: SlideSet) -> None:
    both, local = (
        DSNet.create(replace(DSNet.presets["short"], streams=streams), slides, 0) for streams in ("both", "local")
    )
    slide = read_encoded(slides.slides[0].folder, "planted")
    share = both.local_share(slide)
    assert share is not None
    assert 0 < share < 1
    assert local.local_share(slide) is None
    assert both.local_shares(slides)[0] == pytest.approx(share, abs=1e-5)


def test_a_run_of_slides_gives_no_maps(halves: tuple[SlideSet, SlideSet], tmp_path: Path) -> None:
    fitted(halves, tmp_path / "run")
    with pytest.raises(InputError, match="gives no maps"):
        load_dense_method(tmp_path / "run")


@pytest.mark.parametrize("name", SLIDE_METHODS)
def test_every_method_has_settings_and_a_training_for_each_preset(name: str) -> None:
    method = SLIDE_METHODS[name]
    assert method.name == name
    assert set(method.presets) == set(method.training)
    assert next(iter(method.presets)) == "paper"
