"""Recipes meet the published folders: every variant of a layout is learned from, and what is wrong is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterstain.cli import OK, WRONG_USE, run
from counterstain.layouts import LAYOUTS
from counterstain.testing.datasets import (
    FakeContent,
    FakeNames,
    Folders,
    published_folders,
    published_label_formats,
    write_layout,
)

NAMES = {
    "luad_histoseg": FakeNames("{patient}-{number}-27920", "{patient}-{number}-46781", ("1031280", "385277", "416392")),
    "bcss_wsss": FakeNames(
        "{patient}-DX1_xmin45749_ymin25055_MPP-0.2500+{number}",
        "{patient}-DX1_xmin45749_ymin25055_MPP-0.2500+{number}",
        ("TCGA-A1-A0SK", "TCGA-A2-A04Q", "TCGA-GM-A3XL"),
    ),
    "wsss4luad": FakeNames("{patient}-{number}-11698", "{number:02d}", ("1003370", "unknown", "unknown")),
}
RECIPES = {"luad_sshr": "luad_histoseg", "bcss_sshr": "bcss_wsss"}
TINY = ["--backbone", "tiny", "--kernels", "3", "3", "3", "--epochs", "1", "--batch-size", "4"]
TWO_STAGES = ["--backbone", "tiny", "--stage-one-epochs", "1", "--second-epochs", "1", "--batch-size", "4"]


def every_name_once(layout: str) -> list[Any]:
    """The published variants of a layout's folders; those of which each name stands in one before are slow."""
    seen: set[tuple[str, str]] = set()
    variants = []
    for folders in published_folders(LAYOUTS[layout]):
        names = set(vars(folders).items())
        marks = [pytest.mark.slow] if names <= seen else []
        variants.append(pytest.param(folders, marks=marks, id="-".join(vars(folders).values())))
        seen |= names
    return variants


FOLDERS = [
    pytest.param(config, layout, *variant.values, None, marks=variant.marks, id=f"{config}-{variant.id}")
    for config, layout in RECIPES.items()
    for variant in every_name_once(layout)
]
LABELS = [
    pytest.param(config, layout, Folders(), label_format, id=f"{config}-{label_format}")
    for config, layout in RECIPES.items()
    for label_format in published_label_formats(LAYOUTS[layout])
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without a file of the recipe's name, in which nothing is yet."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def fake(
    folder: Path,
    layout: str,
    folders: Folders | None = None,
    label_format: str | None = None,
    content: FakeContent | None = None,
) -> Path:
    write_layout(folder, LAYOUTS[layout], replace(NAMES[layout], label_format=label_format), folders, content)
    return folder


@pytest.mark.parametrize(("config", "layout", "folders", "label_format"), [*FOLDERS, *LABELS])
def test_a_recipe_learns_from_every_published_variant_of_its_folders(
    config: str, layout: str, folders: Folders, label_format: str | None, tmp_path: Path, elsewhere: Path
) -> None:
    data = fake(tmp_path / "data", layout, folders, label_format)
    assert run(["train", "--config", f"recipes/{config}.toml", "--data", str(data), *TINY]) == OK
    description = json.loads((elsewhere / "runs" / config / "model.json").read_text())
    assert [entry["name"] for entry in description["classes"]] == list(LAYOUTS[layout].classes.names)


@pytest.mark.parametrize("label_format", [*published_label_formats(LAYOUTS["luad_histoseg"])])
def test_the_multi_stage_recipe_takes_the_same_folders(label_format: str, tmp_path: Path, elsewhere: Path) -> None:
    data = fake(tmp_path / "data", "luad_histoseg", label_format=label_format)
    second = ["--second-backbone", "tiny", "--second-backbone-options", "{}", "--second-channels", "8"]
    assert run(["train", "--config", "luad_mlps", "--data", str(data), *TWO_STAGES, *second]) == OK
    assert (elsewhere / "runs" / "luad_mlps" / "model.json").is_file()


@pytest.mark.parametrize("folders", every_name_once("wsss4luad"))
def test_a_preset_learns_from_every_published_variant_of_wsss4luad(
    folders: Folders, tmp_path: Path, elsewhere: Path
) -> None:
    data = fake(tmp_path / "data", "wsss4luad", folders)
    (elsewhere / "mine.toml").write_text('method = "sshr"\npreset = "paper"\n')
    assert run(["train", "--config", "mine.toml", "--data", str(data), *TINY]) == OK
    description = json.loads((elsewhere / "runs" / "mine" / "model.json").read_text())
    assert [entry["name"] for entry in description["classes"]] == list(LAYOUTS["wsss4luad"].classes.names)


def rename_first(folder: Path, suffix: str) -> None:
    """Gives a training patch a name that ends otherwise."""
    path = min((folder / "train").iterdir())
    path.rename(path.with_name(f"{path.stem.split('-[')[0]}{suffix}.png"))


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a label that can't be parsed": (
        lambda folder: rename_first(folder, "-[1 0 x 1]"),
        "1 of 8 file names carry no label of 4 digits",
    ),
    "a name without a label": (lambda folder: rename_first(folder, ""), "1 of 8 file names carry no label of 4 digits"),
    "another number of digits": (
        lambda folder: rename_first(folder, "-[1 0 0]"),
        "1 of 8 file names carry no label of 4 digits",
    ),
    "a missing mask": (
        lambda folder: min((folder / "val" / "mask").iterdir()).unlink(),
        "no file of this name in mask",
    ),
    "no masks": (
        lambda folder: (folder / "val" / "mask").rename(folder / "val" / "masks"),
        "it was expected to hold a mask for each of 2 images",
    ),
    "no validation split": (lambda folder: (folder / "val").rename(folder / "other"), "validation split"),
    "no training split": (lambda folder: (folder / "train").rename(folder / "other"), "has no train split"),
    "a split under two names": (lambda folder: (folder / "training").mkdir(), "train and training"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_dataset_is_refused_before_anything_is_written(
    what: str, tmp_path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = SPOILT[what]
    data = fake(tmp_path / "data", "luad_histoseg")
    spoil(data)
    assert run(["train", "--config", "luad_sshr", "--data", str(data), *TINY]) == WRONG_USE
    check_refused(message, elsewhere, capsys)


def check_refused(message: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("label_format", [*published_label_formats(LAYOUTS["bcss_wsss"])])
@pytest.mark.parametrize(("config", "other"), [("luad_sshr", "bcss_wsss"), ("bcss_sshr", "luad_histoseg")])
def test_a_recipe_refuses_patches_whose_digits_stand_for_other_classes(
    config: str, other: str, label_format: str, tmp_path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both datasets have four digits and the same folders; their necrosis is another digit."""
    data = fake(tmp_path / "data", other, label_format=label_format)
    assert run(["train", "--config", config, "--data", str(data), *TINY]) == WRONG_USE
    check_refused(f"The config is for {RECIPES[config]}, and 8 of 8 training images are not named", elsewhere, capsys)


def test_without_a_recipe_an_order_of_classes_in_doubt_is_asked_for(
    tmp_path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LUAD-HistoSeg's patients with BCSS's way of writing a label fit neither."""
    data = fake(tmp_path / "data", "luad_histoseg", label_format="-[{0}{1}{2}{3}]")
    assert run(["train", "run", "--data", str(data), *TINY]) == WRONG_USE
    check_refused("Pass --layout, one of luad_histoseg, bcss_wsss", elsewhere, capsys)


def test_a_layout_that_the_user_names_is_taken_at_its_word(tmp_path: Path, elsewhere: Path) -> None:
    data = fake(tmp_path / "data", "bcss_wsss")
    arguments = ["train", "--config", "luad_sshr", "--data", str(data), "--layout", "luad_histoseg", *TINY]
    assert run(arguments) == OK
    assert (elsewhere / "runs" / "luad_sshr" / "model.json").is_file()


@pytest.mark.parametrize(("side", "code"), [(8, WRONG_USE), (9, OK)])
def test_images_of_which_the_deepest_features_have_one_cell_are_refused(
    side: int, code: int, tmp_path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = fake(tmp_path / "data", "luad_histoseg", content=FakeContent(width_px=side, height_px=side))
    assert run(["train", "--config", "luad_sshr", "--data", str(data), *TINY]) == code
    if code == WRONG_USE:
        check_refused("Training images of 8 px were given", elsewhere, capsys)


def test_fewer_images_than_a_batch_holds_are_refused(
    tmp_path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = fake(tmp_path / "data", "luad_histoseg")
    assert run(["train", "--config", "luad_sshr", "--data", str(data)]) == WRONG_USE
    check_refused("8 training images were given for batches of 20. Lower --batch-size.", elsewhere, capsys)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_recipe_runs_unchanged_from_folders_to_scores(
    tmp_path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole published network for all 25 epochs, on images so small that two cores are done in minutes."""
    content = FakeContent(num_train=20, width_px=16, height_px=16)
    data = fake(tmp_path / "LUAD-HistoSeg", "luad_histoseg", Folders("training", "valid"), content=content)
    assert run(["train", "--config", "recipes/luad_sshr.toml", "--data", str(data)]) == OK
    assert "Published figures need ImageNet's" in capsys.readouterr().err
    folder = elsewhere / "runs" / "luad_sshr"
    assert json.loads((folder / "training.json").read_text())["epochs"] == 25
    assert run(["evaluate", str(folder), "--data", str(data)]) == OK
    assert json.loads((folder / "metrics_val.json").read_text())["num_images"] == 2
