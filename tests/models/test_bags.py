"""Bags of cells: what is gathered, pooled and attended, and what CLAM adds, against slow twins and by hand."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from counterstain.errors import InputError, UnknownNameError
from counterstain.models.bags import (
    ABMIL,
    CLAM,
    ABMILSettings,
    CLAMSettings,
    PoolingNetwork,
    PoolingSettings,
    bags_of,
    masked_softmax,
    onto_grid,
    smooth_top1_svm,
)
from counterstain.models.slide_network import SlideBatch, SlideNetwork
from counterstain.testing.slide_networks import planted, random_slide, together

SMALL_CLAM = CLAMSettings(width=16, hidden=8, num_picked=3, dropout=0.0)


def slides() -> SlideBatch:
    return together([random_slide(rows, 7, 6, seed=rows) for rows in (4, 6, 5)])


def log_odds(network: SlideNetwork, batch: SlideBatch) -> Tensor:
    return network(batch).diff(dim=1)[:, 0]


def seeded(network_of: type, *arguments: object) -> SlideNetwork:
    torch.manual_seed(0)
    network: SlideNetwork = network_of(*arguments).eval()
    return network


def test_a_bag_holds_the_observed_cells_in_row_major_order() -> None:
    batch = slides()
    bags = bags_of(batch)
    assert torch.equal(bags.is_cell_BN.sum(1), batch.observed_B1HW.sum((1, 2, 3)).long())
    for index in range(len(batch)):
        rows = [
            batch.features_BCHW[index, :, row, column]
            for row in range(batch.features_BCHW.shape[2])
            for column in range(batch.features_BCHW.shape[3])
            if batch.observed_B1HW[index, 0, row, column] > 0
        ]
        assert torch.equal(bags.cells_BNC[index, : len(rows)], torch.stack(rows))
        assert not bags.cells_BNC[index, len(rows) :].any()


def test_what_was_gathered_goes_back_to_where_it_was() -> None:
    batch = slides()
    bags = bags_of(batch)
    grid_BHW = onto_grid(bags.cells_BNC[..., 2], bags, batch)
    expected_BHW = torch.where(batch.observed_B1HW[:, 0] > 0, batch.features_BCHW[:, 2], torch.nan)
    torch.testing.assert_close(grid_BHW, expected_BHW, rtol=0, atol=0, equal_nan=True)


def test_shares_of_attention_are_a_softmax_over_cells_alone() -> None:
    scores_BAN = torch.tensor([[[1.0, 2.0, 9.0]], [[5.0, 5.0, 5.0]], [[1.0, 1.0, 1.0]]])
    is_cell_BN = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    e = math.e
    expected_BAN = torch.tensor([[[1 / (1 + e), e / (1 + e), 0]], [[1 / 3] * 3], [[0.0] * 3]])
    torch.testing.assert_close(masked_softmax(scores_BAN, is_cell_BN), expected_BAN)
    half_BAN = masked_softmax(scores_BAN.half() * 7000, is_cell_BN)
    assert half_BAN.dtype == torch.float32
    assert bool(torch.isfinite(half_BAN).all())


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (PoolingNetwork(128), 128 * 2 + 2),
        (ABMIL(128), (128 * 512 + 512) + 2 * (512 * 128 + 128) + (128 + 1) + (512 * 2 + 2)),
        # the published small CLAM: fc, attention a and b, c, two bag classifiers, two instance classifiers of two
        (
            CLAM(1024),
            (1024 * 512 + 512) + 2 * (512 * 256 + 256) + (256 + 1) + 2 * (512 + 1) + 2 * (512 * 2 + 2),
        ),
        (
            CLAM(1024, CLAMSettings(multi_branch=True)),
            (1024 * 512 + 512) + 2 * (512 * 256 + 256) + 2 * (256 + 1) + 2 * (512 + 1) + 2 * (512 * 2 + 2),
        ),
    ],
    ids=["pooling", "abmil", "clam_sb", "clam_mb"],
)
def test_networks_have_as_many_parameters_as_published(network: SlideNetwork, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_published_small_clam_has_790791_parameters() -> None:
    assert sum(parameter.numel() for parameter in CLAM(1024).parameters()) == 790_791


@torch.no_grad()
def test_pooled_log_odds_are_the_mean_or_the_largest_of_the_cells() -> None:
    batch = slides()
    mean, largest = (seeded(PoolingNetwork, 6, PoolingSettings(pool)) for pool in ("mean", "max"))
    torch.testing.assert_close(mean.evidence(batch).nanmean((1, 2)), log_odds(mean, batch))
    cells_BHW = largest.evidence(batch).nan_to_num(nan=-torch.inf)
    torch.testing.assert_close(cells_BHW.amax((1, 2)), log_odds(largest, batch))


@pytest.mark.parametrize(
    "network",
    [
        seeded(ABMIL, 6, ABMILSettings(width=16, hidden=8)),
        seeded(CLAM, 6, SMALL_CLAM),
        seeded(CLAM, 6, replace(SMALL_CLAM, multi_branch=True)),
    ],
    ids=["abmil", "clam_sb", "clam_mb"],
)
@torch.no_grad()
def test_cells_parts_sum_to_the_slide_s_log_odds(network: SlideNetwork) -> None:
    batch = slides()
    torch.testing.assert_close(network.evidence(batch).nansum((1, 2)), log_odds(network, batch))


@pytest.mark.parametrize("multi_branch", [False, True])
@torch.no_grad()
def test_bare_attention_sums_to_one_and_is_the_positive_class_s(multi_branch: bool) -> None:
    batch = slides()
    network = seeded(CLAM, 6, replace(SMALL_CLAM, multi_branch=multi_branch, evidence="attention"))
    shares_BHW = network.evidence(batch)
    torch.testing.assert_close(shares_BHW.nansum((1, 2)), torch.ones(3))
    assert isinstance(network, CLAM)
    network.attention.score.weight[0] += 1.0
    assert torch.equal(network.evidence(batch).nan_to_num(), shares_BHW.nan_to_num()) == multi_branch


@pytest.mark.parametrize("evidence", ["parts", "attention"])
@torch.no_grad()
def test_abmil_is_gated_attention_cell_by_cell(evidence: str) -> None:
    network = seeded(ABMIL, 6, ABMILSettings(width=16, hidden=8, evidence=evidence))
    assert isinstance(network, ABMIL)
    slide, attention = random_slide(3, 4, 6), network.attention
    cells = [
        network.embed(slide.features_BCHW[0, :, row, column])
        for row, column in slide.observed_B1HW[0, 0].nonzero().tolist()
    ]
    scores = [
        float(attention.score(torch.tanh(attention.value(cell)) * torch.sigmoid(attention.gate(cell))))
        for cell in cells
    ]
    total = sum(math.exp(score) for score in scores)
    shares = [math.exp(score) / total for score in scores]
    descriptor_D = torch.stack([share * cell for share, cell in zip(shares, cells, strict=True)]).sum(0)
    torch.testing.assert_close(network(slide)[0], network.head(descriptor_D))
    shown = [
        share * (float(network.head(cell).diff()) if evidence == "parts" else 1.0)
        for share, cell in zip(shares, cells, strict=True)
    ]
    found_HW = network.evidence(slide)[0]
    torch.testing.assert_close(found_HW[slide.observed_B1HW[0, 0] > 0], torch.tensor(shown))


@torch.no_grad()
def test_the_order_of_cells_does_not_matter() -> None:
    slide = random_slide(4, 6, 6)
    turned = replace(slide, features_BCHW=slide.features_BCHW.flip(3).mT, observed_B1HW=slide.observed_B1HW.flip(3).mT)
    for network in (seeded(PoolingNetwork, 6), seeded(ABMIL, 6), seeded(CLAM, 6)):
        torch.testing.assert_close(network(turned), network(slide))
        turned_BHW = network.evidence(slide).flip(2).mT
        torch.testing.assert_close(network.evidence(turned), turned_BHW, equal_nan=True)


def test_the_smooth_svm_is_what_a_hand_works_out() -> None:
    losses_M = smooth_top1_svm(torch.tensor([[0.0, 0.0], [3.0, 1.0], [3.0, 1.0]]), torch.tensor([1, 0, 1]))
    expected_M = torch.tensor([math.log(1 + math.e), math.log(1 + math.exp(-1)), math.log(1 + math.exp(3))])
    torch.testing.assert_close(losses_M, expected_M)


def test_the_smooth_svm_is_the_hinge_where_logits_lie_far_apart() -> None:
    logits_MK = torch.tensor([[40.0, 0.0], [40.0, 0.0], [0.0, 1e4]])
    torch.testing.assert_close(smooth_top1_svm(logits_MK, torch.tensor([0, 1, 0])), torch.tensor([0.0, 41.0, 1e4 + 1]))


def clustering_twin(network: CLAM, slide: SlideBatch, label: int) -> float:
    """A slide's clustering loss, cell by cell."""
    settings = network.settings
    bags = bags_of(slide)
    cells_ND = network.embed(bags.cells_BNC)[0]
    num = min(settings.num_picked, len(cells_ND) // 2)
    total = 0.0
    for index, cluster in enumerate(network.clusters):
        branch = index if settings.multi_branch else 0
        scores = network.attention(cells_ND[None])[0, branch].tolist()
        ranked = sorted(range(len(scores)), key=lambda cell: -scores[cell])
        pairs = [(cell, 1 if index == label else 0) for cell in ranked[:num]]
        pairs += [(cell, 0) for cell in ranked[len(ranked) - num :]] if index == label else []
        if index != label and not settings.exclusive:
            continue
        losses = []
        for cell, target in pairs:
            logits_K = cluster(cells_ND[cell])
            if settings.instance_loss == "svm":
                margins_K = logits_K - logits_K[target] + torch.tensor([float(k != target) for k in range(2)])
                losses.append(math.log(sum(math.exp(margin) for margin in margins_K.tolist())))
            else:
                losses.append(-float(logits_K.log_softmax(0)[target]))
        total += sum(losses) / len(losses) if losses else 0.0
    return total / 2 if settings.exclusive else total


@pytest.mark.parametrize("multi_branch", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("instance_loss", ["svm", "cross_entropy"])
@torch.no_grad()
def test_clustering_is_that_of_a_slow_twin(multi_branch: bool, exclusive: bool, instance_loss: str) -> None:
    settings = replace(SMALL_CLAM, multi_branch=multi_branch, exclusive=exclusive, instance_loss=instance_loss)
    network = seeded(CLAM, 6, settings)
    assert isinstance(network, CLAM)
    single = [random_slide(*size, 6, seed=size[0]) for size in ((4, 7), (1, 1), (3, 3), (6, 5))]
    labels = [1, 0, 0, 1]
    logits_BK, extra = network.learn(together(single), torch.tensor(labels))
    twin = sum(clustering_twin(network, slide, label) for slide, label in zip(single, labels, strict=True)) / 4
    assert float(extra) == pytest.approx(twin * 0.3 / 0.7, rel=1e-4)
    torch.testing.assert_close(logits_BK, network(together(single)))


@torch.no_grad()
def test_a_bag_weight_of_one_is_no_clustering() -> None:
    network = seeded(CLAM, 6, replace(SMALL_CLAM, bag_weight=1.0))
    assert float(network.learn(slides(), torch.tensor([0, 1, 1]))[1]) == 0


@pytest.mark.parametrize(
    "network",
    [
        seeded(PoolingNetwork, 6),
        seeded(ABMIL, 6, ABMILSettings(width=16, hidden=8)),
        seeded(CLAM, 6, SMALL_CLAM),
        seeded(CLAM, 6, replace(SMALL_CLAM, multi_branch=True)),
    ],
    ids=["mean", "abmil", "clam_sb", "clam_mb"],
)
def test_after_learning_evidence_is_larger_on_a_planted_tumour(network: SlideNetwork) -> None:
    batch, labels_B, is_tumour_BHW = planted(8, 6)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(60):
        logits_BK, extra = network.learn(batch, labels_B)
        optimiser.zero_grad()
        (F.cross_entropy(logits_BK, labels_B) + extra).backward()
        optimiser.step()
    evidence_BHW = network.evidence(batch).detach()
    for index in labels_B.nonzero()[:, 0].tolist():
        inside, outside = evidence_BHW[index, is_tumour_BHW[index]], evidence_BHW[index, ~is_tumour_BHW[index]]
        assert float(inside.median()) > float(outside.nan_to_num(nan=-torch.inf).max())


@pytest.mark.parametrize(
    "settings",
    [
        CLAMSettings(bag_weight=0.0),
        CLAMSettings(bag_weight=1.5),
        CLAMSettings(num_picked=0),
        CLAMSettings(width=0),
        CLAMSettings(instance_loss="hinge"),  # type: ignore[arg-type]
        CLAMSettings(evidence="part"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: CLAMSettings) -> None:
    with pytest.raises(InputError, match=r"expected|Known"):
        CLAM(6, settings)


def test_unknown_poolings_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'mean'"):
        PoolingNetwork(6, PoolingSettings("mea"))  # type: ignore[arg-type]
