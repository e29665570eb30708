"""Studies: which variants are compared, read from a TOML file, and what came of each.

    reference = "baseline"               the variant that differences are taken to
    [training]                           of all variants
    [predict]                            how images are mapped to be scored
    [methods.sshr]                       preset and settings of all variants of a method
    [[variants]]                         name, method (else the first of methods), and its own preset, settings, training

Does not know: how a method learns, how scores are made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from counterstain.errors import InputError, UnknownNameError
from counterstain.infer import PredictSettings
from counterstain.methods import find_method
from counterstain.settings import Kind, build, check_entries, read_toml, to_tree
from counterstain.training import TrainSettings

DEFAULT_METHOD = "sshr"
_OF_METHOD: dict[str, Kind] = {"preset": str, "settings": dict}
_OF_VARIANT: dict[str, Kind] = {"name": str, "method": str, "training": dict, **_OF_METHOD}
_TOP: dict[str, Kind] = {
    "title": str,
    "reference": str,
    "training": dict,
    "predict": dict,
    "methods": dict,
    "variants": list,
}


@dataclass(frozen=True)
class Variant:
    """One of the things compared.

    Args:
        name: As tables show it.
        method: Its name in METHODS.
        config: Of the method's `config_type`.
        training: How long it learns; the seed is the study's.
    """

    name: str
    method: str
    config: Any
    training: TrainSettings

    @property
    def folder(self) -> str:
        """Its name as a folder."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.name.lower()).strip("_")


@dataclass(frozen=True)
class Study:
    """Variants to compare.

    Args:
        name: Of the file it was read from.
        title: What it is, for people.
        reference: The name of the variant that differences are taken to.
        variants: In the order of tables.
        predict: How images are mapped to be scored.

    Raises:
        InputError: When there are no variants, or two of one name.
        UnknownNameError: When the reference is none of them.
    """

    name: str
    title: str
    reference: str
    variants: tuple[Variant, ...]
    predict: PredictSettings = field(default_factory=PredictSettings)

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if not all(variant.folder for variant in self.variants):
            raise InputError(
                f"Study {self.name!r} has variants {names}; a name needs a letter or a digit for its folder."
            )
        if not names or len({variant.folder for variant in self.variants}) < len(names):
            raise InputError(f"Study {self.name!r} has variants {names}; each needs a name of its own.")
        if self.reference not in names:
            raise UnknownNameError("variant to compare with", self.reference, names)

    def only(self, names: tuple[str, ...]) -> "Study":
        """The same with some variants alone, and the reference; its tables have a name of their own.

        Raises:
            UnknownNameError: When a name is no variant's.
        """
        known = [variant.name for variant in self.variants]
        for name in names:
            if name not in known:
                raise UnknownNameError("variant", name, known)
        kept = tuple(variant for variant in self.variants if variant.name in (*names, self.reference))
        return replace(self, name=f"{self.name}_part", variants=kept)

    def with_settings(self, changes: Mapping[str, Any]) -> "Study":
        """The same with settings changed in every variant whose method has them: files that lie elsewhere.

        Raises:
            InputError: When no variant has such a setting.
        """
        for name in changes:
            if not any(_has(variant.config, name) for variant in self.variants):
                flag = f"--{name}".replace("_", "-")
                raise InputError(f"{flag} was given, but no variant of study {self.name!r} has such a setting.")
        return replace(self, variants=tuple(_changed(variant, changes) for variant in self.variants))


def _has(config: Any, name: str) -> bool:
    return any(one.name == name for one in fields(config))


def _changed(variant: Variant, changes: Mapping[str, Any]) -> Variant:
    own = {name: value for name, value in changes.items() if _has(variant.config, name)}
    return replace(variant, config=replace(variant.config, **own))


def read_study(path: Path) -> Study:
    """A study from its file.

    Raises:
        MissingFileError: When it is not there.
        UnknownNameError: When an entry, method, preset or setting is unknown.
        InputError: When it is no TOML, or a value does not fit.
    """
    tree = read_toml(path)
    _check(tree, _TOP, path.name)
    for method, shared in tree.get("methods", {}).items():
        if not isinstance(shared, dict):
            raise InputError(f"{path.name} says methods.{method} = {shared!r}; a table was expected.")
        _check(shared, _OF_METHOD, f"methods.{method} in {path.name}")
    variants = tuple(_variant(one, tree, path) for one in tree.get("variants", []))
    predict = build(PredictSettings, tree.get("predict", {}))
    first = variants[0].name if variants else ""
    return Study(path.stem, tree.get("title", path.stem), tree.get("reference", first), variants, predict)


def _check(tree: Mapping[str, Any], known: Mapping[str, Kind], where: str) -> None:
    check_entries(tree, known, where)
    if "seed" in tree.get("training", {}):
        raise InputError(f"{where} gives a seed; `--seeds` of the command gives those of all variants.")


def _variant(own: Mapping[str, Any], tree: Mapping[str, Any], path: Path) -> Variant:
    if not isinstance(own, dict):
        raise InputError(f"{path.name} has {own!r} for a variant; a table was expected: [[variants]].")
    _check(own, _OF_VARIANT, f"a variant in {path.name}")
    if "name" not in own:
        raise InputError(f"A variant in {path} has no name. Give each one.")
    methods = tree.get("methods", {})
    name = own.get("method", next(iter(methods), DEFAULT_METHOD))
    method = find_method(name)
    shared = methods.get(name, {})
    preset = own.get("preset", shared.get("preset"))
    if preset is not None and preset not in method.presets:
        raise UnknownNameError("preset", preset, method.presets)
    given = to_tree(method.presets[preset]) if preset is not None else {}
    config = build(method.config_type, {**given, **shared.get("settings", {}), **own.get("settings", {})})
    training = build(TrainSettings, {**tree.get("training", {}), **own.get("training", {})})
    return Variant(own["name"], name, config, training)
