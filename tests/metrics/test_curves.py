import numpy as np
import pytest
import sklearn.metrics

from counterstain.errors import InputError
from counterstain.metrics import BootstrapSettings, auroc, precision_recall_curve, roc_band, roc_curve


def made(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, and labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(num) % 5 < 2
    return np.round(rng.standard_normal(num) + labels, 1), labels.astype(int)


def test_curves_agree_with_scikit_learn() -> None:
    scores, labels = made(50)
    false, hits, thresholds = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    ours = roc_curve(scores, labels)
    for found, wanted in ((ours.x, false), (ours.y, hits), (ours.thresholds, thresholds)):
        assert found == pytest.approx(wanted)
    precision, recall, _ = sklearn.metrics.precision_recall_curve(labels, scores)
    ours = precision_recall_curve(scores, labels)
    assert ours.x == pytest.approx(recall[::-1])
    assert ours.y == pytest.approx(precision[::-1])
    assert np.trapezoid(roc_curve(scores, labels).y, roc_curve(scores, labels).x) == pytest.approx(
        auroc(scores, labels)
    )
    with pytest.raises(InputError, match="needs both"):
        roc_curve(scores, np.ones(50, int))
    with pytest.raises(InputError, match="No positive"):
        precision_recall_curve(scores, np.zeros(50, int))


def test_the_curve_lies_in_its_band_which_narrows_with_slides() -> None:
    widths = []
    for num in (60, 600):
        scores, labels = made(num)
        band = roc_band(scores, labels, [str(number) for number in range(num)], BootstrapSettings(num=200))
        curve = roc_curve(scores, labels)
        for place, rate in enumerate(band.false_positive_rates):
            highest, lowest = curve.y[curve.x <= rate + 1e-9].max(), curve.y[curve.x >= rate - 1e-9].min()
            assert band.low[place] <= highest + 1e-9
            assert band.high[place] >= lowest - 1e-9
        assert band.low[-1] == band.high[-1] == 1
        widths.append(float((band.high - band.low).mean()))
    assert widths[1] < 0.5 * widths[0]
    with pytest.raises(InputError, match="needs both"):
        roc_band([0, 1], [1, 1], ["a", "b"])
