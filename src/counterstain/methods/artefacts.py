"""What a run folder holds: settings that repeat it, weights and a description that are enough to use it anywhere.

    config.toml          method, its settings, training, data: the merged tree
    run.json             the hash of all that went into it: another hash is another run
    model.safetensors    the network's tensors
    model.json           method, settings, classes, resolution, thresholds, provenance

Does not know: any method.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from counterstain import __version__, log
from counterstain.errors import ExistingOutputError, InputError, MissingFileError, StaleResultError
from counterstain.files import atomic, atomic_folder, read_json, settings_hash, whole_hash, write_json
from counterstain.methods.base import DenseMethod, InputSpec, Method
from counterstain.models.backbones import Backbone, load_backbone_weights
from counterstain.settings import differing, read_toml, to_tree, write_toml

if TYPE_CHECKING:
    from counterstain.data import PatchDataset

FORMAT, VERSION = "counterstain.model", 2  # 1 had settings that were measured and dropped

_BEGUN = ("run.json", "config.toml", "encoder", "folds")  # of which a run that is being trained has some
_PIXEL_HEADS = ("aspp.", "decoder.")  # of a DeepLab's file
_WEIGHTS = ("weights", "second_weights", "student_weights")  # settings that name a file
_TAKEN = ("teacher", "witness", "half_a", "half_b")  # trainings that a run may take over of another
_TRAINED = (  # what a training leaves in its folder
    "model.json",
    "checkpoints",
    "stage1",
    "stage2",
    "pseudo_masks",
    "teacher",
    "rounds",
)


@dataclass(frozen=True)
class Recipe:
    """Everything that a run is made from.

    Args:
        method: Its name.
        settings: Its config.
        training: How long and on what.
        data: The dataset.
        input: The images it is trained on.
    """

    method: str
    settings: Any
    training: Any
    data: "PatchDataset"
    input: InputSpec

    @cached_property
    def data_digest(self) -> str:
        """Of the data, worked once: it reads every mask of the validation and test splits."""
        return self.data.digest()

    def provenance(self) -> dict[str, Any]:
        """What a model that was trained by it remembers: on what, and how long."""
        return {"data": self.data.provenance(self.data_digest), "training": asdict(self.training)}

    def data_tree(self) -> dict[str, Any]:
        """How to open the same data again, and how to know that it is the same."""
        source = dict(zip(("folder", "layout"), self.data.source, strict=True)) if self.data.source else {}
        known = {"mpp": self.data.mpp} if self.data.mpp is not None else {}
        return {**source, **known, "tile_px": self.input.tile_px, "name": self.data.name, "digest": self.data_digest}

    def digest(self) -> str:
        """Of all that changes the result: which files and settings, not where they lie or how many processes read."""
        settings, training = asdict(self.settings), asdict(self.training)
        settings |= {name: whole_hash(path) for name, path in given_weights(self.settings).items()}
        training.pop("num_workers")
        return settings_hash(self.method, settings, training, self.data_digest, asdict(self.input))


def given_weights(settings: Any) -> dict[str, Path]:
    """The files of weights among a method's settings, by the settings' names; of another run, all that is taken over."""
    values = {name: getattr(settings, name, None) for name in _WEIGHTS}
    files = {name: Path(value) for name, value in values.items() if value is not None}
    run = getattr(settings, "teacher_run", None)
    if run is None:
        return files
    taken = {name: Path(run) / name / "weights.safetensors" for name in _TAKEN}
    others = {f"teacher_run_{name}": path for name, path in taken.items() if path.exists()}
    return {**files, **others, "teacher_run": taken["teacher"]}


def begin(run: Path, recipe: Recipe) -> bool:
    """Opens a run folder for a recipe, new or begun by the same one.

    Returns:
        Whether the run is finished already.

    Raises:
        StaleResultError: When the folder holds a run of another recipe, or of one that is not noted.
        MissingFileError: When the recipe's weights are not there.
    """
    for name, path in given_weights(recipe.settings).items():
        if not path.is_file():
            flag = name.replace("_", "-")
            raise MissingFileError(f"{path} was given as pretrained weights, but no file is there. Check --{flag}.")
    tree = {
        "method": recipe.method,
        "settings": to_tree(recipe.settings),
        "training": to_tree(recipe.training),
        "data": recipe.data_tree(),
    }
    return open_run(run, recipe.digest(), tree)


def open_run(run: Path, digest: str, tree: dict[str, Any]) -> bool:
    """Opens a run folder, new or begun by what has the same digest.

    Args:
        run: The folder.
        digest: Of all that changes the result.
        tree: What `config.toml` says: the settings that repeat the run.

    Returns:
        Whether the run is finished already.

    Raises:
        StaleResultError: When the folder holds a run of another digest, or of one that is not noted.
    """
    note = run / "run.json"
    if note.exists() and read_json(note)["digest"] != digest:
        raise StaleResultError(
            f"{run} holds a run of other settings or data{_differing(run / 'config.toml', tree)}. Give another folder, or "
            "remove that one to train afresh."
        )
    left = [name for name in _TRAINED if (run / name).exists()]
    if left and not note.exists():
        raise StaleResultError(
            f"{run} holds {', '.join(left)} and no run.json, so what it was made from is not known. Give another folder, "
            "or remove that one to train afresh."
        )
    write_toml(run / "config.toml", tree)
    write_json(note, {"digest": digest, "counterstain": __version__})
    return (run / "model.json").exists()


def _differing(config: Path, tree: dict[str, Any]) -> str:
    """What a run was made from otherwise than a tree says, in words behind a colon; nothing where its file doesn't tell."""
    try:
        before = read_toml(config)
    except (MissingFileError, InputError):
        return ""
    found = differing(_telling(before), _telling(tree))
    if before.get("data", {}).get("digest") != tree.get("data", {}).get("digest"):
        found.append("the data hold something else")
    found = found or differing(before.get("settings", {}), tree.get("settings", {}), "settings.")  # weights by name
    return f": {'; '.join(found)}" if found else ""


def _telling(tree: dict[str, Any]) -> dict[str, Any]:
    """A tree without what changes no result, where files lie or how many processes read, and without digests."""
    silent = {"data": ("digest", "folder"), "training": ("num_workers",), "settings": (*_WEIGHTS, "teacher_run")}
    return {
        table: {name: value for name, value in entries.items() if name not in silent.get(table, ())}
        if isinstance(entries, dict)
        else entries
        for table, entries in tree.items()
    }


def save_model(run: Path, network: nn.Module, description: dict[str, Any]) -> None:
    """Writes the network, then its description: a folder with a `model.json` is a finished run."""
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic(run / "model.safetensors") as temporary:
        save_file(state, temporary)
    write_json(run / "model.json", {"format": FORMAT, "version": VERSION, **description})


def write_untrained(run: Path, method: Method, provenance: dict[str, Any], *made_from: str) -> None:
    """Writes a finished run folder that no training made.

    Args:
        run: The folder.
        method: Ready to predict.
        provenance: Plain values: where it comes from.
        *made_from: What tells it from others; a training that is given this folder must not take it for its own, finished.

    Raises:
        ExistingOutputError: When something is there.
    """
    refuse_filled(run)
    with atomic_folder(run) as folder:
        method.save(folder, provenance)
        write_json(folder / "run.json", {"digest": settings_hash(*made_from), "counterstain": __version__})


def refuse_filled(run: Path) -> None:
    """Refuses to go on where a run already stands.

    Raises:
        ExistingOutputError: When something other than an empty folder is there.
    """
    if run.exists() and not (run.is_dir() and not any(run.iterdir())):
        raise ExistingOutputError(f"{run} exists already, and no run is replaced. Give another folder.")


def read_model(run: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors of a finished run.

    Raises:
        MissingFileError: When there is no folder, or the run is not finished.
        InputError: When its description is of another format or version.
    """
    from counterstain.models.weights import read_state

    if not (run / "model.json").is_file():
        is_begun = any((run / name).exists() for name in _BEGUN)
        missing = "it holds no model.json" if run.exists() else "nothing is there"
        remedy = (
            "Its training has not finished: run the same `train` again."
            if is_begun
            else "Give the folder that `train` wrote; where slides are given too, it comes before them."
        )
        raise MissingFileError(f"{run} was given as a trained run, but {missing}. {remedy}")
    description = read_json(run / "model.json")
    if description.get("format") != FORMAT or description.get("version") != VERSION:
        raise InputError(f"{run / 'model.json'} is no model description of version {VERSION}. Train again.")
    return description, read_state(run / "model.safetensors")


def describe(method: DenseMethod, provenance: dict[str, Any] | None) -> dict[str, Any]:
    """The description of a method that gives maps.

    Args:
        method: Whose.
        provenance: Plain values; what is known of pretrained weights is added.
    """
    config = asdict(method.config)
    return {
        "method": method.name,
        "config": {name: str(value) if isinstance(value, Path) else value for name, value in config.items()},
        "classes": method.classes.to_json(),
        "input": asdict(method.input),
        "thresholds": list(method.thresholds),
        "provenance": {**(provenance or {}), **method.pretrained},
    }


def take_over(method: DenseMethod, run: Path) -> None:
    """Gives a method what a finished run of the same recipe has learned."""
    finished = type(method).load(*read_model(run))
    assert isinstance(finished, DenseMethod)
    method.network, method.thresholds = finished.network, finished.thresholds
    method.pretrained = finished.pretrained


def load_pretrained(backbone: Backbone, path: Path, name: str) -> dict[str, Any]:
    """Fills a backbone from a file and says what is to be remembered of it.

    Args:
        backbone: What to fill.
        path: The file.
        name: Of the setting that names it, which the remembered values' names begin with.

    Raises:
        MissingFileError: When the file is not there.
        UnknownNameError: When no reader knows its suffix.
        WeightsError: When it does not fit.
    """
    audit = load_backbone_weights(backbone, path)
    heads = sorted({left.split(".")[0] for left in audit.left_over if left.startswith(_PIXEL_HEADS)})
    if heads:
        log.say(
            f"{path} also holds a segmentation network's {' and '.join(heads)}: these weights have seen pixel truth, of "
            "photographs or other images, and what is trained from them is no result of patch labels alone."
        )
    return {f"{name}_digest": audit.digest, **({f"{name}_saw_pixel_truth": True} if heads else {})}


def pretrained_of(description: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """What a description remembers of pretrained weights, by the settings' names."""
    known = description["provenance"]
    told = {f"{name}_digest": known.get(f"{name}_digest") for name in names}
    saw = {key: known[key] for name in names if (key := f"{name}_saw_pixel_truth") in known}
    return {**told, **saw}


def input_of(description: dict[str, Any]) -> InputSpec:
    """The images that a described model wants."""
    return InputSpec(**description["input"])


def model_digest(run: Path) -> str:
    """Of a finished run's weights and description: results made with another model have another one."""
    return settings_hash(whole_hash(run / "model.safetensors"), whole_hash(run / "model.json"))
