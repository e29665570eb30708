"""`counterstain evaluate`: a run and a dataset with pixel truth in, scores with baseline and intervals out.

Does not know: how scores are made.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from counterstain import log
from counterstain.cli import OK
from counterstain.infer import PredictSettings

if TYPE_CHECKING:
    from counterstain.report import Evaluation


def evaluate(
    run: Path,
    /,
    *,
    data: Path,
    layout: str | None = None,
    split: Literal["val", "test"] = "val",
    again: bool = False,
    protocol: Literal["exclude_background", "with_background"] = "exclude_background",
    min_share: float = 0.0,
    out: Path | None = None,
    settings: Annotated[PredictSettings | None, Parameter(name="*", group="How")] = None,
    json: bool = False,
) -> int:
    """Score a run on patches or whole images with pixel truth.

    The mean IoU stands beside what one class everywhere would score, both with an interval over patients. The test split
    is opened once for a run: a second time must be asked for, and is told.

    Args:
        run: The folder of a trained run.
        data: The dataset's folder.
        layout: How it is laid out, where that is in doubt.
        split: val or test.
        again: Open the test split once more.
        protocol: Which pixels count: see docs/metrics.md.
        min_share: Share of an image that a class must cover to count as present.
        out: Where to write the scores as JSON; RUN/metrics_SPLIT.json by default.
        settings: How images are tiled and mapped.
        json: Answer as JSON.
    """
    from counterstain.data import open_patches
    from counterstain.files import write_json
    from counterstain.methods import load_dense_method
    from counterstain.report import EvaluateSettings, open_test_split
    from counterstain.report import evaluate as score

    method, dataset = load_dense_method(run), open_patches(data, layout)
    dataset.split(split)
    openings = open_test_split(run, dataset.digest(), again) if split == "test" else []
    how = EvaluateSettings(protocol=protocol, min_share=min_share)
    found = score(method, dataset, split, settings or PredictSettings(), how)
    tree = {
        "run": str(run),
        "data": dataset.name,
        "test_openings": openings,
        **found.to_json(),
        "notes": list(dataset.notes),
    }
    write_json(out or run / f"metrics_{split}.json", tree)
    if json:
        log.emit_json(tree)
    else:
        _show(found, openings, dataset.notes)
    return OK


def _show(found: "Evaluation", openings: list[dict[str, Any]], notes: tuple[str, ...]) -> None:
    title = f"{found.split} split: {len(found.patients)} images of {len(set(found.patients))} patients"
    columns = zip(
        found.class_names, found.scores.iou, found.scores.dice, found.boundary.iou, found.presence.f1, strict=True
    )
    rows = [[name, *(_percent(value) for value in values)] for name, *values in columns]
    means = (found.scores.mean_iou, found.scores.mean_dice, found.boundary.mean_iou, found.presence.mean_f1)
    rows.append(["mean", *(_percent(value) for value in means)])
    log.emit_table(title, ["class", "IoU", "Dice", "boundary IoU", "presence F1"], rows)
    if found.mean_iou is not None and found.gain is not None:
        log.say(f"Mean IoU {found.mean_iou}, 95 % interval over patients.")
        log.say(f"Over the baseline by {found.gain}.")
    baseline = found.baseline
    log.say(
        f"Baseline, '{found.class_names[baseline.class_index]}' everywhere (chosen on {baseline.chosen_on}): mean IoU "
        f"{_percent(baseline.scores.mean_iou)}."
    )
    if len(openings) > 1:
        log.say(f"The test split was opened {len(openings)} times for this run: this is no first look.")
    for note in notes:
        log.say(f"Note: {note}")


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.1f}"
