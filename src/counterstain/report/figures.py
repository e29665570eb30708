"""Pictures of comparisons.

Does not know: how anything was scored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from counterstain.files import atomic
from counterstain.report.comparison import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from counterstain.metrics import Interval

_BLUE, _GREY = "#2b6ca3", "#7a7a7a"


def draw_comparison(rows: Sequence[Row], title: str, measure: str, baseline: float, path: Path) -> None:
    """A line for each variant: left its score, right its difference to the reference, which is grey.

    Dots are means over seeds with their intervals over patients, ticks single seeds; a dotted line is what one class
    everywhere scores, where it lies within the picture.

    Args:
        rows: In the order of the table; those without a score stay empty.
        title: What is compared, and on what.
        measure: What the scores are: "mean IoU".
        baseline: The score of one class everywhere, a fraction.
        path: The picture to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 1.7 + 0.42 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for place, row in enumerate(reversed(rows)):
        color = _GREY if row.gain is None else _BLUE
        if row.score is not None:
            _draw(left, place, row.score, row.by_seed, color)
        if row.gain is not None:
            _draw(right, place, row.gain, row.gain_by_seed, color)
        elif row.score is not None:
            right.text(0, place + 0.1, " reference", color=_GREY, fontsize=8)
    left.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    left.set_ylim(-0.6, len(rows) - 0.3)
    lowest = left.get_xlim()[0]
    if baseline * 100 > lowest:
        left.axvline(100 * baseline, color=_GREY, linestyle=":")
    right.axvline(0, color=_GREY, linewidth=1)
    level = next((row.score.level for row in rows if row.score), 0.95)
    dotted = "; dotted: one class" if baseline * 100 > lowest else ""
    left.set_xlabel(f"{measure} (%); bar: {100 * level:g} % over patients, ticks: seeds{dotted}")
    right.set_xlabel("over the reference (points), paired by patient")
    right.locator_params(axis="x", nbins=5)
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.suptitle(title, fontsize=10)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _draw(axes: "Axes", place: int, interval: "Interval", by_seed: Sequence[float], color: str) -> None:
    axes.plot([100 * interval.low, 100 * interval.high], [place, place], color=color, linewidth=2, alpha=0.5)
    axes.plot([100 * interval.estimate], [place], "o", color=color, markersize=7)
    axes.plot([100 * one for one in by_seed], [place + 0.24] * len(by_seed), "|", color=color, markersize=7)
