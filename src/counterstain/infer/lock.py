"""One process at a time in a slide's folder, where the system can say so.

The lock is the system's own, on the folder itself: it leaves no file behind, and ends with the process however that ends.

Does not know: what is written there.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from counterstain.errors import ExistingOutputError
from counterstain.files import make_folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it, no other process writes to a folder. On Windows, and on disks without locks, it is taken on trust.

    Args:
        folder: Made where it is not there.

    Raises:
        ExistingOutputError: When another process is within.
    """
    make_folder(folder)
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ExistingOutputError(
                f"{folder} is being written by another process. Wait for it, or give another output folder."
            ) from error
        except OSError:  # a network disk without locks
            pass
        yield
    finally:
        os.close(handle)
