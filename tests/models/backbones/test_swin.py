"""Swin-T: published sizes and names, and blocks against loops over cells."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError, WeightsError
from counterstain.models import build_backbone, count, load_backbone_weights
from counterstain.models.backbones.swin import SwinT, _Block, _DropPath, _Merge, _Shape
from counterstain.testing.backbones import images

PUBLISHED = 28_288_354  # parameters of Swin-T with its last norm and its classifier of 1000 classes
CLASSIFIER, LAST_NORM, TAP_NORMS = 769_000, 2 * 768, 2 * (96 + 192 + 384 + 768)


def small(seed: int = 0, window: int = 3, drop_path: float = 0.2) -> SwinT:
    torch.manual_seed(seed)
    return SwinT(8, (2, 1, 2, 1), (1, 2, 4, 4), window, drop_path)


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        counted = count(build_backbone("swin_tiny"))
    assert counted.parameters == PUBLISHED - CLASSIFIER - LAST_NORM + TAP_NORMS
    assert PUBLISHED - CLASSIFIER == 27_519_354
    assert counted.macs / 1e9 == pytest.approx(4.49, abs=0.01)  # torchvision's swin_t, classifier and all


def test_names_are_the_first_releases() -> None:
    with torch.device("meta"):
        state = {name: tuple(tensor.shape) for name, tensor in SwinT().state_dict().items()}
    published = {name: shape for name, shape in state.items() if not re.match(r"norm\d", name)}
    assert len(published) == 173 - 2 - 2  # of the file's tensors, `norm` and `head` are not ours; buffers not counted
    assert published["patch_embed.proj.weight"] == (96, 3, 4, 4)
    assert published["patch_embed.norm.bias"] == (96,)
    assert published["layers.0.blocks.0.attn.relative_position_bias_table"] == (169, 3)
    assert published["layers.1.downsample.reduction.weight"] == (384, 768)
    assert published["layers.1.downsample.norm.weight"] == (768,)
    assert published["layers.2.blocks.5.attn.qkv.weight"] == (1152, 384)
    assert published["layers.3.blocks.1.mlp.fc1.weight"] == (3072, 768)
    assert published["layers.3.blocks.1.mlp.fc2.bias"] == (768,)
    assert not any("index" in name or "mask" in name for name in state)


def slow_block(block: _Block, x: Tensor) -> Tensor:
    """Cell by cell: which cells it sees, with which bias, from the definition of a shifted window."""
    window, (_, rows, columns, channels) = block.window, x.shape
    padded = (-(-rows // window) * window, -(-columns // window) * window)
    shifts = [block.shift if side > window else 0 for side in padded]
    normed = F.pad(block.norm1(x), (0, 0, 0, padded[1] - columns, 0, padded[0] - rows))
    heads, table = block.attn.heads, block.attn.relative_position_bias_table
    queries, keys, values = block.attn.qkv(normed).chunk(3, dim=3)
    out = torch.zeros_like(x)
    places = [(row, column) for row in range(padded[0]) for column in range(padded[1])]
    # the window that a cell lies in, counted from a grid that starts `shift` cells in: -1 for those before it
    window_of = {
        place: tuple((at - shift) // window for at, shift in zip(place, shifts, strict=True)) for place in places
    }
    for image in range(len(x)):
        for row, column in ((row, column) for row in range(rows) for column in range(columns)):
            seen = [place for place in places if window_of[place] == window_of[row, column]]
            context = []
            for head in range(heads):
                part = slice(head * channels // heads, (head + 1) * channels // heads)
                query = queries[image, row, column, part] * (channels // heads) ** -0.5
                energies = [
                    query @ keys[image, i, j, part]
                    + table[(row - i + window - 1) * (2 * window - 1) + column - j + window - 1, head]
                    for i, j in seen
                ]
                weights = torch.stack(energies).softmax(0)
                context.append(weights @ torch.stack([values[image, i, j, part] for i, j in seen]))
            out[image, row, column] = x[image, row, column] + block.attn.proj(torch.cat(context))
    return out + block.mlp(block.norm2(out))


def stirred_block(window: int, is_shifted: bool) -> _Block:
    """Biases and offsets that do something."""
    torch.manual_seed(0)
    block = _Block(_Shape(4, 2, window, is_shifted, 0.0)).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


@pytest.mark.parametrize("is_shifted", [False, True])
@pytest.mark.parametrize(("window", "rows", "columns"), [(3, 6, 9), (3, 5, 7), (4, 8, 4), (2, 3, 3), (3, 2, 2)])
@torch.no_grad()
def test_a_block_sees_what_its_windows_say(window: int, rows: int, columns: int, is_shifted: bool) -> None:
    block, x = stirred_block(window, is_shifted), torch.randn(2, rows, columns, 4)
    torch.testing.assert_close(block(x), slow_block(block, x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_nothing_is_seen_across_the_wrapped_border() -> None:
    block, x = stirred_block(4, True), torch.randn(1, 12, 12, 4)
    changed = x.clone()
    changed[:, -1, -1] += 100
    moved = (block(changed) - block(x)).abs().sum((0, 3)) > 0
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[-2:, -2:] = True  # windows of 4 that start 2 in leave 2 cells at the border
    assert torch.equal(moved, expected)


@torch.no_grad()
def test_mergings_take_cells_down_before_across() -> None:
    torch.manual_seed(0)
    merge, x = _Merge(3), torch.randn(1, 3, 4, 3)
    merged = merge(x)
    assert tuple(merged.shape) == (1, 2, 2, 6)
    cells = torch.cat([x[0, 0, 2], x[0, 1, 2], x[0, 0, 3], x[0, 1, 3]])
    torch.testing.assert_close(merged[0, 0, 1], merge.reduction(merge.norm(cells)))
    nothing = torch.zeros(3)
    cells = torch.cat([x[0, 2, 0], nothing, x[0, 2, 1], nothing])
    torch.testing.assert_close(merged[0, 1, 0], merge.reduction(merge.norm(cells)))


def test_drop_path_leaves_out_images_by_torchs_own_numbers_and_keeps_the_mean() -> None:
    drop, x = _DropPath(0.25), torch.ones(4000, 1, 1, 2)
    torch.manual_seed(3)
    first = drop.train()(x)
    torch.manual_seed(3)
    assert torch.equal(first, drop(x))
    assert not torch.equal(first, drop(x))
    assert torch.equal(first[..., 0], first[..., 1])
    assert first.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(first.mean()) == pytest.approx(1, abs=0.04)
    assert torch.equal(drop.eval()(x), x)


def test_drop_path_rises_evenly_from_nothing() -> None:
    with torch.device("meta"):
        rates = [module.rate for module in SwinT().modules() if isinstance(module, _DropPath)]
    assert rates == pytest.approx([0.2 * block / 11 for block in range(12)])


@torch.no_grad()
def test_taps_are_the_stages_outputs_after_norms_of_their_own() -> None:
    backbone, batch = small().eval(), images(40, 33)
    for norm in ("norm0", "norm1", "norm2", "norm3"):
        nn.init.normal_(backbone.get_submodule(norm).weight)
    taps, trunk = backbone(batch), backbone.trunk(backbone.normalise(batch))
    for index in range(3):
        norm = backbone.get_submodule(f"norm{index}")
        torch.testing.assert_close(taps[index], norm(trunk[index].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    assert torch.equal(taps[3], trunk[3])


def file_of(backbone: SwinT) -> dict[str, Tensor]:
    """A file of the first release with a backbone's values."""
    state = {name: tensor for name, tensor in backbone.state_dict().items() if not re.match(r"norm\d", name)}
    state |= {"norm.weight": torch.ones(64), "head.weight": torch.zeros(2, 64), "head.bias": torch.zeros(2)}
    state |= {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(9, 9, dtype=torch.int64)}
    return {**state, "layers.0.blocks.1.attn_mask": torch.zeros(4, 9, 9)}


def test_a_file_of_the_first_release_fills_all_but_the_taps_norms(tmp_path: Path) -> None:
    source = small()
    torch.save({"model": file_of(source)}, tmp_path / "swin.pth")
    backbone = small(1)
    audit = load_backbone_weights(backbone, tmp_path / "swin.pth")
    assert audit.missing == tuple(f"norm{index}.{kind}" for index in range(4) for kind in ("weight", "bias"))
    assert {"head.weight", "norm.weight", "layers.0.blocks.1.attn_mask"} <= set(audit.left_over)
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in backbone.state_dict().items())


def test_torchvisions_names_are_moved(tmp_path: Path) -> None:
    source, state = small(), {}
    for name, tensor in file_of(source).items():
        if "mask" in name:
            continue
        name = name.replace("patch_embed.proj", "features.0.0").replace("patch_embed.norm", "features.0.2")
        name = name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")
        for stage in range(4):
            name = name.replace(f"layers.{stage}.blocks", f"features.{2 * stage + 1}")
            name = name.replace(f"layers.{stage}.downsample", f"features.{2 * stage + 2}")
        state[name] = tensor
    assert {"features.3.0.attn.qkv.weight", "features.4.reduction.weight", "features.7.0.mlp.3.bias"} <= set(state)
    torch.save(state, tmp_path / "swin_t.pth")
    backbone = small(1)
    load_backbone_weights(backbone, tmp_path / "swin_t.pth")
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("lost", ["layers.2.blocks.1.norm1.bias", "norm2.weight"])
def test_a_file_that_lacks_another_tensor_is_refused(lost: str, tmp_path: Path) -> None:
    state = small().state_dict()
    del state[lost]
    torch.save(state, tmp_path / "swin.pth")
    with pytest.raises(WeightsError, match=f"1 missing: {re.escape(lost)}"):
        load_backbone_weights(small(), tmp_path / "swin.pth")


@torch.no_grad()
def test_without_its_deepest_stage_the_other_taps_are_the_same(tmp_path: Path) -> None:
    whole, short, batch = small().eval(), small(1).eval(), images(33, 40)
    short.drop_deepest()
    assert (short.channels, short.strides) == ((8, 16, 32, 32), (4, 8, 16, 16))
    torch.save(whole.state_dict(), tmp_path / "swin.pth")
    audit = load_backbone_weights(short, tmp_path / "swin.pth")
    assert audit.missing == ()
    assert {name.rpartition(".")[0] for name in audit.left_over} >= {"norm3", "layers.2.downsample.reduction"}
    first, second, third, _ = whole(batch)
    assert all(
        torch.equal(tap, expected) for tap, expected in zip(short(batch), (first, second, third, third), strict=True)
    )


@pytest.mark.parametrize(
    "options",
    [{"depths": (2, 2, 6)}, {"depths": (0, 2, 6, 2)}, {"heads": (3, 6, 12, 25)}, {"window": 1}, {"drop_path": 1.0}],
)
def test_numbers_that_cannot_be_used_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="expected"):
        build_backbone("swin_tiny", **options)
