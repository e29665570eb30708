"""How fast SSHR learns and maps, against what the device's matrix products allow.

Training steps a second as the method trains (augmentation, four losses, optimiser), latency of a patch alone and in batches
up to the best one, gates and fusion included; and the rate of large matrix products in the same precision, measured in the
same run, as the limit. A training step is counted as three forward passes. cuDNN's autotuner stays off, as in use. With
`--profile` the slowest operators.

    python benchmarks/sshr_speed.py [--batches 1 8 32 128] [--profile] > result.json
"""

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from command import command_given
from counterstain.methods import SSHR, InputSpec, SSHRConfig
from counterstain.methods.sshr import learn_cams, parameter_groups
from counterstain.models.count import count
from counterstain.results import Classes
from speed import CUDA, DEVICE, matrix_rate, precise, seconds

CLASSES = Classes(("a", "b", "c", "d"), ((0, 0, 0),) * 4)


def training(method: SSHR, batch: int, px: int) -> Callable[[], None]:
    """One training step on random patches that lie on the device."""
    network = method.network.to(DEVICE).train()
    optimizer = torch.optim.SGD(parameter_groups(network, method.config), lr=1e-6)
    images = torch.randint(0, 256, (batch, 3, px, px), dtype=torch.uint8, device=DEVICE)
    labels = torch.randint(0, 2, (batch, len(CLASSES)), device=DEVICE).float()
    learn = learn_cams(network, method.config)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precise():
            loss = learn((images, labels), generator, 0)
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def mapping(method: SSHR, batch: int, px: int) -> Callable[[], Tensor]:
    images = torch.rand(batch, 3, px, px, device=DEVICE)
    method.network.to(DEVICE).eval()

    def step() -> Tensor:
        with torch.inference_mode(), precise():
            return method.predict_maps(images)

    return step


def hot_spots(action: Callable[[], object]) -> str:
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if CUDA else [])]
    with profile(activities=kinds) as found:
        action()
    order = "cuda_time_total" if CUDA else "cpu_time_total"
    table: str = found.key_averages().table(sort_by=order, row_limit=15)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="wide_resnet38")
    parser.add_argument("--px", type=int, default=224)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128] if CUDA else [1, 4])
    parser.add_argument("--train-batch", type=int, default=20 if CUDA else 4)
    parser.add_argument("--repeats", type=int, default=20 if CUDA else 3)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    config = replace(SSHRConfig(), backbone=options.backbone, presence_thresholds=0.5)
    method = SSHR(config, CLASSES, InputSpec(options.px, 0, None))
    macs = count(method.network, options.px, options.px).macs
    limit = matrix_rate(options.repeats)
    latency = {}
    for batch in options.batches:
        latency[batch] = seconds(mapping(method, batch, options.px), options.repeats) / batch * 1000
    step = seconds(training(method, options.train_batch, options.px), options.repeats)
    best = min(latency.values())
    result: dict[str, Any] = {
        "backbone": options.backbone,
        "px": options.px,
        "gmac_per_patch": macs / 1e9,
        "matrix_products_gmac_per_s": limit / 1e9,
        "latency_ms_by_batch": latency,
        "latency_limit_ms": macs / limit * 1000,
        "latency_over_limit": best / (macs / limit * 1000),
        "training_images_per_s": options.train_batch / step,
        "training_share_of_limit": 3 * macs * options.train_batch / step / limit,
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "device": torch.cuda.get_device_name() if CUDA else "cpu",
            "precision": "bf16" if CUDA else "fp32",
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    if options.profile:
        batch = min(latency, key=lambda one: latency[one])
        result["profile_mapping"] = hot_spots(mapping(method, batch, options.px)).splitlines()
        result["profile_training"] = hot_spots(training(method, options.train_batch, options.px)).splitlines()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
