"""The test split is opened once: a note in the run folder says when, and a second opening must be asked for.

Does not know: scores.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from counterstain.errors import ExistingOutputError
from counterstain.files import read_json, write_json

NOTE = "test_opened.json"


def open_test_split(
    run: Path, data_digest: str, again: bool = False, instead: str = "Use --split val"
) -> list[dict[str, Any]]:
    """Notes that the test split of a dataset is opened for a run.

    Args:
        run: The run folder.
        data_digest: Of the dataset.
        again: Whether a further opening is wanted; it is noted, and reports say so.
        instead: What else a user can do, in words.

    Returns:
        Every opening so far, this one last.

    Raises:
        ExistingOutputError: When it was opened before and `again` is not set.
    """
    note = run / NOTE
    openings: list[dict[str, Any]] = read_json(note) if note.exists() else []
    before = [opening for opening in openings if opening["data"] == data_digest]
    if before and not again:
        raise ExistingOutputError(
            f"The test split was opened for {run} on {before[-1]['when']}. What is looked at twice is no test. "
            f"{instead}, or pass --again: the report will say so."
        )
    openings.append({"data": data_digest, "when": datetime.now(UTC).isoformat(timespec="seconds")})
    write_json(note, openings)
    return [opening for opening in openings if opening["data"] == data_digest]
