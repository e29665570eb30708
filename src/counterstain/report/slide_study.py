"""Studies of slide methods: variants on the same slides and the same folds, read from a TOML file; one table and one plot.

    kind = "slides"
    reference = "DSNet"                  the variant that differences are taken to
    [folds]                              how slides are dealt out
    [training]                           of all variants
    [methods.dsnet]                      preset and settings of all variants of a method
    [[variants]]                         name, method, encoder (else the command's), and its own preset, settings, training

    OUT/<variant>/repeat_r/fold_k/       runs and scores as `cross_validate` makes them
    OUT/<study>.{json,csv,md,png}

Does not know: how a method learns, how slides are encoded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain import log
from counterstain.data.encoded import SlideSet
from counterstain.errors import InputError, UnknownNameError
from counterstain.files import read_json, write_json
from counterstain.methods import find_slide_method
from counterstain.metrics.calibration import brier, expected_calibration_error
from counterstain.metrics.intervals import BootstrapSettings
from counterstain.metrics.ranking import auprc, small_sample_notes
from counterstain.metrics.segmentation import plain
from counterstain.metrics.within_folds import within_fold_auroc, within_fold_difference, within_fold_interval
from counterstain.report.comparison import Row, write_tables
from counterstain.report.crossval import FoldSettings, Learner, cross_validate, folds_of
from counterstain.report.figures import draw_comparison
from counterstain.report.study import check_study_entries, merged_config
from counterstain.results import ScoredSlide
from counterstain.settings import Kind, build, read_toml, to_tree
from counterstain.training import TrainSettings

_OF_METHOD: dict[str, Kind] = {"preset": str, "settings": dict}
_OF_VARIANT: dict[str, Kind] = {"name": str, "method": str, "encoder": str, "training": dict, **_OF_METHOD}
_TOP: dict[str, Kind] = {
    "kind": str,
    "title": str,
    "reference": str,
    "folds": dict,
    "training": dict,
    "methods": dict,
    "variants": list,
}
_HEADS = ("AUPRC %", "accuracy %", "ECE %", "Brier", "minutes")

Scores = tuple[ScoredSlide, ...]
OpenSet = Callable[[str | None], SlideSet]
"""The study's slides as an encoder of that name sees them; None for the command's own."""


@dataclass(frozen=True)
class SlideVariant:
    """One of the things compared.

    Args:
        learner: Method, settings, training.
        encoder: Whose embeddings it sees; None for the command's own.
    """

    learner: Learner
    encoder: str | None = None

    @property
    def name(self) -> str:
        """As tables show it."""
        return self.learner.name


@dataclass(frozen=True)
class SlideStudy:
    """Variants to compare.

    Args:
        name: Of the file it was read from.
        title: What it is, for people.
        reference: The name of the variant that differences are taken to.
        variants: In the order of tables.
        folds: How slides are dealt out, for all of them alike.

    Raises:
        InputError: When there are no variants, or two of one name.
        UnknownNameError: When the reference is none of them.
    """

    name: str
    title: str
    reference: str
    variants: tuple[SlideVariant, ...]
    folds: FoldSettings = field(default_factory=FoldSettings)

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if not names or len({variant.learner.folder for variant in self.variants} - {""}) < len(names):
            raise InputError(
                f"Study {self.name!r} has variants {names}; each needs a name of its own, with a letter or a digit in it."
            )
        if self.reference not in names:
            raise UnknownNameError("variant to compare with", self.reference, names)

    def only(self, names: Sequence[str]) -> "SlideStudy":
        """The same with some variants alone and the reference; its tables have their own name.

        Raises:
            UnknownNameError: When a name is no variant's.
        """
        known = [variant.name for variant in self.variants]
        for name in names:
            if name not in known:
                raise UnknownNameError("variant", name, known)
        kept = {self.reference, *names}
        variants = tuple(variant for variant in self.variants if variant.name in kept)
        return replace(self, name=f"{self.name}_part", variants=variants)


def is_slide_study(path: Path) -> bool:
    """Whether a study's file says that it is one of slides."""
    return read_toml(path).get("kind") == "slides"


def read_slide_study(path: Path) -> SlideStudy:
    """A study from its file.

    Raises:
        MissingFileError: When it is not there.
        UnknownNameError: When an entry, method, preset or setting is unknown.
        InputError: When it is no TOML, or a value does not fit.
    """
    tree = read_toml(path)
    check_study_entries(tree, _TOP, path.name)
    for method, shared in tree.get("methods", {}).items():
        check_study_entries(shared, _OF_METHOD, f"methods.{method} in {path.name}")
    variants = tuple(_variant(one, tree, path) for one in tree.get("variants", []))
    return SlideStudy(
        name=path.stem,
        title=tree.get("title", path.stem),
        reference=tree.get("reference", variants[0].name if variants else ""),
        variants=variants,
        folds=build(FoldSettings, tree.get("folds", {})),
    )


def _variant(own: Mapping[str, Any], tree: Mapping[str, Any], path: Path) -> SlideVariant:
    check_study_entries(own, _OF_VARIANT, f"a variant in {path.name}")
    if "name" not in own:
        raise InputError(f"A variant in {path} has no name. Give each one.")
    methods = tree.get("methods", {})
    name = own.get("method", next(iter(methods), "dsnet"))
    config = merged_config(find_slide_method(name), own, methods.get(name, {}))
    training = build(TrainSettings, {**tree.get("training", {}), **own.get("training", {})})
    return SlideVariant(Learner(own["name"], name, config, training), own.get("encoder"))


def compare_slides(study: SlideStudy, open_set: OpenSet, out: Path) -> tuple[tuple[Row, ...], dict[str, Any]]:
    """Trains and scores what is missing, and writes table and plot after each variant.

    Args:
        study: What is compared.
        open_set: Gives the slides, which are the same for every encoder.
        out: The folder of the study's runs; killed and called again, it goes on.

    Returns:
        The table's rows, and what `OUT/<study>.json` holds.

    Raises:
        SplitError: When a class has too few patients.
        StaleResultError: When a run folder holds a run of other settings or slides.
    """
    scored: dict[str, Scores] = {}
    about: dict[str, dict[str, Any]] = {}
    done: tuple[tuple[Row, ...], dict[str, Any]] | None = None
    for variant in study.variants:
        slides = open_set(variant.encoder)
        folder = out / variant.learner.folder
        about[variant.name] = {
            **_about(variant),
            "encoder": slides.encoder.name,
            "encoder_digest": slides.encoder.digest,
        }
        scored[variant.name] = cross_validate(slides, [variant.learner], folder, study.folds)
        if study.reference in scored:
            rows, tree = _summed_up(study, slides, scored, out)
            done = rows, {**tree, "variants": about}
            _write(study, done, out)
        log.say(f"{variant.name}: done")
    assert done is not None, "the reference is one of the variants"
    return done


def _summed_up(
    study: SlideStudy, slides: SlideSet, scored: Mapping[str, Scores], out: Path
) -> tuple[tuple[Row, ...], dict[str, Any]]:
    reference = scored[study.reference]
    rows = tuple(
        _row(variant, scored[variant.name], None if variant.name == study.reference else reference, study, out)
        for variant in study.variants
        if variant.name in scored
    )
    labels = [slide.label for slide in slides.slides]
    counts = {name: labels.count(index) for index, name in enumerate(slides.classes.names)}
    tree = {
        "study": study.name,
        "title": study.title,
        "slides": len(labels),
        "patients": len({slide.patient_id for slide in slides.slides}),
        "classes": counts,
        "data": slides.name,
        "folds": to_tree(study.folds),
        "reference": study.reference,
        "baseline": {"auroc": 0.5, "accuracy": max(counts.values()) / len(labels)},
        "rows": [_row_json(row) for row in rows],
        "notes": list(small_sample_notes(labels.count(1), labels.count(0))),
    }
    return rows, tree


def _row(variant: SlideVariant, scores: Scores, reference: Scores | None, study: SlideStudy, out: Path) -> Row:
    settings = BootstrapSettings()
    margins, labels, folds, patients = _columns(scores)
    repeats = tuple(range(study.folds.repeats))
    inside = [np.array([one.startswith(f"r{repeat}f") for one in folds]) for repeat in repeats]
    gain, gains = None, tuple[float, ...]()
    by_repeat = _by_repeat(margins, labels, folds, inside)
    if reference is not None:
        assert [one.slide_id for one in scores] == [one.slide_id for one in reference], (
            "all variants have the same folds"
        )
        other = _columns(reference)[0]
        gain = within_fold_difference(margins, other, labels, folds, patients, settings)
        pairs = zip(by_repeat, _by_repeat(other, labels, folds, inside), strict=True)
        gains = tuple(one - two for one, two in pairs)
    probability = np.array([one.probability for one in scores])
    called = np.array([one.probability >= one.threshold for one in scores])
    further = {
        "auprc": float(np.mean([auprc(probability[one], labels[one]) for one in inside])),
        "accuracy": float((called == labels).mean()),
        "ece": float(np.mean([expected_calibration_error(probability[one], labels[one]) for one in inside])),
        "brier": brier(probability, labels),
    }
    return Row(
        name=variant.name,
        seeds=repeats,
        diverged=(),
        score=within_fold_interval(margins, labels, folds, patients, settings),
        by_seed=by_repeat,
        further=further,
        gain=gain,
        gain_by_seed=gains,
        minutes={"total": _minutes(out / variant.learner.folder, study)},
    )


def _columns(
    scores: Scores,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], list[str], list[str]]:
    margins = np.array([one.logit for one in scores])
    labels = np.array([one.label for one in scores], np.int64)
    return margins, labels, [one.fold for one in scores], [one.patient_id for one in scores]


def _by_repeat(
    margins: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    folds: Sequence[str],
    inside: Sequence[npt.NDArray[np.bool_]],
) -> tuple[float, ...]:
    statistic = within_fold_auroc(margins, labels, folds)
    return tuple(float(statistic(one[None].astype(np.float64))[0]) for one in inside)


def _minutes(folder: Path, study: SlideStudy) -> float:
    """Mean minutes that a fold's run was trained."""
    notes = sorted(folder.glob("repeat_*/fold_*/*/training.json"))
    assert len(notes) == study.folds.folds * study.folds.repeats, f"{len(notes)} runs lie in {folder}"
    return float(np.mean([read_json(note)["minutes"] for note in notes]))


def _about(variant: SlideVariant) -> dict[str, Any]:
    learner = variant.learner
    return {
        "method": learner.method,
        "settings": to_tree(learner.config),
        "training": to_tree(learner.training),
    }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "auroc": None if row.score is None else row.score.to_json(),
        "auroc_by_repeat": [plain(one) for one in row.by_seed],
        **{name: plain(value) for name, value in row.further.items()},
        "gain_over_reference": None if row.gain is None else row.gain.to_json(),
        "gain_by_repeat": [plain(one) for one in row.gain_by_seed],
        "minutes": None if row.minutes is None else row.minutes["total"],
    }


def table_lines(rows: Sequence[Row]) -> list[list[str]]:
    """The table as people read it, heads first."""
    lines = [["variant", "AUROC % (95 %)", "over reference (95 %)", *_HEADS]]
    for row in rows:
        assert row.score is not None
        assert row.minutes is not None
        gain = row.gain
        lines.append(
            [
                row.name,
                str(row.score),
                "-"
                if gain is None
                else f"{100 * gain.estimate:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})",
                *(f"{100 * row.further[name]:.1f}" for name in ("auprc", "accuracy", "ece")),
                f"{row.further['brier']:.3f}",
                f"{row.minutes['total']:.1f}",
            ]
        )
    return lines


def _write(study: SlideStudy, done: tuple[tuple[Row, ...], dict[str, Any]], out: Path) -> None:
    rows, tree = done
    path = out / study.name
    title = (
        f"{study.title}\n{tree['slides']} slides of {tree['patients']} patients, {study.folds.repeats} x "
        f"{study.folds.folds} folds by patient, pairs within a fold"
    )
    write_json(path.with_name(f"{path.name}.json"), tree)
    write_tables(path, title, table_lines(rows), rows, "auroc")
    draw_comparison(rows, title, "AUROC", 0.5, path.with_name(f"{path.name}.png"))


def fold_runs(study: SlideStudy, variant: SlideVariant, slides: SlideSet, out: Path) -> dict[Path, SlideSet]:
    """The run of every fold of a variant with the slides that it was kept from, for what is measured beside scores."""
    folder = out / variant.learner.folder
    return {fold.folder(folder) / variant.learner.folder: fold.test for fold in folds_of(slides, study.folds)}
