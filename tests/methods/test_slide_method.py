import json
import runpy
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from counterstain.data.encoded import SlideSet
from counterstain.data.encoded_files import read_encoded, write_encoded
from counterstain.errors import InputError, SplitError, StaleResultError
from counterstain.methods import SLIDE_METHODS, DSNet, MeanPool, load_dense_method, load_slide_method
from counterstain.methods.slide_baselines import MeanPoolConfig, Thumbnail
from counterstain.methods.slide_method import SlideMethod, class_weights, slide_loss
from counterstain.metrics import points_at_tumour, tile_auroc
from counterstain.models.backbones import ResNet
from counterstain.models.weights import write_state
from counterstain.testing.encoded_slides import planted_cells, write_encoded_slides
from counterstain.testing.processes import exit_code
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
    with pytest.raises(
        StaleResultError, match=r"other settings or data: settings.learning_rate was .* and is 0\.01\. Give"
    ):
        fitted(halves, tmp_path / "run", replace(CONFIG, learning_rate=0.01))


def test_a_run_of_a_method_that_learned_otherwise_under_the_same_settings_is_refused(
    halves: tuple[SlideSet, SlideSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(halves, tmp_path / "run")
    monkeypatch.setattr(MeanPool, "revision", 2)
    with pytest.raises(StaleResultError, match=r"other settings or data: revision was not given and is 2\. Give"):
        fitted(halves, tmp_path / "run")


def test_a_first_revision_is_known_by_its_name_alone_as_ever() -> None:
    assert (MeanPool.known_as(), DSNet.known_as()) == (("mean_pool",), ("dsnet", 2))


# where coverage is measured, a reading process that is told to end may report a failure of its own
_SLOW = ("read by a process",)
_CASES = [pytest.param(name, marks=pytest.mark.slow) if name in _SLOW else name for name in _KILLED["CASES"]]


@pytest.mark.parametrize("name", _CASES)
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    name: str, halves: tuple[SlideSet, SlideSet], tmp_path: Path
) -> None:
    case = _KILLED["CASES"][name]
    case.fit(halves, tmp_path / "whole")
    assert exit_code(SCRIPT, tmp_path / "encoded", tmp_path / "killed", name) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.json").exists()
    resumed, whole = case.fit(halves, tmp_path / "killed"), load_slide_method(tmp_path / "whole")
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


def test_first_weights_follow_their_seed_leave_other_randomness_alone_and_are_part_of_a_run(
    halves: tuple[SlideSet, SlideSet], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (MeanPool.create(CONFIG, halves[0], seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [method.network.state_dict()["head.weight"] for method in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    first.fit(*halves, tmp_path / "run", QUICK)
    with pytest.raises(StaleResultError, match="other settings or data"):
        other.fit(*halves, tmp_path / "run", QUICK)


def test_balance_weighs_a_slide_by_how_rare_its_class_is_even_alone_in_its_batch(slides: SlideSet) -> None:
    rare = [slide for slide in slides.slides if slide.label][:1]
    common = [slide for slide in slides.slides if not slide.label][:8]
    weights_2 = class_weights([*rare, *common, replace(common[0], slide_id="ninth")])
    logits_12 = torch.tensor([[0.4, 0.4]])
    positive, negative = (slide_loss(logits_12, torch.tensor([label]), weights_2) for label in (1, 0))
    assert float(positive / negative) == pytest.approx(9)
    labels_B = torch.tensor([1] + [0] * 9)
    whole = slide_loss(logits_12.expand(10, -1), labels_B, weights_2)
    assert float(whole) == pytest.approx(float(slide_loss(logits_12.expand(10, -1), labels_B)))


def test_fewer_slides_than_a_batch_are_learned_from_and_said(
    halves: tuple[SlideSet, SlideSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = MeanPool.create(CONFIG, halves[0], 0)
    method.fit(*halves, tmp_path / "run", replace(QUICK, epochs=1, batch_size=50))
    assert "12 training slides fill no batch of 50" in " ".join(capsys.readouterr().err.split())


def test_slides_without_thumbnails_are_refused_before_a_run_is_begun(
    halves: tuple[SlideSet, SlideSet], tmp_path: Path
) -> None:
    train, val = halves
    slide = train.slides[0]
    bare = replace(read_encoded(slide.folder, "planted"), thumbnail_HWC=None)
    write_encoded(tmp_path / "bare", bare, train.encoder, train.cell_um)
    train = replace(train, slides=(replace(slide, folder=tmp_path / "bare"), *train.slides[1:]))
    for method_type in (Thumbnail, DSNet):
        method = method_type.create(method_type.presets["short"], train, 0)
        with pytest.raises(InputError, match=rf"1 of 16 slides have no thumbnail \({slide.slide_id}\)"):
            method.fit(train, val, tmp_path / "run", QUICK)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_remembers_its_first_weights_and_is_loaded_without_their_file(
    halves: tuple[SlideSet, SlideSet], tmp_path: Path
) -> None:
    path, run, once = tmp_path / "resnet18.safetensors", tmp_path / "run", replace(QUICK, epochs=1)
    write_state(path, ResNet(18).state_dict())
    config = replace(Thumbnail.presets["small"], thumbnail_px=40, weights=path)
    for _ in range(2):  # the second takes the finished run up
        method = Thumbnail.create(config, halves[0], 0)
        method.fit(*halves, run, once)
    digest = method.pretrained["weights_digest"]
    method.save(tmp_path / "copy")
    for folder in (run, tmp_path / "copy"):
        assert json.loads((folder / "model.json").read_text())["provenance"]["weights_digest"] == digest
    write_state(path, ResNet(18).state_dict())
    with pytest.raises(StaleResultError, match="other settings or data"):
        Thumbnail.create(config, halves[0], 0).fit(*halves, run, once)
    path.unlink()
    loaded, slide = load_slide_method(run), read_encoded(halves[1].slides[0].folder, "planted")
    assert loaded.pretrained == {"weights_digest": digest}
    assert np.array_equal(loaded.score([slide]), method.score([slide]))


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
    for labelled in halves[1].slides:
        slide = read_encoded(labelled.folder, "planted")
        evidence, tumour = method.evidence(slide), np.zeros(slide.frame.size.shape)
        assert np.array_equal(np.isnan(evidence), ~slide.observed)
        if labelled.label:
            tumour[planted_cells(labelled)] = 1
            assert points_at_tumour(evidence, tumour)[0], labelled.slide_id
            assert tile_auroc(evidence, tumour) > 0.9, labelled.slide_id
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
