"""`counterstain compare`: a study and a dataset in, every variant trained and scored, one table and one plot out.

Does not know: what a variant changes, how it is scored.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from counterstain import log
from counterstain.cli import OK, SOME_FAILED
from counterstain.cli.compare_slides import compare_slides
from counterstain.cli.flags import given, refuse_idle
from counterstain.cli.label_flags import label_flags
from counterstain.cli.train_slides import CohortFlags
from counterstain.errors import InputError
from counterstain.settings import build

_SEVERAL = Parameter(consume_multiple=True, negative_iterable="")
_GROUP = Group("Studies of slides", help="Labelled slides that were encoded; studies of patches have --data instead.")
_SLIDES = Parameter(group=_GROUP)
_SEEDS = (0, 1, 2)


def compare(
    out: Path,
    /,
    *,
    study: str,
    data: Path | None = None,
    cohort: Any = None,
    encoded: Annotated[Path | None, _SLIDES] = None,
    encoder: Annotated[str | None, _SLIDES] = None,
    layout: str | None = None,
    mpp: float | None = None,
    seeds: Annotated[tuple[int, ...], _SEVERAL] = _SEEDS,
    only: Annotated[tuple[str, ...], _SEVERAL] = (),
    weights: Path | None = None,
    second_weights: Path | None = None,
    student_weights: Path | None = None,
    split: Literal["val", "test"] = "val",
    again: bool = False,
    json: bool = False,
) -> int:
    """Train and score the variants of a study with several seeds: a table and a plot.

    Interrupted and called again, it goes on where it stopped: finished runs and scores are kept as long as settings and
    data are the same. Further seeds and variants may be added later. Dataset, seeds, split and weights are for studies of
    patches; studies of slides have a cohort that was encoded, and folds.

    Args:
        out: The folder of all runs, and of the table and the plot.
        study: A TOML file, or the name of one that comes with the package: docs/compare.md lists them.
        data: The dataset's folder, for a study of patches.
        cohort: The labelled slides, for a study of slides.
        encoded: The folder that slides were encoded to.
        encoder: Of whose embeddings variants see that name none themselves; scae by default.
        layout: How the dataset is laid out, where that is in doubt.
        mpp: Microns per pixel of the patches, where the dataset does not say.
        seeds: Of every variant's training.
        only: Variants to compare, beside the reference; all by default.
        weights: A file of pretrained backbone weights, for every variant.
        second_weights: Likewise for the second stage of methods that have one.
        student_weights: Likewise for students that have another network than their teacher.
        split: What is scored: val or test.
        again: Open the test split once more for runs that it was opened for.
        json: Answer as JSON.
    """
    from counterstain.cli.inputs import check_resolution
    from counterstain.data import open_patches
    from counterstain.recipes.studies import study_file
    from counterstain.report.compare import CompareSettings
    from counterstain.report.compare import compare as run
    from counterstain.report.slide_study import is_slide_study
    from counterstain.report.study import read_study

    check_resolution("--mpp", mpp)
    files: dict[str, Any] = {
        "weights": weights,
        "second_weights": second_weights,
        "student_weights": student_weights,
    }
    asked = {"encoded": encoded, "encoder": encoder}
    of_slides = given(cohort) | {name: value for name, value in asked.items() if value is not None}
    if is_slide_study(study_file(study)):
        of_patches = {
            "data": data,
            "layout": layout,
            "mpp": mpp,
            "seeds": tuple(seeds),
            "split": split,
            "again": again,
            **files,
        }
        usual = {"seeds": _SEEDS, "split": "val", "again": False}
        refuse_idle(of_patches, f"study {study!r} is of slides", usual)
        return compare_slides(out, study_file(study), build(CohortFlags, of_slides), only, json)
    refuse_idle(of_slides, f"study {study!r} is of patches")
    if data is None:
        raise InputError(f"Study {study!r} is of patches, and no dataset was given. Pass --data FOLDER.")
    chosen = read_study(study_file(study))
    if only:
        chosen = chosen.only(only)
    chosen = chosen.with_settings({name: file for name, file in files.items() if file is not None})
    dataset = open_patches(data, layout)
    found = run(chosen, dataset, out, CompareSettings(tuple(seeds), split, again, mpp))
    if json:
        log.emit_json(found.tree)
    else:
        heads, *lines = found.lines
        log.emit_table(found.title, heads, lines)
        for note in found.tree["notes"]:
            log.say(f"Note: {note}")
        log.say(f"Written: {out / f'{chosen.name}_{split}'}.json, .csv, .md and .png")
    return SOME_FAILED if any(row.diverged for row in found.rows) else OK


compare.__annotations__["cohort"] = label_flags(_GROUP)
