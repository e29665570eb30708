"""Studies: which variants are compared, read from a TOML file, and what came of each.

    reference = "baseline"               the variant that differences are taken to
    metric = "mean_iou"                  what is compared, or "tumour_f1" on tumour sets
    [training]                           of all variants
    [predict]                            how images are mapped to be scored
    [methods.sshr]                       preset and settings of all variants of a method
    [[variants]]                         name, method (else the first of methods), and its own preset, settings, training;
                                         starts_from: an earlier variant whose run of the same seed is its teacher
                                         without: settings that files of the command line are not for

Does not know: how a method learns, how scores are made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from counterstain.errors import InputError, UnknownNameError
from counterstain.infer import PredictSettings
from counterstain.methods import Method, find_method
from counterstain.report.metric import METRIC_NAMES, MetricName
from counterstain.settings import Kind, build, check_entries, read_toml, to_tree
from counterstain.training import TrainSettings

DEFAULT_METHOD = "sshr"
_OF_METHOD: dict[str, Kind] = {"preset": str, "settings": dict}
_OF_VARIANT: dict[str, Kind] = {
    "name": str,
    "method": str,
    "training": dict,
    "starts_from": str,
    "without": list,
    **_OF_METHOD,
}
_TOP: dict[str, Kind] = {
    "title": str,
    "reference": str,
    "metric": str,
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
        starts_from: The name of an earlier variant whose run of the same seed becomes `config.teacher_run`.
        without: Settings that the command line's files are not for here: weights of another backbone.
    """

    name: str
    method: str
    config: Any
    training: TrainSettings
    starts_from: str | None = None
    without: tuple[str, ...] = ()

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
        metric: What is compared.

    Raises:
        InputError: When there are no variants, two of one name, or one that starts from another can't be told so.
        UnknownNameError: When the reference is none of them, or one starts from a variant that is not before it, or there
            is no such metric.
    """

    name: str
    title: str
    reference: str
    variants: tuple[Variant, ...]
    predict: PredictSettings = field(default_factory=PredictSettings)
    metric: MetricName = "mean_iou"

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
        if self.metric not in METRIC_NAMES:
            raise UnknownNameError("metric", self.metric, METRIC_NAMES)
        for number, variant in enumerate(self.variants):
            if variant.starts_from is not None:
                _check_start(variant, variant.starts_from, names[:number])

    def variant(self, name: str) -> Variant:
        """The variant of a name.

        Raises:
            UnknownNameError: When it is no variant's.
        """
        known = {variant.name: variant for variant in self.variants}
        if name not in known:
            raise UnknownNameError("variant", name, known)
        return known[name]

    def only(self, names: tuple[str, ...]) -> "Study":
        """The same with some variants alone, the reference, and those they start from; its tables have their own name.

        Raises:
            UnknownNameError: When a name is no variant's.
        """
        kept = {self.reference, *names}
        pending = [self.variant(name) for name in kept]
        while pending:
            start = pending.pop().starts_from
            if start is not None and start not in kept:
                kept.add(start)
                pending.append(self.variant(start))
        variants = tuple(variant for variant in self.variants if variant.name in kept)
        return replace(self, name=f"{self.name}_part", variants=variants)

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


def _check_start(variant: Variant, start: str, earlier: Sequence[str]) -> None:
    """Refuses a start that there is not, or that the variant can't be told."""
    if start not in earlier:
        raise UnknownNameError(f"earlier variant for {variant.name!r} to start from", start, earlier)
    if not _has(variant.config, "teacher_run"):
        raise InputError(
            f"Variant {variant.name!r} starts from {start!r}, but method {variant.method!r} has no setting 'teacher_run'. "
            "Give it a method that learns from a finished run, or leave 'starts_from' out."
        )
    if variant.config.teacher_run is not None:
        raise InputError(
            f"Variant {variant.name!r} starts from {start!r} and has a 'teacher_run' of its own; give it one of both."
        )


def _changed(variant: Variant, changes: Mapping[str, Any]) -> Variant:
    own = {name: value for name, value in changes.items() if _has(variant.config, name) and name not in variant.without}
    return replace(variant, config=replace(variant.config, **own))


def read_study(path: Path) -> Study:
    """A study from its file.

    Raises:
        MissingFileError: When it is not there.
        UnknownNameError: When an entry, method, preset or setting is unknown.
        InputError: When it is no TOML, or a value does not fit.
    """
    tree = read_toml(path)
    check_study_entries(tree, _TOP, path.name)
    for method, shared in tree.get("methods", {}).items():
        check_study_entries(shared, _OF_METHOD, f"methods.{method} in {path.name}")
    variants = tuple(_variant(one, tree, path) for one in tree.get("variants", []))
    predict = build(PredictSettings, tree.get("predict", {}))
    first = variants[0].name if variants else ""
    return Study(
        name=path.stem,
        title=tree.get("title", path.stem),
        reference=tree.get("reference", first),
        variants=variants,
        predict=predict,
        metric=tree.get("metric", "mean_iou"),
    )


def check_study_entries(tree: Any, known: Mapping[str, Kind], where: str) -> None:
    """Refuses what is no table, entries that nothing reads, and seeds: those are the command's, or of the folds.

    Raises:
        UnknownNameError: When a name is not known.
        InputError: When it is no table, a value is of another kind, or a seed is given.
    """
    if not isinstance(tree, dict):
        raise InputError(f"{where} is {tree!r}; a table was expected, as [methods.NAME] and [[variants]] are.")
    check_entries(tree, known, where)
    if "seed" in tree.get("training", {}):
        raise InputError(f"{where} gives a seed; `--seeds` gives those of all variants, [folds] that of slides.")


def merged_config(method: type[Method], own: Mapping[str, Any], shared: Mapping[str, Any]) -> Any:
    """The config of a variant: its preset, or the one of all variants of its method, and settings of both over it.

    Args:
        method: Whose.
        own: The variant's entries.
        shared: Those of its method in the same file.

    Raises:
        UnknownNameError: When there is no such preset or setting.
        InputError: When a value does not fit.
    """
    preset = own.get("preset", shared.get("preset"))
    if preset is not None and preset not in method.presets:
        raise UnknownNameError("preset", preset, method.presets)
    given = to_tree(method.presets[preset]) if preset is not None else {}
    return build(method.config_type, {**given, **shared.get("settings", {}), **own.get("settings", {})})


def _variant(own: Mapping[str, Any], tree: Mapping[str, Any], path: Path) -> Variant:
    check_study_entries(own, _OF_VARIANT, f"a variant in {path.name}")
    if "name" not in own:
        raise InputError(f"A variant in {path} has no name. Give each one.")
    name = own.get("method", next(iter(tree.get("methods", {})), DEFAULT_METHOD))
    config = merged_config(find_method(name), own, tree.get("methods", {}).get(name, {}))
    training = build(TrainSettings, {**tree.get("training", {}), **own.get("training", {})})
    known = [one.name for one in fields(config)]
    for left_out in own.get("without", ()):
        if left_out not in known:
            raise UnknownNameError(f"setting of {name} to go without", left_out, known)
    return Variant(own["name"], name, config, training, own.get("starts_from"), tuple(own.get("without", ())))
