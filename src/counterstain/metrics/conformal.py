"""Sets of classes that hold the true one as often as promised, and the right to abstain.

Split conformal prediction, for each class by itself (Mondrian): how badly slides of a class conform to it, 1 - p of that
class, is ranked on slides set aside. A class stays in a slide's set unless the slide conforms worse than that rank allows.
Of each class, a share of at most `error` of new slides then lacks it, on average over draws of the slides set aside and as
long as new slides are exchangeable with them: another scanner or hospital breaks the promise. A method decides where one
class is left, and abstains where both or neither are.

Does not know: networks, how probabilities were calibrated.

Source: Vovk, Gammerman and Shafer 2005 (class-conditional: section 4.5); Angelopoulos and Bates 2023 for the finite rank.

N slides.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.metrics.calibration import checked_probabilities
from counterstain.metrics.decisions import Proportion, checked_scores, clopper_pearson
from counterstain.metrics.segmentation import Floats, plain

NEGATIVE, POSITIVE, ABSTAINED = 0, 1, -1


def conformal_thresholds(probability_N: npt.ArrayLike, labels_N: npt.ArrayLike, error: float) -> tuple[float, float]:
    """How badly a slide may conform to each class and still have it in its set.

    Of n slides of a class the ceil((n + 1)(1 - error))-th smallest 1 - p; infinite where there is no such rank, because n
    is less than 1 / error - 1: too few slides to ever rule the class out.

    Args:
        probability_N: (N,) of the positive class, of slides set aside.
        labels_N: (N,) of 0 and 1.
        error: The promised share, in (0, 1), of slides of a class whose set lacks it.

    Returns:
        (negative, positive), each in [0, 1] or infinite.

    Raises:
        InputError: When a probability is outside [0, 1], there is none, or the error is outside (0, 1).
    """
    probability, labels = checked_probabilities(probability_N, labels_N)
    if not 0 < error < 1:
        raise InputError(f"An error of {error} was promised; one in (0, 1) was expected.")
    return _rank(probability[labels == 0], error), _rank(1 - probability[labels == 1], error)


def _rank(strangeness_N: Floats, error: float) -> float:
    num = len(strangeness_N)
    rank = math.ceil((num + 1) * (1 - error) - 1e-9)  # 1 - 0.1 is no exact number
    return float(np.sort(strangeness_N)[rank - 1]) if rank <= num else math.inf


def prediction_sets(probability_N: npt.ArrayLike, thresholds: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """The classes that can't be ruled out.

    Args:
        probability_N: (N,) of the positive class.
        thresholds: As `conformal_thresholds` gives them.

    Returns:
        (N, 2) bool: negative, positive.
    """
    probability = np.asarray(probability_N, np.float64)
    # the same arithmetic as where thresholds come from: a slide on the threshold is in
    return np.stack([probability <= thresholds[0], 1 - probability <= thresholds[1]], axis=-1)


def decide(sets_N2: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(N,) int64: the class where one alone is left, -1 where the method abstains."""
    return np.where(sets_N2.sum(-1) == 1, sets_N2[:, 1].astype(np.int64), np.int64(ABSTAINED))


@dataclass(frozen=True)
class ConformalScores:
    """Whether the promise was kept, and at what price; shares with exact intervals.

    Args:
        coverage_negative: Negative slides whose set holds "negative".
        coverage_positive: Likewise.
        abstention: Slides that were not decided.
        error_of_decided: Decided slides that are of the other class.
        both: Slides with both classes in their set.
        neither: Slides that conform to neither class.
    """

    coverage_negative: Proportion
    coverage_positive: Proportion
    abstention: Proportion
    error_of_decided: Proportion
    both: Proportion
    neither: Proportion

    @classmethod
    def of(cls, sets_N2: npt.NDArray[np.bool_], labels_N: npt.ArrayLike, level: float = 0.95) -> Self:
        """Counts sets.

        Args:
            sets_N2: (N, 2) bool, as `prediction_sets` gives them.
            labels_N: (N,) of 0 and 1, of slides that were not set aside.
            level: Confidence of the intervals.

        Raises:
            InputError: When there is not one set for each label.
        """
        sets = np.asarray(sets_N2, np.bool_)
        if sets.ndim != 2 or sets.shape[1] != 2:
            raise InputError(f"Sets of {sets.shape} were given; (slides, 2) was expected.")
        decided, labels = checked_scores(decide(sets), labels_N)
        is_decided, sizes = decided != ABSTAINED, sets.sum(-1)

        def share(hits: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_] | None = None) -> Proportion:
            own = hits if among is None else hits[among]
            return clopper_pearson(int(own.sum()), len(own), level)

        return cls(
            coverage_negative=share(sets[:, NEGATIVE], labels == NEGATIVE),
            coverage_positive=share(sets[:, POSITIVE], labels == POSITIVE),
            abstention=share(~is_decided),
            error_of_decided=share(decided != labels, is_decided),
            both=share(sizes == 2),
            neither=share(sizes == 0),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, None for NaN."""
        return {name: value.to_json() for name, value in vars(self).items()}


@dataclass(frozen=True)
class SelectiveRisk:
    """How wrong a method is when it decides the slides it is surest of.

    Args:
        coverage: (G,) share of slides decided, rising to 1.
        risk: (G,) share of those that are decided wrongly.
        area: Mean risk over all coverages; of a confidence that says nothing, about the risk at coverage 1.
    """

    coverage: Floats
    risk: Floats
    area: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        full = float(self.risk[-1]) if len(self.risk) else math.nan
        return {"area": plain(self.area), "random_order": plain(full), "num_points": len(self.coverage)}


def selective_risk(confidence_N: npt.ArrayLike, is_wrong_N: npt.ArrayLike) -> SelectiveRisk:
    """Risk against coverage, from the surest slide on; slides of one confidence are decided together.

    Args:
        confidence_N: (N,), larger is surer.
        is_wrong_N: (N,) of 0 and 1.

    Raises:
        InputError: When their numbers differ or are 0, or a confidence is NaN.

    Source: El-Yaniv and Wiener 2010; area: Geifman, Uziel and El-Yaniv 2019.
    """
    confidence, is_wrong = checked_scores(confidence_N, is_wrong_N)
    if not len(confidence):
        raise InputError("No slide was given to draw a risk of.")
    order = np.argsort(-confidence, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)
    num_decided = ends + 1
    risk = is_wrong[order].cumsum()[ends] / num_decided
    return SelectiveRisk(
        num_decided / len(order), risk, float((risk * np.diff(num_decided, prepend=0)).sum() / len(order))
    )
