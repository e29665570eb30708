"""TransMIL: cells of a slide that look at each other, to compare DSNet with.

    observed cells -> linear, ReLU -> [class token, cells] -> attention -> positions (PPEG) -> attention -> class token ->
    two logits

Nystrom's approximation makes attention linear in the number of cells. It scales by the largest sums of what it inverts,
over all heads; slides are computed one by one, or they would influence each other in a batch.

Shapes: C channels, D width, A heads, E = D / A, S tokens (the class token first, then cells), T tokens padded to a multiple
of L landmarks, N cells, H W rows and columns, B slides.
Does not know: training, files, methods.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError, UnknownNameError
from counterstain.models.bags import AttentionEvidence
from counterstain.models.slide_network import NUM_CLASSES, SlideBatch, SlideNetwork

_PINV_STEPS = 6  # Xiong et al. 2021, section 3.2
_VALUE_KERNEL = 33  # of the convolution over values, as in the public code of Nystrom attention


def iterated_inverse(matrices_ALL: Tensor) -> Tensor:
    """Approximate Moore-Penrose inverses of softmaxed matrices, by six steps of order three.

    Args:
        matrices_ALL: Float, square.

    Returns:
        (A, L, L), as given.

    Source: Xiong et al. 2021, Nystromformer, arXiv 2102.03902, eq. 11; the first guess is scaled by the largest sums over
    all heads, as in the public code that TransMIL uses.
    """
    absolute_ALL = matrices_ALL.abs()
    found_ALL = matrices_ALL.mT / (absolute_ALL.sum(-1).max() * absolute_ALL.sum(-2).max())
    eye_LL = torch.eye(matrices_ALL.shape[-1], dtype=matrices_ALL.dtype, device=matrices_ALL.device)
    for _ in range(_PINV_STEPS):
        product_ALL = matrices_ALL @ found_ALL
        inner_ALL = 15 * eye_LL - product_ALL @ (7 * eye_LL - product_ALL)
        found_ALL = 0.25 * found_ALL @ (13 * eye_LL - product_ALL @ inner_ALL)
    return found_ALL


class NystromAttention(nn.Module):
    """Self-attention by way of landmarks, means of neighbouring tokens.

    Tokens are padded with zeros in front, to a multiple of the landmarks; these zeros take part, as published.

    Args:
        width: D.
        heads: A.
        landmarks: L.
        dropout: Share of the output dropped in training.

    Source: Xiong et al. 2021, arXiv 2102.03902, eq. 13, with a convolution over the values as its skip.
    """

    def __init__(self, width: int, heads: int, landmarks: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.landmarks = heads, landmarks
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        # one kernel a head, along the tokens
        self.skip = nn.Conv2d(
            heads, heads, (_VALUE_KERNEL, 1), padding=(_VALUE_KERNEL // 2, 0), groups=heads, bias=False
        )

    def forward(self, tokens_SD: Tensor) -> Tensor:
        """(S, D)."""
        queries_ATE, keys_ATE, values_ATE = self._project(tokens_SD)
        to_ATL, inverse_ALL, from_ALT = self._factors(queries_ATE, keys_ATE)
        mixed_ATE = (to_ATL @ inverse_ALL) @ (from_ALT @ values_ATE) + self.skip(values_ATE)
        mixed_SD = mixed_ATE.transpose(0, 1).flatten(1)[-len(tokens_SD) :]
        out_SD: Tensor = self.dropout(self.out(mixed_SD))
        return out_SD

    def first_row(self, tokens_SD: Tensor) -> tuple[Tensor, Tensor]:
        """What the first token gets from each: its attention (A, S), and the values (A, S, E) it is of."""
        queries_ATE, keys_ATE, values_ATE = self._project(tokens_SD)
        to_ATL, inverse_ALL, from_ALT = self._factors(queries_ATE, keys_ATE)
        num = len(tokens_SD)
        row_A1T = to_ATL[:, -num][:, None] @ inverse_ALL @ from_ALT
        return row_A1T[:, 0, -num:], values_ATE[:, -num:]

    def _project(self, tokens_SD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (A, T, E)."""
        padded_TD = F.pad(tokens_SD, (0, 0, -len(tokens_SD) % self.landmarks, 0))
        all_T3AE = self.queries_keys_values(padded_TD).unflatten(1, (3, self.heads, -1))
        queries_ATE, keys_ATE, values_ATE = all_T3AE.permute(1, 2, 0, 3)
        return queries_ATE / math.sqrt(queries_ATE.shape[-1]), keys_ATE, values_ATE

    def _means(self, rows_ATE: Tensor) -> Tensor:
        """(A, L, E): of neighbouring tokens."""
        return rows_ATE.reshape(self.heads, self.landmarks, -1, rows_ATE.shape[-1]).mean(2)

    def _factors(self, queries_ATE: Tensor, keys_ATE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attention as a product: tokens to landmarks, an inverse, landmarks to tokens."""
        mean_queries_ALE, mean_keys_ALE = self._means(queries_ATE), self._means(keys_ATE)
        to_ATL = (queries_ATE @ mean_keys_ALE.mT).softmax(-1)
        between_ALL = (mean_queries_ALE @ mean_keys_ALE.mT).softmax(-1)
        from_ALT = (mean_queries_ALE @ keys_ATE.mT).softmax(-1)
        # sixth-order products of half precision are noise
        with torch.autocast(queries_ATE.device.type, enabled=False):
            inverse_ALL = iterated_inverse(between_ALL.float())
        return to_ATL, inverse_ALL.to(to_ATL.dtype), from_ALT


class PyramidPositions(nn.Module):
    """PPEG: depthwise convolutions of 7, 5 and 3 over a square or grid of cells, added to it.

    Args:
        width: D.

    Source: Shao et al. 2021, TransMIL, arXiv 2106.00908, algorithm 3.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(
            nn.Conv2d(width, width, size, padding=size // 2, groups=width) for size in (7, 5, 3)
        )

    def forward(self, grid_DHW: Tensor) -> Tensor:
        """(D, H, W)."""
        return grid_DHW + torch.stack([kernel(grid_DHW) for kernel in self.kernels]).sum(0)


class _Layer(nn.Module):
    """A norm and an attention, added to what came in."""

    def __init__(self, settings: "TransMILSettings") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(settings.width)
        self.attention = NystromAttention(settings.width, settings.heads, settings.landmarks, settings.dropout)

    def forward(self, tokens_SD: Tensor) -> Tensor:
        mixed_SD: Tensor = self.attention(self.norm(tokens_SD))
        return tokens_SD + mixed_SD


@dataclass(frozen=True)
class TransMILSettings:
    """Sizes of a TransMIL.

    Args:
        width: D, a multiple of the heads.
        heads: A.
        landmarks: L; half the width as published.
        dropout: Share of each attention's output dropped in training.
        positions: "squared", cells in row-major order folded into a square that its first cells fill up, as published: a
            neighbour there may be far away on the slide. Or "grid", cells where they are on the slide (ours).
        evidence: Bare "attention" of the class token in the last layer, mean over heads, as published; Nystrom's
            approximation can go below 0. Or "parts", what each cell adds to the slide's log-odds by way of that attention:
            attention times value, as the classifier sees it with the last norm's deviation held (ours: it has a sign; on
            planted tumours neither ranked cells reliably better). Both compare cells of one slide, not of different slides.
    """

    width: int = 512
    heads: int = 8
    landmarks: int = 256
    dropout: float = 0.1
    positions: Literal["squared", "grid"] = "squared"
    evidence: AttentionEvidence = "attention"


class TransMIL(SlideNetwork):
    """Two layers of Nystrom attention over a slide's cells, with positions in between.

    Args:
        num_features: C.
        settings: Sizes.

    Raises:
        InputError: When a size is below 1, the width is no multiple of the heads, or a name is not known.

    Source: Shao et al. 2021, arXiv 2106.00908, algorithms 1 to 3; sizes as in the released code.
    """

    def __init__(self, num_features: int, settings: TransMILSettings = TransMILSettings()) -> None:
        super().__init__()
        if min(settings.width, settings.heads, settings.landmarks) < 1 or settings.width % settings.heads:
            raise InputError(
                f"Width {settings.width}, {settings.heads} heads and {settings.landmarks} landmarks were given; all must "
                "be 1 or more, and the width a multiple of the heads."
            )
        if settings.positions not in ("squared", "grid"):
            raise UnknownNameError("kind of positions", settings.positions, ("squared", "grid"))
        if settings.evidence not in ("parts", "attention"):
            raise UnknownNameError("evidence of attention", settings.evidence, ("parts", "attention"))
        self.settings = settings
        self.embed = nn.Sequential(nn.Linear(num_features, settings.width), nn.ReLU())
        self.class_token = nn.Parameter(torch.randn(settings.width))
        self.first, self.last = _Layer(settings), _Layer(settings)
        self.positions = PyramidPositions(settings.width)
        self.norm = nn.LayerNorm(settings.width)
        self.head = nn.Linear(settings.width, NUM_CLASSES)

    def forward(self, batch: SlideBatch) -> Tensor:
        tokens = [self._before_last(features, seen) for features, seen in _slides(batch)]
        classes_BD = torch.stack([self.last(tokens_SD)[0] for tokens_SD in tokens])
        logits_BK: Tensor = self.head(self.norm(classes_BD))
        return logits_BK.float()

    def evidence(self, batch: SlideBatch) -> Tensor:
        maps = []
        for features_CHW, is_seen_HW in _slides(batch):
            map_HW = torch.full(is_seen_HW.shape, torch.nan, device=features_CHW.device)
            tokens_SD = self._before_last(features_CHW, is_seen_HW)
            map_HW[is_seen_HW] = self._cells_evidence(tokens_SD, int(is_seen_HW.sum())).float()
            maps.append(map_HW)
        return torch.stack(maps)

    def _before_last(self, features_CHW: Tensor, is_seen_HW: Tensor) -> Tensor:
        """A slide's tokens (S, D) as the last layer gets them."""
        cells_ND = self.embed(features_CHW[:, is_seen_HW].T)
        squared = self.settings.positions == "squared"
        if squared:
            cells_ND = torch.cat([cells_ND, cells_ND[: _missing(len(cells_ND))]])
        tokens_SD: Tensor = self.first(torch.cat([self.class_token[None], cells_ND]))
        if len(tokens_SD) == 1:
            return tokens_SD
        side = math.isqrt(len(cells_ND))
        is_cell_HW = is_seen_HW.new_ones(side, side) if squared else is_seen_HW
        grid_DHW = tokens_SD.new_zeros((tokens_SD.shape[1], *is_cell_HW.shape))
        grid_DHW[:, is_cell_HW] = tokens_SD[1:].T
        return torch.cat([tokens_SD[:1], self.positions(grid_DHW)[:, is_cell_HW].T])

    def _cells_evidence(self, tokens_SD: Tensor, num_cells: int) -> Tensor:
        """(N,): of each cell, the copies that fill the square added to their originals."""
        shares_AS, values_ASE = self.last.attention.first_row(self.last.norm(tokens_SD))
        if self.settings.evidence == "attention":
            found_S = shares_AS.mean(0)
        else:
            direction_AE = self._direction(self.last(tokens_SD)[0]).reshape(self.settings.heads, -1)
            found_S = (shares_AS * (values_ASE @ direction_AE[..., None])[..., 0]).sum(0)
        found_N, copies = found_S[1 : num_cells + 1].clone(), found_S[num_cells + 1 :]
        found_N[: len(copies)] += copies
        return found_N

    def _direction(self, class_D: Tensor) -> Tensor:
        """(D,): what a number of the last attention's merged heads adds to the log-odds, the norm's deviation held."""
        gain_D = (self.head.weight[1] - self.head.weight[0]) * self.norm.weight
        gain_D = gain_D / (class_D.var(unbiased=False) + self.norm.eps).sqrt()
        # the norm takes off the mean of what it gets
        return (gain_D - gain_D.mean()) @ self.last.attention.out.weight


def _missing(num_cells: int) -> int:
    """How many cells short of a square."""
    side = math.isqrt(num_cells)
    return 0 if side * side == num_cells else (side + 1) ** 2 - num_cells


def _slides(batch: SlideBatch) -> list[tuple[Tensor, Tensor]]:
    """Each slide's features (C, H, W) and which of its cells were observed, (H, W) bool."""
    return list(zip(batch.features_BCHW, batch.observed_B1HW[:, 0] > 0, strict=True))
