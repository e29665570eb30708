"""How long something takes on this machine's device, and how fast its matrix products are.

Does not know: what is timed.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


def precise() -> AbstractContextManager[Any]:
    """bf16 where there is a GPU."""
    return torch.autocast("cuda", torch.bfloat16) if CUDA else nullcontext()


def finish() -> None:
    """Waits until the device has done what it was given."""
    if CUDA:
        torch.cuda.synchronize()


def seconds(action: Callable[[], object], repeats: int) -> float:
    """The median of so many, after two to warm up."""
    found = []
    for _ in range(repeats + 2):
        finish()
        start = time.perf_counter()
        action()
        finish()
        found.append(time.perf_counter() - start)
    return statistics.median(found[2:])


def matrix_rate(repeats: int) -> float:
    """Multiply-adds a second of large matrix products: bf16 on a GPU, float32 on a CPU, nothing converted in between."""
    side, dtype = (8192, torch.bfloat16) if CUDA else (1024, torch.float32)
    one, other = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
    return side**3 / seconds(lambda: one @ other, repeats)
