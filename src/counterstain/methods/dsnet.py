"""DSNet: a slide's diagnosis from two streams, embeddings of its cells and thumbnails of the whole of it.

    V, embeddings of cells -> concurrent bottlenecks, sparse -+
                                                              +-> adaptive aggregation -> 1x1 -> pooling -> two logits
    T, thumbnails stacked  -> multi-scale blocks             -+

The network stands in models/dsnet.py; here are its settings by name and how it learns.

Does not know: slides, encoders, folds.

Source: DSNet (IEEE TMI 2022, arXiv 2109.05788), sections III and IV.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from counterstain.methods.slide_config import SlideConfig
from counterstain.methods.slide_method import SlideMethod
from counterstain.models.dsnet import DSNet as Network
from counterstain.models.dsnet import DSNetArchitecture
from counterstain.models.slide_network import SlideNetwork
from counterstain.training import TrainSettings


@dataclass(frozen=True)
class DSNetConfig(SlideConfig, DSNetArchitecture):
    """The network's settings, then those of learning."""

    def __post_init__(self) -> None:
        SlideConfig.__post_init__(self)
        DSNetArchitecture.__post_init__(self)


class DSNet(SlideMethod):
    """Dual-stream network: local embeddings and multi-scale thumbnails, weighed against each other for every slide."""

    name: ClassVar[str] = "dsnet"
    revision: ClassVar[int] = 2  # in the first, one cell head shared the whole network's loss
    config_type: ClassVar[type[DSNetConfig]] = DSNetConfig
    presets: ClassVar[Mapping[str, DSNetConfig]] = {
        "paper": DSNetConfig(propagation="uhrig"),
        "short": DSNetConfig(
            learning_rate=1e-3,
            warmup_epochs=2,
            schedule="cosine",
            select="last",
            hide_cells=0.5,
            cell_heads=8,
            evidence_kind="cells",
        ),
    }
    training: ClassVar[Mapping[str, TrainSettings]] = {
        "paper": TrainSettings(epochs=200, batch_size=8, seed=0),
        "short": TrainSettings(epochs=40, batch_size=8, seed=0),
    }

    @classmethod
    def build_network(cls, config: Any, num_features: int) -> SlideNetwork:
        return Network(num_features, config)
