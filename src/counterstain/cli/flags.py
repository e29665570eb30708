"""Flags that write settings: every field of a dataclass becomes a flag, and only flags that were given count.

A preset, a TOML file and flags are merged in this order into one tree, so that the same tree, stored with a run, repeats
it. A flag left out must not undo the file, so each becomes optional with its default told in the help text.

Does not know: what any setting means.
"""

import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from counterstain.errors import InputError

Tree = dict[str, Any]


def optional_twin(cls: type[Any], without: tuple[str, ...] = (), shown: Any = None) -> type[Any]:
    """A dataclass with the fields of another, all optional and None by default, for cyclopts to make flags of.

    Args:
        cls: The other.
        without: Fields that get no flag.
        shown: An instance whose values are told as defaults, where they are not the class's own.
    """
    hints = typing.get_type_hints(cls)
    texts = _field_texts(cls)
    fields = []
    for field in dataclasses.fields(cls):
        if field.name in without:
            continue
        hint, text = hints[field.name], texts.get(field.name, "")
        default = _default(field) if shown is None else getattr(shown, field.name)
        help_text = f"{text} [default: {_shown(default)}]"
        if typing.get_origin(hint) is dict:
            parameter = Parameter(
                help=f"{help_text} As JSON.", show_default=False, converter=_json_table, accepts_keys=False
            )
            hint = str
            fields.append((field.name, Annotated[Any, parameter], None))
            continue
        is_several = typing.get_origin(hint) is tuple and Ellipsis in typing.get_args(hint)
        parameter = Parameter(
            help=help_text, show_default=False, negative_iterable="", consume_multiple=is_several or None
        )
        fields.append((field.name, Annotated[hint | None, parameter], None))
    twin = dataclasses.make_dataclass(
        f"{cls.__name__}Flags", [(name, hint, dataclasses.field(default=default)) for name, hint, default in fields]
    )
    twin.__doc__ = ""
    twin.__module__ = __name__  # of the standard library's modules cyclopts makes no flags
    return twin


def given(flags: Any) -> Tree:
    """The fields of a twin that were given on the command line."""
    if flags is None:
        return {}
    return {
        field.name: value for field in dataclasses.fields(flags) if (value := getattr(flags, field.name)) is not None
    }


def refuse_idle(values: Mapping[str, Any], why: str, usual: Mapping[str, Any] | None = None) -> None:
    """Refuses flags that mean nothing where they were given.

    Args:
        values: What each flag was given, by its parameter's name.
        why: What makes them mean nothing, as half a sentence.
        usual: What the flags have that were not given; None where it is not told.

    Raises:
        InputError: When one was given.
    """
    idle = [name for name, value in values.items() if value != (usual or {}).get(name)]
    if idle:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise InputError(f"{names} was given, and {why}. Leave it out.")


def merged(*trees: Tree) -> Tree:
    """Later trees win, field by field."""
    result: Tree = {}
    for tree in trees:
        result |= tree
    return result


def _json_table(_: Any, tokens: Any) -> Tree:
    text = tokens[0].value
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{text!r} was given where a JSON table was expected, like '{{\"output_stride\": 16}}'."
        ) from error
    if not isinstance(table, dict):
        raise InputError(f"{text!r} was given where a JSON table was expected, like '{{\"output_stride\": 16}}'.")
    return table


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return " ".join(map(str, value))
    return str(value) if value != {} else "none"


def _field_texts(cls: type[Any]) -> dict[str, str]:
    """What the docstrings' `Args` sections say of each field, those of the classes it inherits from included."""
    texts: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        texts |= _own_field_texts(one)
    return texts


def _own_field_texts(cls: type[Any]) -> dict[str, str]:
    text = inspect.cleandoc(cls.__doc__ or "")
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section.group(1), re.DOTALL | re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}
