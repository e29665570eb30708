"""Slides as images: a ResNet on the thumbnail, and a ResNet on the grid of embeddings, to compare DSNet with.

    thumbnail, cropped to the slide, resized to a square -> ResNet -> mean -> linear: two logits
    grid of embeddings, zeros where nothing was observed, laid into a square -> ResNet -> mean -> linear: two logits

Each slide fills a square of its own, whatever size the batch is padded to. Evidence is the classifier's log-odds at each
place of the last stage, enlarged onto the cells; the mean over places is the slide's log-odds. With a mean and a linear
layer behind the stage, this is Grad-CAM (arXiv 1610.02391) of the log-odds times the number of places, plus the bias,
without the ReLU, which would make all normal cells alike.

Shapes: B slides, C channels, D channels of the last stage, K classes (2), P side of the square, H W rows and columns of
cells (h w of one slide's own), y x places of the last stage.
Does not know: training, methods.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError, UnknownNameError
from counterstain.models.backbones import ResNet, load_backbone_weights
from counterstain.models.slide_network import NUM_CLASSES, SlideBatch, SlideNetwork
from counterstain.models.weights import Audit

RESNETS = {"resnet18": 18, "resnet50": 50}

_STRIDE = 32  # of the last stage


def enlarged(map_yx: Tensor, side: int) -> Tensor:
    """A map of the last stage at the size of the square that the network saw: (P, P).

    Place i of the stage is centred on pixel 32 i, not in the middle of 32 pixels: with odd kernels and their padding every
    stride keeps the even pixels. Pixels past the last centre repeat it.

    Args:
        map_yx: Float.
        side: P, of which the stage has one place for every 32 begun.
    """
    size = [_STRIDE * (length - 1) + 1 for length in map_yx.shape]
    inner = F.interpolate(map_yx[None, None], size=size, mode="bilinear", align_corners=True)
    return F.pad(inner, (0, _STRIDE - 1, 0, _STRIDE - 1), mode="replicate")[0, 0, :side, :side]


def extent_of(extent_HW: Tensor) -> tuple[slice, slice]:
    """Rows and columns of the slide's own grid."""
    rows, columns = (extent_HW > 0).any(1).nonzero(), (extent_HW > 0).any(0).nonzero()
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


class _ImageNetwork(SlideNetwork, ABC):
    """A ResNet, a mean and a linear layer."""

    def __init__(self, backbone: ResNet, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.channels[3], NUM_CLASSES)

    @abstractmethod
    def _stage(self, batch: SlideBatch) -> Tensor:
        """(B, D, y, x): the last stage, of a square for each slide."""

    @abstractmethod
    def _laid(self, places_yx: Tensor, size: tuple[int, int]) -> Tensor:
        """(h, w): numbers of one square's places on the cells of its slide."""

    def forward(self, batch: SlideBatch) -> Tensor:
        logits_BK: Tensor = self.head(self.dropout(self._stage(batch).mean((2, 3))))
        return logits_BK.float()

    def evidence(self, batch: SlideBatch) -> Tensor:
        found_BHW = torch.full_like(batch.observed_B1HW[:, 0], torch.nan, dtype=torch.float32)
        for index, places_yx in enumerate(self._places(self._stage(batch))):
            rows, columns = extent_of(batch.extent_B1HW[index, 0])
            size = rows.stop - rows.start, columns.stop - columns.start
            found_BHW[index, rows, columns] = self._laid(places_yx, size)
        return found_BHW.masked_fill(batch.observed_B1HW[:, 0] <= 0, torch.nan)

    def _places(self, stage_BDyx: Tensor) -> Tensor:
        """(B, y, x) float32: log-odds of each place."""
        logits_ByxK: Tensor = self.head(stage_BDyx.movedim(1, -1))
        return (logits_ByxK[..., 1] - logits_ByxK[..., 0]).float()


def _resnet(name: str, side: int) -> ResNet:
    if name not in RESNETS:
        raise UnknownNameError("backbone of slides", name, RESNETS)
    # two places along each side at least: a batch norm can't learn from one
    if side <= _STRIDE:
        raise InputError(f"A square of {side} was given; a side of more than {_STRIDE} was expected.")
    return ResNet(RESNETS[name])


@dataclass(frozen=True)
class ThumbnailResNetSettings:
    """What looks at thumbnails.

    Args:
        backbone: "resnet18" or "resnet50".
        thumbnail_px: Side of the square that each thumbnail is resized to, more than 32.
        dropout: Share of the descriptor dropped in training.
    """

    backbone: str = "resnet50"
    thumbnail_px: int = 224
    dropout: float = 0.0


class ThumbnailResNet(_ImageNetwork):
    """A ResNet on the thumbnail alone: the naive baseline. Sees no embeddings.

    A thumbnail's proportions are lost in the square. Evidence in log-odds, comparable over slides.

    Args:
        settings: What looks at thumbnails.

    Raises:
        InputError: When the backbone or the square is no such one.

    Source: DSNet, arXiv 2109.05788, table II, "naive" ResNet-50; the square of 224 is ours, the size ImageNet weights know.
    """

    def __init__(self, settings: ThumbnailResNetSettings = ThumbnailResNetSettings()) -> None:
        super().__init__(_resnet(settings.backbone, settings.thumbnail_px), settings.dropout)
        self.needs_thumbnails = True
        self.settings = settings

    def start_from(self, path: Path | str) -> Audit:
        """Fills the backbone from a published weight file; a finished network is loaded without it.

        Raises:
            MissingFileError: When the file is not there.
            UnknownNameError: When no reader knows its suffix.
            WeightsError: When its tensors do not fit.
        """
        return load_backbone_weights(self.backbone, path)

    def _laid(self, places_yx: Tensor, size: tuple[int, int]) -> Tensor:
        square_11PP = enlarged(places_yx, self.settings.thumbnail_px)[None, None]
        return F.interpolate(square_11PP, size=size, mode="bilinear", antialias=True)[0, 0]

    def _stage(self, batch: SlideBatch) -> Tensor:
        if batch.thumbnails_B3HW is None:
            raise InputError(
                "Slides were given without thumbnails to a network that sees nothing else. Encode them from their files, "
                "or choose a network of embeddings."
            )
        squares = []
        for thumbnail_3HW, extent_HW in zip(batch.thumbnails_B3HW, batch.extent_B1HW[:, 0], strict=True):
            rows, columns = (slice(2 * part.start, 2 * part.stop) for part in extent_of(extent_HW))
            squares.append(
                F.interpolate(
                    thumbnail_3HW[None, :, rows, columns],
                    size=[self.settings.thumbnail_px] * 2,
                    mode="bilinear",
                    antialias=True,
                )
            )
        # a backbone wants RGB, a batch brings 1 - RGB
        stage_BDyx: Tensor = self.backbone((1 - torch.cat(squares)).clamp(0, 1))[3]
        return stage_BDyx


@dataclass(frozen=True)
class CompressedResNetSettings:
    """What looks at grids of embeddings.

    Args:
        backbone: "resnet18" or "resnet50".
        grid_cells: Side of the square that each grid is laid into, more than 32.
        dropout: Share of the descriptor dropped in training.
    """

    backbone: str = "resnet50"
    grid_cells: int = 384
    dropout: float = 0.0


class CompressedResNet(_ImageNetwork):
    """Neural image compression: a plain ResNet over the grid of embeddings, an image of C channels.

    A grid lies in the middle of the square, zeros around it and in cells that were not observed. A grid larger than the
    square is averaged down, by one factor for both sides. Evidence in log-odds, comparable over slides of like sizes.

    Args:
        num_features: C.
        settings: What looks at grids.

    Raises:
        InputError: When the backbone or the square is no such one.

    Source: Tellez et al. 2019, arXiv 1811.02840, with the ResNet-50 of DSNet's table II, arXiv 2109.05788. They crop to 400
    cells; averaging is ours: what is cut off can't be diagnosed.
    """

    def __init__(self, num_features: int, settings: CompressedResNetSettings = CompressedResNetSettings()) -> None:
        super().__init__(_resnet(settings.backbone, settings.grid_cells), settings.dropout)
        self.settings = settings
        self.backbone.conv1 = nn.Conv2d(num_features, 64, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(self.backbone.conv1.weight, mode="fan_out", nonlinearity="relu")

    def _laid(self, places_yx: Tensor, size: tuple[int, int]) -> Tensor:
        inside_hw = enlarged(places_yx, self.settings.grid_cells)[self._inside(size)]
        return F.interpolate(inside_hw[None, None], size=size, mode="bilinear")[0, 0]

    def _stage(self, batch: SlideBatch) -> Tensor:
        side = self.settings.grid_cells
        features_BCHW = batch.features_BCHW
        squares_BCPP = features_BCHW.new_zeros((*features_BCHW.shape[:2], side, side))
        for index, (features_CHW, seen_1HW) in enumerate(zip(features_BCHW, batch.observed_B1HW, strict=True)):
            rows, columns = extent_of(batch.extent_B1HW[index, 0])
            cells_Chw = features_CHW.masked_fill(seen_1HW <= 0, 0.0)[:, rows, columns]
            inside_rows, inside_columns = self._inside((cells_Chw.shape[1], cells_Chw.shape[2]))
            size = [inside_rows.stop - inside_rows.start, inside_columns.stop - inside_columns.start]
            squares_BCPP[index, :, inside_rows, inside_columns] = F.interpolate(
                cells_Chw[None], size=size, mode="area"
            )[0]
        return self.backbone.taps(squares_BCPP)[3]

    def _inside(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Where in the square a grid of this size lies."""
        side = self.settings.grid_cells
        shrink = max(1.0, max(size) / side)
        rows, columns = (min(side, max(1, round(length / shrink))) for length in size)
        top, left = (side - rows) // 2, (side - columns) // 2
        return slice(top, top + rows), slice(left, left + columns)
