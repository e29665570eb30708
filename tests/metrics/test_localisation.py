import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from counterstain.errors import InputError
from counterstain.metrics import choose_map_threshold, map_dice, points_at_tumour, tile_auroc


def made(seed: int = 0, gap: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Evidence with a third of the cells unobserved, and a truth of one disc."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:20, :30]
    truth = np.clip(6 - np.hypot(rows - 8, columns - 12), 0, 1)
    evidence = rng.standard_normal((20, 30)) + gap * truth
    return np.where(rng.random((20, 30)) < 1 / 3, np.nan, evidence), truth


def test_ranked_cells_agree_with_scikit_learn_on_observed_cells() -> None:
    evidence, truth = made()
    observed = ~np.isnan(evidence)
    wanted = sklearn.metrics.roc_auc_score(truth[observed] >= 0.5, evidence[observed])
    assert tile_auroc(evidence, truth) == pytest.approx(wanted)
    assert tile_auroc(-evidence, truth) == pytest.approx(1 - wanted)
    assert tile_auroc(evidence, truth, 0.1) != tile_auroc(evidence, truth, 1.0)
    assert math.isnan(tile_auroc(evidence, np.zeros_like(truth)))


def test_pointing_hits_or_misses_and_says_what_chance_would() -> None:
    truth = np.zeros((3, 4))
    truth[1, 1] = 0.8
    evidence = np.zeros((3, 4))
    evidence[1, 1] = 2
    assert points_at_tumour(evidence, truth) == (True, 1 / 12)
    evidence[1, 2] = 3
    evidence[0, 0] = np.nan
    assert points_at_tumour(evidence, truth) == (False, pytest.approx(1 / 11))
    assert points_at_tumour(evidence, truth, within_cells=1) == (True, pytest.approx(8 / 11))
    with pytest.raises(InputError, match="can't be pointed at"):
        points_at_tumour(np.full((3, 4), np.nan), truth)


@given(st.integers(0, 10_000), st.floats(-1, 2))
@settings(max_examples=30, deadline=None)
def test_the_dice_of_a_map_is_the_f1_of_its_cells(seed: int, threshold: float) -> None:
    evidence, truth = made(seed)
    observed = ~np.isnan(evidence)
    wanted = sklearn.metrics.f1_score(truth[observed] >= 0.5, evidence[observed] >= threshold, zero_division=0)
    assert map_dice(evidence, truth, threshold) == pytest.approx(wanted)


def test_a_map_without_tumour_where_there_is_none_has_no_dice() -> None:
    evidence, truth = made()
    assert math.isnan(map_dice(evidence, 0 * truth, 100.0))
    assert map_dice(evidence, 0 * truth, 0.0) == 0


def test_no_tried_threshold_has_a_larger_mean_dice_than_the_chosen_one() -> None:
    evidences, truths = zip(*(made(seed) for seed in range(4)), strict=True)
    chosen = choose_map_threshold(evidences, truths, num_candidates=30)
    pooled = np.concatenate([one[~np.isnan(one)] for one in evidences])
    means = {
        threshold: np.mean([map_dice(*pair, threshold) for pair in zip(evidences, truths, strict=True)])
        for threshold in np.quantile(pooled, np.linspace(0, 1, 30))
    }
    assert means[chosen] == pytest.approx(max(means.values()))


def test_what_can_t_be_localised_is_refused() -> None:
    evidence, truth = made()
    with pytest.raises(InputError, match="the slide's grid"):
        tile_auroc(evidence, truth[:-1])
    with pytest.raises(InputError, match=r"outside \[0, 1\]"):
        tile_auroc(evidence, truth + 1)
    with pytest.raises(InputError, match="from a share of 0"):
        tile_auroc(evidence, truth, 0)
    with pytest.raises(InputError, match="No observed cell"):
        choose_map_threshold([evidence], [0 * truth])
