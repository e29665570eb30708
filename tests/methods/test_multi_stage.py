import csv
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

from counterstain.data import PatchDataset, read_image
from counterstain.data.augment import AugmentSettings
from counterstain.errors import InputError, MissingFileError, StaleResultError
from counterstain.files import read_json
from counterstain.methods import MultiStage, MultiStageConfig, load_dense_method, model_digest
from counterstain.methods.base import InputSpec
from counterstain.methods.first_stage import FirstStageSettings, attention_gamma
from counterstain.methods.multi_stage import halo_px
from counterstain.methods.optimise import four_groups, rate_share, two_groups
from counterstain.methods.pseudo_masks import strongest_labelled
from counterstain.methods.second_stage import SecondStageSettings, blurred, layer_loss, varied
from counterstain.models import build_backbone
from counterstain.models.weights import digest, write_state
from counterstain.results import UNCOVERED, Classes
from counterstain.settings import build, to_tree
from counterstain.testing.methods import DenseMethodContract
from counterstain.testing.processes import start
from counterstain.training import TrainSettings
from counterstain.training.fit import read_losses

CONFIG = replace(
    MultiStage.presets["mlps_small"],
    backbone_options={"width": 16},
    second_backbone_options={"width": 16},
    second_channels=32,
    second_low_channels=8,
    learning_rate=3e-3,
    second_learning_rate=3e-3,
    attention_start_epoch=1,
    warmup_steps=3,
)
TRAINING = TrainSettings(epochs=2, batch_size=8, seed=1)
CLASSES = Classes(tuple("abcd"), ((0, 0, 0),) * 4)
SECOND = SecondStageSettings((1.0,), "none", False, 1.0, AugmentSettings(True, True, 0.0), blur=False)


class TestContract(DenseMethodContract):
    name, config = "multi_stage", CONFIG


def created(data: PatchDataset, config: MultiStageConfig = CONFIG, seed: int = 1) -> MultiStage:
    return MultiStage.create(config, data, tile_px=32, seed=seed)


def pixel_accuracy(method: MultiStage, data: PatchDataset) -> float:
    hits = total = 0
    for record in data.val:
        images = torch.from_numpy(read_image(record.image)).permute(2, 0, 1)[None].float() / 255
        label, truth = method.predict_maps(images).argmax(1)[0].numpy(), data.read_mask(record)
        hits, total = hits + int((label == truth).sum()), total + truth.size
    return hits / total


def test_it_overfits_a_few_patches(textures: PatchDataset, tmp_path: Path) -> None:
    method = created(textures)
    method.fit(textures, tmp_path, replace(TRAINING, epochs=20))
    assert pixel_accuracy(method, textures) > 0.85


def test_what_each_stage_took_is_told(
    textures: PatchDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    created(textures, replace(CONFIG, second_epochs=3)).fit(textures, tmp_path, TRAINING)
    assert "Epochs: 2 of the classifier, 3 of the segmenter" in capsys.readouterr().err
    asked = read_json(tmp_path / "model.json")["provenance"]["stage_epochs"]
    assert asked == {"classification": 2, "segmentation": 3}
    told = read_json(tmp_path / "training.json")
    stages = [read_json(tmp_path / name / "training.json") for name in ("stage1", "stage2")]
    masks = read_json(tmp_path / "pseudo_masks" / "minutes.json")["minutes"]
    assert told["stages"] == {
        "classification": stages[0]["minutes"],
        "pseudo_masks": masks,
        "segmentation": stages[1]["minutes"],
    }
    assert told["minutes"] == pytest.approx(sum(told["stages"].values()))
    assert told["epochs"] == len(told["minutes_by_epoch"]) == 2 + 3
    assert {"device", "devices", "precision"} <= set(told)
    assert min(told["stages"].values()) > 0
    losses = read_losses(tmp_path / "losses.csv")
    assert [step for step, _ in losses] == list(range(1, 3 * (2 + 3) + 1))
    with (tmp_path / "losses.csv").open(newline="") as file:
        names = [row["stage"] for row in csv.DictReader(file)]
    assert names == ["classification"] * 6 + ["segmentation"] * 9


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL to send")
def test_a_run_killed_in_both_trainings_ends_like_an_uninterrupted_one(textures: PatchDataset, tmp_path: Path) -> None:
    settings, killed = replace(TRAINING, epochs=12), tmp_path / "killed"
    script = tmp_path / "train.py"
    script.write_text(
        "from pathlib import Path\n"
        "from counterstain.data import open_patches\n"
        "from counterstain.methods import MultiStage, MultiStageConfig\n"
        "from counterstain.training import TrainSettings\n"
        f"data = open_patches(Path({str(textures.train[0].image.parents[1])!r}), 'table')\n"
        f"config, settings = {CONFIG!r}, {settings!r}\n"
        f"MultiStage.create(config, data, tile_px=32, seed=1).fit(data, Path({str(killed)!r}), settings)\n"
    )
    for stage in ("stage1", "stage2"):
        process = start(script)
        while not (killed / stage / "checkpoints" / "last.ckpt").exists():
            process.join(0.02)
            assert process.is_alive(), "the training ended before it could be killed"
        process.kill()
        process.join()
        assert not (killed / stage / "weights.safetensors").exists()
        assert not (killed / "model.json").exists()

    created(textures).fit(textures, killed, settings)
    created(textures).fit(textures, tmp_path / "whole", settings)
    assert model_digest(killed) == model_digest(tmp_path / "whole")
    assert read_losses(killed / "losses.csv") == read_losses(tmp_path / "whole" / "losses.csv")


def test_a_run_killed_between_an_epoch_and_the_stage_s_end_ends_like_an_uninterrupted_one(
    textures: PatchDataset, tmp_path: Path
) -> None:
    created(textures).fit(textures, tmp_path, TRAINING)
    whole = model_digest(tmp_path)
    for name in ("stage1/weights.safetensors", "stage2/weights.safetensors", "model.json", "losses.csv"):
        (tmp_path / name).unlink()
    created(textures).fit(textures, tmp_path, TRAINING)
    assert model_digest(tmp_path) == whole
    assert len(read_losses(tmp_path / "losses.csv")) == 12


def test_a_run_killed_between_masks_ends_like_an_uninterrupted_one(textures: PatchDataset, tmp_path: Path) -> None:
    method = created(textures)
    method.fit(textures, tmp_path, TRAINING)
    whole, minutes = model_digest(tmp_path), read_json(tmp_path / "training.json")["stages"]["pseudo_masks"]
    for path in [
        *(tmp_path / "stage2").rglob("*"),
        *tmp_path.glob("*.*"),
        *(tmp_path / "pseudo_masks" / "tap2").iterdir(),
    ]:
        if path.is_file() and path.name not in ("run.json", "config.toml"):
            path.unlink()
    again = created(textures)
    again.fit(textures, tmp_path, TRAINING)
    assert model_digest(tmp_path) == whole
    assert read_json(tmp_path / "training.json")["stages"]["pseudo_masks"] > minutes, "the time before the kill counts"


def test_a_second_stage_of_other_masks_is_begun_afresh(textures: PatchDataset, tmp_path: Path) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone"
    created(textures).fit(textures, run, TRAINING)
    before = model_digest(run)
    (run / "model.json").unlink()
    write_state(run / "stage1" / "weights.safetensors", created(textures, seed=7).network.classifier.state_dict())
    shutil.copytree(run / "stage1", alone / "stage1")
    shutil.copy(run / "run.json", alone)
    for folder in (run, alone):
        created(textures).fit(textures, folder, TRAINING)
    assert model_digest(run) == model_digest(alone) != before


def test_fitting_a_finished_run_again_takes_it_as_it_is(textures: PatchDataset, tmp_path: Path) -> None:
    first, again = created(textures), created(textures, seed=2)
    first.fit(textures, tmp_path, TRAINING)
    before = model_digest(tmp_path)
    again.fit(textures, tmp_path, TRAINING)
    assert model_digest(tmp_path) == before
    assert digest(again.network.state_dict()) == digest(first.network.state_dict())
    assert again.thresholds == first.thresholds
    with pytest.raises(StaleResultError, match="other settings"):
        created(textures, replace(CONFIG, blur=False)).fit(textures, tmp_path, TRAINING)


def test_oeem_changes_what_the_segmenter_learns_and_nothing_before_it(textures: PatchDataset, tmp_path: Path) -> None:
    for weighting in ("none", "oeem"):
        config = replace(CONFIG, pixel_weighting=weighting)
        created(textures, config).fit(textures, tmp_path / weighting, TRAINING)
    plain, weighed = (read_losses(tmp_path / name / "losses.csv") for name in ("none", "oeem"))
    assert plain[:6] == weighed[:6]
    assert all(a != b for (_, a), (_, b) in zip(plain[6:], weighed[6:], strict=True))


def test_attention_changes_what_the_classifier_learns_from_its_first_epoch_on(
    textures: PatchDataset, tmp_path: Path
) -> None:
    for name, attention in (("with", True), ("without", False)):
        created(textures, replace(CONFIG, attention=attention)).fit(textures, tmp_path / name, TRAINING)
    losses = [read_losses(tmp_path / name / "losses.csv") for name in ("with", "without")]
    assert losses[0][:3] == losses[1][:3], "the first epoch, before attention starts"
    assert losses[0][3] != losses[1][3]


def test_early_stopping_ends_the_first_stage_alone(textures: PatchDataset, tmp_path: Path) -> None:
    config = replace(CONFIG, learning_rate=1e-9, second_epochs=2)
    created(textures, config).fit(textures, tmp_path, replace(TRAINING, epochs=9, patience=1))
    assert read_json(tmp_path / "stage1" / "training.json")["epochs"] < 9
    assert read_json(tmp_path / "stage2" / "training.json")["epochs"] == 2


def test_patches_in_which_no_class_occurs_are_no_obstacle(textures: PatchDataset, tmp_path: Path) -> None:
    train = tuple(replace(record, label=(0, 0)) if index % 3 else record for index, record in enumerate(textures.train))
    method = created(textures, replace(CONFIG, presence_thresholds=0.1))
    method.fit(replace(textures, train=train), tmp_path, TRAINING)
    assert (tmp_path / "model.json").exists()
    assert np.unique(np.asarray(Image.open(tmp_path / "pseudo_masks" / "tap3" / "1.png"))).tolist() == [UNCOVERED]


def test_white_is_left_out_as_the_dataset_or_the_settings_say(textures: PatchDataset, tmp_path: Path) -> None:
    pale = []
    for index, record in enumerate(textures.train):
        pixels = read_image(record.image)
        pixels[:16] = 250
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        pale.append(replace(record, image=tmp_path / f"{index}.png"))
    for is_background, given, expected in ((True, None, True), (False, None, False), (False, True, True)):
        data = replace(textures, train=tuple(pale), white_is_background=is_background)
        run = tmp_path / f"run-{is_background}-{given}"
        created(data, replace(CONFIG, white_background=given)).fit(data, run, replace(TRAINING, epochs=1))
        mask = np.asarray(Image.open(run / "pseudo_masks" / "tap1" / "0.png"))
        assert bool((mask[:16] == UNCOVERED).all()) == expected
        assert not (mask[20:] == UNCOVERED).all()


def test_presence_decides_what_is_shown(textures: PatchDataset) -> None:
    images = torch.rand(3, 3, 32, 40)
    method = created(textures, replace(CONFIG, presence_thresholds=(0.0, 1.0)))
    assert (method.predict_maps(images)[:, 1] == 0).all()
    nothing = created(textures, replace(CONFIG, presence_thresholds=1.0))
    likeliest_B = nothing.presence(images).argmax(1)
    assert torch.equal(nothing.predict_maps(images).argmax(1), likeliest_B[:, None, None].expand(3, 32, 40))
    everything = created(textures, replace(CONFIG, presence_thresholds=0.0))
    logits = everything.network.eval().segmenter(images)
    assert torch.allclose(everything.predict_maps(images), logits.softmax(1), atol=1e-6)


def test_both_stages_can_see_images_enlarged(textures: PatchDataset, tmp_path: Path) -> None:
    method = created(textures, replace(CONFIG, scale=1.5, second_scale=0.75))
    method.fit(textures, tmp_path, replace(TRAINING, epochs=1))
    images_BCHW = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    network = method.network.eval()
    with torch.no_grad():
        larger_BCHW = F.interpolate(images_BCHW, size=(48, 60), mode="bilinear")
        smaller_BCHW = F.interpolate(images_BCHW, size=(24, 30), mode="bilinear", antialias=True)
        presence_BK = network.classifier(larger_BCHW).sigmoid()
        logits_BKHW = F.interpolate(network.segmenter(smaller_BCHW), size=(32, 40), mode="bilinear")
        plain_BK, plain_BKHW = network.classifier(images_BCHW).sigmoid(), network.segmenter(images_BCHW).softmax(1)
    assert torch.allclose(method.presence(images_BCHW), presence_BK, atol=1e-6)
    everything_BK = torch.ones(2, 2, dtype=torch.bool)
    maps_BKHW = method.predict_maps(images_BCHW, everything_BK)
    assert torch.allclose(maps_BKHW, logits_BKHW.softmax(1), atol=1e-6)
    assert not torch.allclose(presence_BK, plain_BK, atol=1e-4), "scales make a difference"
    assert not torch.allclose(maps_BKHW, plain_BKHW, atol=1e-4)


def test_pseudo_masks_are_of_enlarged_patches_at_the_patches_size(textures: PatchDataset, tmp_path: Path) -> None:
    method = created(textures, replace(CONFIG, scale=1.5, taps=(3,), layer_weights=(1.0,)))
    method.fit(textures, tmp_path, replace(TRAINING, epochs=1))
    found: list[npt.NDArray[np.uint8]] = []
    expected: list[npt.NDArray[np.uint8]] = []
    plain: list[npt.NDArray[np.uint8]] = []
    for index, record in enumerate(textures.train):
        image_BCHW = torch.from_numpy(read_image(record.image)).permute(2, 0, 1)[None].float() / 255
        larger_BCHW = F.interpolate(image_BCHW, size=(48, 48), mode="bilinear")
        found.append(np.asarray(Image.open(tmp_path / "pseudo_masks" / "tap3" / f"{index}.png")))
        for seen_BCHW, masks in ((larger_BCHW, expected), (image_BCHW, plain)):
            with torch.no_grad():
                cams_BKhw = method.network.classifier.eval().cams(seen_BCHW)
            masks.append(strongest_labelled(cams_BKhw, torch.tensor([record.label]), (32, 32))[0].numpy())
    assert (np.stack(found) == np.stack(expected)).mean() > 0.999
    assert (np.stack(found) == np.stack(plain)).mean() < 0.999, "the scale makes a difference"


def test_weights_that_have_seen_pixel_truth_are_told_and_remembered(
    textures: PatchDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = build_backbone("resnet18", output_stride=16)
    whole = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    files = {
        "plain": whole,
        "deeplab": {**whole, "decoder.last.weight": torch.ones(1), "aspp.conv.weight": torch.ones(1)},
    }
    for name, state in files.items():
        write_state(tmp_path / f"{name}.safetensors", state)
        config = replace(
            CONFIG,
            second_backbone="resnet18",
            second_backbone_options={"output_stride": 16},
            second_weights=tmp_path / f"{name}.safetensors",
        )
        method = created(textures, config)
        assert ("pixel truth" in capsys.readouterr().err) == (name == "deeplab")
        method.save(tmp_path / name)
        provenance = read_json(tmp_path / name / "model.json")["provenance"]
        assert provenance.get("second_weights_saw_pixel_truth", False) == (name == "deeplab")
        assert "weights_saw_pixel_truth" not in provenance
        loaded = load_dense_method(tmp_path / name)
        assert loaded.pretrained == method.pretrained


@pytest.mark.parametrize("name", MultiStage.presets)
def test_presets_stay_what_they_are_as_plain_values(name: str) -> None:
    """TOML has no word for None: what a tree leaves out must be the default."""
    config = MultiStage.presets[name]
    assert to_tree(build(MultiStageConfig, to_tree(config))) == to_tree(config)
    assert (build(MultiStageConfig, to_tree(config)).second_epochs is None) == name.endswith("small")


@pytest.mark.parametrize("name", MultiStage.presets)
def test_presets_build_and_give_maps(name: str) -> None:
    config = MultiStage.presets[name]
    with torch.device("meta"):
        method = MultiStage(config, CLASSES, InputSpec(224, halo_px(224), None))
        logits_BKHW, presence_BK = method.network.eval()(torch.empty(2, 3, 224, 224))
    assert logits_BKHW.shape == (2, 4, 224, 224)
    assert presence_BK.shape == (2, 4)
    assert method.network.backbone is method.network.classifier.backbone
    assert len(config.taps) == len(config.layer_weights)


def test_the_published_pipeline_has_the_published_numbers() -> None:
    config = MultiStage.presets["mlps"]
    assert (config.stage_one_epochs, config.second_epochs, config.presence_thresholds) == (20, 30, 0.1)
    assert dict(zip(config.taps, config.layer_weights, strict=True)) == {1: 0.2, 2: 0.2, 3: 0.6}
    with torch.device("meta"):
        network = MultiStage(config, CLASSES, InputSpec(224, 28, None)).network
    first = four_groups(network.classifier.parameter_groups(), config.first_optimiser)
    assert [group["lr"] for group in first] == pytest.approx([0.01, 0.02, 0.1])  # its head has no bias
    assert [group["weight_decay"] for group in first] == [5e-4, 0.0, 5e-4]
    second = two_groups(network.segmenter.parameter_groups(), config.second_optimiser)
    assert [group["lr"] for group in second] == pytest.approx([0.01, 0.1])
    assert config.first_optimiser.momentum == 5e-4
    assert config.second_optimiser.momentum == 0.9
    for part, groups in ((network.classifier, first), (network.segmenter, second)):
        assert sum(len(group["params"]) for group in groups) == len(list(part.parameters()))
    assert [rate_share(step, 100, config.second_optimiser) for step in (0, 50, 100)] == [
        1.0,
        pytest.approx(0.5**0.9),
        0.0,
    ]


def test_attention_hides_more_from_epoch_to_epoch() -> None:
    settings = FirstStageSettings(True, 3, 0.98, 0.65, 1.0, AugmentSettings())
    gammas = [attention_gamma(epoch, settings) for epoch in range(40)]
    assert gammas[:3] == [None, None, None]
    assert gammas[3] == pytest.approx(0.98**3)
    assert gammas[39] == 0.65
    assert attention_gamma(5, replace(settings, attention=False)) is None


def test_image_and_masks_are_moved_alike() -> None:
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    images_BCHW = torch.stack([rows, columns, rows + columns])[None].expand(16, -1, -1, -1).to(torch.uint8)
    masks_BLHW = torch.stack([rows, columns], dim=0)[None].expand(16, -1, -1, -1).to(torch.uint8)
    moved_BCHW, moved_BLHW = varied(images_BCHW, masks_BLHW, SECOND, torch.Generator().manual_seed(0))
    assert torch.equal((moved_BCHW[:, :2] * 255).round().to(torch.uint8), moved_BLHW)
    assert len({tuple(image[:2].flatten().tolist()) for image in moved_BCHW}) > 4, "they are moved"
    stained, unmoved = varied(
        images_BCHW, masks_BLHW, replace(SECOND, augment=AugmentSettings(False, False, 0.2)), torch.Generator()
    )
    assert torch.equal(unmoved, masks_BLHW)
    assert not torch.allclose(stained, images_BCHW / 255)


def test_half_of_the_images_are_blurred_as_scipy_would() -> None:
    images_BCHW = torch.rand(40, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    found_BCHW = blurred(images_BCHW, torch.Generator().manual_seed(5))
    sigma_B, draw_B = torch.rand(2, 40, generator=torch.Generator().manual_seed(5))
    is_blurred_B = draw_B < 0.5
    assert 10 < int(is_blurred_B.sum()) < 30
    assert torch.equal(found_BCHW[~is_blurred_B], images_BCHW[~is_blurred_B])
    for image_CHW, found_CHW, sigma in zip(
        images_BCHW[is_blurred_B], found_BCHW[is_blurred_B], sigma_B[is_blurred_B], strict=True
    ):
        for plane, found in zip(image_CHW.numpy(), found_CHW.numpy(), strict=True):
            assert np.allclose(ndimage.gaussian_filter(plane, float(sigma), mode="nearest", radius=3), found, atol=1e-5)


def test_a_layer_without_scored_pixels_costs_nothing() -> None:
    logits_BKHW = torch.randn(2, 3, 4, 4, requires_grad=True)
    nothing_BHW = torch.full((2, 4, 4), UNCOVERED, dtype=torch.uint8)
    for weighting in ("none", "oeem"):
        loss = layer_loss(logits_BKHW, nothing_BHW, weighting)
        loss.backward()  # type: ignore[no-untyped-call]
        assert float(loss.detach()) == 0
        assert logits_BKHW.grad is not None
        assert not logits_BKHW.grad.any()


def test_pretrained_weights_of_both_stages_are_loaded_and_remembered(textures: PatchDataset, tmp_path: Path) -> None:
    donor = created(textures, seed=7).network
    files = {"weights": tmp_path / "first.safetensors", "second_weights": tmp_path / "second.safetensors"}
    write_state(files["weights"], donor.classifier.backbone.state_dict())
    write_state(files["second_weights"], donor.segmenter.backbone.state_dict())
    config = replace(CONFIG, **files)  # type: ignore[arg-type]
    method = created(textures, config)
    assert digest(method.network.segmenter.backbone.state_dict()) == digest(donor.segmenter.backbone.state_dict())
    assert digest(method.network.classifier.backbone.state_dict()) == digest(donor.classifier.backbone.state_dict())
    method.fit(textures, tmp_path / "run", replace(TRAINING, epochs=1))
    provenance = read_json(tmp_path / "run" / "model.json")["provenance"]
    assert provenance["weights_digest"] != provenance["second_weights_digest"]
    loaded = load_dense_method(tmp_path / "run")
    assert isinstance(loaded, MultiStage)
    assert loaded.pretrained == method.pretrained
    write_state(files["second_weights"], created(textures, seed=8).network.segmenter.backbone.state_dict())
    with pytest.raises(StaleResultError):
        method.fit(textures, tmp_path / "run", replace(TRAINING, epochs=1))
    files["second_weights"].unlink()
    with pytest.raises(MissingFileError, match="--second-weights"):
        method.fit(textures, tmp_path / "other", replace(TRAINING, epochs=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 0.0}, "'scale'"),
        ({"second_learning_rate": -1.0}, "'second_learning_rate'"),
        ({"second_epochs": 0}, "'second_epochs'"),
        ({"attention_decay": 1.01}, "'attention_decay'"),
        ({"attention_floor": 0.0}, "'attention_floor'"),
        ({"attention_start_epoch": -1}, "'attention_start_epoch'"),
        ({"momentum": -0.1}, "'momentum'"),
        ({"second_momentum": -0.1}, "'second_momentum'"),
        ({"dropout": 1.0}, "'dropout'"),
        ({"second_dropouts": (0.5, -0.1, 0.1)}, "'second_dropouts'"),
        ({"taps": ()}, "'taps'"),
        ({"taps": (3, 1)}, "'taps'"),
        ({"taps": (1, 4)}, "'taps'"),
        ({"layer_weights": (1.0,)}, "'layer_weights'"),
        ({"layer_weights": (0.0, 0.0, 0.0)}, "'layer_weights'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MultiStageConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("changes", "message"), [({"devices": 2}, "2 devices"), ({"batch_size": 1}, "--batch-size")])
def test_training_that_can_t_work_is_refused_before_it_begins(
    textures: PatchDataset, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        created(textures).fit(textures, tmp_path / "run", replace(TRAINING, **changes))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_tile_s_edge_is_looked_at_and_thrown_away() -> None:
    assert halo_px(224) == 28
    assert halo_px(32) == 4
