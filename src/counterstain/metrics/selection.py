"""How well one score chooses by another: a cheap score against the one that is meant.

Does not know: what either score is, models.
"""

from collections.abc import Sequence

import numpy as np

from counterstain.errors import InputError


def kendall(proxy: Sequence[float], truth: Sequence[float]) -> float:
    """Kendall's tau-b of two scores of the same candidates.

    Args:
        proxy: What is chosen by, larger is better.
        truth: What is meant, larger is better.

    Returns:
        In [-1, 1]: 1 where both rank alike, -1 where they rank the other way round; NaN where either is constant.

    Raises:
        InputError: When there are fewer than two candidates, either lacks one, or a score is NaN.

    Source: Kendall 1945 (Biometrika 33:239), with ties.
    """
    from scipy.stats import kendalltau

    _check(proxy, truth, 2)
    return float(kendalltau(np.asarray(proxy, float), np.asarray(truth, float)).statistic)


def regret(proxy: Sequence[float], truth: Sequence[float]) -> float:
    """How much is lost by choosing by the proxy: the best truth less the truth of the proxy's first choice.

    Args:
        proxy: What is chosen by, larger is better; of equals, the first is chosen.
        truth: What is meant, larger is better.

    Returns:
        0 or more, in the truth's unit.

    Raises:
        InputError: When there are no candidates, either lacks one, or a score is NaN.
    """
    _check(proxy, truth, 1)
    return float(max(truth) - truth[int(np.argmax(proxy))])


def _check(proxy: Sequence[float], truth: Sequence[float], least: int) -> None:
    if len(proxy) != len(truth) or len(truth) < least:
        raise InputError(
            f"{len(proxy)} proxy scores were given for {len(truth)} true ones; {least} or more candidates with one of each "
            "were expected."
        )
    if np.isnan(proxy).any() or np.isnan(truth).any():
        raise InputError("A score is NaN; candidates can't be ranked by it. Leave out what was not scored.")
