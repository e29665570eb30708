"""DSNet (arXiv 2109.05788): a slide from its embeddings, seen locally, and its thumbnails, seen regionally.

    V (embeddings, H x W) -> concurrent bottlenecks (sparse) ----------------> L (ceil(H / 4) x ceil(W / 4) cells)
    T (thumbnails, 2H x 2W) -> levels -> stem -> multi-scale blocks ----------> R (the same cells)
    L, R -> weighed against each other (s), channels weighed -> 1x1 -> mean and max over cells -> two logits

Strides of 2 and odd kernels halve every length upwards: 2H -> H -> ceil(H / 2) -> ceil(ceil(H / 2) / 2) for T and the last
two of them for V, so both streams end on one grid for slides of any size.

B slides, C channels, H W rows and columns of cells, h w of the coarse grid (a cell of it is 4 x 4 cells of V).
Does not know: losses, training, files.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError, UnknownNameError
from counterstain.models.attribution import OrdinaryCells, integrated_evidence
from counterstain.models.bags import PoolingNetwork, PoolingSettings, own_losses
from counterstain.models.dsnet_blocks import (
    ConcurrentBottleneck,
    Excitation,
    MultiScale,
    Projection,
    SlideHead,
    SparseUnit,
)
from counterstain.models.slide_network import SlideBatch, SlideNetwork
from counterstain.models.sparse import NormKind, Propagation, SparseConv, Support, masked_mean
from counterstain.models.thumbnails import check_levels, stack_levels

Streams = Literal["both", "local", "regional"]
EvidenceKind = Literal["grad_cam", "integrated", "cells"]

LOCAL_WIDTHS = (128, 144, 224, 256, 320)
LOCAL_STRIDES = (2, 1, 2, 1)
REGIONAL_WIDTHS = (32, 64, 144, 256, 320)
REGIONAL_STRIDES = (1, 2, 2, 1)
"""Table I, by rows; the first width is what goes in."""

_DEEP, _LAST = 320, 640
_COARSENESS = 4
"""Cells of V to a cell of the coarse grid, along each side."""


@dataclass(frozen=True)
class DSNetArchitecture:
    """What a DSNet is made of; as given, the network of the paper as far as its text and figures tell.

    Args:
        levels: Pixels of the finest thumbnail to a side of each thumbnail's pixel.
        propagation: Of masks in the local stream, see `Support`. The paper's is "uhrig".
        norm: "batch" as in the paper; "instance" and "group" for batches of one slide.
        ratio_cb: Channels of a concurrent bottleneck's output for each inside.
        ratio_ms: Channels of a multi-scale block's output for each inside.
        separable: Whether the 5x5 convolutions of concurrent bottlenecks are depthwise, then 1x1.
        multi_scale_shortcut: Whether multi-scale blocks have a 1x1 shortcut.
        head_width: Units between the two linear layers at the end.
        streams: What is looked at: embeddings ("local"), thumbnails ("regional"), or both.
        stream_attention: Whether the streams are weighed against each other; False adds them up.
        channel_attention: Whether channels are weighed after that.
        sparse: Whether the network knows what was observed; False has ordinary convolutions, pools and norms, over the
            whole slide.
        multi_scale: False has one 3x3 convolution in place of each multi-scale block.
        concurrent_bottleneck: False has one 5x5 convolution in place of each bottleneck, with eleven times its parameters.
        spatial_bottleneck: Whether bottlenecks halve their grid within.
        mask_thumbnail: Whether thumbnails are blank where no cell was observed.
        evidence_kind: "grad_cam" as in the paper, on coarse cells; "integrated" is what each cell adds to the difference of
            the logits, see `integrated_evidence`, for sixteen passes a slide; "cells" is what the cell heads say of each.
        cell_heads: How many linear classifiers of single cells stand beside the network, as wide as it is shallow: the mean
            of what each says of the cell that it finds most positive is added to the logits. Each learns from its own
            answer alone, and the network what they leave unexplained. Ours: with few slides a deep network does not find
            the cells that a linear classifier does, and which of them one finds hangs on its first weights. The paper has
            none.

    Raises:
        InputError: When a number can't be used; `UnknownNameError` for names.

    Source: DSNet, arXiv 2109.05788, section III, Table I, Fig. 3 and 4. The ratios, what stands between the convolutions of
        a bottleneck, and the head's width are ours, chosen by the figures' labels and the printed 1.1 M parameters; so is
        "strided" as the default, see `Support`.
    """

    levels: tuple[int, ...] = (1, 2, 3)
    propagation: Propagation = "strided"
    norm: NormKind = "batch"
    ratio_cb: int = 8
    ratio_ms: int = 4
    separable: bool = False
    multi_scale_shortcut: bool = False
    head_width: int = 128
    streams: Streams = "both"
    stream_attention: bool = True
    channel_attention: bool = True
    sparse: bool = True
    multi_scale: bool = True
    concurrent_bottleneck: bool = True
    spatial_bottleneck: bool = True
    mask_thumbnail: bool = False
    evidence_kind: EvidenceKind = "grad_cam"
    cell_heads: int = 0

    def __post_init__(self) -> None:
        named = {"propagation": Propagation, "norm": NormKind, "streams": Streams, "evidence_kind": EvidenceKind}
        for field, names in named.items():
            if getattr(self, field) not in get_args(names):
                raise UnknownNameError(field, getattr(self, field), get_args(names))
        if self.evidence_kind == "cells" and (not self.cell_heads or self.streams == "regional"):
            raise InputError(
                "evidence_kind = 'cells' was given to a DSNet without cell heads. Set cell_heads = 8 and look at "
                "embeddings, or take 'grad_cam' or 'integrated'."
            )
        check_levels(self.levels)
        if self.cell_heads < 0:
            raise InputError(f"cell_heads = {self.cell_heads} was given; 0 or more was expected.")
        for field, widths in (("ratio_cb", LOCAL_WIDTHS[1:]), ("ratio_ms", REGIONAL_WIDTHS[1:])):
            ratio = getattr(self, field)
            if ratio < 1 or any(width % ratio for width in widths):
                raise InputError(f"{field} = {ratio} was given; a number that divides all of {widths} was expected.")
        if self.head_width < 1:
            raise InputError(f"head_width = {self.head_width} was given; 1 or more was expected.")


class DSNet(SlideNetwork):
    """Logits of slides from embeddings and thumbnails, with the share of each stream and evidence for each cell.

    What was observed decides where is looked in the end, for every choice of streams: means and maxima run over coarse
    cells with observed ones in them. What stands in unobserved cells changes nothing, and padding nothing but the last
    digits of float32: it changes the order of sums.

    Args:
        num_features: Channels of an embedding. Any number but 128 is normalised and projected to 128 first.
        architecture: What it is made of.

    Source: DSNet, arXiv 2109.05788, section III.
    """

    def __init__(self, num_features: int, architecture: DSNetArchitecture = DSNetArchitecture()) -> None:
        super().__init__()
        self.architecture = architecture
        self.needs_thumbnails = architecture.streams != "local"
        self.has_local = architecture.streams != "regional"
        if self.has_local:
            is_other = num_features != LOCAL_WIDTHS[0]
            self.projection = Projection(num_features, LOCAL_WIDTHS[0]) if is_other else None
            self.bottlenecks = nn.ModuleList(_bottlenecks(architecture))
        if self.needs_thumbnails:
            stem = SparseConv(3 * len(architecture.levels), REGIONAL_WIDTHS[0], kernel=7, stride=2)
            self.stem = SparseUnit(stem, architecture.norm)
            self.multi_scale = nn.ModuleList(_multi_scale(architecture))
        weighs_streams = architecture.streams == "both" and architecture.stream_attention
        self.stream_attention = Excitation(_DEEP, 1) if weighs_streams else None
        self.channel_attention = Excitation(_DEEP, _DEEP) if architecture.channel_attention else None
        self.last = SparseUnit(SparseConv(_DEEP, _LAST), architecture.norm)
        self.head = SlideHead(_LAST, architecture.head_width)
        self.ordinary = OrdinaryCells(num_features)
        has_cell_heads = architecture.cell_heads > 0 and self.has_local
        heads = PoolingSettings("max", architecture.cell_heads) if has_cell_heads else None
        self.cell_heads = None if heads is None else PoolingNetwork(num_features, heads)

    def forward(self, batch: SlideBatch) -> Tensor:
        logits_B2 = self._deep(batch)
        return logits_B2 if self.cell_heads is None else logits_B2 + self.cell_heads(batch)

    def _deep(self, batch: SlideBatch) -> Tensor:
        """Logits of the two streams, without the cell heads'."""
        features_BChw, support, _ = self._cells(batch)
        logits_B2: Tensor = self.head(features_BChw, support.observed_B1HW)
        return logits_B2

    def learn(self, batch: SlideBatch, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """As the contract has it; and remembers what cells of negative slides look like, for evidence."""
        self.ordinary.follow(batch, labels_B)
        if self.cell_heads is None:
            return super().learn(batch, labels_B)
        answers_BE2 = self.cell_heads.answers(batch)
        # detached: what the network makes of slides it knows by heart would spoil the heads
        return self._deep(batch) + answers_BE2.mean(1).detach(), own_losses(answers_BE2, labels_B)

    @torch.no_grad()
    def local_shares(self, batch: SlideBatch) -> Tensor | None:
        """As the contract has it: the share s, in the mode that the network is in; None where streams are not weighed.

        Source: DSNet, arXiv 2109.05788, section III-E and Fig. 8.
        """
        if self.stream_attention is None:
            return None
        share_B1 = self._cells(batch)[2]
        assert share_B1 is not None, "streams that are weighed have shares"
        return share_B1[:, 0].float()

    def evidence(self, batch: SlideBatch) -> Tensor:
        """(B, H, W) float32, by the architecture's `evidence_kind`, as in evaluation whatever the network's mode is.

        Grad-CAM is worked out for coarse cells, after the last convolution's norm and rectifier, and enlarged bilinearly
        with weights on observed ones alone; it is not scaled to the slide, so that slides can be compared.

        Source: DSNet, arXiv 2109.05788, section V-C: Grad-CAM (Selvaraju et al., arXiv 1610.02391) of the positive class's
            logit; there scaled to each slide. "integrated" is ours.
        """
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            if self.architecture.evidence_kind == "cells":
                assert self.cell_heads is not None, "settings without cell heads were refused"
                return self.cell_heads.evidence(batch)
            if self.architecture.evidence_kind == "integrated":
                return integrated_evidence(self, batch, self.ordinary)
            return self._grad_cam(batch)
        finally:
            for module, was_training in modes.items():
                module.training = was_training

    def _grad_cam(self, batch: SlideBatch) -> Tensor:
        with torch.no_grad():
            features_BChw, support, _ = self._cells(batch)
        # copies: a caller's inference mode would keep them out of any graph
        with torch.inference_mode(False), torch.enable_grad():
            features_BChw, mask_B1hw = features_BChw.clone().requires_grad_(), support.observed_B1HW.clone()
            positive_B = self.head(features_BChw, mask_B1hw)[:, 1]
            (slopes_BChw,) = torch.autograd.grad(positive_B.sum(), features_BChw)
        with torch.no_grad():
            weights_BC11 = masked_mean(slopes_BChw, mask_B1hw)[:, :, None, None]
            coarse_Bhw = F.relu((weights_BC11 * features_BChw).sum(1))
            return _enlarged(coarse_Bhw, mask_B1hw, batch.observed_B1HW)

    def _cells(self, batch: SlideBatch) -> tuple[Tensor, Support, Tensor | None]:
        """What the head looks at (B, 640, h, w), where, and the local stream's share (B, 1) where streams are weighed."""
        local_BChw, support = self._local(batch)
        regional_BChw = self._regional(batch, support) if self.needs_thumbnails else None
        merged_BChw, share_B1 = self._merged(local_BChw, regional_BChw, support)
        if self.channel_attention is not None:
            scale_BC = self.channel_attention(masked_mean(merged_BChw, support.observed_B1HW))
            merged_BChw = merged_BChw * scale_BC[:, :, None, None]
        features_BChw, support = self.last(merged_BChw, support)
        return features_BChw, support, share_B1

    def _local(self, batch: SlideBatch) -> tuple[Tensor | None, Support]:
        """L (B, 320, h, w), and where it says something; without that stream, where it would."""
        extent_B1HW = batch.extent_B1HW
        observed_B1HW = batch.observed_B1HW if self.architecture.sparse else extent_B1HW
        support = Support(observed_B1HW, extent_B1HW, self.architecture.propagation, self.architecture.sparse)
        if not self.has_local:
            for stride in LOCAL_STRIDES:
                support = support.after(5, stride) if stride > 1 else support
            return None, support
        if self.projection is not None:
            x_BCHW = self.projection(batch.features_BCHW, batch.observed_B1HW)
        else:  # filled, not multiplied: what was not observed may be no number at all
            x_BCHW = batch.features_BCHW.masked_fill(batch.observed_B1HW == 0, 0.0)
        for bottleneck in self.bottlenecks:
            x_BCHW, support = bottleneck(x_BCHW, support)
        return x_BCHW, support

    def _regional(self, batch: SlideBatch, local: Support) -> Tensor:
        """R (B, 320, h, w), 0 off the local stream's mask."""
        if batch.thumbnails_B3HW is None:
            raise InputError(
                "Slides without thumbnails were given to a DSNet that looks at them; encode them with their slides at "
                "hand, or set streams = 'local'."
            )
        extent_B1HW = batch.thumbnail_extent
        thumbnails_B3HW = batch.thumbnails_B3HW
        if self.architecture.mask_thumbnail:
            is_blank_B1HW = F.interpolate(batch.observed_B1HW, scale_factor=2, mode="nearest") == 0
            thumbnails_B3HW = thumbnails_B3HW.masked_fill(is_blank_B1HW, 0.0)
        x_BCHW = stack_levels(thumbnails_B3HW, extent_B1HW, self.architecture.levels)
        x_BCHW, support = self.stem(x_BCHW, Support(extent_B1HW, extent_B1HW, is_counted=self.architecture.sparse))
        for block in self.multi_scale:
            x_BCHW, support = block(x_BCHW, support)
        return x_BCHW * local.observed_B1HW  # type: ignore[no-any-return]

    def _merged(self, local: Tensor | None, regional: Tensor | None, support: Support) -> tuple[Tensor, Tensor | None]:
        if local is None or regional is None:
            only = regional if local is None else local
            assert only is not None
            return only, None
        if self.stream_attention is None:
            return local + regional, None
        share_B1 = self.stream_attention(masked_mean(local + regional, support.observed_B1HW))
        share_B111 = share_B1[:, :, None, None]
        return share_B111 * local + (1 - share_B111) * regional, share_B1


def _bottlenecks(architecture: DSNetArchitecture) -> list[nn.Module]:
    rows = zip(LOCAL_WIDTHS[:-1], LOCAL_WIDTHS[1:], LOCAL_STRIDES, strict=True)
    ratio, norm = architecture.ratio_cb, architecture.norm
    if architecture.concurrent_bottleneck:
        kind = {"is_separable": architecture.separable, "is_spatial": architecture.spatial_bottleneck}
        return [ConcurrentBottleneck(*row, ratio, norm, **kind) for row in rows]
    return [SparseUnit(SparseConv(before, after, 5, stride), norm) for before, after, stride in rows]


def _multi_scale(architecture: DSNetArchitecture) -> list[nn.Module]:
    rows = zip(REGIONAL_WIDTHS[:-1], REGIONAL_WIDTHS[1:], REGIONAL_STRIDES, strict=True)
    ratio, norm = architecture.ratio_ms, architecture.norm
    if architecture.multi_scale:
        return [MultiScale(*row, ratio, norm, architecture.multi_scale_shortcut) for row in rows]
    return [SparseUnit(SparseConv(before, after, 3, stride), norm) for before, after, stride in rows]


def _enlarged(coarse_Bhw: Tensor, mask_B1hw: Tensor, observed_B1HW: Tensor) -> Tensor:
    """Evidence of cells from that of coarse cells, by bilinear weights on the coarse cells that have any; NaN elsewhere.

    Coarse cell i is centred on cell 4 i, not in the middle of 4 cells: with odd kernels every stride keeps the even cells.
    Cells past the last centre are nearest to it. Weights of cells off the mask go to the others: so padding, which is off
    it, and the border of an unpadded grid come to the same.
    """
    height, width = observed_B1HW.shape[2:]
    size = [_COARSENESS * (length - 1) + 1 for length in mask_B1hw.shape[2:]]

    def enlarged(x_B1hw: Tensor) -> Tensor:
        inner_B1HW = F.interpolate(x_B1hw, size=size, mode="bilinear", align_corners=True)
        beyond = _COARSENESS - 1
        return F.pad(inner_B1HW, (0, beyond, 0, beyond), mode="replicate")[:, :, :height, :width]

    mask_B1hw = mask_B1hw.float()
    shares_B1HW = enlarged(mask_B1hw)
    values_B1HW = enlarged(coarse_Bhw[:, None] * mask_B1hw) / shares_B1HW
    return values_B1HW.masked_fill(observed_B1HW == 0, torch.nan)[:, 0]
