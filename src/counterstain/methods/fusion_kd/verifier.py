"""An independent judge of small cells, learned from image labels alone: it has never seen a map, a pseudo mask or a mask.

An image is cut into cells of about 16 um. Each is described by its stains and its texture, and by a frozen backbone's
features where one is given. Every cell of a negative image is normal; of a positive image at first every cell counts as
tumour, then only the share that scores highest, chosen anew a few times. What is learned is one linear function, so that
its mistakes are of another kind than a segmenter's.

    training images and labels -> fit_verifier -> Verifier -> judge(held-out images) -> Cells

Does not know: segmenters, maps, masks, how cells are compared with maps.

B images, C channels, H W rows and columns, g g rows and columns of cells, F features, M cells of many images.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from counterstain import log, stain
from counterstain.data.weak import WeakPatches
from counterstain.errors import InputError
from counterstain.methods.fusion_kd.seen import HeldOut, batches, judging

if TYPE_CHECKING:
    from counterstain.models.backbones import Backbone

_Floats = npt.NDArray[np.float32]

_GLASS_LEAST = 200 / 255  # in every channel: what is darker is no glass
_GLASS_TINT = 22 / 255  # between the largest and the smallest channel of glass
_CELL_UM = 16.0
_FLAT = 1e-6  # deviations below belong to features that never change
_BLURS_PX = (4, 8)  # of stains, whose deviation is texture of the size of nuclei and of their crowds
_STRONG = (0.15, 0.3, 0.45, 0.6)  # amounts of haematoxylin, by which pale and dark nuclei differ


@dataclass(frozen=True)
class VerifierSettings:
    """How the verifier learns.

    Args:
        cell_px: Width and height of a cell, about: an image is cut into a whole number of equal ones.
        top_share: Of a positive image's tissue cells, how many count as tumour; at least one does.
        num_rounds: How often they are chosen anew.
        max_images: Of either kind that are looked at, drawn at random.
        max_cells: Of either kind that are learned from, drawn at random from each image alike.
        strength: Inverse of the penalty on weights; small, as cells' labels are noisy.
        seed: Of the draw.

    Raises:
        InputError: When a value is outside its range.

    Source: ours, after multiple instance learning by chosen instances: mi-SVM (Andrews et al. 2002), CAMEL's cMIL
        (arXiv 1908.10555). Features, share and strength were the best of thirty combinations on one synthetic set of
        160 patches with known masks, at 1 um/px: AUROC 0.81 among the cells of positives.
    """

    cell_px: int = 32
    top_share: float = 0.15
    num_rounds: int = 4
    max_images: int = 400
    max_cells: int = 20_000
    strength: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        least = min(self.max_images, self.max_cells)
        if not (self.cell_px >= 4 and 0 < self.top_share <= 1 and self.num_rounds >= 0 and least >= 1):
            raise InputError(
                f"A verifier of {self.cell_px} px cells, top share {self.top_share}, {self.num_rounds} rounds, "
                f"{self.max_images} images and {self.max_cells} cells was given; expected 4 px or more, (0, 1], 0 or more, "
                "and 1 or more of both."
            )
        if not self.strength > 0:
            raise InputError(f"A strength of {self.strength} was given; above 0 was expected.")

    @classmethod
    def at(cls, mpp: float | None) -> Self:
        """With cells of about 16 um, of 16 to 64 px; of 32 px where the resolution is not known.

        Args:
            mpp: um/px of the images as they are looked at.
        """
        return cls() if mpp is None else cls(cell_px=min(64, max(16, round(_CELL_UM / mpp))))


@dataclass(frozen=True)
class Cells:
    """What the verifier says of the held-out images.

    Args:
        tumour_Ngg: (N, g, g) float32 in [0, 1], how likely each cell holds tumour.
        is_tissue_Ngg: Likewise bool, whether most of it is tissue.
    """

    tumour_Ngg: _Floats
    is_tissue_Ngg: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Verifier:
    """A linear judge of cells.

    Args:
        settings: Its cells.
        center_F: Taken off features.
        scale_F: Features are divided by it.
        weight_F: Of standardised features.
        bias: Added.
        backbone: Where further features come from; None for stains and texture alone.
    """

    settings: VerifierSettings
    center_F: _Floats
    scale_F: _Floats
    weight_F: _Floats
    bias: float
    backbone: "Backbone | None" = None

    def cells(self, images_BCHW: Tensor) -> Tensor:
        """How likely each cell holds tumour.

        Args:
            images_BCHW: float32 RGB in [0, 1], on the backbone's device where there is one.

        Returns:
            (B, g, g) float32 in [0, 1].
        """
        features_BggF = cell_features(images_BCHW, self.settings.cell_px, self.backbone)
        center, scale, weight = (
            torch.from_numpy(values).to(features_BggF) for values in (self.center_F, self.scale_F, self.weight_F)
        )
        return (((features_BggF - center) / scale) @ weight + self.bias).sigmoid()

    def judge(self, held: HeldOut) -> Cells:
        """What it says of the held-out images; once a run is enough, for it does not change."""
        tumour, is_tissue = [], []
        with _ready(self.backbone) as device, log.progress("Verifying cells", len(held), "images") as counter:
            for images_BCHW in batches(held.patches):
                tumour.append(self.cells(images_BCHW.to(device)).cpu().numpy())
                is_tissue.append((tissue_share(images_BCHW, self.settings.cell_px) >= 0.5).numpy())
                counter.advance(len(images_BCHW))
        return Cells(np.concatenate(tumour), np.concatenate(is_tissue))


def fit_verifier(
    train: WeakPatches,
    positive_index: int,
    settings: VerifierSettings | None = None,
    backbone: "Backbone | None" = None,
) -> Verifier:
    """Learns to tell cells of tumour from image labels.

    Args:
        train: Images and labels of the training split.
        positive_index: The tumour's place in a label.
        settings: How it learns.
        backbone: Pretrained, and left as it is; None for stains and texture alone.

    Raises:
        InputError: When positives or negatives with tissue are missing.
    """
    settings = settings or VerifierSettings()
    is_positive_N = train.labels[:, positive_index].numpy() > 0
    normal = _described(train, _sample(~is_positive_N, settings), settings, backbone)
    positive = _described(train, _sample(is_positive_N, settings), settings, backbone)
    if not normal or not positive:
        raise InputError(
            f"{len(positive)} positive and {len(normal)} negative training images with tissue were given; the verifier "
            "needs both. Check the training split's labels."
        )
    normal_MF = np.concatenate(normal)
    everything_MF = np.concatenate([normal_MF, *positive])
    center_F, scale_F = everything_MF.mean(0), everything_MF.std(0)
    scale_F[scale_F < _FLAT] = 1
    normal_MF = (normal_MF - center_F) / scale_F
    weight_F, bias = _learn(normal_MF, [(cells - center_F) / scale_F for cells in positive], settings)
    return Verifier(settings, center_F, scale_F, weight_F, bias, backbone)


def cell_features(images_BCHW: Tensor, cell_px: int, backbone: "Backbone | None" = None) -> Tensor:
    """Describes cells: 15 numbers of stain and texture, then the backbone's third tap.

    They are the mean and the deviation of three stains, the mean gradient, the deviation of haematoxylin and eosin blurred
    over squares of 4 and of 8 px, and the share of pixels with at least so much haematoxylin, for four amounts.

    Args:
        images_BCHW: float32 RGB in [0, 1].
        cell_px: About, as `VerifierSettings` has it.
        backbone: On the images' device, in evaluation mode.

    Returns:
        (B, g, g, F) float32, F = 15 without a backbone.
    """
    size = _grid(images_BCHW, cell_px)
    stains_BCHW = stain.separate(images_BCHW)
    gray_B1HW = images_BCHW.mean(1, keepdim=True)
    # absolute, not squared: one edge between two tissues would pass for texture all over
    down_B1HW = F.pad(gray_B1HW.diff(dim=2), (0, 0, 0, 1)).abs()
    right_B1HW = F.pad(gray_B1HW.diff(dim=3), (0, 1)).abs()
    gradient_B1gg = F.adaptive_avg_pool2d(down_B1HW + right_B1HW, size)
    features = [F.adaptive_avg_pool2d(stains_BCHW, size), _deviation(stains_BCHW, size), gradient_B1gg]
    features += [_deviation(F.avg_pool2d(stains_BCHW[:, :2], px, ceil_mode=True), size) for px in _BLURS_PX]
    features += [F.adaptive_avg_pool2d((stains_BCHW[:, :1] >= amount).float(), size) for amount in _STRONG]
    if backbone is not None:
        features.append(F.adaptive_avg_pool2d(backbone(images_BCHW)[2].float(), size))
    return torch.cat(features, 1).movedim(1, -1)


def _deviation(channels_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """The standard deviation of each channel in each cell, (B, C, g, g)."""
    mean_BCgg = F.adaptive_avg_pool2d(channels_BCHW, size)
    square_BCgg = F.adaptive_avg_pool2d(channels_BCHW.square(), size)
    return (square_BCgg - mean_BCgg.square()).clamp(min=0).sqrt()


def tissue_share(images_BCHW: Tensor, cell_px: int) -> Tensor:
    """The share of each cell that is no glass, (B, g, g) float32: glass is bright in every channel and has no colour.

    Args:
        images_BCHW: float32 RGB in [0, 1].
        cell_px: About, as `VerifierSettings` has it.
    """
    least_BHW, most_BHW = images_BCHW.amin(1), images_BCHW.amax(1)
    is_glass_BHW = (least_BHW >= _GLASS_LEAST) & (most_BHW - least_BHW <= _GLASS_TINT)
    return F.adaptive_avg_pool2d((~is_glass_BHW).float(), _grid(images_BCHW, cell_px))


def _grid(images_BCHW: Tensor, cell_px: int) -> tuple[int, int]:
    return max(1, round(images_BCHW.shape[2] / cell_px)), max(1, round(images_BCHW.shape[3] / cell_px))


def _sample(is_chosen_N: npt.NDArray[np.bool_], settings: VerifierSettings) -> list[int]:
    indices = np.random.default_rng(settings.seed).permutation(np.flatnonzero(is_chosen_N))
    return sorted(indices[: settings.max_images].tolist())


def _described(
    train: WeakPatches, indices: list[int], settings: VerifierSettings, backbone: "Backbone | None"
) -> list[_Floats]:
    """The features of tissue cells of each image that has some, (cells, F) each."""
    rng = np.random.default_rng(settings.seed)
    most = -(-settings.max_cells // max(1, len(indices)))
    found = []
    with _ready(backbone) as device:
        for images_BCHW in batches(train, indices):
            features_BggF = cell_features(images_BCHW.to(device), settings.cell_px, backbone).cpu().numpy()
            is_tissue_Bgg = (tissue_share(images_BCHW, settings.cell_px) >= 0.5).numpy()
            for features_ggF, is_tissue_gg in zip(features_BggF, is_tissue_Bgg, strict=True):
                cells_MF = features_ggF[is_tissue_gg]
                found.append(cells_MF[np.sort(rng.permutation(len(cells_MF))[:most])])
    return [cells_MF for cells_MF in found if len(cells_MF)]


@contextmanager
def _ready(backbone: "Backbone | None") -> Iterator[torch.device]:
    """Where images go to be described: the backbone's device, or the CPU where there is none; no gradients are kept."""
    if backbone is None:
        with torch.inference_mode():
            yield torch.device("cpu")
    else:
        with judging(backbone) as device:
            yield device


def _learn(normal_MF: _Floats, positive: list[_Floats], settings: VerifierSettings) -> tuple[_Floats, float]:
    """The weights and the bias after the last round; features come standardised."""
    chosen = positive
    for round_index in range(settings.num_rounds + 1):
        weight_F, bias = _regression(normal_MF, np.concatenate(chosen), settings.strength)
        if round_index < settings.num_rounds:
            chosen = [_top(cells_MF, weight_F, settings.top_share) for cells_MF in positive]
    return weight_F, bias


def _top(cells_MF: _Floats, weight_F: _Floats, share: float) -> _Floats:
    number = max(1, round(share * len(cells_MF)))
    order = np.argsort(-(cells_MF @ weight_F), kind="stable")
    return cells_MF[order[:number]]


def _regression(normal_MF: _Floats, tumour_MF: _Floats, strength: float) -> tuple[_Floats, float]:
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
    is_tumour_M = np.repeat([False, True], [len(normal_MF), len(tumour_MF)])
    model.fit(np.concatenate([normal_MF, tumour_MF]), is_tumour_M)
    return model.coef_[0].astype(np.float32), float(model.intercept_[0])
