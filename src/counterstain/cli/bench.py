"""`counterstain bench`: what this machine can do, and what counterstain does on it.

Does not know: how anything is measured.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from counterstain import log
from counterstain.cli import OK
from counterstain.errors import InputError

if TYPE_CHECKING:
    from counterstain.jobs.bench import Bench, NetworkTime
    from counterstain.jobs.hardware import Figure


def bench(run: Path | None = None, /, *, seconds: float = 0.4, json: bool = False) -> int:
    """Measure this machine within a minute: its limits, how near counterstain comes, how long a slide takes.

    Matrix products, memory and JPEG decoding are what the hardware allows; reading, stitching and networks are told
    beside them, in every runtime that is installed. Close other programs first, and read figures as good to a tenth.

    Args:
        run: A finished run that gives maps: its model is timed too.
        seconds: For each figure; at 0 all is done twice, and told badly.
        json: Answer as JSON.
    """
    from counterstain.jobs.bench import measure

    if not (math.isfinite(seconds) and seconds >= 0):
        raise InputError(f"--seconds was given as {seconds:g}; give 0 or a finite number above it.")
    log.say("Measuring for about a minute; other work on this machine lowers the figures.")
    found = measure(run, seconds)
    if json:
        log.emit_json(found.tree())
    else:
        _show(found)
    return OK


def _show(found: "Bench") -> None:
    rows = [["cores", str(found.cores), "", ""]]
    rows.append(["threads", f"{found.network_threads} for networks, {found.reader_threads} read", "", ""])
    rows += [_figure(figure) for figure in found.figures]
    rows += [_network(entry) for entry in found.networks]
    log.say("Of the limit: 1 is what the hardware would do with that step alone, 0.5 takes twice as long.")
    log.emit_table("This machine", ["", "measured", "of the limit", "limit"], rows)
    for line in found.outlook:
        log.emit(line)


def _figure(figure: "Figure") -> list[str]:
    digits = 3 if figure.value < 1 else 1 if figure.value < 100 else 0
    share = "" if figure.of_limit is None else f"{figure.of_limit:.2f}"
    return [figure.what, f"{figure.value:.{digits}f} {figure.unit}", share, figure.limit]


def _network(entry: "NetworkTime") -> list[str]:
    name = f"{entry.model}, {entry.runtime}"
    if entry.ms_a_tile is None or entry.of_limit is None:
        return [name, f"not run: {entry.problem}", "", ""]
    return [name, f"{entry.ms_a_tile:.2f} ms a tile", f"{entry.of_limit:.2f}", "matrix products"]
