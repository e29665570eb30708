"""What benchmarks that time things share: wall and CPU seconds of an action, and how values spread."""

import statistics
import time
from collections.abc import Callable, Sequence


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds, of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def spread(values: Sequence[float], digits: int | None = None) -> dict[str, float]:
    """Median, least and most."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return found if digits is None else {name: round(value, digits) for name, value in found.items()}
