"""Slides as bags of cells: pooling, attention (ABMIL) and clustering-constrained attention (CLAM), to compare DSNet with.

    batch -> observed cells as padded bags -> an embedding of each cell -> one descriptor of the slide -> two logits

Cells have no place here: any order gives the same answer. Bags are gathered from observed cells alone, so that neither
padding nor what stands elsewhere can be seen. A slide without cells gets what the biases say. Own networks, compared with
torchmil's in tests: that has one logit, no CLAM of several branches, a smooth SVM that mixes cells, no masks in TransMIL.

Shapes: B slides, N cells of the largest bag, C channels, D width of an embedding, K classes (2), A branches of attention
(1, shared by the classes, or K), E linear classifiers, M cells that were picked, H W rows and columns.
Does not know: training, files, methods.
"""

from abc import ABC
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterstain.errors import InputError, UnknownNameError
from counterstain.models.slide_network import NUM_CLASSES, SlideBatch, SlideNetwork

AttentionEvidence = Literal["parts", "attention"]
"""What a network of attention shows. "parts": each cell's part of the slide's log-odds, attention times the log-odds that
the classifier gives this cell alone; a slide's cells sum to its log-odds, and a cell's sign says for which class it speaks.
"attention": bare shares that sum to 1, where the network looked, whatever it found. Both compare cells of one slide; over
slides they do not compare, as both shrink when more cells share."""

_EVIDENCE = ("parts", "attention")


@dataclass(frozen=True)
class Bags:
    """The observed cells of slides, in row-major order, padded to the largest bag.

    Args:
        cells_BNC: Float, 0 in padding; N is at least 1.
        is_cell_BN: bool, False in padding.
    """

    cells_BNC: Tensor
    is_cell_BN: Tensor


def bags_of(batch: SlideBatch) -> Bags:
    """The observed cells of each slide."""
    is_observed_BHW = batch.observed_B1HW[:, 0] > 0
    features_BHWC = batch.features_BCHW.movedim(1, -1)
    bags = [features[seen] for features, seen in zip(features_BHWC, is_observed_BHW, strict=True)]
    num_B = is_observed_BHW.sum((1, 2))
    length = max(1, *(len(bag) for bag in bags))
    cells_BNC = torch.stack([F.pad(bag, (0, 0, 0, length - len(bag))) for bag in bags])
    return Bags(cells_BNC, torch.arange(length, device=num_B.device) < num_B[:, None])


def onto_grid(values_BN: Tensor, bags: Bags, batch: SlideBatch) -> Tensor:
    """(B, H, W) float32: a number of each cell where the cell was, NaN where nothing was observed."""
    is_observed_BHW = batch.observed_B1HW[:, 0] > 0
    grid_BHW = torch.full(is_observed_BHW.shape, torch.nan, device=values_BN.device)
    grid_BHW[is_observed_BHW] = values_BN.float()[bags.is_cell_BN]
    return grid_BHW


def masked_softmax(scores_BAN: Tensor, is_cell_BN: Tensor) -> Tensor:
    """Shares of attention that sum to 1 over the cells of a slide; exactly 0 in padding, and all 0 for an empty bag.

    Args:
        scores_BAN: Float, of any precision; padding may hold anything finite.
        is_cell_BN: bool.

    Returns:
        (B, A, N) float32.
    """
    is_cell_B1N = is_cell_BN[:, None]
    scores_BAN = scores_BAN.float()
    lowest = torch.finfo(scores_BAN.dtype).min
    return scores_BAN.masked_fill(~is_cell_B1N, lowest).softmax(-1) * is_cell_B1N


@dataclass(frozen=True)
class PoolingSettings:
    """How cells are pooled.

    Args:
        pool: "mean", the mean of embeddings is classified, or "max", every cell is and the most positive one decides.
        heads: How many linear classifiers learn, each from its own answer alone; theirs are averaged. Which cell "max"
            settles on hangs on the first weights: several settle on several.

    Raises:
        InputError: When there is no classifier; `UnknownNameError` when the pooling has another name.
    """

    pool: Literal["mean", "max"] = "mean"
    heads: int = 1

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "max"):
            raise UnknownNameError("pooling", self.pool, ("mean", "max"))
        if self.heads < 1:
            raise InputError(f"{self.heads} linear classifiers were asked for; give 1 or more.")


class PoolingNetwork(SlideNetwork):
    """A linear classifier of the mean cell, or of the most positive one: what any cleverer network must beat.

    Its evidence is the log-odds of each cell; their mean, or with one classifier the largest, is the slide's. Comparable
    over slides.

    Args:
        num_features: C.
        settings: How cells are pooled.

    Source: "mean" and "max" pooling of Ilse et al. 2018, arXiv 1802.04712, section 2.4. Several classifiers are ours.
    """

    def __init__(self, num_features: int, settings: PoolingSettings = PoolingSettings()) -> None:
        super().__init__()
        self.settings = settings
        self.head = nn.Linear(num_features, settings.heads * NUM_CLASSES)

    def forward(self, batch: SlideBatch) -> Tensor:
        return self.answers(batch).mean(1)

    def learn(self, batch: SlideBatch, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """As the contract has it; of several classifiers each learns from its own answer, none from their mean."""
        if self.settings.heads == 1:
            return super().learn(batch, labels_B)
        answers_BEK = self.answers(batch)
        return answers_BEK.mean(1).detach(), own_losses(answers_BEK, labels_B)

    def answers(self, batch: SlideBatch) -> Tensor:
        """(B, E, 2) float32: the logits of each of E classifiers."""
        bags = bags_of(batch)
        if self.settings.pool == "mean":
            num_B1 = bags.is_cell_BN.sum(1, keepdim=True).clamp(min=1)
            return self._classified(bags.cells_BNC.sum(1) / num_B1)
        logits_BNEK = self._classified(bags.cells_BNC)
        log_odds_BNE = logits_BNEK[..., 1] - logits_BNEK[..., 0]
        # padding is zeros: of an empty bag the first row is taken, and only the bias speaks
        best_BE = log_odds_BNE.masked_fill(~bags.is_cell_BN[..., None], -torch.inf).argmax(1)
        return logits_BNEK.take_along_dim(best_BE[:, None, :, None], dim=1)[:, 0]

    def evidence(self, batch: SlideBatch) -> Tensor:
        bags = bags_of(batch)
        logits_BNK = self._classified(bags.cells_BNC).mean(2)
        return onto_grid(logits_BNK[..., 1] - logits_BNK[..., 0], bags, batch)

    def _classified(self, cells: Tensor) -> Tensor:
        """(..., E, 2) float32 from (..., C)."""
        logits: Tensor = self.head(cells)
        return logits.float().reshape(*cells.shape[:-1], self.settings.heads, NUM_CLASSES)


def own_losses(answers_BEK: Tensor, labels_B: Tensor) -> Tensor:
    """The cross entropy of each of E classifiers, averaged.

    Args:
        answers_BEK: Their logits.
        labels_B: int64, 0 or 1.
    """
    return F.cross_entropy(answers_BEK.flatten(0, 1), labels_B.repeat_interleave(answers_BEK.shape[1]))


class GatedAttention(nn.Module):
    """Scores of cells: w (tanh(V h) * sigmoid(U h)).

    Args:
        width: D.
        hidden: Width of V and U.
        branches: A.
        dropout: Share of hidden numbers dropped in training.

    Source: Ilse et al. 2018, arXiv 1802.04712, eq. 9.
    """

    def __init__(self, width: int, hidden: int, branches: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, branches)
        self.dropout = nn.Dropout(dropout)

    def forward(self, cells_BND: Tensor) -> Tensor:
        """(B, A, N): scores before the softmax."""
        value_BNh, gate_BNh = self.value(cells_BND).tanh(), self.gate(cells_BND).sigmoid()
        scores_BNA: Tensor = self.score(self.dropout(value_BNh) * self.dropout(gate_BNh))
        return scores_BNA.transpose(1, 2)


@dataclass(frozen=True)
class _Looked:
    """What a network of attention made of a batch.

    Args:
        bags: What it looked at.
        cells_BND: Their embeddings.
        shares_BAN: Of attention.
    """

    bags: Bags
    cells_BND: Tensor
    shares_BAN: Tensor


class _AttentionNetwork(SlideNetwork, ABC):
    """An embedding, attention and a linear classifier; ABMIL and CLAM."""

    embed: nn.Module
    attention: GatedAttention
    head: nn.Linear
    shown: AttentionEvidence

    def forward(self, batch: SlideBatch) -> Tensor:
        return self._logits(self._look(batch))

    def evidence(self, batch: SlideBatch) -> Tensor:
        looked = self._look(batch)
        if self.shown == "attention":
            return onto_grid(looked.shares_BAN[:, -1], looked.bags, batch)
        parts_BKN = looked.shares_BAN * self.head(looked.cells_BND).transpose(1, 2)
        return onto_grid(parts_BKN[:, 1] - parts_BKN[:, 0], looked.bags, batch)

    def _look(self, batch: SlideBatch) -> _Looked:
        bags = bags_of(batch)
        cells_BND = self.embed(bags.cells_BNC)
        return _Looked(bags, cells_BND, masked_softmax(self.attention(cells_BND), bags.is_cell_BN))

    def _logits(self, looked: _Looked) -> Tensor:
        """Class k from the descriptor of branch k, or of the only one."""
        slides_BAD = looked.shares_BAN @ looked.cells_BND.float()
        return (slides_BAD * self.head.weight).sum(-1) + self.head.bias


def _check(shown: str, **sizes: int) -> None:
    if shown not in _EVIDENCE:
        raise UnknownNameError("evidence of attention", shown, _EVIDENCE)
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} is {size}; 1 or more was expected.")


@dataclass(frozen=True)
class ABMILSettings:
    """Sizes of an ABMIL.

    Args:
        width: Of a cell's embedding, one linear layer with ReLU.
        hidden: Of the attention.
        dropout: Share of an embedding dropped in training.
        evidence: See `AttentionEvidence`.
    """

    width: int = 512
    hidden: int = 128
    dropout: float = 0.0
    evidence: AttentionEvidence = "parts"


class ABMIL(_AttentionNetwork):
    """Attention-based multiple instance learning with gated attention.

    Args:
        num_features: C.
        settings: Sizes.

    Raises:
        InputError: When a size is below 1, or there is no such evidence.

    Source: Ilse et al. 2018, arXiv 1802.04712, eq. 7 and 9; hidden 128 as there, width 512 as slide classifiers have it.
    """

    def __init__(self, num_features: int, settings: ABMILSettings = ABMILSettings()) -> None:
        super().__init__()
        _check(settings.evidence, width=settings.width, hidden=settings.hidden)
        self.shown = settings.evidence
        self.embed = nn.Sequential(nn.Linear(num_features, settings.width), nn.ReLU(), nn.Dropout(settings.dropout))
        self.attention = GatedAttention(settings.width, settings.hidden)
        self.head = nn.Linear(settings.width, NUM_CLASSES)


@dataclass(frozen=True)
class CLAMSettings:
    """Sizes of a CLAM, and how its cells are clustered.

    Args:
        multi_branch: Whether each class has its own attention (CLAM-MB), or all share one (CLAM-SB).
        width: Of a cell's embedding.
        hidden: Of the attention.
        dropout: Share dropped in training, of embeddings and in the attention.
        num_picked: B, how many of the most and of the least attended cells of a slide are clustered; fewer where a slide
            has fewer than twice as many cells: none is told to be both (ours).
        bag_weight: What the slide's loss weighs; the clustering's weighs the rest.
        instance_loss: "svm", the smooth top-1 SVM, or "cross_entropy".
        exclusive: Whether cells most attended for one class are told not to be of the other: for subtypes, which exclude
            each other. Normal tissue on a slide with tumour is no such case.
        evidence: See `AttentionEvidence`; bare attention is the positive class's.
    """

    multi_branch: bool = False
    width: int = 512
    hidden: int = 256
    dropout: float = 0.25
    num_picked: int = 8
    bag_weight: float = 0.7
    instance_loss: Literal["svm", "cross_entropy"] = "svm"
    exclusive: bool = False
    evidence: AttentionEvidence = "parts"


def smooth_top1_svm(logits_MK: Tensor, targets_M: Tensor) -> Tensor:
    """The hinge of margin 1, smoothed, of each cell: log sum_k exp(z_k + [k is not the target]) - z_target.

    Args:
        logits_MK: Float.
        targets_M: int64.

    Returns:
        (M,) float32, above 0; log(1 + e) where all logits are equal.

    Source: Berrada et al. 2018, arXiv 1802.07595, with k = 1, margin 1 and temperature 1 as CLAM has it. Their code takes
    the hard hinge where logits lie log 1000 apart or more, which is less than 0.003 away.
    """
    logits_MK = logits_MK.float()
    margins_MK = 1.0 - F.one_hot(targets_M, logits_MK.shape[1])
    return (logits_MK + margins_MK).logsumexp(1) - logits_MK.gather(1, targets_M[:, None])[:, 0]


class CLAM(_AttentionNetwork):
    """Clustering-constrained attention: ABMIL whose most and least attended cells must be told apart, class by class.

    `learn` adds the clustering's loss times (1 - w) / w: with the slide's that is the published loss, w of the slide's and
    1 - w of the cells', divided by w.

    Args:
        num_features: C.
        settings: Sizes, and how cells are clustered; the defaults are the published "small" CLAM-SB.

    Raises:
        InputError: When a size is below 1, the weight is no share above 0, or there is no such loss or evidence.

    Source: Lu et al. 2021, arXiv 2004.09666, sections "CLAM" and "Training details"; B = 8, bag weight 0.7. One mean over
    slides where the paper learns slide by slide.
    """

    def __init__(self, num_features: int, settings: CLAMSettings = CLAMSettings()) -> None:
        super().__init__()
        _check(settings.evidence, width=settings.width, hidden=settings.hidden, num_picked=settings.num_picked)
        if not 0 < settings.bag_weight <= 1:
            raise InputError(f"A bag weight of {settings.bag_weight} was given; above 0 and at most 1 was expected.")
        if settings.instance_loss not in ("svm", "cross_entropy"):
            raise UnknownNameError("instance loss", settings.instance_loss, ("svm", "cross_entropy"))
        self.settings, self.shown = settings, settings.evidence
        dropout = settings.dropout
        self.embed = nn.Sequential(nn.Linear(num_features, settings.width), nn.ReLU(), nn.Dropout(dropout))
        branches = NUM_CLASSES if settings.multi_branch else 1
        self.attention = GatedAttention(settings.width, settings.hidden, branches, dropout)
        self.head = nn.Linear(settings.width, NUM_CLASSES)
        self.clusters = nn.ModuleList(nn.Linear(settings.width, 2) for _ in range(NUM_CLASSES))

    def learn(self, batch: SlideBatch, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        looked = self._look(batch)
        losses = [self._clustering_loss(looked, index, label) for index, label in enumerate(labels_B.tolist())]
        weight = self.settings.bag_weight
        return self._logits(looked), torch.stack(losses).mean() * (1 - weight) / weight

    def _clustering_loss(self, looked: _Looked, slide: int, label: int) -> Tensor:
        """A slide's: its class's cluster, and the other's where classes exclude each other."""
        is_cell_N = looked.bags.is_cell_BN[slide]
        cells_MD, shares_AM = looked.cells_BND[slide, is_cell_N], looked.shares_BAN[slide][:, is_cell_N]
        num = min(self.settings.num_picked, len(cells_MD) // 2)
        loss = looked.cells_BND.new_zeros((), dtype=torch.float32)
        if num == 0:
            return loss
        for index, cluster in enumerate(self.clusters):
            shares_M = shares_AM[index if len(shares_AM) > 1 else 0]
            most_MD = cells_MD[shares_M.topk(num).indices]
            if index == label:
                least_MD = cells_MD[shares_M.topk(num, largest=False).indices]
                targets_M = torch.arange(2 * num, device=cells_MD.device).lt(num).long()
                loss = loss + self._instance_loss(cluster(torch.cat([most_MD, least_MD])), targets_M)
            elif self.settings.exclusive:
                targets_M = torch.zeros(num, dtype=torch.long, device=cells_MD.device)
                loss = loss + self._instance_loss(cluster(most_MD), targets_M)
        return loss / NUM_CLASSES if self.settings.exclusive else loss

    def _instance_loss(self, logits_MK: Tensor, targets_M: Tensor) -> Tensor:
        if self.settings.instance_loss == "svm":
            return smooth_top1_svm(logits_MK, targets_M).mean()
        return F.cross_entropy(logits_MK.float(), targets_M)
