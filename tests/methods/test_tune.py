import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from counterstain.cli import OK, WRONG_USE, run
from counterstain.data import PatchDataset
from counterstain.errors import ExistingOutputError, InputError, StaleResultError
from counterstain.files import read_json
from counterstain.methods import SSHR, load_dense_method, load_method, model_digest
from counterstain.methods.gate import validation_scores
from counterstain.methods.sshr import PRESETS, halo_px
from counterstain.methods.thresholds import mean_iou
from counterstain.methods.tune import FUSIONS, tune, write_tuned
from counterstain.report import notes_on_patients
from counterstain.results import Classes
from counterstain.training import TrainSettings


@pytest.fixture(scope="module")
def trained(textures: PatchDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "run"
    config = replace(
        PRESETS["small"],
        learning_rate=3e-3,
        warmup_steps=3,
        presence_thresholds=0.9,
        fusion=(1.0, 0.0, 0.0, 0.0),
    )
    method = SSHR.create(config, textures, tile_px=32, seed=1)
    method.fit(textures, folder, TrainSettings(epochs=12, batch_size=8))
    return folder


def loaded(folder: Path) -> SSHR:
    method = load_method(folder)
    assert isinstance(method, SSHR)
    return method


def test_the_best_of_the_fusions_is_kept_with_its_own_thresholds(trained: Path, textures: PatchDataset) -> None:
    method = loaded(trained)
    found = tune(method, textures, FUSIONS)
    assert found.tried[found.method.config.fusion] == max(found.tried.values())
    alone = tune(method, textures, [found.method.config.fusion])
    assert alone.method.thresholds == found.method.thresholds
    assert (method.config.fusion, method.thresholds) == ((1.0, 0.0, 0.0, 0.0), (0.9, 0.9))


def test_what_is_chosen_beats_what_it_started_from(trained: Path, textures: PatchDataset) -> None:
    method = loaded(trained)
    scores = validation_scores(textures, 32, method.judge, torch.device("cpu"))
    before = mean_iou(scores, method.thresholds)
    found = tune(method, textures, [method.config.fusion, *FUSIONS]).method
    after = mean_iou(validation_scores(textures, 32, found.judge, torch.device("cpu")), found.thresholds)
    assert after > before + 0.02


def test_training_masks_are_never_read_nor_are_those_of_the_test_split(
    trained: Path, textures: PatchDataset, tmp_path: Path
) -> None:
    method = loaded(trained)
    broken = tmp_path / "mask.png"
    broken.write_text("no image")
    spoilt = tuple(replace(record, mask=broken) for record in textures.train)
    found = tune(method, replace(textures, train=spoilt, test=spoilt), FUSIONS[:2])
    assert found.tried == tune(method, textures, FUSIONS[:2]).tried


def test_every_fusion_is_scored_as_if_it_were_alone(trained: Path, textures: PatchDataset) -> None:
    method = loaded(trained)
    together = tune(method, textures, FUSIONS).tried
    assert len(set(together.values())) > 1
    for fusion in FUSIONS:
        assert tune(method, textures, [fusion]).tried == {fusion: together[fusion]}


def test_the_margin_of_a_tile_follows_the_taps_that_are_used(textures: PatchDataset) -> None:
    method = SSHR.create(replace(PRESETS["small"], fusion=(1.0, 0.0, 0.0, 0.0)), textures, tile_px=256, seed=1)
    found = method.finished_with((0.0, 0.0, 0.5, 0.5), (0.5, 0.5))
    assert (method.input.halo_px, found.input.halo_px) == (12, 24)  # three cells of 4 px and of 8 px
    assert found.input == replace(method.input, halo_px=halo_px(found.config, 256))
    assert found.network is method.network


def test_the_command_writes_a_run_with_the_same_network(
    trained: Path, textures: PatchDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(textures.train[0].image.parents[1])
    out = tmp_path / "tuned"
    command = ["models", "tune", str(trained), str(out), "--data", data, "--fusion", "0.25", "0.25", "0.25", "0.25"]
    assert run([*command, "--json"]) == OK
    answer = json.loads(capsys.readouterr().out)
    assert answer["fusion"] == [0.25] * 4
    one, other = loaded(trained), loaded(out)
    assert all(torch.equal(value, other.network.state_dict()[name]) for name, value in one.network.state_dict().items())
    assert other.config.fusion == (0.25, 0.25, 0.25, 0.25)
    assert list(other.thresholds) == answer["thresholds"]
    assert read_json(out / "model.json")["provenance"]["tuned"]["from"] == model_digest(trained)
    assert load_dense_method(out).predict_maps(torch.rand(1, 3, 32, 32)).shape == (1, 2, 32, 32)
    assert run(command) == WRONG_USE  # it is there already
    assert "exists" in capsys.readouterr().err


def test_a_tuned_run_is_no_training_s_nor_takes_another_s_place(
    trained: Path, textures: PatchDataset, tmp_path: Path
) -> None:
    method = loaded(trained)
    found = tune(method, textures, [method.config.fusion])
    write_tuned(found, trained, tmp_path / "tuned", textures)
    fresh = SSHR.create(found.method.config, textures, tile_px=32, seed=1)
    with pytest.raises(StaleResultError, match="other settings or data"):
        fresh.fit(textures, tmp_path / "tuned", TrainSettings(epochs=4, batch_size=8))
    begun = tmp_path / "begun"
    (begun / "checkpoints").mkdir(parents=True)
    with pytest.raises(ExistingOutputError, match="no run is replaced"):
        write_tuned(found, trained, begun, textures)
    assert not (begun / "model.json").exists()


def test_what_thresholds_and_fusions_were_chosen_on_is_told_each_time(
    trained: Path, textures: PatchDataset, tmp_path: Path
) -> None:
    runs = [tmp_path / "run", tmp_path / "once", tmp_path / "twice"]
    loaded(trained).save(runs[0], {"thresholds": "of the released code", "data": {"layout": "luad_histoseg"}})
    parts = [replace(textures, train=(), val=textures.val[:3]), replace(textures, train=(), val=textures.val[3:])]
    for source, out, data in zip(runs[:-1], runs[1:], parts, strict=True):
        write_tuned(tune(loaded(source), data, [(0.25,) * 4]), source, out, data)
    provenance = read_json(runs[-1] / "model.json")["provenance"]
    assert provenance["thresholds"] == "chosen on a validation split"
    assert provenance["tuned"]["from"] == model_digest(runs[1])
    assert provenance["tuned"]["before"]["from"] == model_digest(runs[0])
    scored = replace(textures, train=(), val=(), test=textures.val)
    unknown, tuned_on = notes_on_patients(runs[-1], scored, "test", scored.digest())
    assert "not known" in unknown
    assert tuned_on.startswith("6 of 6 scored patients")


def test_what_can_t_be_tuned_is_refused(trained: Path, textures: PatchDataset, tmp_path: Path) -> None:
    method = loaded(trained)
    with pytest.raises(InputError, match="mask for every image"):
        tune(method, replace(textures, val=tuple(replace(one, mask=None) for one in textures.val)), FUSIONS)
    with pytest.raises(InputError, match="a fusion"):
        tune(method, textures, [])
    swapped = Classes(textures.classes.names[::-1], textures.classes.colors)
    with pytest.raises(InputError, match="its own classes"):
        tune(method, replace(textures, classes=swapped), FUSIONS)
