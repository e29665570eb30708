"""Augmentation of batches: flips, right-angle turns, stain jitter; a function of the images and a generator alone.

Tissue has no up or left, so the eight symmetries of the square are all as likely as each other. Whole batches go through
on whatever device they lie; what is drawn comes from the given generator, one draw for each image.

Shapes: B images, C = 3 channels, H rows, W columns.

Does not know: datasets, labels, networks.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from counterstain.errors import InputError
from counterstain.stain import jitter_hed

_TURNS = 4


@dataclass(frozen=True)
class AugmentSettings:
    """What is varied.

    Args:
        flip: Half of the images are mirrored left to right and half upside down, independently.
        turn: Images are turned by 0, 90, 180 or 270 degrees; they must be square.
        stain_sigma: Strength of the stain jitter, as `jitter_hed` takes it: 0 for none, 0.05 is light, 0.2 strong.
    """

    flip: bool = True
    turn: bool = True
    stain_sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.stain_sigma < 0:
            raise InputError(f"A stain_sigma of {self.stain_sigma} was given; it must be 0 or more.")


class Augment:
    """Varies images as `AugmentSettings` says.

    Args:
        settings: What is varied.
    """

    def __init__(self, settings: AugmentSettings | None = None) -> None:
        self._settings = settings or AugmentSettings()

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The same images, seen otherwise.

        Args:
            images: (B, 3, H, W) or (3, H, W); uint8, or floats in [0, 1].
            generator: Where chance comes from, on the CPU; None takes torch's global one.

        Returns:
            The same shape, type and device.

        Raises:
            InputError: When images that are not square are to be turned.
        """
        if images.ndim == 3:
            return self(images[None], generator)[0]
        settings = self._settings
        if settings.turn and images.shape[2] != images.shape[3]:
            raise InputError(
                f"Images of {images.shape[3]} x {images.shape[2]} px can't be turned by right angles within one batch. "
                "Use square patches, or set turn = false."
            )
        images = _moved(images, _draw_moves(images.shape[0], settings, generator))
        return _stained(images, settings.stain_sigma, generator) if settings.stain_sigma else images


def augment_alike(
    images_BCHW: Tensor, maps_BSHW: Tensor, settings: AugmentSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images and what belongs to their pixels, moved alike; the images' stain is changed after that.

    Args:
        images_BCHW: float in [0, 1].
        maps_BSHW: float, of the same height and width.
        settings: What is varied.
        generator: Where chance comes from, on the CPU.
    """
    num_channels = images_BCHW.shape[1]
    moved = Augment(replace(settings, stain_sigma=0.0))(torch.cat([images_BCHW, maps_BSHW], dim=1), generator)
    images_BCHW = moved[:, :num_channels]
    if settings.stain_sigma:
        images_BCHW = jitter_hed(images_BCHW, generator, settings.stain_sigma)
    return images_BCHW, moved[:, num_channels:]


def _draw_moves(number: int, settings: AugmentSettings, generator: torch.Generator | None) -> Tensor:
    """(B, 3) int64: quarter turns, mirrored left to right, upside down. Drawn alike whatever is switched on."""
    moves_B3 = torch.stack(
        [torch.randint(high, (number,), generator=generator) for high in (_TURNS, 2, 2)],
        dim=1,
    )
    return moves_B3 * torch.tensor([settings.turn, settings.flip, settings.flip])


def _moved(images_BCHW: Tensor, moves_B3: Tensor) -> Tensor:
    moved_BCHW = torch.empty_like(images_BCHW)
    for move in torch.unique(moves_B3, dim=0).tolist():
        turns, mirrored, upside_down = move
        # numbers, not flags, which a device is waited for to count
        chosen = (moves_B3 == torch.tensor(move)).all(dim=1).nonzero()[:, 0]
        chosen = chosen.to(images_BCHW.device, non_blocking=True)
        part = torch.rot90(images_BCHW[chosen], turns, dims=(2, 3))
        axes = [axis for axis, is_on in ((3, mirrored), (2, upside_down)) if is_on]
        moved_BCHW[chosen] = torch.flip(part, axes) if axes else part
    return moved_BCHW


def _stained(images_BCHW: Tensor, sigma: float, generator: torch.Generator | None) -> Tensor:
    if images_BCHW.dtype != torch.uint8:
        return jitter_hed(images_BCHW, generator, sigma)
    jittered_BCHW = jitter_hed(images_BCHW.float() / 255, generator, sigma)
    return (jittered_BCHW * 255).round().clamp(0, 255).to(torch.uint8)
