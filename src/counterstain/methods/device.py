"""Where a network works when it is not trained: a GPU where there is one, for as long as it is asked.

Does not know: methods, data.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def on_device(network: nn.Module) -> Iterator[torch.device]:
    """A network in evaluation mode on the GPU, or on the CPU where there is none; afterwards it lies where it was.

    Yields:
        The device, for what the network is given.
    """
    home = next(network.parameters()).device
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).eval()
    try:
        yield device
    finally:
        network.to(home)
