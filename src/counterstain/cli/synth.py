"""`counterstain synth`: synthetic patches, slides and cohorts with their truth.

Does not know: how tissue is drawn.
"""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from counterstain import log
from counterstain.cli import OK
from counterstain.cli.flags import given, optional_twin

app = App(
    name="synth", help="Write synthetic histology: patches, tumour sets, slides, cohorts.", help_format="markdown"
)


@app.command
def patches(
    out: Path, /, *, layout: str = "luad_histoseg", config: Path | None = None, settings: Any = None, json: bool = False
) -> int:
    """Write a patch set in the folder layout of a published dataset: labels in the names, masks for val and test only.

    Args:
        out: The folder to make.
        layout: luad_histoseg, bcss_wsss or wsss4luad.
        config: A TOML file of settings; flags win over it.
        settings: What the set is.
        json: Answer as JSON.
    """
    from counterstain.layouts import find_layout
    from counterstain.synth import PatchSetSettings, write_patch_set

    write_patch_set(out, find_layout(layout), _settings(PatchSetSettings, config, settings))
    return _answer({"patches": str(out)}, json)


@app.command
def tumours(out: Path, /, *, config: Path | None = None, settings: Any = None, json: bool = False) -> int:
    """Write patches with labels normal or tumour as a table (labels.csv), with masks for val and test only.

    Args:
        out: The folder to make.
        config: A TOML file of settings; flags win over it.
        settings: What the set is.
        json: Answer as JSON.
    """
    from counterstain.synth import TumourSetSettings, write_tumour_set

    write_tumour_set(out, _settings(TumourSetSettings, config, settings))
    return _answer({"tumours": str(out)}, json)


@app.command
def slide(
    out: Path,
    /,
    *,
    width: int | None = None,
    height: int | None = None,
    config: Path | None = None,
    settings: Any = None,
    json: bool = False,
) -> int:
    """Write a slide as a pyramidal, JPEG-tiled TIFF with its truth as polygons (GeoJSON) beside it.

    Args:
        out: The file to make: .svs, .tiff, or .scn for a Leica slide with bounds.
        width: Of level 0, in pixels; 10,000 by default.
        height: Likewise; the width by default.
        config: A TOML file of settings; flags win over it.
        settings: What the slide is.
        json: Answer as JSON.
    """
    from counterstain.synth import SlideSettings, write_slide

    truth = write_slide(out, _settings(SlideSettings, config, settings, _size(width, height)))
    return _answer({"slide": str(out), "truth": str(truth.path)}, json)


@app.command
def cohort(
    out: Path,
    /,
    *,
    width: int | None = None,
    height: int | None = None,
    config: Path | None = None,
    settings: Any = None,
    json: bool = False,
) -> int:
    """Write slides of several patients with slide labels and a cohort table.

    Args:
        out: The folder to make.
        width: Of each slide's level 0, in pixels; 6,000 by default.
        height: Likewise; the width by default.
        config: A TOML file of settings; flags win over it.
        settings: What the cohort is.
        json: Answer as JSON.
    """
    from counterstain.synth import CohortSettings, write_cohort

    table = write_cohort(out, _settings(CohortSettings, config, settings, _size(width, height)))
    return _answer({"cohort": str(table)}, json)


@app.command
def metastases(out: Path, /, *, config: Path | None = None, settings: Any = None, json: bool = False) -> int:
    """Write slides with metastases seen in texture, in layout or in both, with their truth; what is there is kept.

    Args:
        out: The folder to make, or one that an earlier call left unfinished.
        config: A TOML file of settings; flags win over it.
        settings: What the cohort is.
        json: Answer as JSON.
    """
    from counterstain.synth import MetastasesSettings, write_metastases

    table = write_metastases(out, _settings(MetastasesSettings, config, settings))
    return _answer({"cohort": str(table)}, json)


def _size(width: int | None, height: int | None) -> dict[str, Any]:
    if width is None and height is None:
        return {}
    side = width or height
    return {"size": {"width": side, "height": height or side}}


def _settings(cls: type[Any], config: Path | None, flags: Any, extra: dict[str, Any] | None = None) -> Any:
    from counterstain.settings import build, read_toml

    return build(cls, {**(read_toml(config) if config else {}), **given(flags), **(extra or {})})


def _answer(tree: dict[str, Any], json: bool) -> int:
    if json:
        log.emit_json(tree)
    else:
        for name, path in tree.items():
            log.emit(f"{name}: {path}")
    return OK


def _with_flags() -> None:
    """Gives each command the flags of its settings; what is a table of its own is left to --config."""
    from counterstain.synth import (
        CohortSettings,
        MetastasesSettings,
        PatchSetSettings,
        SlideSettings,
        TumourSetSettings,
    )

    pairs = (
        (patches, PatchSetSettings),
        (tumours, TumourSetSettings),
        (slide, SlideSettings),
        (cohort, CohortSettings),
        (metastases, MetastasesSettings),
    )
    for command, cls in pairs:
        twin = optional_twin(cls, without=("size", "composition", "bank", "bank_names"))
        command.__annotations__["settings"] = Annotated[twin | None, Parameter(name="*", group="What")]


_with_flags()
