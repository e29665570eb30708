"""`counterstain prepare`: annotated slides in, a set of patches with tumour / no tumour labels out.

Does not know: how patches are chosen and cut.
"""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from counterstain import log
from counterstain.cli import OK, SOME_FAILED
from counterstain.cli.flags import given, merged, optional_twin
from counterstain.errors import UnknownNameError


def prepare(
    out: Path,
    /,
    *,
    slides: Annotated[list[Path], Parameter(consume_multiple=True)],
    annotations: Path,
    preset: str | None = None,
    config: Path | None = None,
    include: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    mpp: float | None = None,
    assume_mpp: float | None = None,
    overwrite: bool = False,
    settings: Any = None,
    json: bool = False,
) -> int:
    """Cut patches with tumour / no tumour labels from slides on which tumour was drawn.

    OUT becomes a dataset that `counterstain train --data OUT` takes: patches, labels, and masks for val and test alone. A
    slide that can't be read is listed with its reason and the others go on (exit code 3). Interrupted and called again, it
    goes on where it stopped.

    Args:
        out: The folder to make.
        slides: Slide files, folders of them, or cohort tables (.csv).
        annotations: The folder below which ASAP's XML files lie, each named as its slide.
        preset: camelyon16_p512 understands that cohort's names and leaves out its bad slides.
        config: A TOML file of settings; flags win over it.
        include: Slides to take although the cohort's list of bad ones names them.
        mpp: Microns per pixel of the slides' level 0, where files say it wrongly or not at all.
        assume_mpp: Likewise, only for slides that say nothing.
        overwrite: Cut anew what was made of other slides or settings, instead of refusing.
        settings: The recipe.
        json: Answer as JSON.
    """
    from counterstain.cli.inputs import check_resolution, slides_of
    from counterstain.data.cutting import PRESETS, CutSettings
    from counterstain.jobs.prepare import PrepareJob
    from counterstain.jobs.prepare import prepare as make
    from counterstain.settings import build, read_toml, to_tree

    check_resolution("--mpp", mpp)
    check_resolution("--assume-mpp", assume_mpp)
    if preset is not None and preset not in PRESETS:
        raise UnknownNameError("preset", preset, PRESETS)
    start = {} if preset is None else to_tree(PRESETS[preset])
    recipe = build(CutSettings, merged(start, read_toml(config) if config else {}, given(settings)))
    batch = slides_of(slides)
    job = PrepareJob(out, annotations, recipe, include, mpp, assume_mpp, overwrite)
    report = make(batch.slides, job, batch.dropped)
    if json:
        log.emit_json(report)
    else:
        _show(report, out)
    return SOME_FAILED if report["failed"] else OK


def _show(report: dict[str, Any], out: Path) -> None:
    columns = ["slides", "patients", "tumour", "normal", "too_little_tumour", "thinned_out"]
    rows = [[split, *(str(counts[name]) for name in columns)] for split, counts in report["splits"].items()]
    log.emit_table("Patches", ["split", *(name.replace("_", " ") for name in columns)], rows)
    bins = {split: [str(number) for number in counts] for split, counts in report["tumour_fractions"].items()}
    num_bins = len(next(iter(bins.values())))
    edges = [f"{index / num_bins:.1f} to {(index + 1) / num_bins:.1f}" for index in range(num_bins)]
    rows = [[edge, *(of[index] for of in bins.values())] for index, edge in enumerate(edges)]
    log.emit_table("Tumour patches by their share of tumour", ["share", *bins], rows)
    for note in report["notes"]:
        log.say(note)
    for entry in report["excluded"]:
        log.say(f"Left out: {entry['slide']}: {entry['reason']}")
    if report["failed"]:
        log.say(f"{len(report['failed'])} slides were not done:")
        for entry in report["failed"]:
            log.say(f"  {entry['slide']}: {entry['reason']}")
    log.say(f"Written to {out}")


def _with_flags() -> None:
    """Gives the command the flags of its settings; what is a table of its own is left to --config."""
    from counterstain.data.cutting import CutSettings

    twin = optional_twin(CutSettings, without=("cohort", "tissue"))
    prepare.__annotations__["settings"] = Annotated[twin | None, Parameter(name="*", group="How")]


_with_flags()
