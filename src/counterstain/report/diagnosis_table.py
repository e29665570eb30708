"""What a diagnosis amounts to, in a table a terminal holds: each figure with its interval, beside what needs no model.

Does not know: how figures are made.
"""

from collections.abc import Mapping
from typing import Any

HEADS = ("per cent", "estimate", "95 %", "without a model")
"""What no model would reach: of the last two rows, calling every slide by the larger class."""

_MARKS = {"wilson": " (Wilson)", "clopper-pearson": " (exact)"}
"""Where resamples of patients all agree, and say nothing of how sure a figure is."""


def summary_rows(estimate: Mapping[str, Any]) -> list[list[str]]:
    """Rows under HEADS.

    Args:
        estimate: As `describe_scores` gives it.
    """
    ranking, decisions = estimate["ranking"], estimate["decisions"]
    pooled, baselines = ranking["pooled"], decisions["baselines"]
    everybody, error = baselines["all_positive"], estimate["calibration"]["after"]["error"]
    rows = [
        _row("AUROC within folds", ranking["within_folds"]["auroc"], 0.5),
        _row("AUPRC", pooled["auprc"], pooled["baselines"]["auprc"]),
        _row("accuracy", decisions["accuracy"], baselines["majority_accuracy"]),
        _row("sensitivity (recall)", decisions["recall"], everybody["recall"]),
        _row("specificity", decisions["specificity"], everybody["specificity"]),
        _row("precision", decisions["precision"], everybody["precision"]),
        _row("calibration error (ECE)", error["interval"] or error, error["base_rate"]),
    ]
    conformal = estimate["abstention"] and estimate["abstention"]["conformal"]
    if conformal:
        rows.append(_row("no decision", conformal["abstention"], 0.0))
        rows.append(_row("wrong where decided", conformal["error_of_decided"], 1 - baselines["majority_accuracy"]))
    return rows


def _row(name: str, value: Mapping[str, Any], baseline: float | None) -> list[str]:
    low, high = value.get("low"), value.get("high")
    mark = _MARKS.get(value.get("method") or "", "")
    interval = "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}{mark}"
    estimate = value.get("estimate")
    return [
        name,
        "-" if estimate is None else f"{100 * estimate:.1f}",
        interval,
        "-" if baseline is None else f"{100 * baseline:.1f}",
    ]
