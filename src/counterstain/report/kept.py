"""Scores of a run, made once: confusions of each image, kept in the run folder under a hash of what they follow from.

    RUN/compare/<key>.npz     confusions, patients
    RUN/compare/<key>.json    protocol, notes, openings of the test split

A test split counts as opened when scoring begins; a scoring that was killed goes on without being a further look.

Does not know: what runs are compared for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from counterstain.data import PatchDataset
from counterstain.files import atomic, read_json, settings_hash, write_json
from counterstain.infer import PredictSettings, runtime_of_images
from counterstain.methods import load_dense_method, model_digest
from counterstain.report.evaluation import EvaluateSettings, evaluate
from counterstain.report.opened import open_test_split
from counterstain.report.seen import notes_on_choice, notes_on_patients

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """What came of one run.

    Args:
        confusions_NKK: (images, classes + 1, classes + 1), of each image.
        patients: Of each image.
        minutes: Of its training by the clock, "total" and by stage where it has stages.
        model_digest: Of the run's model.
        about: Protocol, notes, openings of the test split; plain values.
    """

    confusions_NKK: Counts
    patients: tuple[str, ...]
    minutes: dict[str, float]
    model_digest: str
    about: dict[str, Any]


@dataclass(frozen=True)
class Scoring:
    """How runs are scored.

    Args:
        split: "val" or "test".
        predict: How images are mapped.
        evaluate: How maps are scored.
        again: Whether a test split that was opened for a run is opened once more.
    """

    split: str
    predict: PredictSettings
    evaluate: EvaluateSettings
    again: bool = False


def scores_of(run: Path, data: PatchDataset, scoring: Scoring) -> Scored:
    """The scores of a finished run: those that are kept, or new ones.

    Args:
        run: The run folder.
        data: With masks for the scored split, opened as the dataset says of itself: another resolution would make a new one
            of it, with a test split to open.
        scoring: See there.

    Raises:
        InputError: When model and data don't go together.
        ExistingOutputError: When the test split was opened for this run before and `again` is not set.
    """
    model, data_digest = model_digest(run), data.digest()
    key = _key(model, data_digest, scoring)
    arrays, note = run / "compare" / f"{key}.npz", run / "compare" / f"{key}.json"
    if not arrays.exists():
        _score(run, data, scoring, arrays, note)
    with arrays.open("rb") as file, np.load(file, allow_pickle=False) as found:
        patients = tuple(str(one) for one in found["patients"])
        about = read_json(note)
        # What the model's description alone tells is worked out anew: kept scores of an older version lack it.
        about["notes"] = [*about["notes"], *notes_on_choice(run, data, scoring.split, data_digest)]
        return Scored(found["confusions"], patients, _minutes(run), model, about)


def _key(model: str, data_digest: str, scoring: Scoring) -> str:
    """What confusions follow from; how they are summed up does not matter."""
    precision = runtime_of_images(scoring.predict).label
    which = (scoring.split, scoring.evaluate.gate, precision)
    return f"{scoring.split}_{settings_hash(model, data_digest, scoring.predict.that_matter(), which)[:12]}"


def _score(run: Path, data: PatchDataset, scoring: Scoring, arrays: Path, note: Path) -> None:
    dense, data_digest = load_dense_method(run), data.digest()
    if not note.exists():
        openings = open_test_split(run, data_digest, scoring.again) if scoring.split == "test" else []
        write_json(note, {"test_openings": openings})
    found = evaluate(dense, data, scoring.split, scoring.predict, scoring.evaluate)
    write_json(
        note,
        {
            **read_json(note),
            "protocol": found.protocol.to_json(),
            "notes": [*found.protocol.notes, *notes_on_patients(run, data, scoring.split, data_digest)],
        },
    )
    with atomic(arrays) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, confusions=found.confusions_NKK, patients=np.array(found.patients))


def _minutes(run: Path) -> dict[str, float]:
    note = read_json(run / "training.json")
    return {"total": note["minutes"], **note.get("stages", {})}
