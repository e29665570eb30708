"""What benchmarks that time things share: seconds of actions that take turns, how they spread, and their ratios.

Does not know: what is timed.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Times(NamedTuple):
    """What an action took in each round.

    Args:
        wall: Seconds.
        cpu: Seconds of all threads.
    """

    wall: list[float]
    cpu: list[float]


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds, of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turn(
    actions: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_ups: int = 0,
    before: Callable[[], object] | None = None,
) -> dict[str, Times]:
    """Times of actions by their names, one after the other in each round.

    Args:
        actions: By name.
        rounds: That count.
        warm_ups: Rounds before these.
        before: Called before each action, and not timed.
    """
    found = {name: Times([], []) for name in actions}
    for number in range(warm_ups + rounds):
        for name, action in actions.items():
            if before is not None:
                before()
            wall, cpu = timed(action)
            if number >= warm_ups:
                found[name].wall.append(wall)
                found[name].cpu.append(cpu)
    return found


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Of two actions, round by round."""
    return [one / other for one, other in zip(above, below, strict=True)]


def spread(values: Sequence[float], digits: int | None = None) -> dict[str, float]:
    """Median, least and most."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return found if digits is None else {name: round(value, digits) for name, value in found.items()}
