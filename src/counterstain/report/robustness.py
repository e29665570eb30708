"""Robustness: how a model's mean IoU falls as images are corrupted, their truth untouched.

    images -> corruption x strength (corruptions.py) -> maps (gate.py) -> one confusion matrix a patient -> table

A cell of the table is a corruption at one strength, on every image that is looked at. Finished cells are kept in a JSON
file, so that an interrupted measurement goes on with the next.

Does not know: what corruptions do, how maps are made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain import log
from counterstain.data import PatchDataset, PatchRecord, read_image
from counterstain.errors import InputError, StaleResultError, UnknownNameError
from counterstain.files import read_json, settings_hash, write_json
from counterstain.infer import DenseModel, PredictSettings, runtime_of_images
from counterstain.metrics import Interval, SegmentationScores, bootstrap, confusion, mean_iou
from counterstain.report.corruptions import (
    BLUR_SIGMAS_PX,
    CORRUPTIONS,
    JPEG_QUALITIES,
    STAIN_FACTORS,
    STRENGTHS,
    corrupt,
)
from counterstain.report.evaluation import EvaluateSettings, ignored, protocol_of, refuse_other_classes
from counterstain.report.gate import predict_labels
from counterstain.report.protocol import ScoringProtocol

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RobustnessSettings:
    """What robustness is measured against.

    Args:
        corruptions: Names in CORRUPTIONS.
        max_images: So many images at most; None takes all.
        seed: Of the choice of images, and of which direction a corruption takes on which.
        scoring: The protocol and how intervals are made; what else is in it is not looked at.

    Raises:
        InputError: When a number or a name is none that was expected.
    """

    corruptions: tuple[str, ...] = tuple(CORRUPTIONS)
    max_images: int | None = None
    seed: int = 0
    scoring: EvaluateSettings = field(default_factory=EvaluateSettings)

    def __post_init__(self) -> None:
        for name in self.corruptions:
            if name not in CORRUPTIONS:
                raise UnknownNameError("corruption", name, CORRUPTIONS)
        if not self.corruptions:
            raise InputError(f"No corruption was given; expected some of {', '.join(CORRUPTIONS)}.")
        if self.max_images is not None and self.max_images < 1:
            raise InputError(f"Setting 'max_images' was given as {self.max_images}; it must be above 0.")


@dataclass(frozen=True)
class Kept:
    """A file of finished cells.

    Args:
        path: A JSON file, made where there is none.
        model_digest: Of the model, by which cells of another are known.
    """

    path: Path
    model_digest: str


@dataclass(frozen=True)
class Cell:
    """Scores at one strength.

    Args:
        strength: 0, the images as they are, to 5.
        scores: Overlap over all images.
        mean_iou: With its interval over patients; None with fewer than two.
        counts_PKK: (patients, classes + 1, classes + 1), patients in the order of their names.
    """

    strength: int
    scores: SegmentationScores
    mean_iou: Interval | None
    counts_PKK: Counts


@dataclass(frozen=True)
class RobustnessTable:
    """How a model does under each corruption.

    Args:
        split: Whose images.
        class_names: In order.
        protocol: The rules it was made under.
        num_images: How many images were looked at.
        patients: Whose, in the order of their names.
        cells: For each corruption its strengths from 0, which is the same in all, to 5.
    """

    split: str
    class_names: tuple[str, ...]
    protocol: ScoringProtocol
    num_images: int
    patients: tuple[str, ...]
    cells: dict[str, tuple[Cell, ...]]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "split": self.split,
            "num_images": self.num_images,
            "num_patients": len(self.patients),
            "protocol": self.protocol.to_json(),
            "corruptions": {
                name: [
                    {
                        "strength": cell.strength,
                        "scores": cell.scores.to_json(self.class_names),
                        "mean_iou": cell.mean_iou.to_json() if cell.mean_iou else None,
                    }
                    for cell in cells
                ]
                for name, cells in self.cells.items()
            },
            "notes": list(self.protocol.notes),
        }


def measure_robustness(
    model: DenseModel,
    data: PatchDataset,
    split: str,
    predict: PredictSettings | None = None,
    settings: RobustnessSettings | None = None,
    kept: Kept | None = None,
) -> RobustnessTable:
    """The mean IoU of a model under every corruption at every strength.

    Args:
        model: Whose maps; its classes must be the dataset's.
        data: Whose masks.
        split: "val" or "test".
        predict: How images are tiled and mapped.
        settings: Which corruptions, how many images, which protocol.
        kept: Where finished cells are kept; None keeps none.

    Raises:
        InputError: When the split has no images or one has no mask, the classes differ, or the model can't be given the
            gate.
        StaleResultError: When the file holds cells of another model, other data or other settings.
    """
    settings, predict = settings or RobustnessSettings(), predict or PredictSettings()
    refuse_other_classes(model, data)
    protocol = protocol_of(model, predict, settings.scoring)
    records = some_records(data.split(split), settings.max_images, settings.seed)
    work = _Work(model, data, records, predict, settings)
    digest = _digest(kept.model_digest, work, split) if kept else ""
    done = _read(kept.path, digest) if kept else {}
    wanted = [("none", 0), *((name, strength) for name in settings.corruptions for strength in STRENGTHS)]
    with log.progress("Corrupting and scoring", len(wanted) * len(records), "images") as counter:
        for name, strength in wanted:
            key = f"{name} {strength}"
            if key in done:
                counter.advance(len(records))
                continue
            done[key] = work.count(name, strength, counter)
            if kept:
                cells = {cell: counts_PKK.tolist() for cell, counts_PKK in done.items()}
                write_json(kept.path, {"digest": digest, "cells": cells})
    clean = _cell(0, done["none 0"], settings.scoring)
    return RobustnessTable(
        split=split,
        class_names=data.classes.names,
        protocol=protocol,
        num_images=len(records),
        patients=work.patients,
        cells={
            name: (clean, *(_cell(strength, done[f"{name} {strength}"], settings.scoring) for strength in STRENGTHS))
            for name in settings.corruptions
        },
    )


def some_records(records: Sequence[PatchRecord], max_images: int | None, seed: int) -> tuple[PatchRecord, ...]:
    """So many images at most, of as many patients as there can be.

    Args:
        records: All.
        max_images: How many; None takes all.
        seed: Of the order of patients, and of each one's images.

    Returns:
        One image of every patient in turn, until there are enough; in the order of `records`.

    Source: ours; an interval is over patients, and a second image of one tells less than the first of another.
    """
    if max_images is None or max_images >= len(records):
        return tuple(records)
    rng = np.random.default_rng(seed)
    rank_of = {str(name): place for place, name in enumerate(rng.permutation(sorted({one.patient for one in records})))}
    turns: dict[str, int] = {}
    order = []
    for index in rng.permutation(len(records)):
        patient = records[index].patient
        turns[patient] = turns.get(patient, -1) + 1
        order.append((turns[patient], rank_of[patient], int(index)))
    return tuple(records[index] for index in sorted(index for _, _, index in sorted(order)[:max_images]))


@dataclass(frozen=True)
class _Work:
    """Everything that a cell needs."""

    model: DenseModel
    data: PatchDataset
    records: tuple[PatchRecord, ...]
    predict: PredictSettings
    settings: RobustnessSettings

    @property
    def patients(self) -> tuple[str, ...]:
        return tuple(sorted({record.patient for record in self.records}))

    def count(self, name: str, strength: int, counter: log.Counter) -> Counts:
        """One confusion matrix for each patient, (P, K + 1, K + 1)."""
        num, row_of = len(self.data.classes), {patient: row for row, patient in enumerate(self.patients)}
        counts_PKK = np.zeros((len(row_of), num + 1, num + 1), np.int64)
        for number, record in enumerate(self.records, start=self.settings.seed):
            image, truth_HW = read_image(record.image), self.data.read_mask(record)
            changed = corrupt(image, name, strength, number) if strength else image
            label_HW = predict_labels(changed, truth_HW, self.model, self.settings.scoring.gate, self.predict)
            counts_PKK[row_of[record.patient]] += confusion(label_HW, truth_HW, num, ignored(self.data))
            counter.advance()
        return counts_PKK


def _cell(strength: int, counts_PKK: Counts, scoring: EvaluateSettings) -> Cell:
    def statistic(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return mean_iou(counts, scoring.protocol)

    rows = [str(row) for row in range(len(counts_PKK))]
    interval = bootstrap(counts_PKK, rows, statistic, scoring.bootstrap) if len(rows) > 1 else None
    return Cell(strength, SegmentationScores.of(counts_PKK.sum(0), scoring.protocol), interval, counts_PKK)


def _digest(model_digest: str, work: _Work, split: str) -> str:
    """Of all that changes a cell; which cells there are, and how they are scored, changes none."""
    precision = runtime_of_images(work.predict).label
    return settings_hash(
        model_digest,
        work.data.digest(),
        split,
        {**work.predict.that_matter(), "precision": precision},
        [work.settings.max_images, work.settings.seed, work.settings.scoring.gate],
        [STAIN_FACTORS, BLUR_SIGMAS_PX, JPEG_QUALITIES],
    )


def _read(path: Path, digest: str) -> dict[str, Counts]:
    """The cells that are done."""
    if not path.exists():
        return {}
    tree = read_json(path)
    if tree.get("digest") != digest:
        raise StaleResultError(
            f"{path} holds robustness of another model, other data or other settings. Give another file, or remove it."
        )
    return {key: np.array(counts, np.int64) for key, counts in tree["cells"].items()}
