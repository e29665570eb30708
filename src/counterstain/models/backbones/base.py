"""What every backbone is: images in, four feature maps out, from shallow to deep.

Shapes: B images, C channels, H rows, W columns. `channels[i]` and `strides[i]` describe tap i, and hold at any image size:
a tap of stride s has ceil(H / s) rows and ceil(W / s) columns. Images come as RGB in [0, 1]; the backbone normalises
them itself, with the mean and deviation that its weights were trained with.

Does not know: heads, classes, training.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from counterstain.errors import InputError

Channels3 = tuple[float, float, float]
Taps = tuple[Tensor, Tensor, Tensor, Tensor]
Four = tuple[int, int, int, int]

IMAGENET_MEAN: Channels3 = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels3 = (0.229, 0.224, 0.225)


class Backbone(nn.Module, ABC):
    """A network that gives four feature maps.

    Args:
        mean: Of each of R, G, B in [0, 1], taken off.
        std: Of each, divided by.
    """

    spare_weights: tuple[str, ...] = ()
    """Prefixes of what published files hold and this network has no place for: a classifier, stages past the last tap."""

    channels: Four
    """Of each tap, shallow to deep."""

    strides: Four
    """Of each tap: pixels of the image for each cell of the map. They never shrink."""

    _mean_1C11: Tensor
    _std_1C11: Tensor

    def __init__(self, mean: Channels3 = IMAGENET_MEAN, std: Channels3 = IMAGENET_STD) -> None:
        super().__init__()
        self.input_mean, self.input_std = mean, std
        # not persistent: state dicts keep exactly the published names
        self.register_buffer("_mean_1C11", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std_1C11", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self._still: list[nn.Module] = []

    def normalise(self, images_BCHW: Tensor) -> Tensor:
        """Images with the mean taken off, divided by the deviation.

        Args:
            images_BCHW: (B, 3, H, W) float, RGB in [0, 1].

        Raises:
            InputError: When they are no floats: 0 to 255 would pass for a very bright image.
        """
        if not images_BCHW.is_floating_point():
            raise InputError(
                f"Images were given as {images_BCHW.dtype}; floats in [0, 1] were expected. Divide by 255."
            )
        return (images_BCHW - self._mean_1C11) / self._std_1C11

    def forward(self, images_BCHW: Tensor) -> Taps:
        """Four feature maps of images.

        Args:
            images_BCHW: (B, 3, H, W) float, RGB in [0, 1], of any height and width.

        Returns:
            (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])) for each tap i.
        """
        return self.taps(self.normalise(images_BCHW))

    @abstractmethod
    def taps(self, inputs_BCHW: Tensor) -> Taps:
        """Four feature maps of normalised images."""

    def trunk(self, inputs_BCHW: Tensor) -> Taps:
        """The feature maps that the deepest one is computed from, where a gradient of it can be taken.

        They are the taps, except where a tap is a copy that leads nowhere: a rectified one of a signed sum that goes on
        as it is. The deepest one always is the tap.
        """
        return self.taps(inputs_BCHW)

    def drop_deepest(self) -> None:
        """Leaves out what only the deepest tap needs; afterwards the third tap stands for it, as channels and strides say.

        For networks that look at three depths. A file's tensors of what was left out are spare.

        Raises:
            InputError: When this backbone can't be shortened.
        """
        raise InputError(f"{type(self).__name__} was to be built without its deepest stage, which it can't be.")

    def _without_deepest(self, *dropped: str) -> None:
        """Says what holds once the modules of these prefixes are gone."""
        self.spare_weights = (*self.spare_weights, *dropped)
        first, second, third, _ = self.channels
        self.channels = (first, second, third, third)
        first, second, third, _ = self.strides
        self.strides = (first, second, third, third)

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published file's tensors under this network's names.

        Args:
            state: Names to tensors as they stand in the file.

        Raises:
            WeightsError: When they are of a kind that this network was not built for.
        """
        return dict(state)

    def fresh_weights(self, state: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Prefixes of what this network has and a published file of this kind lacks: it stays as it was built.

        Args:
            state: Names to tensors as they stand in the file.
        """
        return ()

    def freeze(self, modules: Iterable[nn.Module]) -> None:
        """Keeps modules as they are: their parameters are not trained, their norms use and keep their statistics."""
        for module in modules:
            module.requires_grad_(False)
            self._still.append(module)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switches to training, frozen modules excepted."""
        super().train(mode)
        for module in self._still:
            module.eval()
        return self


def norms_of(module: nn.Module) -> list[nn.Module]:
    """Every batch norm in a module."""
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
