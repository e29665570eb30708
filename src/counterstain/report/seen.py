"""What a run has looked at of what it is scored on: a run and a split in, what a report has to say of them out.

Patients may have been trained on, and masks of a validation split may have chosen the network.

Does not know: scores.
"""

from pathlib import Path
from typing import Any

from counterstain.data import PatchDataset, patient_code, patient_codes
from counterstain.files import read_json

_SHOWN = 5
_LOOKED_AT = {
    "train": "were trained on too: their scores say nothing of patients whom the model has not seen",
    "val": "were in the split that thresholds and stopping were chosen on: their scores are no test",
}


def notes_on_patients(run: Path, data: PatchDataset, split: str, data_digest: str) -> tuple[str, ...]:
    """What to say of scored patients whom the run has seen; patients are told apart by name, across datasets too.

    Args:
        run: A finished run.
        data: What it is scored on.
        split: Of which patients.
        data_digest: Of the dataset.

    Returns:
        A sentence for each split of the training set that scored patients were in, none where they were in none. That
        those of the validation split were validated on is no news, and not said of it.
    """
    provenance: dict[str, Any] = read_json(run / "model.json").get("provenance") or {}
    trained_on = _patients(provenance.get("data"), data, data_digest)
    seen = trained_on or {"train": set(), "val": set()}
    seen["val"] |= _tuned_on(provenance.get("tuned"), data, data_digest)
    names = sorted({record.patient for record in data.split(split)})
    notes = []
    if trained_on is None:
        notes.append("The run does not record its patients, so whether scored ones were trained on is not known.")
    for part in ("train", "val") if split != "val" else ("train",):
        again = [name for name in names if patient_code(name) in seen[part]]
        if again:
            some = ", ".join(again[:_SHOWN]) + (", ..." if len(again) > _SHOWN else "")
            notes.append(f"{len(again)} of {len(names)} scored patients ({some}) {_LOOKED_AT[part]}.")
    return tuple(notes)


def notes_on_choice(run: Path, data: PatchDataset, split: str, data_digest: str) -> tuple[str, ...]:
    """What to say of the selector that chose a run's network among those of its rounds.

    Args:
        run: A finished run.
        data: What it is scored on.
        split: Which part of it.
        data_digest: Of the dataset.

    Returns:
        The selector with what may be claimed of it, and, where masks of the scored validation split chose the network,
        that they did; nothing of a run that had nothing to choose from.
    """
    described: dict[str, Any] = read_json(run / "model.json")
    provenance, config = described.get("provenance") or {}, described.get("config") or {}
    selector = provenance.get("selector")
    if selector is None or config.get("max_rounds") == 0:
        return ()
    notes = [f"Selector {selector!r}: {provenance['claim']}."]
    if provenance["reads_masks"] and split == "val" and _may_have_chosen(provenance.get("data"), data, data_digest):
        notes.append(
            "The network was chosen by masks of the validation split that it is scored on here: such scores come out too "
            "high, and are no test. Score the test split."
        )
    return tuple(notes)


def _may_have_chosen(recorded: dict[str, Any] | None, data: PatchDataset, data_digest: str) -> bool:
    """Whether validation patients of a recorded dataset are scored, or nobody knows."""
    known = _patients(recorded, data, data_digest)
    return known is None or not known["val"].isdisjoint(patient_codes(data.val))


def _patients(recorded: dict[str, Any] | None, data: PatchDataset, data_digest: str) -> dict[str, set[str]] | None:
    """Codes of the patients of training and validation in a recorded dataset; None where nothing tells."""
    recorded = recorded or {}
    if "patients" in recorded:
        return {part: set(codes) for part, codes in recorded["patients"].items()}
    if recorded.get("digest") == data_digest:
        return {part: set(patient_codes(data.splits[part])) for part in ("train", "val")}
    return None


def _tuned_on(tuned: dict[str, Any] | None, data: PatchDataset, data_digest: str) -> set[str]:
    """Codes of the patients that a trained run was tuned on, the last time and before: of validation splits alone."""
    codes: set[str] = set()
    while tuned:
        codes |= (_patients(tuned.get("data"), data, data_digest) or {"val": set()})["val"]
        tuned = tuned.get("before")
    return codes
