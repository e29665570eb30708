"""`counterstain train`: a dataset of weak labels in, a run folder out.

The flags are those of the method that the arguments or the TOML file name. Preset, file and flags are merged in this order.

Does not know: how a method learns.
"""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from counterstain import log
from counterstain.cli import OK
from counterstain.cli.flags import given, merged, optional_twin
from counterstain.errors import InputError, StaleResultError, UnknownNameError

DEFAULT_METHOD = "sshr"
_TOP = ("method", "preset", "settings", "training", "data")


def train_app(arguments: list[str]) -> App:
    """The verb with the flags of the method that the arguments name."""
    app = App(name="train", help="Learn from a dataset of weakly labelled patches.", help_format="markdown")
    if arguments[:1] == ["train"]:
        app.default(_verb(_named_method(arguments)))
    else:
        app.default(_placeholder)
    return app


def _placeholder() -> None:
    """Learn from a dataset of weakly labelled patches."""


def _named_method(arguments: list[str]) -> str:
    from counterstain.settings import read_toml

    method = _value_of("--method", arguments)
    config = _value_of("--config", arguments)
    if method is None and config is not None:
        method = read_toml(config).get("method")
    return method or DEFAULT_METHOD


def _value_of(flag: str, arguments: list[str]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
        if argument == flag and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def _verb(method_name: str) -> Any:
    from counterstain.methods import find_method
    from counterstain.training import TrainSettings

    method = find_method(method_name)
    method_flags, train_flags = optional_twin(method.config_type), optional_twin(TrainSettings)

    def train(
        run: Path,
        /,
        *,
        data: Path | None = None,
        layout: str | None = None,
        config: Path | None = None,
        preset: str | None = None,
        method: str = method_name,
        mpp: float | None = None,
        tile_px: int | None = None,
        settings: Any = None,
        training: Any = None,
        json: bool = False,
    ) -> int:
        """Learn from a dataset of weakly labelled patches.

        Interrupted or killed and called again, training goes on from its last finished epoch and ends with the same
        weights. Masks of the validation split choose presence thresholds; no mask is read for anything else.

        Args:
            run: The run folder to write, or to go on with.
            data: The dataset's folder.
            layout: How the folder is laid out: luad_histoseg, bcss_wsss, wsss4luad or table; told from its content where
                that leaves no doubt.
            config: A TOML file: method, preset, and tables settings, training, data. Flags win over it.
            preset: Settings by name: paper, small (see `counterstain models list`).
            method: Which method learns.
            mpp: Microns per pixel of the patches, where the dataset does not say.
            tile_px: Width and height of the patches as the model will see them on slides; told from the first patch.
            settings: Of the method.
            training: How long and on what.
            json: Answer as JSON.
        """
        tree = _tree(config)
        recorded = dict(tree.get("data", {}))
        if data is not None:
            recorded.pop("digest", None)
        source = merged(recorded, _some({"folder": data, "layout": layout, "mpp": mpp, "tile_px": tile_px}))
        return _train(
            run,
            {
                "method": method,
                "preset": preset or tree.get("preset"),
                "settings": merged(tree.get("settings", {}), given(settings)),
                "training": merged(tree.get("training", {}), given(training)),
                "data": source,
            },
            json,
        )

    train.__annotations__["settings"] = Annotated[method_flags | None, Parameter(name="*", group="Method")]
    train.__annotations__["training"] = Annotated[train_flags | None, Parameter(name="*", group="Training")]
    return train


def _some(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if value is not None}


def _tree(config: Path | None) -> dict[str, Any]:
    from counterstain.settings import read_toml

    if config is None:
        return {}
    tree = read_toml(config)
    for name in tree:
        if name not in _TOP:
            raise UnknownNameError(f"entry of {config}", name, _TOP)
    data = tree.get("data", {})
    for name in data:
        if name not in ("folder", "layout", "mpp", "tile_px", "name", "digest"):
            raise UnknownNameError(f"entry of [data] in {config}", name, ("folder", "layout", "mpp", "tile_px"))
    return tree


def _train(run: Path, tree: dict[str, Any], json: bool) -> int:
    from counterstain.data import image_size, open_patches
    from counterstain.files import read_json
    from counterstain.methods import find_method
    from counterstain.settings import build, to_tree
    from counterstain.training import TrainSettings

    source = tree["data"]
    if "folder" not in source:
        raise InputError("No dataset was given. Pass --data FOLDER, or a [data] table with a folder in --config.")
    method_type = find_method(tree["method"])
    config = build(method_type.config_type, merged(_preset(method_type, tree["preset"]), tree["settings"]))
    training = build(TrainSettings, tree["training"])
    data = open_patches(Path(source["folder"]), source.get("layout"), mpp=source.get("mpp"))
    if "digest" in source and source["digest"] != data.digest():
        raise StaleResultError(
            f"{source['folder']} is not the data that the run of this config was trained on: images, labels or masks have "
            "changed. Pass --data to train on it all the same."
        )
    first = image_size(data.split("train")[0].image)
    tile_px = source.get("tile_px", min(first.width, first.height))
    if tile_px < 1:
        raise InputError(f"--tile-px was given as {tile_px}; it must be at least 1.")
    for note in data.notes:
        log.say(f"Note: {note}")
    method = method_type.create(config, data, tile_px=tile_px, seed=training.seed)
    method.fit(data, run, training)
    answer = {"run": str(run), "training": read_json(run / "training.json"), "settings": to_tree(config)}
    if json:
        log.emit_json(answer)
    else:
        minutes = answer["training"]["minutes"]
        log.say(f"Trained {tree['method']} in {minutes:.1f} minutes. Next: counterstain predict {run} SLIDE --out OUT")
    return OK


def _preset(method_type: Any, name: str | None) -> dict[str, Any]:
    from counterstain.settings import to_tree

    if name is None:
        return {}
    presets = method_type.presets
    if name not in presets:
        raise UnknownNameError("preset", name, presets)
    return to_tree(presets[name])
