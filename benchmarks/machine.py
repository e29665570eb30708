"""The machine in words, as results tell of it.

Does not know: what was measured.
"""

import os
import platform
from pathlib import Path


def machine_in_words() -> str:
    """Its processor, how many of its cores this process may use, and its system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{_processor()}, {cores} cores, {platform.system()}"


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
