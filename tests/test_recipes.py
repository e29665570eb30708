import pytest

from counterstain.errors import UnknownNameError
from counterstain.methods import find_method
from counterstain.models.backbones import build_backbone
from counterstain.recipes import RECIPES, recipe
from counterstain.settings import build, read_toml
from counterstain.training import TrainSettings


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_its_method_s_settings(name: str) -> None:
    tree = read_toml(recipe(name))
    config = build(find_method(tree["method"]).config_type, tree["settings"])
    backbone = build_backbone(config.backbone, **config.backbone_options)
    assert len(backbone.channels) == 4
    assert build(TrainSettings, tree["training"]).epochs >= 1


def test_every_recipe_says_what_it_reproduces() -> None:
    for path in RECIPES.values():
        head = path.read_text(encoding="utf-8").split("method =")[0]
        assert "mean IoU" in head, f"{path.name}: expected figure"
        assert "minutes" in head, f"{path.name}: expected time"
        assert "docs/" in head or "arXiv" in head, f"{path.name}: source"


def test_an_unknown_recipe_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'ebhi_seg'"):
        recipe("ebhi")
