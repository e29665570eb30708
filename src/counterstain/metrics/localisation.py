"""Whether evidence lies where the tumour is, cell by cell: ranking, pointing, the overlap of a map.

Evidence is a number for each cell of a slide's grid, larger speaks for tumour, NaN where nothing was observed. Truth is the
share of each cell that is tumour. Only slides whose tumour was drawn exhaustively can be judged. The threshold of a Dice is
chosen on other slides.

Does not know: what made the evidence, annotations, the size of a slide beyond its grid.

Source: Zhang et al. 2018 (IJCV 126:1084) for pointing; the rest is ours.

H W rows and columns of cells, T thresholds.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.metrics.ranking import auroc
from counterstain.metrics.segmentation import Floats, ratio

Mask = npt.NDArray[np.bool_]


def tile_auroc(evidence_HW: npt.ArrayLike, truth_HW: npt.ArrayLike, tumour_from: float = 0.5) -> float:
    """How well evidence ranks the cells of one slide.

    Args:
        evidence_HW: (H, W) float, NaN where nothing was observed; such cells do not count.
        truth_HW: (H, W) share of each cell that is tumour, in [0, 1].
        tumour_from: A cell is tumour where its share is at least this.

    Returns:
        In [0, 1], 1/2 by chance; NaN where the observed cells are all tumour, or none is.

    Raises:
        InputError: When shapes differ, the truth is outside [0, 1], or `tumour_from` outside (0, 1].
    """
    evidence, is_tumour = checked_cells(evidence_HW, truth_HW, tumour_from)
    observed = ~np.isnan(evidence)
    return auroc(evidence[observed], is_tumour[observed].astype(np.int64))


def points_at_tumour(
    evidence_HW: npt.ArrayLike, truth_HW: npt.ArrayLike, tumour_from: float = 0.5, within_cells: int = 0
) -> tuple[bool, float]:
    """The pointing game: whether the cell of most evidence is tumour.

    Args:
        evidence_HW: (H, W) float, NaN where nothing was observed; of several largest the first counts.
        truth_HW: (H, W) share of each cell that is tumour, in [0, 1].
        tumour_from: A cell is tumour where its share is at least this.
        within_cells: A hit may lie this many cells beside the tumour, along rows, columns and diagonals.

    Returns:
        Whether it hits, and how often pointing at any observed cell would.

    Raises:
        InputError: When shapes differ, shares are none, or nothing was observed.
    """
    from scipy.ndimage import maximum_filter

    evidence, is_tumour = checked_cells(evidence_HW, truth_HW, tumour_from)
    observed = ~np.isnan(evidence)
    if not observed.any():
        raise InputError("Evidence of no cell was given; a slide without observed cells can't be pointed at.")
    is_hit = maximum_filter(is_tumour, 2 * within_cells + 1, mode="constant", cval=False)
    return bool(is_hit.flat[np.nanargmax(evidence)]), float(is_hit[observed].mean())


def map_dice(evidence_HW: npt.ArrayLike, truth_HW: npt.ArrayLike, threshold: float, tumour_from: float = 0.5) -> float:
    """Dice of the cells whose evidence reaches a threshold: 2 |A and B| / (|A| + |B|), over observed cells.

    Args:
        evidence_HW: (H, W) float, NaN where nothing was observed.
        truth_HW: (H, W) share of each cell that is tumour, in [0, 1].
        threshold: Chosen on other slides, as by `choose_map_threshold`.
        tumour_from: A cell is tumour where its share is at least this.

    Returns:
        In [0, 1]; NaN where neither map nor truth holds tumour.

    Raises:
        InputError: As `tile_auroc`.
    """
    evidence, is_tumour = checked_cells(evidence_HW, truth_HW, tumour_from)
    observed = ~np.isnan(evidence)
    called = evidence[observed] >= threshold
    truth = is_tumour[observed]
    return float(ratio(2 * (called & truth).sum(), called.sum() + truth.sum()))


def choose_map_threshold(
    evidences: Sequence[npt.ArrayLike],
    truths: Sequence[npt.ArrayLike],
    tumour_from: float = 0.5,
    num_candidates: int = 100,
) -> float:
    """The threshold of the largest mean `map_dice` over slides, each slide counting once.

    Args:
        evidences: (H, W) each, of slides that will not be judged by the threshold, with tumour drawn on them.
        truths: Likewise.
        tumour_from: A cell is tumour where its share is at least this.
        num_candidates: Quantiles of all observed evidence that are tried.

    Returns:
        In the evidence's unit.

    Raises:
        InputError: When their numbers differ, no cell is tumour, or as `tile_auroc`.
    """
    pairs = [checked_cells(*pair, tumour_from) for pair in zip(evidences, truths, strict=True)]
    kept = [(evidence[~np.isnan(evidence)], truth[~np.isnan(evidence)]) for evidence, truth in pairs]
    if not any(truth.any() for _, truth in kept):
        raise InputError("No observed cell is tumour; a map's threshold is chosen on slides with tumour drawn on them.")
    pooled = np.concatenate([evidence for evidence, _ in kept])
    candidates = np.unique(np.quantile(pooled, np.linspace(0, 1, num_candidates)))
    rows = []
    for evidence, truth in kept:
        called, hits = (num_reaching(one, candidates) for one in (evidence, evidence[truth]))
        rows.append(ratio(2 * hits, called + truth.sum()))
    means = np.nansum(rows, axis=0) / np.maximum(np.isfinite(rows).sum(0), 1)
    return float(candidates[means.argmax()])


def num_reaching(evidence_N: Floats, thresholds_T: Floats) -> npt.NDArray[np.intp]:
    """How many numbers reach each threshold, (T,)."""
    return len(evidence_N) - np.searchsorted(np.sort(evidence_N), thresholds_T)


def checked_cells(evidence_HW: npt.ArrayLike, truth_HW: npt.ArrayLike, tumour_from: float) -> tuple[Floats, Mask]:
    """Evidence as float64 and the cells that are tumour.

    Raises:
        InputError: When shapes differ, the truth is outside [0, 1], or `tumour_from` outside (0, 1].
    """
    evidence, truth = np.asarray(evidence_HW, np.float64), np.asarray(truth_HW, np.float64)
    if evidence.shape != truth.shape or evidence.ndim != 2:
        raise InputError(
            f"Evidence of {evidence.shape} was given for a truth of {truth.shape}; both need the slide's grid, (H, W)."
        )
    if not 0 < tumour_from <= 1 or not ((truth >= 0) & (truth <= 1)).all():
        raise InputError(
            f"Shares of tumour outside [0, 1], or tumour from a share of {tumour_from} on, were given; (0, 1] was expected."
        )
    return evidence, truth >= tumour_from
