"""The folder of what can be made again."""

import os
from pathlib import Path

import pytest

from counterstain.cache import cache_folder, drop_oldest


def test_the_cache_lies_where_the_system_keeps_such_things(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COUNTERSTAIN_CACHE", str(tmp_path / "cache"))
    assert cache_folder("a") == tmp_path / "cache" / "a"
    monkeypatch.delenv("COUNTERSTAIN_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("a") == tmp_path / "counterstain" / "a"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_folder("a") == Path.home() / ".cache" / "counterstain" / "a"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder("a") == Path.home() / "Library" / "Caches" / "counterstain" / "a"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert cache_folder("a") == tmp_path / "counterstain" / "cache" / "a"


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    for place, name in enumerate("abcd"):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (100 - place, 100 - place))
    drop_oldest(tmp_path, most_bytes=25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    drop_oldest(tmp_path, most_bytes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
