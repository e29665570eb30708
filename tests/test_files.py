from dataclasses import dataclass
from pathlib import Path

import pytest

from counterstain.errors import ExistingOutputError, MissingFileError, UnwritableError
from counterstain.files import (
    atomic,
    atomic_folder,
    existing,
    file_hash,
    make_folder,
    read_json,
    refuse_overwrite,
    settings_hash,
    whole_hash,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result.json"
    write_json(target, {"a": 1})
    with pytest.raises(RuntimeError, match="halfway"), atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("halfway")
    assert read_json(target) == {"a": 1}
    assert [path.name for path in target.parent.iterdir()] == ["result.json"]


def test_a_temporary_keeps_the_suffixes_that_writers_look_at(tmp_path: Path) -> None:
    with atomic(tmp_path / "map.ome.tiff") as temporary:
        assert temporary.name.endswith(".ome.tiff")
        temporary.write_bytes(b"x")
    assert (tmp_path / "map.ome.tiff").read_bytes() == b"x"


def test_where_nothing_can_be_written_is_said_with_what_to_do(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    with pytest.raises(UnwritableError, match=r"'.*taken' was given to write to.*exists.*Give another folder"):
        make_folder(taken)
    with pytest.raises(UnwritableError, match="taken"), atomic(taken / "below" / "a.json"):
        raise AssertionError("nothing is begun")


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="given as a slide"):
        existing(tmp_path / "none.svs", "a slide")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "set"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("a")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["a"]
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "other") as temporary:
        (temporary / "a").write_text("a")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_only_an_empty_folder_is_written_into(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty") as temporary:
        (temporary / "a").write_text("a")
    with pytest.raises(ExistingOutputError, match="empty exists already"), atomic_folder(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty" / "a").read_text() == "a"


def test_outputs_are_not_overwritten(tmp_path: Path) -> None:
    refuse_overwrite(tmp_path / "new")
    with pytest.raises(ExistingOutputError, match="--overwrite"):
        refuse_overwrite(tmp_path)


@pytest.mark.parametrize("size", [0, 10, 3 << 20])
def test_a_hash_sees_length_head_and_tail(tmp_path: Path, size: int) -> None:
    path = tmp_path / "slide.svs"
    path.write_bytes(b"a" * size)
    first = file_hash(path)
    assert file_hash(path) == first
    path.write_bytes(b"a" * (size + 1))
    assert file_hash(path) != first
    path.write_bytes(b"a" * (size - 1) + b"b" if size else b"b")
    assert file_hash(path) != first


def test_a_settings_hash_is_of_values_not_of_order() -> None:
    @dataclass(frozen=True)
    class Settings:
        path: Path
        sizes: tuple[int, ...]

    one = settings_hash(Settings(Path("a"), (1, 2)), {"x": 1, "y": None})
    assert one == settings_hash({"sizes": [1, 2], "path": "a"}, {"y": None, "x": 1})
    assert one != settings_hash(Settings(Path("a"), (2, 1)), {"x": 1, "y": None})


def test_a_whole_hash_sees_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    content = bytearray(3 << 20)
    path.write_bytes(content)
    whole, ends = whole_hash(path), file_hash(path)
    content[len(content) // 2] = 1
    path.write_bytes(content)
    assert whole_hash(path) != whole
    assert file_hash(path) == ends, "slides are told apart by their ends alone"
