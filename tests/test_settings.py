from dataclasses import dataclass, field
from pathlib import Path

import pytest

from counterstain.errors import InputError, MissingFileError, UnknownNameError
from counterstain.settings import build, differing, read_toml, to_tree, write_toml


@dataclass(frozen=True)
class Inner:
    sigma: float = 0.1


@dataclass(frozen=True)
class Outer:
    epochs: int = 3
    weights: Path | None = None
    scales: tuple[float, ...] = (1.0, 2.0)
    inner: Inner = field(default_factory=Inner)


def test_a_tree_written_and_read_builds_the_same_settings(tmp_path: Path) -> None:
    settings = Outer(5, Path("a.npz"), (0.5,), Inner(0.2))
    write_toml(tmp_path / "config.toml", to_tree(settings))
    assert build(Outer, read_toml(tmp_path / "config.toml")) == settings


def test_what_two_trees_do_not_share_is_named_by_its_path() -> None:
    before = {"a": {"b": 1, "c": 2}, "d": "x"}
    assert differing(before, {"d": "x", "a": {"c": 2, "b": 1}}) == []
    assert differing(before, {"a": {"b": 1, "c": 3}, "e": None, "f": 0}) == [
        "a.c was 2 and is 3",
        "d was x and is not given",
        "f was not given and is 0",
    ]


def test_what_is_absent_keeps_its_default() -> None:
    assert build(Outer, {"inner": {"sigma": 1}}) == Outer(inner=Inner(1.0))


def test_an_unknown_setting_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'epochs'"):
        build(Outer, {"epoch": 3})


def test_a_value_of_the_wrong_type_is_named() -> None:
    with pytest.raises(InputError, match="'epochs' was given as 'many'"):
        build(Outer, {"epochs": "many"})


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(InputError, match="no valid TOML"):
        read_toml(tmp_path / "bad.toml")
