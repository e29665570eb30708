"""Files: atomic writes, content hashes, and the guard against overwriting.

A reader never meets half a file: everything is written beside its target under a temporary name, flushed to disk and
renamed. Hashes stand in every artefact, so that results made from other inputs or settings are recognised as stale.

Does not know: what is inside a file.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from counterstain.errors import ExistingOutputError, MissingFileError, UnwritableError

_HASHED_ENDS = 1 << 20  # bytes read at either end of a large file


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, where they are not there.

    Raises:
        UnwritableError: When that can't be done.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnwritableError(_why_not(path, error)) from error


def _why_not(folder: Path, error: OSError) -> str:
    return (
        f"'{folder}' was given to write to, which can't be done ({error.strerror or error}). Give another folder, or make "
        "room or rights for this one."
    )


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends well and removed when it does not.

    Args:
        path: The file to write. Its folder is made. The temporary name keeps its suffix, which writers look at.

    Raises:
        UnwritableError: When nothing can be written there.
    """
    path = Path(path)
    make_folder(path.parent)
    prefix, suffix = f".{path.name.split('.')[0]}-", "".join(path.suffixes)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=suffix)
    except OSError as error:
        raise UnwritableError(_why_not(path.parent, error)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed onto it when the block ends well and removed when it does not.

    Args:
        path: The folder to make. It may be there already when it is empty.

    Raises:
        ExistingOutputError: When there is something in it.
        UnwritableError: When nothing can be written there.
    """
    path = Path(path)
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    refuse_overwrite(path)
    make_folder(path.parent)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, tree: Any) -> None:
    """Writes a JSON file atomically, two spaces deep, NaN refused."""
    write_text(path, json.dumps(tree, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        MissingFileError: When it is not there.
    """
    path = existing(path, "a JSON file")
    return json.loads(path.read_text(encoding="utf-8"))


def existing(path: Path | str, what: str) -> Path:
    """The path, when something is there.

    Args:
        path: Where to look.
        what: What was expected there, with its article: "a slide".

    Raises:
        MissingFileError: When nothing is.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path} was given as {what}, but nothing is there. Check the path.")
    return path


def refuse_overwrite(path: Path) -> None:
    """Refuses to go on where an output already stands.

    Raises:
        ExistingOutputError: When it does.
    """
    if Path(path).exists():
        raise ExistingOutputError(f"{path} exists already. Give another path, or pass --overwrite to replace it.")


def file_hash(path: Path) -> str:
    """A SHA-256 of a file's length and content; past 2 MiB, of its first and last MiB and its length.

    Slides have gigabytes: their header, index and last tiles tell two of them apart at the cost of two reads. A folder,
    as a DICOM series is one, has the hash of its files' names and hashes.
    """
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_dir():
        for inner in sorted(one for one in path.rglob("*") if one.is_file()):
            digest.update(f"{inner.relative_to(path).as_posix()}\0{file_hash(inner)}\0".encode())
        return digest.hexdigest()
    length = path.stat().st_size
    digest.update(str(length).encode())
    with path.open("rb") as file:
        if length <= 2 * _HASHED_ENDS:
            digest.update(file.read())
        else:
            digest.update(file.read(_HASHED_ENDS))
            file.seek(-_HASHED_ENDS, os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()


def whole_hash(path: Path) -> str:
    """A SHA-256 of all of a file: of weights, in which any byte matters."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_hash(*settings: Any) -> str:
    """A SHA-256 of settings: dataclasses, mappings, lists and plain values, independent of key order."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return plain(asdict(value))
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return hashlib.sha256(json.dumps(plain(list(settings)), sort_keys=True).encode()).hexdigest()
