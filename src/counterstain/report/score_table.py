"""Scored slides as a table and as columns: what reports, folds and figures hand each other.

    ScoredSlide <-> scores.csv; ScoredSlide -> ScoreColumns

Does not know: models, metrics, how slides were dealt into folds.

N rows, a slide scored by a model.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from counterstain.data.rows import read_rows
from counterstain.errors import InputError, listed
from counterstain.files import write_text
from counterstain.metrics.segmentation import Floats, ratio
from counterstain.results import Classes, ScoredSlide

Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_COLUMNS = tuple(one.name for one in fields(ScoredSlide))
_NUMBERS = re.compile(r"^(\d+)\.(\d+)$")  # repeat and fold as earlier tables have them


def write_scores(path: Path, rows: Sequence[ScoredSlide]) -> None:
    """Writes scored slides as a table, a column for each field. What is None stays empty; sets are lists in JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = dict(vars(row))
        if row.prediction_set is not None:
            cells["prediction_set"] = json.dumps(list(row.prediction_set), ensure_ascii=False)
        writer.writerow(cells)
    write_text(path, text.getvalue())


def read_scores(path: Path) -> tuple[ScoredSlide, ...]:
    """Reads what `write_scores` wrote, numbers exactly.

    Raises:
        MissingFileError: When it is not there.
        InputError: When a column is missing, a cell is no number where one was expected, or a slide has no label or score.
    """
    table = read_rows(path)
    missing = [name for name in _COLUMNS if name not in table.header]
    if missing:
        raise InputError(f"Table '{path}' has no columns {missing}. Give a scores.csv of a diagnosis.")
    rows, wrong = [], []
    for row in table.rows:
        try:
            rows.append(_read_row(row.cells))
        except ValueError as error:
            wrong.append(f"line {row.line}: {error}")
    if wrong:
        raise InputError(listed(f"Rows of '{path}' are no scored slides:", wrong))
    return tuple(rows)


def _read_row(cells: dict[str, str]) -> ScoredSlide:
    words = json.loads(cells["prediction_set"]) if cells["prediction_set"] else None
    return ScoredSlide(
        slide_id=cells["slide_id"],
        patient_id=cells["patient_id"],
        label=int(cells["label"]),
        fold=_NUMBERS.sub(r"r\1f\2", cells["fold"]),
        logit=float(cells["logit"]),
        probability=float(cells["probability"]),
        threshold=float(cells["threshold"]),
        decision=cells["decision"] or None,
        prediction_set=None if words is None else tuple(map(str, words)),
        site=cells["site"] or None,
        scanner=cells["scanner"] or None,
        local_share=float(cells["local_share"]) if cells["local_share"] else None,
    )


@dataclass(frozen=True, eq=False)
class ScoreColumns:
    """Scored slides column by column.

    Args:
        slides: (N,) their names; a slide comes once for each model that scored it.
        patients: (N,).
        folds: (N,) which model scored each.
        labels_N: (N,) 0 or 1.
        logits_N: (N,) before calibration.
        probability_N: (N,) calibrated.
        thresholds_N: (N,) of the model that scored each.
    """

    slides: tuple[str, ...]
    patients: tuple[str, ...]
    folds: tuple[str, ...]
    labels_N: Labels
    logits_N: Floats
    probability_N: Floats
    thresholds_N: Floats

    @classmethod
    def of(cls, rows: Sequence[ScoredSlide]) -> "ScoreColumns":
        """The columns of rows.

        Raises:
            InputError: When there is no row, or a model scored a slide twice.
        """
        if not rows:
            raise InputError("No scored slide was given. Score some slides with labels first.")
        if len({(row.fold, row.slide_id) for row in rows}) < len(rows):
            raise InputError("A slide was scored twice by one model. Give each slide once for each fold.")
        return cls(
            slides=tuple(row.slide_id for row in rows),
            patients=tuple(row.patient_id for row in rows),
            folds=tuple(row.fold for row in rows),
            labels_N=np.array([row.label for row in rows], np.int64),
            logits_N=np.array([row.logit for row in rows], np.float64),
            probability_N=np.array([row.probability for row in rows], np.float64),
            thresholds_N=np.array([row.threshold for row in rows], np.float64),
        )

    @property
    def called(self) -> Labels:
        """(N,) 0 or 1: what each slide is called at its model's threshold, whether or not the model would abstain."""
        return (self.probability_N >= self.thresholds_N).astype(np.int64)

    @property
    def confidence(self) -> Floats:
        """(N,) in [0, 1]: how far a probability lies from its model's threshold, as a part of the way to 0 or 1."""
        above = ratio(self.probability_N - self.thresholds_N, 1 - self.thresholds_N)
        below = ratio(self.thresholds_N - self.probability_N, self.thresholds_N)
        return np.nan_to_num(np.where(self.called == 1, above, below))

    @property
    def is_once(self) -> bool:
        """Whether every slide was scored once, and not in several repeats."""
        return len(set(self.slides)) == len(self.slides)


def sets_of(rows: Sequence[ScoredSlide], classes: Classes) -> Mask | None:
    """(N, 2) bool, the prediction set of each row; None where no error was promised.

    Raises:
        InputError: When some rows have sets and others do not, or one names no class.
    """
    promised = [row.prediction_set is not None for row in rows]
    if not any(promised):
        return None
    if not all(promised):
        raise InputError("Some slides have prediction sets and others do not. Score all of them alike.")
    sets = np.zeros((len(rows), 2), np.bool_)
    for number, row in enumerate(rows):
        for name in row.prediction_set or ():
            sets[number, classes.index(name)] = True
    return sets
