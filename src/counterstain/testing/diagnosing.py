"""A slide method whose answers can be worked out by hand, for the slides of `testing/encoding.py`.

Does not know: what is being checked.
"""

import torch

from counterstain.methods import MeanPool
from counterstain.methods.slide_baselines import MeanPoolConfig
from counterstain.methods.slide_decision import Decision
from counterstain.methods.slide_method import Seen
from counterstain.models.slide_network import SlideNetwork
from counterstain.results import EncoderSpec
from counterstain.testing.encoding import CELL_UM
from counterstain.testing.evidence import DIAGNOSIS

CALIBRATED = Decision(temperature=2.0, threshold=0.5, error=0.1, reach=(0.6, 0.6), counts=(20, 20))


def linear_method(encoder: EncoderSpec, decision: Decision = CALIBRATED, cell_um: float = CELL_UM) -> MeanPool:
    """A mean over cells whose logits are 0, and 3 less four times the first channel: little red speaks for tumour."""
    config = MeanPoolConfig()
    network: SlideNetwork = MeanPool.build_network(config, encoder.num_features)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.zero_()
        network.head.weight[1, 0], network.head.bias[1] = -4.0, 3.0  # type: ignore[union-attr,operator]
    return MeanPool(config, DIAGNOSIS, Seen(encoder, cell_um), network, decision)
