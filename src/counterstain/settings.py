"""Settings: frozen dataclasses from TOML files, validated, merged and written back.

One field of one dataclass holds a setting. A TOML file and flags write the same tree; the merged tree is stored in the run
folder and repeats the run.

Does not know: what any setting means.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from counterstain.errors import InputError, UnknownNameError
from counterstain.files import existing, write_text

SettingsT = TypeVar("SettingsT")


def build(cls: type[SettingsT], tree: dict[str, Any]) -> SettingsT:
    """Builds a frozen dataclass of settings from plain values, checked against its types.

    Args:
        cls: The dataclass. Nested dataclasses are tables in `tree`.
        tree: Names to values; what is absent keeps its default.

    Raises:
        UnknownNameError: When a name is no field.
        InputError: When a value does not fit its type.
    """
    from pydantic import TypeAdapter, ValidationError

    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for name in tree:
        if name not in known:
            raise UnknownNameError("setting", name, known)
    try:
        return TypeAdapter(cls).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"Setting {where!r} was given as {first['input']!r}. {first['msg']}.") from error


Kind = type | tuple[type, ...]

_KINDS: dict[Kind, str] = {
    str: "a text",
    dict: "a table",
    list: "a list of tables",
    int: "a whole number",
    (int, float): "a number",
}


def check_entries(tree: Mapping[str, Any], known: Mapping[str, Kind], where: str) -> None:
    """Refuses entries that nothing reads, and values of another kind; what stands in tables is checked where it is built.

    Args:
        tree: Plain values.
        known: The kind of each entry that is read.
        where: Where they stand, for the message.

    Raises:
        UnknownNameError: When a name is not known.
        InputError: When a value is of another kind.
    """
    for name, value in tree.items():
        if name not in known:
            raise UnknownNameError(f"entry of {where}", name, known)
        if not isinstance(value, known[name]):
            raise InputError(f"{where} says {name} = {value!r}; {_KINDS[known[name]]} was expected.")


def read_toml(path: Path | str) -> dict[str, Any]:
    """Reads a TOML file as plain values.

    Raises:
        MissingFileError: When it is not there.
        InputError: When it is no TOML.
    """
    path = existing(path, "a TOML file of settings")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid TOML: {error}.") from error


def to_tree(settings: Any) -> dict[str, Any]:
    """A dataclass of settings as plain values; what is None is left out, TOML has no word for it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if item is not None}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    tree: dict[str, Any] = plain(asdict(settings))
    return tree


def differing(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The entries that two trees of plain values do not share, each in words: "settings.rho was 90.0 and is 95.0"."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differing(old, new, f"{prefix}{name}.")
        elif old != new:
            was, is_now = ("not given" if value is None else value for value in (old, new))
            found.append(f"{prefix}{name} was {was} and is {is_now}")
    return found


def write_toml(path: Path, tree: dict[str, Any]) -> None:
    """Writes plain values as a TOML file, atomically."""
    import tomli_w

    write_text(path, tomli_w.dumps(tree))
