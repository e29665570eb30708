"""VGG16 (Simonyan & Zisserman, arXiv 1409.1556) up to its fourth pooling, with torchvision's names.

The taps are the maps after the poolings of stages 1 to 4, at strides 2, 4, 8 and 16. Poolings keep an odd last row and
column. With attention, each of the first three stages passes criss-cross attention before its pooling.

Shapes: B images, C channels, H rows, W columns.
Does not know: heads, classes.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from counterstain.errors import InputError, WeightsError
from counterstain.models.backbones.base import Backbone, Taps
from counterstain.models.criss_cross import CrissCrossAttention

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))  # arXiv 1409.1556, table 1, column D
_DEEPER = 3  # convolutions of the fifth stage, past the last tap
_ROUNDS = 2  # of attention, arXiv 1811.11721: after two every cell has heard from every other one


def _layers(batch_norm: bool) -> list[nn.Module]:
    """The four stages one after the other, as torchvision numbers them."""
    layers: list[nn.Module] = []
    given = 3
    for widths in _STAGES:
        for width in widths:
            norm = [nn.BatchNorm2d(width)] if batch_norm else []
            layers += [nn.Conv2d(given, width, 3, padding=1), *norm, nn.ReLU(inplace=True)]
            given = width
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return layers


def _conv_places(batch_norm: bool) -> list[int]:
    """Where torchvision's `features` has its 13 convolutions."""
    places, place = [], 0
    for num_convs in (*map(len, _STAGES), _DEEPER):
        for _ in range(num_convs):
            places.append(place)
            place += 3 if batch_norm else 2
        place += 1
    return places


def _is_without_norms(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors are numbered as those of a VGG16 without batch norms."""
    numbered = {name.split(".")[1] for name in state if name.startswith("features.")}
    return bool(numbered) and numbered <= {str(place) for place in _conv_places(False)}


class VGG16(Backbone):
    """VGG16 with or without batch norms.

    Args:
        batch_norm: Whether each convolution has a norm. Files of both forms fill it; one without norms leaves them fresh.
        attention: Whether criss-cross attention stands before the first three poolings.
        legacy_softmax: Of the attention, as in `CrissCrossAttention`.

    Raises:
        InputError: When a softmax is chosen for an attention that is not there.

    Source: arXiv 1409.1556; convolutions of the form without norms under fresh norms, and attention before the pooling, as
        in the released code of fusion knowledge distillation and of SA-MIL.
    """

    def __init__(self, batch_norm: bool = True, attention: bool = False, legacy_softmax: bool = False) -> None:
        super().__init__()
        if legacy_softmax and not attention:
            raise InputError(
                "legacy_softmax=True was given without attention, whose softmax it changes; attention=True was expected "
                "beside it. Give both, or neither."
            )
        self.batch_norm = batch_norm
        self.features = nn.Sequential(*_layers(batch_norm))
        end = _conv_places(batch_norm)[-1] + 2
        self.spare_weights = ("classifier.", *(f"features.{place}." for place in range(len(self.features), end)))
        self.channels, self.strides = (64, 128, 256, 512), (2, 4, 8, 16)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        attended = self.channels[:3] if attention else ()
        self.attention = nn.ModuleList(CrissCrossAttention(width, 8, legacy_softmax) for width in attended)

    def taps(self, inputs_BCHW: Tensor) -> Taps:
        x_BCHW, found = inputs_BCHW, []
        attention = iter(self.attention)
        for layer in self.features:
            is_end = isinstance(layer, nn.MaxPool2d)
            for block in [next(attention, nn.Identity())] * _ROUNDS if is_end else ():
                x_BCHW = block(x_BCHW)
            x_BCHW = layer(x_BCHW)
            if is_end:
                found.append(x_BCHW)
        first, second, third = found[:3]
        return first, second, third, found[-1]

    def drop_deepest(self) -> None:
        layers = list(self.features)
        end = [place for place, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)][2] + 1
        self.features = nn.Sequential(*layers[:end])
        self._without_deepest(*(f"features.{place}." for place in range(end, len(layers))))

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published file's tensors under torchvision's names; convolutions without norms move to where norms leave them.

        Raises:
            WeightsError: When they have norms and this network has none.
        """
        if not self.batch_norm and any(name.endswith("running_mean") for name in state):
            raise WeightsError(
                "Weights with batch norms were given to a VGG16 without them. Build it with batch_norm=True."
            )
        if not self.batch_norm or not _is_without_norms(state):
            return dict(state)
        moved = {
            f"features.{old}.": f"features.{new}."
            for old, new in zip(_conv_places(False), _conv_places(True), strict=True)
        }
        parts = {name: name.rpartition(".") for name in state}
        return {moved.get(f"{place}.", f"{place}.") + kind: state[name] for name, (place, _, kind) in parts.items()}

    def fresh_weights(self, state: Mapping[str, Tensor]) -> tuple[str, ...]:
        norms = [place for place, layer in enumerate(self.features) if isinstance(layer, nn.BatchNorm2d)]
        fresh = tuple(f"features.{place}." for place in norms) if _is_without_norms(state) else ()
        has_attention = any(name.startswith("attention.") for name in state)
        return fresh if has_attention else (*fresh, "attention.")
