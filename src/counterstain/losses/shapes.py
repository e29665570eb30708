"""Whether maps, targets and labels belong together: a mistaken broadcast would compare images with each other's.

Does not know: losses.

Shapes: B images, S outputs of a network (its sides, then the fused map), H W rows and columns.
"""

import torch
from torch import Tensor

from counterstain.errors import InputError


def check_outputs(outputs_BSHW: Tensor) -> None:
    """Refuses what is not (images, outputs, rows, columns).

    Raises:
        InputError: When it has another number of axes.
    """
    if outputs_BSHW.ndim != 4:
        raise InputError(
            f"Outputs of shape {tuple(outputs_BSHW.shape)} were given; (images, outputs, rows, columns) was expected."
        )


def check_maps(name: str, maps: Tensor, expected: tuple[int, ...]) -> None:
    """Refuses maps of another shape than expected.

    Args:
        name: What they are, for the message: "A teacher".
        maps: Any tensor.
        expected: The shape that goes with the outputs.

    Raises:
        InputError: When the shapes differ.
    """
    if maps.shape != expected:
        raise InputError(
            f"{name} of shape {tuple(maps.shape)} was given; {expected} was expected, to go with the outputs."
        )


def check_scored(is_scored: Tensor | None, expected: tuple[int, ...]) -> None:
    """Refuses a mask of scored pixels of another shape than expected, or one that is not bool.

    Raises:
        InputError: When shape or dtype differ.
    """
    if is_scored is not None and (is_scored.shape != expected or is_scored.dtype != torch.bool):
        raise InputError(
            f"A mask of scored pixels of shape {tuple(is_scored.shape)} and {is_scored.dtype} was given; {expected} and "
            "torch.bool were expected."
        )


def check_positive(is_positive_B: Tensor, num_images: int) -> None:
    """Refuses image labels that are not one bool for each image.

    Raises:
        InputError: When shape or dtype differ.
    """
    if is_positive_B.shape != (num_images,) or is_positive_B.dtype != torch.bool:
        raise InputError(
            f"Image labels of shape {tuple(is_positive_B.shape)} and {is_positive_B.dtype} were given; "
            f"{(num_images,)} and torch.bool were expected: True where the image shows tumour."
        )
