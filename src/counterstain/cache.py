"""A folder of this user's for what can be made again: exported networks, decoded patches.

The largest that it grows to is fixed; what was not used for longest goes first. Another folder is named by the environment
variable COUNTERSTAIN_CACHE.

Does not know: what is kept.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

_MOST_BYTES = 4 << 30  # some forty ResNet-18, or eight of the widest network


def cache_folder(name: str) -> Path:
    """Where things of one kind are kept. It need not be there yet.

    Args:
        name: Of the kind.

    Source: the XDG base directory specification, and what macOS and Windows have in its place.
    """
    given = os.environ.get("COUNTERSTAIN_CACHE")
    if given:
        return Path(given) / name
    home = Path.home()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else home / "AppData" / "Local") / "counterstain" / "cache" / name
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "counterstain" / name
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if Path(xdg).is_absolute() else home / ".cache") / "counterstain" / name


def mark_used(path: Path) -> None:
    """Says that a file was used now, so that it is kept longer."""
    with suppress(OSError):  # a cache that may only be read serves as well
        os.utime(path)


def drop_oldest(folder: Path, most_bytes: int = _MOST_BYTES) -> None:
    """Removes what was not used for longest until a folder holds no more than so much; the newest file always stays.

    Args:
        folder: Of files alone.
        most_bytes: What it may hold.
    """
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process removes as well
            state = path.stat()
            found.append((state.st_mtime, state.st_size, path))
    held = 0
    for place, (_, size, path) in enumerate(sorted(found, key=lambda one: one[0], reverse=True)):
        held += size
        if place and held > most_bytes:
            with suppress(OSError):  # in use elsewhere, on a system that minds
                path.unlink()
