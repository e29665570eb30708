"""`counterstain models`: which methods, presets and backbones there are, what they cost, and what a run holds.

Does not know: any network.
"""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from counterstain import log
from counterstain.cli import OK

app = App(name="models", help="List and describe methods, backbones and runs.", help_format="markdown")


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
    preset: str = "paper",
    num_classes: int = 4,
    size_px: int = 224,
    json: bool = False,
) -> int:
    """Show what a method's network, or a run's, is made of: parameters, operations for an image, settings.

    Args:
        name: A method, or the folder of a run.
        preset: The settings of the method.
        num_classes: How many classes its heads have.
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


def _method(name: str, preset: str, num_classes: int, size_px: int) -> dict[str, Any]:
    import torch

    from counterstain.errors import UnknownNameError
    from counterstain.methods import find_method
    from counterstain.methods.base import InputSpec
    from counterstain.results import Classes
    from counterstain.settings import to_tree

    method: Any = find_method(name)
    if preset not in method.presets:
        raise UnknownNameError("preset", preset, method.presets)
    config = method.presets[preset]
    classes = Classes(tuple(f"class {index}" for index in range(num_classes)), ((0, 0, 0),) * num_classes)
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


def _joined(values: list[int]) -> str:
    return " ".join(map(str, values))
