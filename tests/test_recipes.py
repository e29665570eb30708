import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from counterstain.data.cutting import PRESETS
from counterstain.data.patches import LAYOUT_NAMES
from counterstain.errors import MissingExtraError, MissingFileError, UnknownNameError
from counterstain.losses import ratio_needed
from counterstain.methods import METHODS, FusionKD, FusionKDConfig, find_method
from counterstain.models.backbones import build_backbone
from counterstain.models.mil import build_mil
from counterstain.recipes import RECIPES, find_config, recipe
from counterstain.settings import build, read_toml, to_tree
from counterstain.training import TrainSettings

ROOT = Path(__file__).parents[1]


def config_of(name: str) -> Any:
    tree = read_toml(recipe(name))
    method = find_method(tree["method"])
    preset = asdict(method.presets[tree["preset"]]) if "preset" in tree else {}
    return build(method.config_type, {**preset, **tree.get("settings", {})})


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_its_method_s_settings(name: str) -> None:
    config = config_of(name)
    if isinstance(config, FusionKDConfig):
        assert build_mil(config.teacher, config.teacher_options).fusion == (0.3, 0.3, 0.4)
        assert build_mil(config.student, config.student_options).fusion == (0.3, 0.3, 0.4)
    else:
        assert len(build_backbone(config.backbone, **config.backbone_options).channels) == 4
    assert build(TrainSettings, read_toml(recipe(name)).get("training", {})).epochs >= 1


@pytest.mark.parametrize("name", [name for name in RECIPES if "mlps" in name])
def test_every_second_stage_builds(name: str) -> None:
    config = config_of(name)
    if config.second_backbone.startswith("timm:") and importlib.util.find_spec("timm") is None:
        with pytest.raises(MissingExtraError, match=r"counterstain\[timm\]"):
            build_backbone(config.second_backbone, **config.second_backbone_options)
        return
    backbone = build_backbone(config.second_backbone, **config.second_backbone_options)
    assert backbone.strides == (4, 8, 16, 16)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_differs_from_its_preset_alone(name: str) -> None:
    tree = read_toml(recipe(name))
    method = find_method(tree["method"])
    preset = asdict(method.presets[tree["preset"]] if "preset" in tree else method.config_type())
    config = asdict(config_of(name))
    assert all(config[key] != preset[key] for key in tree.get("settings", {}) if "preset" in tree)
    assert tree.get("data", {}).get("layout") in (None, *LAYOUT_NAMES)


def test_the_released_training_is_repeated_and_the_recommended_one_has_enough_negatives() -> None:
    released = [config_of("camelyon16_fusion_kd"), config_of("digestpath_fusion_kd")]
    assert released == [FusionKD.presets["legacy"]] * 2
    robust = config_of("camelyon16_fusion_kd_robust")
    assert robust.area_fraction == PRESETS["camelyon16_p512"].min_fraction
    assert robust.neg_pos_ratio >= ratio_needed(robust.area_fraction)


@pytest.mark.parametrize("method", METHODS)
def test_every_preset_survives_a_toml_file(method: str) -> None:
    config_type, presets = METHODS[method].config_type, METHODS[method].presets
    again = {name: build(config_type, to_tree(preset)) for name, preset in presets.items()}
    as_text = [{name: json.dumps(asdict(one), default=str) for name, one in each.items()} for each in (again, presets)]
    assert as_text[0] == as_text[1]  # as text, for options in lists are as good as in tuples


def test_every_recipe_says_what_it_reproduces() -> None:
    for path in RECIPES.values():
        head = path.read_text(encoding="utf-8").split("method =")[0]
        assert "mean IoU" in head or "Expected F1" in head, f"{path.name}: expected figure"
        assert "minutes" in head, f"{path.name}: expected time"
        assert "docs/" in head or "arXiv" in head, f"{path.name}: source"


def test_every_recipe_stands_in_the_documents_table() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [name for name in RECIPES if f"| `{name}` |" not in text] == []


def test_an_unknown_recipe_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'ebhi_seg'"):
        recipe("ebhi")


@pytest.mark.parametrize("given", ["luad_sshr", "luad_sshr.toml", "recipes/luad_sshr.toml", "./luad_sshr.toml"])
def test_a_recipe_is_found_by_name_wherever_one_stands(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(given) == RECIPES["luad_sshr"]


def test_a_file_goes_before_a_recipe_of_its_name_and_a_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "luad_sshr").mkdir()
    assert find_config("luad_sshr") == RECIPES["luad_sshr"]
    (tmp_path / "luad_sshr.toml").write_text('method = "sshr"\n')
    assert find_config("luad_sshr.toml") == Path("luad_sshr.toml")


@pytest.mark.parametrize("given", ["luad_shr", "luad_shr.toml", "recipes/luad_shr.toml"])
def test_a_config_that_is_neither_file_nor_recipe_gets_the_nearest(given: str) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown config file or recipe 'luad_shr'\. Did you mean 'luad_sshr'"):
        find_config(given)


@pytest.mark.parametrize("given", ["mine/luad_sshr.toml", "luad_sshr.json", "/nowhere/luad_sshr"])
def test_a_path_that_can_t_be_a_recipe_s_is_a_missing_file(given: str) -> None:
    with pytest.raises(MissingFileError, match="no file is there"):
        find_config(given)
