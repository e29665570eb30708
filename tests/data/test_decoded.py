"""Patches decoded once: the same items, from whatever the file of pixels has come to."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from counterstain.data import PatchRecord, WeakPatches, WeakSettings, open_patches, read_image
from counterstain.errors import InputError

Write = Callable[..., Path]
SIDE = 5
ROW = 3 * SIDE**2
CACHED, DECODED = WeakSettings(SIDE), WeakSettings(SIDE, cache="off")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """The one file of pixels that is there."""
    monkeypatch.setenv("COUNTERSTAIN_CACHE", str(tmp_path / "cache"))

    def find() -> Path:
        (path,) = (tmp_path / "cache" / "patches").iterdir()
        return path

    return find


@pytest.fixture
def records(table: Write) -> tuple[PatchRecord, ...]:
    return open_patches(table("image,split,a,b", *(f"{name}.png,train,1,0" for name in "wxyz"))).train


def items(data: WeakPatches) -> torch.Tensor:
    return torch.stack([data[index][0] for index in range(len(data))])


def remove(records: tuple[PatchRecord, ...]) -> None:
    for record in records:
        record.image.unlink()


def test_items_are_the_same_decoded_filled_and_served(records: tuple[PatchRecord, ...]) -> None:
    decoded = items(WeakPatches(records, DECODED))
    filling, serving = WeakPatches(records, CACHED), WeakPatches(records, CACHED)
    assert torch.equal(items(filling), decoded)
    remove(records)
    served = items(serving)
    assert torch.equal(served, decoded)
    assert serving[1][0].is_contiguous()
    assert serving[1][0].dtype == torch.uint8


def test_an_item_may_be_changed_by_who_asked_for_it(records: tuple[PatchRecord, ...]) -> None:
    data = WeakPatches(records, CACHED)
    items(data)
    before = data[0][0].clone()
    data[0][0].zero_()
    assert torch.equal(data[0][0], before)


def test_labels_are_not_in_the_file(records: tuple[PatchRecord, ...], store: Callable[[], Path]) -> None:
    items(WeakPatches(records, CACHED))
    assert store().stat().st_size == len(records) * (8 + ROW)
    other = tuple(PatchRecord(record.image, (0, 1), record.patient) for record in records)
    served = WeakPatches(other, CACHED)
    remove(records)
    assert served[0][1].tolist() == [0, 1]


def test_a_changed_image_is_read_anew_even_with_its_old_length_and_date(records: tuple[PatchRecord, ...]) -> None:
    image = records[1].image
    Image.fromarray(read_image(image)).save(image, format="BMP")  # as long, whatever it shows
    before, state = items(WeakPatches(records, CACHED)), image.stat()
    Image.fromarray(255 - read_image(image)).save(image, format="BMP")
    assert image.stat().st_size == state.st_size
    while image.stat().st_ctime_ns == state.st_ctime_ns or image.stat().st_mtime_ns != state.st_mtime_ns:
        os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns))  # again while a clock of milliseconds stands still
    after = items(WeakPatches(records, CACHED))
    assert torch.equal(after, items(WeakPatches(records, DECODED)))
    assert not torch.equal(after[1], before[1])
    assert torch.equal(after[0], before[0])


def test_a_folder_may_be_moved(records: tuple[PatchRecord, ...], tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for record in records:
        record.image.rename(folder / record.image.name)
    first = tuple(PatchRecord(folder / record.image.name, (1, 0), "P") for record in records)
    before = items(WeakPatches(first, CACHED))
    folder.rename(tmp_path / "moved")
    moved = tuple(PatchRecord(tmp_path / "moved" / record.image.name, (1, 0), "P") for record in records)
    data = WeakPatches(moved, CACHED)
    remove(moved)
    assert torch.equal(items(data), before)


def test_a_filling_that_was_killed_goes_on(records: tuple[PatchRecord, ...], store: Callable[[], Path]) -> None:
    decoded = items(WeakPatches(records, DECODED))
    killed = WeakPatches(records, CACHED)
    _ = killed[0], killed[2]
    with store().open("r+b") as file:  # killed while row 1 was written: half of it, and no mark
        file.seek(8 * len(records) + ROW)
        file.write(b"\x07" * (ROW // 2))
    following = WeakPatches(records, CACHED)
    remove((records[0], records[2]))
    assert torch.equal(items(following), decoded)
    remove((records[1], records[3]))
    assert torch.equal(items(pickle.loads(pickle.dumps(following))), decoded)


@pytest.mark.parametrize("length", [0, 8 * 4 + ROW + 3, 10_000])
def test_what_was_cut_short_or_grew_is_set_right(
    records: tuple[PatchRecord, ...], store: Callable[[], Path], length: int
) -> None:
    decoded = items(WeakPatches(records, CACHED))
    whole = store().read_bytes()
    os.truncate(store(), length)
    assert torch.equal(items(WeakPatches(records, CACHED)), decoded)
    assert store().read_bytes() == whole


def test_damaged_rows_and_marks_are_decoded_anew(records: tuple[PatchRecord, ...], store: Callable[[], Path]) -> None:
    decoded = items(WeakPatches(records, CACHED))
    whole = store().read_bytes()
    for place in (3, 8 * len(records) + 2 * ROW + 1):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        store().write_bytes(damaged)
        assert torch.equal(items(WeakPatches(records, CACHED)), decoded)
        assert store().read_bytes() == whole


def test_nothing_is_kept_that_does_not_fit(
    records: tuple[PatchRecord, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = len(records) * (8 + ROW) / (1 << 30)
    for given, is_kept in ((0.0, False), (0.99 * most, False), (most, True)):
        monkeypatch.setenv("COUNTERSTAIN_PATCH_CACHE_GIB", repr(given))
        assert torch.equal(items(WeakPatches(records, CACHED)), items(WeakPatches(records, DECODED)))
        assert (tmp_path / "cache").exists() == is_kept
    for wrong in ("much", "nan", "-1"):
        monkeypatch.setenv("COUNTERSTAIN_PATCH_CACHE_GIB", wrong)
        with pytest.raises(InputError, match="a number of GiB was expected"):
            WeakPatches(records, CACHED)


def test_a_folder_that_can_not_be_written_is_gone_without(records: tuple[PatchRecord, ...], tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    assert torch.equal(items(WeakPatches(records, CACHED)), items(WeakPatches(records, DECODED)))


def test_a_file_that_is_removed_while_it_is_used_is_gone_without(
    records: tuple[PatchRecord, ...], store: Callable[[], Path]
) -> None:
    data = WeakPatches(records, CACHED)
    store().unlink()
    assert torch.equal(items(data), items(WeakPatches(records, DECODED)))


def test_what_goes_to_a_process_that_reads_holds_no_pixels(records: tuple[PatchRecord, ...]) -> None:
    data = WeakPatches(records * 50, CACHED)
    before = len(pickle.dumps(data))
    items(data)
    assert len(pickle.dumps(data)) < before + 100


@pytest.mark.slow
def test_processes_that_read_fill_and_share_one_file(records: tuple[PatchRecord, ...]) -> None:
    many = records * 20
    decoded = items(WeakPatches(many, DECODED))
    for context in ("fork", "spawn"):
        data = WeakPatches(many, CACHED)
        loader = DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context=context)
        assert torch.equal(torch.cat([images for images, _ in loader]), decoded)
    serving = WeakPatches(many, CACHED)
    remove(records)
    loader = DataLoader(serving, batch_size=4, num_workers=2)
    assert np.array_equal(torch.cat([images for images, _ in loader]).numpy(), decoded.numpy())
