"""`counterstain evaluate`: a run and a dataset with pixel truth in, scores with baseline and intervals out.

Does not know: how scores are made.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from counterstain import log
from counterstain.cli import OK
from counterstain.cli.flags import given, optional_twin, refuse_idle
from counterstain.cli.label_flags import label_flags
from counterstain.errors import InputError, listed
from counterstain.infer import PredictSettings, runtime_of_images
from counterstain.infer.settings import tile_sizes
from counterstain.settings import build, to_tree

if TYPE_CHECKING:
    from counterstain.data import PatchDataset
    from counterstain.methods import DenseMethod
    from counterstain.metrics import Interval
    from counterstain.report import EvaluateSettings, Evaluation
    from counterstain.report.tumour import TumourReport

ALIKE = 0.1
"""Resolutions that differ by no more than this share count as one: scanners' own differ by a few percent."""

_OF_SLIDES = ("model_mpp", "map_stride", "tissue", "clip_to_tissue", "chunk_px", "num_workers", "overwrite")
"""Settings that mean nothing where images are mapped."""

_FLAGS = optional_twin(PredictSettings, without=_OF_SLIDES)
_GROUP = Group(
    "Runs that diagnose slides",
    help="Labelled slides that were kept back. Of the cohort that it learned from, a run remembers what was said then; for "
    "another one, no more than the words for the classes.",
)
_SLIDES = Parameter(group=_GROUP)


def evaluate(
    run: Path,
    /,
    *,
    data: Path | None = None,
    cohort: Any = None,
    encoder: Annotated[Path | None, _SLIDES] = None,
    encoded: Annotated[Path | None, _SLIDES] = None,
    layout: str | None = None,
    mpp: float | None = None,
    split: Literal["val", "test"] | None = None,
    again: bool = False,
    protocol: Literal["exclude_background", "with_background"] = "exclude_background",
    gate: Literal["predicted", "truth", "none"] = "predicted",
    min_share: float = 0.0,
    out: Path | None = None,
    settings: Any = None,
    json: bool = False,
) -> int:
    """Score a run on patches or whole images with pixel truth, or on labelled slides.

    The mean IoU stands beside what one class everywhere would score, both with an interval over patients. The test split
    is opened once for a run: a second time must be asked for, and is told. Whatever can be found wrong before is. The rules
    that the numbers were made under stand with them: numbers of other rules are no comparison. Where the dataset has two
    classes, one of which is its background, the other is tumour, and its masks are scored image by image, too.

    Args:
        run: The folder of a trained run.
        data: The dataset's folder, for a run that gives maps.
        cohort: The labelled slides, for a run that diagnoses slides; of the run's own cohort it remembers what was said.
        encoder: What made the embeddings that a slides' run learned from, where it has no encoder of its own.
        encoded: A folder of encoded slides; RUN/encoded by default.
        layout: How it is laid out, where that is in doubt.
        mpp: Microns per pixel of images or slides, where they do not say, or wrongly.
        split: val or test; by default val for maps, and test for slides, since those of val have chosen and calibrated.
        again: Open the test split once more.
        protocol: Which pixels count: see docs/metrics.md.
        gate: Which classes a map may show: those the model judges present, those its truth holds (an oracle), or all.
        min_share: Share of an image that a class must cover to count as present.
        out: Where to write the scores as JSON; by default RUN/metrics_SPLIT.json, with protocol, gate and test-time
            augmentation in its name where they are not the usual ones.
        settings: How images are tiled and mapped.
        json: Answer as JSON.
    """
    from counterstain.cli.inputs import check_resolution
    from counterstain.data import open_patches
    from counterstain.files import write_json
    from counterstain.methods import load_dense_method, model_digest
    from counterstain.report import EvaluateSettings, notes_on_choice, notes_on_patients, open_test_split
    from counterstain.report import evaluate as score

    of_slides = given(cohort)
    if "cohort" in of_slides:
        from counterstain.cli.evaluate_slides import Asked, evaluate_slides
        from counterstain.cli.train_slides import recorded
        from counterstain.methods import load_slide_method

        of_maps = {
            "data": data,
            "layout": layout,
            "protocol": protocol,
            "gate": gate,
            "min_share": min_share,
            "out": out,
        }
        usual = {"protocol": "exclude_background", "gate": "predicted", "min_share": 0.0}
        refuse_idle({**of_maps, **given(settings)}, "slides are scored, which --cohort names", usual)
        check_resolution("--mpp", mpp)
        slide_method = load_slide_method(run)
        flags = replace(recorded(run, of_slides["cohort"]), **of_slides)
        asked = Asked(run, flags, split or "test", again, encoder, encoded, mpp)
        return evaluate_slides(slide_method, asked, json=json)
    refuse_idle({**of_slides, "encoder": encoder, "encoded": encoded}, "no slides were named by --cohort")
    if data is None:
        raise InputError(
            "Nothing to score on was given. Pass --data FOLDER for maps, or --cohort TABLE.csv for slides."
        )
    check_resolution("--mpp", mpp)
    split = split or "val"
    predict = build(PredictSettings, given(settings))
    scoring = EvaluateSettings(protocol=protocol, gate=gate, min_share=min_share)
    method, dataset = load_dense_method(run), open_patches(data, layout)
    _check(method, dataset, split, mpp if mpp is not None else dataset.mpp, predict)
    # The digest is of the dataset as it says of itself: --mpp must not make a new one of it, with a test split to open.
    data_digest = dataset.digest()
    openings = open_test_split(run, data_digest, again) if split == "test" else []
    dataset = dataset if mpp is None else replace(dataset, mpp=mpp)
    found = score(method, dataset, split, predict, scoring)
    about_run = [note for of in (notes_on_patients, notes_on_choice) for note in of(run, dataset, split, data_digest)]
    notes = [*found.protocol.notes, *about_run, *dataset.notes]
    tree = {
        "run": str(run),
        "model_digest": model_digest(run),
        "data": dataset.name,
        "data_digest": data_digest,
        "test_openings": openings,
        "min_share": min_share,
        "predict": {name: value for name, value in to_tree(predict).items() if name not in _OF_SLIDES},
        **found.to_json(),
        "notes": notes,
    }
    write_json(out or run / _file_name(split, scoring, predict), tree)
    if json:
        log.emit_json(tree)
    else:
        _show(found, openings)
    for note in notes:
        log.say(f"Note: {note}")
    return OK


evaluate.__annotations__["cohort"] = label_flags(_GROUP)
evaluate.__annotations__["settings"] = Annotated[_FLAGS | None, Parameter(name="*", group="How")]


def _check(
    method: "DenseMethod", dataset: "PatchDataset", split: str, mpp: float | None, settings: PredictSettings
) -> None:
    """Refuses what can't be scored, before the split is opened."""
    from counterstain.report import refuse_other_classes

    records = dataset.split(split)
    refuse_other_classes(method, dataset)
    unmasked = [str(record.image) for record in records if not record.has_truth]
    if unmasked:
        raise InputError(
            listed(f"Images of the {split} split have no mask to score against. Give theirs, or leave out:", unmasked)
        )
    trained = method.input.mpp
    if mpp is not None and trained is not None and abs(mpp - trained) > ALIKE * trained:
        raise InputError(
            f"The dataset's images have {mpp:g} um/px; the model was trained at {trained:g}, and images are mapped as they "
            "are. Score it on images of its own resolution, or pass --mpp if the dataset is wrong about its own."
        )
    tile_sizes(method.input, settings, map_stride=1)
    runtime_of_images(settings)


def _file_name(split: str, settings: "EvaluateSettings", predict: PredictSettings) -> str:
    """Numbers of another protocol never replace those of the usual one."""
    from counterstain.report import EvaluateSettings

    usual = EvaluateSettings()
    background = "" if settings.protocol == usual.protocol else f"_{settings.protocol}"
    gate = "" if settings.gate == usual.gate else f"_gate_{settings.gate}"
    views = "" if predict.tta == PredictSettings().tta else f"_tta_{predict.tta}"
    return f"metrics_{split}{background}{gate}{views}.json"


def _show(found: "Evaluation", openings: list[dict[str, Any]]) -> None:
    title = f"{found.split} split: {len(found.patients)} images of {len(set(found.patients))} patients"
    columns = zip(
        found.class_names, found.scores.iou, found.scores.dice, found.boundary.iou, found.presence.f1, strict=True
    )
    rows = [[name, *(_percent(value) for value in values)] for name, *values in columns]
    means = (found.scores.mean_iou, found.scores.mean_dice, found.boundary.mean_iou, found.presence.mean_f1)
    rows.append(["mean", *(_percent(value) for value in means)])
    log.emit_table(title, ["class", "IoU", "Dice", "boundary IoU", "presence F1"], rows)
    weighted, accuracy = found.scores.frequency_weighted_iou, found.scores.pixel_accuracy
    log.say(f"Frequency-weighted IoU {_percent(weighted)}, pixel accuracy {_percent(accuracy)}.")
    log.say(f"Protocol: {found.protocol}.")
    if found.mean_iou is not None and found.gain is not None:
        log.say(f"Mean IoU {found.mean_iou}, 95 % interval over patients.")
        log.say(f"Over the baseline by {found.gain}.")
    baseline = found.baseline
    log.say(
        f"Baseline, '{found.class_names[baseline.class_index]}' everywhere (chosen on {baseline.chosen_on}): mean IoU "
        f"{_percent(baseline.scores.mean_iou)}."
    )
    if found.tumour is not None:
        _show_tumour(found.tumour, found.class_names)
    if len(openings) > 1:
        log.say(f"The test split was opened {len(openings)} times for this run: this is no first look.")


_TUMOUR_ROWS = {
    "f1_positives": "F1 positives",
    "f1_negatives": "F1 negatives",
    "f1_mix": "F1 mix",
    "iou_positives": "IoU positives",
    "f1": "F1 of all pixels",
    "iou": "IoU of all pixels",
    "precision": "precision of all pixels",
    "recall": "recall of all pixels",
}


def _show_tumour(found: "TumourReport", names: tuple[str, ...]) -> None:
    name, scores, distances = names[found.positive_index], found.scores, found.distances
    everywhere = f"'{name}' everywhere"
    rows = [
        [
            title,
            _percent(getattr(scores, field)),
            _range(found.intervals.get(field)),
            _percent(getattr(found.baseline, field)),
        ]
        for field, title in _TUMOUR_ROWS.items()
    ]
    title = f"'{name}', image by image: {scores.num_positives} positives, {scores.num_negatives} negatives"
    log.emit_table(title, ["", "model", "95 % over patients", everywhere], rows)
    strata = [
        [
            f"{100 * one.above:g} to {100 * one.up_to:g} %",
            str(one.num_images),
            _percent(one.f1),
            _percent(one.iou),
            _percent(constant.f1),
        ]
        for one, constant in zip(scores.strata, found.baseline.strata, strict=True)
    ]
    log.emit_table(
        f"Positives by their share of '{name}'", ["share", "images", "F1", "IoU", f"F1 {everywhere}"], strata
    )
    if found.gain is not None:
        log.say(f"F1 of positives over {everywhere}: {found.gain}.")
    if not distances.num_images:
        return
    log.say(
        f"Hausdorff distance {_distance(distances.mean_px, distances.mpp)}, HD95 "
        f"{_distance(distances.mean_95_px, distances.mpp)}, mean over {distances.num_images} positives; nothing was found "
        f"on {distances.num_empty} of them, which count with their diagonal."
    )


def _range(interval: "Interval | None") -> str:
    return "-" if interval is None else f"{_percent(interval.low)} to {_percent(interval.high)}"


def _distance(px: float, mpp: float | None) -> str:
    return f"{px:.1f} px" + ("" if mpp is None else f" ({px * mpp:.1f} um)")


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.1f}"
