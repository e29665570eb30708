"""Counting: how many parameters a network has and how many multiply-accumulates an image costs it.

The network runs once on a meta device, where tensors have shapes and no values: nothing is computed or copied, and a
network of any size is counted in a moment, whether its own tensors are real or not.

Counted are convolutions and matrix products, attention's too, one multiply-accumulate (MAC) for each product that is added
up; two FLOP make one. Biases, norms, activations, pooling and resizing are not: under one in a hundred here.

Does not know: how fast a machine runs it.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Count:
    """The size and cost of a network.

    Args:
        parameters: Numbers that training could change, frozen ones counted.
        trainable: Numbers that it does change.
        macs: Multiply-accumulates for one image.
        height: Of that image, pixels.
        width: Of that image, pixels.
    """

    parameters: int
    trainable: int
    macs: int
    height: int
    width: int


def count(network: nn.Module, height: int = 224, width: int = 224) -> Count:
    """Counts a network's parameters, and its multiply-accumulates for one RGB image.

    Args:
        network: Takes images (1, 3, height, width). Its training mode is kept.
        height: Pixels.
        width: Pixels.
    """
    parameters = list(network.parameters())
    return Count(
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        macs=_macs(network, height, width),
        height=height,
        width=width,
    )


def _macs(network: nn.Module, height: int, width: int) -> int:
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    images_BCHW = torch.empty(1, 3, height, width, device="meta")
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(network, shapes, (images_BCHW,))
    finally:
        network.train(was_training)
    return int(counter.get_total_flops()) // 2
