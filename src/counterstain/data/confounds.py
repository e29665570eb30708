"""Traits of slides that give their class away: site, scanner, resolution, file format, pen marks, size.

A trait that goes with the class is told with its counts: a classifier can learn the trait instead of the disease, and no
split of these slides would show it. Patients are what is counted in tests, since slides of one patient share scanner and
site: each patient once for each pair of class and value.

Does not know: how slides are looked at, what is learned.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from scipy import stats

from counterstain.data.diagnosis import Diagnosis, DiagnosisSlide
from counterstain.data.leaks import Finding
from counterstain.data.slide_facts import SlideFacts
from counterstain.errors import InputError

INKED = 0.002
"""The share of a slide's scanned part under ink from which on it counts as marked: slides without marks stay below."""

_SURE_P, _STRONG_V, _STRONG_AUC = 0.01, 0.3, 0.8
_WHOLE_P = 0.05  # where all slides of a class share a value: less is needed to be believed, since more is at stake
_DRAWS = 4999
_MARKED = "pen marks"
_SAME_MPP = 1.02  # resolutions that differ by less are one: scanners calibrate each slide


@dataclass(frozen=True)
class Association:
    """How a trait of slides goes with their class.

    Args:
        trait: Its name.
        counts: For each value, how many negative and positive slides have it; most frequent first.
        num_units: Patients counted, each once for each pair of class and value.
        strength: Cramer's V, 0 to 1.
        p_value: Fisher's exact test for two values, else the part of label permutations that look as strong.
        warning: What to tell when the class shows in it; None when it does not.
    """

    trait: str
    counts: dict[str, tuple[int, int]]
    num_units: int
    strength: float
    p_value: float
    warning: str | None


@dataclass(frozen=True)
class _Trait:
    """Words for a trait: verb of one and of several slides, what follows it, what a classifier learns, what to do.

    `told` is the one value that a person wants to hear of; None where any may be. `mixed` is what else can be done where a
    value has slides of both classes.
    """

    one: str
    several: str
    value: str
    learned: str
    remedy: str
    told: str | None = None
    mixed: str = ""


_TRAITS = {
    "site": _Trait(
        "is",
        "are",
        "from site {}",
        "the site",
        "Add slides of both classes from each site.",
        mixed="Or give the slides of a site that has both classes the split test, to see what the others teach of it.",
    ),
    "scanner": _Trait("was", "were", "scanned with {}", "the scanner", "Add slides of both classes from each scanner."),
    "resolution": _Trait(
        "has", "have", "{}", "the scanner", "Add slides of both classes at each resolution, as of one scanner."
    ),
    "file format": _Trait(
        "is", "are", "stored as {}", "how files were made", "Take both classes from one source of files."
    ),
    "pen marks": _Trait(
        "has",
        "have",
        "{}",
        "the ink",
        "Ink is left out of the tissue that is found: look at where it is missed, or leave marked slides out.",
        told=_MARKED,
    ),
}


def associations(diagnosis: Diagnosis, facts: Mapping[str, SlideFacts]) -> tuple[Association, ...]:
    """How traits of slides go with their class; traits that all slides share, or that are unknown, are left out."""
    found = []
    told: dict[frozenset[frozenset[str]], str] = {}
    for trait, values in _values(diagnosis.rows, facts).items():
        rows = [row for row in diagnosis.rows if row.slide_id in values]
        if len(set(values.values())) < 2 or {row.label for row in rows} != {0, 1}:
            continue
        one = _association(trait, rows, values, diagnosis.classes.names)
        parts = frozenset(frozenset(name for name in values if values[name] == value) for value in one.counts)
        if one.warning is not None and told.setdefault(parts, trait) != trait:
            one = replace(one, warning=f"It parts the slides exactly as the {told[parts]} does.")
        found.append(one)
    return tuple(found)


def size_warning(diagnosis: Diagnosis, facts: Mapping[str, SlideFacts]) -> Finding | None:
    """Tells when slides of one class are larger, by a Mann-Whitney test over patients; None when they are not."""
    areas: dict[int, dict[str, list[float]]] = {0: defaultdict(list), 1: defaultdict(list)}
    for row in diagnosis.rows:
        area = facts[row.slide_id].area_mm2 if row.slide_id in facts else None
        if area is not None:
            areas[row.label][row.patient_id].append(area)
    negative, positive = ([float(np.mean(of)) for of in areas[label].values()] for label in (0, 1))
    if not negative or not positive:
        return None
    test = stats.mannwhitneyu(positive, negative, alternative="two-sided")
    auc = float(test.statistic) / (len(positive) * len(negative))
    if test.pvalue >= _SURE_P or max(auc, 1 - auc) < _STRONG_AUC:
        return None
    names = diagnosis.classes.names
    sides = sorted(((median(positive), names[1]), (median(negative), names[0])), reverse=True)
    (large, larger), (small, smaller) = sides
    return Finding(
        "size",
        f"The {larger} slides are larger than the {smaller} ones (median {large:.3g} against {small:.3g} mm2): their "
        f"size alone tells the classes apart with an AUC of {max(auc, 1 - auc):.2f} (p {_shown(float(test.pvalue))}). "
        "Compare like specimens.",
    )


def cramers_v(values: Sequence[str], labels: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """Cramer's V between a trait and a binary label, and its p value.

    Args:
        values: Of each unit; at least two different ones.
        labels: 0 or 1 of each unit, both there.
        seed: Of the permutations.

    Returns:
        V in 0 to 1, and p: of Fisher's exact test for two values, else of 4999 permutations of the labels, the observed
        table counted among them.

    Raises:
        InputError: When there are fewer than two values or labels.
    """
    kinds, codes = np.unique(np.asarray(values), return_inverse=True)
    label = np.asarray(labels, bool)
    if len(kinds) < 2 or label.all() or not label.any():
        raise InputError(f"{len(kinds)} values and {len(set(labels))} labels were given; two of each are needed.")
    one_hot = np.eye(len(kinds))[codes]
    observed = _chi2(one_hot, label[None])[0]
    strength = float(np.sqrt(observed / len(label)))
    if len(kinds) == 2:
        table = np.array([[np.sum((codes == kind) & (label == of)) for of in (False, True)] for kind in (0, 1)])
        return strength, float(stats.fisher_exact(table).pvalue)
    random = np.random.default_rng(seed)
    drawn = _chi2(one_hot, random.permuted(np.tile(label, (_DRAWS, 1)), axis=1))
    return strength, float((1 + np.sum(drawn >= observed * (1 - 1e-9))) / (1 + _DRAWS))


def _chi2(one_hot: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Pearson's statistic of 2 x K tables, one for each row of labels (R, N), with the values (N, K) one-hot."""
    total, positive = one_hot.shape[0], labels[0].sum()
    of_value = one_hot.sum(axis=0)
    excess = labels.astype(float) @ one_hot - of_value * positive / total
    statistic: np.ndarray = (excess**2 / of_value).sum(axis=1) * total**2 / (positive * (total - positive))
    return statistic


def _association(
    trait: str, rows: Sequence[DiagnosisSlide], values: Mapping[str, str], names: tuple[str, ...]
) -> Association:
    units = sorted({(row.patient_id, row.label, values[row.slide_id]) for row in rows})
    of_units, labels = [value for _, _, value in units], [label for _, label, _ in units]
    strength, p_value = cramers_v(of_units, labels)
    counted = Counter((values[row.slide_id], row.label) for row in rows)
    order = Counter(values[row.slide_id] for row in rows)
    counts = {value: (counted[value, 0], counted[value, 1]) for value, _ in order.most_common()}
    words = _TRAITS[trait]
    value, label = _told(words, counts)
    is_whole = counts[value][label] == sum(pair[label] for pair in counts.values())
    # A few slides that a trait tells apart without fault prove little, and are worth a word all the same.
    is_pure = all(0 in pair for pair in counts.values()) and 2 * len(counts) <= len(units)
    warning = None
    if is_pure or (p_value < (_WHOLE_P if is_whole else _SURE_P) and strength >= _STRONG_V):
        warning = (
            f"{_sentence(words, counts, (value, label), names)}: a classifier can learn {words.learned} instead (Cramer's "
            f"V {strength:.2f}, p {_shown(p_value)}, {len(units)} patients). {words.remedy}"
        )
        has_mixed = words.mixed and any(0 not in pair for pair in counts.values())
        warning += f" {words.mixed}" if has_mixed else ""
    return Association(trait, counts, len(units), strength, p_value, warning)


def _told(words: _Trait, counts: Mapping[str, tuple[int, int]]) -> tuple[str, int]:
    """The value and the label that a sentence is about: one that a whole class has, else that of the largest excess."""
    totals = [sum(pair[label] for pair in counts.values()) for label in (0, 1)]

    def excess(key: tuple[str, int]) -> tuple[bool, float]:
        value, label = key
        own, other = (counts[value][of] / totals[of] for of in (label, 1 - label))
        return own == 1, round(own - other, 9)  # ties go to the positive class

    values = counts if words.told is None else (words.told,)
    return max(((value, label) for label in (1, 0) for value in values), key=excess)


def _sentence(
    words: _Trait, counts: Mapping[str, tuple[int, int]], told: tuple[str, int], names: tuple[str, ...]
) -> str:
    value, label = told
    totals = [sum(pair[of] for pair in counts.values()) for of in (0, 1)]
    own, beside = (f"{counts[value][of]} of {totals[of]}" for of in (label, 1 - label))
    said, name, other = words.value.format(value), names[label], names[1 - label]
    if counts[value][label] == totals[label]:
        return f"Every {name} slide {words.one} {said} ({own}; {other}: {beside})"
    return f"{own} {name} slides {words.several} {said}, and {beside} {other} ones"


def _values(rows: Sequence[DiagnosisSlide], facts: Mapping[str, SlideFacts]) -> dict[str, dict[str, str]]:
    """By trait, the value of each slide of which it is known."""
    known = {row.slide_id: facts[row.slide_id] for row in rows if row.slide_id in facts}
    return {
        "site": {row.slide_id: row.entry.site for row in rows if row.entry.site is not None},
        "scanner": {row.slide_id: row.entry.scanner for row in rows if row.entry.scanner is not None},
        "resolution": _resolutions({name: fact.mpp for name, fact in known.items() if fact.mpp is not None}),
        "file format": {name: f"{fact.suffix or 'no suffix'} ({fact.reader})" for name, fact in known.items()},
        "pen marks": {
            name: _MARKED if fact.ink > INKED else "no pen marks"
            for name, fact in known.items()
            if fact.ink is not None
        },
    }


def _resolutions(mpp: Mapping[str, float]) -> dict[str, str]:
    """Resolutions as text, those that differ by a calibration alone under their median."""
    groups: list[list[str]] = []
    for name in sorted(mpp, key=mpp.__getitem__):
        if groups and mpp[name] <= mpp[groups[-1][-1]] * _SAME_MPP:
            groups[-1].append(name)
        else:
            groups.append([name])
    return {name: f"{median(mpp[one] for one in group):.3g} um/px" for group in groups for name in group}


def _shown(p_value: float) -> str:
    return f"{p_value:.2g}" if p_value >= 1e-4 else "< 0.0001"
