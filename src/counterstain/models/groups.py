"""Parameters of a network, sorted by how they are to be trained.

Does not know: learning rates, optimisers.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from counterstain.models.backbones import Backbone


@dataclass(frozen=True)
class ParameterGroups:
    """All parameters of a network, frozen ones too, by how they are to be trained.

    Args:
        weights: Of the backbone: everything but biases, norms' factors too.
        biases: Of the backbone, norms' shifts too.
        new_weights: What never has pretrained values: heads, pyramids, rectification with its scales.
        new_biases: Likewise.
    """

    weights: tuple[nn.Parameter, ...]
    biases: tuple[nn.Parameter, ...]
    new_weights: tuple[nn.Parameter, ...]
    new_biases: tuple[nn.Parameter, ...]


def groups_of(network: nn.Module, is_new: Callable[[str, nn.Parameter], bool]) -> ParameterGroups:
    """All parameters of a network.

    Args:
        network: Whose.
        is_new: Whether a parameter, given with its name, never has pretrained values.
    """
    named = [
        (parameter, is_new(name, parameter), name.endswith("bias")) for name, parameter in network.named_parameters()
    ]

    def pick(*wanted: bool) -> tuple[nn.Parameter, ...]:
        return tuple(parameter for parameter, *kind in named if tuple(kind) == wanted)

    return ParameterGroups(pick(False, False), pick(False, True), pick(True, False), pick(True, True))


def groups_around(network: nn.Module, backbone: Backbone) -> ParameterGroups:
    """All parameters of a network: its backbone's, and the rest as new.

    Args:
        network: Holds the backbone.
        backbone: The part that may have pretrained values.
    """
    known = {id(parameter) for parameter in backbone.parameters()}
    return groups_of(network, lambda _, parameter: id(parameter) not in known)
