"""Criss-cross attention (CCNet, arXiv 1811.11721): each cell gathers from its row and its column.

    energies of a cell with its h column and w row cells -> softmax -> weighted sum of their values -> gamma * sum + cell

Applied twice with shared weights, every cell has heard from every other one. The energies are (B, h, w, h + w) numbers, 134
MB for one image of 256 x 256 cells: they are worked out for some of the cells' columns at a time and, in training, again
for the gradient.

Shapes: B images, C channels, h rows and w columns of cells, v columns asked at a time, n cells attended to: the h of the
column first, then the w of the row.
Does not know: backbones, heads.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from counterstain.errors import InputError

CHUNK = 2**25
"""Energies held at once: 134 MB in float32."""


class CrissCrossAttention(nn.Module):
    """gamma * context + x, with gamma learned from zero: at first nothing is changed.

    Args:
        channels: Of the map.
        reduction: Channels for each channel of queries and keys.
        legacy_softmax: Whether energies compete along the map's rows, the first axis, and not among the cells attended
            to, with a cell's own energy counted twice.
        chunk: How many energies are held at once; one column's at least. The result is the same for all.

    Raises:
        InputError: When the channels are fewer than the reduction, or a number is below 1.

    Source: arXiv 1811.11721, section 3.2; `legacy_softmax` is the released SA-MIL code's behaviour.
    """

    def __init__(self, channels: int, reduction: int = 8, legacy_softmax: bool = False, chunk: int = CHUNK) -> None:
        super().__init__()
        if not 1 <= reduction <= channels or chunk < 1:
            raise InputError(
                f"{channels} channels, a reduction of {reduction} and a chunk of {chunk} were given; a reduction from 1 to "
                "the number of channels and a chunk of 1 or more were expected."
            )
        self.query = nn.Conv2d(channels, channels // reduction, 1)
        self.key = nn.Conv2d(channels, channels // reduction, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.legacy_softmax, self.chunk = legacy_softmax, chunk

    def forward(self, x_BChw: Tensor) -> Tensor:
        """The map with what its rows and columns told each cell, of the same shape."""
        num_images, _, rows, columns = x_BChw.shape
        queries_BChw, keys_BChw, values_BChw = self.query(x_BChw), self.key(x_BChw), self.value(x_BChw)
        # an exported graph holds all energies at once: its batch is not known
        is_traced = torch.compiler.is_compiling()
        at_once = columns if is_traced else max(1, self.chunk // (num_images * rows * (rows + columns)))
        again = torch.is_grad_enabled() and at_once < columns
        contexts = []
        # by columns: what `legacy_softmax` compares stands in one column
        for start in range(0, columns, at_once):
            asked = slice(start, start + at_once)
            given = (queries_BChw[..., asked], keys_BChw, values_BChw, asked)
            # kept energies would be the whole of them once all columns are through
            contexts.append(
                checkpoint(self._context, *given, use_reentrant=False, preserve_rng_state=False)
                if again
                else self._context(*given)
            )
        return self.gamma * torch.cat(contexts, dim=3) + x_BChw

    def _context(self, queries_BChv: Tensor, keys_BChw: Tensor, values_BChw: Tensor, asked: slice) -> Tensor:
        """What the asked columns' cells gather."""
        rows = keys_BChw.shape[2]
        weights_Bhvn = self._weights(queries_BChv, keys_BChw, asked)
        from_column_BChv = torch.einsum("bivk,bckv->bciv", weights_Bhvn[..., :rows], values_BChw[..., asked])
        from_row_BChv = torch.einsum("bivw,bciw->bciv", weights_Bhvn[..., rows:], values_BChw)
        return from_column_BChv + from_row_BChv

    def _weights(self, queries_BChv: Tensor, keys_BChw: Tensor, asked: slice) -> Tensor:
        """How much each cell of the asked columns takes from each of its column and its row."""
        column_Bhvh = torch.einsum("bciv,bckv->bivk", queries_BChv, keys_BChw[..., asked])
        row_Bhvw = torch.einsum("bciv,bciw->bivw", queries_BChv, keys_BChw)
        if self.legacy_softmax:
            return torch.cat([column_Bhvh, row_Bhvw], dim=3).softmax(dim=1)
        # a cell stands in its column and in its row; its row speaks for it
        itself_h1h = torch.eye(keys_BChw.shape[2], dtype=torch.bool, device=keys_BChw.device)[:, None]
        column_Bhvh = column_Bhvh.masked_fill(itself_h1h, -torch.inf)
        return torch.cat([column_Bhvh, row_Bhvw], dim=3).softmax(dim=3)
