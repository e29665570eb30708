"""Robustness drawn: tables of several models in, a picture out, one panel a corruption and one line a model.

Does not know: how robustness is measured.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from counterstain.errors import InputError
from counterstain.files import atomic
from counterstain.report.protocol import refuse_other_protocol
from counterstain.report.robustness import Cell, RobustnessTable

_TITLES = {"stain_shift": "stain shift", "blur": "blur", "jpeg": "JPEG compression"}


def draw_robustness(tables: Mapping[str, RobustnessTable], path: Path) -> None:
    """Draws mean IoU against strength, the interval over patients as a band around each line.

    Args:
        tables: By the model's name.
        path: Of the picture; its suffix says of which kind, as matplotlib knows it.

    Raises:
        InputError: When there is no table, or protocols, images or corruptions differ.
    """
    from matplotlib.figure import Figure

    first = _first_of_alike(tables)
    figure = Figure(figsize=(max(6, 4 * len(first.cells)), 4), layout="constrained")
    panels = figure.subplots(1, len(first.cells), sharey=True, squeeze=False)[0]
    for panel, corruption in zip(panels, first.cells, strict=True):
        for name, table in tables.items():
            _draw_line(panel, name, table.cells[corruption])
        panel.set(title=_TITLES.get(corruption, corruption), xlabel="strength (0: as they are)", ylim=(0, 100))
        panel.set_xticks([cell.strength for cell in first.cells[corruption]])
        panel.grid(alpha=0.3)
    interval = next(iter(first.cells.values()))[0].mean_iou
    band = f"; band: {100 * interval.level:g} % interval over patients" if interval else ""
    panels[0].set_ylabel("mean IoU, %")
    panels[0].legend(loc="lower left")
    figure.suptitle(
        f"{first.split} split, {first.num_images} images of {len(first.patients)} patients; {first.protocol}{band}",
        fontsize="small",
    )
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _first_of_alike(tables: Mapping[str, RobustnessTable]) -> RobustnessTable:
    """The first table, when the others can stand beside it."""
    if not tables:
        raise InputError("No robustness was given to draw. Measure that of one model at least.")
    first = next(iter(tables.values()))
    for name, table in tables.items():
        refuse_other_protocol(first.protocol, table.protocol)
        if list(table.cells) != list(first.cells):
            raise InputError(f"{name!r} was measured under other corruptions than the first model. Measure both alike.")
        truths = [next(iter(one.cells.values()))[0].counts_PKK.sum(2) for one in (first, table)]
        if table.patients != first.patients or not np.array_equal(*truths):
            raise InputError(f"{name!r} was measured on other images than the first model. Measure both on the same.")
    return first


def _draw_line(panel: Any, name: str, cells: Sequence[Cell]) -> None:
    strengths = [cell.strength for cell in cells]
    (line,) = panel.plot(strengths, [100 * cell.scores.mean_iou for cell in cells], marker="o", label=name)
    intervals = [cell.mean_iou for cell in cells if cell.mean_iou is not None]
    if intervals:
        low, high = ([100 * getattr(one, end) for one in intervals] for end in ("low", "high"))
        panel.fill_between(strengths, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
