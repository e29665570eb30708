"""What scores of slides amount to: slides scored by models that saw none of their patients in, a tree out.

    scored slides -> ranking, decisions, calibration, abstention, patients, strata -> diagnosis.json

Every number stands beside what no model would reach, its interval over patients and how many slides it rests on. A slide
may be scored several times, by the models of several repeats; it counts once in each of them, and a resample of patients
draws all of its scores together. Where all resamples agree, as where every slide is called alike, an exact interval or
Wilson's stands in the place of one without width, and `method` says which.

Does not know: models, how slides were dealt into folds, files, figures.

N rows, a slide scored by a model; R resamples.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from counterstain.metrics import (
    BootstrapSettings,
    ConformalScores,
    DecisionCounts,
    auprc,
    auprc_interval,
    auroc,
    auroc_interval,
    bootstrap_weights,
    calibrated,
    calibration_scores,
    clopper_pearson,
    delong_interval,
    reliability,
    selective_risk,
    small_sample_notes,
    wilson,
)
from counterstain.metrics.segmentation import Floats, plain, ratio
from counterstain.metrics.within_folds import within_fold_auroc, within_fold_interval
from counterstain.report.score_table import Labels, Mask, ScoreColumns, read_scores, sets_of, write_scores
from counterstain.results import Classes, ScoredSlide

_NO_WIDTH = 1e-9
_NO_SHARES = ("f1", "gain_over_majority")

__all__ = ["describe_scores", "read_scores", "write_scores"]


def describe_scores(
    rows: Sequence[ScoredSlide], classes: Classes, settings: BootstrapSettings | None = None
) -> dict[str, Any]:
    """What scored slides amount to.

    Args:
        rows: Slides with labels, each scored by models that saw none of its patient.
        classes: The background, then the positive class.
        settings: How intervals are made.

    Returns:
        A tree for JSON: `slides` (how many), `ranking`, `decisions`, `calibration`, `abstention`, `patients`, `strata`,
        `streams` and `warnings`. What can't be said is None, and a warning tells why where it is not plain.

    Raises:
        InputError: When there is no row, a model scored a slide twice, or a prediction set names no class.
    """
    settings = settings or BootstrapSettings()
    columns = ScoreColumns.of(rows)
    by_repeat = _repeats(rows)
    return {
        "classes": list(classes.names),
        "slides": _slides(columns, len(by_repeat)),
        "ranking": _ranking(columns, settings),
        "decisions": _decisions(columns, by_repeat, settings),
        "calibration": _calibration(columns, by_repeat, settings),
        "abstention": _abstention(rows, columns, by_repeat, classes, settings),
        "patients": _patients(rows, settings),
        "strata": {name: _strata(rows, name, settings) for name in ("site", "scanner")},
        "streams": _streams(rows),
        "warnings": list(_warnings(columns, rows, classes)),
    }


def _repeats(rows: Sequence[ScoredSlide]) -> list[list[ScoredSlide]]:
    """Rows by how often their slide came before: every slide at most once in each."""
    seen: dict[str, int] = defaultdict(int)
    repeats: list[list[ScoredSlide]] = []
    for row in rows:
        number = seen[row.slide_id]
        seen[row.slide_id] += 1
        if number == len(repeats):
            repeats.append([])
        repeats[number].append(row)
    return repeats


def _slides(columns: ScoreColumns, num_repeats: int) -> dict[str, Any]:
    label_of = dict(zip(columns.slides, columns.labels_N.tolist(), strict=True))
    positives = sum(label_of.values())
    return {
        "num": len(label_of),
        "num_positives": positives,
        "num_negatives": len(label_of) - positives,
        "num_patients": len(set(columns.patients)),
        "num_models": len(set(columns.folds)),
        "num_repeats": num_repeats,
    }


def _ranking(columns: ScoreColumns, settings: BootstrapSettings) -> dict[str, Any]:
    scores, labels, patients = columns.probability_N, columns.labels_N, columns.patients
    return {
        "within_folds": {
            "auroc": _over_patients(
                lambda: within_fold_interval(columns.logits_N, labels, columns.folds, patients, settings),
                _once(within_fold_auroc(columns.logits_N, labels, columns.folds), len(labels)),
                patients,
                lambda area: _alike_pairs(area, columns, settings.level),
            ),
            "baseline": 0.5,
            "note": "Pairs of slides that one model scored; the figure to quote.",
        },
        "pooled": {
            "auroc": _over_patients(
                lambda: auroc_interval(scores, labels, patients, settings), auroc(scores, labels), patients
            ),
            "auroc_delong": delong_interval(scores, labels, settings.level).to_json() if columns.is_once else None,
            "auprc": _over_patients(
                lambda: auprc_interval(scores, labels, patients, settings), auprc(scores, labels), patients
            ),
            "baselines": {"auroc": 0.5, "auprc": float(labels.mean())},
            "note": "Calibrated probabilities of several models in one ranking: their scales agree only as far as their "
            "calibrations do.",
        },
        "by_fold": {fold: _fold(columns, fold, settings) for fold in sorted(set(columns.folds))},
    }


def _fold(columns: ScoreColumns, fold: str, settings: BootstrapSettings) -> dict[str, Any]:
    inside = np.array([one == fold for one in columns.folds])
    labels, scores = columns.labels_N[inside], columns.probability_N[inside]
    counts = DecisionCounts.of(columns.called[inside], labels)
    return {
        "num_positives": counts.num_positives,
        "num_negatives": counts.num_negatives,
        "auroc": delong_interval(columns.logits_N[inside], labels, settings.level).to_json(),
        "auprc": {"estimate": plain(auprc(scores, labels)), "baseline": float(labels.mean())},
        "decisions": counts.to_json(settings.level),
        "threshold": float(columns.thresholds_N[inside][0]),
    }


def _once(statistic: Callable[[Floats], Floats], num: int) -> float:
    return float(statistic(np.ones((1, num)))[0])


def _no_ends(_: float) -> dict[str, Any]:
    return {"low": None, "high": None, "method": None}


def _over_patients(
    interval: Callable[[], Any],
    estimate: float,
    patients: Sequence[str],
    instead: Callable[[float], dict[str, Any]] = _no_ends,
) -> dict[str, Any]:
    """An interval's JSON; where there are too few patients for one, the estimate alone.

    Args:
        interval: Over patients.
        estimate: Of all of them.
        patients: Of each slide.
        instead: Gives the ends where all resamples agree: an interval of no width would be taken for certainty.
    """
    if len(set(patients)) < 2:
        return {"estimate": plain(estimate), "low": None, "high": None, "num_patients": len(set(patients))}
    tree: dict[str, Any] = interval().to_json() | {"method": "bootstrap"}
    if tree["low"] is not None and tree["high"] - tree["low"] < _NO_WIDTH:
        tree |= instead(tree["estimate"])
    return tree


def _alike_pairs(area: float, columns: ScoreColumns, level: float) -> dict[str, Any]:
    """The ends of an AUROC whose pairs all came out alike: disjoint pairs are so many trials, as in `delong_interval`."""
    keys = zip(columns.folds, columns.labels_N.tolist(), columns.patients, strict=True)
    groups = Counter((fold, label) for fold, label, _ in set(keys))
    repeats = max(Counter(columns.slides).values())
    num = sum(min(groups[fold, 0], groups[fold, 1]) for fold in set(columns.folds)) // repeats
    if area not in (0.0, 1.0) or not num:
        return _no_ends(area)
    found = clopper_pearson(num * int(area), num, level)
    return {"low": found.low, "high": found.high, "method": found.method}


def _rate(
    weights: tuple[Floats, Floats],
    labels_N: Labels,
    patients: Sequence[str],
    settings: BootstrapSettings,
    *,
    is_share: bool = True,
) -> dict[str, Any]:
    """A quotient of sums over slides, with its interval over patients, and what it is a share of.

    Where all resamples agree, a share has Wilson's interval over the patients that it is of, each counted once.
    """
    upper_N, lower_N = weights

    def of_patients(share: float) -> dict[str, Any]:
        num = len({patient for patient, weight in zip(patients, lower_N, strict=True) if weight})
        found = wilson(round(share * num), num, settings.level)
        return {"low": found.low, "high": found.high, "method": found.method}

    def statistic(drawn_RN: Floats) -> Floats:
        return ratio(drawn_RN @ upper_N, drawn_RN @ lower_N)

    tree = _over_patients(
        lambda: bootstrap_weights(statistic, patients, settings, labels_N.tolist()),
        _once(statistic, len(labels_N)),
        patients,
        of_patients if is_share else _no_ends,
    )
    return {**tree, "num": int(np.count_nonzero(lower_N))}


def _decisions(
    columns: ScoreColumns, by_repeat: Sequence[Sequence[ScoredSlide]], settings: BootstrapSettings
) -> dict[str, Any]:
    called, labels = columns.called, columns.labels_N
    is_right, hits = (called == labels).astype(np.float64), (called * labels).astype(np.float64)
    everybody, share = np.ones(len(labels)), float(labels.mean())
    majority = (labels == int(share > 0.5)).astype(np.float64)
    sums = {
        "accuracy": (is_right, everybody),
        "precision": (hits, called.astype(np.float64)),
        "recall": (hits, labels.astype(np.float64)),
        "specificity": ((1 - called) * (1 - labels).astype(np.float64), (1 - labels).astype(np.float64)),
        "f1": (2 * hits, (called + labels).astype(np.float64)),
        "gain_over_majority": (is_right - majority, everybody),
    }
    all_positive = {
        "accuracy": share,
        "precision": share,
        "recall": 1.0,
        "specificity": 0.0,
        "f1": 2 * share / (1 + share),
    }
    return {
        **{
            name: _rate(pair, labels, columns.patients, settings, is_share=name not in _NO_SHARES)
            for name, pair in sums.items()
        },
        "baselines": {"majority_accuracy": max(share, 1 - share), "all_positive": all_positive},
        "by_repeat": [_counts(repeat).to_json(settings.level) for repeat in by_repeat],
        "note": "At each model's own threshold, also where it would abstain. By repeat: Wilson's intervals over slides.",
    }


def _counts(rows: Sequence[ScoredSlide]) -> DecisionCounts:
    columns = ScoreColumns.of(rows)
    return DecisionCounts.of(columns.called, columns.labels_N)


def _calibration(
    columns: ScoreColumns, by_repeat: Sequence[Sequence[ScoredSlide]], settings: BootstrapSettings
) -> dict[str, Any]:
    kinds: dict[str, Callable[[ScoreColumns], Floats]] = {
        "before": lambda own: calibrated(own.logits_N),
        "after": lambda own: own.probability_N,
    }
    repeats = [ScoreColumns.of(rows) for rows in by_repeat]
    tree = {}
    for name, probability_of in kinds.items():
        scores = calibration_scores(probability_of(columns), columns.labels_N, columns.patients, settings).to_json()
        # a slide counts once in a bin and its interval
        del scores["bins"]
        bins = [reliability(probability_of(own), own.labels_N, level=settings.level) for own in repeats]
        tree[name] = {**scores, "bins_by_repeat": [[one.to_json() for one in own] for own in bins]}
    return tree


def _abstention(
    rows: Sequence[ScoredSlide],
    columns: ScoreColumns,
    by_repeat: Sequence[Sequence[ScoredSlide]],
    classes: Classes,
    settings: BootstrapSettings,
) -> dict[str, Any] | None:
    sets = sets_of(rows, classes)
    risk = selective_risk(columns.confidence, (columns.called != columns.labels_N).astype(np.int64))
    tree: dict[str, Any] = {"selective_risk": risk.to_json(), "conformal": None}
    if sets is None:
        return tree
    labels, decided = columns.labels_N, sets.sum(-1) == 1
    holds = sets[np.arange(len(labels)), labels]
    sums: dict[str, tuple[Mask, Mask]] = {
        "coverage_negative": (holds, labels == 0),
        "coverage_positive": (holds, labels == 1),
        "abstention": (~decided, np.ones(len(labels), np.bool_)),
        "error_of_decided": (~holds, decided),
    }
    rates = {
        name: _rate(((hits & among).astype(np.float64), among.astype(np.float64)), labels, columns.patients, settings)
        for name, (hits, among) in sums.items()
    }
    exact = []
    for repeat in by_repeat:
        own = sets_of(repeat, classes)
        assert own is not None, "all rows have sets"
        exact.append(ConformalScores.of(own, [row.label for row in repeat], settings.level).to_json())
    baseline = {"abstention": 0.0, "error_of_decided": float((columns.called != labels).mean())}
    tree["conformal"] = {**rates, "never_abstaining": baseline, "by_repeat": exact}
    return tree


def _patients(rows: Sequence[ScoredSlide], settings: BootstrapSettings) -> dict[str, Any] | None:
    """Patients in place of slides, where some have several: positive if a slide is, scored by their largest probability."""
    groups: dict[tuple[str, str], list[ScoredSlide]] = defaultdict(list)
    for row in rows:
        groups[row.fold, row.patient_id].append(row)
    if len(groups) == len(rows):
        return None
    merged = [
        ScoredSlide(
            slide_id=patient,
            patient_id=patient,
            label=max(row.label for row in group),
            fold=fold,
            logit=max(row.logit for row in group),
            probability=max(row.probability for row in group),
            threshold=group[0].threshold,
        )
        for (fold, patient), group in groups.items()
    ]
    columns = ScoreColumns.of(merged)
    by_repeat = _repeats(merged)
    return {
        "num": len(set(columns.patients)),
        "rule": "A patient is positive where a slide is, and has the largest probability of the slides.",
        "ranking": _ranking(columns, settings),
        "decisions": _decisions(columns, by_repeat, settings),
    }


def _strata(rows: Sequence[ScoredSlide], field: str, settings: BootstrapSettings) -> dict[str, Any] | None:
    """Ranking and accuracy by site or scanner; None where no slide says, or all say the same."""
    groups: dict[str | None, list[ScoredSlide]] = defaultdict(list)
    for row in rows:
        groups[getattr(row, field)].append(row)
    if len(groups) < 2:
        return None
    return {
        "unknown" if name is None else name: _stratum(group, settings)
        for name, group in sorted(groups.items(), key=lambda pair: (pair[0] is None, str(pair[0])))
    }


def _stratum(rows: Sequence[ScoredSlide], settings: BootstrapSettings) -> dict[str, Any]:
    columns = ScoreColumns.of(rows)
    scores, labels, patients = columns.probability_N, columns.labels_N, columns.patients
    label_of = dict(zip(columns.slides, labels.tolist(), strict=True))
    positives, negatives = sum(label_of.values()), len(label_of) - sum(label_of.values())
    right = (columns.called == labels).astype(np.float64)
    return {
        "num_positives": positives,
        "num_negatives": negatives,
        "num_patients": len(set(patients)),
        "auroc": _over_patients(
            lambda: auroc_interval(scores, labels, patients, settings), auroc(scores, labels), patients
        ),
        "accuracy": _rate((right, np.ones(len(labels))), labels, patients, settings),
        "baselines": {"auroc": 0.5, "majority_accuracy": wilson(max(positives, negatives), len(label_of)).estimate},
        "warnings": list(small_sample_notes(positives, negatives)),
    }


def _streams(rows: Sequence[ScoredSlide]) -> dict[str, Any] | None:
    """How much the local stream weighs, where a method has two."""
    shares = np.array([row.local_share for row in rows if row.local_share is not None], np.float64)
    if not len(shares):
        return None
    labels = np.array([row.label for row in rows if row.local_share is not None])
    return {
        "num": len(shares),
        "mean_local": float(shares.mean()),
        "std_local": float(shares.std()),
        "mean_local_negatives": plain(float(ratio(shares[labels == 0].sum(), (labels == 0).sum()))),
        "mean_local_positives": plain(float(ratio(shares[labels == 1].sum(), (labels == 1).sum()))),
        "even_weight": 0.5,
    }


def _never_ruled_out(sets_N2: Mask, labels_N: Labels, classes: Classes) -> Iterator[str]:
    """What to say where a class, or both, are in every prediction set, those of the other class's slides among them."""
    why = "were set aside for the promised error, or scores tell classes apart too badly for it."
    if sets_N2.all():
        yield f"Every prediction set holds both classes, so that the method never decides: too few slides {why}"
        return
    for label, name in enumerate(classes.names):
        if sets_N2[:, label].all() and (labels_N != label).any():
            other = classes.names[1 - label]
            yield (
                f"Every prediction set holds {name}, so that no slide is ever decided to be {other}: too few slides of "
                f"{name} {why}"
            )


def _warnings(columns: ScoreColumns, rows: Sequence[ScoredSlide], classes: Classes) -> tuple[str, ...]:
    """What a reader has to know before any number is quoted."""
    label_of = dict(zip(columns.slides, columns.labels_N.tolist(), strict=True))
    positives = sum(label_of.values())
    notes = [*small_sample_notes(positives, len(label_of) - positives)]
    if len(set(columns.patients)) < len(label_of):
        notes.append(
            "Some patients have several slides: intervals over slides (DeLong, Wilson, exact) are too narrow; those over "
            "patients are to be quoted."
        )
    if not columns.is_once:
        notes.append("Slides were scored in several repeats: a slide counts once in each, its patient is drawn once.")
    sets = sets_of(rows, classes)
    if sets is not None and len(rows) > 1:
        notes += _never_ruled_out(sets, columns.labels_N, classes)
    if len(set(columns.called.tolist())) == 1 and 0 < positives < len(label_of):
        name = classes.names[int(columns.called[0])]
        notes.append(f"Every slide is called {name} at its model's threshold: decisions tell nothing apart.")
    for field in ("site", "scanner"):
        by_name: dict[str, set[int]] = defaultdict(set)
        for row in rows:
            if (name := getattr(row, field)) is not None:
                by_name[name].add(row.label)
        is_pure = set().union(*by_name.values()) == {0, 1} and all(len(labels) == 1 for labels in by_name.values())
        if is_pure and 2 * len(by_name) <= len(label_of):  # sites of a slide each are pure by chance
            notes.append(
                f"Each {field} has slides of one class alone: whatever tells {field}s apart predicts the label."
            )
    return tuple(notes)
