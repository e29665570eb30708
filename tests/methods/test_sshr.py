import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from counterstain.data import PatchDataset, read_image
from counterstain.errors import InputError, MissingFileError, StaleResultError, UnknownNameError
from counterstain.files import read_json
from counterstain.methods import METHODS, SSHR, SSHRConfig, find_method, load_dense_method, load_method, model_digest
from counterstain.methods.base import InputSpec
from counterstain.methods.gate import validation_scores
from counterstain.methods.optimise import rate_share
from counterstain.methods.sshr import halo_px, parameter_groups
from counterstain.results import Classes
from counterstain.testing.methods import DenseMethodContract
from counterstain.testing.processes import start
from counterstain.training import TrainSettings
from counterstain.training.fit import read_losses

CONFIG = SSHRConfig(
    backbone="tiny",
    kernels=(3, 3, 3),
    optimizer="adamw",
    learning_rate=3e-3,
    scratch_factor=1.0,
    semantic_scale_factor=3.0,
    context_scale_factor=3.0,
    warmup_steps=3,
    gradient_clip=5.0,
    weight_decay=1e-4,
    turn=True,
    fusion=(0.4, 0.2, 0.2, 0.2),
)
TRAINING = TrainSettings(epochs=2, batch_size=8, seed=1)
CLASSES = Classes(("dots", "stripes"), ((1, 2, 3), (4, 5, 6)))


class TestContract(DenseMethodContract):
    name, config = "sshr", CONFIG


def created(data: PatchDataset, config: SSHRConfig = CONFIG, seed: int = 1) -> SSHR:
    return SSHR.create(config, data, tile_px=32, seed=seed)


def test_it_overfits_a_few_patches(textures: PatchDataset, tmp_path: Path) -> None:
    method = created(textures)
    method.fit(textures, tmp_path, replace(TRAINING, epochs=20))
    hits = total = 0
    for record in textures.val:
        images = torch.from_numpy(read_image(record.image)).permute(2, 0, 1)[None].float() / 255
        label = method.predict_maps(images).argmax(1)[0].numpy()
        truth = textures.read_mask(record)
        hits, total = hits + int((label == truth).sum()), total + truth.size
    assert hits / total > 0.85
    assert read_losses(tmp_path / "losses.csv")[-1][1] < 0.35
    scales = [value.detach() for name, value in method.network.named_parameters() if name.endswith("_scale")]
    assert len(scales) == 6
    assert all(abs(float(value)) > 1e-4 for value in scales), "both branches take part in learning"


def test_fitting_a_finished_run_again_takes_it_as_it_is(textures: PatchDataset, tmp_path: Path) -> None:
    first = created(textures)
    first.fit(textures, tmp_path, TRAINING)
    digest = model_digest(tmp_path)
    again = created(textures)
    again.fit(textures, tmp_path, TRAINING)
    assert model_digest(tmp_path) == digest
    description = read_json(tmp_path / "model.json")
    assert description["provenance"]["data"]["splits"]["train"]["patches"] == 24
    assert len(description["thresholds"]) == 2
    assert (tmp_path / "config.toml").exists()
    assert all(torch.equal(a, b) for a, b in zip(first.network.parameters(), again.network.parameters(), strict=True))


def test_training_is_the_same_from_files_and_from_decoded_patches(
    textures: PatchDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERSTAIN_CACHE", str(tmp_path / "cache"))
    seen = []
    for name, most in (
        ("decoded", "0"),
        ("kept", "1"),
    ):  # the second fills in its first epoch, and is served in the next
        monkeypatch.setenv("COUNTERSTAIN_PATCH_CACHE_GIB", most)
        created(textures).fit(textures, tmp_path / name, TRAINING)
        files = ("model.safetensors", "losses.csv", "run.json")
        seen.append([(tmp_path / name / file).read_bytes() for file in files])
        assert (tmp_path / "cache").exists() == (name == "kept")
    assert seen[0] == seen[1]


def test_a_run_of_other_settings_is_not_gone_on_with(textures: PatchDataset, tmp_path: Path) -> None:
    created(textures).fit(textures, tmp_path, TRAINING)
    with pytest.raises(StaleResultError, match="other settings"):
        created(textures).fit(textures, tmp_path, replace(TRAINING, epochs=3))
    created(textures).fit(textures, tmp_path, replace(TRAINING, num_workers=0))


@pytest.mark.parametrize(
    "left", ["model.json", "checkpoints/last.ckpt", "stage1/losses.csv", "pseudo_masks/source.json"]
)
def test_what_is_left_of_a_run_that_is_not_noted_is_not_gone_on_with(
    textures: PatchDataset, tmp_path: Path, left: str
) -> None:
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).write_text("{}")
    with pytest.raises(StaleResultError, match=r"no run\.json"):
        created(textures).fit(textures, tmp_path, TRAINING)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL to send")
def test_a_killed_training_ends_like_an_uninterrupted_one(textures: PatchDataset, tmp_path: Path) -> None:
    settings = replace(TRAINING, epochs=10)
    script = tmp_path / "train.py"
    folder = textures.train[0].image.parents[1]
    script.write_text(
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from counterstain.data import open_patches\n"
        "from counterstain.methods import SSHR, SSHRConfig\n"
        "from counterstain.training import TrainSettings\n"
        f"data = open_patches(Path({str(folder)!r}), 'table')\n"
        f"config, settings = {CONFIG!r}, {settings!r}\n"
        f"SSHR.create(config, data, tile_px=32, seed=1).fit(data, Path({str(tmp_path / 'killed')!r}), settings)\n"
    )
    process = start(script)
    checkpoint = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    while not checkpoint.exists():
        assert process.is_alive(), "the training ended before it could be killed"
    process.kill()
    process.join()
    assert not (tmp_path / "killed" / "model.json").exists()
    with pytest.raises(MissingFileError, match="has not finished"):
        load_method(tmp_path / "killed")
    done = int(torch.load(checkpoint, weights_only=True)["epoch"]) + 1
    assert 1 <= done < 10

    created(textures).fit(textures, tmp_path / "killed", settings)
    created(textures).fit(textures, tmp_path / "whole", settings)
    assert read_losses(tmp_path / "killed" / "losses.csv") == read_losses(tmp_path / "whole" / "losses.csv")
    ended, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(ended[name], whole[name]) for name in whole)
    thresholds = [read_json(tmp_path / name / "model.json")["thresholds"] for name in ("killed", "whole")]
    assert thresholds[0] == thresholds[1]


def test_a_validation_split_with_labels_alone_is_enough(textures: PatchDataset, tmp_path: Path) -> None:
    labelled = replace(textures, val=tuple(replace(record, mask=None) for record in textures.val))
    settings = replace(TRAINING, epochs=3, patience=1)
    method = created(labelled)
    method.fit(labelled, tmp_path, settings)
    assert len(method.thresholds) == 2
    assert read_json(tmp_path / "training.json")["epochs"] <= 3


@pytest.mark.parametrize("changes", [{}, {"patience": 1}])
def test_a_validation_split_that_can_t_serve_is_refused_before_training(
    textures: PatchDataset, tmp_path: Path, changes: dict[str, int]
) -> None:
    bare = replace(textures, val=tuple(replace(record, mask=None, label=None) for record in textures.val))
    config = replace(CONFIG, presence_thresholds=0.5) if changes else CONFIG
    with pytest.raises(InputError, match="Add them, or"):
        created(bare, config).fit(bare, tmp_path / "run", replace(TRAINING, **changes))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_validation_images_of_any_size_choose_thresholds(textures: PatchDataset, tmp_path: Path) -> None:
    records = []
    for number, (record, side) in enumerate(zip(textures.val, (20, 32, 50, 200, 32, 32), strict=True)):
        for path, kind in ((record.image, "image"), (record.mask, "mask")):
            assert path is not None
            Image.open(path).resize((side, side), Image.Resampling.NEAREST).save(tmp_path / f"{number}_{kind}.png")
        image, mask = tmp_path / f"{number}_image.png", tmp_path / f"{number}_mask.png"
        records.append(replace(record, image=image, mask=mask))
    scores = validation_scores(replace(textures, val=tuple(records)), 32, created(textures).judge, torch.device("cpu"))
    assert len(scores.presence_NC) == 1 + 1 + 4 + 49 + 1 + 1


def test_changed_validation_masks_make_a_run_stale(textures: PatchDataset, tmp_path: Path) -> None:
    created(textures).fit(textures, tmp_path / "run", TRAINING)
    other = tmp_path / "mask.png"
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(other)
    changed = replace(textures, val=tuple(replace(record, mask=other) for record in textures.val))
    with pytest.raises(StaleResultError):
        created(changed).fit(changed, tmp_path / "run", TRAINING)


def test_a_run_at_another_tile_size_is_another_run(textures: PatchDataset, tmp_path: Path) -> None:
    created(textures).fit(textures, tmp_path / "run", TRAINING)
    with pytest.raises(StaleResultError):
        SSHR.create(CONFIG, textures, tile_px=24, seed=1).fit(textures, tmp_path / "run", TRAINING)


def test_one_seed_draws_the_same_heads_with_and_without_rectification(textures: PatchDataset) -> None:
    full = created(textures).network.state_dict()
    plain = created(textures, replace(CONFIG, semantic=False, context=False)).network.state_dict()
    assert all(torch.equal(full[name], plain[name]) for name in plain)
    assert set(full) - set(plain)


def test_at_first_rectification_changes_nothing(textures: PatchDataset) -> None:
    images = torch.rand(2, 3, 32, 32)
    full = created(textures)
    plain = created(textures, replace(CONFIG, semantic=False, context=False))
    assert torch.equal(full.predict_maps(images), plain.predict_maps(images))


def test_images_can_be_enlarged_for_the_network_and_maps_keep_their_size(textures: PatchDataset) -> None:
    method = created(textures, replace(CONFIG, scale=1.5))
    assert method.predict_maps(torch.rand(1, 3, 32, 40)).shape == (1, 2, 32, 40)


def test_the_optimiser_groups_are_the_published_ones() -> None:
    config = SSHRConfig(backbone="wide_resnet38")
    with torch.device("meta"):
        network = SSHR(config, Classes(tuple("abcd"), ((0, 0, 0),) * 4), InputSpec(224, 56, None)).network
    groups = parameter_groups(network, config)
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.02, 0.1, 0.2])
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0, 5e-4, 0.0]
    assert [len(group["params"]) for group in groups] == [82, 39, 19, 3]
    assert sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad) == 111_837_970


def test_parts_of_the_rectifier_can_have_a_rate_of_their_own(textures: PatchDataset) -> None:
    config = replace(CONFIG, smooth_factor=0.5)
    network = created(textures, config).network
    groups = parameter_groups(network, config)
    assert [(len(group["params"]), group["lr"], group["weight_decay"]) for group in groups[-3:]] == [
        (3, pytest.approx(0.5 * 3e-3), 0.0),
        (3, pytest.approx(3 * 3e-3), 0.0),
        (3, pytest.approx(3 * 3e-3), 0.0),
    ]
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_the_schedule_rises_then_falls_to_zero_as_a_power() -> None:
    paper, warm = SSHRConfig().optimiser, SSHRConfig(warmup_steps=10).optimiser
    assert [rate_share(step, 100, paper) for step in (0, 50, 100)] == [1.0, pytest.approx(0.5**0.9), 0.0]
    assert rate_share(0, 100, warm) == pytest.approx(0.1)
    assert rate_share(9, 100, warm) == rate_share(9, 100, paper)


def test_the_paper_s_halo_is_half_the_context_kernel_at_stride_8() -> None:
    paper = SSHR.presets["paper"]
    assert halo_px(paper, 224) == 56
    assert halo_px(paper, 128) == 32, "half of the tile at least is kept"
    assert halo_px(replace(paper, context=False, semantic=False), 224) < 56


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 0.0}, "'scale'"),
        ({"fusion": (0, 0, 0, 0)}, "'fusion'"),
        ({"learning_rate": -1.0}, "'learning_rate'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SSHRConfig(**changes)  # type: ignore[arg-type]


def test_thresholds_fit_the_classes() -> None:
    spec = InputSpec(32, 4, None)
    assert SSHR(replace(CONFIG, presence_thresholds=0.2), CLASSES, spec).thresholds == (0.2, 0.2)
    assert SSHR(replace(CONFIG, presence_thresholds=(0.2, 0.8)), CLASSES, spec).thresholds == (0.2, 0.8)
    with pytest.raises(InputError, match="presence_thresholds"):
        SSHR(replace(CONFIG, presence_thresholds=(0.2, 0.8, 0.5)), CLASSES, spec)
    with pytest.raises(InputError, match="presence_thresholds"):
        SSHR(replace(CONFIG, presence_thresholds=2.0), CLASSES, spec)


def test_unknown_methods_and_runs_are_named(tmp_path: Path) -> None:
    assert METHODS["sshr"] is SSHR
    with pytest.raises(UnknownNameError, match="Did you mean 'sshr'"):
        find_method("shhr")
    with pytest.raises(MissingFileError, match="comes before them"):
        load_method(tmp_path)
    (tmp_path / "encoder").mkdir()
    with pytest.raises(MissingFileError, match="has not finished: run the same `train` again"):
        load_method(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(InputError, match="no model description"):
        load_method(tmp_path)


def test_missing_weights_are_named_before_training(textures: PatchDataset, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="weight"):
        created(textures, replace(CONFIG, weights=tmp_path / "none.npz"))


@pytest.mark.slow
def test_the_published_network_in_full_maps_a_patch_and_learns_from_one(tmp_path: Path) -> None:
    """Full width on Wide-ResNet38: a forward pass, and the gradient of one step of the published training."""
    classes = Classes(tuple("abcd"), ((0, 0, 0),) * 4)
    method = SSHR(SSHR.presets["paper"], classes, InputSpec(224, 56, 1.0), (0.2,) * 4)
    maps = method.predict_maps(torch.rand(1, 3, 224, 224))
    assert maps.shape == (1, 4, 224, 224)
    assert torch.allclose(maps.sum(1), torch.ones(1, 224, 224), atol=1e-5)
    method.network.train()
    cams = method.network(torch.rand(1, 3, 64, 64))
    sum(cam.mean() for cam in cams).backward()
    with_gradient = sum(value.numel() for value in method.network.parameters() if value.grad is not None)
    assert with_gradient == 111_837_970, "all but the frozen first layers and norms"
    method.save(tmp_path)
    image = torch.ones(1, 3, 64, 64)
    assert torch.equal(load_dense_method(tmp_path).predict_maps(image), method.predict_maps(image))
