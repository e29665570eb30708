"""Recipes: one TOML file for each number that this project reports or means to reach, with its source and expected figure.

`counterstain train --config NAME` takes them; a recipe says what differs from the defaults, and its header the rest.

Does not know: what a setting means.
"""

from pathlib import Path

from counterstain.errors import MissingFileError, UnknownNameError

RECIPES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}

_FOLDER = Path("recipes")


def recipe(name: str) -> Path:
    """The file of a recipe.

    Raises:
        UnknownNameError: When there is none of that name.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name]


def find_config(given: Path | str) -> Path:
    """The TOML file that a user means: the file, or, where none is there, the recipe of that name.

    "luad_sshr", "luad_sshr.toml" and "recipes/luad_sshr.toml" all name the recipe, wherever the user stands.

    Raises:
        UnknownNameError: When no file is there and no recipe has that name.
        MissingFileError: When no file is there and what was given can't be a recipe's name.
    """
    path = Path(given)
    if path.is_file():
        return path
    if path.parent in (Path(), _FOLDER) and path.suffix in ("", ".toml"):
        if path.stem not in RECIPES:
            raise UnknownNameError("config file or recipe", path.stem, RECIPES)
        return RECIPES[path.stem]
    raise MissingFileError(
        f"{path} was given as a config, but no file is there. Give a TOML file, or a recipe: {', '.join(RECIPES)}."
    )
