"""What DSNet is compared with, on the same slides, folds and embeddings: bags of cells, and plain images.

`mean_pool`, `abmil`, `clam` and `transmil` see the cells' embeddings and nothing of where they are (TransMIL little);
`thumbnail` sees the smallest picture of the slide and no embedding, the naive baseline of DSNet; `nic` sees the grid
of embeddings as a picture, with no notion of what was not observed.

All of them learn alike: the settings of `SlideConfig`, no more augmentation than DSNet has.

Does not know: slides, encoders, folds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from counterstain.data.encoded import SlideSet
from counterstain.methods.slide_config import SlideConfig
from counterstain.methods.slide_method import SlideMethod
from counterstain.models import bags, slide_resnet, transmil
from counterstain.models.slide_network import SlideNetwork
from counterstain.training import TrainSettings

_LEARNING: dict[str, Any] = {"learning_rate": 1e-3, "warmup_epochs": 2, "schedule": "cosine", "select": "last"}
_SLOWER = {**_LEARNING, "learning_rate": 3e-4}
_SHORT = TrainSettings(epochs=40, batch_size=8, seed=0)
_LONG = TrainSettings(epochs=200, batch_size=8, seed=0)
_TRAINING: dict[str, TrainSettings] = {"paper": _LONG, "short": _SHORT}


@dataclass(frozen=True)
class MeanPoolConfig(SlideConfig, bags.PoolingSettings):
    """How cells are pooled, then the settings of learning."""

    def __post_init__(self) -> None:
        SlideConfig.__post_init__(self)
        bags.PoolingSettings.__post_init__(self)


class MeanPool(SlideMethod):
    """A linear classifier of the mean embedding, or of the most positive cell."""

    name: ClassVar[str] = "mean_pool"
    config_type: ClassVar[type[MeanPoolConfig]] = MeanPoolConfig
    presets: ClassVar[Mapping[str, MeanPoolConfig]] = {"paper": MeanPoolConfig(), "short": MeanPoolConfig(**_LEARNING)}
    training: ClassVar[Mapping[str, TrainSettings]] = _TRAINING

    @classmethod
    def build_network(cls, config: Any, num_features: int) -> SlideNetwork:
        return bags.PoolingNetwork(num_features, config)


@dataclass(frozen=True)
class ABMILConfig(SlideConfig, bags.ABMILSettings):
    """The network's sizes, then the settings of learning."""


class ABMIL(SlideMethod):
    """Attention-based multiple instance learning, gated (Ilse et al. 2018)."""

    name: ClassVar[str] = "abmil"
    config_type: ClassVar[type[ABMILConfig]] = ABMILConfig
    presets: ClassVar[Mapping[str, ABMILConfig]] = {
        "paper": ABMILConfig(),
        "short": ABMILConfig(**_SLOWER),
    }
    training: ClassVar[Mapping[str, TrainSettings]] = _TRAINING

    @classmethod
    def build_network(cls, config: Any, num_features: int) -> SlideNetwork:
        return bags.ABMIL(num_features, config)


@dataclass(frozen=True)
class CLAMConfig(SlideConfig, bags.CLAMSettings):
    """The network's sizes and its clustering, then the settings of learning."""


class CLAM(SlideMethod):
    """Clustering-constrained attention (Lu et al. 2021), one branch of attention or one for each class."""

    name: ClassVar[str] = "clam"
    config_type: ClassVar[type[CLAMConfig]] = CLAMConfig
    presets: ClassVar[Mapping[str, CLAMConfig]] = {
        "paper": CLAMConfig(),
        "short": CLAMConfig(**_SLOWER),
    }
    training: ClassVar[Mapping[str, TrainSettings]] = _TRAINING

    @classmethod
    def build_network(cls, config: Any, num_features: int) -> SlideNetwork:
        return bags.CLAM(num_features, config)


@dataclass(frozen=True)
class TransMILConfig(SlideConfig, transmil.TransMILSettings):
    """The network's sizes, then the settings of learning."""


class TransMIL(SlideMethod):
    """Transformer over a slide's cells (Shao et al. 2021)."""

    name: ClassVar[str] = "transmil"
    config_type: ClassVar[type[TransMILConfig]] = TransMILConfig
    presets: ClassVar[Mapping[str, TransMILConfig]] = {
        "paper": TransMILConfig(),
        "short": TransMILConfig(**_SLOWER),
        "small": TransMILConfig(width=128, heads=4, landmarks=64, **_SLOWER),
    }
    training: ClassVar[Mapping[str, TrainSettings]] = {**_TRAINING, "small": _SHORT}

    @classmethod
    def build_network(cls, config: Any, num_features: int) -> SlideNetwork:
        return transmil.TransMIL(num_features, config)


@dataclass(frozen=True)
class ThumbnailConfig(SlideConfig, slide_resnet.ThumbnailResNetSettings):
    """What looks at thumbnails, then the settings of learning.

    Args:
        weights: A file of ImageNet weights for the backbone; None starts at random.
    """

    weights: Path | None = None


class Thumbnail(SlideMethod):
    """A ResNet on the thumbnail alone: the naive baseline of DSNet's paper."""

    name: ClassVar[str] = "thumbnail"
    config_type: ClassVar[type[ThumbnailConfig]] = ThumbnailConfig
    presets: ClassVar[Mapping[str, ThumbnailConfig]] = {
        "paper": ThumbnailConfig(),
        "short": ThumbnailConfig(**_SLOWER),
        "small": ThumbnailConfig(backbone="resnet18", thumbnail_px=128, **_SLOWER),
    }
    training: ClassVar[Mapping[str, TrainSettings]] = {**_TRAINING, "small": _SHORT}

    @classmethod
    def build_network(cls, config: Any, num_features: int) -> SlideNetwork:
        return slide_resnet.ThumbnailResNet(config)

    @classmethod
    def create(cls, config: Any, slides: SlideSet, seed: int) -> Self:
        method = super().create(config, slides, seed)
        if config.weights is not None:
            assert isinstance(method.network, slide_resnet.ThumbnailResNet)
            audit = method.network.start_from(config.weights)
            method.pretrained = {"weights_digest": audit.digest}
        return method


@dataclass(frozen=True)
class CompressedConfig(SlideConfig, slide_resnet.CompressedResNetSettings):
    """What looks at grids of embeddings, then the settings of learning."""


class Compressed(SlideMethod):
    """Neural image compression (Tellez et al. 2019): a plain ResNet over the grid of embeddings."""

    name: ClassVar[str] = "nic"
    config_type: ClassVar[type[CompressedConfig]] = CompressedConfig
    presets: ClassVar[Mapping[str, CompressedConfig]] = {
        "paper": CompressedConfig(),
        "short": CompressedConfig(**_SLOWER),
        "small": CompressedConfig(backbone="resnet18", grid_cells=64, **_SLOWER),
    }
    training: ClassVar[Mapping[str, TrainSettings]] = {**_TRAINING, "small": _SHORT}

    @classmethod
    def build_network(cls, config: Any, num_features: int) -> SlideNetwork:
        return slide_resnet.CompressedResNet(num_features, config)
