"""`counterstain models`: which methods, presets and backbones there are, what they cost, what a run holds; and runs made of
published checkpoints.

Does not know: any network.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from counterstain import log
from counterstain.cli import OK

if TYPE_CHECKING:
    from torch import nn

    from counterstain.methods import SlideMethod
    from counterstain.methods.published import Published

app = App(name="models", help="List, describe, import and tune models.", help_format="markdown")

_USUAL_CLASSES = 4  # of a method that takes any number
_USUAL_PX = 224  # of an image that operations are counted for
_USUAL_FEATURES = 128  # channels of an embedding, as the S-CAE gives them
_SCAE = "scae"


@app.command(name="list")
def list_models(*, json: bool = False) -> int:
    """List methods of patches and of slides with their presets, encoders of cells, and backbones.

    Slide methods are counted with embeddings of 128 numbers.

    Args:
        json: Answer as JSON.
    """
    from counterstain.methods import METHODS, SLIDE_METHODS
    from counterstain.models.backbones import BACKBONES

    listed: dict[str, dict[str, Any]] = {
        "methods": {name: {"presets": list(one.presets), "what": _first_line(one)} for name, one in METHODS.items()},
        "slide_methods": {name: _slide_entry(one) for name, one in SLIDE_METHODS.items()},
        "encoders": {_SCAE: _scae_entry()},
        "backbones": {name: _backbone(name) for name in BACKBONES},
    }
    if json:
        log.emit_json(listed)
        return OK
    log.emit_table(
        "Methods: labels of patches in, maps out",
        ["name", "presets", "what"],
        [[name, ", ".join(one["presets"]), one["what"]] for name, one in listed["methods"].items()],
    )
    log.emit_table(
        "Slide methods: labels of slides in; scores, and evidence of cells, out",
        ["name", "looks at", "presets", "parameters"],
        [[name, one["looks_at"], *_presets_and_parameters(one)] for name, one in listed["slide_methods"].items()],
    )
    log.emit_table(
        "Encoders: cells in, embeddings out, no labels",
        ["name", "numbers a cell", "presets", "parameters"],
        [[name, str(one["num_features"]), *_presets_and_parameters(one)] for name, one in listed["encoders"].items()],
    )
    log.emit_table(
        "Backbones",
        ["name", "channels", "strides", "parameters"],
        [
            [name, _joined(one["channels"]), _joined(one["strides"]), f"{one['parameters']:,}"]
            for name, one in listed["backbones"].items()
        ],
    )
    return OK


@app.command
def show(
    name: Annotated[str, Parameter(help="A method, scae, or the folder of a run.")],
    /,
    *,
    preset: str | None = None,
    num_classes: int | None = None,
    size_px: int | None = None,
    json: bool = False,
) -> int:
    """Show what a method's network, or a run's, is made of: parameters, operations for an image, settings.

    Args:
        name: A method, scae, or the folder of a run.
        preset: The settings of the method; its published ones by default.
        num_classes: How many classes the heads of a method of patches have; as many as it must, or 4.
        size_px: Width and height of the image that operations are counted for: 224, or a cell's 112 for scae. Slides have
            none.
        json: Answer as JSON.
    """
    from counterstain.errors import InputError

    if size_px is not None and size_px < 1:
        raise InputError(f"--size-px was given as {size_px}; give 1 or more.")
    if (Path(name) / "model.json").is_file():
        described = _run(Path(name), size_px)
    else:
        described = _named(name, preset, num_classes, size_px)
    if json:
        log.emit_json(described)
    else:
        rows = [[key, f"{value:,}" if isinstance(value, int) else str(value)] for key, value in described.items()]
        log.emit_table(name, ["", "found"], rows)
    return OK


@app.command(name="import")
def import_published(
    checkpoint: Path,
    run: Path,
    /,
    *,
    layout: str,
    thresholds: Annotated[tuple[float, ...] | None, Parameter(consume_multiple=True, negative_iterable="")] = None,
    rename: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable="")] = (),
    mpp: float | None = None,
    json: bool = False,
) -> int:
    """Make a run of a published SSHR checkpoint, for `predict` and `evaluate`.

    Tensors are told by their names, shapes and neighbours, and what each was taken for is shown and kept in the run. Where
    that leaves a doubt nothing is written, and the tensors are named.

    Args:
        checkpoint: The file: .pth, .pt, .safetensors or .npz.
        run: The run folder to write.
        layout: The dataset it was trained on, which says what its classes are: luad_histoseg, bcss_wsss or wsss4luad.
        thresholds: Above which a class is judged present, one for all or one for each. Left out, the released code's: 0.2
            for luad_histoseg, 0.8 for bcss_wsss.
        rename: GIVEN=OURS, what a tensor is that can't be told; once for each.
        mpp: Microns per pixel of the images it was trained on, where the dataset does not say.
        json: Answer as JSON.
    """
    from dataclasses import replace

    from counterstain.cli.inputs import check_resolution
    from counterstain.layouts import find_layout
    from counterstain.methods.published import load_published, refuse_filled, write_published

    check_resolution("--mpp", mpp)
    known, renames = find_layout(layout), _renames(rename)
    refuse_filled(run)
    published = load_published(checkpoint, replace(known, mpp=mpp or known.mpp), thresholds, renames)
    write_published(published, run)
    if json:
        log.emit_json({"run": str(run), **_imported(published)})
    else:
        _show_imported(published, run)
    return OK


@app.command
def tune(
    run: Path,
    out: Path,
    /,
    *,
    data: Path,
    layout: str | None = None,
    fusion: Annotated[tuple[float, float, float, float] | None, Parameter(negative_iterable="")] = None,
    search: bool = False,
    json: bool = False,
) -> int:
    """Choose a trained SSHR run's presence thresholds anew on a validation split, and how its CAMs are fused.

    Nothing is trained; masks of the validation split alone are read. The network with its new settings goes to a folder of
    its own.

    Args:
        run: The folder of a trained or imported run.
        out: The run folder to write.
        data: The dataset's folder.
        layout: How it is laid out, where that is in doubt.
        fusion: Weights of the four scales' CAMs, shallow to deep: 0.25 0.25 0.25 0.25 is uniform. Left out, the run's own.
        search: Try several fusions, the given one too, and keep the best.
        json: Answer as JSON.
    """
    from counterstain.data import open_patches
    from counterstain.errors import InputError
    from counterstain.methods import SSHR, load_method
    from counterstain.methods.artefacts import refuse_filled
    from counterstain.methods.tune import FUSIONS, write_tuned
    from counterstain.methods.tune import tune as choose

    refuse_filled(out)
    method = load_method(run)
    if not isinstance(method, SSHR):
        raise InputError(f"{run} was trained with {method.name!r}; only runs of 'sshr' have CAMs to fuse.")
    dataset = open_patches(data, layout)
    own = fusion or method.config.fusion
    tuned = choose(method, dataset, tuple(dict.fromkeys((own, *FUSIONS))) if search else (own,))
    write_tuned(tuned, run, out, dataset)
    best = tuned.method
    tried = [{"fusion": list(one), "mean_iou": score} for one, score in tuned.tried.items()]
    if json:
        log.emit_json({"run": str(out), "fusion": best.config.fusion, "thresholds": best.thresholds, "tried": tried})
        return OK
    rows = [[_joined(list(one)), f"{100 * score:.1f}"] for one, score in tuned.tried.items()]
    log.emit_table("Fusions on the validation split", ["weights, shallow to deep", "mean IoU"], rows)
    patients = {record.patient for record in dataset.val}
    log.say(
        f"Chosen on {len(dataset.val)} images of {len(patients)} patients: their scores are too good from now on, and a "
        "choice by few patients may leave out classes of others. Look at `evaluate`."
    )
    log.say(f"Kept {_joined(list(best.config.fusion))}, thresholds {_joined(list(best.thresholds))}: {out}")
    return OK


def _renames(given: tuple[str, ...]) -> dict[str, str]:
    from counterstain.errors import InputError

    pairs = [one.partition("=") for one in given]
    for one, (old, _, new) in zip(given, pairs, strict=True):
        if not old or not new:
            raise InputError(f"--rename was given as {one!r}; GIVEN=OURS was expected.")
    return {old: new for old, _, new in pairs}


def _imported(published: "Published") -> dict[str, Any]:
    from counterstain.settings import to_tree

    method = published.method
    return {
        "classes": list(method.classes.names),
        "thresholds": list(method.thresholds),
        "mpp": method.input.mpp,
        "provenance": published.provenance,
        "settings": to_tree(method.config),
    }


def _show_imported(published: "Published", run: Path) -> None:
    method, decisions = published.method, published.adopted.decisions
    rows = [[one.given, one.ours, one.why] for one in decisions if one.why != "its name"]
    log.emit_table("Tensors told by other than their names", ["in the checkpoint", "taken for", "told by"], rows)
    log.say(f"{len(decisions) - len(rows)} more were told by their names: the backbone, bn45, bn52, fc8.")
    thresholds = zip(method.classes.names, method.thresholds, strict=True)
    log.say(
        f"Presence thresholds, {published.provenance['thresholds']}: "
        f"{', '.join(f'{name} {value:g}' for name, value in thresholds)}."
    )
    if method.input.mpp is None:
        log.say("The dataset has no resolution: import with --mpp, or pass --model-mpp to predict.")
    log.say(f"Written to {run}, which was not trained here. Next: counterstain predict {run} SLIDE --out OUT")


def _named(name: str, preset: str | None, num_classes: int | None, size_px: int | None) -> dict[str, Any]:
    from counterstain.errors import InputError, UnknownNameError
    from counterstain.methods import METHODS, SLIDE_METHODS

    if name in METHODS:
        return _method(name, preset, num_classes, size_px or _USUAL_PX)
    if name not in SLIDE_METHODS and name != _SCAE:
        raise UnknownNameError("method", name, [*METHODS, *SLIDE_METHODS, _SCAE])
    if num_classes is not None:
        raise InputError(f"--num-classes was given for {name!r}, which has none to choose. Leave it out.")
    if name == _SCAE:
        return _scae(preset, size_px)
    _refuse_size(name, size_px)
    return _slide_method(name, preset)


def _method(name: str, preset: str | None, num_classes: int | None, size_px: int) -> dict[str, Any]:
    import torch

    from counterstain.methods import find_method
    from counterstain.methods.base import InputSpec
    from counterstain.results import Classes
    from counterstain.settings import to_tree

    method: Any = find_method(name)
    preset = _preset(preset, method.presets)
    config = method.presets[preset]
    number = num_classes or method.num_classes or _USUAL_CLASSES
    names = tuple(f"class {index}" for index in range(number))
    classes = Classes(names, ((0, 0, 0),) * number, names[0])
    with torch.device("meta"):
        network = method(config, classes, InputSpec(size_px, 0, None)).network
    return {"method": name, "preset": preset, **_costs(network, size_px), "settings": to_tree(config)}


def _slide_method(name: str, preset: str | None) -> dict[str, Any]:
    from counterstain.methods import find_slide_method
    from counterstain.settings import to_tree

    method = find_slide_method(name)
    preset = _preset(preset, method.presets)
    described = _slide_entry(method, preset)
    described.pop("presets")
    training = to_tree(method.training[preset])
    return {
        "method": name,
        "preset": preset,
        **described,
        "training": training,
        "settings": to_tree(method.presets[preset]),
    }


def _scae(preset: str | None, size_px: int | None) -> dict[str, Any]:
    from counterstain.methods.scae import PRESETS, TRAINING
    from counterstain.settings import to_tree

    preset = _preset(preset, PRESETS)
    described = _scae_entry(preset, size_px)
    described.pop("presets")
    training = to_tree(TRAINING[preset])
    return {"method": _SCAE, "preset": preset, **described, "training": training, "settings": to_tree(PRESETS[preset])}


def _slide_entry(method: "type[SlideMethod]", preset: str | None = None) -> dict[str, Any]:
    import torch

    config = method.presets[_preset(preset, method.presets)]
    with torch.device("meta"):
        network, other = (method.build_network(config, number) for number in (_USUAL_FEATURES, 2 * _USUAL_FEATURES))
    parameters = _num_parameters(network)
    # a network whose size is the same for embeddings of any length does not look at them
    sees = {"embeddings": parameters != _num_parameters(other), "thumbnails": network.needs_thumbnails}
    has_file = hasattr(config, "weights")
    return {
        "presets": list(method.presets),
        "what": _first_line(method),
        "learns_from": "labels of slides",
        "looks_at": ", ".join(name for name, is_seen in sees.items() if is_seen),
        "gives": "a score for each slide, evidence for each cell",
        **({"num_features": _USUAL_FEATURES} if sees["embeddings"] else {}),
        "parameters": parameters,
        "weights": "random at first, or setting 'weights' names a file for the backbone"
        if has_file
        else "random at first",
    }


def _scae_entry(preset: str | None = None, size_px: int | None = None) -> dict[str, Any]:
    import torch

    from counterstain.methods.scae import PRESETS
    from counterstain.models.count import count
    from counterstain.models.encoders import INPUT_PX
    from counterstain.models.scae import SCAE, SCAESettings

    size_px = size_px or INPUT_PX
    config = PRESETS[_preset(preset, PRESETS)]
    with torch.device("meta"):
        network = SCAE(SCAESettings(config.encoding, config.decoder, config.mask))
    encoder = count(network.encoder, size_px, size_px)
    return {
        "presets": list(PRESETS),
        "what": "Sparse autoencoder: nuclei apart from what lies around them.",
        "learns_from": "pictures of cells, without labels",
        "gives": "an embedding for each cell",
        "num_features": network.encoder.num_features,
        "parameters": _num_parameters(network),
        "encoder_parameters": encoder.parameters,
        "image_px": size_px,
        "encoder_gmac": round(encoder.macs / 1e9, 3),
        "weights": "random at first, trained on cells of your slides",
    }


def _run(run: Path, size_px: int | None) -> dict[str, Any]:
    from counterstain.methods import SLIDE_METHODS, load_dense_method, load_slide_method
    from counterstain.methods.artefacts import read_model
    from counterstain.methods.scae import load_scae

    description, _ = read_model(run)
    name = description["method"]
    if name not in SLIDE_METHODS and name != _SCAE:
        kept = _kept(description, "method", "classes", "input", "thresholds", "provenance", "config")
        return {**kept, **_costs(load_dense_method(run).network, size_px or _USUAL_PX)}
    _refuse_size(name, size_px)
    description["provenance"] = _counted(description["provenance"])
    if name == _SCAE:
        kept = _kept(description, "method", "input_px", "rho", "provenance", "config")
        return {**kept, "parameters": _num_parameters(load_scae(run))}
    kept = _kept(description, "method", "classes", "encoder", "cell_um", "decision", "provenance", "config")
    return {**kept, "parameters": _num_parameters(load_slide_method(run).network)}


def _kept(description: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: description[key] for key in keys}


def _counted(provenance: dict[str, Any]) -> dict[str, Any]:
    """Where a run comes from, its patients and slides as numbers: `model.json` has their names."""
    data = {key: value for key, value in provenance.get("data", {}).items() if key != "names"}
    if "patients" in data:
        data["patients"] = {side: len(names) for side, names in data["patients"].items()}
    return {**provenance, **({"data": data} if data else {})}


def _preset(preset: str | None, presets: Mapping[str, Any]) -> str:
    """A preset's name; the first, the published one, where none was given."""
    from counterstain.errors import UnknownNameError

    preset = preset or next(iter(presets))
    if preset not in presets:
        raise UnknownNameError("preset", preset, presets)
    return preset


def _refuse_size(name: str, size_px: int | None) -> None:
    from counterstain.errors import InputError

    if size_px is not None:
        raise InputError(f"--size-px was given for {name!r}, whose operations are not counted. Leave it out.")


def _costs(network: Any, size_px: int) -> dict[str, Any]:
    from counterstain.models.count import count

    whole, backbone = count(network, size_px, size_px), count(network.backbone, size_px, size_px)
    return {
        "parameters": whole.parameters,
        "trainable_parameters": whole.trainable,
        "backbone_parameters": backbone.parameters,
        "image_px": size_px,
        "gmac": round(whole.macs / 1e9, 3),
    }


def _backbone(name: str) -> dict[str, Any]:
    import torch

    from counterstain.models.backbones import build_backbone

    with torch.device("meta"):
        backbone = build_backbone(name)
    return {
        "channels": list(backbone.channels),
        "strides": list(backbone.strides),
        "parameters": _num_parameters(backbone),
    }


def _presets_and_parameters(entry: dict[str, Any]) -> tuple[str, str]:
    return ", ".join(entry["presets"]), f"{entry['parameters']:,}"


def _num_parameters(network: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").splitlines()[0]


def _joined(values: "list[int] | list[float]") -> str:
    return " ".join(map(str, values))
