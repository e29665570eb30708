"""The machine in words, as results tell of it.

Does not know: what was measured.
"""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any


def machine_in_words() -> str:
    """Its processor, how many of its cores this process may use, and its system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{_processor()}, {cores} cores, {platform.system()}"


def one_thread(*libraries: str) -> dict[str, Any]:
    """What networks that run on one thread run with: its vector instructions, and which versions of libraries."""
    import torch

    versions = {name: metadata.version(name) for name in libraries}
    return {"processor": torch.backends.cpu.get_cpu_capability(), "threads": 1, **versions}


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
