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
from counterstain.files import settings_hash
from counterstain.infer import PredictSettings
from counterstain.methods import find_method
from counterstain.settings import build, read_toml, to_tree
from counterstain.training import TrainSettings

DEFAULT_METHOD = "sshr"
_TOP = ("title", "reference", "training", "predict", "methods", "variants")
_OF_METHOD = ("preset", "settings")
_OF_VARIANT = ("name", "method", "preset", "settings", "training")


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
        if not names or len({variant.folder for variant in self.variants}) < len(names):
            raise InputError(f"Study {self.name!r} has variants {names}; each needs a name of its own.")
        if self.reference not in names:
            raise UnknownNameError("variant to compare with", self.reference, names)

    def only(self, names: tuple[str, ...]) -> "Study":
        """The same with some variants alone, and the reference.

        Raises:
            UnknownNameError: When a name is no variant's.
        """
        known = [variant.name for variant in self.variants]
        for name in names:
            if name not in known:
                raise UnknownNameError("variant", name, known)
        kept = tuple(variant for variant in self.variants if variant.name in (*names, self.reference))
        return replace(self, variants=kept)

    def with_settings(self, changes: Mapping[str, Any]) -> "Study":
        """The same with settings changed in every variant whose method has them: files that lie elsewhere.

        Raises:
            InputError: When no variant has such a setting.
        """
        for name in changes:
            if not any(_has(variant.config, name) for variant in self.variants):
                raise InputError(f"Setting {name!r} was given, but no variant of study {self.name!r} has it.")
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
    _refuse_unknown(tree, _TOP, f"entry of {path.name}")
    for method, shared in tree.get("methods", {}).items():
        _refuse_unknown(shared, _OF_METHOD, f"entry of methods.{method} in {path.name}")
    variants = tuple(_variant(one, tree, path) for one in tree.get("variants", []))
    predict = build(PredictSettings, tree.get("predict", {}))
    first = variants[0].name if variants else ""
    return Study(path.stem, tree.get("title", path.stem), tree.get("reference", first), variants, predict)


def _refuse_unknown(tree: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for name in tree:
        if name not in known:
            raise UnknownNameError(what, name, known)


def _variant(own: Mapping[str, Any], tree: Mapping[str, Any], path: Path) -> Variant:
    _refuse_unknown(own, _OF_VARIANT, f"entry of a variant in {path.name}")
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


def variant_digest(variant: Variant) -> str:
    """Of a variant's method and settings, whatever its name."""
    return settings_hash(variant.method, variant.config, variant.training)
