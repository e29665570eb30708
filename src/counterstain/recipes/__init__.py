"""Recipes: one TOML file for each number that this project reports, with its source, expected figure and time.

`counterstain train --config FILE` takes them; `recipe(name)` gives a file's path.
"""

from pathlib import Path

from counterstain.errors import UnknownNameError

RECIPES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}


def recipe(name: str) -> Path:
    """The file of a recipe.

    Raises:
        UnknownNameError: When there is none of that name.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name]
