"""`counterstain train`: a dataset of weak labels in, a run folder out; of slides, see train_slides.py.

The flags are those of the method that the arguments or the TOML file name. Preset, file and flags are merged in this order.
Whatever can be found wrong is found before the run folder is made.

Does not know: how a method learns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from counterstain import log
from counterstain.cli import OK
from counterstain.cli.flags import given, merged, optional_twin
from counterstain.errors import InputError, StaleResultError, UnknownNameError

if TYPE_CHECKING:
    from counterstain.data import PatchDataset

DEFAULT_METHOD = "sshr"
RUNS = Path("runs")
"""Where a run goes that was given a config and no folder."""

_ENTRIES: dict[str, type | tuple[type, ...]] = {
    "method": str,
    "preset": str,
    "settings": dict,
    "training": dict,
    "data": dict,
}
_OF_DATA: dict[str, type | tuple[type, ...]] = {
    "folder": str,
    "layout": str,
    "mpp": (int, float),
    "tile_px": int,
    "name": str,
    "digest": str,
}


def train_app(arguments: list[str]) -> App:
    """The verb with the flags of the method that the arguments name."""
    app = App(name="train", help="Learn from a dataset of weakly labelled patches.", help_format="markdown")
    if arguments[:1] == ["train"]:
        app.default(_verb(_named_method(arguments), arguments))
    else:
        app.default(_placeholder)
    return app


def _placeholder() -> None:
    """Learn from a dataset of weakly labelled patches."""


def _named_method(arguments: list[str]) -> str:
    method = _value_of("--method", arguments)
    config = _value_of("--config", arguments)
    if method is None and config is not None:
        from counterstain.recipes import find_config

        method = _tree(find_config(config), {**_ENTRIES, "cohort": dict}).get("method")
    return method or DEFAULT_METHOD


def _value_of(flag: str, arguments: list[str]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
        if argument == flag and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def _verb(method_name: str, arguments: list[str]) -> Any:
    from counterstain.methods import METHODS, SLIDE_METHODS
    from counterstain.training import TrainSettings

    if method_name in SLIDE_METHODS:
        from counterstain.cli.train_slides import slide_verb

        return slide_verb(method_name)
    if method_name == "scae":
        from counterstain.cli.train_encoder import encoder_verb

        return encoder_verb()
    if method_name == "cascade":
        from counterstain.cli.train_cascade import cascade_verb

        return cascade_verb(_value_of("--dense", arguments))
    if method_name not in METHODS:
        raise UnknownNameError("method", method_name, [*METHODS, *SLIDE_METHODS, "scae", "cascade"])
    if any(one.partition("=")[0] == "--cohort" for one in arguments):
        raise InputError(
            f"--cohort belongs to methods that learn from slides with labels; {method_name} learns from patches. Pass "
            "--method dsnet."
        )
    method = METHODS[method_name]
    method_flags, train_flags = optional_twin(method.config_type), optional_twin(TrainSettings)

    def train(
        run: Path | None = None,
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
        weights. No mask of a training patch is ever read. Masks of the validation split choose presence thresholds, and
        with fusion_kd which network is kept, if its selector is one that reads them.

        Args:
            run: The run folder to write, or to go on with; with --config it may be left out and is runs/NAME OF THE CONFIG.
            data: The dataset's folder.
            layout: How the folder is laid out: luad_histoseg, bcss_wsss, wsss4luad, table, or with tumour and no tumour
                alone pos_neg_gt or digestpath; told from its content where that leaves no doubt.
            config: A TOML file (method, preset, and tables settings, training, data), or the name of a recipe, like
                luad_sshr: see docs/recipes.md. Flags win over it.
            preset: Settings by name: paper, corrected or small for sshr; paper, legacy, robust or small for fusion_kd; mlps
                and others for multi_stage (see `counterstain models list`).
            method: Which method learns: sshr, multi_stage, or fusion_kd where patches say tumour or no tumour. It decides
                which flags there are; `--method dsnet --help` shows those of methods that learn from whole slides.
            mpp: Microns per pixel of the patches, where the dataset does not say.
            tile_px: Width and height of the patches as the model will see them on slides; told from the first patch.
                Patches of another size are resized to learn from, and not to be scored or mapped.
            settings: Of the method.
            training: How long and on what.
            json: Answer as JSON.
        """
        from counterstain.recipes import find_config

        file = None if config is None else find_config(config)
        tree = {} if file is None else _tree(file)
        recorded = dict(tree.get("data", {}))
        if data is not None:
            recorded.pop("digest", None)
        job = _Job(
            run=_run_folder(run, file),
            method=method,
            preset=preset or tree.get("preset"),
            settings=merged(tree.get("settings", {}), given(settings)),
            training=merged(tree.get("training", {}), given(training)),
            source=merged(recorded, _some({"folder": data, "layout": layout, "mpp": mpp, "tile_px": tile_px})),
            is_layout_given=layout is not None,
        )
        return _train(job, json)

    train.__annotations__["settings"] = Annotated[method_flags | None, Parameter(name="*", group="Method")]
    train.__annotations__["training"] = Annotated[train_flags | None, Parameter(name="*", group="Training")]
    return train


def _some(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if value is not None}


def _run_folder(run: Path | None, config: Path | None) -> Path:
    if run is not None:
        return run
    if config is None:
        raise InputError("No run folder was given. Name one: counterstain train RUN --data FOLDER.")
    return RUNS / config.stem


def _tree(config: Path, entries: Mapping[str, Any] = _ENTRIES) -> dict[str, Any]:
    from counterstain.settings import check_entries, read_toml

    tree = read_toml(config)
    check_entries(tree, entries, str(config))
    check_entries(tree.get("data", {}), _OF_DATA, f"[data] in {config}")
    return tree


@dataclass(frozen=True)
class _Job:
    """What is to be trained: preset, file and flags merged.

    Args:
        run: The run folder.
        method: Its name.
        preset: Of the method; None for its defaults.
        settings: Of the method, over the preset.
        training: How long and on what.
        source: Folder and layout of the data, and what the user knows of its patches.
        is_layout_given: Whether the layout is the user's word, and not a config's.
    """

    run: Path
    method: str
    preset: str | None
    settings: dict[str, Any]
    training: dict[str, Any]
    source: dict[str, Any]
    is_layout_given: bool


def _train(job: _Job, json: bool) -> int:
    from counterstain.files import read_json
    from counterstain.methods import find_method
    from counterstain.methods.starting import refuse_small_images
    from counterstain.settings import build, to_tree
    from counterstain.training import TrainSettings

    if "folder" not in job.source:
        raise InputError("No dataset was given. Pass --data FOLDER, or a [data] table with a folder in --config.")
    method_type = find_method(job.method)
    config = build(method_type.config_type, merged(_preset(method_type, job.preset), job.settings))
    training = build(TrainSettings, job.training)
    data = _open(job)
    num_images = len(data.split("train"))
    if num_images < training.batch_size:
        raise InputError(
            f"{num_images} training images were given for batches of {training.batch_size}. Lower --batch-size."
        )
    tile_px = _tile_px(job, data)
    method = method_type.create(config, data, tile_px=tile_px, seed=training.seed)
    refuse_small_images(method)
    _say_notes(config, data)
    log.say(f"Training {job.method} on {num_images} patches of {data.name}; the run goes to {job.run}.")
    method.fit(data, job.run, training)
    answer = {"run": str(job.run), "training": read_json(job.run / "training.json"), "settings": to_tree(config)}
    if json:
        log.emit_json(answer)
    else:
        minutes = answer["training"]["minutes"]
        log.say(f"Trained {job.method} in {minutes:.1f} minutes. Next: counterstain predict {job.run} SLIDE --out OUT")
    return OK


def _open(job: _Job) -> "PatchDataset":
    from counterstain.data import open_patches

    source = job.source
    data = open_patches(Path(source["folder"]), source.get("layout"), mpp=source.get("mpp"))
    if "digest" not in source:
        if not job.is_layout_given and "layout" in source:
            _refuse_other_dataset(data, source["layout"])
        return data
    if source["digest"] != data.digest():
        raise StaleResultError(
            f"{source['folder']} is not the data that the run of this config was trained on: images, labels or masks have "
            "changed. Pass --data to train on it all the same."
        )
    return data


def _refuse_other_dataset(data: "PatchDataset", name: str) -> None:
    """Refuses patches of another dataset than a config was written for: their digits mean other classes.

    A layout that the user names is taken at its word; a config's is doubted, since it was named before the data.
    """
    from counterstain.layouts import LAYOUTS

    layout = LAYOUTS.get(name)
    strange = [one.image.name for one in data.train if layout is not None and layout.patient(one.image.stem) is None]
    if strange:
        raise InputError(
            f"The config is for {name}, and {len(strange)} of {len(data.train)} training images are not named as its are "
            f"('{strange[0]}'): their classes may have another order. Take a config for this dataset, or pass --layout "
            f"{name} if the digits stand for {', '.join(data.classes.names)}."
        )


def _tile_px(job: _Job, data: "PatchDataset") -> int:
    from counterstain.data import image_size

    first = image_size(data.split("train")[0].image)
    tile_px: int = job.source.get("tile_px", min(first.width, first.height))
    if tile_px < 1:
        raise InputError(f"--tile-px was given as {tile_px}; it must be at least 1.")
    if tile_px != min(first.width, first.height):
        log.say(
            f"Note: patches of {first.width} x {first.height} px are resized to {tile_px} px to learn from, but maps "
            "are made at their own resolution. Resize the patches themselves if scores are to be of what was learned."
        )
    return tile_px


def _say_notes(config: Any, data: "PatchDataset") -> None:
    from counterstain.methods.starting import weights_notes

    for note in (*data.notes, *weights_notes(config)):
        log.say(f"Note: {note}")


def _preset(method_type: Any, name: str | None) -> dict[str, Any]:
    from counterstain.settings import to_tree

    if name is None:
        return {}
    presets = method_type.presets
    if name not in presets:
        raise UnknownNameError("preset", name, presets)
    return to_tree(presets[name])
