"""Pictures of comparisons.

Does not know: how anything was scored.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from counterstain.files import atomic

if TYPE_CHECKING:
    from counterstain.report.compare import Row
    from counterstain.report.study import Study

_BLUE, _GREY = "#2b6ca3", "#7a7a7a"


def draw_comparison(rows: "tuple[Row, ...]", study: "Study", split: str, path: Path) -> None:
    """A line for each variant, grey for the reference: its mean IoU with the interval over patients, a tick for each seed.

    Args:
        rows: In the order of the table.
        study: For title and reference.
        split: What was scored.
        path: The picture to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 1.4 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(reversed(rows)):
        color = _GREY if row.name == study.reference else _BLUE
        interval = row.mean_iou
        axes.plot([100 * interval.low, 100 * interval.high], [place, place], color=color, linewidth=2, alpha=0.5)
        axes.plot([100 * interval.estimate], [place], "o", color=color, markersize=8)
        axes.plot([100 * one for one in row.by_seed], [place + 0.22] * len(row.by_seed), "|", color=color, markersize=8)
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(f"mean IoU (%), {split} split; bar: 95 % interval over patients, ticks: seeds")
    axes.set_title(study.title, fontsize=10)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150)
