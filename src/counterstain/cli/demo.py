"""`counterstain demo`: the main job end to end on embedded data, ending with files to look at.

Synthetic patches of known tissues are written, SSHR and a plain CAM learn from their labels alone, both map a slide that
neither has seen, and both maps are scored against the slide's truth, beside the best single class.

Does not know: how any step is done.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterstain import log
from counterstain.cli import OK
from counterstain.errors import ExistingOutputError

if TYPE_CHECKING:
    from counterstain.report import SlideScores
    from counterstain.results import SlideMap

LAYOUT = "luad_histoseg"
NOTE = "demo.json"
EXPORTS = ("overlay", "geojson", "ome_tiff", "summary")


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does.

    Args:
        num_train: Training patches.
        num_val: Validation patches, with masks, for the presence thresholds.
        patch_px: Their width and height, at `mpp`.
        mpp: um/px of the patches, and the resolution at which the slide is looked at.
        slide_px: Width of the slide at 0.5 um/px; its height is four fifths of that.
        epochs: Passes over the patches.
    """

    num_train: int = 720
    num_val: int = 72
    patch_px: int = 112
    mpp: float = 1.0
    slide_px: int = 5000
    epochs: int = 12


QUICK = DemoSize(num_train=48, num_val=12, patch_px=64, slide_px=1500, epochs=1)


def demo(*, out: Path = Path("demo"), seed: int = 0, quick: bool = False, json: bool = False) -> int:
    """Train on synthetic patches and map a synthetic slide, end to end, in a few minutes on two cores.

    Interrupted and called again, it goes on where it stopped.

    Args:
        out: Where everything goes.
        seed: Of the tissue and of the training.
        quick: Do a fraction of it, to see that everything works; the map will be poor.
        json: Answer as JSON.
    """
    from counterstain.infer import PredictSettings

    size = QUICK if quick else DemoSize()
    _claim(out, size, seed)
    patches, slide, truth = _write_data(out, size, seed)
    settings = PredictSettings()
    found: dict[str, dict[str, Any]] = {}
    for name, changes in (("sshr", {}), ("plain_cam", {"semantic": False, "context": False})):
        log.say(f"Training {'SSHR' if name == 'sshr' else 'a plain CAM, its baseline,'} on the labels of {patches} ...")
        run = out / "runs" / name
        minutes = _train(run, patches, size, seed, changes)
        result = _predict(run, slide, out / "slides" / name, settings, EXPORTS if name == "sshr" else ())
        found[name] = {"minutes": minutes, "scores": _score(result, truth)}
    answer = _answer(found, out / "slides" / "sshr" / slide.name, out)
    if json:
        log.emit_json(answer)
    else:
        _show(answer)
    return OK


def _claim(out: Path, size: DemoSize, seed: int) -> None:
    """Notes what the demo in a folder is made of; refuses one that is made of something else."""
    from counterstain.files import read_json, write_json

    note, tree = out / NOTE, {"size": asdict(size), "seed": seed}
    if note.exists():
        if read_json(note) != tree:
            raise ExistingOutputError(
                f"{out} holds a demo of another --seed, or with or without --quick. Pass the same flags to go on with it, "
                "another --out, or remove it."
            )
    elif any((out / name).exists() for name in ("patches", "slide.tiff", "runs")):
        raise ExistingOutputError(f"{out} holds files, but no {NOTE} that says what they are. Pass another --out.")
    else:
        write_json(note, tree)


def _write_data(out: Path, size: DemoSize, seed: int) -> tuple[Path, Path, Path]:
    from counterstain.geometry import Size
    from counterstain.layouts import find_layout
    from counterstain.synth import PatchSetSettings, SlideSettings, write_patch_set, write_slide

    patches, slide = out / "patches", out / "slide.tiff"
    if not patches.exists():
        log.say(f"Writing {size.num_train + size.num_val} labelled patches of synthetic tissue ...")
        settings = PatchSetSettings(
            num_train=size.num_train,
            num_val=size.num_val,
            num_test=0,
            patch_px=size.patch_px,
            mpp=size.mpp,
            seed=seed,
        )
        write_patch_set(patches, find_layout(LAYOUT), settings)
    truth = slide.with_suffix(".truth.geojson")
    if not truth.exists():
        slide.unlink(missing_ok=True)
        log.say("Writing a slide of other synthetic tissue ...")
        area = Size(size.slide_px, size.slide_px * 4 // 5)
        write_slide(slide, SlideSettings(size=area, seed=seed + 1, layout=LAYOUT, covered=0.5), truth)
    return patches, slide, truth


def _train(run: Path, patches: Path, size: DemoSize, seed: int, changes: dict[str, Any]) -> float:
    from counterstain.data import open_patches
    from counterstain.files import read_json
    from counterstain.methods import SSHR
    from counterstain.training import TrainSettings

    data = replace(open_patches(patches, LAYOUT), mpp=size.mpp)
    config = replace(SSHR.presets["small"], **changes)
    training = TrainSettings(epochs=size.epochs, batch_size=16, seed=seed)
    SSHR.create(config, data, tile_px=size.patch_px, seed=seed).fit(data, run, training)
    return float(read_json(run / "training.json")["minutes"])


def _predict(run: Path, slide: Path, out: Path, settings: Any, exports: tuple[str, ...]) -> "SlideMap":
    from counterstain.cli.predict import SlideJob, map_slide
    from counterstain.data.cohorts import CohortSlide
    from counterstain.methods import load_dense_method, model_digest
    from counterstain.results import SlideMap

    job = SlideJob(load_dense_method(run), model_digest(run), out, exports, settings)
    map_slide(CohortSlide(slide.name, slide), job)
    return SlideMap.open(out / slide.name / "map.zarr")


def _score(result: "SlideMap", truth: Path) -> "SlideScores":
    from counterstain.report import score_slide

    return score_slide(result, truth)


def _answer(found: dict[str, dict[str, Any]], folder: Path, out: Path) -> dict[str, Any]:
    from counterstain.export import find_writer

    sshr = found["sshr"]["scores"]
    return {
        "mean_iou": {
            "sshr": _plain(sshr.scores.mean_iou),
            "plain_cam": _plain(found["plain_cam"]["scores"].scores.mean_iou),
            "best_single_class": _plain(sshr.best_single.mean_iou),
        },
        "best_single_class": sshr.best_single_class,
        "classes": {
            name: dict(zip(sshr.class_names, map(_plain, entry["scores"].scores.iou), strict=True))
            for name, entry in found.items()
        },
        "training_minutes": {name: entry["minutes"] for name, entry in found.items()},
        "files": {name: str(folder / find_writer(name).file_name) for name in EXPORTS},
        "slide": str(out / "slide.tiff"),
        "run": str(out / "runs" / "sshr"),
    }


def _plain(value: float) -> float | None:
    """A score as JSON holds it: None for a class that neither map nor truth has."""
    return None if math.isnan(value) else float(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _show(answer: dict[str, Any]) -> None:
    names = list(answer["classes"]["sshr"])
    titles = {"sshr": "SSHR", "plain_cam": "plain CAM"}
    rows = [
        [titles[name], _percent(answer["mean_iou"][name]), *(_percent(scores[one]) for one in names)]
        for name, scores in answer["classes"].items()
    ]
    rows.append(["one class everywhere", _percent(answer["mean_iou"]["best_single_class"]), *("" for _ in names)])
    log.emit_table("IoU on the demo slide, %", ["", "mean", *names], rows)
    log.say(f"'{answer['best_single_class']}' is the single class that scores best when named everywhere.")
    log.emit("Look at:")
    for name, path in answer["files"].items():
        log.emit(f"  {name:10} {path}")
    log.emit(
        f"Your own slide: counterstain predict {answer['run']} SLIDE --out OUT   (a model of synthetic tissue: train yours)"
    )
