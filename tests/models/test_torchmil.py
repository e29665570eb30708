"""Bag networks beside torchmil's, on the same weights."""

import importlib
import warnings
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.models.bags import ABMIL, CLAM, ABMILSettings, CLAMSettings, _AttentionNetwork, bags_of
from counterstain.models.transmil import TransMIL, TransMILSettings
from counterstain.testing.slide_networks import random_slide, together

C, WIDTH, HIDDEN = 6, 16, 8


@pytest.fixture(scope="module")
def torchmil() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it loads warns of its own affairs
        return importlib.import_module("torchmil.models")


def copy_attention(theirs: nn.Module, ours: _AttentionNetwork) -> None:
    """Ours has two logits and a bias before the softmax, which cancels; theirs has the log-odds."""
    pool, head, attention = theirs.pool, theirs.classifier, ours.attention
    theirs.feat_ext.load_state_dict(ours.embed.state_dict())
    pool.fc1.module.load_state_dict(attention.value.state_dict())
    pool.fc_gated.module.load_state_dict(attention.gate.state_dict())
    pool.fc2.weight.copy_(attention.score.weight)
    copy_head(head.module, ours.head)


def copy_head(theirs: nn.Linear, ours: nn.Linear) -> None:
    theirs.weight.copy_(ours.weight.diff(dim=0))
    theirs.bias.copy_(ours.bias.diff())


def embedding() -> nn.Sequential:
    return nn.Sequential(nn.Linear(C, WIDTH), nn.ReLU(), nn.Dropout(0.0))


def check_close(found: Tensor, expected: Tensor) -> None:
    difference = float((found - expected).abs().max())
    assert difference <= 1e-5 * (1 + float(expected.abs().max()))


@torch.no_grad()
def test_abmil_is_torchmil_s(torchmil: ModuleType) -> None:
    torch.manual_seed(0)
    ours = ABMIL(C, ABMILSettings(WIDTH, HIDDEN, evidence="attention")).eval()
    theirs = torchmil.ABMIL((C,), att_dim=HIDDEN, gated=True, feat_ext=embedding()).eval()
    copy_attention(theirs, ours)
    batch = together([random_slide(rows, 7, C, seed=rows) for rows in (4, 6, 5)])
    bags = bags_of(batch)
    log_odds_B, scores_BN = theirs(bags.cells_BNC, bags.is_cell_BN.float(), return_att=True)
    check_close(ours(batch).diff(dim=1)[:, 0], log_odds_B)
    shares_BN = scores_BN.masked_fill(~bags.is_cell_BN, -torch.inf).softmax(1)
    check_close(ours.evidence(batch)[batch.observed_B1HW[:, 0] > 0], shares_BN[bags.is_cell_BN])


@torch.no_grad()
def test_clam_and_its_clustering_are_torchmil_s(torchmil: ModuleType) -> None:
    torch.manual_seed(0)
    settings = CLAMSettings(False, WIDTH, HIDDEN, 0.0, num_picked=3, instance_loss="cross_entropy", exclusive=True)
    ours = CLAM(C, settings).eval()
    theirs = torchmil.CLAM_SB((C,), att_dim=HIDDEN, gated=True, feat_ext=embedding(), k_sample=3).eval()
    copy_attention(theirs, ours)
    # torchmil 1.0.2 gives its SVM targets as a column, which pairs every cell with every other's target
    theirs.inst_loss_fn.forward = lambda logits_MK, targets_M1: F.cross_entropy(logits_MK, targets_M1[:, 0].long())
    for cluster, own in zip(theirs.inst_classifiers, ours.clusters, strict=True):
        cluster.module.load_state_dict(own.state_dict())
    batch, labels_B = together([random_slide(rows, 7, C, seed=rows) for rows in (4, 6, 5)]), torch.tensor([1, 0, 1])
    bags = bags_of(batch)
    log_odds_B, scores_BN, cells_BND = theirs(bags.cells_BNC, bags.is_cell_BN.float(), return_att=True, return_emb=True)
    logits_BK, extra = ours.learn(batch, labels_B)
    check_close(logits_BK.diff(dim=1)[:, 0], log_odds_B)
    # theirs sums over slides and classes, ours is the mean, weighed 0.3 to 0.7
    theirs_extra = theirs.compute_inst_loss(scores_BN, cells_BND, labels_B, bags.is_cell_BN)
    check_close(extra, theirs_extra / (3 * 2) * 0.3 / 0.7)


@pytest.mark.parametrize("num_cells", [1, 9, 25, 30])
@torch.no_grad()
def test_transmil_is_torchmil_s(torchmil: ModuleType, num_cells: int) -> None:
    torch.manual_seed(0)
    settings = TransMILSettings(WIDTH, heads=2, landmarks=4, dropout=0.0, evidence="attention")
    ours = TransMIL(C, settings).eval()
    extractor = embedding()
    theirs = torchmil.TransMIL((C,), WIDTH, 2, n_heads=2, n_landmarks=4, feat_ext=extractor).eval()
    extractor.load_state_dict(ours.embed.state_dict())
    theirs.cls_token.copy_(ours.class_token)
    for layer, own in zip(theirs.layers, (ours.first, ours.last), strict=True):
        # theirs has neither the convolution over values nor the linear layer behind the heads
        own.attention.skip.weight.zero_()
        own.attention.out.weight.copy_(torch.eye(WIDTH))
        own.attention.out.bias.zero_()
        layer.norm1.load_state_dict(own.norm.state_dict())
        layer.att_module.qkv_nn.load_state_dict(own.attention.queries_keys_values.state_dict())
    kernels = (theirs.pos_layer.proj, theirs.pos_layer.proj1, theirs.pos_layer.proj2)
    for kernel, own_kernel in zip(kernels, ours.positions.kernels, strict=True):
        kernel.load_state_dict(own_kernel.state_dict())
    theirs.norm.load_state_dict(ours.norm.state_dict())
    copy_head(theirs.classifier, ours.head)
    slide = random_slide(1, num_cells, C, share=1.1)
    log_odds_B, attention_BN = theirs(slide.features_BCHW[:, :, 0].mT, return_att=True)
    check_close(ours(slide).diff(dim=1)[:, 0], log_odds_B)
    if num_cells in (9, 25):  # of a full square: theirs drops what its copies get
        check_close(ours.evidence(slide)[0], attention_BN)
