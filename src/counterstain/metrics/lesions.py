"""Lesions found: detections of a map against connected pieces of tumour, by Camelyon16's rules, and their FROC.

Evidence is a number for each cell of a slide's grid, larger speaks for tumour, NaN where nothing was observed. Truth is the
share of each cell that is tumour. Slides without tumour count too: what is detected on them is false. Slides whose tumour
was not drawn exhaustively can't be judged.

Does not know: what made the evidence, annotations, which slides are drawn exhaustively.

Source: Ehteshami Bejnordi et al. 2017 (JAMA 318:2199), supplement, for the rules of lesions and FROC; Liu et al. 2017
(arXiv 1703.02442) for detections by suppression.

H W rows and columns of cells, D detections, L lesions, G distinct scores.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.metrics.localisation import Mask, checked_cells, num_reaching
from counterstain.metrics.segmentation import Floats, plain, ratio

FALSE_POSITIVES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives a slide at which Camelyon16 reads the sensitivity."""


@dataclass(frozen=True)
class LesionRules:
    """What counts as one lesion.

    Args:
        merge_um: Pieces nearer to each other than this are one lesion.
        isolated_um: A lesion whose longest axis is shorter than this, `merge_um` added as its outline grew by it, is a
            cluster of isolated tumour cells: neither to be found nor false to find. 0 counts every lesion.
    """

    merge_um: float = 75.0
    isolated_um: float = 200.0


@dataclass(frozen=True, eq=False)
class Lesions:
    """The lesions of a slide.

    Args:
        number_HW: (H, W) int32: 0 for no lesion, else its number from 1 on.
        counts_L: (L,) bool: whether a lesion is to be found; clusters of isolated cells are not.
    """

    number_HW: npt.NDArray[np.int32]
    counts_L: Mask


def find_lesions(
    truth_HW: npt.ArrayLike, cell_um: float, rules: LesionRules | None = None, tumour_from: float = 0.5
) -> Lesions:
    """Lesions as connected pieces of tumour, cells touching at corners included, holes filled.

    On a grid the rules are only as fine as its cells: with cells wider than `merge_um` no gap is closed.

    Args:
        truth_HW: (H, W) share of each cell that is tumour, in [0, 1].
        cell_um: Width and height of a cell.
        rules: What counts.
        tumour_from: A cell is tumour where its share is at least this.

    Raises:
        InputError: When shares are none, or a cell has no size.
    """
    from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

    rules = rules or LesionRules()
    if cell_um <= 0:
        raise InputError(f"Cells of {cell_um} um were given; a size above 0 was expected.")
    _, is_tumour = checked_cells(truth_HW, truth_HW, tumour_from)
    if not is_tumour.any():
        return Lesions(np.zeros(is_tumour.shape, np.int32), np.zeros(0, np.bool_))
    # as Camelyon16: half the gap is grown around tumour, and stays a part of the lesion
    grown = distance_transform_edt(~is_tumour) * cell_um < rules.merge_um / 2 if rules.merge_um else is_tumour
    number_HW, num = label(binary_fill_holes(grown), structure=np.ones((3, 3)))
    axes = [_longest_axis(number_HW == one) * cell_um for one in range(1, num + 1)]
    least = rules.isolated_um + rules.merge_um if rules.isolated_um else 0.0
    return Lesions(number_HW.astype(np.int32), np.array(axes) >= least)


def _longest_axis(mask_HW: Mask) -> float:
    """The long axis, in cells, of the ellipse with the second moments of the mask, cells being squares."""
    places = np.argwhere(mask_HW).astype(np.float64)
    moments = np.cov(places.T, bias=True) if len(places) > 1 else np.zeros((2, 2))
    return 4 * math.sqrt(np.linalg.eigvalsh(moments + np.eye(2) / 12)[-1])


@dataclass(frozen=True, eq=False)
class Detections:
    """Places of a slide that evidence singles out, surest first.

    Args:
        cells_D2: (D, 2) row and column.
        scores_D: (D,) their evidence.
    """

    cells_D2: npt.NDArray[np.int64]
    scores_D: Floats


def detect(evidence_HW: npt.ArrayLike, radius_cells: float, least: float) -> Detections:
    """Takes the cell of most evidence, leaves out all within a radius of it, and so on down.

    Args:
        evidence_HW: (H, W) float, NaN where nothing was observed.
        radius_cells: Two detections are further apart than this.
        least: Evidence that a detection needs; the lower, the further right a FROC reaches.

    Raises:
        InputError: When evidence is no grid, or the radius is below 0.
    """
    evidence = np.asarray(evidence_HW, np.float64)
    if evidence.ndim != 2 or radius_cells < 0:
        raise InputError(
            f"Evidence of {evidence.shape} and a radius of {radius_cells} were given; (H, W) and 0 or more."
        )
    height, width = evidence.shape
    reach = math.floor(radius_cells)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    is_near = rows**2 + columns**2 <= radius_cells**2
    is_free = np.zeros((height + 2 * reach, width + 2 * reach), np.bool_)  # padded: a disc never leaves it
    is_free[reach : reach + height, reach : reach + width] = np.nan_to_num(evidence, nan=-np.inf) >= least
    is_free[reach : reach + height, reach : reach + width] &= ~np.isnan(evidence)
    order = np.argsort(-np.nan_to_num(evidence, nan=-np.inf), axis=None, kind="stable")
    found = []
    for row, column in zip(*(one.tolist() for one in np.unravel_index(order, evidence.shape)), strict=True):
        if is_free[row + reach, column + reach]:
            found.append((row, column))
            is_free[row : row + 2 * reach + 1, column : column + 2 * reach + 1] &= ~is_near
    cells = np.array(found, np.int64).reshape(-1, 2)
    return Detections(cells, evidence[cells[:, 0], cells[:, 1]])


@dataclass(frozen=True, eq=False)
class MatchedSlide:
    """A slide's detections against its lesions.

    Args:
        lesion_scores_L: (L,) of each lesion to be found the best score of a detection in it; minus infinity where none is.
        false_scores: Scores of detections outside all lesions.
    """

    lesion_scores_L: Floats
    false_scores: Floats


def match(detections: Detections, lesions: Lesions) -> MatchedSlide:
    """Counts a detection for the lesion it lies in; a second one in it, or one in a cluster of isolated cells, for nothing.

    Args:
        detections: Of a slide with or without tumour.
        lesions: Of the same slide.

    Raises:
        InputError: When a detection lies outside the lesions' grid.
    """
    rows, columns = detections.cells_D2.T
    height, width = lesions.number_HW.shape
    if len(rows) and (rows.max() >= height or columns.max() >= width):
        raise InputError(f"A detection lies outside a grid of {height} x {width}. Give lesions of the same slide.")
    numbers_D = lesions.number_HW[rows, columns]
    best = np.full(len(lesions.counts_L), -np.inf)
    inside = numbers_D > 0
    np.maximum.at(best, numbers_D[inside] - 1, detections.scores_D[inside])
    return MatchedSlide(best[lesions.counts_L], detections.scores_D[~inside])


@dataclass(frozen=True, eq=False)
class Froc:
    """Lesions found against false positives a slide.

    Args:
        false_positives: (G + 1,) mean number a slide, from 0 on, rising.
        sensitivity: (G + 1,) share of the lesions found.
        at: Sensitivity at each of `FALSE_POSITIVES`, straight between points; where detections end before, the last one.
        score: Their mean: Camelyon16's figure.
        num_lesions: Lesions to be found.
        num_slides: Slides, those without tumour included.
    """

    false_positives: Floats
    sensitivity: Floats
    at: dict[float, float]
    score: float
    num_lesions: int
    num_slides: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, None for NaN."""
        return {
            "score": plain(self.score),
            "sensitivity_at": {f"{key:g}": plain(value) for key, value in self.at.items()},
            "reaches": plain(float(self.false_positives[-1])),
            "num_lesions": self.num_lesions,
            "num_slides": self.num_slides,
        }


def froc(slides: Sequence[MatchedSlide]) -> Froc:
    """The free-response curve of all slides together, one point for each distinct score.

    Args:
        slides: All that were looked at, those without tumour too: their detections are the false positives.

    Returns:
        Sensitivities are NaN where no lesion is to be found.

    Raises:
        InputError: When there is no slide.
    """
    if not slides:
        raise InputError("No slide was given to draw a FROC of.")
    lesion = np.concatenate([one.lesion_scores_L for one in slides])
    false = np.concatenate([one.false_scores for one in slides])
    thresholds = np.unique(np.concatenate([lesion[np.isfinite(lesion)], false]))[::-1]
    hits, wrong = (
        np.concatenate([[0], num_reaching(scores, thresholds)]).astype(np.float64) for scores in (lesion, false)
    )
    mean_false = wrong / len(slides)
    sensitivity = ratio(hits, np.full(len(hits), len(lesion)))
    rates, last = np.unique(mean_false[::-1], return_index=True)  # of points above each other the highest
    at = {key: float(np.interp(key, rates, sensitivity[::-1][last])) for key in FALSE_POSITIVES}
    return Froc(mean_false, sensitivity, at, float(np.mean(list(at.values()))), len(lesion), len(slides))
