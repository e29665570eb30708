"""DSNet: the paper's numbers, what must not change its answer, its shares and its evidence."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError, UnknownNameError
from counterstain.models.dsnet import DSNet, DSNetArchitecture
from counterstain.models.dsnet_blocks import Projection
from counterstain.models.slide_network import SlideBatch
from counterstain.models.sparse import Propagation, SparseConv, Support

PAPER = DSNetArchitecture()
ABLATIONS: dict[str, dict[str, Any]] = {
    "dense": {"sparse": False},
    "local": {"streams": "local"},
    "regional": {"streams": "regional"},
    "plain regional": {"multi_scale": False},
    "plain local": {"concurrent_bottleneck": False},
    "no spatial bottleneck": {"spatial_bottleneck": False},
    "no stream attention": {"stream_attention": False},
    "no channel attention": {"channel_attention": False},
    "no attention": {"stream_attention": False, "channel_attention": False},
    "masked thumbnail": {"mask_thumbnail": True},
    "uhrig": {"propagation": "uhrig"},
    "instance": {"norm": "instance"},
    "group": {"norm": "group"},
    "separable": {"separable": True, "ratio_cb": 4, "multi_scale_shortcut": True},
    "other embeddings": {"num_features": 20},
}


def network(seed: int = 0, num_features: int = 128, **options: Any) -> DSNet:
    torch.manual_seed(seed)
    return DSNet(num_features, replace(PAPER, **options))


def size_of(module: nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def slides(height: int, width: int, num_slides: int = 2, channels: int = 128, seed: int = 0) -> SlideBatch:
    """Slides that fill their batch, with two cells of five observed."""
    generator = torch.Generator().manual_seed(seed)
    observed_B1HW = (torch.rand(num_slides, 1, height, width, generator=generator) < 0.4).float()
    observed_B1HW[:, :, 0, 0] = 1
    return SlideBatch(
        torch.rand(num_slides, channels, height, width, generator=generator) * observed_B1HW,
        observed_B1HW,
        torch.ones(num_slides, 1, height, width),
        torch.rand(num_slides, 3, 2 * height, 2 * width, generator=generator),
    )


def padded(batch: SlideBatch, bottom: int, right: int) -> SlideBatch:
    assert batch.thumbnails_B3HW is not None
    return SlideBatch(
        F.pad(batch.features_BCHW, (0, right, 0, bottom)),
        F.pad(batch.observed_B1HW, (0, right, 0, bottom)),
        F.pad(batch.extent_B1HW, (0, right, 0, bottom)),
        F.pad(batch.thumbnails_B3HW, (0, 2 * right, 0, 2 * bottom)),
    )


def double(batch: SlideBatch) -> SlideBatch:
    assert batch.thumbnails_B3HW is not None
    return SlideBatch(
        batch.features_BCHW.double(),
        batch.observed_B1HW.double(),
        batch.extent_B1HW.double(),
        batch.thumbnails_B3HW.double(),
    )


def single(batch: SlideBatch, number: int) -> SlideBatch:
    assert batch.thumbnails_B3HW is not None
    part = slice(number, number + 1)
    return SlideBatch(
        batch.features_BCHW[part], batch.observed_B1HW[part], batch.extent_B1HW[part], batch.thumbnails_B3HW[part]
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1_071_335),
        ({"levels": (1,)}, 1_061_927),
        ({"levels": (1, 2, 3, 4, 5)}, 1_080_743),
        ({"separable": True, "ratio_cb": 4, "multi_scale_shortcut": True}, 1_112_315),
        ({"multi_scale_shortcut": True, "head_width": 64}, 1_120_839),
        ({"num_features": 1024}, 1_071_335 + 1024 * 128),
        ({"propagation": "uhrig"}, 1_071_335),
        ({"sparse": False}, 1_071_335),
        ({"norm": "instance"}, 1_071_335),
        ({"spatial_bottleneck": False}, 1_071_335),
        ({"stream_attention": False}, 1_071_335 - 6_441),
        ({"channel_attention": False}, 1_071_335 - 13_140),
        ({"streams": "local"}, 1_071_335 - 14_176 - 232_636 - 6_441),
        ({"streams": "regional"}, 1_071_335 - 434_636 - 6_441),
    ],
)
def test_parameters_are_as_many_as_its_formulas_give(options: dict[str, Any], expected: int) -> None:
    assert size_of(network(**options)) == expected


def test_every_part_has_its_share_of_the_papers_one_million() -> None:
    net = network()
    assert [size_of(block) for block in net.bottlenecks] == [40_212, 82_824, 125_120, 186_480]
    assert [size_of(block) for block in net.multi_scale] == [5_936, 25_308, 76_992, 124_400]
    assert size_of(net.stem) == 14_176
    assert size_of(net.stream_attention) == 6_441
    assert size_of(net.channel_attention) == 13_140
    assert (size_of(net.last.conv), size_of(net.last.norm)) == (204_800, 1_280)
    assert (size_of(net.head.hidden), size_of(net.head.logits)) == (163_968, 258)


@torch.no_grad()
def test_both_streams_end_on_one_grid_for_slides_of_any_size() -> None:
    net, sizes = network().eval(), []
    for block in (net.bottlenecks[-1], net.multi_scale[-1]):
        block.register_forward_hook(lambda _, __, found: sizes.append(tuple(found[0].shape[1:])))
    for height, width in [*((height, 41 - height) for height in range(1, 41)), (37, 37), (97, 101)]:
        sizes.clear()
        logits_B2 = net(slides(height, width, num_slides=1))
        assert sizes == [(320, -(-height // 4), -(-width // 4))] * 2
        assert logits_B2.shape == (1, 2)
        assert torch.isfinite(logits_B2).all()


@torch.no_grad()
@pytest.mark.parametrize("options", ABLATIONS.values(), ids=ABLATIONS.keys())
@pytest.mark.parametrize("is_training", [False, True])
def test_padding_changes_nothing(options: dict[str, Any], is_training: bool) -> None:
    net = network(**options).double().train(is_training)
    for size, bottom, right in (((8, 12), 4, 8), ((7, 5), 1, 0), ((5, 1), 2, 5)):
        batch = double(slides(*size, channels=options.get("num_features", 128)))
        torch.testing.assert_close(net(padded(batch, bottom, right)), net(batch), rtol=1e-12, atol=1e-10)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Several threads share out a convolution by its size, and round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.no_grad()
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("propagation", ["strided", "uhrig"])
def test_on_one_thread_padding_changes_the_last_bit_of_float32_at_most_where_grids_are_not_small(
    propagation: Propagation,
) -> None:
    net = network(propagation=propagation)
    for seed in range(5):
        net(slides(16, 16, seed=seed))
    for size in ((16, 20), (23, 17), (40, 33)):
        expected = net.eval()(slides(*size))
        torch.testing.assert_close(net(padded(slides(*size), 11, 6)), expected, rtol=0, atol=4e-8)


@torch.no_grad()
@pytest.mark.parametrize("propagation", ["strided", "uhrig"])
def test_padding_changes_but_the_last_digits_of_float32(propagation: Propagation) -> None:
    net = network(propagation=propagation)
    for seed in range(5):
        net(slides(16, 16, seed=seed))
    for size in ((16, 20), (13, 7)):
        expected = net.eval()(slides(*size))
        torch.testing.assert_close(net(padded(slides(*size), 11, 6)), expected, rtol=0, atol=3e-6)


@torch.no_grad()
@pytest.mark.parametrize("options", ABLATIONS.values(), ids=ABLATIONS.keys())
@pytest.mark.parametrize("is_training", [False, True])
def test_what_stands_in_unobserved_cells_changes_not_a_bit(options: dict[str, Any], is_training: bool) -> None:
    batch = slides(9, 7, channels=options.get("num_features", 128))
    net = network(**options).train(is_training)
    expected = net(batch)
    for garbage in (1e6, torch.nan, torch.inf):
        found = net(replace(batch, features_BCHW=batch.features_BCHW.masked_fill(batch.observed_B1HW == 0, garbage)))
        assert torch.equal(found, expected)


@pytest.mark.parametrize("options", ABLATIONS.values(), ids=ABLATIONS.keys())
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    net = network(**options)
    F.cross_entropy(net(slides(16, 12, channels=options.get("num_features", 128))), torch.tensor([0, 1])).backward()
    idle = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not idle


@pytest.mark.parametrize("options", ABLATIONS.values(), ids=ABLATIONS.keys())
def test_slides_without_any_observed_cell_and_of_one_cell_stay_finite(options: dict[str, Any]) -> None:
    channels = options.get("num_features", 128)
    empty = slides(9, 6, channels=channels)
    empty.observed_B1HW[0], empty.features_BCHW[0] = 0, 0
    alone, one_cell = single(empty, 0), slides(1, 1, num_slides=1, channels=channels)
    net = network(**options)
    for batch in (empty, alone, one_cell):
        for is_training in (True, False):
            logits_B2 = net.train(is_training)(batch)
            logits_B2.sum().backward()
            assert torch.isfinite(logits_B2).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters() if parameter.grad is not None)
    assert torch.isnan(net.evidence(alone)).all()
    assert torch.isfinite(net.evidence(one_cell)).all()


@torch.no_grad()
def test_wide_embeddings_are_projected_as_by_a_layer_norm_of_every_cell_a_mask_and_a_convolution() -> None:
    batch = slides(9, 7, channels=20)
    projection = Projection(20, 128)
    support = Support(batch.observed_B1HW, batch.extent_B1HW)
    normed_BHWC = F.layer_norm(batch.features_BCHW.movedim(1, -1), (20,))
    expected, _ = projection.conv(normed_BHWC.movedim(-1, 1) * batch.observed_B1HW, support)
    torch.testing.assert_close(projection(batch.features_BCHW, batch.observed_B1HW), expected)


@torch.no_grad()
def test_with_every_cell_observed_masks_propagate_alike() -> None:
    batch = slides(10, 7)
    batch = replace(batch, observed_B1HW=batch.extent_B1HW)
    torch.testing.assert_close(network(propagation="strided")(batch), network(propagation="uhrig")(batch))


@torch.no_grad()
def test_a_masked_thumbnail_is_blank_where_no_cell_was_observed() -> None:
    batch = slides(6, 6)
    assert batch.thumbnails_B3HW is not None
    observed_B1HW = batch.observed_B1HW.repeat_interleave(2, 2).repeat_interleave(2, 3)
    by_hand = replace(batch, thumbnails_B3HW=batch.thumbnails_B3HW * observed_B1HW)
    found = network(mask_thumbnail=True)(batch)
    assert torch.equal(found, network()(by_hand))
    assert not torch.equal(found, network()(batch))


@torch.no_grad()
def test_one_stream_does_not_look_at_the_other() -> None:
    batch, other = slides(8, 8), slides(8, 8, seed=1)
    local, regional = network(streams="local"), network(streams="regional")
    assert not local.needs_thumbnails
    assert regional.needs_thumbnails
    assert torch.equal(local(replace(batch, thumbnails_B3HW=None)), local(batch))
    assert torch.equal(regional(replace(batch, features_BCHW=other.features_BCHW)), regional(batch))
    with pytest.raises(InputError, match="set streams = 'local'"):
        regional(replace(batch, thumbnails_B3HW=None))


@torch.no_grad()
@pytest.mark.parametrize(("bias", "share"), [(100.0, 1.0), (-100.0, 0.0)])
def test_the_share_is_the_local_streams(bias: float, share: float) -> None:
    net, batch, other = network().eval(), slides(8, 8), slides(8, 8, seed=1)
    assert net.stream_attention is not None
    nn.init.constant_(net.stream_attention.excite.bias, bias)
    found_B = net.local_shares(batch)
    assert found_B is not None
    assert found_B.tolist() == pytest.approx([share, share])
    with_other_features = replace(batch, features_BCHW=other.features_BCHW * batch.observed_B1HW)
    with_other_thumbnails = replace(batch, thumbnails_B3HW=other.thumbnails_B3HW)
    unchanged, changed = with_other_thumbnails, with_other_features
    if share == 0:
        unchanged, changed = changed, unchanged
    torch.testing.assert_close(net(unchanged), net(batch))
    assert (net(changed) - net(batch)).abs().max() > 1e-4


def test_there_are_no_shares_where_streams_are_not_weighed() -> None:
    for options in ({"streams": "local"}, {"streams": "regional"}, {"stream_attention": False}):
        assert network(**options).local_shares(slides(4, 4)) is None


def evidence_by_hand(net: DSNet, batch: SlideBatch) -> tuple[Tensor, Tensor]:
    """Grad-CAM's coarse map and its mask for one slide, with gradients through the whole network and sums over cells."""
    caught: list[Tensor] = []
    handle = net.last.register_forward_hook(lambda _, __, found: caught.extend([found[0], found[1].observed_B1HW]))
    logits_B2 = net(batch)
    handle.remove()
    features_BChw, mask_B1hw = caught
    (slopes_BChw,) = torch.autograd.grad(logits_B2[0, 1], features_BChw)
    cells_n2 = mask_B1hw[0, 0].nonzero().tolist()
    weights_C = torch.stack([slopes_BChw[0, :, i, j] for i, j in cells_n2]).mean(0)
    coarse_hw = torch.full(mask_B1hw.shape[2:], torch.nan)
    for i, j in cells_n2:
        coarse_hw[i, j] = max(0.0, float(weights_C @ features_BChw[0, :, i, j].detach()))
    return coarse_hw, mask_B1hw[0, 0]


def enlarged_by_hand(coarse_hw: Tensor, row: int, column: int) -> float:
    """Four times as fine, by bilinear weights of the nearest coarse centres that lie on the grid and are no NaN."""
    at, total, weights = (row / 4, column / 4), 0.0, 0.0
    for i in range(coarse_hw.shape[0]):
        for j in range(coarse_hw.shape[1]):
            weight = max(0.0, 1 - abs(at[0] - i)) * max(0.0, 1 - abs(at[1] - j))
            if weight and not coarse_hw[i, j].isnan():
                total, weights = total + weight * float(coarse_hw[i, j]), weights + weight
    return total / weights


@pytest.mark.parametrize("propagation", ["strided", "uhrig"])
def test_evidence_is_grad_cam_by_hand(propagation: Propagation) -> None:
    net, batch = network(propagation=propagation).eval(), slides(11, 14, num_slides=1)
    coarse_hw, _ = evidence_by_hand(net, batch)
    assert float(coarse_hw.nan_to_num().max()) > 0
    found_HW = net.evidence(batch)[0]
    for row in range(11):
        for column in range(14):
            if batch.observed_B1HW[0, 0, row, column]:
                assert float(found_HW[row, column]) == pytest.approx(
                    enlarged_by_hand(coarse_hw, row, column), rel=1e-4, abs=1e-7
                )
            else:
                assert found_HW[row, column].isnan()


@pytest.mark.parametrize("stream", ["local", "regional"])
def test_a_coarse_cell_sees_around_the_cell_it_is_enlarged_about(stream: str) -> None:
    net = network(streams=stream, channel_attention=False, levels=(1,)).eval()
    for module in net.modules():
        if isinstance(module, SparseConv):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    batch = slides(88, 88, num_slides=1)
    assert batch.thumbnails_B3HW is not None
    batch = replace(batch, observed_B1HW=batch.extent_B1HW, features_BCHW=1 + torch.rand(1, 128, 88, 88))
    given = batch.features_BCHW if stream == "local" else batch.thumbnails_B3HW
    given.requires_grad_()
    caught: list[Tensor] = []
    net.last.register_forward_hook(lambda _, __, found: caught.append(found[0]))
    net(batch)
    away = []
    for at in (
        10,
        11,
    ):  # one after the other: pools of 2 x 2 within lean to one side at even cells, to the other at odd
        (slopes_1CHW,) = torch.autograd.grad(caught[0][0, :, at, at].sum(), given, retain_graph=True)
        rows_H = slopes_1CHW[0].sum((0, 2)).reshape(88, -1).sum(1)
        away.append(float((rows_H * torch.arange(88)).sum() / rows_H.sum()) - 4 * at)
    assert sum(away) / 2 == pytest.approx(0, abs=0.75)


@pytest.mark.parametrize("evidence_kind", ["grad_cam", "integrated"])
@pytest.mark.parametrize("propagation", ["strided", "uhrig"])
def test_evidence_is_a_slides_own_whatever_batch_and_padding(evidence_kind: str, propagation: Propagation) -> None:
    net = network(evidence_kind=evidence_kind, propagation=propagation)
    batch = slides(10, 7, num_slides=3)
    whole = net.evidence(padded(batch, 7, 4))
    assert whole[:, 10:].isnan().all()
    assert whole[:, :, 7:].isnan().all()
    for number in range(3):
        alone_HW = net.evidence(single(batch, number))[0]
        assert torch.equal(alone_HW.isnan(), batch.observed_B1HW[number, 0] == 0)
        torch.testing.assert_close(whole[number, :10, :7], alone_HW, rtol=1e-3, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("evidence_kind", ["grad_cam", "integrated"])
def test_evidence_leaves_no_trace_and_can_be_asked_without_gradients(evidence_kind: str) -> None:
    net, batch = network(evidence_kind=evidence_kind), slides(6, 6)
    net.head.eval()
    expected = net.evidence(batch)
    assert net.training
    assert not net.head.training
    with torch.no_grad():
        torch.testing.assert_close(net.evidence(batch), expected, equal_nan=True)
    with torch.inference_mode():
        torch.testing.assert_close(net.evidence(batch), expected, equal_nan=True)
    assert not expected.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("options", [{"ratio_cb": 7}, {"ratio_ms": 0}, {"head_width": 0}, {"levels": ()}])
def test_numbers_that_make_no_network_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        replace(PAPER, **options)


@pytest.mark.parametrize("field", ["propagation", "norm", "streams", "evidence_kind"])
def test_unknown_names_are_refused(field: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Unknown {field} 'nonsense'"):
        replace(PAPER, **{field: "nonsense"})


def signalled(seed: int, stream: str, num_slides: int = 8) -> tuple[SlideBatch, Tensor, Tensor]:
    """Slides of 16 x 16 cells, labels, and a lesion of 3 x 3 cells, in one stream alone, in every other one."""
    batch = slides(16, 16, num_slides=num_slides, seed=seed)
    batch = replace(batch, observed_B1HW=batch.extent_B1HW)
    generator = torch.Generator().manual_seed(seed)
    batch.features_BCHW.copy_(torch.rand(batch.features_BCHW.shape, generator=generator))
    assert batch.thumbnails_B3HW is not None
    labels_B, lesions_BHW = torch.arange(num_slides) % 2, torch.zeros(num_slides, 16, 16, dtype=torch.bool)
    for number in labels_B.nonzero().flatten().tolist():
        i, j = torch.randint(0, 13, (2,), generator=generator).tolist()
        if stream == "local":
            batch.features_BCHW[number, :16, i : i + 3, j : j + 3] += 1
        else:
            batch.thumbnails_B3HW[number, :, 2 * i : 2 * i + 6, 2 * j : 2 * j + 6] += 1
        lesions_BHW[number, i : i + 3, j : j + 3] = True
    return batch, labels_B, lesions_BHW


def trained(net: DSNet, stream: str, steps: int) -> None:
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for step in range(steps):
        batch, labels_B, _ = signalled(step, stream)
        optimiser.zero_grad()
        logits_B2, added = net.train().learn(batch, labels_B)
        (F.cross_entropy(logits_B2, labels_B) + added).backward()
        optimiser.step()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stream", ["local", "regional"])
def test_the_gate_opens_for_the_stream_that_has_the_signal_and_evidence_points_at_it(stream: str) -> None:
    net = network(evidence_kind="integrated")
    trained(net, stream, steps=100)
    batch, labels_B, lesions_BHW = signalled(10_000, stream, num_slides=16)
    with torch.no_grad():
        logits_B2, share_B = net.eval()(batch), net.local_shares(batch)
    assert share_B is not None
    margins_B = logits_B2[:, 1] - logits_B2[:, 0]
    assert float(margins_B[labels_B == 1].min()) > float(margins_B[labels_B == 0].max())
    assert (float(share_B.mean()) > 0.6) if stream == "local" else (float(share_B.mean()) < 0.4)
    largest_B = net.evidence(batch).flatten(1).argmax(1)
    hits_B = lesions_BHW.flatten(1).gather(1, largest_B[:, None])[:, 0]
    assert float(hits_B[labels_B == 1].float().mean()) > 0.8
