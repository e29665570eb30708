"""Swin Transformer (Liu et al., arXiv 2103.14030): attention within windows that shift from block to block.

    image -> patches of 4 x 4 px -> stage -> merge 2 x 2 cells -> stage -> merge -> stage -> merge -> stage

The taps are the stages' outputs before merging, each after a LayerNorm of its own, at strides 4, 8, 16 and 32. Names are
those of the first release (`swin_tiny_patch4_window7_224.pth`); torchvision's are told apart and moved. Images and maps are
padded with zeros at the bottom and at the right to whole patches, windows and pairs, and cropped; padded cells are
attended to, as in both releases.

Shapes: B images, H rows and W columns of pixels, h and w of cells, C channels, N windows of all images, n of one image, T
cells of a window, K heads, D channels of a head.
Does not know: heads of methods, classes.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError
from counterstain.models.backbones.base import Backbone, Taps

_PATCH = 4

# torchvision counts patches and mergings among the stages
_FROM_TORCHVISION = (
    (re.compile(r"^features\.0\.0\."), r"patch_embed.proj."),
    (re.compile(r"^features\.0\.2\."), r"patch_embed.norm."),
    (re.compile(r"^features\.([1357])\.(\d+)\."), lambda found: f"layers.{int(found[1]) // 2}.blocks.{found[2]}."),
    (re.compile(r"^features\.([246])\."), lambda found: f"layers.{int(found[1]) // 2 - 1}.downsample."),
    (re.compile(r"\.mlp\.0\."), r".mlp.fc1."),
    (re.compile(r"\.mlp\.3\."), r".mlp.fc2."),
)


@dataclass(frozen=True)
class _Shape:
    """What a block is built with.

    Args:
        channels: Of its map.
        heads: Of its attention.
        window: Cells along a window's side.
        is_shifted: Whether windows are shifted by half their side.
        drop_path: Of each image's branches, the part left out in training.
    """

    channels: int
    heads: int
    window: int
    is_shifted: bool
    drop_path: float


def _padded(x_BhwC: Tensor, multiple: int) -> Tensor:
    """Zeros at the bottom and at the right, up to whole multiples."""
    _, rows, columns, _ = x_BhwC.shape
    return F.pad(x_BhwC, (0, 0, 0, -columns % multiple, 0, -rows % multiple))


def _cut(x_BhwC: Tensor, window: int) -> Tensor:
    """A map of whole windows as windows, row by row: (N, T, C)."""
    num_images, rows, columns, channels = x_BhwC.shape
    tiled = x_BhwC.reshape(num_images, rows // window, window, columns // window, window, channels)
    return tiled.transpose(2, 3).reshape(-1, window * window, channels)


def _join(x_NTC: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """The map of that many rows and columns that windows were cut from: (B, h, w, C)."""
    down, across = size[0] // window, size[1] // window
    tiled = x_NTC.reshape(-1, down, across, window, window, x_NTC.shape[2])
    return tiled.transpose(2, 3).reshape(-1, *size, x_NTC.shape[2])


def _pairs(window: int) -> Tensor:
    """For each two cells of a window, the row of the bias table for their offset: (T, T) int64."""
    side = torch.arange(window)
    row_T, column_T = side.repeat_interleave(window), side.repeat(window)
    rows_TT = row_T[:, None] - row_T + window - 1
    columns_TT = column_T[:, None] - column_T + window - 1
    return rows_TT * (2 * window - 1) + columns_TT


def _parted(size: tuple[int, int], window: int, shifts: tuple[int, int], device: torch.device) -> Tensor:
    """Which cells of a rolled map's windows were no neighbours before: (n, T, T) bool.

    A roll by the shift brings the map's first rows and columns behind its last ones, into the same windows.
    """
    wrapped = [
        torch.arange(length, device=device) >= length - shift for length, shift in zip(size, shifts, strict=True)
    ]
    region_hw = 2 * wrapped[0].long()[:, None] + wrapped[1].long()
    region_nT = _cut(region_hw[None, :, :, None], window).squeeze(2)
    return region_nT[:, :, None] != region_nT[:, None, :]


class _Attention(nn.Module):
    """Attention among the cells of each window, with a learned bias for each offset."""

    relative_position_index: Tensor

    def __init__(self, shape: _Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.channels, 3 * shape.channels)
        self.proj = nn.Linear(shape.channels, shape.channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * shape.window - 1) ** 2, shape.heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _pairs(shape.window), persistent=False)

    def forward(self, x_NTC: Tensor, parted_nTT: Tensor | None) -> Tensor:
        num_windows, cells, channels = x_NTC.shape
        split = self.qkv(x_NTC).reshape(num_windows, cells, 3, self.heads, channels // self.heads)
        queries_NKTD, keys_NKTD, values_NKTD = split.permute(2, 0, 3, 1, 4).unbind()
        scale = (channels // self.heads) ** -0.5
        bias_KTT = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        energies_NKTT = (queries_NKTD * scale) @ keys_NKTD.transpose(2, 3) + bias_KTT
        if parted_nTT is not None:
            by_image = energies_NKTT.unflatten(0, (-1, len(parted_nTT)))
            energies_NKTT = by_image.masked_fill(parted_nTT[:, None], -torch.inf).flatten(0, 1)
        context_NTKD = (energies_NKTT.softmax(dim=3) @ values_NKTD).transpose(1, 2)
        projected: Tensor = self.proj(context_NTKD.reshape(num_windows, cells, channels))
        return projected


class _DropPath(nn.Module):
    """In training, leaves a branch out for some of the images, and makes up for it in the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_BhwC: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x_BhwC
        kept_B111 = x_BhwC.new_empty(len(x_BhwC), 1, 1, 1).bernoulli_(1 - self.rate)
        return x_BhwC * kept_B111 / (1 - self.rate)


class _Block(nn.Module):
    """Attention and a perceptron, each added to what it is given."""

    def __init__(self, shape: _Shape) -> None:
        super().__init__()
        self.window, self.shift = shape.window, shape.window // 2 if shape.is_shifted else 0
        self.norm1, self.norm2 = nn.LayerNorm(shape.channels), nn.LayerNorm(shape.channels)
        self.attn = _Attention(shape)
        wide = 4 * shape.channels
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(shape.channels, wide), act=nn.GELU(), fc2=nn.Linear(wide, shape.channels))
        )
        self.drop_path = _DropPath(shape.drop_path)

    def forward(self, x_BhwC: Tensor) -> Tensor:
        x_BhwC = x_BhwC + self.drop_path(self._attend(self.norm1(x_BhwC)))
        added_BhwC: Tensor = x_BhwC + self.drop_path(self.mlp(self.norm2(x_BhwC)))
        return added_BhwC

    def _attend(self, x_BhwC: Tensor) -> Tensor:
        rows, columns = x_BhwC.shape[1:3]
        x_BhwC = _padded(x_BhwC, self.window)
        size = (x_BhwC.shape[1], x_BhwC.shape[2])
        # along a side of one window there is nothing to shift into, as in the releases
        shifts = (self.shift if size[0] > self.window else 0, self.shift if size[1] > self.window else 0)
        is_rolled = any(shifts)
        if is_rolled:
            x_BhwC = x_BhwC.roll((-shifts[0], -shifts[1]), (1, 2))
        parted_nTT = _parted(size, self.window, shifts, x_BhwC.device) if is_rolled else None
        x_BhwC = _join(self.attn(_cut(x_BhwC, self.window), parted_nTT), self.window, size)
        if is_rolled:
            x_BhwC = x_BhwC.roll(shifts, (1, 2))
        return x_BhwC[:, :rows, :columns]


class _Merge(nn.Module):
    """Each 2 x 2 cells as one, of twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x_BhwC: Tensor) -> Tensor:
        x_BhwC = _padded(x_BhwC, 2)
        # down before across: the order that published weights were trained with
        parts = [x_BhwC[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(parts, dim=3)))
        return merged


class _Stage(nn.Module):
    """Blocks, and the merging before the next stage."""

    def __init__(self, blocks: Sequence[_Shape], is_last: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_Block(shape) for shape in blocks))
        self.downsample: nn.Module = nn.Identity() if is_last else _Merge(blocks[0].channels)


def _plan(embed: int, depths: Sequence[int], heads: Sequence[int], window: int, drop_path: float) -> list[list[_Shape]]:
    """The blocks of each stage; every second one is shifted, and the drop rate rises from 0 evenly."""
    stages: list[list[_Shape]] = []
    before, last = 0, max(sum(depths) - 1, 1)
    for index, depth in enumerate(depths):
        width = embed * 2**index
        stages.append(
            [
                _Shape(width, heads[index], window, block % 2 == 1, drop_path * (before + block) / last)
                for block in range(depth)
            ]
        )
        before += depth
    return stages


class SwinT(Backbone):
    """Swin-T, or a smaller one.

    Args:
        embed: Channels of the shallowest tap; each next one has twice as many.
        depths: Blocks of each stage.
        heads: Of each stage's attention.
        window: Cells along a window's side; every second block shifts by half of it.
        drop_path: Of the deepest block, the part of images whose branches are left out in training; rises from 0.

    Raises:
        InputError: When there are not four depths and heads of 1 or more, heads don't divide their channels, the window is
            below 2, or the drop rate is outside [0, 1).

    Source: arXiv 2103.14030, section 3 and table 7 (drop path 0.2: appendix A2.1); the taps' norms as in its networks for
        detection.
    """

    def __init__(
        self,
        embed: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        _check(embed, depths, heads, window, drop_path)
        plan = _plan(embed, depths, heads, window, drop_path)
        self.channels = (embed, 2 * embed, 4 * embed, 8 * embed)
        self.strides = (_PATCH, 2 * _PATCH, 4 * _PATCH, 8 * _PATCH)
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, embed, _PATCH, _PATCH), "norm": nn.LayerNorm(embed)},
        )
        self.layers = nn.ModuleList(_Stage(blocks, index == 3) for index, blocks in enumerate(plan))
        for index, channels in enumerate(self.channels):
            self.add_module(f"norm{index}", nn.LayerNorm(channels))
        # what follows from a window's size stands in the files, under these names
        worked_out = [
            f"layers.{index}.blocks.{block}.{name}"
            for index, blocks in enumerate(plan)
            for block in range(len(blocks))
            for name in ("attn.relative_position_index", "attn_mask")
        ]
        self.spare_weights = ("head.", "norm.", *worked_out)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def taps(self, inputs_BCHW: Tensor) -> Taps:
        first, second, third, deep = self._stages(inputs_BCHW)
        return self._normed(0, first), self._normed(1, second), self._normed(2, third), deep

    def trunk(self, inputs_BCHW: Tensor) -> Taps:
        return self._stages(inputs_BCHW)

    def _stages(self, inputs_BCHW: Tensor) -> Taps:
        """The stages' outputs, of which the deepest alone has passed its norm."""
        rows, columns = inputs_BCHW.shape[2:]
        padded_BCHW = F.pad(inputs_BCHW, (0, -columns % _PATCH, 0, -rows % _PATCH))
        x_BhwC = self.patch_embed["norm"](self.patch_embed["proj"](padded_BCHW).permute(0, 2, 3, 1))
        found: list[Tensor] = []
        for stage in self.layers:
            assert isinstance(stage, _Stage)
            x_BChw = stage.blocks(x_BhwC).permute(0, 3, 1, 2)
            found.append(x_BChw)
            # from what is given back, so that a gradient can be taken there
            x_BhwC = stage.downsample(x_BChw.permute(0, 2, 3, 1))
        first, second, third = found[:3]
        return first, second, third, self._normed(len(found) - 1, found[-1])

    def _normed(self, index: int, x_BChw: Tensor) -> Tensor:
        """A stage's output after its norm."""
        normed_BhwC: Tensor = self.get_submodule(f"norm{index}")(x_BChw.permute(0, 2, 3, 1))
        return normed_BhwC.permute(0, 3, 1, 2)

    def drop_deepest(self) -> None:
        self.layers = self.layers[:3]
        third = self.layers[2]
        assert isinstance(third, _Stage)
        third.downsample = nn.Identity()
        del self.norm3
        self._without_deepest("layers.3.", "layers.2.downsample.", "norm3.")

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published file's tensors under the first release's names."""
        return {_renamed(name): tensor for name, tensor in state.items()}

    def fresh_weights(self, state: Mapping[str, Tensor]) -> tuple[str, ...]:
        norms = tuple(f"norm{index}." for index in range(4))
        return () if any(name.startswith(norms) for name in state) else norms


def _renamed(name: str) -> str:
    if name.startswith("features."):
        for pattern, into in _FROM_TORCHVISION:
            name = pattern.sub(into, name)
    return name


def _check(embed: int, depths: Sequence[int], heads: Sequence[int], window: int, drop_path: float) -> None:
    if len(depths) != 4 or min(depths) < 1 or len(heads) != 4 or min(heads) < 1:
        raise InputError(
            f"Depths {tuple(depths)} and heads {tuple(heads)} were given; four of each, of 1 or more, were expected."
        )
    if embed < 1 or any(embed * 2**index % count for index, count in enumerate(heads)):
        raise InputError(
            f"{embed} channels and heads {tuple(heads)} were given; each stage's heads were expected to divide its "
            "channels, which double from stage to stage."
        )
    if window < 2 or not 0 <= drop_path < 1:
        raise InputError(
            f"A window of {window} and a drop path of {drop_path} were given; 2 or more, and 0 or more and below 1, were "
            "expected."
        )
