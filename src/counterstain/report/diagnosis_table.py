"""What a diagnosis amounts to, in a table a terminal holds: each figure with its interval, beside what needs no model.

Does not know: how figures are made.
"""

from collections.abc import Mapping
from typing import Any

HEADS = ("", "estimate", "95 %", "without a model")


def summary_rows(estimate: Mapping[str, Any]) -> list[list[str]]:
    """Rows under HEADS.

    Args:
        estimate: As `describe_scores` gives it.
    """
    ranking, decisions = estimate["ranking"], estimate["decisions"]
    pooled, baselines = ranking["pooled"], decisions["baselines"]
    everybody = baselines["all_positive"]
    rows = [
        _row("AUROC within folds", ranking["within_folds"]["auroc"], 0.5),
        _row("AUPRC", pooled["auprc"], pooled["baselines"]["auprc"]),
        _row("accuracy", decisions["accuracy"], baselines["majority_accuracy"]),
        _row("sensitivity (recall)", decisions["recall"], everybody["recall"]),
        _row("specificity", decisions["specificity"], everybody["specificity"]),
        _row("precision", decisions["precision"], everybody["precision"]),
        _row("calibration error (ECE)", estimate["calibration"]["after"]["ece"], None),
    ]
    conformal = estimate["abstention"] and estimate["abstention"]["conformal"]
    if conformal:
        rows.append(_row("no decision", conformal["abstention"], 0.0))
        rows.append(_row("wrong where decided", conformal["error_of_decided"], None))
    return rows


def _row(name: str, value: Mapping[str, Any], baseline: float | None) -> list[str]:
    low, high = value.get("low"), value.get("high")
    interval = "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
    estimate = value.get("estimate")
    return [
        name,
        "-" if estimate is None else f"{100 * estimate:.1f}",
        interval,
        "-" if baseline is None else f"{100 * baseline:.1f}",
    ]
