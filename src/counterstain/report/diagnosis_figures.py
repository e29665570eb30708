"""Pictures of slide scores: ranking, calibration, risk when only sure slides are decided, weight of the streams.

Scores of all folds are drawn together, as calibrated probabilities; single folds are thin lines behind.

Does not know: models, how slides were dealt into folds.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from counterstain.files import atomic
from counterstain.metrics import (
    BootstrapSettings,
    DecisionCounts,
    Interval,
    auprc,
    auprc_interval,
    brier,
    calibrated,
    expected_calibration_error,
    precision_recall_curve,
    reliability,
    roc_band,
    roc_curve,
    selective_risk,
    wilson,
)
from counterstain.metrics.curves import Curve
from counterstain.metrics.segmentation import Floats
from counterstain.metrics.within_folds import within_fold_auroc, within_fold_interval
from counterstain.report.score_table import ScoreColumns, sets_of
from counterstain.results import RGB, Classes, ScoredSlide

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _GREY, _LIGHT = "#2b6ca3", "#7a7a7a", "#c9c9c9"
_SIDE = 4.6


def draw_diagnosis(
    rows: Sequence[ScoredSlide], classes: Classes, folder: Path, settings: BootstrapSettings | None = None
) -> tuple[Path, ...]:
    """Draws `roc.png`, `precision_recall.png`, `reliability.png`, `selective_risk.png` and `streams.png`.

    The first two need slides of both classes, the last a method with two streams.

    Args:
        rows: Slides with labels, each scored by models that saw none of its patient.
        classes: The background, then the positive class.
        folder: Where pictures go; older ones of these names are replaced.
        settings: How bands and intervals are made.

    Returns:
        The pictures that were drawn.

    Raises:
        InputError: When there is no row, a model scored a slide twice, or a prediction set names no class.
    """
    settings = settings or BootstrapSettings()
    columns = ScoreColumns.of(rows)
    has_both = len(set(columns.labels_N.tolist())) == 2
    drawers: dict[str, Callable[[], Figure]] = {}
    if has_both:
        drawers["roc"] = lambda: _roc(columns, classes, settings)
        drawers["precision_recall"] = lambda: _precision_recall(columns, classes, settings)
    drawers["reliability"] = lambda: _reliability(columns, classes, settings)
    drawers["selective_risk"] = lambda: _selective_risk(rows, columns, classes, settings)
    if any(row.local_share is not None for row in rows):
        drawers["streams"] = lambda: _streams(rows, classes)
    drawn = []
    for name, draw in drawers.items():
        path = Path(folder) / f"{name}.png"
        with atomic(path) as temporary:
            draw().savefig(temporary, dpi=150)
        drawn.append(path)
    return tuple(drawn)


def _roc(columns: ScoreColumns, classes: Classes, settings: BootstrapSettings) -> "Figure":
    figure, axes = _square(columns, classes, *(f"{name} called {classes.names[1]} (%)" for name in classes.names))
    scores, labels = columns.probability_N, columns.labels_N
    for number, inside in enumerate(_folds(columns)):
        one = roc_curve(scores[inside], labels[inside])
        label = "_" if number else "single models"
        axes.plot(100 * one.x, 100 * one.y, color=_LIGHT, linewidth=0.8, zorder=1, label=label)
    if len(set(columns.patients)) > 1:
        band = roc_band(scores, labels, columns.patients, settings)
        axes.fill_between(
            100 * band.false_positive_rates, 100 * band.low, 100 * band.high, color=_BLUE, alpha=0.18, linewidth=0
        )
    curve = roc_curve(scores, labels)
    axes.plot(100 * curve.x, 100 * curve.y, color=_BLUE, linewidth=2, label=told_auroc(columns, settings))
    axes.plot([0, 100], [0, 100], color=_GREY, linestyle=":", label="chance 0.500")
    counts = DecisionCounts.of(columns.called, labels)
    axes.plot(
        [100 * (1 - counts.specificity().estimate)],
        [100 * counts.recall().estimate],
        "o",
        color=_BLUE,
        markeredgecolor="white",
        markersize=8,
        label="at the models' thresholds",
    )
    axes.legend(loc="lower right", fontsize=8)
    return figure


def told_auroc(columns: ScoreColumns, settings: BootstrapSettings) -> str:
    """The AUROC as the report quotes it: within folds, where several models scored, of which no curve has the area."""
    name = "AUROC within folds" if len(set(columns.folds)) > 1 else "AUROC"
    logits, labels, folds = columns.logits_N, columns.labels_N, columns.folds
    if len(set(columns.patients)) > 1:
        interval = within_fold_interval(logits, labels, folds, columns.patients, settings)
        if interval.low < interval.high:  # resamples that all agree don't tell how sure it is
            return f"{name} {_written(interval)}"
    return f"{name} {within_fold_auroc(logits, labels, folds)(np.ones((1, len(labels))))[0]:.3f}"


def _precision_recall(columns: ScoreColumns, classes: Classes, settings: BootstrapSettings) -> "Figure":
    figure, axes = _square(columns, classes, "recall (%)", "precision (%)")
    scores, labels = columns.probability_N, columns.labels_N
    for number, inside in enumerate(_folds(columns)):
        one = _from_first_hit(precision_recall_curve(scores[inside], labels[inside]))
        label = "_" if number else "single models"
        axes.step(100 * one.x, 100 * one.y, where="pre", color=_LIGHT, linewidth=0.8, zorder=1, label=label)
    area = f"{auprc(scores, labels):.3f}"
    if len(set(columns.patients)) > 1:
        interval = auprc_interval(scores, labels, columns.patients, settings)
        area = _written(interval)
    curve = _from_first_hit(precision_recall_curve(scores, labels))
    axes.step(100 * curve.x, 100 * curve.y, where="pre", color=_BLUE, linewidth=2, label=f"average precision {area}")
    share = float(labels.mean())
    axes.axhline(100 * share, color=_GREY, linestyle=":", label=f"chance {share:.3f}")
    axes.legend(loc="lower left", fontsize=8)
    return figure


def _from_first_hit(curve: Curve) -> Curve:
    """A curve of steps begins with the precision of its first step: at recall 0 there is nothing to be precise about."""
    hit = int((curve.x > 0).argmax())
    x = np.concatenate([[0.0], curve.x[hit:]])
    return Curve(x, np.concatenate([curve.y[hit : hit + 1], curve.y[hit:]]), curve.thresholds[hit - 1 :])


def _reliability(columns: ScoreColumns, classes: Classes, settings: BootstrapSettings) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * _SIDE, 1.3 * _SIDE), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    kinds = {"as the networks say it": calibrated(columns.logits_N), "calibrated": columns.probability_N}
    for (upper, lower), (name, probability_N) in zip(panels.T, kinds.items(), strict=True):
        _draw_bins(upper, probability_N, columns, settings)
        error = expected_calibration_error(probability_N, columns.labels_N)
        square = brier(probability_N, columns.labels_N)
        upper.set_title(f"{name}\ncalibration error {100 * error:.1f} %, Brier score {square:.3f}", fontsize=9)
        stacked = [100 * probability_N[columns.labels_N == label] for label in (0, 1)]
        lower.hist(
            stacked, bins=np.linspace(0, 100, 21), stacked=True, color=_colors(classes), label=list(classes.names)
        )
        lower.set_xlabel(f"probability of {classes.names[1]} (%)")
        _plain(lower)
    panels[0, 0].set_ylabel(f"share that is {classes.names[1]} (%)")
    panels[1, 0].set_ylabel(_what(columns))
    panels[0, 0].legend(loc="upper left", fontsize=8)
    panels[1, 1].legend(fontsize=8)
    _title(figure, columns, classes)
    return figure


def _draw_bins(axes: "Axes", probability_N: Floats, columns: ScoreColumns, settings: BootstrapSettings) -> None:
    bins = reliability(probability_N, columns.labels_N, level=settings.level)
    x = [100 * one.mean_probability for one in bins]
    y = [100 * one.positives.estimate for one in bins]
    axes.plot([0, 100], [0, 100], color=_GREY, linestyle=":", label="what a probability promises")
    axes.plot(x, y, "o-", color=_BLUE, linewidth=1.2, markersize=5, label="tenths of [0, 1]")
    if columns.is_once:  # a slide that counts several times would make bars too narrow
        ends = [(100 * one.positives.low, 100 * one.positives.high) for one in bins]
        bar = f"{100 * settings.level:g} % (Wilson)"
        axes.vlines(x, *zip(*ends, strict=True), color=_BLUE, linewidth=1.6, label=bar)
    axes.set(xlim=(-2, 102), ylim=(-2, 102))
    axes.grid(alpha=0.3)
    _plain(axes)


def _selective_risk(
    rows: Sequence[ScoredSlide], columns: ScoreColumns, classes: Classes, settings: BootstrapSettings
) -> "Figure":
    figure, axes = _square(columns, classes, "slides decided, the surest first (%)", "of those, decided wrongly (%)")
    wrong = (columns.called != columns.labels_N).astype(np.int64)
    curve = selective_risk(columns.confidence, wrong)
    decided = np.round(curve.coverage * len(wrong)).astype(int).tolist()
    if columns.is_once:
        ends = [
            wilson(round(risk * num), num, settings.level)
            for risk, num in zip(curve.risk.tolist(), decided, strict=True)
        ]
        low, high = ([100 * getattr(one, end) for one in ends] for end in ("low", "high"))
        axes.fill_between(100 * curve.coverage, low, high, color=_BLUE, alpha=0.18, linewidth=0)
    axes.plot(
        100 * curve.coverage, 100 * curve.risk, color=_BLUE, linewidth=2, label=f"mean risk {100 * curve.area:.1f} %"
    )
    axes.axhline(100 * wrong.mean(), color=_GREY, linestyle=":", label=f"in any order {100 * wrong.mean():.1f} %")
    sets = sets_of(rows, classes)
    if sets is not None and (sets.sum(-1) == 1).any():
        alone = sets.sum(-1) == 1
        risk = 1 - sets[np.arange(len(wrong)), columns.labels_N][alone].mean()
        label = f"one class left: {100 * alone.mean():.0f} % decided"
        axes.plot(
            [100 * alone.mean()], [100 * risk], "D", color=_BLUE, markeredgecolor="white", markersize=8, label=label
        )
    axes.set_ylim(0, max(10.0, min(100.0, 250 * float(wrong.mean()))))
    axes.set_aspect("auto")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def _streams(rows: Sequence[ScoredSlide], classes: Classes) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.4 * _SIDE, 0.8 * _SIDE), layout="constrained")
    axes = figure.subplots()
    known = [(row.label, row.local_share) for row in rows if row.local_share is not None]
    groups = [[share for label, share in known if label == wanted] for wanted in (0, 1)]
    names = [
        name + (f": mean {np.mean(group):.2f}" if group else ": none")
        for name, group in zip(classes.names, groups, strict=True)
    ]
    axes.hist(groups, bins=np.linspace(0, 1, 21).tolist(), stacked=True, color=_colors(classes), label=names)
    axes.axvline(0.5, color=_GREY, linestyle=":", label="both streams alike")
    columns = ScoreColumns.of(rows)
    axes.set(xlabel="weight of the local stream; the regional one has the rest", ylabel=_what(columns), xlim=(0, 1))
    axes.grid(axis="y", alpha=0.3)
    axes.locator_params(axis="y", integer=True)
    axes.legend(fontsize=8)
    _plain(axes)
    _title(figure, columns, classes)
    return figure


def _written(interval: Interval) -> str:
    """With its ends and its level, over patients."""
    return f"{interval.estimate:.3f} ({100 * interval.level:g} %: {interval.low:.3f} to {interval.high:.3f})"


def _what(columns: ScoreColumns) -> str:
    return "slides" if columns.is_once else "scores of slides"


def _square(columns: ScoreColumns, classes: Classes, x: str, y: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIDE, _SIDE), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-1, 101), ylim=(-1, 101), xlabel=x, ylabel=y, aspect="equal")
    axes.grid(alpha=0.3)
    _plain(axes)
    _title(figure, columns, classes)
    return figure, axes


def _folds(columns: ScoreColumns) -> "list[np.ndarray]":
    """The rows of each model that scored slides of both classes; none where there is one model alone."""
    names = sorted(set(columns.folds))
    inside = [np.array([one == name for one in columns.folds]) for name in names if len(names) > 1]
    return [one for one in inside if len(set(columns.labels_N[one].tolist())) == 2]


def _title(figure: "Figure", columns: ScoreColumns, classes: Classes) -> None:
    label_of = dict(zip(columns.slides, columns.labels_N.tolist(), strict=True))
    positives = sum(label_of.values())
    models = len(set(columns.folds))
    figure.suptitle(
        f"{positives} slides of {classes.names[1]}, {len(label_of) - positives} of {classes.names[0]}; "
        f"{len(set(columns.patients))} patients, {models} model{'s' if models > 1 else ''}",
        fontsize=9,
    )


def _colors(classes: Classes) -> list[str]:
    return [_hex(color) for color in classes.colors]


def _hex(color: RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _plain(axes: "Axes") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
