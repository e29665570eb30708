"""What a slide's score loses with its cells: deletion and insertion, pure arithmetic on whatever scores a mask of cells.

Cells are taken away, or given to an empty slide, in the order of a map's evidence. A map that tells what the score came
from changes it at once; one that does not changes it no faster than a random order, which is the baseline.

Does not know: networks, how a slide without some of its cells is scored.

Source: Petsiuk et al. 2018 (BMVC), with cells in place of pixels; the relative area is ours.

H W rows and columns of cells.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.metrics.localisation import Mask
from counterstain.metrics.segmentation import Floats, plain

Score = Callable[[Mask], float]
"""What a method says of a slide of which only the cells of a mask (H, W) are left; none left is a slide too."""


@dataclass(frozen=True, eq=False)
class PerturbationCurve:
    """A slide's score while cells are taken away, or given back.

    Args:
        shares: (steps + 1,) of the observed cells that were changed, from 0 to 1.
        scores: (steps + 1,) the score then.
        area: Mean score along the curve, by trapezoids. Of deletion less is better, of insertion more.
        relative_area: The same with the score of the empty slide as 0 and that of the whole one as 1, so that slides and
            methods compare; NaN where both score alike.
    """

    shares: Floats
    scores: Floats
    area: float
    relative_area: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, None for NaN."""
        return {
            "shares": self.shares.tolist(),
            "scores": self.scores.tolist(),
            "area": plain(self.area),
            "relative_area": plain(self.relative_area),
        }


def deletion_curve(evidence_HW: npt.ArrayLike, score: Score, steps: int = 20) -> PerturbationCurve:
    """Takes observed cells away, most evidence first: a map that tells what decided makes the score fall at once.

    Args:
        evidence_HW: (H, W) float, NaN where nothing was observed; cells of the same evidence go in the grid's order.
        score: Of the slide with only these cells observed.
        steps: Equal parts in which cells go; the score is asked steps + 1 times.

    Raises:
        InputError: When nothing was observed, there is no step, or a score is NaN.
    """
    order, shape = _order(evidence_HW, steps)
    shares, scores = _perturb(len(order), steps, lambda changed: score(_mask(order[changed:], shape)))
    return _curve(shares, scores, whole=scores[0], empty=scores[-1])


def insertion_curve(evidence_HW: npt.ArrayLike, score: Score, steps: int = 20) -> PerturbationCurve:
    """Gives observed cells to an empty slide, most evidence first: such a map makes the score rise at once.

    Args:
        evidence_HW: As `deletion_curve` takes it.
        score: Likewise.
        steps: Likewise.

    Raises:
        InputError: As `deletion_curve`.
    """
    order, shape = _order(evidence_HW, steps)
    shares, scores = _perturb(len(order), steps, lambda changed: score(_mask(order[:changed], shape)))
    return _curve(shares, scores, whole=scores[-1], empty=scores[0])


def random_order_curves(
    evidence_HW: npt.ArrayLike,
    score: Score,
    curve: Callable[[npt.ArrayLike, Score, int], PerturbationCurve] = deletion_curve,
    steps: int = 20,
    num: int = 5,
    seed: int = 0,
) -> tuple[PerturbationCurve, ...]:
    """The baseline of either curve: the same cells in a random order.

    Args:
        evidence_HW: (H, W); only where it is NaN matters.
        score: As `deletion_curve` takes it.
        curve: `deletion_curve` or `insertion_curve`.
        steps: As there.
        num: Orders that are drawn.
        seed: Of them.

    Raises:
        InputError: As `deletion_curve`.
    """
    evidence, rng = np.asarray(evidence_HW, np.float64), np.random.default_rng(seed)
    return tuple(
        curve(np.where(np.isnan(evidence), np.nan, rng.random(evidence.shape)), score, steps) for _ in range(num)
    )


def _order(evidence_HW: npt.ArrayLike, steps: int) -> tuple[npt.NDArray[np.intp], tuple[int, ...]]:
    """Observed cells as flat indices, most evidence first, and the grid's shape."""
    evidence = np.asarray(evidence_HW, np.float64)
    cells = np.flatnonzero(~np.isnan(evidence))
    if not len(cells) or steps < 1:
        raise InputError(
            f"{len(cells)} observed cells and {steps} steps were given; at least one of each was expected."
        )
    return cells[np.argsort(-evidence.flat[cells], kind="stable")], evidence.shape


def _perturb(num_cells: int, steps: int, score_after: Callable[[int], float]) -> tuple[Floats, Floats]:
    changed = np.round(np.linspace(0, num_cells, steps + 1)).astype(np.int64)
    scores = np.array([score_after(num) for num in changed.tolist()], np.float64)
    if np.isnan(scores).any():
        raise InputError("A perturbed slide scored NaN; the score must take any mask, one without cells too.")
    return changed / num_cells, scores


def _mask(cells: npt.NDArray[np.intp], shape: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape, np.bool_)
    mask.flat[cells] = True
    return mask


def _curve(shares: Floats, scores: Floats, whole: float, empty: float) -> PerturbationCurve:
    area = float(np.trapezoid(scores, shares))
    relative = (area - empty) / (whole - empty) if whole != empty else math.nan
    return PerturbationCurve(shares, scores, area, float(relative))
