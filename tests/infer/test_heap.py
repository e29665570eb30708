import platform

import numpy as np
import pytest

from counterstain.infer import heap
from counterstain.infer.heap import HeapTrimmer

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


class Watched(HeapTrimmer):
    """Counts how often it trims, and puts no time between."""

    def __init__(self) -> None:
        super().__init__()
        self.num_trimmed = 0

    def now(self) -> None:
        super().now()
        self.num_trimmed += 1
        self._not_before_s = 0.0


@on_glibc
def test_freed_blocks_below_one_in_use_go_back_to_the_system() -> None:
    trimmer = HeapTrimmer()
    trimmer.now()
    blocks = [np.ones(60_000, np.uint8) for _ in range(4000)]  # small enough for the heap on every system
    kept = blocks[-1]
    grown = heap._resident_bytes()
    del blocks
    trimmer.now()
    assert heap._resident_bytes() < grown - 150 * 2**20
    assert kept.all()


@on_glibc
def test_it_trims_when_the_process_has_grown() -> None:
    trimmer = Watched()
    trimmer.now()
    trimmer.when_grown()
    assert trimmer.num_trimmed == 1
    block = np.ones(200 << 20, np.uint8)
    trimmer.when_grown()
    assert trimmer.num_trimmed == 2
    assert block.all()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    trimmer = HeapTrimmer()
    trimmer.now()
    trimmer.when_grown()
    assert trimmer._trim is None
