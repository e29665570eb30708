"""`counterstain models`: which methods, presets and backbones there are, what they cost, what a run holds; and runs made of
published checkpoints.

Does not know: any network.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from counterstain import log
from counterstain.cli import OK

if TYPE_CHECKING:
    from counterstain.methods.published import Published

app = App(name="models", help="List, describe, import and tune models.", help_format="markdown")

_USUAL_CLASSES = 4  # of a method that takes any number


@app.command(name="list")
def list_models(*, json: bool = False) -> int:
    """List methods with their presets, and backbones with what they give.

    Args:
        json: Answer as JSON.
    """
    from counterstain.methods import METHODS
    from counterstain.models.backbones import BACKBONES

    methods: dict[str, Any] = {
        name: {"presets": list(method.presets), "what": _first_line(method)} for name, method in METHODS.items()
    }
    backbones = {name: _backbone(name) for name in BACKBONES}
    if json:
        log.emit_json({"methods": methods, "backbones": backbones})
        return OK
    log.emit_table(
        "Methods",
        ["name", "presets", "what"],
        [[name, ", ".join(entry["presets"]), entry["what"]] for name, entry in methods.items()],
    )
    log.emit_table(
        "Backbones",
        ["name", "channels", "strides", "parameters"],
        [
            [name, _joined(entry["channels"]), _joined(entry["strides"]), f"{entry['parameters']:,}"]
            for name, entry in backbones.items()
        ],
    )
    return OK


@app.command
def show(
    name: Annotated[str, Parameter(help="A method, or the folder of a run.")],
    /,
    *,
    preset: str | None = None,
    num_classes: int | None = None,
    size_px: int = 224,
    json: bool = False,
) -> int:
    """Show what a method's network, or a run's, is made of: parameters, operations for an image, settings.

    Args:
        name: A method, or the folder of a run.
        preset: The settings of the method; its published ones by default.
        num_classes: How many classes its heads have; as many as it must, or 4.
        size_px: Width and height of the image that operations are counted for.
        json: Answer as JSON.
    """
    described = _run(Path(name), size_px) if (Path(name) / "model.json").is_file() else None
    described = described or _method(name, preset, num_classes, size_px)
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


def _method(name: str, preset: str | None, num_classes: int | None, size_px: int) -> dict[str, Any]:
    import torch

    from counterstain.errors import UnknownNameError
    from counterstain.methods import find_method
    from counterstain.methods.base import InputSpec
    from counterstain.results import Classes
    from counterstain.settings import to_tree

    method: Any = find_method(name)
    preset = preset or next(iter(method.presets))
    if preset not in method.presets:
        raise UnknownNameError("preset", preset, method.presets)
    config = method.presets[preset]
    number = num_classes or method.num_classes or _USUAL_CLASSES
    names = tuple(f"class {index}" for index in range(number))
    classes = Classes(names, ((0, 0, 0),) * number, names[0])
    with torch.device("meta"):
        network = method(config, classes, InputSpec(size_px, 0, None)).network
    return {"method": name, "preset": preset, **_costs(network, size_px), "settings": to_tree(config)}


def _run(run: Path, size_px: int) -> dict[str, Any]:
    from counterstain.methods import load_method
    from counterstain.methods.artefacts import read_model

    method = load_method(run)
    description, _ = read_model(run)
    kept = {key: description[key] for key in ("method", "classes", "input", "thresholds", "provenance", "config")}
    return {**kept, **_costs(method.network, size_px)}


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
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
    }


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").splitlines()[0]


def _joined(values: "list[int] | list[float]") -> str:
    return " ".join(map(str, values))
