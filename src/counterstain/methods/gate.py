"""The gate: above which presence a class may be shown, given or chosen on the validation split.

The validation split's masks are read for this alone, its labels where it has no masks, and no other split's.

Does not know: networks; it is handed a function that judges images.

B batch, C classes, H W rows and columns.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from counterstain.data.weak import WeakPatches, WeakSettings
from counterstain.errors import InputError
from counterstain.methods.thresholds import ValidationScores, choose_thresholds, choose_thresholds_by_labels
from counterstain.methods.validation import truth_windows
from counterstain.training import TrainSettings

if TYPE_CHECKING:
    from counterstain.data import PatchDataset

_VAL_STRIDE_PX = 4
_AT_ONCE = 16  # images judged together

Thresholds = float | tuple[float, ...] | Literal["val"]
"""One for all classes, one for each, or chosen on the validation split."""

Judge = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From images (B, 3, H, W) in [0, 1]: scores (B, C, H, W), whose order within a pixel matters, and presence (B, C)."""

JudgePresence = Callable[[Tensor], Tensor]
"""From images (B, 3, H, W) in [0, 1]: presence (B, C)."""


def first_thresholds(given: Thresholds, num_classes: int) -> tuple[float, ...]:
    """One threshold for each class; a half where they are still to be chosen.

    Raises:
        InputError: When they are not as many as classes, or not in [0, 1].
    """
    if given == "val":
        return (0.5,) * num_classes
    thresholds = tuple(given) if isinstance(given, (tuple, list)) else (float(given),) * num_classes
    if len(thresholds) != num_classes or not all(0 <= value <= 1 for value in thresholds):
        raise InputError(f"Setting 'presence_thresholds' was given as {given}; one, or {num_classes}, from 0 to 1 fit.")
    return thresholds


def check_validation(data: "PatchDataset", settings: TrainSettings, thresholds: Thresholds) -> None:
    """Refuses before training what would fail after it.

    Raises:
        InputError: When the validation split lacks what thresholds or early stopping need.
    """
    has_masks = bool(data.val) and all(record.has_truth for record in data.val)
    has_labels = bool(data.val) and all(record.label is not None for record in data.val)
    if thresholds == "val" and not (has_masks or has_labels):
        raise InputError(
            f"Presence thresholds are to be chosen on the validation split, and that of {data.name!r} has neither "
            "masks nor labels for all its images. Add them, or pass --presence-thresholds 0.5."
        )
    if settings.patience is not None and not has_labels:
        raise InputError(
            f"Early stopping looks at the loss of the validation split, and that of {data.name!r} has no labels. "
            "Add them, or leave --patience out."
        )


def label_loader(data: "PatchDataset", tile_px: int, batch_size: int = _AT_ONCE) -> "DataLoader[Any]":
    """Validation images with their labels, in order."""
    return DataLoader(WeakPatches(data.val, WeakSettings(patch_px=tile_px)), batch_size=batch_size)


@torch.inference_mode()
def choose_on_validation(
    data: "PatchDataset", tile_px: int, judge: Judge, presence: JudgePresence, device: torch.device
) -> tuple[float, ...]:
    """One threshold for each class: by masks where the validation split has them for all images, else by its labels.

    Args:
        data: Its validation split is read.
        tile_px: Width and height of the windows that are judged.
        judge: Asked where there are masks.
        presence: Asked where there are labels alone, for which maps would be made in vain.
        device: Where images are put before they are judged.

    Raises:
        InputError: When there is no validation split.
    """
    if all(record.has_truth for record in data.val):
        return choose_thresholds(validation_scores(data, tile_px, judge, device))
    found = [
        (presence(images_BCHW.to(device).float() / 255).cpu(), labels_BC)
        for images_BCHW, labels_BC in label_loader(data, tile_px)
    ]
    presence_NC, labels_NC = (torch.cat(parts) for parts in zip(*found, strict=True))
    return choose_thresholds_by_labels(presence_NC, labels_NC)


@torch.inference_mode()
def validation_scores(data: "PatchDataset", tile_px: int, judge: Judge, device: torch.device) -> ValidationScores:
    """What a model says of the validation split's windows, with their truth.

    Args:
        data: As for `choose_on_validation`.
        tile_px: Likewise.
        judge: Likewise.
        device: Likewise.

    Raises:
        InputError: When there is no validation split.
    """
    return ValidationScores.joined(
        [
            window_scores(*judge(images_BCHW.to(device)), truth_BHW)
            for images_BCHW, truth_BHW in truth_windows(data, tile_px)
        ]
    )


def window_scores(scores_BCHW: Tensor, presence_BC: Tensor, truth_BHW: Tensor) -> ValidationScores:
    """What thresholds are chosen on, of a batch of windows: every fourth pixel of every fourth row.

    Args:
        scores_BCHW: float, on any device; only their order within a pixel matters.
        presence_BC: In [0, 1], on any device.
        truth_BHW: uint8 class indices, `UNCOVERED` where not scored.
    """
    step = slice(_VAL_STRIDE_PX // 2, None, _VAL_STRIDE_PX)
    scores_BChw = scores_BCHW[:, :, step, step].half().cpu()
    return ValidationScores.of(scores_BChw, presence_BC.cpu(), truth_BHW[:, step, step])
