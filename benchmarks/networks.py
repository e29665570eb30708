"""How near networks come to one core's matrix products in prediction, by the runtime that runs them.

Each step is the whole of what `predict` or `encode` asks of a network: uint8 tiles in, maps at a quarter of the resolution
or embeddings out, gates and fusion included. What must be computed (models/count.py, of the step and not of the network: a
scale that the fusion leaves out costs nothing) is divided by the CPU time and by the rate of large matrix products, the
best of torch's and ONNX Runtime's at several sizes, measured in between. Repetitions are interleaved, ratios taken within
each.

    python benchmarks/networks.py [--networks scae vgg_mil] [--runtimes torch onnx] [--repeats 5] > result.json
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn

from command import command_given
from counterstain.infer import PredictSettings
from counterstain.infer.encode import EncoderStep, EncodeSettings
from counterstain.infer.exported import Step
from counterstain.infer.runtime import Runner
from counterstain.methods import SSHR, DenseMethod, FusionKD, FusionKDConfig, InputSpec, SSHRConfig
from counterstain.methods.scae import SCAEPatchEncoder
from counterstain.models.count import count
from counterstain.models.encoders import PatchEncoder
from counterstain.models.scae import SCAE
from counterstain.results import Classes, EncoderSpec
from timing import spread, timed

TISSUES = Classes(("a", "b", "c", "d"), ((0, 0, 0),) * 4)
TUMOUR = Classes(("rest", "tumour"), ((0, 0, 0),) * 2, background="rest")
STRIDE = 4
SIDES = (768, 1024, 1536)
NEEDED = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}

Action = Callable[[], object]


@dataclass(frozen=True)
class Network:
    """What is timed.

    Args:
        build: Makes it.
        px: Width and height of its images.
        batch: How many at once.
    """

    build: Callable[[int], DenseMethod | PatchEncoder]
    px: int
    batch: int


@torch.no_grad()
def sshr(backbone: str, px: int) -> SSHR:
    config = replace(SSHRConfig(), backbone=backbone, presence_thresholds=0.5)
    method = SSHR(config, TISSUES, InputSpec(px, 0, 1.0))
    for name, parameter in method.network.hfrm.named_parameters():
        if name.endswith("_scale"):  # they learn from zero, where branches would add nothing
            parameter.fill_(0.3)
    return method


def vgg_mil(px: int) -> FusionKD:
    return FusionKD(FusionKDConfig(teacher="vgg_mil"), TUMOUR, InputSpec(px, 0, 1.0))


def scae(px: int) -> PatchEncoder:
    network = SCAE()
    network.encoder.tau.fill_(0.3)
    return SCAEPatchEncoder(network, EncoderSpec("scae", network.encoder.num_features, "untrained", px, "none needed"))


NETWORKS = {
    "resnet18_sshr": Network(lambda px: sshr("resnet18", px), 224, 4),
    "resnet38_sshr": Network(lambda px: sshr("wide_resnet38", px), 224, 1),
    "scae": Network(scae, 112, 16),
    "vgg_mil": Network(vgg_mil, 224, 2),
}


def statistics_of(norms_of: nn.Module) -> None:
    """Gives every norm statistics, so that folding them is no matter of nothing."""
    for module in norms_of.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)


def steps_of(network: Network, runtimes: list[str]) -> tuple[dict[str, Action], int]:
    """A batch through each runtime, and the multiply-accumulates of an image."""
    torch.manual_seed(0)
    model = network.build(network.px)
    tiles = np.random.default_rng(0).integers(0, 256, (network.batch, network.px, network.px, 3), np.uint8)
    actions: dict[str, Action] = {}
    if isinstance(model, PatchEncoder):
        statistics_of(model)
        macs = count(model, network.px, network.px).macs
        for name in runtimes:
            encoder = EncoderStep(model, EncodeSettings(device="cpu", num_threads=1, runtime=name))  # type: ignore[arg-type]
            actions[name] = lambda encoder=encoder: encoder.encode(tiles)  # type: ignore[misc]
        return actions, macs
    statistics_of(model.network)
    macs = count(Step(model.network, model.predict_maps, ""), network.px, network.px).macs
    for name in runtimes:
        settings = PredictSettings(device="cpu", num_threads=1, runtime=name)  # type: ignore[arg-type]
        runner = Runner(model, settings, STRIDE, network.px)
        actions[name] = lambda runner=runner: runner.run(tiles)  # type: ignore[misc]
    return actions, macs


def products() -> dict[str, tuple[Action, int]]:
    """Large matrix products and their multiply-accumulates."""
    found: dict[str, tuple[Action, int]] = {}
    for side in SIDES:
        one, other = torch.randn(side, side), torch.randn(side, side)
        found[f"torch_{side}"] = (lambda one=one, other=other: one @ other), side**3  # type: ignore[misc]
        if find_spec("onnxruntime") is not None:
            found[f"onnxruntime_{side}"] = ort_product(one.numpy(), other.numpy()), side**3
    return found


def ort_product(one: Any, other: Any) -> Action:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    shape = list(one.shape)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(other, "w")],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": one})


def measure(
    network: Network, runtimes: list[str], repeats: int, limits: dict[str, tuple[Action, int]]
) -> dict[str, Any]:
    actions, macs = steps_of(network, runtimes)
    for action in actions.values():
        action()
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    rates: dict[str, list[float]] = {name: [] for name in limits}
    for _ in range(repeats):
        for name, (action, products_macs) in limits.items():
            rates[name].append(products_macs / timed(action)[1])
        for name, action in actions.items():
            seen[name].append(timed(action))
    best = max(rates, key=lambda name: statistics.median(rates[name]))
    shares = {
        name: [macs * network.batch / time[1] / rate for time, rate in zip(times, rates[best], strict=True)]
        for name, times in seen.items()
    }
    per_image = 1000 / network.batch
    return {
        "px": network.px,
        "batch": network.batch,
        "gmac_per_image": macs / 1e9,
        "matrix_products": best,
        "matrix_products_gmac_per_cpu_s": spread([rate / 1e9 for rate in rates[best]]),
        "runtimes": {
            name: {
                "wall_ms_per_image": spread([wall * per_image for wall, _ in times]),
                "cpu_ms_per_image": spread([processor * per_image for _, processor in times]),
                "share_of_matrix_products": spread(shares[name]),
            }
            for name, times in seen.items()
        },
    }


def main() -> None:
    there = [name for name, library in NEEDED.items() if find_spec(library) is not None]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", choices=there, default=there)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, help="images at once, instead of each network's own number")
    options = parser.parse_args()
    torch.set_num_threads(1)
    limits = products()
    for action, _ in limits.values():
        action()
    chosen = {name: NETWORKS[name] for name in options.networks}
    if options.batch:
        chosen = {name: replace(network, batch=options.batch) for name, network in chosen.items()}
    result = {
        "networks": {
            name: measure(network, options.runtimes, options.repeats, limits) for name, network in chosen.items()
        },
        "command": command_given(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "processor": torch.backends.cpu.get_cpu_capability(),
            "threads": 1,
            "python": platform.python_version(),
            **{name: metadata.version(NEEDED[name]) for name in there},
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
