"""A few of Python's numbers as a tensor beside another: made on its device, where a copy from the host would be waited for.

What does without such copies can be captured as a CUDA graph, and keeps a GPU that learns from standing still.

Does not know: what the numbers mean.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def filled(values: Sequence[float], like: Tensor) -> Tensor:
    """The numbers as a tensor of one dimension, of another's type and device."""
    return torch.cat([like.new_full((1,), value) for value in values])
