"""What a slide's map is made of, as its note keeps it, and in words how that differs from what is given now.

    slide.json -> "slide", "model_digest", "settings", "precision", "runtime", "outline"

Does not know: how maps are made, hashes that decide whether one is stale.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from counterstain.errors import CounterstainError
from counterstain.files import read_json
from counterstain.settings import differing

_OF_SLIDE = ("content_hash", "size", "mpp", "bounds")  # it may have moved: its path is left out
_HASHES = {"slide.content_hash": "the slide's content", "model_digest": "the model", "outline": "the tissue's outline"}


def what_differs(note: Path, now: Mapping[str, Any]) -> list[str]:
    """How the inputs of a map differ from others, in words; nothing where its note does not tell.

    Args:
        note: The slide.json beside the map.
        now: Plain values under the note's names; settings only those that change results.
    """
    try:
        before = read_json(note)
        kept = _compared(before, now["settings"])
    except (CounterstainError, OSError, ValueError, KeyError, TypeError):
        return []
    found = differing(kept, _compared(now, now["settings"]))
    return [
        next((f"{what} is another" for name, what in _HASHES.items() if line.startswith(name)), line) for line in found
    ]


def _compared(tree: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "slide": {name: tree["slide"][name] for name in _OF_SLIDE},
        "settings": {name: tree["settings"].get(name) for name in settings},
        **{name: tree.get(name) for name in ("model_digest", "precision", "runtime", "outline")},
    }
