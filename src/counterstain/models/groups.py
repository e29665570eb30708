"""Parameters of a network around a backbone, sorted by how they are to be trained.

Does not know: learning rates, optimisers.
"""

from torch import nn

from counterstain.models.backbones import Backbone
from counterstain.models.sshr import ParameterGroups


def groups_around(network: nn.Module, backbone: Backbone) -> ParameterGroups:
    """All parameters of a network: its backbone's, and the rest as new.

    Args:
        network: Holds the backbone.
        backbone: The part that may have pretrained values.
    """
    known = {id(parameter) for parameter in backbone.parameters()}
    named = list(network.named_parameters())

    def pick(is_new: bool, is_bias: bool) -> tuple[nn.Parameter, ...]:
        return tuple(
            parameter
            for name, parameter in named
            if (id(parameter) not in known) == is_new and name.endswith("bias") == is_bias
        )

    return ParameterGroups(pick(False, False), pick(False, True), pick(True, False), pick(True, True))
