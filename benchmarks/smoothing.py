"""What the large depthwise convolution costs to learn and to predict with on one core, against torch's own.

    python benchmarks/smoothing.py [--repeats 5] > result.json

Claim: forward and backward in the frequency domain take a fraction of torch's direct form; forward alone, zeros put around
the map first do. CPU and wall milliseconds of a batch, repetitions interleaved, with the largest differences between the
two, relative to the largest value.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from command import command_given
from counterstain.models.smoothing import Smoothing
from timing import spread

SHAPES = ((8, 24, 56), (8, 256, 56), (4, 512, 28), (4, 128, 28))
"""Images, channels, cells along a side."""

KERNEL = 15


def learning(
    convolution: Callable[[Tensor], Tensor], weight: Tensor, images: Tensor, grad: Tensor
) -> tuple[Tensor, ...]:
    found = convolution(images)
    return found.detach(), *torch.autograd.grad(found, (images, weight), grad)


@torch.inference_mode()
def predicting(convolution: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, ...]:
    return (convolution(images),)


def compared(shape: tuple[int, int, int], repeats: int) -> dict[str, Any]:
    batch, channels, side = shape
    torch.manual_seed(0)
    smoothing = Smoothing(channels, KERNEL)
    images, grad = (
        torch.randn(batch, channels, side, side, requires_grad=True),
        torch.randn(batch, channels, side, side),
    )
    forms: dict[str, Callable[[Tensor], Tensor]] = {"ours": smoothing, "torch": partial(nn.Conv2d.forward, smoothing)}
    found: dict[str, Any] = {"images": batch, "channels": channels, "side": side}
    for what in ("learning", "predicting"):
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
        values: dict[str, tuple[Tensor, ...]] = {}
        for _ in range(repeats + 1):
            for name, form in forms.items():
                wall, processor = time.perf_counter(), time.process_time()
                if what == "learning":
                    values[name] = learning(form, smoothing.weight, images, grad)
                else:
                    values[name] = predicting(form, images)
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
        off = [
            float((one - other).abs().max() / other.abs().max()) for one, other in zip(*values.values(), strict=True)
        ]
        found[what] = {
            **{f"{name}_cpu_ms": spread([1000 * cpu for _, cpu in seen[1:]]) for name, seen in times.items()},
            **{f"{name}_wall_ms": spread([1000 * wall for wall, _ in seen[1:]]) for name, seen in times.items()},
            "times_as_fast": statistics.median(
                one[1] / other[1] for one, other in zip(times["torch"][1:], times["ours"][1:], strict=True)
            ),
            "largest_difference": max(off),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "kernel": KERNEL,
        "shapes": [compared(shape, options.repeats) for shape in SHAPES],
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "processor": torch.backends.cpu.get_cpu_capability(),
            "threads": 1,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
