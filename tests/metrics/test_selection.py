from itertools import combinations

import numpy as np
import pytest

from counterstain.errors import InputError
from counterstain.metrics import kendall, regret


def test_kendall_counts_pairs_in_order_less_pairs_out_of_order() -> None:
    rng = np.random.default_rng(0)
    proxy, truth = rng.random(9).tolist(), rng.random(9).tolist()
    signs = [np.sign(proxy[a] - proxy[b]) * np.sign(truth[a] - truth[b]) for a, b in combinations(range(9), 2)]
    assert kendall(proxy, truth) == pytest.approx(sum(signs) / len(signs))
    assert kendall([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert kendall([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


def test_a_constant_score_ranks_nothing() -> None:
    assert np.isnan(kendall([1, 1, 1], [1, 2, 3]))


def test_regret_is_what_the_proxys_choice_falls_short_of_the_best() -> None:
    assert regret([0.1, 0.9, 0.5], [0.6, 0.7, 0.8]) == pytest.approx(0.1)
    assert regret([0.1, 0.5, 0.9], [0.6, 0.7, 0.8]) == 0


def test_of_equal_proxies_the_first_is_chosen() -> None:
    assert regret([0.5, 0.5], [0.3, 0.8]) == pytest.approx(0.5)


def test_scores_that_do_not_pair_are_refused() -> None:
    with pytest.raises(InputError, match="3 proxy scores were given for 2"):
        kendall([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match="1 or more"):
        regret([], [])
    with pytest.raises(InputError, match="NaN"):
        regret([0.1, float("nan")], [1, 2])
