"""MXNet's `.params` files: every layout gives back its arrays, and nothing damaged is believed."""

import struct
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from counterstain.errors import WeightsError
from counterstain.models import read_state

Array = npt.NDArray[Any]

LAYOUTS = ("legacy", "v1", "v2", "v3")
TYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")


def shape_bytes(shape: tuple[int, ...], layout: str) -> bytes:
    if layout == "legacy":
        return struct.pack(f"<I{len(shape)}I", len(shape), *shape)
    front = {
        "v1": struct.pack("<I", 0xF993FAC8),
        "v2": struct.pack("<Ii", 0xF993FAC9, 0),
        "v3": struct.pack("<Ii", 0xF993FACA, 0),
    }
    return front[layout] + struct.pack(f"<i{len(shape)}q", len(shape), *shape)


def array_bytes(array: Array, layout: str) -> bytes:
    head = shape_bytes(array.shape, layout)
    if array.ndim == 0 and layout != "v3":
        return head
    return head + struct.pack("<iii", 1, 0, TYPES.index(array.dtype.name)) + array.tobytes()


def params(arrays: Mapping[str, Array], layout: str = "v2") -> bytes:
    content = struct.pack("<QQQ", 0x112, 0, len(arrays))
    content += b"".join(array_bytes(array, layout) for array in arrays.values())
    content += struct.pack("<Q", len(arrays))
    return content + b"".join(struct.pack("<Q", len(name.encode())) + name.encode() for name in arrays)


def some_arrays() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {"arg:conv_weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32)}
    arrays |= {f"aux:{name}": rng.integers(0, 100, (5, 3)).astype(name) for name in TYPES}
    return arrays


def read(tmp_path: Path, content: bytes) -> dict[str, torch.Tensor]:
    (tmp_path / "w.params").write_bytes(content)
    return read_state(tmp_path / "w.params")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_back_its_arrays_in_every_precision(tmp_path: Path, layout: str) -> None:
    arrays = some_arrays()
    found = read(tmp_path, params(arrays, layout))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == torch.from_numpy(array).dtype
        assert np.array_equal(found[name].numpy(), array)


def test_one_file_may_mix_layouts(tmp_path: Path) -> None:
    arrays = {layout: np.full((2, 3), index, np.float32) for index, layout in enumerate(LAYOUTS)}
    whole = params(arrays)
    mixed = whole[:24] + b"".join(array_bytes(array, layout) for layout, array in arrays.items())
    found = read(tmp_path, mixed + whole[24 + 4 * len(array_bytes(arrays["v2"], "v2")) :])
    assert all(np.array_equal(found[layout].numpy(), array) for layout, array in arrays.items())


def test_the_file_of_one_array_byte_by_byte(tmp_path: Path) -> None:
    """Written out by hand, so that writer and reader can't share a mistake."""
    content = bytes.fromhex(
        "12010000 00000000  00000000 00000000  01000000 00000000"  # magic, reserved, one array
        "02000000 01000000 02000000"  # the old layout: two sides, 1 and 2
        "01000000 00000000 00000000  0000803f 000000c0"  # device 1 number 0, float32, 1.0 and -2.0
        "01000000 00000000  05000000 00000000 6172673a61"  # one name of five bytes, arg:a
    )
    assert read(tmp_path, content)["arg:a"].tolist() == [[1.0, -2.0]]


def test_an_array_after_odd_bytes_is_read_all_the_same(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {"bytes": np.arange(3, dtype=np.uint8), "numbers": np.arange(4, dtype=np.float64)}
    found = read(tmp_path, params(arrays))
    assert found["numbers"].tolist() == [0, 1, 2, 3]
    assert found["numbers"].data_ptr() % 8 == 0


@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_an_array_of_nothing_is_empty(tmp_path: Path, layout: str) -> None:
    arrays: dict[str, Array] = {"none": np.array(0.0), "some": np.ones(2, np.float32)}
    found = read(tmp_path, params(arrays, layout))
    assert found["none"].shape == (0,)
    assert found["some"].tolist() == [1, 1]


def test_the_newest_layout_has_single_numbers_and_another_nothing(tmp_path: Path) -> None:
    one = read(tmp_path, params({"one": np.array(7, np.int64)}, "v3"))["one"]
    assert (one.shape, int(one)) == ((), 7)
    whole = params({"none": np.array(7, np.int64)}, "v3")
    nothing = struct.pack("<Iii", 0xF993FACA, 0, -1)
    none = read(tmp_path, whole[:24] + nothing + whole[24 + len(array_bytes(np.array(7), "v3")) :])["none"]
    assert none.shape == (0,)


def test_a_file_of_no_arrays_is_read_as_such(tmp_path: Path) -> None:
    assert read(tmp_path, params({})) == {}


def test_tensors_can_be_written_to_and_the_file_stays_as_it_is(tmp_path: Path) -> None:
    content = params({"a": np.ones(3, np.float32)})
    found = read(tmp_path, content)
    found["a"].fill_(2)
    assert (tmp_path / "w.params").read_bytes() == content


def test_a_large_file_is_not_copied(tmp_path: Path) -> None:
    content = params({"a": np.zeros(1 << 24, np.float32)})
    path = tmp_path / "w.params"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        found = read_state(path)["a"]
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.shape == (1 << 24,)
    assert taken < len(content) / 50


def with_bytes(at: int, kind: str, value: int) -> Callable[[bytes], bytes]:
    """A file with one number changed."""

    def change(content: bytes) -> bytes:
        new = struct.pack(kind, value)
        return content[:at] + new + content[at + len(new) :]

    return change


# of one array of 2 x 3 float32 called "ab", in the layout v2: 24 magic, 28 storage, 32 sides, 36 and 44 their lengths,
# 52 device, 60 type, 64 numbers, 88 names
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another magic": (with_bytes(0, "<Q", 0x113), "does not begin with 0x112"),
    "an unknown layout": (with_bytes(24, "<I", 0xF993FACB), "begins with 0xf993facb, which no known layout does"),
    "a sparse array": (with_bytes(28, "<i", 1), r"array 1 of 1 is sparse \(storage 1\)"),
    "no storage": (with_bytes(28, "<i", -1), r"sparse \(storage -1\)"),
    "too many sides": (with_bytes(32, "<i", 33), "has 33 sides"),
    "fewer than no sides": (with_bytes(32, "<i", -1), "has -1 sides"),
    "a negative side": (with_bytes(36, "<q", -2), r"sides of \(-2, 3\)"),
    "an empty side": (with_bytes(36, "<q", 0), r"sides of \(0, 3\)"),
    "a side past the end": (with_bytes(36, "<q", 2**62), "and 42 are left"),
    "an unknown type": (with_bytes(60, "<i", 7), "numbers of type 7, and 0 to 6 are known"),
    "a negative type": (with_bytes(60, "<i", -1), "numbers of type -1"),
    "more arrays than there are": (with_bytes(16, "<Q", 2), "no MXNet parameter file"),
    "arrays without end": (with_bytes(16, "<Q", 2**64 - 1), "no MXNet parameter file"),
    "fewer names than arrays": (with_bytes(88, "<Q", 0), "1 arrays have 0 names"),
    "a name without end": (with_bytes(96, "<Q", 2**63), "name 1 of 1 should take 9223372036854775808 bytes"),
    "a name that is no text": (with_bytes(104, "<B", 0xFF), "name 1 of 1 is no text"),
    "bytes after the end": (lambda content: content + b"\0", "the list ends, and 1 bytes follow"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_with_its_place_in_one_line(tmp_path: Path, damage: str) -> None:
    change, reason = DAMAGES[damage]
    content = params({"ab": np.ones((2, 3), np.float32)})
    assert len(content) == 106
    with pytest.raises(WeightsError, match=reason) as caught:
        read(tmp_path, change(content))
    assert "w.params is no MXNet parameter file: at byte" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, layout: str) -> None:
    content = params({"a": np.ones((2, 3), np.float32), "b": np.ones(1, np.uint8)}, layout)
    for length in range(len(content)):
        with pytest.raises(WeightsError, match="are left"):
            read(tmp_path, content[:length])


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    content = params({"a": np.ones(1, np.float32), "b": np.ones(1, np.float32)})
    with pytest.raises(WeightsError, match="two arrays are called 'a'"):
        read(tmp_path, content[:-1] + b"a")
